# SPDX-License-Identifier: Apache-2.0
"""Knobs of the codec's later training stages, entropy and joint (RDVQ, arXiv 2604.10546)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from genaccel.training.distortion import DistortionWeights

# The authors train at temperature 0.1 with rate weights of 4.8 and above, at 0.01 with 1.2 and below; between
# them, the geometric mean. Their 336 tokens on 256x256 pixels turn it into the price of one bit of a token.
_SOFT_FROM_PRICE = math.sqrt(1.2 * 4.8) * 336 / 256**2
_SOFT_TEMPERATURE, _SHARP_TEMPERATURE = 0.1, 0.01


def default_temperature(rate_weight: float, strides: Sequence[int]) -> float:
    """Temperature of the relaxed assignment for a rate weight: the piecewise rule of the authors.

    Low rates need a soft assignment, for cheap code words lie further away; high ones a sharp one, for the soft
    rate is a poor estimate of the hard one. The authors' rate weights count bits per pixel of their own strides;
    what they mean to a token is that divided by its share of the pixels.

    Args:
        rate_weight: Lambda, per bit per pixel.
        strides: Pixels per token of each scale.

    Returns:
        0.1 or 0.01, in units of squared distance between unit vectors.

    Example:
        >>> [default_temperature(w, (64, 32, 16)) for w in (12, 7.2, 4.8, 1.2, 0.8)]
        [0.1, 0.1, 0.1, 0.01, 0.01]
        >>> default_temperature(1.2, (32, 16, 8))  # four times the tokens: a bit per pixel is dearer to each
        0.1
    """
    tokens_per_pixel = sum(1 / stride**2 for stride in strides)
    price = rate_weight * tokens_per_pixel
    return _SOFT_TEMPERATURE if price >= _SOFT_FROM_PRICE else _SHARP_TEMPERATURE


@dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """Which crops are trained on.

    Args:
        crop_size: Side in pixels, a multiple of the autoencoder's alignment; whole windows of the entropy model
            (4 tokens of the coarsest stride) waste nothing on padding.
        min_scale: Smallest random downscaling factor of a photograph; the largest is 1.
        color_permutation: Share of the crops with red, green and blue exchanged at random.
    """

    crop_size: int = 128
    min_scale: float = 0.5
    color_permutation: float = 0.25

    def __post_init__(self) -> None:
        if self.crop_size < 1:
            raise ValueError(f"crop_size must be at least 1, got {self.crop_size}")
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale must be in (0, 1], got {self.min_scale}")
        if not 0 <= self.color_permutation <= 1:
            raise ValueError(f"color_permutation must be in [0, 1], got {self.color_permutation}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EntropyTrainingConfig:
    """Stage ``entropy``: the entropy model alone, on a frozen autoencoder.

    Args:
        crops: What is trained on.
        temperature: Of the relaxed targets, above 0; None trains on hard indices.
        quantization_aware: Whether the rate is that of the entropy model rounded to the grids of its integer form.
    """

    crops: CropConfig = field(default_factory=CropConfig)
    temperature: float | None = _SHARP_TEMPERATURE
    quantization_aware: bool = False

    def __post_init__(self) -> None:
        _require_temperature(self.temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class JointTrainingConfig:
    """Stage ``joint``: ``distortion + adversarial_weight * adversary + rate_weight * bits per pixel``.

    Args:
        crops: What is trained on.
        rate_weight: Lambda of equation 11, per bit per pixel.
        temperature: Of the relaxed rate, above 0; by default that of :func:`default_temperature`.
        relaxed: Whether targets are relaxed; without, the rate reaches the encoder through the context only.
        distortion: Weights of the autoencoder's own loss.
        adversarial_weight: Of the discriminator's verdict; 0 for none. The authors' is 0.1.
        adversarial_start_step: Steps before the discriminator is trained and joins the loss.
        quantization_aware: As of :class:`EntropyTrainingConfig`.
    """

    crops: CropConfig = field(default_factory=CropConfig)
    rate_weight: float = 1.0
    temperature: float | None = None
    relaxed: bool = True
    distortion: DistortionWeights = field(default_factory=DistortionWeights)
    adversarial_weight: float = 0.0
    adversarial_start_step: int = 25_000
    quantization_aware: bool = False

    def __post_init__(self) -> None:
        for name in ("rate_weight", "adversarial_weight", "adversarial_start_step"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        _require_temperature(self.temperature)

    def temperature_for(self, strides: Sequence[int]) -> float | None:
        """The temperature to train an autoencoder of these strides with; None for hard targets."""
        if not self.relaxed:
            return None
        if self.temperature is not None:
            return self.temperature
        return default_temperature(self.rate_weight, strides)


def _require_temperature(value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"temperature must be above 0 and finite, got {value}")
