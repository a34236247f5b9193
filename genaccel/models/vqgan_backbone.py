# SPDX-License-Identifier: Apache-2.0
"""VQGAN-style analysis and synthesis transforms with one latent per scale (RDVQ, arXiv 2604.10546, section 3).

Module names follow the published checkpoints (``encoder.down.3.block.0.conv1`` and so on), so that their
tensors load without a renaming table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as functional
from torch import Tensor, nn

from genaccel.models.ranges import require_whole, require_whole_numbers

_MAX_LEVELS = 8  # strides up to 128


@dataclass(frozen=True, kw_only=True, slots=True)
class VqganParams:
    """Size of the convolutional backbone.

    ``channel_multipliers`` has one entry per resolution level, from full resolution down; the last
    ``num_scales`` levels each give a latent, so the strides are ``2 ** level``.
    """

    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4, 4)
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    latent_channels: int = 256
    num_scales: int = 3
    norm_groups: int = 32

    def __post_init__(self) -> None:
        require_whole_numbers(
            "channel_multipliers", self.channel_multipliers, 1, 64, most=_MAX_LEVELS
        )
        require_whole("num_scales", self.num_scales, 1, len(self.channel_multipliers) - 1)
        require_whole("base_channels", self.base_channels, 1, 2048)
        require_whole("latent_channels", self.latent_channels, 1, 4096)
        require_whole("norm_groups", self.norm_groups, 1, 2048)
        for name in ("encoder_blocks", "decoder_blocks"):
            require_whole(name, getattr(self, name), 1, 32)
        for multiplier in self.channel_multipliers:
            if (self.base_channels * multiplier) % self.norm_groups:
                raise ValueError(
                    f"each channel count must be a multiple of norm_groups={self.norm_groups}, "
                    f"got {self.base_channels * multiplier}"
                )

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per latent cell, coarse to fine."""
        finest = len(self.channel_multipliers) - self.num_scales
        return tuple(2**level for level in reversed(range(finest, len(self.channel_multipliers))))

    @property
    def strip_height(self) -> None:
        """None: the decoder computes all rows at once."""
        return None

    @property
    def halo(self) -> None:
        """Group norms see the whole image: no finite context makes a tile equal to it."""
        return None

    @property
    def scale_channels(self) -> tuple[int, ...]:
        """Channels of the latent that enters or leaves the quantiser, coarse to fine."""
        return (self.latent_channels,) * self.num_scales

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Make the encoder (image -> latents) and the decoder (latents -> image)."""
        return VqganEncoder(self), VqganDecoder(self)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C_out, H, W]
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return shortcut + h


class Downsample(nn.Module):
    """Strided 3x3 convolution; the one pixel of padding is on the right and the bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C, H/2, W/2]
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C, 2H, 2W]
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, and the resampling that leaves it, "downsample" or "upsample"."""

    def __init__(self, blocks: Sequence[nn.Module], resample: tuple[str, nn.Module] | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.resample_name = resample[0] if resample else None
        if resample is not None:
            self.add_module(*resample)

    def run_blocks(self, x: Tensor) -> Tensor:
        """Run the blocks at this resolution, ``[B, C, h, w]``."""
        for block in self.block:
            x = block(x)
        return x

    def resample(self, x: Tensor) -> Tensor:
        """Resample to the next resolution; the last level, which has none, returns its input."""
        return self.get_submodule(self.resample_name)(x) if self.resample_name else x


class TwoBlocks(nn.Module):
    """The head of one scale."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        return self.block_2(self.block_1(x))


class VqganEncoder(nn.Module):
    """Image to one latent per scale; each scale has a head of its own."""

    def __init__(self, params: VqganParams) -> None:
        super().__init__()
        widths = [params.base_channels * m for m in params.channel_multipliers]
        groups, last = params.norm_groups, len(widths) - 1
        self.num_scales = params.num_scales
        self.conv_in = nn.Conv2d(3, params.base_channels, 3, padding=1)
        self.down = nn.ModuleList()
        channels = params.base_channels
        for index, width in enumerate(widths):
            blocks = []
            for _ in range(params.encoder_blocks):
                blocks.append(ResidualBlock(channels, width, groups))
                channels = width
            resample = ("downsample", Downsample(width)) if index < last else None
            self.down.append(Level(blocks, resample))
        scales = {f"s{i + 1}": widths[last - i] for i in range(params.num_scales)}  # coarse to fine
        self.mid = nn.ModuleDict({s: TwoBlocks(c, groups) for s, c in scales.items()})
        self.norm_out = nn.ModuleDict(
            {s: nn.GroupNorm(groups, c, eps=1e-6) for s, c in scales.items()}
        )
        self.conv_out = nn.ModuleDict(
            {s: nn.Conv2d(c, params.latent_channels, 3, padding=1) for s, c in scales.items()}
        )

    def forward(self, x: Tensor) -> list[Tensor]:  # [B, 3, H, W] -> coarse to fine [B, C, H/s, W/s]
        h = self.conv_in(x)
        taps = []
        for level in self.down:
            assert isinstance(level, Level)
            h = level.run_blocks(h)
            taps.append(h)
            h = level.resample(h)
        latents = []
        for i in range(self.num_scales):
            scale = f"s{i + 1}"
            h = self.mid[scale](taps[-1 - i])
            latents.append(self.conv_out[scale](functional.silu(self.norm_out[scale](h))))
        return latents


class VqganDecoder(nn.Module):
    """Latents to image; the coarsest starts, each finer one is added where its resolution is reached."""

    def __init__(self, params: VqganParams) -> None:
        super().__init__()
        widths = [params.base_channels * m for m in params.channel_multipliers]
        groups, last = params.norm_groups, len(widths) - 1
        self.num_scales = params.num_scales
        scales = {f"s{i + 1}": widths[last - i] for i in range(params.num_scales)}
        self.conv_in = nn.ModuleDict(
            {s: nn.Conv2d(params.latent_channels, c, 3, padding=1) for s, c in scales.items()}
        )
        self.mid = nn.ModuleDict({s: TwoBlocks(c, groups) for s, c in scales.items()})
        levels: list[nn.Module] = []
        channels = widths[last]
        for index in reversed(range(len(widths))):
            blocks = []
            for _ in range(params.decoder_blocks):
                blocks.append(ResidualBlock(channels, widths[index], groups))
                channels = widths[index]
            levels.append(Level(blocks, ("upsample", Upsample(channels)) if index else None))
        self.up = nn.ModuleList(reversed(levels))  # index = level: 0 is full resolution
        self.norm_out = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, latents: Sequence[Tensor]) -> Tensor:  # coarse to fine -> [B, 3, H, W]
        heads = []
        for i, latent in enumerate(latents):
            scale = f"s{i + 1}"
            heads.append(self.mid[scale](self.conv_in[scale](latent)))
        h = heads[0]
        for i, level in enumerate(reversed(self.up)):
            assert isinstance(level, Level)
            if 0 < i < self.num_scales:
                h = h + heads[i]
            h = level.resample(level.run_blocks(h))
        return self.conv_out(functional.silu(self.norm_out(h)))
