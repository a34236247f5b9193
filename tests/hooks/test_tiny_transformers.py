# SPDX-License-Identifier: Apache-2.0
"""The table of toy transformers covers diffusers and its models run, repeat themselves and see the step."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from tiny_transformers import (
    SKIPPED,
    TINY_TRANSFORMERS,
    TinyTransformer,
    call,
    transformer_classes,
)

every_transformer = pytest.mark.parametrize(
    "tiny", TINY_TRANSFORMERS.values(), ids=TINY_TRANSFORMERS.keys()
)


def same(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def block_lists(model):
    """The lists of alike modules, with parameters, that a model holds itself."""
    for child in model.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1 and list(child.parameters()):
            yield child


def test_the_table_and_the_skipped_are_all_of_diffusers():
    listed = [*TINY_TRANSFORMERS, *SKIPPED]
    assert sorted(listed) == sorted(transformer_classes())


@every_transformer
def test_runs_and_sees_the_step(tiny: TinyTransformer):
    model = tiny.build()
    first = call(model, tiny.inputs(step=0.3))
    assert first
    assert all(part.isfinite().all() for part in first)
    assert same(first, call(model, tiny.inputs(step=0.3)))
    assert same(list(model.parameters()), list(tiny.build().parameters()))
    for now, then in zip(first, call(model, tiny.inputs(step=0.4)), strict=True):
        assert not torch.equal(now, then)
    assert not same(first, call(model, tiny.inputs(step=0.3, seed=1)))


@every_transformer
def test_every_block_reaches_the_output(tiny: TinyTransformer):
    model = tiny.build()
    before = call(model, tiny.inputs(step=0.3))
    generator = torch.Generator().manual_seed(0)
    for blocks in block_lists(model):
        for block in blocks:
            kept = [parameter.detach().clone() for parameter in block.parameters()]
            with torch.no_grad():
                for parameter in block.parameters():
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
            assert not same(before, call(model, tiny.inputs(step=0.3)))
            with torch.no_grad():
                for parameter, value in zip(block.parameters(), kept, strict=True):
                    parameter.copy_(value)
    assert same(before, call(model, tiny.inputs(step=0.3)))
