# SPDX-License-Identifier: Apache-2.0
"""Clocks know the run, the step and the call, and leave schedulers as they were."""

import copy
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from handmade_models import Model, build
from tiny_pipeline import build_pipeline, sample

from genaccel.hooks.step_clock import SchedulerClock, TimestepClock

X = torch.zeros(1, 4, 8)


def owner(scheduler=None):
    """All of a pipeline that a clock looks at."""
    return SimpleNamespace(scheduler=scheduler or DDIMScheduler())


def ticks(clock, pipeline, steps, calls=1):
    """What the clock says in one run of a sampler."""
    scheduler = pipeline.scheduler
    seen = []
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        for _ in range(calls):
            seen.append(clock.tick((), {}))
        scheduler.step(X, t, X)
    return seen


def places(seen):
    return [(tick.step, tick.call) for tick in seen]


class TestSchedulerClock:
    @pytest.mark.parametrize("calls", [1, 2, 3])
    def test_steps_and_calls_are_counted(self, calls):
        pipeline = owner()
        seen = ticks(SchedulerClock(pipeline), pipeline, 4, calls)
        assert places(seen) == [(s, c) for s in range(4) for c in range(calls)]
        assert {tick.num_steps for tick in seen} == {4}
        assert len({tick.run for tick in seen}) == 1

    def test_every_run_has_a_number_and_may_have_other_steps(self):
        pipeline = owner()
        clock = SchedulerClock(pipeline)
        first, second = ticks(clock, pipeline, 4), ticks(clock, pipeline, 7)
        assert first[0].run != second[0].run
        assert places(second) == [(s, 0) for s in range(7)]
        assert second[0].num_steps == 7

    def test_a_run_that_was_given_up_leaves_nothing_behind(self):
        pipeline = owner()
        clock = SchedulerClock(pipeline)
        pipeline.scheduler.set_timesteps(4)
        clock.tick((), {})
        pipeline.scheduler.step(X, pipeline.scheduler.timesteps[0], X)
        clock.tick((), {})
        seen = ticks(clock, pipeline, 3)
        assert places(seen) == [(0, 0), (1, 0), (2, 0)]
        assert not any(tick.follows_whole_run for tick in seen)
        assert all(tick.follows_whole_run for tick in ticks(clock, pipeline, 3))

    def test_image_to_image_begins_in_the_middle(self):
        pipeline = owner(FlowMatchEulerDiscreteScheduler())
        clock = SchedulerClock(pipeline)
        scheduler = pipeline.scheduler
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(6)
        seen = []
        for t in scheduler.timesteps[6:]:
            seen.append(clock.tick((), {}))
            scheduler.step(X, t, X)
        assert [tick.step for tick in seen] == [6, 7, 8, 9]
        assert {tick.num_steps for tick in seen} == {10}

    # diffusers' Heun hands NumPy a tensor in a way that NumPy 2 is to drop.
    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_a_sampler_of_second_order_has_more_steps_than_it_was_asked_for(self):
        pipeline = owner(HeunDiscreteScheduler())
        seen = ticks(SchedulerClock(pipeline), pipeline, 4)
        assert [tick.step for tick in seen] == list(range(7))
        assert {tick.num_steps for tick in seen} == {7}

    @pytest.mark.parametrize("when", ["before its run", "with it"])
    def test_another_scheduler_is_followed_and_the_first_let_go(self, when):
        pipeline = owner()
        clock = SchedulerClock(pipeline)
        first = pipeline.scheduler
        before = ticks(clock, pipeline, 4)
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
        if when == "before its run":
            clock.tick((), {})
        after = ticks(clock, pipeline, 5)
        assert places(after) == [(s, 0) for s in range(5)]
        assert after[0].run > before[0].run
        assert not {"step", "set_timesteps"} & set(vars(first))
        assert ticks(clock, pipeline, 5)[0].run > after[0].run

    def test_a_copy_of_the_scheduler_steps_by_itself(self):
        pipeline = owner()
        clock = SchedulerClock(pipeline)
        pipeline.scheduler.set_timesteps(4)
        twin = copy.deepcopy(pipeline.scheduler)
        twin.set_timesteps(9)
        twin.step(X, twin.timesteps[0], X)
        tick = clock.tick((), {})
        assert (tick.step, tick.num_steps) == (0, 4)
        assert len(pipeline.scheduler.timesteps) == 4
        assert len(twin.timesteps) == 9

    def test_methods_of_the_scheduler_keep_their_signatures_and_answers(self):
        plain, pipeline = DDIMScheduler(), owner()
        SchedulerClock(pipeline)
        for name in ("step", "set_timesteps"):
            assert inspect.signature(getattr(plain, name)) == inspect.signature(
                getattr(pipeline.scheduler, name)
            )
            assert getattr(plain, name).__doc__ == getattr(pipeline.scheduler, name).__doc__
        for scheduler in (plain, pipeline.scheduler):
            scheduler.set_timesteps(4)
        ours, theirs = (
            s.step(X + 1, s.timesteps[0], X).prev_sample for s in (pipeline.scheduler, plain)
        )
        assert torch.equal(ours, theirs)

    def test_closing_gives_the_methods_back(self):
        pipeline = owner()
        before = dict(vars(pipeline.scheduler))
        clock = SchedulerClock(pipeline)
        clock.close()
        clock.close()
        assert vars(pipeline.scheduler) == before

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_two_clocks_of_one_scheduler_close_in_any_order(self, order):
        scheduler = DDIMScheduler()
        pipelines = [owner(scheduler), owner(scheduler)]
        clocks = [SchedulerClock(pipeline) for pipeline in pipelines]
        ticks(clocks[0], pipelines[0], 2)
        closed, left = order
        clocks[closed].close()
        assert places(ticks(clocks[left], pipelines[left], 3)) == [(0, 0), (1, 0), (2, 0)]
        clocks[left].close()
        assert not {"step", "set_timesteps"} & set(vars(scheduler))

    def test_a_scheduler_without_timesteps_is_one_step(self):
        clock = SchedulerClock(SimpleNamespace(scheduler=_Bare()))
        assert clock.tick((), {}).num_steps == 1

    def test_a_pipeline_is_followed_through_its_runs(self):
        pipeline = build_pipeline()
        clock = SchedulerClock(pipeline)
        seen = []
        hook = pipeline.transformer.register_forward_pre_hook(
            lambda module, args: seen.append(clock.tick(args, {}))
        )
        sample(pipeline, steps=3)
        sample(pipeline, steps=4)
        hook.remove()
        assert [tick.step for tick in seen] == [0, 1, 2, 0, 1, 2, 3]
        assert [tick.num_steps for tick in seen] == [3] * 3 + [4] * 4
        assert len({tick.run for tick in seen}) == 2


