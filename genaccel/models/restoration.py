# SPDX-License-Identifier: Apache-2.0
"""Restores a picture from a coarsely coded base layer: an AV1 still picture at full, half or quarter size.

Convolutions run at a quarter and at an eighth of the picture's size whatever that of the base: pixels of larger bases
become channels (space to depth). So the time depends on the picture alone, and all sizes share one trunk. All of them
are 3x3 convolutions, of which a CPU does most in a millisecond: depthwise ones save nine tenths of the operations and
half of the time. The last layers begin with zeros: untrained, the result is the base, or its enlargement by Lanczos.

It decides no bits, so it may run in any floating-point format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from genaccel.models.ranges import require_whole
from genaccel.models.saved_network import SavedNetwork

MODEL_TYPE = "restoration"
MODEL_VERSION = 1

# Side of the picture over that of the base.
SCALES = (1, 2, 4)
# One position of the trunk stands for so many pixels a side, at its own size and at its smallest.
STRIDE = max(SCALES)
INNER_STRIDE = 2 * STRIDE
MAX_QUALITY = 100

_LANCZOS_TAPS = 3  # on each side


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorationConfig:
    """Shape of the network.

    Args:
        channels: Channels of the trunk, a multiple of 8 within 8 to 256.
        num_blocks: Residual blocks at a quarter of the picture's size, of two 3x3 convolutions each: half of them
            before those at an eighth, half of them after. Even, within 2 to 64.
        num_inner_blocks: Residual blocks at an eighth of the size, of twice the channels, 1 to 64.
        condition_channels: Hidden channels of the network that the quality enters, 1 to 1024.
    """

    channels: int = 64
    num_blocks: int = 4
    num_inner_blocks: int = 4
    condition_channels: int = 32

    def __post_init__(self) -> None:
        for name in ("channels", "num_blocks", "num_inner_blocks", "condition_channels"):
            require_whole(name, getattr(self, name), 0, 1024)
        if not 8 <= self.channels <= 256 or self.channels % 8:
            raise ValueError(
                f"channels must be a multiple of 8 within 8 to 256, got {self.channels}"
            )
        if not 2 <= self.num_blocks <= 64 or self.num_blocks % 2:
            raise ValueError(f"num_blocks must be even and within 2 to 64, got {self.num_blocks}")
        for name, high in (("num_inner_blocks", 64), ("condition_channels", 1024)):
            if not 1 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be within 1 to {high}, got {getattr(self, name)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RestorationConfig:
        """The configuration that :meth:`to_dict` gave.

        Raises:
            ValueError: If it is of another type or version, or has unknown keys.
        """
        rest = dict(values)
        kind, version = rest.pop("type", MODEL_TYPE), rest.pop("version", MODEL_VERSION)
        if kind != MODEL_TYPE:
            raise ValueError(f"type must be {MODEL_TYPE!r}, got {kind!r}")
        if version != MODEL_VERSION:
            raise ValueError(f"version must be {MODEL_VERSION}, got {version!r}")
        unknown = sorted(set(rest) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown keys in the configuration: {', '.join(unknown)}")
        return cls(**rest)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with type and version."""
        return {"type": MODEL_TYPE, "version": MODEL_VERSION, **asdict(self)}


