# SPDX-License-Identifier: Apache-2.0
"""Times on a GPU: CUDA events around calls on rotating inputs, captured in a graph, and the two ceilings of the chip."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[..., Any]

# Of the copy and the matrix product that say what the chip can do: past every cache, and long enough for its clocks.
_COPY_BYTES = 2 << 30
_MATRIX_SIDE = 8192
# Inputs in rotation, several times the second-level cache, but no more than this.
_CACHES, _MOST_BYTES, _MOST_SETS = 4, 12 << 30, 64
_WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Measured limits of a device.

    Attributes:
        bytes_per_second: Of a copy on the device, read and written.
        flops_per_second: Of a product of bf16 matrices of random numbers; on zeros it would be faster.
        cache_bytes: Of the second-level cache, as the device says.
    """

    bytes_per_second: float
    flops_per_second: float
    cache_bytes: int


def sets_needed(bytes_of_one: int, cache_bytes: int) -> int:
    """How many sets of inputs keep a call from finding its own in the cache."""
    wanted = -(-_CACHES * cache_bytes // max(bytes_of_one, 1)) + 1
    room = _MOST_BYTES // max(bytes_of_one, 1)
    return max(2, min(wanted, room, _MOST_SETS))


def median_seconds(call: Call, sets: Sequence[Sequence[Any]], repeats: int) -> float:
    """Median time of a call, each on another set of inputs.

    One round over the sets is captured in a CUDA graph, so that small kernels are not timed by how fast Python starts
    them; where a side cannot be captured, its rounds are started one by one.

    Raises:
        RuntimeError: If a call fails.
    """

    def round_of_calls() -> None:
        for inputs in sets:
            call(*inputs)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            round_of_calls()
    torch.cuda.synchronize()
    graph = _captured(round_of_calls)
    run = round_of_calls if graph is None else graph.replay
    run()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / len(sets))
    return statistics.median(times)


def _captured(run: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:  # it waits for the device, or allocates outside of PyTorch
        torch.cuda.synchronize()
        return None
    return graph


def extra_bytes(call: Call, inputs: Sequence[Any]) -> int:
    """Peak of PyTorch's memory during a call above what was held before, its results included."""
    call(*inputs)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = call(*inputs)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del results
    return peak


def measure_ceilings(repeats: int) -> Ceilings:
    """Copy bandwidth and bf16 matrix rate of the current device, by PyTorch's own kernels."""
    words = _COPY_BYTES // 4
    pairs = [
        (torch.empty(words, device="cuda"), torch.randn(words, device="cuda")) for _ in range(2)
    ]
    copy = median_seconds(lambda target, source: target.copy_(source), pairs, repeats)
    del pairs
    shape = (_MATRIX_SIDE, _MATRIX_SIDE)
    matrices = [
        tuple(torch.randn(shape, device="cuda").to(torch.bfloat16) for _ in range(2))
        for _ in range(3)
    ]
    product = median_seconds(torch.matmul, matrices, repeats)
    return Ceilings(
        bytes_per_second=2 * _COPY_BYTES / copy,
        flops_per_second=2 * _MATRIX_SIDE**3 / product,
        cache_bytes=torch.cuda.get_device_properties(0).L2_cache_size,
    )
