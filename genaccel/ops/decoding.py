# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding: what becomes of a tree of guesses, draws by keyed noise, and the cache behind them.

These operators are for inference: none has a gradient, and tensors that want one are refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from genaccel import _library
from genaccel.ops._validate import (
    require_dimensions,
    require_dtype,
    require_float_tensor,
    require_int,
    require_no_gradient,
    require_same_kind,
    require_shape,
)

_library.load()

__all__ = [
    "accept_tree",
    "accept_tree_by_rejection",
    "compact_rows_",
    "draw_keyed",
    "path_similarity",
]


def _require_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(f"{name} must be on {other.device} as {other_name} is, got {value.device}")


def _require_indices(
    name: str, value: object, shape: Sequence[int], other_name: str, other: Tensor
) -> None:
    """An int64 tensor of this shape, on the device of another."""
    require_dtype(name, value, torch.int64)
    assert isinstance(value, Tensor)
    require_shape(name, value, shape)
    _require_device(name, value, other_name, other)


def _checked_tree(parents: Tensor, tokens: Tensor, depth: int) -> Tensor:
    """The parents as int64, once they and the tokens are a tree's."""
    require_dtype("tokens", tokens, torch.int64)
    require_dimensions("tokens", tokens, 2)
    if isinstance(parents, Tensor) and parents.dtype == torch.int32:
        parents = parents.long()
    _require_indices("parents", parents, tokens.shape[1:], "tokens", tokens)
    if not len(parents):
        raise ValueError("parents must have a root")
    require_int("depth", depth)
    if not 0 <= depth < 1 << 30:
        raise ValueError(f"depth must be at least 0, got {depth}")
    return parents.contiguous()


def accept_tree(
    parents: Tensor, tokens: Tensor, drawn: Tensor, depth: int
) -> tuple[Tensor, Tensor]:
    """Follow what was drawn down a tree of guesses, from its root on; one tree for each of S sequences.

    From a node the walk goes on to the first of its children that has the token which was drawn after the node.

    Args:
        parents: Of each node, int32 or int64 ``[N]``; node 0 is the root, whose entry is not looked at, and a parent
            stands before its children. A node whose parent does not exist is never reached.
        tokens: Guesses, int64 ``[S, N]``; the root's are not looked at.
        drawn: Token that was drawn after each node, int64 ``[S, N]``.
        depth: Of the tree: guesses of the longest path. No more are followed.

    Returns:
        The nodes that were reached, int64 ``[S, depth + 1]`` from the root on and -1 behind the last, and their number,
        int64 ``[S]``, at least 1.

    Raises:
        TypeError: For another dtype, or a depth that is no int.
        ValueError: For another shape or device, a tree without a root, or a depth below 0.

    Example:
        >>> import torch
        >>> accept_tree(torch.tensor([0, 0, 0, 1]), torch.tensor([[0, 5, 6, 7]]), torch.tensor([[5, 7, 1, 2]]), 2)
        (tensor([[0, 1, 3]]), tensor([3]))
    """
    parents = _checked_tree(parents, tokens, depth)
    _require_indices("drawn", drawn, tokens.shape, "tokens", tokens)
    return torch.ops.genaccel.accept_tree.default(
        parents, tokens.contiguous(), drawn.contiguous(), depth
    )


@torch.library.register_fake("genaccel::accept_tree")
def _accept_tree_fake(
    parents: Tensor, tokens: Tensor, drawn: Tensor, depth: int
) -> tuple[Tensor, Tensor]:
    return tokens.new_empty(tokens.shape[0], depth + 1), tokens.new_empty(tokens.shape[0])


