# SPDX-License-Identifier: Apache-2.0
"""Rate-distortion optimised quantisation: indices are chosen by their cost in bits too, not by distance alone.

The encoder runs the entropy model slice by slice, as a decoder does, and takes for each feature the code word with
the least ``squared distance + mu * bits``. It keeps the tables that it made for this, and codes the indices with them:
the model runs once. The decoder is not concerned: it reads indices, however they were chosen.
So all of this is floating point, and need not be the same on two machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from genaccel.codec.coding.entropy_index_coder import EntropyIndexCoder, IndexMaps, SliceTables
from genaccel.codec.coding.window_grid import PADDING_INDEX
from genaccel.codec.format.limits import check_time

# Distances and bits of so many tokens at once: 4 MB each for 1024 code words.
_ROWS_AT_ONCE = 1024
# What the entropy model knows of a window takes 340 kB.
_WINDOWS_AT_ONCE = 256


class ChosenIndices(NamedTuple):
    """Indices, and the tables that code them.

    Attributes:
        index_maps: int32 ``[h, w]`` per scale, coarse to fine.
        tables: Tables of each slice, for :meth:`EntropyIndexCoder.encode_tables`.
    """

    index_maps: IndexMaps
    tables: list[SliceTables]


def cheapest(
    rows: Tensor, logits: Tensor, codebook: Tensor, mu: float, fraction_bits: int
) -> Tensor:
    """Index of the least cost, int64 ``[N]``, for features ``[N, C]`` and integer logits ``[N, K]``."""
    chosen = []
    for features, octaves in zip(
        rows.split(_ROWS_AT_ONCE), logits.split(_ROWS_AT_ONCE), strict=True
    ):
        # |f - c|^2 = 2 - 2 f.c for unit vectors; bits = log2(sum of 2**logits) - logit. Constants of a row are left out.
        cost = features @ codebook.T  # [n, K]
        cost.mul_(-2).sub_(octaves, alpha=mu * 2.0**-fraction_bits)
        chosen.append(cost.argmin(dim=1))
    return torch.cat(chosen)


def _joined(parts: Sequence[SliceTables]) -> SliceTables:
    # Where all tokens of a chunk are padding there are no rows, whatever their width.
    coded = [part for part in parts if len(part.groups)] or parts[:1]
    return SliceTables(*(np.concatenate(field) for field in zip(*coded, strict=True)))


@torch.no_grad()
def choose_indices(
    coder: EntropyIndexCoder,
    features: Sequence[Tensor],
    codebook: Tensor,
    mu: float,
) -> ChosenIndices:
    """Index maps with the least sum of squared distances and ``mu`` times bits, slice by slice.

    Greedy: what an index means for the slices after it is not weighed.

    Args:
        coder: The coder with the entropy model that the file is to be coded with.
        features: ``[C, h, w]`` per scale, coarse to fine, as they enter the quantiser.
        codebook: Unit vectors ``[K, C]``.
        mu: Price of a bit; 0 gives the nearest code words.

    Raises:
        ValueError: If the maps do not fit the model's windows.
    """
    model = coder.model
    grid = coder.grid([tuple(f.shape[-2:]) for f in features])
    device = model.embedding.device
    windows = grid.cut([f.to(device).float()[None] for f in features])  # [W, L, C]
    windows = functional.normalize(windows, dim=2)
    words = codebook.to(device).float()
    coded = coder.coded_tokens(grid)
    chosen: list[Tensor] = []  # [w, L], in slice order
    tables: list[list[SliceTables]] = [[] for _ in coded]
    for begin in range(0, grid.num_windows, _WINDOWS_AT_ONCE):
        chunk = slice(begin, begin + _WINDOWS_AT_ONCE)
        state = model.begin(len(windows[chunk]))
        previous: Tensor | None = None
        slices: list[Tensor] = []
        for t, all_coded in enumerate(coded):
            check_time()
            mask = None if all_coded is None else all_coded[chunk]
            logits = model.step(state, previous)  # [w, n, K]
            indices = cheapest(
                windows[chunk][:, model.tokens_of_slice(t)].flatten(0, 1),
                logits.flatten(0, 1),
                words,
                mu,
                model.params.fraction_bits,
            )
            previous = indices.view(logits.shape[:2])
            if mask is not None:
                previous = previous.masked_fill(~mask, PADDING_INDEX)
            slices.append(previous)
            tables[t].append(coder.tables_of_slice(logits, previous, mask))
        chosen.append(torch.cat(slices, dim=1))
    ordered = torch.cat(chosen)[:, model.from_slice]
    return ChosenIndices(
        [m[0].cpu().int().numpy() for m in grid.merge(ordered)],
        [_joined(parts) for parts in tables],
    )
