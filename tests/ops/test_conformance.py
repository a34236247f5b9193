# SPDX-License-Identifier: Apache-2.0
"""Five checks of every operator: reference, gradient, opcheck, CPU against CUDA, empty and odd shapes."""

import sys
from pathlib import Path

import pytest
import torch

import genaccel.ops  # noqa: F401  (loads the library)
from genaccel import reference

sys.path.insert(0, str(Path(__file__).parents[1]))
from op_cases import OP_CASES

every_input = pytest.mark.parametrize(
    ("case", "shape", "dtype"),
    [
        pytest.param(
            case, shape, dtype, id=f"{case.name}-{'x'.join(map(str, shape.values()))}-{dtype}"
        )
        for case in OP_CASES
        for shape in case.shapes
        for dtype in case.dtypes
    ],
)


def op(case):
    return getattr(torch.ops.genaccel, case.name).default


def as_tuple(value):
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def to(inputs, target):
    """Copies of the inputs on another device, or of the floats in another dtype; lists too."""

    def convert(value):
        if isinstance(value, list):
            return [convert(v) for v in value]
        if not torch.is_tensor(value):
            return value
        if isinstance(target, torch.dtype) and not value.is_floating_point():
            return value.clone()
        return value.to(target, copy=True)

    return tuple(convert(value) for value in inputs)


def assert_as_good_as_plain_torch(actual, inputs, case):
    """Floats: at most twice the error of plain torch in this dtype. Integers: equal."""
    plain_torch = getattr(reference, case.name)
    plain = case.results(plain_torch, to(inputs, "cpu"))
    truth = case.results(plain_torch, to(inputs, torch.float64))
    for a, p, t in zip(actual, plain, truth, strict=True):
        assert (a.shape, a.dtype) == (p.shape, p.dtype)
        if not a.is_floating_point():
            assert torch.equal(a.cpu(), p)
        elif a.numel():
            # In fp64 plain torch is the truth itself: what is left is some rounding of the largest.
            rounding = torch.finfo(a.dtype).eps * t.abs().max().clamp_min(1)
            allowed = 2 * (p - t).abs().max() + 4 * rounding
            assert (a.cpu() - t).abs().max() <= allowed


@every_input
def test_equals_the_reference(case, shape, dtype, device):
    inputs = case.make_inputs(dtype, **shape)
    actual = case.results(op(case), to(inputs, device))
    assert_as_good_as_plain_torch(actual, inputs, case)


@every_input
# opcheck itself looks at .grad of the copies it makes.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck(case, shape, dtype, device):
    inputs = to(case.make_inputs(dtype, **shape), device)
    for i in case.differentiable:
        inputs[i].requires_grad_()
    torch.library.opcheck(op(case), inputs)


@pytest.mark.gradcheck
@pytest.mark.parametrize("case", [c for c in OP_CASES if c.differentiable], ids=lambda c: c.name)
def test_gradient_is_that_of_the_smooth_part(case, device):
    """Straight-through operators have the gradient of another function; that one passes gradcheck in fp64."""
    for shape in case.shapes:
        inputs = to(case.make_inputs(torch.float64, **shape), device)
        for i in case.differentiable:
            inputs[i].requires_grad_()
        wanted = [inputs[i] for i in case.differentiable]
        output = as_tuple(op(case)(*inputs))[0]
        weight = torch.randn_like(output)
        actual = torch.autograd.grad((output * weight).sum(), wanted)
        expected = torch.autograd.grad((case.gradcheck_of(*inputs) * weight).sum(), wanted)
        torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)
        if 0 < wanted[0].numel() < 100:
            torch.autograd.gradcheck(case.gradcheck_of, inputs)


@pytest.mark.cuda
@every_input
def test_cpu_and_cuda_agree(case, shape, dtype):
    inputs = case.make_inputs(dtype, **shape)
    on_cpu = case.results(op(case), to(inputs, "cpu"))
    on_cuda = case.results(op(case), to(inputs, "cuda"))
    for a, b in zip(on_cpu, on_cuda, strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(a, b.cpu())
        else:
            assert torch.equal(a, b.cpu())


@pytest.mark.parametrize("case", OP_CASES, ids=lambda c: c.name)
def test_shapes_include_an_empty_a_single_and_an_odd_one(case):
    sizes = [tuple(shape.values()) for shape in case.shapes]
    assert any(0 in size for size in sizes)
    assert any(set(size) == {1} for size in sizes)
    assert any(n % 2 and n > 1 for size in sizes for n in size)
