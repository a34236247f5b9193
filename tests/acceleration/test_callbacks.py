# SPDX-License-Identifier: Apache-2.0
"""What a pipeline calls back is no part of its run, whatever kind of callable it is."""

import functools
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import Stopped, flux, flux_inputs, run_flux, same

import genaccel
from genaccel import SensitivityConfig

SODA = SensitivityConfig(speedup=2.0)


@pytest.fixture(params=["output", "segment"])
def handle(request, pipe):
    """The pipeline is enabled, and has measured a run."""
    made = genaccel.enable(pipe, SensitivityConfig(speedup=2.0, granularity=request.param))
    run_flux(pipe)
    return made


class CallsBack:
    """Runs something at the end of each step, in all the ways in which that can be said."""

    def __init__(self, work):
        self.work = work

    def method(self, pipe, index, timestep, values):
        self.work(pipe, index)
        return values


class OwnCallback(PipelineCallback):
    """A callback object of diffusers."""

    tensor_inputs = ["latents"]  # noqa: RUF012 - as diffusers' own have it

    def __init__(self, work):
        super().__init__()
        self.work = work

    def callback_fn(self, pipe, index, timestep, values):
        self.work(pipe, index)
        return values


def as_function(work):
    def callback(pipe, index, timestep, values):
        work(pipe, index)
        return values

    return callback


def as_partial(work):
    def callback(extra, pipe, index, timestep, values):
        work(pipe, index)
        return values

    return functools.partial(callback, "extra")


def as_callable_object(work):
    class Callback:
        def __call__(self, pipe, index, timestep, values):
            work(pipe, index)
            return values

    return Callback()


@pytest.mark.parametrize(
    "wrap",
    [
        as_function,
        as_partial,
        lambda work: CallsBack(work).method,
        as_callable_object,
        OwnCallback,
        lambda work: MultiPipelineCallbacks([OwnCallback(work), OwnCallback(lambda *_: None)]),
    ],
    ids=["function", "partial", "method", "object", "callback", "callbacks"],
)
class TestCallbacks:
    """A callback belongs to whoever wrote it."""

    def test_another_pipeline_is_plain_in_it(self, pipe, handle, wrap):
        other = flux(transformer=pipe.transformer)
        with handle.paused():
            plain = run_flux(other, seed=3, prompt=77, steps=4)
        replayed = run_flux(pipe)
        seen = []

        def work(pipe, index):
            if index in (1, 4):
                seen.append(torch.equal(run_flux(other, seed=3, prompt=77, steps=4), plain))

        assert torch.equal(run_flux(pipe, callback_on_step_end=wrap(work)), replayed)
        assert seen == [True, True]

    def test_a_direct_call_is_plain_in_it(self, pipe, handle, wrap):
        given = flux_inputs()
        with handle.paused():
            plain = pipe.transformer(**given)
        replayed = run_flux(pipe)
        seen = []

        def work(pipe, index):
            seen.append(same(pipe.transformer(**given), plain))

        assert torch.equal(run_flux(pipe, callback_on_step_end=wrap(work)), replayed)
        assert seen == [True] * 10

    def test_it_may_end_the_run(self, pipe, handle, wrap):
        def work(pipe, index):
            if index == 4:
                raise Stopped

        replayed = run_flux(pipe)
        with pytest.raises(Stopped):
            run_flux(pipe, callback_on_step_end=wrap(work))
        assert torch.equal(run_flux(pipe), replayed)


class TestStateOfCallbacks:
    def test_an_object_keeps_what_it_notes(self, pipe, handle):
        class Counts(PipelineCallback):
            tensor_inputs = ["latents"]  # noqa: RUF012

            def __init__(self):
                super().__init__()
                self.count = 0
                self.seen = []

            def callback_fn(self, pipe, index, timestep, values):
                self.count += 1
                self.seen.append(index)
                return values

        counts = Counts()
        run_flux(pipe, callback_on_step_end=counts)
        run_flux(pipe, callback_on_step_end=counts)
        assert counts.count == 20
        assert counts.seen == [*range(10)] * 2
        assert type(counts) is Counts

    def test_what_is_callable_but_no_callback_is_passed_on_as_it_is(self, pipe, handle):
        seen = {}

        class Keeps(FluxPipeline):
            def __call__(self, *args, extra=None, **kwargs):
                seen["extra"] = extra
                return super().__call__(*args, **kwargs)

        keeps = flux(Keeps, transformer=pipe.transformer)
        with genaccel.enable(keeps, SODA):
            for extra in (torch.zeros(2), torch.nn.Linear(1, 1), FluxPipeline, "text", 3):
                run_flux(keeps, extra=extra)
                assert seen["extra"] is extra
