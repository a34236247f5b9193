# SPDX-License-Identifier: Apache-2.0
"""Every operator on a GPU: its time beside its floor, beside plain PyTorch, and beside ``torch.compile``.

    python bench/gpu_ops.py [--quick] [--json FILE] [--only OP] [--checks FILE]

The floor of an operator is the larger of its bytes over the measured copy bandwidth and its FLOPs over the measured
bf16 matrix rate. ``bench/gpu.py`` builds, tests and calls this.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench._gpu.cases import GpuCase, bytes_of, compare, gpu_cases
from bench._gpu.timing import Ceilings, extra_bytes, measure_ceilings, median_seconds, sets_needed
from bench.harness import Bench

SHARE_OF_BANDWIDTH = 0.8
OVER_PLAIN = 5.0
MEMORY_SHARE = 0.1
NO_CUDA = "bench/gpu_ops.py needs a CUDA device, and this PyTorch sees none"
# Those that PyTorch can only do with a matrix of all scores.
_OVER_PLAIN = ("nearest_code", "soft_cross_entropy", "soft_cross_entropy_backward")


def all_cases(only: str = "", *, quick: bool = False) -> list[GpuCase]:
    """Cases of all operators, or of ``only`` one; the large ones alone if ``quick``.

    Raises:
        ValueError: If no operator has that name.
    """
    sizes = ("large",) if quick else ("large", "model")
    found = [case for size in sizes for case in gpu_cases(size) if only in ("", case.op.name)]
    if not found:
        raise ValueError(f"no operator {only!r}")
    return found


def result_row(
    case: GpuCase,
    ceilings: Ceilings,
    *,
    ours: float,
    plain: float | None,
    compiled: float | None,
    extra: int | None,
) -> dict[str, Any]:
    """A row of the table; seconds in, milliseconds out.

    Args:
        case: What was measured.
        ceilings: Of the device.
        ours: Seconds of the operator.
        plain: Of plain PyTorch; None where it does not run.
        compiled: Of ``torch.compile``, likewise.
        extra: Bytes that a call held at most above its inputs, results apart; None where they were not measured.
    """
    floor = case.floor_seconds(ceilings.bytes_per_second, ceilings.flops_per_second)
    return {
        "operator": case.label,
        "size": case.size,
        "bound": case.op.bound,
        "MB": case.bytes / 1e6,
        "GFLOP": case.flops / 1e9,
        "ours_ms": 1e3 * ours,
        "floor_ms": 1e3 * floor,
        "share_of_floor": floor / ours,
        "GB_s": case.bytes / ours / 1e9,
        "share_of_bandwidth": case.bytes / ours / ceilings.bytes_per_second,
        "TFLOP_s": case.flops / ours / 1e12,
        "over_torch": None if plain is None else plain / ours,
        "over_compile": None if compiled is None else compiled / ours,
        "extra_MB": None if extra is None else extra / 1e6,
        "extra_share": None if extra is None or not case.rival_bytes else extra / case.rival_bytes,
    }


def add_bars(bench: Bench, rows: Sequence[dict[str, Any]]) -> None:
    """The bars of the issue, for what is larger than the caches."""
    for row in rows:
        if row["size"] != "large":
            continue
        name = row["operator"].replace(" ", "_")
        if row["bound"] == "memory":
            bench.bar(f"{name}_share_of_bandwidth", row["share_of_bandwidth"], SHARE_OF_BANDWIDTH)
        bench.bar(f"{name}_over_compile", row["over_compile"], 1.0)
        if name in _OVER_PLAIN:
            bench.bar(f"{name}_over_torch", row["over_torch"], OVER_PLAIN)
            bench.bar(
                f"{name}_extra_memory_share",
                row["extra_share"],
                MEMORY_SHARE,
                higher_is_better=False,
            )


def add_checks(bench: Bench, checks: dict[str, Any]) -> None:
    """Rows and bars of tests and sanitizer, as ``bench/gpu.py`` found them before."""
    for name, found in checks.items():
        bench.tables.setdefault("checks", []).append({"check": name, **found})
        if found.get("failures") is not None:
            bench.bar(f"{name}_failures", found["failures"], 0, higher_is_better=False)


def measure(case: GpuCase, ceilings: Ceilings, repeats: int) -> dict[str, Any]:
    """Check a case, and time its three sides on the same inputs."""
    device = torch.device("cuda")
    compare(case, device)
    first = case.make(device)
    count = sets_needed(bytes_of(first), ceilings.cache_bytes)
    sets = [first, *(case.make(device) for _ in range(count - 1))]
    ours = median_seconds(case.ours, sets, repeats)
    held = extra_bytes(case.ours, first) - bytes_of(case.ours(*first))
    plain = _or_none(case.label, lambda: median_seconds(case.op.rival, sets, repeats))
    compiled = _or_none(
        f"{case.label}, compiled",
        lambda: median_seconds(torch.compile(case.op.rival, dynamic=False), sets, repeats),
    )
    torch.compiler.reset()
    return result_row(case, ceilings, ours=ours, plain=plain, compiled=compiled, extra=max(held, 0))


def _or_none(name: str, time: Callable[[], float]) -> float | None:
    try:
        return time()
    except Exception as error:  # a side that PyTorch does not have is no reason to lose the others
        print(f"{name}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
        return None


def main() -> int:
    """Run the benchmark; 2 without a GPU, 1 if an operator is wrong."""
    bench = Bench.from_command_line(
        "gpu",
        "Operators on a GPU beside their floors, plain PyTorch and torch.compile.",
        {
            "only": (str, "", "", "an operator"),
            "checks": (str, "", "", "JSON of bench/gpu.py"),
            "repeats": (int, 51, 15, "timed rounds"),
        },
    )
    if not torch.cuda.is_available():
        print(NO_CUDA, file=sys.stderr)
        return 2
    if bench.options["checks"]:
        add_checks(bench, json.loads(Path(bench.options["checks"]).read_text()))
    torch.manual_seed(0)
    ceilings = measure_ceilings(bench.options["repeats"])
    print(
        f"{torch.cuda.get_device_name()}: copy {ceilings.bytes_per_second / 1e12:.2f} TB/s, bf16 product "
        f"{ceilings.flops_per_second / 1e12:.0f} TFLOP/s, L2 {ceilings.cache_bytes / 2**20:.0f} MiB"
    )
    bench.tables["ceilings"] = [
        {
            "device": torch.cuda.get_device_name(),
            "copy_TB_s": ceilings.bytes_per_second / 1e12,
            "bf16_TFLOP_s": ceilings.flops_per_second / 1e12,
            "L2_MiB": ceilings.cache_bytes / 2**20,
        }
    ]
    wrong = 0
    for case in all_cases(bench.options["only"], quick=bench.quick):
        try:
            bench.rows.append(measure(case, ceilings, bench.options["repeats"]))
        except (AssertionError, RuntimeError) as error:
            wrong += 1
            print(f"{case.label}, {case.size}: {error}"[:400], file=sys.stderr)
        torch.cuda.empty_cache()
    add_bars(bench, bench.rows)
    bench.bar("wrong_operators", wrong, 0, higher_is_better=False)
    bench.finish(["genaccel", "torch", "triton"])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
