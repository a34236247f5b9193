# SPDX-License-Identifier: Apache-2.0
"""The operators of ``tests/op_cases`` at the sizes that ``bench/gpu_ops.py`` measures, with the bytes they cannot avoid."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genaccel.ops  # noqa: F401 - loads the library

SIZES = ("large", "model", "tiny")


def op_cases() -> tuple[Any, ...]:
    """The operators' cases that the tests have."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    cases: tuple[Any, ...] = importlib.import_module("op_cases").OP_CASES
    return cases


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCase:
    """One operator at one size.

    Attributes:
        op: Its ``OpCase``.
        label: Its name with that of a variant, for the table.
        size: One of ``SIZES``.
        shape: Arguments of the case's ``make_inputs`` and ``flops``.
        dtype: Of the inputs.
    """

    op: Any
    label: str
    size: str
    shape: Mapping[str, Any]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Bytes to move at least: each input read once, each output written once."""
        inputs = self.make(torch.device("meta"))
        return bytes_of(inputs) + bytes_of(self.ours(*inputs))

    @property
    def flops(self) -> int:
        """Operations to compute at least."""
        return int(self.op.flops(**self.shape))

    @property
    def rival_bytes(self) -> int:
        """Bytes of the largest matrix that plain PyTorch stores and ours must not; 0 for none."""
        return int(self.op.rival_bytes(**self.shape)) if self.op.rival_bytes else 0

    def make(self, device: torch.device) -> tuple[Any, ...]:
        """Fresh inputs, as the operator takes them."""
        with device:
            inputs: tuple[Any, ...] = self.op.make_inputs(self.dtype, **self.shape)
        return inputs

    def ours(self, *inputs: Any) -> Any:
        """The operator."""
        return getattr(torch.ops.genaccel, self.op.name)(*inputs)

    def floor_seconds(self, bytes_per_second: float, flops_per_second: float) -> float:
        """Time below which no version gets, at two measured ceilings."""
        return max(self.bytes / bytes_per_second, self.flops / flops_per_second)


def gpu_cases(size: str) -> list[GpuCase]:
    """All operators, each with its variants, at one of ``SIZES``."""
    return [
        GpuCase(
            op=op,
            label=f"{op.name} {variant}".strip(),
            size=size,
            shape={**getattr(op, size), **others},
            dtype=op.bench_dtype or op.dtypes[0],
        )
        for op in op_cases()
        for variant, others in op.variants.items()
    ]


def every_tensor(value: Any) -> list[Tensor]:
    """All tensors in arguments or results, in lists and tuples too."""
    if torch.is_tensor(value):
        return [value]
    listed = value if isinstance(value, list | tuple) else ()
    return [tensor for item in listed for tensor in every_tensor(item)]


def bytes_of(value: Any) -> int:
    """Bytes of all tensors in arguments or results."""
    return sum(tensor.numel() * tensor.element_size() for tensor in every_tensor(value))


def compare(case: GpuCase, device: torch.device) -> None:
    """Check that the operator agrees with plain PyTorch on fresh inputs.

    Raises:
        AssertionError: If they differ by more than the case allows, or a result is not finite.
    """
    inputs = case.make(device)
    actual = case.op.results(case.ours, inputs)[: case.op.compared]
    expected = case.op.results(case.op.rival, inputs)
    shapes = [[tuple(tensor.shape) for tensor in side] for side in (actual, expected)]
    assert shapes[0] == shapes[1], f"{case.label}: shapes {shapes[0]}, not {shapes[1]}"
    for mine, theirs in zip(actual, expected, strict=True):
        difference = (mine.double() - theirs.double()).abs()
        # A value that is not finite is not within.
        within = difference <= case.op.atol + case.op.rtol * theirs.double().abs()
        share = 1 - float(within.double().mean())
        assert share <= case.op.may_differ, (
            f"{case.label} is wrong: {share:.2%} differ, by up to {float(difference.max()):g}"
        )
