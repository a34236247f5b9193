# SPDX-License-Identifier: Apache-2.0
"""The methods of ``bench/soda.py``: each saves FLOPs, changes the samples, and leaves other pipelines alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench._sensitivity.ours import BY_RULE, OURS, Ours, ablation_methods, fixed_plan, our_methods
from bench._sensitivity.peers import peers
from bench._sensitivity.workload import Workload
from genaccel.sampling.methods import Method, Setting
from genaccel.sampling.speed_search import Failure, Search, Trial

# Other people's code warns.
pytestmark = pytest.mark.filterwarnings("ignore")

_NAMES = (
    OURS,
    f"{OURS}, segments",
    BY_RULE,
    "fixed interval (FORA)",
    "fixed interval, Taylor 1",
    "fewer steps",
    "diffusers FirstBlockCache",
    "diffusers TaylorSeer, order 1",
    "diffusers TaylorSeer, order 2, lite",
    "diffusers MagCache",
    "diffusers PAB",
    "diffusers FasterCache",
    "cache-dit DBCache",
    "cache-dit DBCache + TaylorSeer",
)


@pytest.fixture(scope="module")
def methods(workload: Workload) -> dict[str, Method]:
    found = our_methods(Ours(workload, batches=1)) + peers(workload)
    return {method.name: method for method in found}


def _plain(workload: Workload) -> Tensor:
    return workload.sample(workload.plain, workload.test_samples(0))


@pytest.mark.parametrize("name", _NAMES)
def test_each_method_saves_flops_repeats_itself_and_leaves_the_others_alone(
    name: str, workload: Workload, methods: dict[str, Method]
) -> None:
    if name.startswith("cache-dit") and importlib.util.find_spec("cache_dit") is None:
        pytest.skip("cache-dit is not installed")
    before = _plain(workload)

    found = Search(workload, is_timed=False).choose(methods[name], 1.3)

    assert isinstance(found, Trial), found
    assert found.attached is not None
    first, second = (workload.sample(found.attached, workload.test_samples(0)) for _ in range(2))
    assert found.flop_ratio > 1.05
    assert not torch.equal(first, before)
    assert torch.equal(first, second)
    assert torch.equal(_plain(workload), before)


def test_a_pipeline_without_plans_beside_it_has_no_row_of_them(
    workload: Workload, methods: dict[str, Method]
) -> None:
    found = Search(workload, is_timed=False).choose(methods[f"{OURS}, plans of the zoo"], 2.0)

    assert isinstance(found, Failure)
    assert "no plan beside the model" in found.reason


def test_only_the_default_is_what_bars_are_about(methods: dict[str, Method]) -> None:
    assert [name for name, method in methods.items() if method.role == "ours"] == [OURS]
    assert methods[BY_RULE].role == "other"
    assert methods["fewer steps"].role == "other"


def test_fixed_plan_computes_the_steps_of_fora(workload: Workload) -> None:
    plan = fixed_plan(Ours(workload, batches=1).measured, count=4, forecaster="reuse")

    assert plan.steps_computation_mask() == [1, 0, 0] * 4


def test_calibration_uses_other_classes_and_noise(workload: Workload) -> None:
    batches = range(8)
    test = [workload.test_samples(batch) for batch in batches]
    calibration = [workload.calibration_samples(batch) for batch in batches]

    assert not {x for s in test for x in s.labels} & {x for s in calibration for x in s.labels}
    assert not {x for s in test for x in s.seeds} & {x for s in calibration for x in s.seeds}


def test_taylorseer_has_a_setting_for_nearly_every_number_of_computed_steps(
    workload: Workload, methods: dict[str, Method]
) -> None:
    (ladder,) = methods["diffusers TaylorSeer, order 2, lite"].ladders
    expected = [setting.expected or 0.0 for setting in ladder]
    counts = {round(workload.num_steps / ratio) for ratio in expected}

    assert expected == sorted(expected)
    assert {4, 5, 6, 7, 8} <= counts


def test_a_method_that_raises_is_a_row_and_no_crash(workload: Workload) -> None:
    def attach(pipeline: object, values: object) -> object:
        raise AttributeError("no such block")

    method = Method(name="broken", attach=attach, ladders=((Setting("a", {}),),))

    found = Search(workload).choose(method, 2.0)

    assert isinstance(found, Failure)
    assert found.reason == "AttributeError: no such block"


def test_each_row_of_the_ablation_saves_the_same_flops(workload: Workload) -> None:
    search = Search(workload, is_timed=False)
    found = {
        m.name: search.choose(m, 0.0) for m in ablation_methods(Ours(workload, batches=1), 2.0)
    }

    assert not [f for f in found.values() if isinstance(f, Failure)]
    ratios = {n: t.flop_ratio for n, t in found.items() if isinstance(t, Trial)}
    # Norms and gates of modules and embedded times cost much of so small a model.
    low = {n for n, ratio in ratios.items() if ratio < 1.9}
    assert low <= {n for n in ratios if "modul" in n or "mixed" in n or n.startswith("outputs")}
    assert max(ratios.values()) < 3.0
