# SPDX-License-Identifier: Apache-2.0
"""Compiled models and blocks, before or after enable: computed steps are those of the plain compiled model."""

import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import flux, flux_transformer, is_fast, report, run_flux

import genaccel
from genaccel import SensitivityConfig

pytestmark = pytest.mark.usefixtures("fresh_compiler")

# Forecasts of segments leave computed steps as they are, bit for bit.
SODA = SensitivityConfig(speedup=2.0, granularity="segment")
STEPS = 6


def build(blocks=2):
    return flux(transformer=flux_transformer(num_layers=blocks, num_single_layers=blocks))


def run(pipe):
    return run_flux(pipe, steps=STEPS, size=8)


@pytest.fixture
def expected():
    """What an accelerated pipeline makes that nobody compiled: a plain image and a fast one."""
    pipe = build()
    with genaccel.enable(pipe, SODA):
        return run(pipe), run(pipe)


def assert_as_expected(pipe, handle, expected):
    torch.testing.assert_close(run(pipe), expected[1], rtol=1e-4, atol=1e-4)
    assert is_fast(handle)
    for _ in range(2):
        torch.testing.assert_close(run(pipe), expected[1], rtol=1e-4, atol=1e-4)


def compile_blocks(pipe):
    pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)


def compile_model(pipe):
    pipe.transformer.compile(backend="eager")


def wrap_model(pipe):
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("compiles", [compile_blocks, compile_model, wrap_model])
def test_compiled_by_others(expected, compiles, ours_first):
    pipe = build()
    if ours_first:
        handle = genaccel.enable(pipe, SODA)
    compiles(pipe)
    if not ours_first:
        torch.testing.assert_close(run(pipe), expected[0], rtol=1e-4, atol=1e-4)
        handle = genaccel.enable(pipe, SODA)
    assert_as_expected(pipe, handle, expected)
    handle.disable()
    torch.testing.assert_close(run(pipe), expected[0], rtol=1e-4, atol=1e-4)


def test_compiled_by_the_handle(expected):
    pipe = build()
    handle = genaccel.enable(pipe, SODA)
    handle.compile(backend="eager", fullgraph=True)
    assert_as_expected(pipe, handle, expected)
    handle.disable()
    assert torch.equal(run(pipe), expected[0])


@pytest.mark.parametrize("ours_first", [True, False])
def test_many_compiled_blocks_share_their_graphs(ours_first):
    pipe = build(blocks=12)
    if ours_first:
        handle = genaccel.enable(pipe, SODA)
    compile_blocks(pipe)
    plain = run(pipe)
    if not ours_first:
        handle = genaccel.enable(pipe, SODA)
        assert torch.equal(run(pipe), plain)
    for _ in range(3):
        assert torch.isfinite(run(pipe)).all()
    assert is_fast(handle)
    # One for each class of block, in eager and in inference mode.
    assert counters["stats"]["unique_graphs"] <= 8
    with handle.paused():
        torch.testing.assert_close(run(pipe), plain, rtol=1e-4, atol=1e-4)
    handle.disable()
    torch.testing.assert_close(run(pipe), plain, rtol=1e-4, atol=1e-4)
    assert report(handle).flop_ratio > 1.5
