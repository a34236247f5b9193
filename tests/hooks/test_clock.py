# SPDX-License-Identifier: Apache-2.0
"""Clocks know the run, the step and the call, and leave pipelines and schedulers as they were."""

import copy
import inspect
import sys
import threading
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from handmade_models import Model, build
from tiny_pipeline import build_pipeline, sample

from genaccel.hooks.clock import PipelineClock, TimestepClock, current_run
from genaccel.hooks.pipeline_runs import PipelineRuns

X = torch.zeros(1, 4, 8)


class Sampler:
    """All of a pipeline that a clock looks at: a scheduler, and a call with a loop over its steps.

    Args:
        scheduler: Any.

    Attributes:
        model: What is called in each step.
        calls: In each step.
        tells_begin: Whether the scheduler is told where a run from an image begins.
    """

    def __init__(self, scheduler=None):
        self.scheduler = scheduler or DDIMScheduler()
        self.model = lambda timestep: None
        self.calls = 1
        self.tells_begin = True

    def __call__(self, steps, *, begin=0, stop=None):
        scheduler = self.scheduler
        scheduler.set_timesteps(steps)
        if begin and self.tells_begin:
            scheduler.set_begin_index(begin)
        for timestep in scheduler.timesteps[begin:stop]:
            for _ in range(self.calls):
                self.model(timestep)
            scheduler.step(X, timestep, X)


class Watched:
    """A pipeline whose runs are counted.

    Args:
        pipeline: It.

    Attributes:
        seen: What the clock says, of all its calls.
    """

    def __init__(self, pipeline, model=None):
        self.pipeline = pipeline
        self.runs = PipelineRuns.of(pipeline)
        self.clock = PipelineClock(self.runs)
        self.denoiser = model or build()
        self.seen = []
        pipeline.model = self.model

    def model(self, timestep):
        """Notes where in its run a call is."""
        if not self.clock.claims():
            self.seen.append(None)
            return
        run, tick = self.clock.call_begins(self.denoiser, (X, timestep), {})
        self.seen.append(tick)
        self.clock.call_ends(run, tick)

    def ticks(self, *args, **kwargs):
        """What the clock says in one call of the pipeline."""
        self.seen.clear()
        self.pipeline(*args, **kwargs)
        return list(self.seen)


class Host:
    """Keeps something for the time of a run, and notes how these ended."""

    def __init__(self):
        self.told = []

    def run_ended(self, run, state, *, whole):
        self.told.append(whole)


def places(seen):
    return [(tick.step, tick.call) for tick in seen]


