# SPDX-License-Identifier: Apache-2.0
"""FLOPs are counted as torch's own counter counts them, wherever the model runs."""

import contextlib
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from handmade_models import build, inputs
from tiny_transformers import TINY_TRANSFORMERS, call

from genaccel.hooks.flop_count import FlopCount


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "SanaTransformer2DModel"])
def test_a_model_has_the_flops_that_torch_says(name):
    tiny = TINY_TRANSFORMERS[name]
    model, given = tiny.build(), tiny.inputs(0.3)
    with FlopCount() as count:
        call(model, given)
    with FlopCounterMode(display=False) as expected:
        call(model, given)
    assert count.total == expected.get_total_flops() > 0


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
def test_the_gradient_mode_does_not_matter(mode):
    model = build()
    with mode(), FlopCount() as count:
        model(*inputs(0))
    assert count.total == 5 * 2 * 4 * 8 * 8


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_attention_counts_both_of_its_products(mode):
    x = torch.randn(1, 2, 5, 4)
    with mode(), FlopCount() as count:
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
    assert count.total == 2 * (2 * 2 * 5 * 5 * 4)


# PyTorch says, once, that it is slow when it is not compiled.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_counts_like_any_other():
    x = torch.randn(1, 2, 16, 16)
    with (
        torch.compiler.set_stance("force_eager"),
        torch.no_grad(),
        FlopCount() as count,
    ):
        flex_attention(x, x, x)
    assert count.total == 2 * (2 * 2 * 16 * 16 * 16)


def test_what_is_outside_of_the_with_is_not_counted():
    x = torch.ones(4, 4)
    with FlopCount() as count:
        x @ x
    x @ x
    assert count.total == 128


def test_counters_within_each_other_count_the_same():
    x = torch.ones(4, 4)
    with FlopCount() as outer, FlopCount() as inner:
        x @ x
    assert (outer.total, inner.total) == (128, 128)
