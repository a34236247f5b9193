# SPDX-License-Identifier: Apache-2.0
"""The masked entropy model as its integer form will compute it, in floating point and differentiable.

Weights and activations are rounded to the grids that :mod:`genaccel.models.integer_export` gives them, with
straight-through gradients (arXiv 1308.3432), so that training adapts to the rounding (arXiv 1712.05877).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from genaccel.layers.rotary_position import rotate_pairs
from genaccel.models.masked_entropy_model import Block, MaskedEntropyModel
from genaccel.ops.integer import GAIN_BITS, MAX_ATTENTION_GAIN, MAX_GAIN, UNIT

_INT8 = 127  # grids are symmetric
_INT16_TARGET = 8000  # largest calibrated query or key channel: a factor 4 below saturation
_SAMPLES = 65536  # of each activation, per calibrated batch
# Fractions of the largest activation at which clipping is tried.
_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


@dataclass(kw_only=True, slots=True)
class BlockScales:
    """Step of the integer grid of each activation of a block: the value of one integer unit.

    Attributes:
        attention_input: int8, rows of root mean square 1.
        query_key: int16, before rotation and normalisation.
        value: int8.
        attention_output: int8.
        feed_forward_input: int8, rows of root mean square 1.
        gate: int8, before the activation.
        gate_value: int8.
        gated: int8, the product.
    """

    attention_input: float = 1.0
    query_key: float = 1.0
    value: float = 1.0
    attention_output: float = 1.0
    feed_forward_input: float = 1.0
    gate: float = 1.0
    gate_value: float = 1.0
    gated: float = 1.0


@dataclass(kw_only=True, slots=True)
class ModelScales:
    """Step of the integer grid of each activation of the model: the value of one integer unit.

    Attributes:
        blocks: One entry per block.
        output_input: int8, rows of root mean square 1.
        largest_residual: Largest magnitude in the residual stream, in its own unit.
    """

    blocks: list[BlockScales]
    output_input: float = 1.0
    largest_residual: float = 1.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelScales:
        """Build from what ``dataclasses.asdict`` makes of one.

        Raises:
            ValueError: For unknown or missing names, or steps that are not finite and above 0.
        """
        try:
            blocks = [BlockScales(**block) for block in values["blocks"]]
            made = cls(**{**values, "blocks": blocks})
        except (TypeError, KeyError) as error:
            raise ValueError(f"scales of activations do not fit: {error}") from error
        steps = [made.output_input, made.largest_residual]
        steps += [step for block in blocks for step in asdict(block).values()]
        if not all(type(step) in (int, float) and 0 < step < math.inf for step in steps):
            raise ValueError("scales of activations must be finite and above 0")
        return made


def best_scale(samples: Tensor) -> float:
    """Scale of an int8 grid for these values, of several clippings the one of least squared error.

    Example:
        >>> best_scale(torch.tensor([-127.0, 0.0, 64.0]))
        1.0
    """
    largest = float(samples.abs().max())
    if largest == 0:
        return 1.0
    scales = [clip * largest / _INT8 for clip in _CLIPS]
    errors = [float((on_grid(samples, scale) - samples).square().mean()) for scale in scales]
    return scales[errors.index(min(errors))]


def on_grid(x: Tensor, scale: float | Tensor, lowest: int = -128) -> Tensor:
    """Values rounded to multiples of ``scale`` and clipped to int8; what is clipped has no gradient.

    Example:
        >>> on_grid(torch.tensor([0.26, 0.5, 90.0]), 0.5)
        tensor([ 0.5000,  0.5000, 63.5000])
    """
    units = (x / scale).clamp(lowest, _INT8)
    return (units + (torch.floor(units.detach() + 0.5) - units.detach())) * scale


def weight_scale(weight: Tensor) -> Tensor:
    """Scale ``[O, 1]`` of the int8 grid of each output's weights ``[O, I]``."""
    tiny = torch.finfo(weight.dtype).tiny
    return weight.detach().abs().amax(dim=1, keepdim=True).clamp(min=tiny) / _INT8