class TestPipelineClock:
    @pytest.mark.parametrize("calls", [1, 2, 3])
    def test_steps_and_calls_are_counted(self, calls):
        watched = Watched(Sampler())
        watched.pipeline.calls = calls
        seen = watched.ticks(4)
        assert places(seen) == [(s, c) for s in range(4) for c in range(calls)]
        assert {tick.num_steps for tick in seen} == {4}
        assert len({tick.run for tick in seen}) == 1

    def test_two_models_of_one_step_are_counted_each_by_itself(self):
        watched, other = Watched(Sampler()), build()
        places_of_other = []

        def both(timestep):
            watched.model(timestep)
            places_of_other.append(watched.clock.call_begins(other, (X, timestep), {})[1])

        watched.pipeline.model = both
        assert places(watched.ticks(3)) == places(places_of_other) == [(0, 0), (1, 0), (2, 0)]

    def test_every_run_has_a_number_and_may_have_other_steps(self):
        watched = Watched(Sampler())
        first, second = watched.ticks(4), watched.ticks(7)
        assert first[0].run != second[0].run
        assert places(second) == [(s, 0) for s in range(7)]
        assert second[0].num_steps == 7

    def test_a_run_that_was_given_up_leaves_nothing_behind(self):
        watched = Watched(Sampler())

        def stops(timestep):
            watched.model(timestep)
            if len(watched.seen) == 2:
                raise InterruptedError

        watched.pipeline.model = stops
        with pytest.raises(InterruptedError):
            watched.ticks(4)
        assert current_run() is None
        watched.pipeline.model = watched.model
        assert places(watched.ticks(3)) == [(0, 0), (1, 0), (2, 0)]

    def test_what_is_kept_for_a_run_is_told_of_its_end_and_whether_it_was_whole(self):
        watched, host = Watched(Sampler()), Host()

        def keeps(timestep):
            watched.model(timestep)
            current_run().states[host] = "kept"
            if len(watched.seen) == 3:
                raise InterruptedError

        watched.pipeline.model = keeps
        with pytest.raises(InterruptedError):
            watched.pipeline(4)
        watched.pipeline(4)
        watched.pipeline._interrupt = True
        watched.pipeline(4)
        assert host.told == [False, True, False]

    def test_image_to_image_begins_in_the_middle(self):
        watched = Watched(Sampler(FlowMatchEulerDiscreteScheduler()))
        runs = []

        def model(timestep):
            watched.model(timestep)
            runs.append(current_run())

        watched.pipeline.model = model
        seen = watched.ticks(10, begin=6)
        assert [tick.step for tick in seen] == [0, 1, 2, 3]
        assert {tick.num_steps for tick in seen} == {4}
        assert runs[-1].start == 6
        assert len(runs[-1].schedule()) == 8  # timesteps and sigmas
        assert len(watched.ticks(10)) == 10
        assert runs[-1].start == 0

    @pytest.mark.parametrize("scheduler", [DDIMScheduler, FlowMatchEulerDiscreteScheduler])
    def test_a_beginning_that_nobody_told_is_known_after_the_first_step(self, scheduler):
        watched = Watched(Sampler(scheduler()))
        watched.pipeline.tells_begin = False
        run = []
        watched.pipeline.model = lambda t: (watched.model(t), run.append(current_run()))
        seen = watched.ticks(10, begin=6)
        assert [tick.step for tick in seen] == [0, 1, 2, 3]
        assert {tick.num_steps for tick in seen[1:]} == {4}
        assert run[0].start == 6

    def test_steps_that_the_pipeline_leaves_out_at_the_end_are_known_where_it_tells(self):
        watched = Watched(Sampler())
        watched.pipeline._num_timesteps = 5
        seen = watched.ticks(8, stop=5)
        assert {tick.num_steps for tick in seen} == {5}

    # diffusers' Heun hands NumPy a tensor in a way that NumPy 2 is to drop.
    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_a_sampler_of_second_order_has_more_steps_than_it_was_asked_for(self):
        seen = Watched(Sampler(HeunDiscreteScheduler())).ticks(4)
        assert [tick.step for tick in seen] == list(range(7))
        assert {tick.num_steps for tick in seen} == {7}

    def test_another_scheduler_is_followed_and_the_first_let_go(self):
        watched = Watched(Sampler())
        first = watched.pipeline.scheduler
        before = watched.ticks(4)
        watched.pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
        after = watched.ticks(5)
        assert places(after) == [(s, 0) for s in range(5)]
        assert after[0].run > before[0].run
        assert not {"step", "set_timesteps"} & set(vars(first))
        assert watched.ticks(5)[0].run > after[0].run

    def test_two_parts_of_a_call_with_timesteps_of_their_own_count_anew(self):
        class InParts(Sampler):
            def __call__(self, *parts):
                for steps in parts:
                    super().__call__(steps)

        watched, host = Watched(InParts()), Host()
        watched.pipeline.model = lambda t: (
            watched.model(t),
            current_run().states.setdefault(host, 1),
        )
        seen = watched.ticks(3, 5)
        assert [tick.step for tick in seen] == [0, 1, 2, 0, 1, 2, 3, 4]
        assert [tick.num_steps for tick in seen] == [3] * 3 + [5] * 5
        assert host.told == [True, True]

    def test_a_copy_of_the_scheduler_steps_by_itself(self):
        class WithTwin(Sampler):
            def __call__(self, steps):
                self.scheduler.set_timesteps(steps)
                twin = copy.deepcopy(self.scheduler)
                twin.set_timesteps(9)
                for timestep in self.scheduler.timesteps:
                    self.model(timestep)
                    twin.step(X, twin.timesteps[0], X)
                    self.scheduler.step(X, timestep, X)
                assert len(self.scheduler.timesteps) == steps
                assert len(twin.timesteps) == 9

        seen = Watched(WithTwin()).ticks(4)
        assert places(seen) == [(s, 0) for s in range(4)]
        assert {tick.num_steps for tick in seen} == {4}

    def test_a_scheduler_that_is_never_stepped_is_counted_by_the_timesteps(self):
        class OwnStep(Sampler):
            def __call__(self, steps):
                self.scheduler.set_timesteps(steps)
                for timestep in self.scheduler.timesteps:
                    for _ in range(self.calls):
                        self.model(timestep)

        watched = Watched(OwnStep())
        watched.pipeline.calls = 2
        seen = watched.ticks(4)
        assert places(seen) == [(s, c) for s in range(4) for c in range(2)]
        assert {tick.num_steps for tick in seen} == {4}

    def test_steps_of_a_scheduler_are_told_to_the_run_of_the_thread_that_makes_them(self):
        shared = DDIMScheduler()
        first, second = Watched(Sampler(shared)), Watched(Sampler(shared))
        inner = []

        def nested(timestep):
            first.model(timestep)
            if len(first.seen) == 2:
                # Another pipeline's call within this one, with the same scheduler.
                thread = threading.Thread(target=lambda: inner.extend(second.ticks(4)))
                thread.start()
                thread.join()

        first.pipeline.model = nested
        assert places(first.ticks(4)) == [(s, 0) for s in range(4)]
        assert places(inner) == [(s, 0) for s in range(4)]

    def test_methods_of_the_scheduler_keep_their_signatures_and_answers(self):
        plain, pipeline = DDIMScheduler(), Sampler()
        PipelineRuns.of(pipeline)
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

    def test_a_scheduler_without_timesteps_is_one_step(self):
        class Bare:
            def set_timesteps(self, steps):
                pass

            def step(self, *args):
                pass

        class Once(Sampler):
            def __call__(self):
                self.model(torch.tensor(3.0))

        (tick,) = Watched(Once(Bare())).ticks()
        assert tick.num_steps == 1

    def test_a_pipeline_is_followed_through_its_runs(self):
        pipeline = build_pipeline()
        clock = PipelineClock(PipelineRuns.of(pipeline))
        seen = []
        hook = pipeline.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(clock.call_begins(module, args, kwargs)[1]),
            with_kwargs=True,
        )
        sample(pipeline, steps=3)
        sample(pipeline, steps=4)
        hook.remove()
        assert [tick.step for tick in seen] == [0, 1, 2, 0, 1, 2, 3]
        assert [tick.num_steps for tick in seen] == [3] * 3 + [4] * 4
        assert len({tick.run for tick in seen}) == 2


