# SPDX-License-Identifier: Apache-2.0
"""How settings are chosen and methods measured: by what the processor works, not by the clock."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench._sensitivity.workload import Workload
from genaccel.sampling.methods import Attached, Method, Setting
from genaccel.sampling.rounds import Outcome, run_rounds
from genaccel.sampling.speed_search import Search, Trial, _next_setting

_CPU = torch.device("cpu")


def _fewer_steps(name: str, before_a_run: Callable[[], object], *steps: int) -> Method:
    """Fewer steps, and something else that a run begins with."""

    def attach(pipeline: Any, values: Any) -> Attached:
        @contextlib.contextmanager
        def around() -> Iterator[None]:
            before_a_run()
            yield

        return Attached(pipeline, num_steps=values["steps"], around=around)

    settings = tuple(Setting(f"{n} steps", {"steps": n}, expected=12 / n) for n in steps)
    return Method(name=name, attach=attach, ladders=(settings,))


def _work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_settings_are_chosen_by_cpu_time(workload: Workload) -> None:
    search = Search(workload)
    # A plain run takes a tenth of a second of work.
    waits = search.choose(_fewer_steps("waits", lambda: time.sleep(0.3), 10, 4, 2), 1.5)
    works = search.choose(_fewer_steps("works", lambda: _work(0.3), 10, 4, 2), 1.5)

    assert isinstance(waits, Trial)
    assert isinstance(works, Trial)
    assert waits.setting.label == "4 steps"
    assert waits.speedup is not None
    assert waits.speedup >= 1.455
    # By FLOPs it would be the same setting; it does not get there with any.
    assert works.setting.label == "2 steps"
    assert works.speedup is not None
    assert works.speedup < 1.455


def test_settings_that_stay_far_below_a_speed_are_not_tried() -> None:
    known = [Setting(str(ratio), {}, expected=ratio) for ratio in (1.5, 1.8, 2.2, 2.5, 3.0)]
    unknown = [Setting(str(i), {}) for i in range(3)]

    assert [_next_setting(known, 0, ratio) for ratio in (1.6, 2.2, 2.24, 2.4, 9.0)] == [
        1,
        2,
        2,
        3,
        4,
    ]
    assert _next_setting(known, 2, 1.0) == 3
    assert _next_setting(unknown, 0, 2.0) == 1


def test_rounds_measure_and_keep_the_samples_of_every_batch(workload: Workload) -> None:
    seen: list[list[torch.Tensor]] = []

    search = Search(workload, is_timed=False)
    trial = search.choose(_fewer_steps("waits", lambda: time.sleep(0.5), 4), 0.0)
    assert isinstance(trial, Trial)
    found = run_rounds(workload, [trial], rounds=2, judge=lambda made: seen.append(list(made)))

    (outcome,) = found.outcomes
    assert outcome.flop_ratio == pytest.approx(3.0)
    assert outcome.cpu_speedup is not None
    assert outcome.cpu_speedup > 1.5
    assert outcome.speedup == outcome.cpu_speedup
    assert outcome.wall_speedup < 1.5
    assert outcome.efficiency == outcome.speedup / outcome.flop_ratio
    assert found.plain.seconds > 0
    (latents,) = seen
    assert len(latents) == 3
    expected = workload.sample(Attached(workload.copy(), num_steps=4), workload.test_samples(2))
    assert torch.equal(latents[2], expected)


def test_on_a_gpu_the_clock_counts() -> None:
    trial = Trial(_fewer_steps("a", lambda: None, 4), Setting("4", {}), 3.0)
    outcome = Outcome(trial, 3.0, None, 2.5, None)

    assert outcome.speedup == 2.5


def test_a_method_that_adapts_is_counted_on_every_batch(workload: Workload) -> None:
    fixed = _fewer_steps("fixed", lambda: None, 6)
    runs: list[int] = []
    trials = []
    for method in (fixed, dataclasses.replace(fixed, name="adapts", adapts=True)):
        trial = Search(workload, is_timed=False).choose(method, 0.0)
        assert isinstance(trial, Trial)
        trials.append(trial)

    def counts(attached: Attached, samples: Any, *, num_steps: int | None = None) -> torch.Tensor:
        # As if it computed more of each batch than of the one before.
        if attached is trials[1].attached:
            runs.append(samples.seeds[0])
            batch = (samples.seeds[0] - workload.test_samples(0).seeds[0]) // workload.batch_size
            num_steps = 3 * (batch + 1)
            attached = Attached(attached.pipeline)
        return Workload.sample(workload, attached, samples, num_steps=num_steps)

    shown = copy.copy(workload)
    shown.sample = counts  # type: ignore[method-assign]
    found = run_rounds(shown, trials, rounds=2)

    assert found.outcomes[0].flop_ratio == pytest.approx(2.0)
    # 3, 6 and 9 of 12 steps.
    assert found.outcomes[1].flop_ratio == pytest.approx(2.0)
    assert len(runs) == 5
