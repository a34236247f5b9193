# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding."""

import torch

from genaccel import reference
from op_cases.case import OpCase


def _binary_tree(nodes):
    """Parents of a tree in which every node has two children, and its depth."""
    return (torch.arange(nodes) - 1).clamp(min=0) // 2, nodes.bit_length() - 1


def _accept_tree_inputs(dtype, sequences, nodes, tokens=3):
    """Of few tokens many agree."""
    parents, depth = _binary_tree(nodes)
    guesses, drawn = torch.randint(tokens, (2, sequences, nodes))
    return parents, guesses, drawn, depth


def _accept_tree_rival(parents, tokens, drawn, depth):
    numbers = torch.arange(len(parents), device=tokens.device)
    agrees = (tokens == drawn[:, parents]) & (numbers > 0)
    node = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    alive = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    path = [node]
    for _ in range(depth):
        is_next = agrees & (parents == node[:, None])
        alive = alive & is_next.any(1)
        node = torch.where(alive, is_next.int().argmax(1), node)
        path.append(torch.where(alive, node, -1))
    path = torch.stack(path, 1)
    return path, (path >= 0).sum(1)


def _rejection_inputs(
    dtype,
    sequences,
    nodes,
    tokens,
    neighbours,
    lenders,
    with_draft,
    delta=0.3,
    is_original=0,
    codes_less=0,
):
    parents, depth = _binary_tree(nodes)
    log_weights = 2 * torch.randn(sequences, nodes, tokens, dtype=dtype)
    log_weights[..., 1::3] = -torch.inf  # as a filter leaves them
    inner = max(1, nodes // 2)
    return (
        parents,
        torch.randint(tokens, (sequences, nodes)),
        log_weights,
        torch.rand(sequences, nodes, dtype=torch.float64),
        torch.randint(tokens, (tokens - codes_less, neighbours)) if neighbours else None,
        torch.randn(sequences, inner, tokens, dtype=dtype).softmax(-1) if with_draft else None,
        lenders,
        delta,
        bool(is_original),
        depth,
    )


def _rejection_rival(
    parents, tokens, log_weights, uniforms, neighbours, draft, lenders, delta, is_original, depth
):
    """All sequences in step: children are looked at in the order of their numbers, so one walk over the nodes is all."""
    count, nodes, size = log_weights.shape
    every, device = torch.arange(count, device=tokens.device), tokens.device
    rows = log_weights.softmax(-1)
    row, guessed = rows[:, 0], None if draft is None else draft[:, 0]
    node = torch.zeros(count, dtype=torch.long, device=device)
    looked_at = torch.zeros_like(node)
    path = torch.full((count, depth + 1), -1, device=device)
    path[:, 0] = 0
    counts = torch.ones_like(node)
    substituted = torch.zeros_like(node)
    places = torch.arange(depth + 1, device=device)
    siblings = torch.bincount(parents[1:], minlength=nodes)
    shares_bound = neighbours is not None and delta <= 1 and not is_original
    left = torch.full_like(row[:, 0], delta)
    reach = torch.ones_like(left)

    def normalised(weights):
        total = weights.sum(1, keepdim=True)
        return torch.where(total > 0, weights / total, 1 / size)

    for child in range(1, nodes):
        is_child = parents[child] == node
        token = tokens[:, child]
        own = row[every, token]
        chance = torch.ones_like(own) if guessed is None else guessed[every, token]
        lent, family = torch.zeros_like(own), token[:, None]
        struck = torch.zeros(count, 1, dtype=torch.bool, device=device)
        if neighbours is not None and lenders:
            near = neighbours[token.clamp(max=len(neighbours) - 1)]
            bound = torch.full_like(own, delta) if delta <= 1 else (delta - 1) * own
            if shares_bound and guessed is None:
                bound = bound.minimum(left / reach.clamp(min=1e-30))
            sums = row.gather(1, near[:, :lenders]).cumsum(1)
            fits = (sums <= bound[:, None]) & (token < len(neighbours))[:, None]
            lent = torch.where(fits, sums, 0).amax(1)
            width = near.shape[1]
            fits = torch.nn.functional.pad(fits, (0, width - lenders))
            if is_original:
                fits = fits.any(1, keepdim=True) & (torch.arange(width, device=device) <= lenders)
            if guessed is None or is_original:
                family, struck = near, fits
        if shares_bound:
            if guessed is None:
                left_now = (left - reach * lent).clamp(min=0)
                reach_now = reach * (1 - own - lent).clamp(min=0)
            else:
                excess = (guessed - row).clamp(min=0)
                left_now, reach_now = left, reach * excess.sum(1)
                share = left / siblings[node] / reach_now.clamp(min=1e-30)
                lent = lent.minimum(share.clamp(max=1) * excess[every, token])
            left = torch.where(is_child, left_now, left)
            reach = torch.where(is_child, reach_now, reach)
        uniform = uniforms[every, looked_at]
        can_be_drawn = is_child & (chance > 0)
        accepts = can_be_drawn & (uniform <= (own + lent) / chance)
        substituted = substituted + (accepts & (uniform > own / chance))
        looked_at = looked_at + is_child
        stays = torch.zeros(row.shape, device=device).scatter_add_(1, family, struck.float()) > 0
        is_token = torch.nn.functional.one_hot(token, size).bool()
        is_rejected = (is_child if guessed is None else can_be_drawn) & ~accepts
        if guessed is None:
            rest = normalised(row.masked_fill(stays | is_token, 0))
        else:
            rest = normalised((row - guessed.masked_fill(stays, 0)).clamp(min=0))
            others = guessed.masked_fill(is_token, 0)
            others = others / others.sum(1, keepdim=True).clamp(min=1e-30)
            kept = torch.where(is_rejected[:, None], others, guessed)
            after = draft[:, min(child, draft.shape[1] - 1)]
            guessed = torch.where(accepts[:, None], after, kept)
        kept = torch.where(is_rejected[:, None], rest, row)
        row = torch.where(accepts[:, None], rows[:, child], kept)
        left, reach = torch.where(accepts, delta, left), torch.where(accepts, 1.0, reach)
        node = torch.where(accepts, child, node)
        path = torch.where(accepts[:, None] & (places == counts[:, None]), child, path)
        counts = counts + accepts
    return path, counts, row, substituted


def _compact_rows_inputs(dtype, tensors, batch, heads, rows, moves, channels, strided=0):
    """Every other row, from the first on."""
    states = []
    for _ in range(tensors):
        wide = torch.randn(batch, heads, rows, channels * (1 + strided)).to(dtype)
        states.append(wide[..., :channels])
    first = torch.arange(batch) % 2
    sources = first[:, None] + 2 * torch.arange(moves)
    counts = (moves - torch.arange(batch) % 2).clamp(min=0)
    return states, sources, first, counts


def _compact_rows_rival(states, sources, starts, counts):
    places = torch.arange(sources.shape[1], device=sources.device)
    is_moved = places < counts[:, None]
    # What does not move is copied to where it is.
    sources = torch.where(is_moved, sources, starts[:, None] + places)
    targets = starts[:, None] + places
    for tensor in states:
        index = sources[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
        rows = tensor.gather(2, index)
        tensor.scatter_(2, targets[:, None, :, None].expand_as(index), rows)


def _draw_keyed_inputs(dtype, rows, tokens, seed=-5):
    log_weights = torch.randn(rows, tokens, dtype=dtype)
    log_weights[:, 1::3] = -torch.inf
    return log_weights, seed, torch.randint(9, (rows,)), torch.randint(1 << 40, (rows,))


def _path_similarity_inputs(dtype, sets, paths, depth, codes, channels):
    tokens = torch.randint(codes, (sets, paths, depth))
    lengths = torch.randint(1 + depth, (sets, paths, 1))
    tokens = torch.where(torch.arange(depth) < lengths, tokens, -1)
    unit_codes = torch.nn.functional.normalize(torch.randn(codes, channels, dtype=dtype), dim=1)
    return tokens, unit_codes, 0.9 ** torch.arange(depth, dtype=torch.float64)


def _path_similarity_rival(paths, unit_codes, weights):
    is_there = paths >= 0
    codes = unit_codes.double()[paths.clamp(min=0)] * is_there[..., None]
    pairs = codes.sum(1).square().sum(-1) - codes.square().sum((1, 3))  # [S, D]
    reached = is_there.any(1).flip(1).cumsum(1).flip(1) > 0
    scale = weights * reached
    count = paths.shape[1]
    mean = (pairs * scale).sum(1) / scale.sum(1) / max(count * (count - 1), 1)
    return torch.where(reached.any(1), mean, 0.0)


CASES = (
    OpCase(
        name="accept_tree",
        make_inputs=_accept_tree_inputs,
        shapes=(
            {"sequences": 1, "nodes": 1, "tokens": 1},
            {"sequences": 0, "nodes": 3},
            {"sequences": 2, "nodes": 5, "tokens": 1},
            {"sequences": 3, "nodes": 32},
            {"sequences": 4, "nodes": 33, "tokens": 2},
            {"sequences": 9, "nodes": 59, "tokens": 2},
            {"sequences": 2, "nodes": 200, "tokens": 2},
        ),
        dtypes=(torch.float32,),
        rival=_accept_tree_rival,
        flops=lambda sequences, nodes, **_: sequences * nodes,
        bound="other",
        large={"sequences": 1024, "nodes": 59},
        model={"sequences": 16, "nodes": 59},
        tiny={"sequences": 4, "nodes": 9},
        atol=0,
        rtol=0,
    ),
    OpCase(
        name="accept_tree_by_rejection",
        make_inputs=_rejection_inputs,
        shapes=(
            {
                "sequences": 1,
                "nodes": 1,
                "tokens": 1,
                "neighbours": 1,
                "lenders": 1,
                "with_draft": 1,
            },
            {
                "sequences": 0,
                "nodes": 3,
                "tokens": 4,
                "neighbours": 2,
                "lenders": 1,
                "with_draft": 0,
            },
            {
                "sequences": 9,
                "nodes": 7,
                "tokens": 5,
                "neighbours": 0,
                "lenders": 0,
                "with_draft": 0,
            },
            {
                "sequences": 9,
                "nodes": 7,
                "tokens": 5,
                "neighbours": 0,
                "lenders": 0,
                "with_draft": 1,
            },
            {
                "sequences": 9,
                "nodes": 15,
                "tokens": 40,
                "neighbours": 6,
                "lenders": 6,
                "with_draft": 0,
            },
            {
                "sequences": 9,
                "nodes": 15,
                "tokens": 40,
                "neighbours": 7,
                "lenders": 6,
                "with_draft": 0,
                "delta": 1.5,
            },
            {
                "sequences": 5,
                "nodes": 31,
                "tokens": 300,
                "neighbours": 280,
                "lenders": 270,
                "with_draft": 0,
                "delta": 0.9,
            },
            {
                "sequences": 5,
                "nodes": 31,
                "tokens": 300,
                "neighbours": 20,
                "lenders": 9,
                "with_draft": 1,
            },
            {
                "sequences": 5,
                "nodes": 31,
                "tokens": 300,
                "neighbours": 20,
                "lenders": 9,
                "with_draft": 0,
                "is_original": 1,
            },
            {
                "sequences": 5,
                "nodes": 31,
                "tokens": 300,
                "neighbours": 20,
                "lenders": 9,
                "with_draft": 1,
                "is_original": 1,
            },
            {
                "sequences": 5,
                "nodes": 31,
                "tokens": 300,
                "neighbours": 20,
                "lenders": 9,
                "with_draft": 1,
                "delta": 1.5,
                "codes_less": 100,
            },
        ),
        rival=_rejection_rival,
        # A softmax after the root and each node of the longest path.
        flops=lambda sequences, nodes, tokens, **_: 4 * sequences * tokens * nodes.bit_length(),
        bound="other",
        large={
            "sequences": 256,
            "nodes": 15,
            "tokens": 16384,
            "neighbours": 1000,
            "lenders": 999,
            "with_draft": 0,
        },
        model={
            "sequences": 16,
            "nodes": 15,
            "tokens": 16384,
            "neighbours": 1000,
            "lenders": 999,
            "with_draft": 0,
        },
        tiny={
            "sequences": 5,
            "nodes": 7,
            "tokens": 12,
            "neighbours": 5,
            "lenders": 4,
            "with_draft": 0,
        },
        variants={"": {}, "with a draft": {"with_draft": 1}},
        atol=1e-5,
        # A sum that meets its bound by a rounding moves whole rows.
        may_differ=0.01,
    ),
    OpCase(
        name="compact_rows_",
        make_inputs=_compact_rows_inputs,
        shapes=(
            {"tensors": 1, "batch": 1, "heads": 1, "rows": 1, "moves": 1, "channels": 1},
            {"tensors": 2, "batch": 0, "heads": 2, "rows": 5, "moves": 2, "channels": 4},
            {"tensors": 1, "batch": 2, "heads": 2, "rows": 5, "moves": 0, "channels": 4},
            {"tensors": 3, "batch": 2, "heads": 3, "rows": 9, "moves": 4, "channels": 5},
            {"tensors": 65, "batch": 3, "heads": 1, "rows": 12, "moves": 5, "channels": 8},
            {
                "tensors": 2,
                "batch": 3,
                "heads": 2,
                "rows": 40,
                "moves": 7,
                "channels": 64,
                "strided": 1,
            },
            {"tensors": 2, "batch": 1, "heads": 2, "rows": 40, "moves": 7, "channels": 600},
        ),
        dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.complex64),
        writes_to=(0,),
        rival=_compact_rows_rival,
        flops=lambda **_: 0,
        bound="other",
        large={"tensors": 72, "batch": 32, "heads": 20, "rows": 320, "moves": 6, "channels": 64},
        model={"tensors": 24, "batch": 2, "heads": 4, "rows": 340, "moves": 6, "channels": 64},
        tiny={"tensors": 2, "batch": 2, "heads": 2, "rows": 12, "moves": 5, "channels": 8},
        bench_dtype=torch.bfloat16,
        atol=0,
        rtol=0,
    ),
    OpCase(
        name="draw_keyed",
        make_inputs=_draw_keyed_inputs,
        shapes=(
            {"rows": 1, "tokens": 1, "seed": 1},
            {"rows": 0, "tokens": 3},
            {"rows": 7, "tokens": 5, "seed": 2**63 - 1},
            {"rows": 300, "tokens": 33},
            {"rows": 33, "tokens": 1024, "seed": -(2**63)},
            {"rows": 3, "tokens": 16384},
        ),
        rival=reference.draw_keyed,
        flops=lambda rows, tokens, **_: 12 * rows * tokens,
        bound="other",
        large={"rows": 2048, "tokens": 16384},
        model={"rows": 80, "tokens": 16384},
        tiny={"rows": 9, "tokens": 40},
        atol=0,
        rtol=0,
    ),
    OpCase(
        name="path_similarity",
        make_inputs=_path_similarity_inputs,
        shapes=(
            {"sets": 1, "paths": 1, "depth": 1, "codes": 1, "channels": 1},
            {"sets": 2, "paths": 3, "depth": 0, "codes": 1, "channels": 1},
            {"sets": 0, "paths": 3, "depth": 2, "codes": 4, "channels": 2},
            {"sets": 2, "paths": 0, "depth": 3, "codes": 4, "channels": 2},
            {"sets": 5, "paths": 2, "depth": 1, "codes": 7, "channels": 3},
            {"sets": 7, "paths": 9, "depth": 5, "codes": 33, "channels": 8},
            {"sets": 3, "paths": 43, "depth": 6, "codes": 256, "channels": 65},
        ),
        rival=_path_similarity_rival,
        flops=lambda sets, paths, depth, codes, channels: sets * paths * depth * channels,
        bound="other",
        large={"sets": 4096, "paths": 43, "depth": 5, "codes": 16384, "channels": 8},
        model={"sets": 16, "paths": 43, "depth": 5, "codes": 16384, "channels": 8},
        tiny={"sets": 3, "paths": 5, "depth": 4, "codes": 20, "channels": 6},
        atol=1e-9,
        rtol=0,
    ),
)