def accept_tree_by_rejection(
    parents: Tensor,
    tokens: Tensor,
    log_weights: Tensor,
    uniforms: Tensor,
    depth: int,
    *,
    neighbours: Tensor | None = None,
    lenders: int = 0,
    delta: float = 0.0,
    is_original: bool = False,
    draft_probabilities: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Accept guesses by rejection sampling from the root down, the siblings one after the other.

    Without ``draft_probabilities`` the guesses count as deterministic: one is accepted with the probability that is left
    to it, and a rejected one is struck out of the distribution. With them, siblings were drawn without replacement, and a
    rejected one takes what the drafter gave it out of the distribution (SpecInfer, arXiv:2305.09781). With
    ``neighbours``, a guess borrows the probability of the longest run of its nearest neighbours whose sum stays within
    the bound (LANTERN, arXiv:2410.03355). :func:`genaccel.reference.accept_tree_by_rejection` is the rule in full.

    Probabilities have the dtype of ``log_weights``, their sums are float64. Devices may decide otherwise only where a
    uniform number, or a sum of what is lent, is within some roundings of its bound.

    Args:
        parents: Of each node, int32 or int64 ``[N]``; node 0 is the root, and a parent stands before its children.
        tokens: Guesses, int64 ``[S, N]``, below V; the root's are not looked at.
        log_weights: Of the target after each node, as they will be drawn from, float32 or float64 ``[S, N, V]``.
        uniforms: Numbers in [0, 1), float64 ``[S, N]``; the i-th is for the i-th guess that is looked at.
        depth: Of the tree: guesses of the longest path. No more are accepted.
        neighbours: Other tokens by rising distance, int64 ``[K, n]`` with K up to V; tokens from K on borrow from none, as
            by default all do.
        lenders: Of the neighbours that lend at most, up to n.
        delta: Up to 1, the probability that all guesses after one token borrow at most together; above 1, ``delta - 1``
            times its own for each of them.
        is_original: As the authors' code does: each guess may borrow delta anew, and ``lenders + 1`` neighbours go with a
            rejected one that could borrow, not only those that lend.
        draft_probabilities: Of the drafter after the first M nodes, among them all that have children, ``[S, M, V]``.

    Returns:
        The nodes that were accepted, int64 ``[S, depth + 1]`` from the root on and -1 behind the last; their number,
        int64 ``[S]``; the probabilities that the token behind the last one is drawn by, ``[S, V]``; and how many of the
        guesses that were accepted only what they borrowed let pass, int64 ``[S]``.

    Raises:
        TypeError: For another dtype.
        ValueError: For another shape, device or range, or a gradient wanted.
        RuntimeError: For tokens that do not exist, or a node with children that the drafter's rows lack, on a CPU; on a
            GPU they count as the first.

    Example:
        >>> import torch
        >>> chain, tokens = torch.tensor([0, 0]), torch.tensor([[0, 1]])
        >>> logits = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]]).log()
        >>> accept_tree_by_rejection(chain, tokens, logits, torch.tensor([[0.75, 0.0]]).double(), 1)
        (tensor([[ 0, -1]]), tensor([1]), tensor([[0.6667, 0.0000, 0.3333]]), tensor([0]))
    """
    parents = _checked_tree(parents, tokens, depth)
    require_float_tensor("log_weights", log_weights)
    require_dimensions("log_weights", log_weights, 3)
    vocabulary = log_weights.shape[2]
    require_shape("log_weights", log_weights, (*tokens.shape, vocabulary))
    if vocabulary == 0:
        raise ValueError("log_weights must have a token")
    _require_device("log_weights", log_weights, "tokens", tokens)
    require_no_gradient("accept_tree_by_rejection", log_weights=log_weights)
    require_dtype("uniforms", uniforms, torch.float64)
    require_shape("uniforms", uniforms, tokens.shape)
    _require_device("uniforms", uniforms, "tokens", tokens)
    if neighbours is not None:
        require_dtype("neighbours", neighbours, torch.int64)
        require_dimensions("neighbours", neighbours, 2)
        _require_device("neighbours", neighbours, "tokens", tokens)
        if len(neighbours) > vocabulary:
            raise ValueError(
                f"neighbours must be of at most {vocabulary} tokens, got {len(neighbours)}"
            )
        require_int("lenders", lenders)
        if not 0 <= lenders <= neighbours.shape[1]:
            raise ValueError(
                f"lenders must be in [0, {neighbours.shape[1]}], the number of neighbours, got {lenders}"
            )
        neighbours = neighbours.contiguous()
    if not 0 <= delta < math.inf:
        raise ValueError(f"delta must be at least 0 and finite, got {delta}")
    if draft_probabilities is not None:
        require_float_tensor("draft_probabilities", draft_probabilities)
        require_same_kind("draft_probabilities", draft_probabilities, "log_weights", log_weights)
        require_dimensions("draft_probabilities", draft_probabilities, 3)
        inner = draft_probabilities.shape[1]
        require_shape("draft_probabilities", draft_probabilities, (len(tokens), inner, vocabulary))
        if not 1 <= inner <= tokens.shape[1]:
            raise ValueError(
                f"draft_probabilities must be of 1 to {tokens.shape[1]} nodes, got {inner}"
            )
        require_no_gradient("accept_tree_by_rejection", draft_probabilities=draft_probabilities)
        draft_probabilities = draft_probabilities.contiguous()
    return torch.ops.genaccel.accept_tree_by_rejection.default(
        parents,
        tokens.contiguous(),
        log_weights.contiguous(),
        uniforms.contiguous(),
        neighbours,
        draft_probabilities,
        lenders,
        float(delta),
        is_original,
        depth,
    )


@torch.library.register_fake("genaccel::accept_tree_by_rejection")
def _accept_tree_by_rejection_fake(
    parents: Tensor,
    tokens: Tensor,
    log_weights: Tensor,
    uniforms: Tensor,
    neighbours: Tensor | None,
    draft_probabilities: Tensor | None,
    lenders: int,
    delta: float,
    is_original: bool,
    depth: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = tokens.shape[0]
    return (
        tokens.new_empty(count, depth + 1),
        tokens.new_empty(count),
        log_weights.new_empty(count, log_weights.shape[2]),
        tokens.new_empty(count),
    )


def compact_rows_(
    states: Sequence[Tensor], sources: Tensor, starts: Tensor, counts: Tensor
) -> None:
    """Move rows of a cache to the front, in place, in all of its tensors at once.

    In sequence b the row ``sources[b, k]`` goes to ``starts[b] + k``, for the k below ``counts[b]``. Sources rise, and
    none stands before its target, so that no row is written over before it was read. What is behind stays as it is.

    Args:
        states: Tensors ``[B, H, L, C]`` of one shape, dtype (any) and device, each of which may have its own strides,
            with a contiguous last dimension. They are written to: no two of their elements may share memory.
        sources: Rows, int64 ``[B, K]``; what is behind ``counts`` is not looked at.
        starts: First target of each sequence, int64 ``[B]``.
        counts: Rows that move, int64 ``[B]``, up to K.

    Raises:
        TypeError: For another dtype, or more than one.
        ValueError: For another shape or device, or a gradient wanted.
        RuntimeError: For strides or addresses by which what is written could overlap, or on a CPU for rows that do not
            exist or do not rise; on a GPU, rows that do not exist are left alone.

    Example:
        >>> import torch
        >>> keys = torch.arange(5.0).view(1, 1, 5, 1)
        >>> compact_rows_([keys], torch.tensor([[2, 4]]), torch.tensor([1]), torch.tensor([2]))
        >>> keys.flatten()
        tensor([0., 2., 4., 3., 4.])
    """
    states = list(states)
    require_dtype("sources", sources, torch.int64)
    require_dimensions("sources", sources, 2)
    _require_indices("starts", starts, sources.shape[:1], "sources", sources)
    _require_indices("counts", counts, sources.shape[:1], "sources", sources)
    wants_gradients = torch.is_grad_enabled()
    for number, tensor in enumerate(states):
        # Some hundred tensors a call: names are put together only for messages.
        if (
            not isinstance(tensor, Tensor)
            or tensor.dtype is not states[0].dtype
            or tensor.shape != states[0].shape
            or tensor.device != sources.device
            or (wants_gradients and tensor.requires_grad)
            or (number == 0 and (tensor.ndim != 4 or len(tensor) != len(sources)))
        ):
            _raise_unlike(states, number, sources)
    torch.ops.genaccel.compact_rows_.default(
        states, sources.contiguous(), starts.contiguous(), counts.contiguous()
    )


@torch.library.register_fake("genaccel::compact_rows_")
def _compact_rows_fake(
    states: list[Tensor], sources: Tensor, starts: Tensor, counts: Tensor
) -> None:
    return None


def _raise_unlike(states: list[Tensor], number: int, sources: Tensor) -> None:
    """Raise for a tensor that is not as it should be."""
    first, name, value = states[0], f"states[{number}]", states[number]
    for title, tensor in (("states[0]", first), (name, value)):
        require_dtype(title, tensor, getattr(first, "dtype", torch.float32))
    require_dimensions("states[0]", first, 4)
    require_shape("states[0]", first, (len(sources), *first.shape[1:]))
    require_shape(name, value, first.shape)
    _require_device(name, value, "sources", sources)
    require_no_gradient("compact_rows_", **{name: value})


def draw_keyed(log_weights: Tensor, seed: int, sequences: Tensor, positions: Tensor) -> Tensor:
    """Draw a token of each row with probabilities proportional to ``exp(log_weights)``, by noise that belongs to its place.

    The token with the largest sum of log-weight and Gumbel number is drawn, the first of equal ones. The number is a
    function of seed, sequence, position and token alone, by integer arithmetic (splitmix64), and sums are float64: so
    every device draws the same token, unless the two largest sums are within some 1e-14 of each other, where the last
    bit of a logarithm decides. No noise is stored.

    Args:
        log_weights: float32 or float64 ``[R, V]``; minus infinity for what must not be drawn. NaN counts as larger than
            all, as where torch looks for the largest.
        seed: Any integer; of its bits the lowest 64 count.
        sequences: Number of the sequence of each row, int64 ``[R]``.
        positions: Position of the token that is drawn, int64 ``[R]``.

    Returns:
        int64 ``[R]``.

    Raises:
        TypeError: For another dtype, or a seed that is no int.
        ValueError: For another shape or device, rows without a token, or a gradient wanted.

    Example:
        >>> import torch
        >>> places = torch.arange(3)
        >>> draw_keyed(torch.tensor([[0.0, 9.0, -torch.inf]]).expand(3, 3), 0, places, places)
        tensor([1, 1, 1])
    """
    require_float_tensor("log_weights", log_weights)
    require_dimensions("log_weights", log_weights, 2)
    if log_weights.shape[1] == 0:
        raise ValueError("log_weights must have a token")
    require_no_gradient("draw_keyed", log_weights=log_weights)
    require_int("seed", seed)
    _require_indices("sequences", sequences, log_weights.shape[:1], "log_weights", log_weights)
    _require_indices("positions", positions, log_weights.shape[:1], "log_weights", log_weights)
    signed = (seed + (1 << 63)) % (1 << 64) - (1 << 63)
    return torch.ops.genaccel.draw_keyed.default(
        log_weights.contiguous(), signed, sequences.contiguous(), positions.contiguous()
    )


@torch.library.register_fake("genaccel::draw_keyed")
def _draw_keyed_fake(
    log_weights: Tensor, seed: int, sequences: Tensor, positions: Tensor
) -> Tensor:
    return torch.empty_like(sequences)


def path_similarity(paths: Tensor, unit_codes: Tensor, weights: Tensor) -> Tensor:
    """How alike the guesses of different paths look, for S sets of P paths (VVS, arXiv:2511.13587, equations 3 to 5).

    At each depth the mean is taken over the cosines of all pairs of paths, 0 for pairs of which one has ended. With unit
    vectors e it is ``(|sum e|^2 - sum |e|^2) / (P (P - 1))``, so that no pair is looked at.

    Args:
        paths: Tokens without the root, int64 ``[S, P, D]``, below K, and below 0 behind the end of a path.
        unit_codes: Code words of length 1, float32 or float64 ``[K, C]``, at least one element.
        weights: Of the depths, float64 ``[D]``; they are divided by the sum of those that some path reaches.

    Returns:
        float64 ``[S]``: 1 where all paths are the same and equally long, 0 for one path alone, or without guesses.

    Raises:
        TypeError: For another dtype.
        ValueError: For another shape or device, or a gradient wanted.
        RuntimeError: For tokens that do not exist, on a CPU; on a GPU they count as the first.

    Example:
        >>> import torch
        >>> path_similarity(torch.tensor([[[0], [0]], [[0], [1]]]), torch.eye(2), torch.ones(1).double())
        tensor([1., 0.], dtype=torch.float64)
    """
    require_dtype("paths", paths, torch.int64)
    require_dimensions("paths", paths, 3)
    require_float_tensor("unit_codes", unit_codes)
    require_dimensions("unit_codes", unit_codes, 2)
    if unit_codes.numel() == 0:
        raise ValueError("unit_codes must have elements")
    require_no_gradient("path_similarity", unit_codes=unit_codes)
    _require_device("unit_codes", unit_codes, "paths", paths)
    require_dtype("weights", weights, torch.float64)
    require_shape("weights", weights, paths.shape[2:])
    _require_device("weights", weights, "paths", paths)
    return torch.ops.genaccel.path_similarity.default(
        paths.contiguous(), unit_codes.contiguous(), weights.contiguous()
    )


@torch.library.register_fake("genaccel::path_similarity")
def _path_similarity_fake(paths: Tensor, unit_codes: Tensor, weights: Tensor) -> Tensor:
    return paths.new_empty(paths.shape[0], dtype=torch.float64)
