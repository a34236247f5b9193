# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from genaccel import ops
from genaccel.sensitivity.run.forecast import Reuse, Taylor


def test_weighted_sum(device):
    base, new, old = torch.randn(3, 2, 9, 24, device=device)
    (actual,) = ops.predict_add([base], [new, old], [1.5, -0.5], [0.25])
    torch.testing.assert_close(actual, base + 1.5 * new - 0.5 * old + 0.25)
    assert actual.shape == (2, 9, 24)


def test_runs_the_forecasters(device):
    steps = [6, 4, 1]
    history = [torch.full((5,), float(s * s), dtype=torch.float64, device=device) for s in steps]
    taylor = Taylor(2)
    (actual,) = ops.predict_add(
        None, history, taylor.coefficients(9, steps), [taylor.offset(9, steps)]
    )
    torch.testing.assert_close(actual, torch.full_like(actual, 81.0))  # exact on parabolas
    (same,) = ops.predict_add(None, history[:1], Reuse().coefficients(9, steps), [0.0])
    assert torch.equal(same, history[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number_passes_through(device, dtype):
    """Both directions of the conversion: subnormal, infinite, NaN."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32, device=device).to(torch.int16)
    x = bits.view(dtype)
    for size in (2**16, 2**16 - 3):  # vectors, and what does not fill one
        (actual,) = ops.predict_add([x[-size:]], [], [], [0.0])
        torch.testing.assert_close(actual, x[-size:], atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_that_of_torch(device, dtype):
    """To nearest, ties to even, from subnormal to overflow."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32, device=device).to(torch.int16)
    x = bits.view(dtype)
    for factor in (0.5, 1.5, 0.75, 1.0009765625, 3.0, 2.0**-9, 1 / 3):
        (actual,) = ops.predict_add(None, [x], [factor], [0.0])
        expected = (x.float() * factor).to(dtype)
        torch.testing.assert_close(actual, expected, atol=0, rtol=0, equal_nan=True)


def test_sum_of_many_rounds_once(device):
    """A whole run of reused blocks; in bfloat16 the terms would be lost one by one."""
    terms = [torch.full((33,), 1.0, dtype=torch.bfloat16, device=device) for _ in range(128)]
    base = torch.full((33,), 256.0, dtype=torch.bfloat16, device=device)
    (actual,) = ops.predict_add([base], terms, [1.0] * 128, [0.0])
    assert actual.tolist() == [384.0] * 33


def test_terms_of_weight_zero_are_not_read(device):
    good = torch.ones(20, device=device)
    bad = torch.full((20,), float("nan"), device=device)
    (actual,) = ops.predict_add(None, [bad, good], [0.0, 2.0], [1.0])
    assert actual.tolist() == [3.0] * 20


def test_offsets_alone(device):
    (actual,) = ops.predict_add(None, [torch.ones(3, device=device)], [0.0], [1.5])
    assert actual.tolist() == [1.5] * 3


def test_each_tensor_has_its_own_shape(device):
    shapes = [(3, 5), (0, 4), (1000,), (2, 3, 4), ()]
    bases = [torch.randn(shape, device=device) for shape in shapes]
    history = [torch.randn(shape, device=device) for shape in shapes for _ in range(2)]
    weights = torch.randn(10).tolist()
    offsets = torch.randn(5).tolist()
    actual = ops.predict_add(bases, history, weights, offsets)
    for t, base in enumerate(bases):
        i = 2 * t
        expected = base + offsets[t] + weights[i] * history[i] + weights[i + 1] * history[i + 1]
        torch.testing.assert_close(actual[t], expected)


def test_threads_do_not_change_the_result():
    history = [torch.randn(100_003) for _ in range(6)]
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(ops.predict_add(None, history, [0.1, 0.2, 0.3] * 2, [0.0, 1.0]))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_views_are_accepted(device):
    turned = torch.randn(8, 12, device=device).T
    shifted = torch.randn(97, device=device)[1:].view(12, 8)  # not aligned to 16 bytes
    (actual,) = ops.predict_add([turned], [shifted], [2.0], [0.0])
    torch.testing.assert_close(actual, turned + 2 * shifted)


def test_compiles_without_graph_breaks():
    def step(base, new, old):
        return ops.predict_add([base, new], [new, old, old, new], [1.0, 2.0, 3.0, 4.0], [0.0, 1.0])

    inputs = torch.randn(3, 7).unbind()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(*inputs), step(*inputs), strict=True):
        assert torch.equal(a, b)


def test_nothing_gives_nothing():
    assert ops.predict_add(None, [], [], []) == []


ONE = torch.ones(2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([ONE], [ONE], [1.0], []), ValueError, "bases must have 0 tensors"),
        (([ONE], [ONE], [1.0], [0.0, 0.0]), ValueError, "bases must have 2 tensors"),
        ((None, [ONE] * 3, [1.0] * 3, [0.0, 0.0]), ValueError, "a multiple of 2 tensors"),
        ((None, [ONE], [], [0.0]), ValueError, "coefficients must have 1 numbers"),
        ((None, [], [], [0.0]), ValueError, "bases or history must be given"),
        ((None, [ONE] * 129, [1.0] * 129, [0.0]), ValueError, "at most 128 tensors for each"),
        (
            ([ONE], [torch.ones(3)], [1.0], [0.0]),
            ValueError,
            r"history\[0\] must have shape \(2,\)",
        ),
        (([ONE], [ONE.half()], [1.0], [0.0]), TypeError, r"history\[0\] must be torch.float32"),
        (([ONE.int()], [ONE], [1.0], [0.0]), TypeError, r"bases\[0\] must be float16, bfloat16"),
        (([[1.0]], [ONE], [1.0], [0.0]), TypeError, r"bases\[0\] must be a tensor, got list"),
        (([ONE.clone().requires_grad_()], [], [], [0.0]), ValueError, "requires a gradient"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.predict_add(*arguments)


def test_the_operator_itself_guards_memory():
    op = torch.ops.genaccel.predict_add.default
    with pytest.raises(RuntimeError, match="history must have size 2 in axis 0, got 3"):
        op([ONE], [torch.ones(3)], [1.0], [0.0])
    with pytest.raises(RuntimeError, match="coefficients must have 1 numbers, got 2"):
        op([ONE], [ONE], [1.0, 2.0], [0.0])
    with pytest.raises(RuntimeError, match="at most 128"):
        op([ONE], [ONE] * 129, [1.0] * 129, [0.0])
    with pytest.raises(RuntimeError, match="history must have the dtype and device"):
        op([ONE], [ONE.double()], [1.0], [0.0])
