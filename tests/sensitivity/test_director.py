# SPDX-License-Identifier: Apache-2.0
"""The director alone, told of steps by hand."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genaccel.hooks.direction import Memory
from genaccel.hooks.step_clock import Tick
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.director import SensitivityDirector

CONFIG = SensitivityConfig(speedup=2.0)
SEGMENTS = tuple(SimpleNamespace(entries=("hidden_states", "context"), flops=10) for _ in range(2))


def directed(plan=None, measured=lambda moments: None, **others):
    director = SensitivityDirector(CONFIG, plan, measured=measured, **others)
    director.segments_learned(SEGMENTS, (), total_flops=25)
    return director


def memory(*steps):
    """What was kept at some steps, the newest first."""
    return Memory(list(steps), [(torch.ones(1, 2), torch.ones(1, 2)) for _ in steps])


def run(director, number, steps, calls=1, begin=0):
    """One run that is computed in full."""
    for step in range(begin, steps):
        for call in range(calls):
            tick = Tick(number, step, call, steps)
            decisions = director.decide(tick, [Memory(), Memory()])
            assert all(d.compute for d in decisions)
            added = (torch.full((1, 4), 1.0 + step), torch.full((1, 4), 2.0 + step))
            director.call_ends(tick, [added, added[:1]], 0.0)


def test_replays_the_plan(make_plan):
    plan = make_plan(token_counts=None, segment_of_layer=())
    director = directed(plan)
    assert director.history == 2  # for taylor1
    for step in range(12):
        decisions = director.decide(Tick(1, step, 0, 12), [memory(step - 1, step - 2)] * 2)
        expected = [True, True] if step == 0 else plan.compute_mask[step].tolist()
        assert [d.compute for d in decisions] == expected


def test_each_tensor_of_a_segment_has_its_own_numbers(make_plan):
    plan = make_plan(token_counts=None, segment_of_layer=())
    affine = [(s, g) for s in range(12) for g in range(2) if plan.forecaster_index[s, g] == 2]
    step, segment = affine[0]
    decision = directed(plan).decide(Tick(1, step, 0, 12), [memory(step - 1)] * 2)[segment]
    assert decision.weights == tuple(
        (pytest.approx(float(plan.affine_slope[step, 0, segment, m])),) for m in range(2)
    )
    assert decision.offsets == tuple(
        pytest.approx(float(plan.affine_intercept[step, 0, segment, m])) for m in range(2)
    )


def test_computes_what_it_cannot_forecast(make_plan):
    plan = make_plan(token_counts=None, segment_of_layer=())
    director = directed(plan)
    assert not plan.compute_mask[1].any()
    nothing_kept = director.decide(Tick(1, 1, 0, 12), [Memory(), Memory()])
    assert all(d.compute for d in nothing_kept)
    # The affine tables reach three steps back.
    late = next(s for s in range(12) if (plan.forecaster_index[s] == 2).any())
    (segment,) = np.flatnonzero(plan.forecaster_index[late] == 2)[:1]
    assert directed(plan).decide(Tick(1, late, 0, 12), [memory(late - 4)] * 2)[segment].compute


def test_a_plan_of_other_segments_is_refused(make_plan):
    director = SensitivityDirector(CONFIG, make_plan(), measured=lambda moments: None)
    with pytest.raises(ValueError, match="the plan has 2 segments and this model 1"):
        director.segments_learned(SEGMENTS[:1], (), total_flops=25)


def test_other_steps_stretch_the_plan_once(make_plan, caplog):
    director = directed(make_plan())
    for step in range(24):
        director.decide(Tick(1, step, 0, 24), [memory(step - 1)] * 2)
    assert caplog.text.count("is stretched to 24") == 1


@pytest.mark.parametrize(("calls", "begin"), [(1, 0), (2, 0), (2, 3)])
def test_a_measured_run_is_told_once_when_all_of_it_is_over(calls, begin):
    told = []
    director = directed(measured=lambda moments: told.append(moments.moments()["n"].copy()))
    run(director, 1, 8, calls, begin)
    assert len(told) == 1
    counted = told[0][:, 0, 0, 0]  # values at interval 1
    assert counted.tolist() == [0.0] * (begin + 1) + [4.0 * calls] * (7 - begin)


def test_sums_go_on_over_runs_until_a_plan_is_made_of_them(make_plan):
    plan = make_plan(steps=8)
    answers = [None, plan]
    begun = []
    director = directed(measured=lambda moments: answers.pop(0), run_begins=begun.append)
    run(director, 1, 8)
    first = director.moments.state_dict()
    run(director, 2, 8)
    assert begun == [8, 8]
    assert director.plan is plan
    assert director.moments is None
    assert first["counts"].sum() > 0
    director.measure()
    assert director.plan is None


def test_resumed_sums_are_added_to():
    whole = directed()
    run(whole, 1, 6)
    halfway = whole.moments.state_dict()
    run(whole, 2, 6)
    other = directed()
    other.resume(halfway)
    run(other, 1, 6)
    for name, tensor in whole.moments.state_dict().items():
        assert torch.equal(tensor, other.moments.state_dict()[name])


def test_one_step_is_measured_without_intervals():
    director = directed()
    run(director, 1, 1)
    assert director.moments.shape[:2] == (1, 1)
    assert director.moments.state_dict()["counts"].sum() == 0


def test_another_number_of_steps_begins_anew():
    director = directed()
    run(director, 1, 6)
    run(director, 2, 9)
    assert director.moments.shape[0] == 9
    assert dataclasses.is_dataclass(director.config)
