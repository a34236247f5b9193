# SPDX-License-Identifier: Apache-2.0
"""Autoencoder and entropy model as one network, with the relaxed rate that trains both (RDVQ, arXiv 2604.10546).

    image -> features -> nearest code words -> decoder -> reconstruction
                 |              `-> windows -> entropy model -> logits
                 `---- relaxed assignment, the target ----> cross-entropy = rate

The rate reaches the encoder by two paths: through the target, where a feature moves towards code words that are
cheap, and through the context, by the straight-through gradient of the code words that the entropy model reads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from genaccel import ops
from genaccel.codec.coding.window_grid import PADDING_INDEX, WindowGrid
from genaccel.models.autoencoder import Autoencoder, AutoencoderOutput, AutoencoderParams
from genaccel.models.masked_entropy_model import (
    PRESETS,
    MaskedEntropyModel,
    MaskedEntropyParams,
    code_length_bits,
)
from genaccel.models.quantization_aware import ModelScales, QuantizationAwareEntropyModel


class Rate(NamedTuple):
    """Bits of a batch, over all images; tokens of the padding are not counted."""

    bits: Tensor  # scalar, differentiable: relaxed, or hard where there is no temperature
    hard_bits: Tensor  # scalar: what an ideal coder spends on the indices
    tokens: int  # that were coded


class RateDistortionOutput(NamedTuple):
    """One forward pass."""

    autoencoder: AutoencoderOutput | None  # None if nothing was reconstructed
    rate: Rate


def entropy_params(preset: str, autoencoder: AutoencoderParams) -> MaskedEntropyParams:
    """A preset of the entropy model with the codebook and the scales of an autoencoder.

    Raises:
        ValueError: For an unknown preset, or strides that do not double from scale to scale.
    """
    if preset not in PRESETS:
        raise ValueError(f"entropy model must be one of {sorted(PRESETS)}, got {preset!r}")
    return dataclasses.replace(
        PRESETS[preset],
        codebook_size=autoencoder.codebook_size,
        codebook_dim=autoencoder.codebook_dim,
        num_scales=len(autoencoder.strides),
    )


def window_grid(entropy_model: MaskedEntropyModel, maps: Sequence[Tensor]) -> WindowGrid:
    """How maps ``[..., h, w]``, coarse to fine, are cut for an entropy model."""
    return WindowGrid(
        map_shapes=tuple((m.shape[-2], m.shape[-1]) for m in maps),
        grid_sides=entropy_model.slice_order.grid_sides,
    )


class RateDistortionModel(nn.Module):
    """The two networks and the rate between them.

    The codebook gets no gradient: it is frozen once an entropy model is trained on it (section 1.6 of the
    training recipe: both later stages).

    Args:
        autoencoder: Whose indices are coded.
        entropy_model: Predicts them.

    Attributes:
        scales: Grids of the entropy model's activations, set by :meth:`calibrate`. With them the rate is that of its
            integer form, and what learns from it learns for the rounding; with None nothing is rounded.

    Raises:
        ValueError: If codebooks or numbers of scales differ.
    """

    def __init__(self, autoencoder: Autoencoder, entropy_model: MaskedEntropyModel) -> None:
        super().__init__()
        ours, theirs = autoencoder.params, entropy_model.params
        expected = (ours.codebook_size, ours.codebook_dim, len(ours.strides))
        got = (theirs.codebook_size, theirs.codebook_dim, theirs.num_scales)
        if got != expected:
            raise ValueError(
                "entropy_model must have the autoencoder's codebook size, codebook dimension and number of "
                f"scales {expected}, got {got}"
            )
        self.autoencoder = autoencoder
        self.entropy_model = entropy_model
        self.scales: ModelScales | None = None
        autoencoder.quantize.embedding.requires_grad_(False)

    def forward(
        self, x: Tensor, *, temperature: float | None, reconstruct: bool = True
    ) -> RateDistortionOutput:
        """Reconstruction and rate of images.

        Args:
            x: ``[B, 3, H, W]`` in [-1, 1]; H and W multiples of the autoencoder's alignment.
            temperature: Of the relaxed rate; None for hard targets.
            reconstruct: Without, the decoder does not run, and the autoencoder gets no gradient.
        """
        if reconstruct:
            output = self.autoencoder(x)
            return RateDistortionOutput(
                output, self.rate(output.features, output.code_vectors, temperature=temperature)
            )
        with torch.no_grad():
            features = self.autoencoder.features(x)
            code_vectors = [self.autoencoder.quantize(feature).values for feature in features]
        return RateDistortionOutput(
            None, self.rate(features, code_vectors, temperature=temperature)
        )

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Choose the grids of the entropy model's activations for images ``[B, 3, H, W]``, as of :meth:`forward`."""
        features = self.autoencoder.features(x)
        values = [self.autoencoder.quantize(feature).values for feature in features]
        _, windows = self._windows(values)
        self.scales = QuantizationAwareEntropyModel(self.entropy_model, windows).scales

    def logits(self, windows: Tensor) -> Tensor:
        """Logits ``[B, L, K]`` for code vectors ``[B, L, C]`` of windows, as the rate is computed with."""
        if self.scales is None:
            predicted: Tensor = self.entropy_model(windows)
            return predicted
        # Made anew, and no child: the state of this module would hold all parameters twice.
        aware: Tensor = QuantizationAwareEntropyModel(self.entropy_model, self.scales)(windows)
        return aware

    def _windows(self, code_vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Which tokens are coded, bool ``[B * windows, L]``, and the windows ``[B * windows, L, C]`` of code words."""
        grid = window_grid(self.entropy_model, code_vectors)
        windows = grid.cut(code_vectors)
        coded = ~grid.padded().to(windows.device)  # [windows, L]
        coded = coded.repeat(len(windows) // grid.num_windows, 1)
        padding = self.autoencoder.quantize.codebook.detach()[PADDING_INDEX].to(windows.dtype)
        return coded, torch.where(coded.unsqueeze(2), windows, padding)

    def rate(
        self,
        features: Sequence[Tensor],
        code_vectors: Sequence[Tensor],
        *,
        temperature: float | None,
    ) -> Rate:
        """Rate of quantised maps (equation 7).

        Args:
            features: ``[B, C, h, w]`` per scale, before the quantiser: the path through the target.
            code_vectors: Their code words: the path through the context.
            temperature: Of the relaxed assignment (equation 6); None for its limit 0, the hard index, which
                leaves the path through the context only.
        """
        grid = window_grid(self.entropy_model, features)
        codebook = self.autoencoder.quantize.codebook.detach()  # [K, C]
        coded, windows = self._windows(code_vectors)
        logits = self.logits(windows)[coded]  # [N, K]
        # In fp32 under autocast too, as in the quantiser: 8 bits of mantissa do not tell code words apart.
        rows = functional.normalize(grid.cut([f.float() for f in features])[coded], dim=1)  # [N, C]
        if temperature is None:
            with torch.no_grad():
                indices = ops.nearest_code(rows, codebook)[1]
            bits = code_length_bits(logits, indices).sum()
            return Rate(bits=bits, hard_bits=bits.detach(), tokens=len(rows))
        indices, relaxed = ops.soft_cross_entropy(rows, codebook, logits, temperature)
        with torch.no_grad():
            chosen = logits.gather(1, indices.unsqueeze(1)).squeeze(1).float()
            hard = (logits.float().logsumexp(1) - chosen).sum() / math.log(2)
        return Rate(bits=relaxed.sum(), hard_bits=hard, tokens=len(rows))
