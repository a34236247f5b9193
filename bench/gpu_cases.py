# SPDX-License-Identifier: Apache-2.0
"""What ``bench/gpu.py`` measures: for each operator inputs, plain torch, and the bytes and FLOPs that it cannot avoid.

Bytes: each input read once, each output written once; parameters that all rows share are counted once. Workspaces and
second reads are not counted: an operator that needs them is further from its floor. Plain torch is written as one would
for speed, in the dtype of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as functional
from torch import Tensor

import genaccel.ops  # noqa: F401 - loads the library

Bound = Literal["memory", "matrix", "other"]
TEMPERATURE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Sizes of all operators.

    Attributes:
        name: For the table.
        batch: Samples.
        tokens: Of a sample.
        channels: Of a token.
        selected: Tokens that are recomputed.
        rows: Vectors that are quantised.
        codes: Code words.
        dim: Of a code word.
        windows: Windows of the integer entropy model.
        window_tokens: Tokens of one.
        width: Its channels.
        heads: Its heads.
    """

    name: str
    batch: int
    tokens: int
    channels: int
    selected: int
    rows: int
    codes: int
    dim: int
    windows: int
    window_tokens: int
    width: int
    heads: int


# Tensors of 300 MB: several times the 60 MB of a Hopper's second-level cache.
LARGE = Size(
    name="large",
    batch=128,
    tokens=1024,
    channels=1152,
    selected=256,
    rows=86016,
    codes=4096,
    dim=32,
    windows=1024,
    window_tokens=336,
    width=384,
    heads=8,
)
# DiT-XL/2 at batch 4 with guidance, a training step of the codec, a 768x512 image: what a call has.
MODEL = Size(
    name="model",
    batch=8,
    tokens=256,
    channels=1152,
    selected=64,
    rows=5376,
    codes=4096,
    dim=32,
    windows=24,
    window_tokens=336,
    width=384,
    heads=8,
)
TINY = Size(
    name="tiny",
    batch=4,
    tokens=24,
    channels=48,
    selected=6,
    rows=64,
    codes=48,
    dim=8,
    windows=3,
    window_tokens=21,
    width=32,
    heads=4,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCase:
    """One operator at one size.

    Attributes:
        op: Name in ``torch.ops.genaccel``.
        label: With its variant, for the table.
        bound: What limits it on a GPU; ``"other"`` is dependent rounds of little work.
        make: Fresh inputs on a device, as the operator takes them.
        plain: Plain torch, of the same arguments.
        bytes: To move at least.
        flops: To compute; a multiplication and an addition are two. Integers count alike.
        atol: Largest difference between the two sides, with ``rtol`` of plain torch's value.
        rtol: Likewise.
        may_differ: Share of the elements that may differ by more: ties that rounding decides.
        compared: Results that plain torch has too, the first ones; None for all.
        plain_bytes: Extra memory of the largest matrix that plain torch stores and ours must not; 0 for none.
    """

    op: str
    label: str
    bound: Bound
    make: Callable[[torch.device], tuple[Any, ...]]
    plain: Callable[..., Any]
    bytes: int
    flops: int
    atol: float = 0.1
    rtol: float = 0.02
    may_differ: float = 0.0
    compared: int | None = None
    plain_bytes: int = 0

    def ours(self, *inputs: Any) -> Any:
        """The operator."""
        return getattr(torch.ops.genaccel, self.op)(*inputs)

    def floor_seconds(self, bytes_per_second: float, flops_per_second: float) -> float:
        """Time below which no version gets, at two measured ceilings."""
        return max(self.bytes / bytes_per_second, self.flops / flops_per_second)


def compare(case: GpuCase, device: torch.device) -> None:
    """Check that both sides agree on fresh inputs.

    Raises:
        AssertionError: If they differ by more than the case allows, or a result is not finite.
    """
    inputs = case.make(device)
    actual = tensors(case.ours(*inputs))[: case.compared]
    expected = tensors(case.plain(*inputs))
    shapes = [[tuple(tensor.shape) for tensor in side] for side in (actual, expected)]
    assert shapes[0] == shapes[1], f"{case.label}: shapes {shapes[0]}, not {shapes[1]}"
    for mine, theirs in zip(actual, expected, strict=True):
        difference = (mine.double() - theirs.double()).abs()
        # A value that is not finite is not within.
        within = difference <= case.atol + case.rtol * theirs.double().abs()
        share = 1 - float(within.double().mean())
        assert share <= case.may_differ, (
            f"{case.label} is wrong: {share:.2%} differ, by up to {float(difference.max()):g}"
        )


def tensors(value: Any) -> list[Tensor]:
    """The tensors of an operator's result, the empty ones left out."""
    listed = list(value) if isinstance(value, tuple | list) else [value]
    return [tensor for tensor in listed if tensor.numel()]


def token_cases(size: Size, dtype: torch.dtype = torch.bfloat16) -> list[GpuCase]:
    """Choice of tokens, and forecasts."""
    b, n, c, k = size.batch, size.tokens, size.channels, size.selected
    item = torch.empty(0, dtype=dtype).element_size()
    full = b * n * c * item

    def randn(device: torch.device, *shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    def plain_select(score: Tensor, k: int, groups: int) -> Tensor:
        total = score.view(groups, -1, score.shape[1]).sum(0)
        return total.topk(k, dim=1).indices.sort(dim=1).values.repeat(groups, 1)

    def plain_predict(
        bases: list[Tensor],
        history: list[Tensor],
        coefficients: list[float],
        offsets: list[float],
    ) -> list[Tensor]:
        first = torch.add(bases[0], history[0], alpha=coefficients[0])
        return [first.add_(history[1], alpha=coefficients[1])]

    return [
        GpuCase(
            op="select_tokens",
            label="select_tokens",
            bound="other",
            make=lambda device: (torch.rand(b, n, device=device), k, 2),
            plain=plain_select,
            bytes=4 * b * n + 8 * b * k,
            flops=b * n,
            atol=0,
            rtol=0,
        ),
        GpuCase(
            op="token_scores",
            label="token_scores mean",
            bound="memory",
            make=lambda device: (randn(device, b, n, c), None),
            plain=lambda x, _: x.mean(2, dtype=torch.float32).abs(),
            bytes=full + 4 * b * n,
            flops=b * n * c,
        ),
        GpuCase(
            op="token_scores",
            label="token_scores drift",
            bound="memory",
            make=lambda device: (randn(device, b, n, c), randn(device, b, n, c)),
            plain=lambda x, old: (x - old).mean(2, dtype=torch.float32).abs(),
            bytes=2 * full + 4 * b * n,
            flops=2 * b * n * c,
        ),
        GpuCase(
            op="predict_add",
            label="predict_add of 2 terms",
            bound="memory",
            make=lambda device: (
                [randn(device, b, n, c)],
                [randn(device, b, n, c) for _ in range(2)],
                [1.5, -0.5],
                [0.0],
            ),
            plain=plain_predict,
            bytes=4 * full,
            flops=4 * b * n * c,
        ),
    ]


def quantize_cases(size: Size) -> list[GpuCase]:
    """Nearest code words and the relaxed rate."""
    rows, codes, dim = size.rows, size.codes, size.dim
    product = 2 * rows * codes * dim
    matrix, vectors, book = 4 * rows * codes, 4 * rows * dim, 4 * codes * dim

    def unit(device: torch.device, count: int) -> Tensor:
        return functional.normalize(torch.randn(count, dim, device=device), dim=1)

    def plain_nearest(features: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        unit_codes = functional.normalize(codebook, dim=1)
        indices = (functional.normalize(features, dim=1) @ unit_codes.T).argmax(1)
        return unit_codes[indices], indices

    def plain_nearest_backward(grad: Tensor, features: Tensor) -> Tensor:
        inverse = features.norm(dim=1, keepdim=True).clamp_min(1e-12).reciprocal()
        unit_rows = features * inverse
        return (grad - (grad * unit_rows).sum(1, keepdim=True) * unit_rows) * inverse

    def soft_inputs(device: torch.device) -> tuple[Any, ...]:
        logits = torch.randn(rows, codes, device=device)
        return unit(device, rows), unit(device, codes), logits, TEMPERATURE

    def scores(features: Tensor, codebook: Tensor) -> Tensor:
        return torch.addmm(codebook.square().sum(1), features, codebook.T, beta=-0.5)

    def plain_soft(
        features: Tensor, codebook: Tensor, logits: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        score = scores(features, codebook)
        soft = functional.softmax(score * (2 / temperature), dim=1)
        rate = functional.cross_entropy(logits, soft, reduction="none")
        return rate / math.log(2), score.argmax(1)

    def backward_inputs(device: torch.device) -> tuple[Any, ...]:
        features, codebook, logits, temperature = soft_inputs(device)
        _, indices, statistics = torch.ops.genaccel.soft_cross_entropy(
            features, codebook, logits, temperature
        )
        grad = torch.randn(rows, device=device)
        flags = (True, True, True)
        return grad, features, codebook, logits, indices, statistics, temperature, *flags

    def plain_soft_backward(
        grad: Tensor,
        features: Tensor,
        codebook: Tensor,
        logits: Tensor,
        _indices: Tensor,
        _statistics: Tensor,
        temperature: float,
        *_flags: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        soft = functional.softmax(scores(features, codebook) * (2 / temperature), dim=1)
        log_model = functional.log_softmax(logits, dim=1)
        in_bits = grad[:, None] / math.log(2)
        mean = (soft * log_model).sum(1, keepdim=True)
        to_scores = soft * (mean - log_model) * in_bits * (2 / temperature)
        to_codes = to_scores.T @ features - to_scores.sum(0)[:, None] * codebook
        return to_scores @ codebook, to_codes, (log_model.exp() - soft) * in_bits

    return [
        GpuCase(
            op="nearest_code",
            label="nearest_code",
            bound="matrix",
            make=lambda device: (
                torch.randn(rows, dim, device=device),
                torch.randn(codes, dim, device=device),
            ),
            plain=plain_nearest,
            bytes=2 * vectors + book + 8 * rows,
            flops=product,
            atol=1e-4,
            may_differ=0.01,
            plain_bytes=matrix,
        ),
        GpuCase(
            op="nearest_code_backward",
            label="nearest_code_backward",
            bound="memory",
            make=lambda device: (
                torch.randn(rows, dim, device=device),
                torch.randn(rows, dim, device=device),
            ),
            plain=plain_nearest_backward,
            bytes=3 * vectors,
            flops=8 * rows * dim,
            atol=1e-4,
        ),
        GpuCase(
            op="soft_cross_entropy",
            label="soft_cross_entropy",
            bound="matrix",
            make=soft_inputs,
            plain=plain_soft,
            bytes=matrix + vectors + book + 4 * rows * (1 + 5) + 8 * rows,
            flops=product + 8 * rows * codes,
            atol=1e-3,
            may_differ=0.01,
            compared=2,
            plain_bytes=matrix,
        ),
        GpuCase(
            op="soft_cross_entropy_backward",
            label="soft_cross_entropy_backward",
            bound="matrix",
            make=backward_inputs,
            plain=plain_soft_backward,
            bytes=2 * matrix + 2 * vectors + 2 * book + 4 * rows * (1 + 5) + 8 * rows,
            # Scores again, and the products to features and to code words.
            flops=3 * product + 8 * rows * codes,
            atol=1e-3,
            plain_bytes=matrix,
        ),
    ]
