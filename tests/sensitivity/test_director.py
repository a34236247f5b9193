# SPDX-License-Identifier: Apache-2.0
"""The director alone, told of steps by hand."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from genaccel.hooks.clock import Run, Tick
from genaccel.hooks.director import Structure
from genaccel.hooks.memory import Memory, Stream
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.measure.measuring import MeasuredRuns
from genaccel.sensitivity.plans.plan_source import PlanSource
from genaccel.sensitivity.run.director import SensitivityDirector
from genaccel.sensitivity.run.replay import Replay

CONFIG = SensitivityConfig(speedup=2.0)
SEGMENTS = tuple(
    SimpleNamespace(name=f"blocks[{g}]", entries=("hidden_states", "context"), flops=10)
    for g in range(2)
)
STRUCTURE = Structure(SEGMENTS, (), total_flops=25)


@pytest.fixture
def build(tmp_path):
    """Makes directors whose plans are kept in the test's own folder."""

    model = nn.Linear(2, 2)

    def make(config=CONFIG, **attributes):
        config = dataclasses.replace(config, cache_dir=tmp_path / "plans")
        director = SensitivityDirector(
            "transformer", model, config, PlanSource(config, "transformer", model)
        )
        for name, value in attributes.items():
            setattr(director, name, value)
        return director

    return make


def memory(*steps):
    """What was kept at some steps, the newest first."""
    return Memory(list(steps), [(torch.ones(1, 2), torch.ones(1, 2)) for _ in steps])


def stream(*memories):
    return Stream("kind", list(memories) or [Memory(), Memory()])


def directed(director, steps, calls=1, begin=0, end=None, structure=STRUCTURE, seed=0):
    """One run of a model that is told of all its steps, whatever is decided: what was computed."""
    run = Run(1, num_steps=steps)
    mine = director.begin(run)
    direction = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))
    kept = [stream() for _ in range(calls)]
    computed = []
    for step in range(begin, steps if end is None else end):
        run.step = step
        for call in range(calls):
            tick = Tick(1, step, call, steps)
            if not computed:
                mine.learn(tick, structure)
                does = [True] * len(structure.segments)
            else:
                answer = mine.decide(tick, structure, kept[call])
                does = [d.compute for d in answer.segments] or [False] * len(structure.segments)
            computed.append(does)
            tensors = (1.0 + step**2 * direction, 2.0 + step * direction)
            added = [(tensors, tensors[:1])[g] if does[g] else None for g in range(len(does))]
            for part, new in zip(kept[call].memories, added, strict=False):
                if new is not None:
                    part.keep(step, new, history=mine.history)
            if all(does):
                kept[call].outputs.keep(step, tensors[0], history=mine.output_history)
            mine.ended(tick, structure, added, tensors[0])
    mine.finish(whole=end is None)
    return mine, computed


def test_replays_the_plan(make_plan, build):
    plan = make_plan(token_counts=None, segment_of_layer=())
    replay = Replay(plan, ())
    assert (replay.history, replay.output_history, replay.submodule_history) == (2, 0, 0)
    for step in range(12):
        kept = memory(step - 1, step - 2)
        answer = replay.decide(step, stream(kept, kept))
        expected = [True, True] if step == 0 else plan.compute_mask[step].tolist()
        assert [d.compute for d in answer.segments] == expected
    mine, computed = directed(build(forced=plan), 12)
    assert computed == plan.compute_mask.tolist()
    assert mine.choice.plan is plan
    assert mine.history == 2  # for taylor1


def test_each_tensor_of_a_segment_has_its_own_numbers(make_plan):
    plan = make_plan(token_counts=None, segment_of_layer=())
    affine = [(s, g) for s in range(12) for g in range(2) if plan.forecaster_index[s, g] == 2]
    step, segment = affine[0]
    kept = memory(step - 1)
    decision = Replay(plan, ()).decide(step, stream(kept, kept)).segments[segment]
    assert decision.weights == tuple(
        (pytest.approx(float(plan.affine_slope[step, 0, segment, m])),) for m in range(2)
    )
    assert decision.offsets == tuple(
        pytest.approx(float(plan.affine_intercept[step, 0, segment, m])) for m in range(2)
    )


def test_computes_what_it_cannot_forecast(make_plan):
    plan = make_plan(token_counts=None, segment_of_layer=())
    replay = Replay(plan, ())
    assert not plan.compute_mask[1].any()
    assert all(d.compute for d in replay.decide(1, stream()).segments)
    # The affine tables reach three steps back.
    late = next(s for s in range(12) if (plan.forecaster_index[s] == 2).any())
    (segment,) = np.flatnonzero(plan.forecaster_index[late] == 2)[:1]
    far = memory(late - 4)
    assert replay.decide(late, stream(far, far)).segments[segment].compute


