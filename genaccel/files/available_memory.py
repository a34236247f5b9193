# SPDX-License-Identifier: Apache-2.0
"""How much memory a process may still take: what the machine, its cgroup and its resource limits leave."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ROOT = Path("/")
# Version 1 writes 2^63 less a page for no limit.
_NO_LIMIT = 2**60


class MemoryBound(NamedTuple):
    """Bytes that are left, and what bounds them.

    Attributes:
        num_bytes: Bytes.
        source: In words: ``"free memory"``.
        is_shared: Whether other processes take of the same.
    """

    num_bytes: int
    source: str
    is_shared: bool


def memory_bounds(root: Path = _ROOT) -> list[MemoryBound]:
    """Everything that bounds the memory of this process here, least first.

    That is MemAvailable of the machine, the limits of the cgroups (of version 1 and 2) that it is in less what they
    use and cannot drop, and RLIMIT_AS and RLIMIT_DATA less what is mapped already.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    return sorted([*_of_machine(root), *_of_cgroups(root), *_of_process(root)])


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None  # "max" is none


def _fields(path: Path) -> dict[str, int]:
    """Numbers by name of ``Name: 1 kB`` or ``name 1``, as they are."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _of_machine(root: Path) -> Iterator[MemoryBound]:
    available = _fields(root / "proc/meminfo").get("MemAvailable")
    if available is not None:
        yield MemoryBound(1024 * available, "free memory", True)


def _of_cgroups(root: Path) -> Iterator[MemoryBound]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        top = root / "sys/fs/cgroup"
        limits = ["memory.max", "memory.high"]
        usage, cache = "memory.current", "inactive_file"
        if "memory" in controllers.split(","):  # of version 1
            top /= "memory"
            limits = ["memory.limit_in_bytes"]
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        elif controllers or number != "0":
            continue
        # Each of the groups above binds too. In a container they look like the root of the tree.
        group = Path(path.lstrip("/"))
        for folder in {top / group, *(top / parent for parent in group.parents)}:
            found = [n for name in limits if (n := _number(folder / name)) is not None]
            if found and min(found) < _NO_LIMIT:
                used = _number(folder / usage) or 0
                dropped = _fields(folder / "memory.stat").get(cache, 0)
                left = max(min(found) - max(used - dropped, 0), 0)
                yield MemoryBound(left, "memory that the cgroup leaves", True)


def _of_process(root: Path) -> Iterator[MemoryBound]:
    mapped = _fields(root / "proc/self/status")
    for kind, name, field in (
        (resource.RLIMIT_AS, "address space that ulimit -v leaves", "VmSize"),
        (resource.RLIMIT_DATA, "data segment that ulimit -d leaves", "VmData"),
    ):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield MemoryBound(max(soft - 1024 * mapped.get(field, 0), 0), name, False)
