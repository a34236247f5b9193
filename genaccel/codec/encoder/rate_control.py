# SPDX-License-Identifier: Apache-2.0
"""Rate control: finds the weight of the rate, and if need be the number of slices, for a file of a given size."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from genaccel.errors import TargetSizeError

# Weights of the rate that are tried. Up to the first, a model is still better than a file of the next one (which is the
# better one from ``zoo.fair_rdo`` on) that leaves much of the target unused. Beyond the second, pictures fall apart
# faster than files shrink.
STRAINED_RDO = 0.12
LARGEST_RDO = 0.4
_SMALLEST_RDO = 1e-3
# Least weight in refinement, where bits that cost nothing are wasted.
LEAST_REFINE_RDO = 0.005
# Files of this share of the target are full.
_FULL = 0.985
_MOST_TRIALS = 9


class Fit(NamedTuple):
    """A file that fits, and the weight of the rate that it was made with."""

    data: bytes
    rdo: float


def largest_within(
    make: Callable[[float, int | None], bytes],
    max_bytes: int,
    *,
    num_slices: int,
    largest_rdo: float = LARGEST_RDO,
    least_rdo: float = 0.0,
    may_cut: bool = True,
    carried_bytes: int = 0,
) -> Fit:
    """The best file of at most ``max_bytes``.

    First with the least weight of the rate, by default without any loss of distance; then with the smallest one that
    fits; then, at the largest weight, with as many slices as fit.

    Args:
        make: Makes the file for a weight of the rate and a number of slices; None for all slices.
        max_bytes: Largest size of the file.
        num_slices: Slices of a whole file.
        largest_rdo: Largest weight.
        least_rdo: Least weight, below ``largest_rdo``.
        may_cut: Whether slices may be left out.
        carried_bytes: Of each file what no weight makes smaller, for the message.

    Raises:
        TargetSizeError: If no file is small enough.
    """
    whole = make(least_rdo, None)
    if len(whole) <= max_bytes:
        return Fit(whole, least_rdo)
    best = make(largest_rdo, None)
    if len(best) > max_bytes:
        if not may_cut:
            raise _too_small(max_bytes, len(best), carried_bytes)
        cut = _most_slices(lambda n: make(largest_rdo, n), max_bytes, num_slices, carried_bytes)
        return Fit(cut, largest_rdo)
    low, high = max(least_rdo, _SMALLEST_RDO), largest_rdo
    for _ in range(_MOST_TRIALS):
        if len(best) >= _FULL * max_bytes:
            break
        middle = (low * high) ** 0.5
        data = make(middle, None)
        if len(data) <= max_bytes:
            best, high = data, middle
        else:
            low = middle
    return Fit(best, high)


def _most_slices(
    make: Callable[[int], bytes], max_bytes: int, num_slices: int, carried_bytes: int
) -> bytes:
    best = make(1)
    if len(best) > max_bytes:
        raise _too_small(max_bytes, len(best), carried_bytes)
    low, high = 1, num_slices  # fits, does not fit
    while high - low > 1:
        middle = (low + high) // 2
        data = make(middle)
        if len(data) <= max_bytes:
            best, low = data, middle
        else:
            high = middle
    return best


def _too_small(max_bytes: int, least: int, carried_bytes: int) -> TargetSizeError:
    carried = f", {carried_bytes} of them for alpha plane and metadata" if carried_bytes else ""
    return TargetSizeError(
        f"the image does not fit {max_bytes} bytes: with this model it takes at least {least}{carried}. "
        "Allow more, shrink the image, or take a model of a lower rate"
    )