class TestPipelineRuns:
    """What a pipeline is while its calls are runs, and afterwards."""

    def test_a_call_outside_of_the_pipeline_belongs_to_no_run(self):
        watched = Watched(Sampler())
        watched.model(torch.tensor(3.0))
        assert watched.seen == [None]
        Sampler.__call__(watched.pipeline, 2)
        assert watched.seen == [None] * 3

    def test_what_the_pipeline_calls_back_belongs_to_no_run(self):
        class CallsBack(Sampler):
            def __call__(self, steps, callback=None):
                self.scheduler.set_timesteps(steps)
                for timestep in self.scheduler.timesteps:
                    self.model(timestep)
                    self.scheduler.step(X, timestep, X)
                    callback(timestep)

        watched = Watched(CallsBack())
        seen = watched.ticks(3, callback=watched.model)
        assert [tick is None for tick in seen] == [False, True] * 3
        assert [tick.step for tick in seen[::2]] == [0, 1, 2]
        assert watched.ticks(3, watched.model)[1] is None

    def test_a_call_within_a_call_of_the_same_pipeline_is_the_same_run(self):
        class Repeats(Sampler):
            def __call__(self, steps, *, again=True):
                if again:
                    return self(steps, again=False)
                return super().__call__(steps)

        seen = Watched(Repeats()).ticks(3)
        assert places(seen) == [(0, 0), (1, 0), (2, 0)]
        assert len({tick.run for tick in seen}) == 1

    def test_its_class_goes_by_its_name_and_is_given_back(self):
        pipeline = build_pipeline()
        stock, before = type(pipeline), set(vars(pipeline))
        scheduler = dict(vars(pipeline.scheduler))
        runs = PipelineRuns.of(pipeline)
        assert isinstance(pipeline, stock)
        assert (type(pipeline).__name__, type(pipeline).__module__) == (
            stock.__name__,
            stock.__module__,
        )
        assert inspect.signature(type(pipeline).__call__) == inspect.signature(stock.__call__)
        runs.release()
        assert type(pipeline) is stock
        assert set(vars(pipeline)) == before
        assert vars(pipeline.scheduler) == scheduler

    def test_who_needs_the_runs_longest_keeps_them(self):
        pipeline = Sampler()
        first, second = PipelineRuns.of(pipeline), PipelineRuns.of(pipeline)
        assert first is second
        first.release()
        assert type(pipeline) is not Sampler
        second.release()
        assert type(pipeline) is Sampler

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_two_pipelines_of_one_scheduler_end_in_any_order(self, order):
        scheduler = DDIMScheduler()
        watched = [Watched(Sampler(scheduler)), Watched(Sampler(scheduler))]
        watched[0].ticks(2)
        ended, left = order
        watched[ended].runs.release()
        assert places(watched[left].ticks(3)) == [(0, 0), (1, 0), (2, 0)]
        watched[left].runs.release()
        assert not {"step", "set_timesteps"} & set(vars(scheduler))