def test_a_plan_of_outputs_forecasts_the_output_or_computes(make_plan):
    mask = np.repeat(np.arange(12)[:, None] % 3 == 0, 2, axis=1)
    plan = make_plan(
        granularity="output",
        compute_mask=mask,
        forecasters=("taylor1",),
        forecaster_index=np.where(mask, -1, 0).astype(np.int8),
        token_counts=None,
        segment_of_layer=(),
        affine_slope=None,
        affine_intercept=None,
    )
    replay = Replay(plan, ())
    assert (replay.history, replay.output_history) == (0, 2)
    known = stream()
    for step in range(12):
        answer = replay.decide(step, known)
        if mask[step, 0]:
            assert [d.compute for d in answer.segments] == [True, True]
            known.outputs.keep(step, torch.full((2,), float(step)), history=2)
        else:
            # With one output reuse, with two of them an extrapolation of what is linear.
            forecast = known.outputs.combine(answer.output_weights)
            assert forecast.tolist() == [float(step) if step > 3 else 0.0] * 2
    assert not replay.decide(4, stream()).output_weights


def test_a_plan_of_other_segments_computes_everything(make_plan, build):
    plan = make_plan(token_counts=None, segment_of_layer=())
    one = Structure(SEGMENTS[:1], (), total_flops=25)
    _, computed = directed(build(forced=plan), 12, structure=one)
    assert computed == [[True]] * 12


def test_other_steps_stretch_the_plan_and_that_is_said_once(make_plan, build, caplog):
    plan = make_plan(token_counts=None, segment_of_layer=())
    director = build(forced=plan)
    for _ in range(2):
        mine, computed = directed(director, 24)
        assert [True, True] in computed
        assert [False, False] in computed
        assert "is stretched to 24" in mine.choice.notes[0]
    assert caplog.text.count("is stretched to 24") == 1


@pytest.mark.parametrize(("calls", "begin"), [(1, 0), (2, 0), (2, 3)])
def test_a_measured_run_is_told_once_when_all_of_it_is_over(build, calls, begin):
    told = []
    director = build(sink=told.append)
    _, computed = directed(director, 8, calls, begin)
    assert all(map(all, computed))
    assert len(told) == 1
    counted = told[0].moments.moments()["n"][:, 0, 0, 0]  # values at interval 1
    assert counted.tolist() == [0.0] * (begin + 1) + [4.0 * calls] * (7 - begin)


def test_a_run_that_is_given_up_is_not_measured(build):
    told = []
    director = build(sink=told.append)
    mine, _ = directed(director, 8, end=5)
    assert told == []
    assert "the run was not measured to its end, so no plan is made of it" in mine.choice.notes


def test_without_a_plan_a_run_is_measured_and_the_next_one_follows_its_plan(build, caplog):
    director = build()
    mine, computed = directed(director, 8)
    assert all(map(all, computed))
    assert caplog.text.count("computed in full and measured; the next ones are faster") == 1
    assert mine.choice.plan is None
    plan = director.plan
    assert plan.num_segments == 2
    mine, computed = directed(director, 8)
    assert mine.choice.plan is plan
    assert computed == plan.compute_mask.tolist()
    assert plan.compute_mask.mean() < 1
    # In another process too.
    mine, again = directed(build(), 8)
    assert again == computed
    assert mine.choice.text.startswith("from the cache (")


def test_a_plan_by_rule_directs_the_first_run_and_nothing_is_measured(build, tmp_path):
    director = build(dataclasses.replace(CONFIG, first_run="plan", granularity="output"))
    mine, computed = directed(director, 8)
    assert mine.choice.text.startswith("by rule, ")
    assert mine.choice.plan.granularity == "output"
    assert [all(step) for step in computed] == mine.choice.plan.compute_mask[:, 0].tolist()
    assert director.measurements is None
    assert not (tmp_path / "plans").exists()


def test_one_step_is_not_measured(build):
    director = build()
    mine, computed = directed(director, 1)
    assert computed == [[True, True]]
    assert director.measurements is None
    assert mine.choice.notes == ("a run of a single step has nothing to skip",)


class TestMeasuredRuns:
    """What several runs measured, added up."""

    def measure(self, build, runs, *seeds, steps=6):
        director = build(sink=runs.take)
        for seed in seeds:
            directed(director, steps, seed=seed)
        return runs

    def state(self, runs):
        return {n: t.clone() for n, t in runs.total.moments.state_dict().items()}

    def test_sums_go_on_over_runs(self, build):
        both = self.state(self.measure(build, MeasuredRuns(), 0, 1))
        (first, second) = (self.state(self.measure(build, MeasuredRuns(), s)) for s in (0, 1))
        assert torch.equal(both["counts"], first["counts"] + second["counts"])
        assert both["counts"].sum() > 0

    def test_resumed_sums_are_added_to(self, build):
        whole = self.measure(build, MeasuredRuns(), 0, 1)
        other = MeasuredRuns()
        other.resume(self.measure(build, MeasuredRuns(), 0).state())
        self.measure(build, other, 1)
        for name, tensor in self.state(whole).items():
            assert torch.equal(tensor, self.state(other)[name])

    def test_sums_may_be_replaced(self, build):
        runs = self.measure(build, MeasuredRuns(), 0)
        before = runs.state()
        self.measure(build, runs, 1)
        runs.replace(before)
        for part, sums in runs.state().items():
            for name, tensor in sums.items():
                torch.testing.assert_close(tensor, before[part][name])

    def test_another_number_of_steps_is_a_problem(self, build):
        runs = self.measure(build, MeasuredRuns(), 0)
        assert runs.problem is None
        self.measure(build, runs, 1, steps=9)
        assert runs.problem == ("all generations must have the same number of steps, got 6 and 9")
