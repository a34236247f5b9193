# SPDX-License-Identifier: Apache-2.0
"""A light backbone for CPU codecs: a space-to-depth stem, and nearly all convolutions at 1/8 of the size or below.

Full-resolution 128-channel convolutions are two thirds of the cost of a VQGAN backbone. Here the stem folds
8x8 pixels into channels, and a thin tail (about a quarter of the decoder's work) unfolds them again two by
two, with a convolution after each unfolding: one PixelShuffle by 4 or 8 leaves a grid of its own size.

Every operation is local (the norm is over channels, pixel by pixel), so a tile with ``halo`` pixels of
context is equal to the same place of the whole image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from genaccel.models.ranges import require_whole, require_whole_numbers

_STEM_STRIDE = 8  # pixels folded into channels by the stem
_MAX_SCALES = 5  # strides up to 128
# At full resolution 16 channels take three times the memory of all that comes before: without gradients the tail runs
# over so many rows of the grid at a time, with two more on each side (it sees 15 pixels).
_STRIP_ROWS = 32
_STRIP_MARGIN = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientParams:
    """Widths and depths per stride, coarse to fine; the finest stride is that of the stem, 8."""

    widths: tuple[int, ...] = (256, 256, 192)
    encoder_blocks: tuple[int, ...] = (1, 2, 3)
    decoder_widths: tuple[int, ...] = (256, 256, 256)
    decoder_blocks: tuple[int, ...] = (2, 3, 5)
    tail_widths: tuple[int, ...] = (64, 32, 16)  # at 1/4, 1/2 and full resolution
    bottleneck_ratio: int = 2

    def __post_init__(self) -> None:
        for name in ("widths", "decoder_widths"):
            require_whole_numbers(name, getattr(self, name), 1, 4096, most=_MAX_SCALES)
        for name in ("encoder_blocks", "decoder_blocks"):
            require_whole_numbers(name, getattr(self, name), 0, 64, most=_MAX_SCALES)
        require_whole_numbers("tail_widths", self.tail_widths, 1, 1024, most=3)
        require_whole("bottleneck_ratio", self.bottleneck_ratio, 1, 64)
        lengths = {
            len(self.widths),
            len(self.encoder_blocks),
            len(self.decoder_widths),
            len(self.decoder_blocks),
        }
        if len(lengths) != 1:
            raise ValueError(
                "widths, encoder_blocks, decoder_widths and decoder_blocks must have one entry per scale, "
                f"got lengths {sorted(lengths)}"
            )
        if len(self.tail_widths) != 3:
            raise ValueError(
                f"tail_widths must have 3 entries (1/4, 1/2, 1), got {self.tail_widths}"
            )
        for width in (*self.widths, *self.decoder_widths):
            if width % self.bottleneck_ratio:
                raise ValueError(
                    f"each width must be a multiple of bottleneck_ratio={self.bottleneck_ratio}, got {width}"
                )

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per latent cell, coarse to fine."""
        return tuple(_STEM_STRIDE * 2**i for i in reversed(range(len(self.widths))))

    @property
    def scale_channels(self) -> tuple[int, ...]:
        """Channels of the latent that enters the quantiser, coarse to fine."""
        return self.widths

    @property
    def halo(self) -> int:
        """Pixels of context after which a tile equals the whole image, a multiple of the coarsest stride."""
        # A 3x3 convolution at stride s sees s pixels to each side; the stem and each downsampling are one more.
        encoder = sum(
            s * (blocks + 1) for s, blocks in zip(self.strides, self.encoder_blocks, strict=True)
        )
        decoder = sum(
            s * blocks for s, blocks in zip(self.strides, self.decoder_blocks, strict=True)
        )
        decoder += sum(2 * s for s in (4, 2, 1)) + 1
        coarsest = self.strides[0]
        return -(-max(encoder, decoder) // coarsest) * coarsest

    @property
    def strip_height(self) -> int:
        """Rows of pixels that the decoder's last layers compute at a time, margins included."""
        return _STEM_STRIDE * (_STRIP_ROWS + 2 * _STRIP_MARGIN)

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Make the encoder (image -> latents) and the decoder (latents -> image)."""
        return EfficientEncoder(self), EfficientDecoder(self)


class ChannelNorm(nn.Module):
    """LayerNorm over channels at each position: no statistics over space, so tiles stay exact."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        x = x.permute(0, 2, 3, 1)  # a view when x is channels-last
        x = functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, eps=1e-6)
        return x.permute(0, 3, 1, 2)


def _start_at_zero(convolution: nn.Conv2d) -> None:
    """Make a residual branch an identity at first."""
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)