class TestTimestepClock:
    def clock(self, num_steps=4):
        return TimestepClock(build(), num_steps)

    def tick(self, clock, *args, **kwargs):
        run, tick = clock.call_begins(None, args, kwargs)
        clock.call_ends(run, tick)
        return tick

    def seen(self, clock, timesteps):
        return [self.tick(clock, X, torch.tensor([float(t)])) for t in timesteps]

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

    @pytest.mark.parametrize("calls", [1, 2])
    def test_what_is_kept_is_let_go_with_the_last_call_of_the_last_step(self, calls):
        clock, host = self.clock(3), Host()

        def call(timestep):
            for _ in range(calls):
                run, tick = clock.call_begins(None, (X, torch.tensor(timestep)), {})
                run.states[host] = None
                assert host.told == before
                clock.call_ends(run, tick)

        before = []
        for timestep in (900.0, 600.0, 300.0):
            call(timestep)
        assert host.told == [True]
        before = [True]
        call(900.0)
        call(600.0)
        before = [True, False]  # the time turned back
        call(900.0)
        clock.close()
        assert host.told == [True, False, False]

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
        steps = []
        for t in (9.0, 6.0, 3.0):
            args, kwargs = call(timestep(t))
            steps.append(self.tick(clock, *args, **kwargs).step)
        assert steps == [0, 1, 2]

    def test_a_timestep_that_is_no_number_is_no_reason_to_fail(self):
        seen = self.seen(self.clock(), [float("nan")] * 3)
        assert all(0 <= tick.step < 4 for tick in seen)

    def test_threads_have_runs_of_their_own(self):
        clock = self.clock()
        here = self.seen(clock, [900, 600])
        there = []
        thread = threading.Thread(target=lambda: there.extend(self.seen(clock, [900, 600])))
        thread.start()
        thread.join()
        here += self.seen(clock, [300, 0])
        assert [tick.step for tick in here] == [0, 1, 2, 3]
        assert [tick.step for tick in there] == [0, 1]
        assert here[0].run != there[0].run

    def test_a_model_without_a_timestep_is_refused(self):
        with pytest.raises(ValueError, match="Linear takes none of the arguments timestep, "):
            TimestepClock(nn.Linear(1, 1), 4)

    @pytest.mark.parametrize("num_steps", [0, -1])
    def test_a_run_has_a_step_at_least(self, num_steps):
        with pytest.raises(ValueError, match="num_inference_steps must be at least 1"):
            TimestepClock(Model(), num_steps)
