# SPDX-License-Identifier: Apache-2.0
"""All that tests and bench need to know of an operator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Shape = Mapping[str, Any]
HALF_TO_DOUBLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class OpCase:
    """``torch.ops.genaccel.<name>`` beside ``genaccel.reference.<name>``, and beside plain PyTorch on a GPU.

    Integer results must be equal to the bit, on every device; floats may have twice the error of plain torch.

    Attributes:
        name: Name of the operator.
        make_inputs: ``make_inputs(dtype, **shape)``: fresh inputs on torch's default device.
        shapes: Shapes of the tests; empty, single and odd ones included.
        dtypes: Dtypes of the tests.
        differentiable: Arguments that get a gradient.
        gradcheck_of: A function whose gradient is that of the operator.
        rival: Plain PyTorch of the same arguments, at the bench's sizes, as one would write it for speed.
        flops: ``flops(**shape)`` to compute at least; a multiplication and an addition are two. Integers count alike.
            Bytes need no formula: each input is read once, each output written once. Workspaces and second reads are not
            counted: an operator that needs them is further from its floor.
        bound: What limits it on a GPU; ``"other"`` is dependent rounds of little work.
        large: Shape for the bench: several times the second-level cache of a GPU (60 MB of a Hopper), where the operator
            is bound by memory.
        model: Shape of what a call has: DiT-XL/2 at batch 4 with guidance, a training step of the codec, a 768x512 image.
        tiny: Shape for the bench's own tests.
        variants: Further entries of these three shapes, by a name that the bench's table appends to the operator's.
        bench_dtype: Dtype of the bench; None for the first of ``dtypes``.
        atol: Largest difference between operator and rival, with ``rtol`` of the rival's value.
        rtol: See ``atol``.
        may_differ: Share of the elements that may differ by more: ties that rounding decides.
        compared: Results that the rival has too, the first ones; None for all.
        rival_bytes: ``rival_bytes(**shape)`` of the largest matrix that the rival stores and the operator must not.
        writes_to: Arguments that it writes to, and so does its rival; they count as results behind its own.
    """

    name: str
    make_inputs: Callable[..., tuple[Any, ...]]
    shapes: tuple[Shape, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    differentiable: tuple[int, ...] = field(default=())
    gradcheck_of: Callable[..., torch.Tensor] | None = None
    rival: Callable[..., Any]
    flops: Callable[..., int]
    bound: Literal["memory", "matrix", "other"]
    large: Shape
    model: Shape
    tiny: Shape
    variants: Mapping[str, Shape] = field(default_factory=lambda: {"": {}})
    bench_dtype: torch.dtype | None = None
    atol: float = 0.1
    rtol: float = 0.02
    may_differ: float = 0.0
    compared: int | None = None
    rival_bytes: Callable[..., int] | None = None
    writes_to: tuple[int, ...] = ()

    def results(self, function: Callable[..., Any], inputs: tuple[Any, ...]) -> list[torch.Tensor]:
        """Tensors that the operator, its rival or its reference gives, then those that it has written to: copies."""
        if self.writes_to:
            inputs = torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, inputs)
        found = [function(*inputs), *(inputs[i] for i in self.writes_to)]
        return [leaf for leaf in torch.utils._pytree.tree_leaves(found) if leaf is not None]