class BottleneckBlock(nn.Module):
    """Norm, 1x1 down, 3x3, 1x1 up, around an identity; the last weight starts at zero."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        inner = channels // ratio
        self.norm = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1)
        self.conv3 = nn.Conv2d(inner, channels, 1)
        _start_at_zero(self.conv3)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        h = functional.silu(self.conv1(self.norm(x)))
        return x + self.conv3(functional.silu(self.conv2(h)))


class RefinementBlock(nn.Module):
    """Two 3x3 convolutions around an identity, for the thin tail; the last weight starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        _start_at_zero(self.conv2)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        return x + self.conv2(functional.silu(self.conv1(x)))


class Unfold(nn.Module):
    """1x1 convolution to four times the channels, then PixelShuffle by 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C_out, 2H, 2W]
        return functional.pixel_shuffle(self.conv(x), 2)


def _blocks(count: int, channels: int, ratio: int) -> nn.Sequential:
    return nn.Sequential(*(BottleneckBlock(channels, ratio) for _ in range(count)))


class EfficientEncoder(nn.Module):
    """Image to one latent per scale."""

    def __init__(self, params: EfficientParams) -> None:
        super().__init__()
        fine_to_coarse = params.widths[::-1]
        self.conv_in = nn.Conv2d(3 * _STEM_STRIDE**2, fine_to_coarse[0], 3, padding=1)
        self.levels = nn.ModuleList(
            _blocks(count, width, params.bottleneck_ratio)
            for count, width in zip(params.encoder_blocks[::-1], fine_to_coarse, strict=True)
        )
        self.downsamples = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(fine_to_coarse)
        )
        self.norm_out = nn.ModuleList(ChannelNorm(width) for width in fine_to_coarse)

    def forward(self, x: Tensor) -> list[Tensor]:  # [B, 3, H, W] -> coarse to fine [B, C, H/s, W/s]
        h = functional.pixel_unshuffle(x, _STEM_STRIDE).contiguous(
            memory_format=torch.channels_last
        )  # [B, 192, H/8, W/8]
        h = self.conv_in(h)
        latents = []
        for i, (level, norm) in enumerate(zip(self.levels, self.norm_out, strict=True)):
            if i:
                h = self.downsamples[i - 1](h)
            h = level(h)
            latents.append(norm(h))
        return latents[::-1]


class EfficientDecoder(nn.Module):
    """Latents to image; the coarsest starts, each finer one is added where its resolution is reached."""

    def __init__(self, params: EfficientParams) -> None:
        super().__init__()
        ratio, widths = params.bottleneck_ratio, params.decoder_widths
        self.conv_in = nn.ModuleList(
            nn.Conv2d(latent, width, 1)
            for latent, width in zip(params.scale_channels, widths, strict=True)
        )
        self.levels = nn.ModuleList(
            _blocks(count, width, ratio)
            for count, width in zip(params.decoder_blocks, widths, strict=True)
        )
        self.upsamples = nn.ModuleList(Unfold(a, b) for a, b in itertools.pairwise(widths))
        tail = []
        channels = widths[-1]
        for width in params.tail_widths:
            tail += [Unfold(channels, width), RefinementBlock(width)]
            channels = width
        self.tail = nn.Sequential(*tail)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def _grid(self, latents: Sequence[Tensor]) -> Tensor:  # coarse to fine -> [B, C, H/8, W/8]
        h: Tensor = self.levels[0](self.conv_in[0](latents[0]))
        for i, latent in enumerate(latents[1:], 1):
            h = self.levels[i](self.upsamples[i - 1](h) + self.conv_in[i](latent))
        return h

    def forward(self, latents: Sequence[Tensor]) -> Tensor:  # coarse to fine -> [B, 3, H, W]
        h = self._grid(latents)
        rows = h.shape[2]
        if torch.is_grad_enabled() or rows <= _STRIP_ROWS + 2 * _STRIP_MARGIN:
            image: Tensor = self.conv_out(self.tail(h))
            return image
        image = h.new_empty(len(h), 3, *(_STEM_STRIDE * side for side in h.shape[2:]))
        for top in range(0, rows, _STRIP_ROWS):
            start, stop = max(0, top - _STRIP_MARGIN), min(rows, top + _STRIP_ROWS)
            strip = self.conv_out(self.tail(h[:, :, start : stop + _STRIP_MARGIN]))
            image[:, :, _STEM_STRIDE * top : _STEM_STRIDE * stop] = strip[
                :, :, _STEM_STRIDE * (top - start) : _STEM_STRIDE * (stop - start)
            ]
        return image