def unit_rms(x: Tensor, epsilon: float) -> Tensor:
    """Rows of root mean square 1."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + epsilon)


def norm_epsilon(norm: nn.Module) -> float:
    """The epsilon of an RMS norm, which must have been given one."""
    assert isinstance(norm, nn.RMSNorm)
    assert norm.eps is not None
    return norm.eps


class QuantizationAwareEntropyModel(nn.Module):
    """Logits as the integer model will give them, but for rounding noise far below its steps.

    Training this module trains the wrapped model, whose parameters it shares; export that one afterwards.

    Args:
        model: Trained in floating point.
        calibration: Code vectors ``[B, L, C]`` of some windows, to choose the grids of the activations; or the
            grids, where they are known.

    Example:
        >>> from genaccel.models.masked_entropy_model import PRESETS
        >>> codes = functional.normalize(torch.randn(1, 336, 8), dim=2)
        >>> model = QuantizationAwareEntropyModel(MaskedEntropyModel(PRESETS["small"]).eval(), codes)
        >>> model(codes).shape
        torch.Size([1, 336, 1024])
    """

    def __init__(self, model: MaskedEntropyModel, calibration: Tensor | ModelScales) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)
        self._samples: dict[tuple[int, str], Tensor] | None = None
        if isinstance(calibration, ModelScales):
            self.scales = calibration
        else:
            self.calibrate(calibration)

    @contextmanager
    def _observing(self) -> Iterator[dict[tuple[int, str], Tensor]]:
        self._samples = {}
        training = self.training
        self.eval()
        try:
            yield self._samples
        finally:
            self._samples = None
            self.train(training)

    @torch.no_grad()
    def calibrate(self, codes: Tensor) -> None:
        """Choose the grids of the activations anew.

        Args:
            codes: Code vectors ``[B, L, C]`` of some windows.
        """
        blocks = [BlockScales() for _ in self.model.transformer.layers]
        with self._observing() as samples:
            self.scales = ModelScales(blocks=blocks)
            self(codes)
        for (number, name), values in samples.items():
            if name == "query_key":
                blocks[number].query_key = max(float(values.abs().max()), 1e-30) / _INT16_TARGET
            elif name == "residual":
                self.scales.largest_residual = max(
                    self.scales.largest_residual, float(values.abs().max())
                )
            elif name == "output_input":
                self.scales.output_input = self._norm_scale(values)
            elif name in ("attention_input", "feed_forward_input"):
                setattr(blocks[number], name, self._norm_scale(values))
            else:
                setattr(blocks[number], name, best_scale(values))
        for block in blocks:
            # The integer model knows only the ratio, in 8 fraction bits.
            gain = round(block.value / block.attention_output * 2**GAIN_BITS)
            gain = min(max(gain, 1), MAX_ATTENTION_GAIN)
            block.attention_output = block.value / gain * 2**GAIN_BITS

    def _norm_scale(self, values: Tensor) -> float:
        """A scale whose inverse, times the root of the width, is an integer."""
        root: float = self.model.params.width**0.5
        return root / min(max(round(root / best_scale(values)), 1), MAX_GAIN)

    def _at(self, number: int, name: str, x: Tensor) -> Tensor:
        """Round an activation to its grid; while calibrating it stays as it is, and is remembered."""
        if self._samples is None:
            holder: Any = self.scales if name == "output_input" else self.scales.blocks[number]
            return on_grid(x, getattr(holder, name))
        self._remember(number, name, x)
        return x

    def _remember(self, number: int, name: str, x: Tensor) -> None:
        if self._samples is not None:
            values = x.flatten().float()
            if name not in ("query_key", "residual"):
                stride = -(-len(values) // _SAMPLES)
                values = torch.cat([values[::stride], values.abs().amax()[None]])
            self._samples[number, name] = values

    def _linear(self, x: Tensor, weight: Tensor, gain: Tensor | None = None) -> Tensor:
        folded = weight if gain is None else weight * gain
        if self._samples is not None:
            return functional.linear(x, folded)
        # No weight is clipped, so the gradient is that of the weight; through the grid's units it would vanish
        # where all weights of an output are zero, as those of the output layer are to begin with.
        exact = folded.detach()
        rounded = on_grid(exact, weight_scale(exact), lowest=-_INT8)
        return functional.linear(x, folded + (rounded - exact))

    def _attention(self, number: int, block: Block, x: Tensor) -> Tensor:
        model, attention = self.model, block.attention
        batch, tokens, width = x.shape
        normed = unit_rms(x, norm_epsilon(block.attention_norm))
        normed = self._at(number, "attention_input", normed)
        projected = self._linear(normed, attention.wqkv.weight, block.attention_norm.weight)
        heads = projected.view(batch, tokens, 3, attention.heads, width // attention.heads)
        self._remember(number, "query_key", heads[:, :, :2])
        turned = rotate_pairs(heads[:, :, :2].permute(2, 0, 3, 1, 4), model.rotations)
        unit = functional.normalize(turned, dim=-1)  # [2, B, H, L, D]
        if self._samples is None:
            unit = on_grid(unit, 1 / UNIT)
        value = self._at(number, "value", heads[:, :, 2]).transpose(1, 2)
        scale = head_scales(block).view(-1, 1, 1)
        mixed = functional.scaled_dot_product_attention(
            unit[0] * scale, unit[1], value, attn_mask=model.mask, scale=1.0
        )
        mixed = self._at(number, "attention_output", mixed.transpose(1, 2).flatten(2))
        return self._linear(mixed, attention.wo.weight)

    def _feed_forward(self, number: int, block: Block, x: Tensor) -> Tensor:
        network, norm = block.feed_forward, block.ffn_norm
        normed = unit_rms(x, norm_epsilon(norm))
        normed = self._at(number, "feed_forward_input", normed)
        gate = self._at(number, "gate", self._linear(normed, network.w1.weight, norm.weight))
        value = self._linear(normed, network.w3.weight, norm.weight)
        value = self._at(number, "gate_value", value)
        gated = self._at(number, "gated", functional.silu(gate) * value)
        return self._linear(gated, network.w2.weight)

    def forward(self, codes: Tensor) -> Tensor:
        """Logits of all tokens in one pass, as ``MaskedEntropyModel.forward``.

        Args:
            codes: Code vectors ``[B, L, C]``.

        Returns:
            ``[B, L, K]``; differentiable with respect to the code vectors and all parameters.
        """
        # Half precision is coarser than some of the grids: autocast ends here.
        with torch.autocast(codes.device.type, enabled=False):
            return self._logits(codes.to(self.model.start_token.dtype))

    def _logits(self, codes: Tensor) -> Tensor:
        model = self.model
        probability = model.params.dropout if self.training else 0.0
        x = functional.dropout(model.queries(codes), probability)
        for number, block in enumerate(model.transformer.layers):
            assert isinstance(block, Block)
            self._remember(2 * number, "residual", x)
            x = x + functional.dropout(self._attention(number, block, x), probability)
            self._remember(2 * number + 1, "residual", x)
            x = x + functional.dropout(self._feed_forward(number, block, x), probability)
        self._remember(-1, "residual", x)
        norm = model.transformer.norm
        normed = unit_rms(x[:, model.from_slice], norm_epsilon(norm))
        normed = self._at(0, "output_input", normed)
        return self._linear(normed, model.transformer.output.weight, norm.weight)


def head_scales(block: Block) -> Tensor:
    """Factor of ``<q, k>`` of unit vectors in each head, ``[H]``."""
    return block.attention.scale_mul_1H11.flatten().clamp(max=math.log(100)).exp()
