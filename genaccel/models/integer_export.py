# SPDX-License-Identifier: Apache-2.0
"""Makes the integer entropy model of a trained one: the only place where its numbers are computed in floating point.

Gains of norms are folded into the weights that follow, weights are rounded to int8 with a scale per output, and all
scales become integer multipliers, shifts and tables. What is stored is integers, so a model computes the same
wherever it is loaded; exporting the same model elsewhere may well give another one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genaccel.models.integer_entropy_model import (
    SEED_BITS,
    SEED_TAPS,
    IntegerBlock,
    IntegerBlockParams,
    IntegerEntropyModel,
    IntegerEntropyParams,
    IntegerLinear,
)
from genaccel.models.masked_entropy_model import Block, MaskedEntropyModel
from genaccel.models.quantization_aware import (
    BlockScales,
    ModelScales,
    QuantizationAwareEntropyModel,
    head_scales,
    norm_epsilon,
    weight_scale,
)
from genaccel.ops.integer import GAIN_BITS, MAX_SHIFT, MIN_SHIFT, TEMPERATURE_BITS, UNIT

_RESIDUAL_BITS = 20  # of the largest calibrated value: 11 bits of headroom
_MOST_FRACTION_BITS = 10  # of logits: 7e-4 nats
_MOST_GATE_BITS = 30
_COARSER = 2.01  # than the products of a linear layer, so that its scale is below 1/2


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    limits = torch.iinfo(dtype)
    return x.double().round().clamp(limits.min, limits.max).to(dtype)


def _quantize_weight(weight: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor]:
    """int8 ``[O, I]`` and float64 scales ``[O]``."""
    folded = (weight if gain is None else weight * gain).detach()
    scale = weight_scale(folded)
    return _rounded(folded / scale, torch.int8).clamp(min=-127), scale[:, 0].double()


def _fill(layer: IntegerLinear, weight: Tensor, ratio: Tensor) -> int:
    """Set the weights and, for outputs in units of ``1 / ratio`` products, multipliers; returns the shift.

    Raises:
        ValueError: If a ratio is not below 1/2.
    """
    largest = max(float(ratio.max()), 2.0**-80)
    shift = min(MAX_SHIFT, math.floor(math.log2((2**31 - 1) / largest)))
    if shift < MIN_SHIFT:
        raise ValueError(f"a scale of {largest} is too large: it must be below 1/2")
    layer.weight.copy_(weight)
    layer.multiplier.copy_(_rounded(ratio * 2.0**shift, torch.int32))
    return shift


def _largest_output(layer: IntegerLinear, shift: int) -> int:
    """Bound of the magnitude of a layer's outputs, whatever its input."""
    sums = layer.weight.long().abs().sum(dim=1) * 128
    return int((sums * layer.multiplier.long() >> shift).max()) + 1


def _gate_table(scales: BlockScales) -> tuple[Tensor, int]:
    """int16 ``[256]``: the activation of each gate in units of the product, and how far that is shifted."""
    gates = torch.arange(-128, 128, dtype=torch.float64) * scales.gate
    exact = torch.nn.functional.silu(gates) * (scales.gate_value / scales.gated)
    shift = math.floor(math.log2(32767 / max(float(exact.abs().max()), 2.0**-14)))
    shift = min(_MOST_GATE_BITS, shift)
    if shift < 1:
        raise ValueError(f"gates of up to {float(exact.abs().max())} units do not fit 16 bits")
    return _rounded(exact * 2.0**shift, torch.int16), shift


def _fill_block(
    target: IntegerBlock, block: Block, scales: BlockScales, residual: float
) -> tuple[IntegerBlockParams, int]:
    """Set the tensors of a block; returns its numbers, and how far it can move the residual stream."""
    attention, network = block.attention, block.feed_forward
    width = attention.wo.weight.shape[0]
    weight, unit = _quantize_weight(attention.wqkv.weight, block.attention_norm.weight)
    unit = unit * scales.attention_input
    pair, value = 2 * width, scales.value
    # Only their direction counts: any unit will do that is no finer than the products'.
    query_key = max(scales.query_key, _COARSER * float(unit[:pair].max()))
    query_key_shift = _fill(target.query_key, weight[:pair], unit[:pair] / query_key)
    value_shift = _fill(target.value, weight[pair:], unit[pair:] / value)
    octaves = head_scales(block).double() / math.log(2) / UNIT**2
    target.temperature.copy_(_rounded(octaves * 2.0**TEMPERATURE_BITS, torch.int32))
    weight, unit = _quantize_weight(attention.wo.weight, None)
    projection = unit * (scales.attention_output / residual)
    projection_shift = _fill(target.projection, weight, projection)

    gain = block.ffn_norm.weight
    gates, gate_unit = _quantize_weight(network.w1.weight, gain)
    values, value_unit = _quantize_weight(network.w3.weight, gain)
    ratios = torch.cat([gate_unit / scales.gate, value_unit / scales.gate_value])
    expansion_shift = _fill(
        target.expansion, torch.cat([gates, values]), ratios * scales.feed_forward_input
    )
    table, gate_shift = _gate_table(scales)
    target.gate_table.copy_(table)
    weight, unit = _quantize_weight(network.w2.weight, None)
    contraction_shift = _fill(target.contraction, weight, unit * (scales.gated / residual))

    params = IntegerBlockParams(
        attention_gain=round(width**0.5 / scales.attention_input),
        query_key_shift=query_key_shift,
        value_shift=value_shift,
        average_gain=round(value / scales.attention_output * 2**GAIN_BITS),
        projection_shift=projection_shift,
        feed_forward_gain=round(width**0.5 / scales.feed_forward_input),
        expansion_shift=expansion_shift,
        gate_shift=gate_shift,
        contraction_shift=contraction_shift,
    )
    reach = _largest_output(target.projection, projection_shift)
    return params, reach + _largest_output(target.contraction, contraction_shift)


