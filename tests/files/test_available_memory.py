# SPDX-License-Identifier: Apache-2.0
import resource

import pytest

from genaccel.codec.format.limits import DEFAULT_MAX_MEMORY_BYTES, CodecLimits
from genaccel.files import available_memory
from genaccel.files.available_memory import MemoryBound, memory_bounds

GIB = 2**30
NO_LIMIT_OF_VERSION_1 = 2**63 - 4096


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 16 GiB free and no limits; writes further files below its root, and gives that."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)

    def write(**files):
        for name, text in {"proc/meminfo": f"MemAvailable: {16 * 2**20} kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return write


def test_free_memory_bounds_without_limits(machine):
    assert memory_bounds(machine()) == [MemoryBound(16 * GIB, "free memory", True)]


def test_what_cannot_be_told_is_no_bound(tmp_path, machine):
    assert memory_bounds(tmp_path) == []
    root = machine(**{"proc/meminfo": "MemTotal: many kB", "proc/self/cgroup": "0::/"})
    assert memory_bounds(root) == []


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"sys/fs/cgroup/a/b/memory.max": 4 * GIB}, 4 * GIB),
        ({"sys/fs/cgroup/a/memory.max": 3 * GIB}, 3 * GIB),  # the one above binds too
        ({"sys/fs/cgroup/memory.max": 2 * GIB}, 2 * GIB),  # in a container
        ({"sys/fs/cgroup/a/b/memory.high": GIB, "sys/fs/cgroup/a/b/memory.max": "max"}, GIB),
        (
            {
                "sys/fs/cgroup/a/b/memory.max": 4 * GIB,
                "sys/fs/cgroup/a/b/memory.current": 3 * GIB,
                "sys/fs/cgroup/a/b/memory.stat": f"anon 1\ninactive_file {2 * GIB}",
            },
            3 * GIB,
        ),
        ({"sys/fs/cgroup/a/b/memory.max": GIB, "sys/fs/cgroup/a/b/memory.current": 2 * GIB}, 0),
        ({"sys/fs/cgroup/a/b/memory.max": "max"}, None),
    ],
)
def test_cgroups_of_version_2(machine, files, left):
    root = machine(**{"proc/self/cgroup": "0::/a/b", **files})
    expected = [] if left is None else [(left, "memory that the cgroup leaves", True)]
    assert memory_bounds(root)[:-1] == expected


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"limit_in_bytes": 4 * GIB}, 4 * GIB),
        ({"limit_in_bytes": 4 * GIB, "usage_in_bytes": GIB}, 3 * GIB),
        (
            {
                "limit_in_bytes": 4 * GIB,
                "usage_in_bytes": 2 * GIB,
                "stat": f"total_inactive_file {GIB}",
            },
            3 * GIB,
        ),
        ({"limit_in_bytes": NO_LIMIT_OF_VERSION_1}, None),
    ],
)
def test_cgroups_of_version_1(machine, files, left):
    found = {f"sys/fs/cgroup/memory/docker/memory.{name}": text for name, text in files.items()}
    root = machine(**{"proc/self/cgroup": "5:cpu:/x\n4:memory:/docker\n0::/", **found})
    expected = [] if left is None else [(left, "memory that the cgroup leaves", True)]
    assert memory_bounds(root)[:-1] == expected


@pytest.mark.parametrize(
    ("kind", "field", "word"),
    [(resource.RLIMIT_AS, "VmSize", "ulimit -v"), (resource.RLIMIT_DATA, "VmData", "ulimit -d")],
)
def test_limits_of_the_process(machine, monkeypatch, kind, field, word):
    root = machine(**{"proc/self/status": f"{field}:\t{2**20} kB"})
    no_limit = resource.RLIM_INFINITY
    monkeypatch.setattr(
        resource, "getrlimit", lambda k: (4 * GIB if k == kind else no_limit, no_limit)
    )
    least = memory_bounds(root)[0]
    assert (least.num_bytes, least.is_shared) == (3 * GIB, False)
    assert word in least.source


@pytest.mark.parametrize(
    ("bounds", "processes", "mib", "words"),
    [
        ([], 1, 8192, "(the default)"),
        ([MemoryBound(64 * GIB, "free memory", True)], 1, 8192, "(the default)"),
        ([MemoryBound(5 * GIB, "free memory", True)], 1, 4096, "four fifths of the free memory)"),
        ([MemoryBound(20 * GIB, "free memory", True)], 4, 4096, "free memory for 4 processes)"),
        ([MemoryBound(5 * GIB, "address space", False)], 4, 4096, "of the address space)"),
        ([MemoryBound(0, "free memory", True)], 1, 0, "free memory"),
    ],
)
def test_default_limits_are_what_suits_the_machine(monkeypatch, bounds, processes, mib, words):
    monkeypatch.setattr("genaccel.codec.format.limits.memory_bounds", lambda: bounds)
    limits = CodecLimits.of_this_machine(max_pixels=7, processes=processes)
    assert limits.max_pixels == 7
    assert limits.max_memory_bytes // 2**20 == mib
    assert limits.max_memory_bytes <= DEFAULT_MAX_MEMORY_BYTES
    assert words in limits.memory_in_words


def test_this_machine_has_bounds():
    assert all(bound.num_bytes >= 0 for bound in available_memory.memory_bounds())
    assert CodecLimits(max_memory_bytes=2**20).memory_in_words == "1 MiB"
