# SPDX-License-Identifier: Apache-2.0
"""What ``bench/soda.py`` finds out about one pipeline, and where the time of a skipped step goes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench._sensitivity.checks import check_pipeline, measured_over_plain, run_by_rule
from bench._sensitivity.large_model import StepCosts, cost_of_steps
from bench._sensitivity.ours import Ours, alternating
from bench._sensitivity.workload import Workload
from genaccel.sampling.speed_search import Search, Trial

pytestmark = pytest.mark.filterwarnings("ignore")


def test_one_pipeline_is_exact_and_has_its_counts(workload: Workload) -> None:
    checks = check_pipeline(workload, speedup=2.0, runs=2)

    assert checks.exact() == {
        "measured_run_is_plain": True,
        "plan_replays": True,
        "other_calls_are_plain": True,
        "disabled_is_plain": True,
    }
    assert len(checks.run.schedule) == workload.num_steps
    # Of so small a model a tenth is embeddings, which a plan may ask for at several times.
    assert 1.6 < checks.run.flop_ratio < 3.0
    assert 4 <= checks.run.schedule.count("C") <= 7
    assert checks.measured_over_plain > 0
    assert checks.speedup > 0


def test_the_plan_by_rule_skips_in_the_first_run(workload: Workload) -> None:
    run = run_by_rule(workload, speedup=2.0)

    assert run.schedule.startswith("CC")
    assert run.schedule.count("C") <= 7
    assert run.flop_ratio > 1.6
    assert "by rule" in run.plan


def test_a_first_run_is_held_against_plain_ones(workload: Workload) -> None:
    # Measuring costs more than this small model, whatever the machine does.
    assert measured_over_plain(workload, rounds=1) > 1


def test_a_skipped_step_is_told_apart_from_a_computed_one(workload: Workload) -> None:
    (method,) = alternating(Ours(workload, batches=1), only_segments=True)
    trial = Search(workload).choose(method, 0.0)
    assert isinstance(trial, Trial)
    assert trial.attached is not None

    found = cost_of_steps(workload, trial.attached)

    assert 0 < found.outside < found.computed
    assert found.skipped < found.computed
    words = str(StepCosts(computed=100.0, skipped=3.0, outside=2.0))
    assert "a computed step takes 100.0 ms, a skipped one 3.0 ms" in words
    assert "1.0 ms of ours (1.00% of a computed one)" in words
