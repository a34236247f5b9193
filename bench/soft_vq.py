# SPDX-License-Identifier: Apache-2.0
"""The relaxed rate of RDVQ (``ops.soft_cross_entropy``) against plain torch: memory and time, forward and backward.

Plain torch is written as one would for speed and memory: distances by one matrix product, ``cross_entropy`` with soft
targets, ``argmax`` for the index. Both sides give the same rates and gradients, checked before anything is measured.

Memory is the peak of the process above what it held just before, less the results that the caller keeps (rates,
indices, gradients). On a CPU each side runs in a process of its own: a small call first, so that libraries and thread
pools exist, then the kernel's high-water mark of resident memory (VmHWM) is reset, and read after the call. That counts
every page that was touched, whoever allocated it; torch's profiler would not see the buffers of native code. On a GPU
it is ``torch.cuda.max_memory_allocated``, which sees every workspace, for launchers never allocate.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from genaccel import ops
from genaccel.sampling.costs import peak_memory_of_call
from genaccel.sampling.turns import seconds_in_turn

TEMPERATURE = 0.1
# 16 windows of 4x4 + 8x8 + 16x16 tokens, 4096 code words of 32 channels: a training step of RDVQ.
FULL = (5376, 4096, 32)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Rate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def ours(features: Tensor, codebook: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and rate by the operator."""
    return ops.soft_cross_entropy(features, codebook, logits, TEMPERATURE)


def plain(features: Tensor, codebook: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and rate by plain torch; a constant of each row is left out of the distance."""
    score = torch.addmm(codebook.square().sum(1), features, codebook.T, beta=-0.5)  # [N, K]
    soft = functional.softmax(score * (2 / TEMPERATURE), dim=1)
    rate = functional.cross_entropy(logits.to(features.dtype), soft, reduction="none")
    return score.argmax(1), rate / math.log(2)


SIDES: dict[str, Rate] = {"genaccel": ours, "torch": plain}


def inputs(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, trained_codebook: bool
) -> list[Tensor]:
    """Unit features and code words, and logits; leaves of a graph."""
    rows, codes, channels = shape
    torch.manual_seed(0)
    features = functional.normalize(torch.randn(rows, channels, device=device), dim=1)
    codebook = functional.normalize(torch.randn(codes, channels, device=device), dim=1)
    logits = torch.randn(rows, codes, device=device).to(dtype)
    return [
        features.requires_grad_(),
        codebook.requires_grad_(trained_codebook),
        logits.requires_grad_(),
    ]


def step(side: Rate, leaves: list[Tensor], wait: Callable[[], object] | None) -> list[Tensor]:
    """Forward and backward of the mean rate; what the caller keeps."""
    indices, rate = side(*leaves)
    gradients = torch.autograd.grad(rate.mean(), [leaf for leaf in leaves if leaf.requires_grad])
    if wait is not None:
        wait()
    return [indices, rate.detach(), *gradients]


def extra_bytes(name: str, dtype: torch.dtype, device: torch.device, trained: bool) -> int:
    """Peak memory of one step above inputs and results."""
    side = SIDES[name]
    step(side, inputs((64, 64, 32), dtype, device, trained), None)
    leaves = inputs(FULL, dtype, device, trained)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    peak, results = peak_memory_of_call(partial(step, side, leaves, None), device)
    if peak is None:
        raise RuntimeError("this system does not tell the peak memory of a process")
    return peak - before - sum(r.numel() * r.element_size() for r in results)


def extra_bytes_of_a_process(name: str, dtype: str, trained: bool) -> int:
    """``extra_bytes`` in a new process."""
    command = [sys.executable, __file__, "--measure", name, dtype, str(int(trained))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: int = json.loads(done.stdout)
    return measured


def check(leaves: list[Tensor], name: str) -> None:
    """Raise AssertionError unless both sides agree."""
    actual, expected = (step(side, leaves, None) for side in (ours, plain))
    same = (actual[0] == expected[0]).float().mean().item()
    assert same > 0.999, f"{name}: indices differ"  # rounding decides near-ties
    for a, b in zip(actual[1:], expected[1:], strict=True):
        error = ((a.double() - b.double()).norm() / b.double().norm()).item()
        assert error < (1e-2 if b.dtype == torch.bfloat16 else 1e-4), f"{name}: error {error}"


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "soft_vq", "Soft vector quantisation cross-entropy against plain torch."
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wait = torch.cuda.synchronize if device.type == "cuda" else None
    repeats = 3 if bench.quick else 9
    shapes = (FULL,) if bench.quick else ((336, 4096, 32), FULL)
    memory_ratio: float | None = None
    slowest = float("inf")
    for dtype_name, dtype in DTYPES.items():
        for trained in (False,) if bench.quick else (False, True):
            memory = {name: extra_bytes_of_a_process(name, dtype_name, trained) for name in SIDES}
            for shape in shapes:
                leaves = inputs(shape, dtype, device, trained)
                check(leaves, f"{shape} {dtype_name}")

                def run(side: Rate, leaves: list[Tensor] = leaves) -> Callable[[], object]:
                    return lambda: step(side, leaves, wait)

                seconds = seconds_in_turn(
                    {name: run(side) for name, side in SIDES.items()}, repeats
                )
                ratio = seconds["torch"] / seconds["genaccel"]
                slowest = min(slowest, ratio)
                row = {
                    "rows": shape[0],
                    "logits": dtype_name,
                    "codebook": "trained" if trained else "frozen",
                    "genaccel_ms": 1e3 * seconds["genaccel"],
                    "torch_ms": 1e3 * seconds["torch"],
                    "ratio": ratio,
                    "genaccel_MB": None,
                    "torch_MB": None,
                    "memory_ratio": None,
                }
                if shape == FULL:
                    share = max(memory["genaccel"], 1) / memory["torch"]
                    memory_ratio = max(memory_ratio or 0.0, share)
                    row |= {f"{name}_MB": bytes_ / 1e6 for name, bytes_ in memory.items()}
                    row["memory_ratio"] = share
                bench.rows.append(row)
    bench.bar("soft_vq_extra_memory_vs_torch", memory_ratio, 0.1, higher_is_better=False)
    bench.bar("soft_vq_speed_vs_torch", slowest, 1.0)
    bench.finish(["genaccel", "torch"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        print(extra_bytes(sys.argv[2], DTYPES[sys.argv[3]], here, sys.argv[4] == "1"))
    else:
        main()
