# SPDX-License-Identifier: Apache-2.0
"""FLOPs are those of the products that a model is made of, wherever it runs and whatever computes its attention."""

import contextlib
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from handmade_models import build, inputs
from tiny_transformers import TINY_TRANSFORMERS, call

from genaccel.hooks.attention_flops import attention_flops
from genaccel.hooks.flop_count import FlopCount


@pytest.mark.parametrize("name", ["DiTTransformer2DModel", "SanaTransformer2DModel"])
def test_a_model_has_the_flops_of_its_plain_products(name):
    tiny = TINY_TRANSFORMERS[name]
    model, given = tiny.build(), tiny.inputs(0.3)
    with FlopCount() as count:
        call(model, given)
    # With attention as plain products torch's counter knows all of them, in every version.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as expected:
        call(model, given)
    assert count.total == expected.get_total_flops() > 0


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
def test_the_gradient_mode_does_not_matter(mode):
    model = build()
    with mode(), FlopCount() as count:
        model(*inputs(0))
    assert count.total == 5 * 2 * 4 * 8 * 8


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_counts_both_of_its_products(mode, backend):
    query, key, value = (torch.randn(3, 2, n, 8) for n in (5, 7, 7))
    with mode(), sdpa_kernel(backend), FlopCount() as count:
        torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert count.total == 2 * (2 * 3 * 2 * 5 * 7 * 8)


def test_heads_that_share_key_and_value_count_each():
    query, key = torch.randn(1, 6, 5, 8), torch.randn(1, 2, 5, 8)
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with torch.no_grad(), sdpa_kernel(backend), FlopCount() as count:
            torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True)
        assert count.total == 2 * (2 * 6 * 5 * 5 * 8)


@pytest.mark.parametrize(("backend", "products"), [("MATH", 4), ("FLASH_ATTENTION", 5)])
def test_gradients_of_attention_count(backend, products):
    """Two for each product of the forward pass; a kernel that keeps no scores computes them again."""
    query, key, value = (torch.randn(1, 2, n, 8, requires_grad=True) for n in (5, 7, 7))
    with sdpa_kernel(getattr(SDPBackend, backend)):
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        with FlopCount() as count:
            output.sum().backward()
    assert count.total == products * (2 * 2 * 5 * 7 * 8)


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


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("fused", [False, True])
def test_torchs_own_layers_count_whether_fused_or_not(mode, fused):
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    layer = torch.nn.TransformerEncoderLayer(16, 2, 24, batch_first=True).eval()
    x = torch.randn(3, 5, 16)
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fused)
    try:
        with mode(), FlopCount() as count:
            attention(x, x, x, need_weights=False)
        alone = count.total
        with mode(), FlopCount() as count:
            layer(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
    expected = 2 * 3 * (4 * 5 * 16 * 16 + 2 * 5 * 5 * 16)
    assert alone == expected
    assert count.total == expected + 2 * 3 * 5 * 2 * 16 * 24


def kernels():
    """Schemas of this torch's attention kernels, by name; the first of the overloads."""
    found = {}
    for schema in torch._C._jit_get_all_schemas():
        names = {argument.name for argument in schema.arguments}
        if re.match("aten::_.*attention", schema.name) and names >= {"query", "key", "value"}:
            found.setdefault(schema.name, schema)
    # Made of other operators, which are counted instead.
    del found["aten::_scaled_dot_product_attention_math"]
    return found


def test_every_kernel_of_this_torch_is_counted_by_the_names_of_its_arguments():
    """Of whatever device: one that is not here has no kernel to call, but it has a schema."""
    batch, heads, queries, keys, channels, value_channels, width = 3, 4, 5, 7, 8, 6, 16
    found = kernels()
    assert len(found) >= 14
    for name, schema in found.items():
        whole_layer = "embed_dim" in {argument.name for argument in schema.arguments}
        swap = name.startswith(("aten::_flash", "aten::_efficient"))
        sizes = {"query": (queries, channels), "key": (keys, channels)}
        sizes |= {"value": (keys, value_channels), "grad_out": (queries, value_channels)}
        given = {"embed_dim": width, "num_head": heads}
        for argument, (tokens, size) in sizes.items():
            x = torch.empty(batch, heads, tokens, size)
            if whole_layer:
                x = torch.empty(batch, tokens, width)
            given[argument] = x.transpose(1, 2) if swap else x
        arguments = [given.get(a.name.removesuffix("_")) for a in schema.arguments]
        scores = 2 * batch * heads * queries * keys
        expected = scores * (channels + value_channels)
        if "backward" in name:
            expected = scores * (3 * channels + 2 * value_channels)
        if whole_layer:
            expected = 2 * batch * width * (2 * queries * keys + width * (2 * queries + 2 * keys))
        assert attention_flops(name, arguments) == expected, name


def test_packed_sequences_count_by_their_lengths():
    """As nested tensors call the kernels: ``[sum of N, H, D]`` and where each begins."""
    starts, lengths = torch.tensor([0, 3, 8]), (3, 5)
    x = torch.empty(8, 2, 4)
    expected = sum(2 * 2 * n * n * 8 for n in lengths)
    packed = [name for name, s in kernels().items() if "cum_seq_q" in {a.name for a in s.arguments}]
    packed = [name for name in packed if name.startswith(("aten::_flash", "aten::_cudnn"))]
    assert len(packed) >= 4
    for name in packed:
        given = {"query": x, "key": x, "value": x, "cum_seq_q": starts, "cum_seq_k": starts}
        arguments = [given.get(a.name) for a in kernels()[name].arguments]
        found = attention_flops(name, arguments)
        assert found == (expected * 5 // 2 if "backward" in name else expected), name


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


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_padded_batch_that_torch_nests_counts_its_tokens():
    layer = torch.nn.TransformerEncoderLayer(16, 2, 24, batch_first=True).eval()
    encoder = torch.nn.TransformerEncoder(layer, 1)
    padding = torch.tensor([[False] * 3 + [True] * 2, [False] * 5])
    with torch.no_grad(), FlopCount() as count:
        encoder(torch.randn(2, 5, 16), src_key_padding_mask=padding)
    tokens = 16 * (4 * 16 + 2 * 24)
    assert count.total == sum(2 * n * (tokens + 2 * n * 16) for n in (3, 5))
