# SPDX-License-Identifier: Apache-2.0
"""The methods of ``bench/soda.py``: each saves FLOPs, changes the samples, and leaves other pipelines alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.soda_ours import Ours, fixed_plan, our_methods
from bench.soda_peers import peers
from bench.soda_workload import (
    Failure,
    Method,
    Search,
    Setting,
    Trial,
    Workload,
    _next_setting,
)
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.planner import make_plan

# Other people's code warns.
pytestmark = pytest.mark.filterwarnings("ignore")

_STEPS = 12
_NAMES = (
    "genaccel",
    "genaccel, modules",
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
def workload() -> Workload:
    diffusers: Any = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=4,
        num_attention_heads=2,
        attention_head_dim=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_embeds_ada_norm=1000,
    ).eval()
    pipeline = diffusers.DiTPipeline(transformer, None, diffusers.DDIMScheduler(clip_sample=False))
    return Workload("tiny", pipeline, num_steps=_STEPS, guidance=4.0, num_classes=4, batch_size=2)


@pytest.fixture(scope="module")
def methods(workload: Workload) -> dict[str, Method]:
    found = our_methods(Ours(workload, batches=1)) + peers(workload)
    return {method.name: method for method in found}


def _plain(workload: Workload) -> Tensor:
    return workload.latents(workload.plain, workload.test_samples(0))


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
    first, second = (workload.latents(found.attached, workload.test_samples(0)) for _ in range(2))
    assert found.flop_ratio > 1.05
    assert not torch.equal(first, before)
    assert torch.equal(first, second)
    assert torch.equal(_plain(workload), before)


def test_calibration_uses_other_classes_and_noise(workload: Workload) -> None:
    test, calibration = workload.test_samples(0), workload.calibration_samples(0)

    assert not set(test.labels) & set(calibration.labels)
    assert not set(test.seeds) & set(calibration.seeds)


def test_fixed_plan_computes_the_steps_of_fora(workload: Workload) -> None:
    plan = fixed_plan(Ours(workload, batches=1).measured, count=4, forecaster="reuse")

    assert plan.steps_computation_mask() == [1, 0, 0] * 4


def test_a_method_that_raises_is_a_row_and_no_crash(workload: Workload) -> None:
    def attach(pipeline: Any, values: Any) -> Any:
        raise AttributeError("no such block")

    method = Method(name="broken", attach=attach, ladders=((Setting("a", {}),),))

    found = Search(workload).choose(method, 2.0)

    assert isinstance(found, Failure)
    assert found.reason == "AttributeError: no such block"


def test_ours_is_the_plan_that_is_closer_on_samples_for_calibration(workload: Workload) -> None:
    ours = Ours(workload, batches=1)
    values = {"speedup": 2.0}
    even = SensitivityConfig(**values).changed(forecasters=("taylor1",))
    plans = {
        "minimax": ours.plan(values),
        "sum": ours.plan({**values, "objective": "sum"}),
        "even spacing": make_plan(ours.measured, even, speedup=2.0, even=True),
    }
    errors = {n: ours.error(ours.attach_plan(workload.copy(), p)) for n, p in plans.items()}

    attached = ours.attach_best(workload.copy(), values)

    assert attached.note == min(errors, key=errors.__getitem__)
    assert ours.error(attached) == min(errors.values())


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
