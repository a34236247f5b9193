# SPDX-License-Identifier: Apache-2.0
"""The operators that choose tokens and forecast against plain torch, at the sizes of DiT-XL/2.

Both sides give the same result, checked before they are timed. Plain torch is written as one would for speed: in the
dtype of the model, with ``topk`` and in-place sums.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from genaccel import ops
from genaccel.sampling.turns import seconds_in_turn

TOKENS, CHANNELS, SELECTED = 256, 1152, 64
Side = Callable[[], object]
# Two sides of one operator, and the bytes that ours moves.
Case = tuple[Side, Side, int]


def cases(batch: int, dtype: torch.dtype, device: torch.device) -> dict[str, Case]:
    """Each operator and its plain counterpart, on one set of inputs."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    x, old, residual = (randn(batch, TOKENS, CHANNELS) for _ in range(3))
    score = torch.rand(batch, TOKENS, device=device)

    def plain_select() -> Tensor:
        total = score[: batch // 2] + score[batch // 2 :]
        return total.topk(SELECTED, dim=1).indices.sort(dim=1).values.repeat(2, 1)

    def plain_predict() -> Tensor:
        return torch.add(residual, x, alpha=1.5).add_(old, alpha=-0.5)

    def plain_predict_many() -> list[Tensor]:
        sums = torch._foreach_add([residual] * 8, [x] * 8, alpha=1.5)
        torch._foreach_add_(sums, [old] * 8, alpha=-0.5)
        return list(sums)

    full = x.numel() * x.element_size()
    return {
        "select_tokens": (
            lambda: ops.select_tokens(score, SELECTED, groups=2),
            plain_select,
            score.numel() * 4 + batch * SELECTED * 8,
        ),
        "token_scores mean": (
            lambda: ops.token_scores(x),
            lambda: x.mean(2, dtype=torch.float32).abs(),
            full,
        ),
        "token_scores drift": (
            lambda: ops.token_scores(x, "drift", old),
            lambda: (x - old).mean(2, dtype=torch.float32).abs(),
            2 * full,
        ),
        "predict_add": (
            lambda: ops.predict_add([residual], [x, old], [1.5, -0.5], [0.0])[0],
            plain_predict,
            4 * full,
        ),
        "predict_add of 8": (
            lambda: ops.predict_add([residual] * 8, [x, old] * 8, [1.5, -0.5] * 8, [0.0] * 8),
            plain_predict_many,
            8 * 4 * full,
        ),
    }


def check(name: str, ours: Side, plain: Side) -> None:
    """Raise AssertionError unless both sides agree to a few roundings of plain torch."""
    actual, expected = ours(), plain()
    torch.testing.assert_close(actual, expected, atol=0.1, rtol=0.02, msg=f"{name} is wrong")


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "tokens", "Choice of tokens and forecasts against plain torch, milliseconds a call."
    )
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wait = torch.cuda.synchronize if device.type == "cuda" else None
    batches, repeats = ((2, 8), 31) if bench.quick else ((2, 4, 8), 101)
    worst: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for batch in batches:
            for name, (ours, plain, moved) in cases(batch, dtype, device).items():
                check(name, ours, plain)
                seconds = seconds_in_turn(
                    {"ours": waiting(ours, wait), "plain": waiting(plain, wait)}, repeats
                )
                ratio = seconds["plain"] / seconds["ours"]
                worst[name] = min(worst.get(name, float("inf")), ratio)
                bench.rows.append(
                    {
                        "operator": name,
                        "dtype": str(dtype).removeprefix("torch."),
                        "batch": batch,
                        "genaccel_ms": 1e3 * seconds["ours"],
                        "torch_ms": 1e3 * seconds["plain"],
                        "ratio": ratio,
                        "GB_s": moved / seconds["ours"] / 1e9,
                    }
                )
    for name, ratio in worst.items():
        bench.bar(f"{name.replace(' ', '_')}_vs_torch", ratio, 1.0)
    bench.finish(["genaccel", "torch"])


def waiting(side: Side, wait: Side | None) -> Side:
    """``side``, and on a GPU its end."""
    if wait is None:
        return side

    def run() -> None:
        side()
        wait()

    return run


if __name__ == "__main__":
    main()
