# SPDX-License-Identifier: Apache-2.0
"""Knobs of codec training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from genaccel.models.autoencoder import PRESETS


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecTrainingConfig:
    """How to train an autoencoder.

    The loss is ``mse_weight * MSE + perceptual_weight * ST-LPIPS + codebook_weight * codebook +
    commitment_weight * commitment`` on images in [-1, 1] (RDVQ, arXiv 2604.10546, equation 13, without its
    adversarial term), and ``grid_weight * grid``, which is ours.

    Args:
        preset: Name in ``genaccel.models.autoencoder.PRESETS``.
        steps: Optimiser steps.
        batch_size: Crops per step and process.
        crop_size: Side of a crop in pixels, a multiple of the preset's alignment.
        min_scale: Smallest random downscaling factor of a photograph; the largest is 1.
        color_permutation: Share of the crops with red, green and blue exchanged at random.
        learning_rate: Peak of the cosine schedule.
        final_learning_rate_ratio: Last learning rate as a share of the peak.
        warmup_steps: Steps of linear warm-up.
        grid_weight: Weight of :func:`genaccel.training.distortion.grid_error`.
        perceptual_net: Trunk of ST-LPIPS, or "none".
        perceptual_start_step: Steps before it train on MSE alone, which is several times cheaper.
        perceptual_fraction: Share of the crops on which the perceptual loss is evaluated.
        ema_decay: Decay of the averaged weights that are exported.
        gradient_clip_norm: Largest global norm of the gradient.
        restart_every: Steps between replacements of dead code words by features of the batch.
        restart_until: Share of the steps after which the codebook is left alone.
        restart_usage: A code word is dead below this share of the mean use.
        checkpoint_minutes: Time between checkpoints.
        mixed_precision: As in Hugging Face accelerate.
    """

    preset: str = "small"
    steps: int = 100_000
    batch_size: int = 16
    crop_size: int = 128
    min_scale: float = 0.5
    color_permutation: float = 0.25
    seed: int = 0
    learning_rate: float = 4e-4
    final_learning_rate_ratio: float = 0.02
    warmup_steps: int = 200
    mse_weight: float = 1.0
    perceptual_weight: float = 1.0
    grid_weight: float = 100.0
    perceptual_net: Literal["alex", "vgg", "none"] = "alex"
    perceptual_start_step: int = 0
    perceptual_fraction: float = 0.5
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    ema_decay: float = 0.999
    gradient_clip_norm: float = 1.0
    restart_every: int = 50
    restart_until: float = 0.5
    restart_usage: float = 0.05
    checkpoint_minutes: float = 5.0
    log_every: int = 20
    num_workers: int = 0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {self.preset!r}")
        alignment = PRESETS[self.preset].alignment
        if self.crop_size < alignment or self.crop_size % alignment:
            raise ValueError(
                f"crop_size must be a positive multiple of {alignment} for preset {self.preset!r}, "
                f"got {self.crop_size}"
            )
        for name in ("steps", "batch_size", "restart_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_steps", "perceptual_start_step", "num_workers", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip_norm", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in (
            "mse_weight",
            "grid_weight",
            "perceptual_weight",
            "codebook_weight",
            "commitment_weight",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("min_scale", "perceptual_fraction", "final_learning_rate_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if not 0 <= self.color_permutation <= 1:
            raise ValueError(f"color_permutation must be in [0, 1], got {self.color_permutation}")
        for name in ("ema_decay", "restart_until", "restart_usage"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.perceptual_net not in ("alex", "vgg", "none"):
            raise ValueError(
                f'perceptual_net must be "alex", "vgg" or "none", got {self.perceptual_net!r}'
            )
        if self.mixed_precision not in ("no", "fp16", "bf16"):
            raise ValueError(
                f'mixed_precision must be "no", "fp16" or "bf16", got {self.mixed_precision!r}'
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CodecTrainingConfig:
        """Build from ``to_dict`` output; unknown keys raise ValueError."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown training options {unknown}; known are {sorted(known)}")
        return cls(**values)