class _Bare:
    def set_timesteps(self, steps):
        pass

    def step(self, *args):
        pass


class TestTimestepClock:
    def clock(self, num_steps=4):
        return TimestepClock(build(), num_steps)

    def seen(self, clock, timesteps):
        return [clock.tick((X, torch.tensor([float(t)])), {}) for t in timesteps]

    def test_a_step_is_a_change_of_the_timestep(self):
        seen = self.seen(self.clock(), [900, 900, 600, 600, 300, 300, 0, 0])
        assert places(seen) == [(s, c) for s in range(4) for c in range(2)]
        assert len({tick.run for tick in seen}) == 1

    @pytest.mark.parametrize("timesteps", [[900, 600, 300, 0], [0.0, 0.25, 0.5, 0.75]])
    def test_a_run_ends_after_its_steps_whichever_way_the_time_goes(self, timesteps):
        seen = self.seen(self.clock(), timesteps * 2)
        assert [tick.step for tick in seen] == [0, 1, 2, 3] * 2
        assert [tick.run for tick in seen] == [seen[0].run] * 4 + [seen[0].run + 1] * 4

    def test_a_run_that_was_given_up_ends_where_the_time_turns_back(self):
        seen = self.seen(self.clock(), [900, 600, 900, 600, 300, 0])
        assert [tick.step for tick in seen] == [0, 1, 0, 1, 2, 3]
        assert seen[2].run == seen[1].run + 1

    @pytest.mark.parametrize(
        "call",
        [
            lambda t: ((X, t), {}),
            lambda t: ((X,), {"timestep": t}),
            lambda t: ((), {"timestep": t, "hidden_states": X}),
        ],
    )
    @pytest.mark.parametrize(
        "timestep", [float, int, torch.tensor, lambda t: torch.full((2, 3), t)]
    )
    def test_the_timestep_may_be_of_any_kind_and_passed_in_any_way(self, call, timestep):
        clock = self.clock()
        assert [clock.tick(*call(timestep(t))).step for t in (9.0, 6.0, 3.0)] == [0, 1, 2]

    def test_a_timestep_that_is_no_number_is_no_reason_to_fail(self):
        seen = self.seen(self.clock(), [float("nan")] * 3)
        assert all(0 <= tick.step < 4 for tick in seen)

    def test_a_model_without_a_timestep_is_refused(self):
        with pytest.raises(ValueError, match="Linear takes none of the arguments timestep, "):
            TimestepClock(nn.Linear(1, 1), 4)

    @pytest.mark.parametrize("num_steps", [0, -1])
    def test_a_run_has_a_step_at_least(self, num_steps):
        with pytest.raises(ValueError, match="num_inference_steps must be at least 1"):
            TimestepClock(Model(), num_steps)
