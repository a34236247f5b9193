# SPDX-License-Identifier: Apache-2.0
"""Masked transformer that predicts the indices of a multi-scale quantiser (RDVQ, arXiv 2604.10546, section 3.3).

    code vectors of the slices so far -> shifted by one slice -> transformer -> logits of the next slice

A position is fed no token of its own but one of the slice before (or, where a scale begins, of the whole scale
before), so a pass over the true tokens predicts every slice at once. It takes code vectors and not indices:
the straight-through gradient of the quantiser passes on to the encoder.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from genaccel.files.untrusted import shown
from genaccel.layers.cosine_attention import CosineAttention, KeyValueCache
from genaccel.layers.rotary_position import grid_rotations
from genaccel.models.ranges import require_bool, require_whole
from genaccel.models.saved_network import SavedNetwork
from genaccel.models.slice_order import SliceOrder

_NORM_EPSILON = 1e-5
_INITIAL_STD = 0.02

_RANGES = {
    "codebook_size": (2, 2**15),
    "codebook_dim": (1, 1024),
    "num_scales": (1, 8),
    "window_side": (2, 64),
    "width": (1, 8192),
    "layers": (1, 128),
    "heads": (1, 256),
    "feed_forward_width": (1, 32768),
}
# Masks have its square.
_MAX_TOKENS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedEntropyParams:
    """Configuration of the network.

    Attributes:
        codebook_size: Code words K, so logits per token.
        codebook_dim: Channels C of a code word.
        num_scales: Scales of the quantiser.
        window_side: Tokens on a side of the coarsest grid of a window.
        width: Channels of the residual stream.
        layers: Transformer blocks.
        heads: Attention heads; ``width / heads`` is a multiple of 4 for the 2-D rotation.
        feed_forward_width: Hidden channels of the gated feed-forward network.
        dropout: Probability of dropout in training, on the tokens and on both branches of a block.
        attends_own_slice: Whether positions of a slice read each other; the authors' do not.
        first_slice_without_position: Zero queries and keys in slice 0, whose rows of the published rotation table
            are zero: its positions read each other evenly, and weigh as logit 0 for all others.
    """

    codebook_size: int = 4096
    codebook_dim: int = 32
    num_scales: int = 3
    window_side: int = 4
    width: int = 768
    layers: int = 12
    heads: int = 8
    feed_forward_width: int = 2048
    dropout: float = 0.1
    attends_own_slice: bool = False
    first_slice_without_position: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            require_whole(name, getattr(self, name), low, high)
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width must be a multiple of 4 * heads = {4 * self.heads}, got {self.width}"
            )
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {shown(self.dropout)}")
        for name in ("attends_own_slice", "first_slice_without_position"):
            require_bool(name, getattr(self, name))
        if self.slice_order.num_tokens > _MAX_TOKENS:
            raise ValueError(
                f"a window must have at most {_MAX_TOKENS} tokens, got {self.slice_order.num_tokens}"
            )

    @property
    def slice_order(self) -> SliceOrder:
        """Slices of a window."""
        return SliceOrder(num_scales=self.num_scales, window_side=self.window_side)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskedEntropyParams:
        """Build from ``to_dict`` output.

        Raises:
            ValueError: For unknown keys, or values out of range.
        """
        try:
            return cls(**dict(values))
        except (TypeError, ValueError) as error:
            raise ValueError(f"entropy model configuration does not fit: {error}") from error


PRESETS: Mapping[str, MaskedEntropyParams] = {
    # 88.1 M parameters; its windows cover 256x256 pixels of the autoencoder's preset "paper".
    "paper": MaskedEntropyParams(),
    # For the autoencoder's preset "small"; dataclasses.replace adapts it to another codebook.
    "small": MaskedEntropyParams(
        codebook_size=1024,
        codebook_dim=8,
        width=128,
        layers=4,
        heads=4,
        feed_forward_width=384,
        attends_own_slice=True,  # 2 to 3 % less rate on held-out photographs, after 200 steps each
        first_slice_without_position=False,
    ),
}


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202): ``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, N, width]
        output = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return functional.dropout(output, self.dropout, self.training)


class Block(nn.Module):
    """Attention and feed-forward network, each behind a norm and around a shortcut."""

    def __init__(self, params: MaskedEntropyParams) -> None:
        super().__init__()
        self.attention = CosineAttention(params.width, params.heads, params.dropout)
        self.feed_forward = FeedForward(params.width, params.feed_forward_width, params.dropout)
        self.attention_norm = nn.RMSNorm(params.width, eps=_NORM_EPSILON)
        self.ffn_norm = nn.RMSNorm(params.width, eps=_NORM_EPSILON)

    def forward(self, x: Tensor, rotations: Tensor, mask: Tensor) -> Tensor:  # [B, L, width]
        x = x + self.attention(self.attention_norm(x), rotations, mask)
        return x + self.feed_forward(self.ffn_norm(x))

    def step(
        self, x: Tensor, rotations: Tensor, cache: KeyValueCache, *, attends_own: bool
    ) -> Tensor:  # [B, n, width]
        x = x + self.attention.step(
            self.attention_norm(x), rotations, cache, attends_own=attends_own
        )
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """Blocks, a norm, and the projection to logits."""

    def __init__(self, params: MaskedEntropyParams) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(params) for _ in range(params.layers))
        self.norm = nn.RMSNorm(params.width, eps=_NORM_EPSILON)
        self.output = nn.Linear(params.width, params.codebook_size, bias=False)


@dataclass(kw_only=True, slots=True)
class DecodingState:
    """State of a slice-by-slice pass over a batch of windows.

    Attributes:
        caches: Keys and values, one per block.
        next_slice: Number of the slice that the next step predicts.
        scale_so_far: Code vectors ``[B, n, C]`` of the slices of the current scale.
    """

    caches: list[KeyValueCache]
    next_slice: int = 0
    scale_so_far: list[Tensor] = field(default_factory=list)


class MaskedEntropyModel(SavedNetwork):
    """Logits of every token's index, given the code vectors of all slices before its own.

    A file decodes only with the weights that coded it: whoever saves them as fp16 has to load what was saved before
    coding.

    Parameter names are those of the published checkpoints. The logits of :meth:`step` equal those of
    :meth:`forward` but for rounding; a coder has to use :meth:`step` on both sides, with the same batch.

    Example:
        >>> import torch
        >>> model = MaskedEntropyModel(PRESETS["small"]).eval()
        >>> model(torch.zeros(2, 336, 8)).shape
        torch.Size([2, 336, 1024])
        >>> state = model.begin(2)
        >>> model.step(state).shape  # slice 0: 4 tokens in each of the 2 windows
        torch.Size([2, 4, 1024])
    """

    model_type = "entropy-model"
    params_class = MaskedEntropyParams
    params: MaskedEntropyParams
    by_slice: Tensor
    from_slice: Tensor
    mask: Tensor
    rotations: Tensor

    def __init__(self, params: MaskedEntropyParams) -> None:
        super().__init__()
        self.params = params
        self.slice_order = order = params.slice_order
        self.start_token = nn.Parameter(torch.zeros(1, 1, params.width))
        self.input_proj = nn.Linear(params.codebook_dim, params.width)
        self.transformer = Transformer(params)
        self._initialise()

        by_slice = torch.tensor(order.tokens_by_slice())
        mask = torch.tensor(order.attention_mask(attends_own_slice=params.attends_own_slice))
        rotations = grid_rotations(order.grid_sides, params.width // params.heads)[by_slice]
        if params.first_slice_without_position:
            rotations[: order.slice_sizes[0]] = 0
        # All follow from the params, so none is stored. Except for the two permutations, in slice order.
        self.register_buffer("by_slice", by_slice, persistent=False)
        self.register_buffer("from_slice", by_slice.argsort(), persistent=False)
        self.register_buffer("mask", mask[by_slice][:, by_slice], persistent=False)
        self.register_buffer("rotations", rotations, persistent=False)
        for scale in range(1, params.num_scales):
            seeds = self._seed_matrix(scale, by_slice)
            self.register_buffer(f"seed_matrix_{scale}", seeds, persistent=False)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.transformer.output.weight)  # log2 K bits a token, to begin with

    def _seed_matrix(self, scale: int, by_slice: Tensor) -> Tensor:
        """Bicubic up-sampling of the scale before, at the first slice of ``scale``: ``[n, tokens before]``."""
        sides, starts = self.slice_order.grid_sides, self.slice_order.slice_starts
        first = self.slice_order.scale_starts[scale]
        begin = starts[
            self.slice_order.scale_starts[scale - 1]
        ]  # the scale before, in either order
        side, end = sides[scale - 1], starts[first]
        basis = torch.eye(side**2, device=by_slice.device).view(side**2, 1, side, side)
        grown = functional.interpolate(basis, size=(sides[scale],) * 2, mode="bicubic")
        positions = by_slice[end : starts[first + 1]] - end
        return grown.flatten(1)[by_slice[begin:end] - begin][:, positions].T.contiguous()

    def _seeds(self, code_vectors: Tensor, scale: int) -> Tensor:
        """Input of the first slice of ``scale``, ``[B, n, C]``: the scale before up-sampled, in slice order."""
        return self.get_buffer(f"seed_matrix_{scale}").to(code_vectors.dtype) @ code_vectors

    def _embed(self, code_vectors: Tensor) -> Tensor:
        # Under autocast the residual stream stays as precise as the parameters.
        return self.input_proj(code_vectors).to(self.start_token.dtype)

    def _flatten(self, code_vectors: Tensor | Sequence[Tensor]) -> Tensor:
        order, channels = self.slice_order, self.params.codebook_dim
        if not isinstance(code_vectors, Tensor):
            shapes = [tuple(m.shape[1:]) for m in code_vectors]
            expected = [(channels, side, side) for side in order.grid_sides]
            if shapes != expected:
                raise ValueError(
                    f"code vector maps must have shapes [B, C, H, W] with {expected}, got {shapes}"
                )
            code_vectors = torch.cat([m.flatten(2) for m in code_vectors], dim=2).transpose(1, 2)
        if code_vectors.ndim != 3 or code_vectors.shape[1:] != (order.num_tokens, channels):
            raise ValueError(
                f"code vectors must have shape [B, {order.num_tokens}, {channels}], "
                f"got {tuple(code_vectors.shape)}"
            )
        return code_vectors

    def queries(self, code_vectors: Tensor) -> Tensor:
        """Input of the transformer at each position: the code vectors shifted by one slice.

        Args:
            code_vectors: ``[B, L, C]``, flattened sequence.

        Returns:
            ``[B, L, width]`` in slice order. The first slice holds the start token, the first slice of another
            scale the bicubic up-sampling of the scale before, and any other slice the slice before.
        """
        starts, sizes = self.slice_order.slice_starts, self.slice_order.slice_sizes
        scale_starts = self.slice_order.scale_starts
        ordered = code_vectors[:, self.by_slice]
        pieces = []
        for scale in range(self.params.num_scales):
            begin, end = starts[scale_starts[scale]], starts[scale_starts[scale + 1]]
            if scale:
                before = ordered[:, starts[scale_starts[scale - 1]] : begin]
                pieces.append(self._seeds(before, scale))
            pieces.append(ordered[:, begin : end - sizes[scale_starts[scale]]])
        start = self.start_token.expand(len(code_vectors), sizes[0], -1)
        return torch.cat([start, self._embed(torch.cat(pieces, dim=1))], dim=1)

    def forward(self, code_vectors: Tensor | Sequence[Tensor]) -> Tensor:
        """Logits of all tokens in one pass, teacher-forced; differentiable with respect to the code vectors.

        Args:
            code_vectors: ``[B, L, C]``, scale by scale, row-major; or one map ``[B, C, side, side]`` per scale,
                coarse to fine. One batch entry is one window.

        Returns:
            ``[B, L, K]``, scale by scale, row-major.

        Raises:
            ValueError: For another shape.
        """
        x = self.queries(self._flatten(code_vectors))
        x = functional.dropout(x, self.params.dropout, self.training)
        for block in self.transformer.layers:
            x = block(x, self.rotations, self.mask)
        return self.transformer.output(self.transformer.norm(x[:, self.from_slice]))

    def begin(self, batch: int) -> DecodingState:
        """State before the first slice of ``batch`` windows.

        Raises:
            RuntimeError: In training mode, where dropout would make every pass another one.
        """
        if self.training:
            raise RuntimeError("the model must be in evaluation mode to code: call eval()")
        head_dim = self.params.width // self.params.heads
        return DecodingState(
            caches=[
                KeyValueCache(
                    batch,
                    self.params.heads,
                    self.slice_order.num_tokens,
                    head_dim,
                    self.start_token.detach(),
                )
                for _ in self.transformer.layers
            ]
        )

    @torch.no_grad()
    def step(self, state: DecodingState, code_vectors: Tensor | None = None) -> Tensor:
        """Logits of the next slice.

        Args:
            state: Of :meth:`begin`; changed in place.
            code_vectors: ``[B, n, C]`` of the slice that the last step predicted, row-major; None in the first.

        Returns:
            ``[B, n, K]`` for the tokens ``tokens_of_slice(t)`` of slice t.

        Raises:
            ValueError: If the code vectors are missing or have another shape, or there is no slice left.
        """
        order, t = self.slice_order, state.next_slice
        if t == order.num_slices:
            raise ValueError(f"all {order.num_slices} slices are predicted already")
        batch = state.caches[0].batch
        if t == 0:
            if code_vectors is not None:
                raise ValueError("code_vectors must be None in the first step: no slice is known")
            x = self.start_token.expand(batch, order.slice_sizes[0], -1)
        else:
            expected = (batch, order.slice_sizes[t - 1], self.params.codebook_dim)
            if code_vectors is None or tuple(code_vectors.shape) != expected:
                got = None if code_vectors is None else tuple(code_vectors.shape)
                raise ValueError(f"code_vectors of slice {t - 1} must be {expected}, got {got}")
            state.scale_so_far.append(code_vectors)
            if t in order.scale_starts:
                known = torch.cat(state.scale_so_far, dim=1)
                code_vectors = self._seeds(known, order.scale_starts.index(t))
                state.scale_so_far.clear()
            x = self._embed(code_vectors)
        rotations = self.rotations[order.slice_starts[t] : order.slice_starts[t + 1]]
        attends_own = self.params.attends_own_slice or t == 0
        for block, cache in zip(self.transformer.layers, state.caches, strict=True):
            assert isinstance(block, Block)
            x = block.step(x, rotations, cache, attends_own=attends_own)
        state.next_slice = t + 1
        return self.transformer.output(self.transformer.norm(x))

    def tokens_of_slice(self, number: int) -> Tensor:
        """Positions ``[n]`` of a slice's tokens in the flattened sequence, row-major."""
        starts = self.slice_order.slice_starts
        return self.by_slice[starts[number] : starts[number + 1]]


def code_length_bits(logits: Tensor, indices: Tensor) -> Tensor:
    """Bits of each index, ``-log2 q(index)`` (equation 2), in fp32.

    Args:
        logits: ``[..., K]``.
        indices: ``[...]`` int64.

    Returns:
        ``[...]``.

    Example:
        >>> code_length_bits(torch.zeros(1, 3, 16), torch.zeros(1, 3, dtype=torch.int64))
        tensor([[4., 4., 4.]])
    """
    log_probabilities = functional.log_softmax(logits.float(), dim=-1)
    chosen = log_probabilities.gather(-1, indices.unsqueeze(-1)).squeeze(-1)
    return chosen / -math.log(2)
