# SPDX-License-Identifier: Apache-2.0
"""What is held is constant, however many runs, direct calls, interruptions and kinds of calls there are."""

import gc
import sys
import weakref
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import (
    Stopped,
    flux,
    flux_inputs,
    interrupt_at,
    run_flux,
    run_wan,
    stop_at,
    wan,
)

import genaccel
from genaccel import SensitivityConfig
from genaccel.hooks.learning import KnownLayouts


@pytest.fixture(autouse=True)
def nothing_of_before():
    """The garbage collector passes over what was there before the test, which takes it half a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_tensors():
    """Number and bytes of all tensors that came with the test and that Python knows of."""
    gc.collect()
    found = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    return len(found), sum(t.numel() * t.element_size() for t in found)


@pytest.fixture(params=["output", "segment", "module"])
def config(request):
    return SensitivityConfig(speedup=2.0, granularity=request.param)


def direct_calls(pipe):
    with torch.no_grad():
        for tokens in (64, 16, 64):
            pipe.transformer(**flux_inputs(tokens=tokens))


def direct_calls_with_autograd(pipe):
    pipe.transformer(**flux_inputs())[0].sum()


def whole_runs(pipe):
    run_flux(pipe)


def runs_that_raise(pipe):
    for step in (0, 2, 5):
        with pytest.raises(Stopped):
            run_flux(pipe, callback_on_step_end=stop_at(step))


def interrupted_runs(pipe):
    for step in (0, 2, 5):
        run_flux(pipe, callback_on_step_end=interrupt_at(step))


def runs_of_several_sizes(pipe):
    for size, steps in ((16, 10), (24, 10), (16, 6)):
        run_flux(pipe, size=size, steps=steps)


WORK = [
    direct_calls,
    direct_calls_with_autograd,
    whole_runs,
    runs_that_raise,
    interrupted_runs,
    runs_of_several_sizes,
]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_nothing_grows(pipe, config, work):
    handle = genaccel.enable(pipe, config)
    for _ in range(3):  # plans, kinds of calls, and what torch keeps of its own
        work(pipe)
    before = live_tensors()
    for _ in range(5):
        work(pipe)
    assert live_tensors() == before
    assert handle.attachments["transformer"].bytes_held == 0


def test_no_states_are_held_between_runs(config):
    """Sums that a plan is made of are held, which are as large for a large picture as for a small one."""
    held = []
    for size in (16, 32):
        pipe = flux()
        run_flux(pipe, size=size)
        _, before = live_tensors()
        handle = genaccel.enable(pipe, config)
        for _ in range(3):
            run_flux(pipe, size=size)
        held.append(live_tensors()[1] - before)
        assert handle.attachments["transformer"].bytes_held == 0
    assert held[1] <= held[0] + 1024
    assert held[0] < 100_000


def test_while_a_run_lasts_no_more_is_held_than_was_planned(pipe, config):
    handle = genaccel.enable(pipe, config)
    run_flux(pipe)
    held = []

    def note(pipe, index, timestep, values):
        held.append(handle.attachments["transformer"].bytes_held)
        return values

    run_flux(pipe, callback_on_step_end=note)
    assert max(held) > 0
    assert max(held) <= handle.report()["transformer"].peak_bytes
    assert handle.attachments["transformer"].bytes_held == 0


def test_disabling_lets_go_of_all(pipe, config):
    run_flux(pipe)
    before = live_tensors()
    handle = genaccel.enable(pipe, config)
    for _ in range(2):
        run_flux(pipe)
    handle.disable()
    del handle
    assert live_tensors() == before


def test_a_pipeline_that_is_let_go_takes_everything_along(config):
    def enabled():
        pipe = flux()
        genaccel.enable(pipe, config)
        run_flux(pipe)
        run_flux(pipe)
        return weakref.ref(pipe), weakref.ref(pipe.transformer)

    enabled()
    before = live_tensors()
    gone = enabled()
    assert live_tensors() == before
    assert [reference() for reference in gone] == [None, None]


def test_kinds_of_calls_are_not_remembered_without_end():
    known = KnownLayouts()
    for kind in range(200):
        known.keep(kind, f"layout {kind}")
        assert known.get(0) == "layout 0"  # in use all the time
    assert sum(known.get(kind) is not None for kind in range(200)) == 64


def test_a_transformer_that_was_exchanged_is_let_go(pipe, config):
    genaccel.enable(pipe, config)
    run_flux(pipe)
    gone = weakref.ref(pipe.transformer)
    pipe.transformer = flux().transformer
    run_flux(pipe)
    gc.collect()
    assert gone() is None


def test_two_calls_in_each_step_are_held_and_let_go_together():
    pipe = wan()
    handle = genaccel.enable(pipe, SensitivityConfig(speedup=2.0))
    for _ in range(3):
        run_wan(pipe, guidance=4.0)
    before = live_tensors()
    for _ in range(3):
        run_wan(pipe, guidance=4.0)
    assert live_tensors() == before
    assert handle.attachments["transformer"].bytes_held == 0
