# SPDX-License-Identifier: Apache-2.0
"""Every transformer of diffusers can be accelerated, and is afterwards what it was."""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from scripted import attach
from tiny_transformers import TINY_TRANSFORMERS, call

from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.handle import AccelerationHandle

LEAST_COVERED = 55
STEPS = (0.3, 0.4, 0.5)

every_transformer = pytest.mark.parametrize("name", TINY_TRANSFORMERS)


def same(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


class Ride:
    """One model, run before, with, and after an engine. Built once for all tests of it."""

    def __init__(self, name):
        tiny = TINY_TRANSFORMERS[name]
        model = tiny.build()
        inputs = [tiny.inputs(step) for step in STEPS]
        self.plain = [call(model, given) for given in inputs]
        engine = attach(model, [1, 1, 1])
        handle = AccelerationHandle({"model": engine})
        self.computed = [call(model, given) for given in inputs]
        self.segments = engine.segments
        self.total_flops = engine.total_flops
        engine.director.mask = [1, 1, 0]
        self.executed, self.forecast = [], []
        for given in inputs:
            # flex_attention compiles itself, which no dispatch mode may watch.
            with torch.compiler.set_stance("force_eager"), FlopCount() as count:
                self.forecast.append(call(model, given))
            self.executed.append(count.total)
        self.report = handle.report()["model"]
        handle.disable()
        self.after = call(model, inputs[0])
        self.left = {name for module in model.modules() for name in vars(module)} & {
            "forward",
            "_diffusers_hook",
        }


ride = cache(Ride)


@every_transformer
def test_computing_everything_changes_no_bit(name):
    assert all(map(same, ride(name).plain, ride(name).computed))


@every_transformer
def test_a_skipped_step_costs_the_flops_that_the_report_says(name):
    taken = ride(name)
    skipped = sum(segment.flops for segment in taken.segments)
    assert 0 < skipped < taken.total_flops
    assert taken.executed[:2] == [taken.total_flops] * 2
    assert taken.executed[2] == taken.total_flops - skipped
    assert taken.report.plain_flops == 3 * taken.total_flops
    assert taken.report.flops == sum(taken.executed)
    assert taken.report.schedule == "CCf"


@every_transformer
def test_a_skipped_step_gives_outputs_of_the_same_kind(name):
    taken = ride(name)
    assert all(map(same, taken.plain[:2], taken.forecast[:2]))
    for plain, forecast in zip(taken.plain[2], taken.forecast[2], strict=True):
        assert (plain.shape, plain.dtype) == (forecast.shape, forecast.dtype)
        assert forecast.isfinite().all()
        assert not torch.equal(plain, forecast)


@every_transformer
def test_disabling_restores_every_bit_and_leaves_no_attribute(name):
    taken = ride(name)
    assert same(taken.plain[0], taken.after)
    assert not taken.left


def test_nearly_all_of_diffusers_is_covered():
    covered = [name for name in TINY_TRANSFORMERS if ride(name).segments]
    assert len(covered) >= LEAST_COVERED
