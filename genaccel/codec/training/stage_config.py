# SPDX-License-Identifier: Apache-2.0
"""Knobs of the codec's training stages: autoencoder, entropy and joint (RDVQ, arXiv 2604.10546)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from genaccel.training.crops import CropConfig
from genaccel.training.distortion import DistortionWeights
from genaccel.training.options import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    SHARE_BELOW_1,
    Option,
    check,
)

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
class StageConfig:
    """Of any stage.

    Args:
        crops: What is trained on.
    """

    crops: CropConfig = field(default_factory=CropConfig)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderTrainingConfig(StageConfig):
    """Stage ``autoencoder``: encoder, decoder and codebook, from distortion alone (equation 13 without its adversary).

    Args:
        distortion: Weights of the loss.
        perceptual_start_step: Steps before ST-LPIPS joins: on MSE alone they are several times cheaper.
        restart_every: Steps between replacements of dead code words by features of the batch.
        restart_until: Share of the steps after which the codebook is left alone.
        restart_usage: A code word is dead below this share of the mean use.
    """

    distortion: DistortionWeights = field(default_factory=DistortionWeights)
    perceptual_start_step: Annotated[int, Option(), AT_LEAST_0] = 0
    restart_every: Annotated[int, AT_LEAST_1] = 50
    restart_until: Annotated[float, SHARE_BELOW_1] = 0.5
    restart_usage: Annotated[float, SHARE_BELOW_1] = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class RateConfig(StageConfig):
    """Of the stages that train an entropy model.

    Args:
        quantization_aware: Round the entropy model as its integer form is rounded, so that it learns for that.
    """

    quantization_aware: Annotated[bool, Option()] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EntropyTrainingConfig(RateConfig):
    """Stage ``entropy``: the entropy model alone, on a frozen autoencoder.

    Args:
        temperature: Of the relaxed targets; without one (0 on the command line) targets are hard indices.
    """

    temperature: Annotated[float | None, Option(none=0.0), ABOVE_0] = _SHARP_TEMPERATURE


@dataclass(frozen=True, kw_only=True, slots=True)
class JointTrainingConfig(RateConfig):
    """Stage ``joint``: ``distortion + adversarial_weight * adversary + rate_weight * bits per pixel`` (equation 11).

    Args:
        rate_weight: Lambda: what a bit per pixel costs beside the distortion.
        temperature: Of the relaxed rate; by default 0.1 for high rate weights, else 0.01.
        relaxed: Relax the targets; without that, the rate reaches the encoder through the context only.
        distortion: Weights of the autoencoder's own loss.
        adversarial_weight: Weight of a discriminator; 0 for none, the paper's is 0.1.
        adversarial_start_step: Steps before the discriminator is trained and joins the loss.
    """

    rate_weight: Annotated[float, Option(), AT_LEAST_0] = 1.0
    temperature: Annotated[float | None, Option(), ABOVE_0] = None
    relaxed: Annotated[bool, Option(off="hard_targets")] = True
    distortion: DistortionWeights = field(default_factory=DistortionWeights)
    adversarial_weight: Annotated[float, Option(), AT_LEAST_0] = 0.0
    adversarial_start_step: Annotated[int, Option(), AT_LEAST_0] = 25_000

    def temperature_for(self, strides: Sequence[int]) -> float | None:
        """The temperature to train an autoencoder of these strides with; None for hard targets."""
        if not self.relaxed:
            return None
        if self.temperature is not None:
            return self.temperature
        return default_temperature(self.rate_weight, strides)
