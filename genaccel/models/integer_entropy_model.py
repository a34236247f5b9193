# SPDX-License-Identifier: Apache-2.0
"""The masked entropy model (RDVQ, arXiv 2604.10546) in integers: the same logits on every machine.

Floating-point sums depend on their order, so on the machine, the number of threads and the batch; a decoder whose
probabilities differ from the encoder's in one bit reads garbage. Here weights and activations are int8, sums int32,
the residual stream int32 fixed point, and softmax, norms and gates integer arithmetic: exact by construction, in
:meth:`IntegerEntropyModel.step` as in :meth:`IntegerEntropyModel.forward`, so the encoder needs no slice-by-slice pass.

``genaccel.models.integer_export`` makes such a model of a trained one; here no floating-point number occurs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genaccel import ops
from genaccel.models.masked_entropy_model import MaskedEntropyParams
from genaccel.models.ranges import require_whole
from genaccel.models.saved_network import SavedNetwork

SEED_BITS = 14  # fraction bits of the weights of an up-sampling
SEED_TAPS = 16  # bicubic: 4 x 4

_SHIFTS = ops.integer.MIN_SHIFT, ops.integer.MAX_SHIFT

# More windows at once leave the second-level cache of a core.
WINDOWS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegerBlockParams:
    """Scales of a block, which the operators of ``genaccel.ops`` take as numbers.

    Attributes:
        attention_gain: Gain of the norm before the attention.
        query_key_shift: Shift of the projection to queries and keys.
        value_shift: Shift of the projection to values.
        average_gain: Gain of the attention's output.
        projection_shift: Shift of the attention's projection back to the residual stream.
        feed_forward_gain: Gain of the norm before the feed-forward network.
        expansion_shift: Shift of the projection to gates and values.
        gate_shift: Shift of the product of gates and values.
        contraction_shift: Shift of the feed-forward's projection back to the residual stream.
    """

    attention_gain: int = 1
    query_key_shift: int = 32
    value_shift: int = 32
    average_gain: int = 256
    projection_shift: int = 32
    feed_forward_gain: int = 1
    expansion_shift: int = 32
    gate_shift: int = 1
    contraction_shift: int = 32

    def __post_init__(self) -> None:
        for name in ("attention_gain", "feed_forward_gain"):
            require_whole(name, getattr(self, name), 1, ops.integer.MAX_GAIN)
        require_whole("average_gain", self.average_gain, 1, ops.integer.MAX_ATTENTION_GAIN)
        require_whole("gate_shift", self.gate_shift, 1, 30)
        for name in (
            "query_key_shift",
            "value_shift",
            "projection_shift",
            "expansion_shift",
            "contraction_shift",
        ):
            require_whole(name, getattr(self, name), *_SHIFTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegerEntropyParams:
    """Configuration of the network: all of it except its tensors.

    Attributes:
        entropy: Params of the floating-point model that it was made of.
        blocks: One entry per layer.
        epsilon: Epsilon of all norms.
        output_gain: Gain of the last norm.
        output_shift: Shift of the projection to logits.
        fraction_bits: Fraction bits of the logits, which count octaves.
    """

    entropy: MaskedEntropyParams
    blocks: tuple[IntegerBlockParams, ...]
    epsilon: int = 0
    output_gain: int = 1
    output_shift: int = 32
    fraction_bits: int = 10

    def __post_init__(self) -> None:
        require_whole("epsilon", self.epsilon, 0, 2**62 - 1)
        require_whole("output_gain", self.output_gain, 1, ops.integer.MAX_GAIN)
        require_whole("output_shift", self.output_shift, *_SHIFTS)
        require_whole("fraction_bits", self.fraction_bits, 0, 16)
        if self.entropy.width // self.entropy.heads > ops.integer.MAX_HEAD_CHANNELS:
            raise ValueError(
                f"a head must have at most {ops.integer.MAX_HEAD_CHANNELS} channels, "
                f"got {self.entropy.width // self.entropy.heads}"
            )
        if len(self.blocks) != self.entropy.layers:
            raise ValueError(
                f"blocks must have one entry for each of {self.entropy.layers} layers, "
                f"got {len(self.blocks)}"
            )
        if self.entropy.slice_order.num_tokens > ops.integer.MAX_KEYS:
            raise ValueError(
                f"a window must have at most {ops.integer.MAX_KEYS} tokens, "
                f"got {self.entropy.slice_order.num_tokens}"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; ``from_dict`` reads it back."""
        return {**dataclasses.asdict(self), "blocks": [dataclasses.asdict(b) for b in self.blocks]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IntegerEntropyParams:
        """Build from ``to_dict`` output.

        Raises:
            ValueError: For unknown or missing keys, or values out of range.
        """
        rest = dict(values)
        try:
            entropy = MaskedEntropyParams.from_dict(rest.pop("entropy"))
            blocks = rest.pop("blocks")
            if not isinstance(blocks, list | tuple):
                raise ValueError("blocks must be a list")
            if len(blocks) != entropy.layers:
                raise ValueError(
                    f"blocks must have one entry for each of {entropy.layers} layers, got {len(blocks)}"
                )
            made = tuple(IntegerBlockParams(**block) for block in blocks)
            return cls(entropy=entropy, blocks=made, **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"integer entropy configuration does not fit: {error}") from error


class IntegerLinear(nn.Module):
    """Weights and scales of :func:`genaccel.ops.integer_linear`."""

    weight: Tensor
    multiplier: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("multiplier", torch.zeros(outputs, dtype=torch.int32))

    def forward(self, x: Tensor, shift: int, output_bits: int) -> Tensor:  # [..., I] -> [..., O]
        return ops.integer_linear(x, self.weight, self.multiplier, shift, output_bits)


class IntegerBlock(nn.Module):
    """Attention and feed-forward network around shortcuts."""

    temperature: Tensor
    gate_table: Tensor

    def __init__(self, params: MaskedEntropyParams, scales: IntegerBlockParams) -> None:
        super().__init__()
        self.scales = scales
        self.heads = params.heads
        width, hidden = params.width, params.feed_forward_width
        self.query_key = IntegerLinear(width, 2 * width)
        self.value = IntegerLinear(width, width)
        self.projection = IntegerLinear(width, width)
        self.expansion = IntegerLinear(width, 2 * hidden)  # gates, then values
        self.contraction = IntegerLinear(hidden, width)
        self.register_buffer("temperature", torch.zeros(params.heads, dtype=torch.int32))
        self.register_buffer("gate_table", torch.zeros(256, dtype=torch.int16))

    def forward(
        self,
        x: Tensor,
        rotations: Tensor,
        visible: Tensor,
        epsilon: int,
        cache: IntegerCache | None,
        start: int,
    ) -> Tensor:
        """int32 ``[B, n, width]`` of the tokens from ``start`` on; without a cache these are all."""
        batch, tokens, width = x.shape
        scales, heads = self.scales, self.heads
        normed = ops.integer_rms_norm(x, scales.attention_gain, epsilon)
        pair = self.query_key(normed, scales.query_key_shift, 16)
        pair = pair.view(batch, tokens, 2 * heads, width // heads)
        query, key = ops.integer_rotate_normalize(pair, rotations).chunk(2, dim=2)
        value = self.value(normed, scales.value_shift, 8)
        value = value.view(batch, tokens, heads, width // heads)
        if cache is not None:
            cache.key[:, start : start + tokens] = key
            cache.value[:, start : start + tokens] = value
            key, value = cache.key, cache.value
        mixed = ops.integer_attention(
            query, key, value, visible, self.temperature, scales.average_gain
        )
        x = x + self.projection(mixed.flatten(2), scales.projection_shift, 32)
        normed = ops.integer_rms_norm(x, scales.feed_forward_gain, epsilon)
        expanded = self.expansion(normed, scales.expansion_shift, 8)
        gated = ops.integer_gate(expanded, self.gate_table, scales.gate_shift)
        return x.add_(self.contraction(gated, scales.contraction_shift, 32))


class IntegerCache(NamedTuple):
    """Keys and values of a block, int8 ``[B, n, H, D]`` of n tokens; what is not yet known is not read."""

    key: Tensor
    value: Tensor


@dataclass(kw_only=True, slots=True)
class IntegerDecodingState:
    """State of a slice-by-slice pass over a batch of windows.

    Attributes:
        caches: int8 ``[2 * layers, B, n, H, D]``, keys and values in turn, with room for the n tokens up to the end of
            the current scale. One tensor, so that the system gets it back as soon as it is done with.
        next_slice: Number of the slice that the next step predicts.
        slices: Indices int64 ``[B, m]`` of each slice but the last that was predicted.
    """

    caches: Tensor
    next_slice: int = 0
    slices: tuple[Tensor, ...] = ()

    @property
    def batch(self) -> int:
        """Number of windows, B."""
        return self.caches.shape[1]

    def part(self, windows: slice) -> IntegerDecodingState:
        """State of some of the windows, on the same caches: a step with it does not advance this state."""
        return IntegerDecodingState(
            caches=self.caches[:, windows],
            next_slice=self.next_slice,
            slices=tuple(indices[windows] for indices in self.slices),
        )

    def repeated(self, batch: int) -> IntegerDecodingState:
        """The state of a batch of windows, of that of one before its first indices are known."""
        return IntegerDecodingState(
            caches=self.caches.repeat(1, batch, 1, 1, 1), next_slice=self.next_slice
        )


class IntegerEntropyModel(SavedNetwork):
    """Integer logits of every token's index, given the indices of all slices before its own.

    :meth:`step` and :meth:`forward` give equal logits, on any device, with any batch and number of threads.

    Args:
        params: Configuration; the tensors are zeros until :meth:`load_state_dict`.
    """

    model_type = "integer-entropy-model"
    params_class = IntegerEntropyParams
    params: IntegerEntropyParams
    embedding: Tensor  # int32 [K, width]: what a code word adds to the residual stream
    start_token: Tensor  # int32 [width]
    rotations: Tensor  # int16 [L, head_dim / 2, 2], in slice order
    by_slice: Tensor
    from_slice: Tensor
    visible: Tensor  # int32 [L], in slice order: how many tokens each reads

    def __init__(self, params: IntegerEntropyParams) -> None:
        super().__init__()
        self.params = params
        entropy = params.entropy
        self.slice_order = order = entropy.slice_order
        width, tokens = entropy.width, order.num_tokens
        self.register_buffer("embedding", torch.zeros(entropy.codebook_size, width).int())
        self.register_buffer("start_token", torch.zeros(width).int())
        pairs = width // entropy.heads // 2
        self.register_buffer("rotations", torch.zeros(tokens, pairs, 2).short())
        for scale in range(1, entropy.num_scales):
            seeds = order.slice_sizes[order.scale_starts[scale]]
            # Which tokens of the scale before, in slice order, make a seed, and their weights.
            self.register_buffer(f"seed_taps_{scale}", torch.zeros(seeds, SEED_TAPS).long())
            self.register_buffer(f"seed_weights_{scale}", torch.zeros(seeds, SEED_TAPS).short())
        self.blocks = nn.ModuleList(IntegerBlock(entropy, scales) for scales in params.blocks)
        self.output = IntegerLinear(width, entropy.codebook_size)

        by_slice = torch.tensor(order.tokens_by_slice())
        starts = order.slice_starts
        visible = [
            starts[t + 1] if t == 0 or entropy.attends_own_slice else starts[t]
            for t, size in enumerate(order.slice_sizes)
            for _ in range(size)
        ]
        # These follow from the params, so they are not stored.
        self.register_buffer("by_slice", by_slice, persistent=False)
        self.register_buffer("from_slice", by_slice.argsort(), persistent=False)
        self.register_buffer("visible", torch.tensor(visible).int(), persistent=False)

    def check_tensors(self) -> None:
        """Refuse taps beyond the tokens that they are taken of, as the base says."""
        for scale in range(1, self.params.entropy.num_scales):
            taps, tokens = (
                self.get_buffer(f"seed_taps_{scale}"),
                self.slice_order.grid_sides[scale - 1] ** 2,
            )
            if int(taps.min()) < 0 or int(taps.max()) >= tokens:
                raise ValueError(f"seed_taps_{scale} must be in [0, {tokens})")

    def _seeds(self, indices: Tensor, scale: int) -> Tensor:
        """Input of the first slice of ``scale``: int32 ``[B, n, width]`` of the scale before, ``[B, m]``."""
        taps = self.get_buffer(f"seed_taps_{scale}")
        weights = self.get_buffer(f"seed_weights_{scale}")
        total = torch.full((), 1 << (SEED_BITS - 1), dtype=torch.int64, device=taps.device)
        for tap in range(SEED_TAPS):  # one by one: all at once would be 16 times the memory
            total = total + self.embedding[indices[:, taps[:, tap]]] * weights[:, tap, None].long()
        return (total >> SEED_BITS).int()

    def _queries(self, indices: Tensor) -> Tensor:
        """Input of every position: everything shifted by one slice; int32 ``[B, L, width]`` in slice order."""
        order = self.slice_order
        starts, sizes, scale_starts = order.slice_starts, order.slice_sizes, order.scale_starts
        ordered = indices[:, self.by_slice]
        pieces = [self.start_token.expand(len(indices), sizes[0], -1)]
        for scale in range(self.params.entropy.num_scales):
            begin, end = starts[scale_starts[scale]], starts[scale_starts[scale + 1]]
            if scale:
                before = ordered[:, starts[scale_starts[scale - 1]] : begin]
                pieces.append(self._seeds(before, scale))
            pieces.append(self.embedding[ordered[:, begin : end - sizes[scale_starts[scale]]]])
        return torch.cat(pieces, dim=1)

    def _logits(self, x: Tensor, caches: Tensor | None, start: int) -> Tensor:
        """int32 ``[B, n, K]`` for inputs ``[B, n, width]`` of the tokens from ``start`` on."""
        end, epsilon = start + x.shape[1], self.params.epsilon
        rotations, visible = self.rotations[start:end], self.visible[start:end]
        for number, block in enumerate(self.blocks):
            cache = None if caches is None else IntegerCache(*caches[2 * number : 2 * number + 2])
            x = block(x, rotations, visible, epsilon, cache, start)
        normed = ops.integer_rms_norm(x, self.params.output_gain, epsilon)
        logits: Tensor = self.output(normed, self.params.output_shift, 32)
        return logits

    def forward(self, indices: Tensor, *, in_slice_order: bool = False) -> Tensor:
        """Logits of all tokens in one pass over the true indices: what an encoder needs.

        Args:
            indices: int64 ``[B, L]`` in [0, K), scale by scale, row-major; one batch entry is one window.
            in_slice_order: Leave the logits as the network makes them, slice by slice.

        Returns:
            int32 ``[B, L, K]``, octaves with ``params.fraction_bits``.

        Raises:
            ValueError: For another shape.
        """
        tokens = self.slice_order.num_tokens
        if indices.ndim != 2 or indices.shape[1] != tokens:
            raise ValueError(f"indices must have shape [B, {tokens}], got {tuple(indices.shape)}")
        parts = []
        for chunk in indices.split(WINDOWS_AT_ONCE):
            part = self._logits(self._queries(chunk), None, 0)
            parts.append(part if in_slice_order else part[:, self.from_slice])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def begin(self, batch: int) -> IntegerDecodingState:
        """State before the first slice of ``batch`` windows."""
        entropy = self.params.entropy
        shape = (2 * len(self.blocks), batch, 0, entropy.heads, entropy.width // entropy.heads)
        return IntegerDecodingState(
            caches=torch.empty(shape, dtype=torch.int8, device=self.embedding.device)
        )

    def make_room(self, state: IntegerDecodingState) -> None:
        """Let the caches hold the scale of the next slice, as :meth:`step` does by itself.

        Scale by scale: the finest has most of the tokens, and damaged files do not get there.
        """
        order = self.slice_order
        end = next(order.slice_starts[s] for s in order.scale_starts if s > state.next_slice)
        known = state.caches.shape[2]
        if known < end:
            shape = (*state.caches.shape[:2], end, *state.caches.shape[3:])
            room = state.caches.new_empty(shape)
            room[:, :, :known] = state.caches
            state.caches = room

    def step(self, state: IntegerDecodingState, indices: Tensor | None = None) -> Tensor:
        """Logits of the next slice.

        Args:
            state: Of :meth:`begin`; changed in place.
            indices: int64 ``[B, n]`` of the slice that the last step predicted, row-major; None in the first.

        Returns:
            int32 ``[B, n, K]`` for the tokens ``tokens_of_slice(t)`` of slice t.

        Raises:
            ValueError: If the indices are missing or have another shape, or there is no slice left.
        """
        order, t = self.slice_order, state.next_slice
        if t == order.num_slices:
            raise ValueError(f"all {order.num_slices} slices are predicted already")
        if t == 0:
            if indices is not None:
                raise ValueError("indices must be None in the first step: no slice is known")
            x = self.start_token.expand(state.batch, order.slice_sizes[0], -1)
        else:
            expected = (state.batch, order.slice_sizes[t - 1])
            if indices is None or tuple(indices.shape) != expected:
                got = None if indices is None else tuple(indices.shape)
                raise ValueError(f"indices of slice {t - 1} must be {expected}, got {got}")
            state.slices += (indices,)
            if t in order.scale_starts:
                scale = order.scale_starts.index(t)
                before = torch.cat(state.slices[order.scale_starts[scale - 1] :], dim=1)
                x = self._seeds(before, scale)
            else:
                x = self.embedding[indices]
        self.make_room(state)
        state.next_slice = t + 1
        return self._logits(x, state.caches, order.slice_starts[t])

    def tokens_of_slice(self, number: int) -> Tensor:
        """Positions ``[n]`` of a slice's tokens in the flattened sequence, row-major."""
        starts = self.slice_order.slice_starts
        return self.by_slice[starts[number] : starts[number + 1]]

    def digest(self) -> str:
        """SHA-256 of all that decides the logits, as hexadecimal: equal digests decode each other's files."""
        sha = hashlib.sha256(json.dumps(self.params.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()
