# SPDX-License-Identifier: Apache-2.0
"""The base of a pixel-space super-resolution by four: a convolutional upscaler, and a transformer that sharpens what it made.

The upscaler's picture is where the flow begins. The velocity is computed by a diffusion transformer (DiT, arXiv:2212.09748)
on tokens of 8x8 pixels, with one modulation for all blocks (PixArt-alpha, arXiv:2310.00426) and a depthwise convolution in
each feed-forward, which tells tokens where they are, so that pictures may have any size (SANA, arXiv:2410.10629). Its first
and last layers are convolutions at a quarter of the picture's size: tokens alone would show their grid.
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
from genaccel.models.restoration import ResidualBlock, lanczos_enlarged
from genaccel.models.saved_network import SavedNetwork
from genaccel.speculative_sr.flow import PUBLISHED_SIGMAS, check_sigmas

MODEL_TYPE = "super-resolution"

SCALE = 4  # side of the picture over that of the given one
TOKEN_SIDE = 8  # pixels along a side of a token

_HEAD_CHANNELS = 64
_FREQUENCIES = 128
_FOLD = TOKEN_SIDE // SCALE


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperResolutionParams:
    """Shape of the base.

    Args:
        channels: Channels of the transformer, a multiple of 64 within 64 to 2048.
        num_layers: Its blocks, 1 to 128.
        stem_channels: Channels of its first and last layers, at a quarter of the picture's size, 8 to 1024.
        upscaler_channels: Channels of the upscaler, 8 to 1024.
        upscaler_blocks: Its residual blocks, of two 3x3 convolutions each; without any, Lanczos enlarges. 0 to 128.
        sigma: Level of the flow at which the first step is made, within (0, 1].
    """

    channels: int = 192
    num_layers: int = 12
    stem_channels: int = 64
    upscaler_channels: int = 64
    upscaler_blocks: int = 4
    sigma: float = PUBLISHED_SIGMAS[0]

    def __post_init__(self) -> None:
        require_whole("channels", self.channels, _HEAD_CHANNELS, 2048)
        if self.channels % _HEAD_CHANNELS:
            raise ValueError(
                f"channels must be a multiple of {_HEAD_CHANNELS}, got {self.channels}"
            )
        require_whole("num_layers", self.num_layers, 1, 128)
        require_whole("stem_channels", self.stem_channels, 8, 1024)
        require_whole("upscaler_channels", self.upscaler_channels, 8, 1024)
        require_whole("upscaler_blocks", self.upscaler_blocks, 0, 128)
        check_sigmas((self.sigma,))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The parameters that :meth:`to_dict` gave.

        Raises:
            ValueError: If there are unknown keys, or one is out of range.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown keys in the configuration: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


class Upscaler(nn.Module):
    """Lanczos and what a small convolutional network adds to it; untrained, that is nothing.

    Args:
        channels: Of the network.
        num_blocks: Residual blocks; 0 for Lanczos alone.
    """

    def __init__(self, channels: int, num_blocks: int) -> None:
        super().__init__()
        self.head: nn.Module | None = None
        if num_blocks:
            self.head = nn.Conv2d(3, channels, 3, padding=1)
            self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))
            self.tail = nn.Conv2d(channels, 3 * SCALE**2, 3, padding=1)
            nn.init.zeros_(self.tail.weight)
            nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, small: Tensor) -> Tensor:
        """``[B, 3, 4 h, 4 w]`` in fp32 of pictures ``[B, 3, h, w]`` in [-1, 1]; not clamped."""
        enlarged = lanczos_enlarged(small.float(), SCALE)
        if self.head is None:
            return enlarged
        features = self.head(small.to(self.tail.weight.dtype))
        change = self.tail(features + self.blocks(features))
        return enlarged + functional.pixel_shuffle(change, SCALE).float()


class SelfAttention(nn.Module):
    """Attention of all tokens to all, with heads of 64 channels.

    Args:
        channels: A multiple of 64.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C]``."""
        q, k, v = self.to_qkv(x).unflatten(2, (3, -1, _HEAD_CHANNELS)).permute(2, 0, 3, 1, 4)
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            # Where bf16 products are fast, twice as fast as the fused kernel, which computes in fp32.
            scores = (q * _HEAD_CHANNELS**-0.5) @ k.transpose(2, 3)  # [B, heads, N, N]
            attended = scores.softmax(-1).to(v.dtype) @ v
        else:
            attended = functional.scaled_dot_product_attention(q, k, v)  # [B, heads, N, 64]
        out: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out


class ConvolutionalFeedForward(nn.Module):
    """A gated feed-forward with a depthwise 3x3 convolution among its hidden channels.

    Args:
        channels: Of the tokens; the hidden ones are twice as many, and a gate for each.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.expand = nn.Linear(channels, 2 * hidden)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.contract = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, rows: int) -> Tensor:
        """``[B, N, C]`` of tokens that stand in ``rows`` rows."""
        hidden = functional.silu(self.expand(x)).unflatten(1, (rows, -1))  # [B, h, w, 4 C]
        hidden = self.depthwise(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
        value, gate = hidden.chunk(2, dim=-1)
        out: Tensor = self.contract(value * functional.silu(gate))
        return out


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each with shift, scale and gate of the time.

    Args:
        channels: Of the tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(channels)
        self.norm2 = nn.LayerNorm(channels, elementwise_affine=False, eps=1e-6)
        self.ff = ConvolutionalFeedForward(channels)
        self.scale_shift_table = nn.Parameter(torch.randn(6, channels) / channels**0.5)

    def forward(self, x: Tensor, modulation: Tensor, rows: int) -> Tensor:
        """One block.

        Args:
            x: Tokens ``[B, N, C]``.
            modulation: Of the time, ``[B, 6, C]``.
            rows: In which they stand.
        """
        parts = (self.scale_shift_table + modulation).unsqueeze(2).unbind(1)  # each [B, 1, C]
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.ff(self.norm2(x) * (1 + scale2) + shift2, rows)


class VelocityTransformer(nn.Module):
    """Velocity of the flow from a good picture to an enlarged one.

    Args:
        params: Its shape.
    """

    def __init__(self, params: SuperResolutionParams) -> None:
        super().__init__()
        channels, stem = params.channels, params.stem_channels
        self.hidden_size = channels
        self.stem = nn.Conv2d(2 * 3 * SCALE**2, stem, 3, padding=1)
        self.embed = nn.Conv2d(stem, channels, _FOLD, stride=_FOLD)
        self.time_embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, channels), nn.SiLU(), nn.Linear(channels, channels)
        )
        self.modulation = nn.Linear(channels, 6 * channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels) for _ in range(params.num_layers))
        self.norm_out = nn.LayerNorm(channels, eps=1e-6)
        self.unembed = nn.Conv2d(channels, _FOLD**2 * stem, 1)
        self.tail = nn.Conv2d(stem, 3 * SCALE**2, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(
        self, state: Tensor, low: Tensor, timestep: Tensor, *, keep: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Velocity, and what some blocks took.

        Args:
            state: Of the flow, ``[B, 3, H, W]`` in [-1, 1], with sides that are multiples of 8.
            low: Enlarged picture, where the flow begins, of that shape.
            timestep: 1000 times sigma, ``[B]``.
            keep: Indices of blocks whose inputs are returned.

        Returns:
            ``[B, 3, H, W]`` in fp32; and ``[B, N, C]`` for each kept block, in the order of the blocks.
        """
        dtype = self.tail.weight.dtype
        folded = functional.pixel_unshuffle(torch.cat((state, low), 1).to(dtype), SCALE)
        stem = functional.silu(self.stem(folded.contiguous(memory_format=torch.channels_last)))
        tokens = self.embed(stem)
        rows = tokens.shape[2]
        # Sums of many blocks, in fp32 under autocast too.
        x = tokens.flatten(2).transpose(1, 2).to(torch.promote_types(dtype, torch.float32))
        time = self.time_embed(_sinusoids(timestep).to(dtype))
        modulation = self.modulation(functional.silu(time)).unflatten(1, (6, -1))
        kept = []
        for i, block in enumerate(self.blocks):
            if i in keep:
                kept.append(x)
            x = block(x, modulation, rows)
        x = self.norm_out(x.to(dtype)).transpose(1, 2).unflatten(2, (rows, -1))
        details = functional.pixel_shuffle(self.unembed(x), _FOLD)
        velocity = self.tail(functional.silu(stem + details))
        return functional.pixel_shuffle(velocity, SCALE).float(), kept


def _sinusoids(timestep: Tensor) -> Tensor:
    """``[B, 2 F]`` of times ``[B]``, as in other diffusion models."""
    exponent = torch.arange(_FREQUENCIES, device=timestep.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(10_000) * exponent / _FREQUENCIES)
    angles = timestep.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), 1)


class SuperResolutionBase(SavedNetwork):
    """Upscaler and velocity transformer.

    Args:
        params: Their shapes.

    Example:
        >>> base = SuperResolutionBase(SuperResolutionParams(channels=64, num_layers=1)).eval()
        >>> small = torch.rand(1, 3, 8, 16) * 2 - 1
        >>> enlarged, estimate = base(small)
        >>> estimate.shape, torch.equal(estimate, enlarged)  # as yet
        (torch.Size([1, 3, 32, 64]), True)
    """

    model_type = MODEL_TYPE
    params_class = SuperResolutionParams
    stored_dtype = torch.float16

    def __init__(self, params: SuperResolutionParams) -> None:
        super().__init__()
        self.params = params
        self.upscaler = Upscaler(params.upscaler_channels, params.upscaler_blocks)
        self.transformer = VelocityTransformer(params)

    def velocity(
        self, state: Tensor, low: Tensor, sigma: float, *, keep: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Velocity of states at a level, and inputs of kept blocks, as :class:`VelocityTransformer` has them."""
        timestep = torch.full((len(state),), 1000 * sigma, device=state.device)
        found: tuple[Tensor, list[Tensor]] = self.transformer(state, low, timestep, keep=keep)
        return found

    def forward(self, small: Tensor) -> tuple[Tensor, Tensor]:
        """The enlarged picture, and the estimate of the good one after one step, which has no gradient to the former.

        Args:
            small: ``[B, 3, h, w]`` in [-1, 1], with even sides.

        Returns:
            Two pictures ``[B, 3, 4 h, 4 w]`` in fp32, not clamped.
        """
        low = self.upscaler(small)
        state = low.detach()
        velocity, _ = self.velocity(state, state, self.params.sigma)
        return low, state - self.params.sigma * velocity

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Load a model folder, in evaluation mode, as fp32 in channels-last layout; raises as the base does."""
        return super().from_pretrained(folder).to(memory_format=torch.channels_last)
