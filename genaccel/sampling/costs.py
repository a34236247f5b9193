# SPDX-License-Identifier: Apache-2.0
"""Cost of one call of a function: seconds of the clock and of the processor, FLOPs, memory."""

from __future__ import annotations

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from genaccel.hooks.flop_count import FlopCount

T = TypeVar("T")


def checked_device(device: torch.device | str) -> torch.device:
    """``cpu`` or a GPU that is here, with its number.

    Raises:
        ValueError: If it is neither.
    """
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")  # refused below
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu, cuda or cuda:<number>, got {str(device)!r}")
    if place.type == "cpu":
        return place
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (place.index or 0) >= count:
        raise ValueError(f"device {place} is not here: torch finds {count} CUDA devices")
    return current_gpu() if place.index is None else place


def current_gpu() -> torch.device:
    """The GPU that ``"cuda"`` means now."""
    return torch.device("cuda", torch.cuda.current_device())


def seconds_of_call(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call; its output is freed after the clock stops.

    Args:
        run: The function.
        device: A GPU's clock are events on its current stream, between two synchronisations; elsewhere it
            is ``time.perf_counter``.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            output = run()
            end.record()
            torch.cuda.synchronize()
            seconds = start.elapsed_time(end) / 1000.0
    else:
        begin = time.perf_counter()
        output = run()
        seconds = time.perf_counter() - begin
    del output
    return seconds


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a call.

    Attributes:
        wall: Seconds on the clock; on a GPU by its own.
        cpu: CPU seconds of all threads of this process; None on a GPU.
    """

    wall: float
    cpu: float | None

    @property
    def seconds(self) -> float:
        """Seconds that methods are compared by: of CPU time, and on a GPU of its clock.

        CPU time of a process with one thread tells the cost on a machine that others use too: wall time of
        the same run changes up to twofold there, CPU time by a few percent.
        """
        return self.wall if self.cpu is None else self.cpu


def cost_of_call(run: Callable[[], object], device: torch.device) -> Cost:
    """Call a function and measure its cost."""
    before = time.process_time()
    wall = seconds_of_call(run, device)
    cpu = time.process_time() - before
    return Cost(wall, cpu if device.type == "cpu" else None)


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Median cost of several calls, at least one."""
    cpu = [cost.cpu for cost in costs if cost.cpu is not None]
    return Cost(
        statistics.median(cost.wall for cost in costs), statistics.median(cpu) if cpu else None
    )


def flops_of_call(run: Callable[[], object]) -> int | None:
    """Floating-point operations of one call, two per multiply-add, as :class:`FlopCount` counts them.

    It knows matrix products, convolutions and attention, and passes over everything else: elementwise
    operations, normalisation, sorting, custom operators, numpy.

    Returns:
        Their number, or None if the counter saw nothing that it knows.
    """
    with FlopCount() as count:
        run()
    return count.total or None


def peak_memory_of_call(run: Callable[[], T], device: torch.device) -> tuple[int | None, T]:
    """Peak memory of one call in bytes, and its output.

    Args:
        run: The function.
        device: On a GPU, the most that torch held allocated there at once during the call: with weights
            loaded before it, without what torch only caches. On a CPU, how far the resident memory of the
            process rose above what it was before the call, by the kernel's own high-water mark: without
            weights loaded before. Memory that a library keeps between calls counts only in its first.

    Returns:
        None instead of a number where the system does not tell: on a CPU, anything but Linux.
    """
    gc.collect()
    peak: int | None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        output = run()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
    else:
        before = _restart_resident_peak()
        output = run()
        after = _resident_bytes("VmHWM")
        peak = None if before is None or after is None else max(0, after - before)
    return peak, output


def _restart_resident_peak() -> int | None:
    """Let the kernel's high-water mark start anew; resident bytes now, or None where it cannot."""
    # Else what malloc kept of earlier calls would be used again without the process growing.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    except OSError:
        return None
    return _resident_bytes("VmRSS")


def _resident_bytes(field: str) -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{field}:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