def base_sides(height: int, width: int, scale: int) -> tuple[int, int]:
    """Height and width of the base of a picture, which is padded to a multiple of ``scale`` before it is reduced.

    Raises:
        ValueError: If the scale is not one of ``SCALES``.
    """
    _require_scale(scale)
    return -(-height // scale), -(-width // scale)


def lanczos_enlarged(x: Tensor, scale: int) -> Tensor:
    """``[B, C, h, w]`` enlarged ``scale`` times, as Pillow's Lanczos filter does it before it rounds."""
    if scale == 1:
        return x
    batch, channels, height, width = x.shape
    planes = x.reshape(batch * channels, 1, height, width)
    kernel = _lanczos_phases(scale).to(x)  # [scale, taps]
    taps = kernel.shape[1]
    # Pillow leaves out taps beyond the edge and divides by the sum of the others: so does dividing by
    # what an image of ones becomes.
    column = kernel.reshape(scale, 1, taps, 1)
    ones = functional.conv2d(x.new_ones(1, 1, height, 1), column, padding=(taps // 2, 0))
    tall = functional.conv2d(planes, column, padding=(taps // 2, 0)) / ones
    tall = tall.transpose(1, 2).reshape(-1, 1, height * scale, width)
    row = kernel.reshape(scale, 1, 1, taps)
    ones = functional.conv2d(x.new_ones(1, 1, 1, width), row, padding=(0, taps // 2))
    large = functional.conv2d(tall, row, padding=(0, taps // 2)) / ones  # [BC, scale, H, w]
    large = large.permute(0, 2, 3, 1)
    return large.reshape(batch, channels, height * scale, width * scale)


def _lanczos_phases(scale: int) -> Tensor:
    """Weights ``[scale, 2 * taps + 1]`` of the neighbours of a pixel for each of the pixels that it becomes."""
    rows = []
    for phase in range(scale):
        center = (phase + 0.5) / scale - 0.5
        offsets = range(-_LANCZOS_TAPS, _LANCZOS_TAPS + 1)
        weights = [_lanczos(offset - center) for offset in offsets]
        rows.append([weight / sum(weights) for weight in weights])
    return torch.tensor(rows, dtype=torch.float64)


def _lanczos(x: float) -> float:
    if x == 0:
        return 1.0
    if abs(x) >= _LANCZOS_TAPS:
        return 0.0
    angle = math.pi * x
    return _LANCZOS_TAPS * math.sin(angle) * math.sin(angle / _LANCZOS_TAPS) / angle**2


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(x)))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        # Each block begins as a small change, whatever their number.
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)
            self.conv2.bias.zero_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]``."""
        out: Tensor = x + self.conv2(functional.relu(self.conv1(x)))
        return out


class Restoration(SavedNetwork):
    """The restoration network: from a decoded base and its quality to the picture.

    Args:
        config: Shape of the network.

    Example:
        >>> model = Restoration(RestorationConfig(num_blocks=1)).eval()
        >>> half = torch.rand(1, 3, 32, 24)
        >>> model(half, torch.tensor([20.0]), scale=2, size=(63, 48)).shape
        torch.Size([1, 3, 63, 48])
    """

    model_type = MODEL_TYPE
    params_class = RestorationConfig
    stored_dtype = torch.float16

    def __init__(self, config: RestorationConfig) -> None:
        super().__init__()
        self.config = self.params = config
        channels = config.channels
        self.heads = nn.ModuleDict(
            {str(s): nn.Conv2d(3 * (STRIDE // s) ** 2, channels, 3, padding=1) for s in SCALES}
        )
        self.condition = nn.Sequential(
            nn.Linear(1 + len(SCALES), config.condition_channels),
            nn.SiLU(),
            nn.Linear(config.condition_channels, channels),
        )
        half, inner = config.num_blocks // 2, 2 * channels
        self.before = nn.Sequential(*(ResidualBlock(channels) for _ in range(half)))
        self.down = nn.Conv2d(channels, inner, 2, stride=2)
        self.inner = nn.Sequential(*(ResidualBlock(inner) for _ in range(config.num_inner_blocks)))
        self.up = nn.Conv2d(inner, 4 * channels, 1)
        self.after = nn.Sequential(*(ResidualBlock(channels) for _ in range(half)))
        self.tails = nn.ModuleDict(
            {str(s): nn.Conv2d(channels, 3 * STRIDE**2, 3, padding=1) for s in SCALES}
        )
        for parameter in self.tails.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, base: Tensor, quality: Tensor, *, scale: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """The restored picture, not clamped.

        Args:
            base: The decoded base ``[B, 3, h, w]`` in [0, 1].
            quality: Quality that each was encoded with, ``[B]``, 0 to 100 as Pillow's AVIF encoder takes it.
            scale: Side of the picture over that of the base: 1, 2 or 4.
            size: Height and width of the picture; by default ``scale`` times those of the base.

        Returns:
            ``[B, 3, H, W]`` in fp32.

        Raises:
            ValueError: If the shapes, the quality or the size do not fit.
        """
        self._require(base, quality, scale, size)
        (picture,) = self.restore([(base, quality, scale)])
        height, width = size or picture.shape[2:]
        return picture[..., :height, :width]

    def restore(self, parts: Sequence[tuple[Tensor, Tensor, int]]) -> list[Tensor]:
        """Several ``(base, quality, scale)`` in one pass through the trunk, if their pictures are of one size.

        Nothing is checked.

        Returns:
            For each part ``[B, 3, scale * h, scale * w]`` in fp32.
        """
        x = torch.cat([self._head(*part) for part in parts])
        x = self.before(x)
        x = x + functional.pixel_shuffle(self.up(self.inner(self.down(x))), 2)
        x = self.after(x)
        restored = []
        for features, (base, _, scale) in zip(
            x.split([len(base) for base, _, _ in parts]), parts, strict=True
        ):
            change = functional.pixel_shuffle(self.tails[str(scale)](features), STRIDE).float()
            enlarged = lanczos_enlarged(base.float(), scale)
            height, width = enlarged.shape[2:]
            restored.append(enlarged + change[..., :height, :width])
        return restored

    def _head(self, base: Tensor, quality: Tensor, scale: int) -> Tensor:
        head = self.heads[str(scale)]
        dtype = next(self.parameters()).dtype
        fold = STRIDE // scale
        height, width = base.shape[2:]
        unit = INNER_STRIDE // scale
        padding = (0, -width % unit, 0, -height % unit)
        if any(padding):
            base = functional.pad(base, padding, mode="replicate")
        # Centred: the first layer need not undo the brightness of every picture.
        x = functional.pixel_unshuffle((base - 0.5).to(dtype), fold)
        x = x.contiguous(memory_format=torch.channels_last)
        condition = quality.new_zeros(len(quality), 1 + len(SCALES))
        condition[:, 0] = quality / MAX_QUALITY
        condition[:, 1 + SCALES.index(scale)] = 1
        shift = self.condition(condition.to(dtype))
        out: Tensor = head(x) + shift[:, :, None, None]
        return out

    @staticmethod
    def _require(base: Tensor, quality: Tensor, scale: int, size: tuple[int, int] | None) -> None:
        _require_scale(scale)
        if base.ndim != 4 or base.shape[1] != 3 or 0 in base.shape:
            raise ValueError(f"base must be [B, 3, h, w], got {list(base.shape)}")
        if quality.shape != base.shape[:1]:
            raise ValueError(
                f"quality must be [{len(base)}], one for each base, got {list(quality.shape)}"
            )
        if not bool(((quality >= 0) & (quality <= MAX_QUALITY)).all()):
            raise ValueError(f"quality must be within 0 to {MAX_QUALITY}, got {quality.tolist()}")
        if size is not None and base_sides(*size, scale) != tuple(base.shape[2:]):
            raise ValueError(
                f"a picture of {size[0]}x{size[1]} has a base of {base_sides(*size, scale)} at scale "
                f"{scale}, got {tuple(base.shape[2:])}"
            )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Load a model folder, in evaluation mode, as fp32 in channels-last layout; raises as the base does."""
        return super().from_pretrained(folder).to(memory_format=torch.channels_last)


def _require_scale(scale: int) -> None:
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}, got {scale}")