def _fill_seeds(target: IntegerEntropyModel, model: MaskedEntropyModel) -> int:
    """Set the up-samplings; returns the largest sum of magnitudes of weights."""
    most = 1 << SEED_BITS
    for scale in range(1, model.params.num_scales):
        matrix = model.get_buffer(f"seed_matrix_{scale}").double()  # [n, tokens before]
        weights = _rounded(matrix * 2**SEED_BITS, torch.int32)
        # Each row sums to one exactly, for the bias of the projection passes through it.
        rows = torch.arange(len(weights))
        weights[rows, weights.argmax(dim=1)] += (1 << SEED_BITS) - weights.sum(dim=1).int()
        count = min(SEED_TAPS, weights.shape[1])
        taps = weights.abs().argsort(dim=1, descending=True, stable=True)[:, :count]
        chosen = weights.gather(1, taps)
        assert torch.equal(chosen.sum(dim=1), weights.sum(dim=1)), "bicubic has 16 taps"
        target.get_buffer(f"seed_taps_{scale}")[:, :count] = taps
        target.get_buffer(f"seed_weights_{scale}")[:, :count] = chosen.short()
        most = max(most, int(chosen.abs().sum(dim=1).max()))
    return most


def _residual_unit(model: MaskedEntropyModel, scales: ModelScales) -> float:
    """Unit of the residual stream: fine, but such that all that is added has a scale below 1/2."""
    unit = scales.largest_residual / 2**_RESIDUAL_BITS
    for block, block_scales in zip(model.transformer.layers, scales.blocks, strict=True):
        assert isinstance(block, Block)
        for weight, scale in (
            (block.attention.wo.weight, block_scales.attention_output),
            (block.feed_forward.w2.weight, block_scales.gated),
        ):
            unit = max(unit, _COARSER * scale * float(weight_scale(weight).max()))
    return unit


@torch.no_grad()
def integer_model_of(aware: QuantizationAwareEntropyModel, codebook: Tensor) -> IntegerEntropyModel:
    """The integer form of a model that was calibrated, and maybe trained, for it.

    Args:
        aware: The model, on the CPU, in fp32 or fp64.
        codebook: Code words ``[K, C]``, as the model gets them.

    Returns:
        A model in evaluation mode.

    Raises:
        ValueError: If the codebook does not fit, or a scale is out of what integers can hold.
    """
    model, scales = aware.model, aware.scales
    params = model.params
    if codebook.shape != (params.codebook_size, params.codebook_dim):
        raise ValueError(
            f"codebook must have shape {(params.codebook_size, params.codebook_dim)}, "
            f"got {tuple(codebook.shape)}"
        )
    residual = _residual_unit(model, scales)
    empty = IntegerEntropyParams(entropy=params, blocks=(IntegerBlockParams(),) * params.layers)
    target = IntegerEntropyModel(empty)
    embedded = model.input_proj(codebook.to(model.start_token.dtype))
    target.embedding.copy_(_rounded(embedded / residual, torch.int32))
    target.start_token.copy_(_rounded(model.start_token.flatten() / residual, torch.int32))
    target.rotations.copy_(_rounded(model.rotations * 32767, torch.int16))
    seed_gain = _fill_seeds(target, model)
    reach = int(target.embedding.abs().max()) * seed_gain >> SEED_BITS
    reach = max(reach, int(target.start_token.abs().max())) + 1
    blocks = []
    for block, integer_block, block_scales in zip(
        model.transformer.layers, target.blocks, scales.blocks, strict=True
    ):
        assert isinstance(block, Block)
        assert isinstance(integer_block, IntegerBlock)
        block_params, moved = _fill_block(integer_block, block, block_scales, residual)
        blocks.append(block_params)
        reach += moved
    if reach >= 2**31:
        raise ValueError(
            f"the residual stream may reach {reach} units of {residual}, more than 32 bits hold"
        )

    norm = model.transformer.norm
    weight, unit = _quantize_weight(model.transformer.output.weight, norm.weight)
    octaves = unit * (scales.output_input / math.log(2))
    # Logits as fine as the scale below 1/2 of a linear layer allows.
    room = math.floor(-math.log2(max(_COARSER * float(octaves.max()), 2.0**-40)))
    fraction_bits = max(0, min(_MOST_FRACTION_BITS, room))
    output_shift = _fill(target.output, weight, octaves * 2.0**fraction_bits)
    final = IntegerEntropyParams(
        entropy=params,
        blocks=tuple(blocks),
        epsilon=round(norm_epsilon(norm) * params.width / residual**2),
        output_gain=round(params.width**0.5 / scales.output_input),
        output_shift=output_shift,
        fraction_bits=fraction_bits,
    )
    result = IntegerEntropyModel(final)
    result.load_state_dict(target.state_dict())
    return result.eval()


def quantize(model: MaskedEntropyModel, codebook: Tensor, indices: Tensor) -> IntegerEntropyModel:
    """The integer form of a model trained in floating point, without further training.

    Args:
        model: The model, on the CPU, in evaluation mode.
        codebook: Code words ``[K, C]``, as the model gets them.
        indices: int64 ``[B, L]`` of typical windows, flattened: they set the scales of the activations.

    Returns:
        A model in evaluation mode.

    Raises:
        ValueError: If a shape does not fit, or a scale is out of what integers can hold.
    """
    aware = QuantizationAwareEntropyModel(model, codebook[indices])
    return integer_model_of(aware.eval(), codebook)
