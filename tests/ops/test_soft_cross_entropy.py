# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
import torch.nn.functional as functional

from genaccel import ops


def unit_rows(rows, channels, device, dtype=torch.float32):
    return functional.normalize(torch.randn(rows, channels, device=device, dtype=dtype), dim=1)


def with_gradients(features, codebook, logits, temperature, weight=None):
    """Indices, rate, and the gradients of the (weighted) sum of the rate."""
    leaves = [t.detach().clone().requires_grad_() for t in (features, codebook, logits)]
    indices, rate = ops.soft_cross_entropy(*leaves, temperature)
    weight = torch.ones_like(rate) if weight is None else weight
    return indices, rate.detach(), torch.autograd.grad(rate, leaves, weight)


def exact(features, codebook, logits, temperature, weight):
    """Equations 5 to 7 in float64 by autograd."""
    leaves = [t.detach().double().requires_grad_() for t in (features, codebook, logits)]
    y, c, z = leaves
    distance = (y[:, None] - c[None]).square().sum(2)
    p = functional.softmax(-distance / temperature, dim=1)
    rate = -(p * functional.log_softmax(z, dim=1)).sum(1) / math.log(2)
    return distance.argmin(1), rate.detach(), torch.autograd.grad(rate, leaves, weight.double())


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("logits_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_float32_is_accurate(device, logits_dtype, temperature):
    features, codebook = unit_rows(70, 32, device), unit_rows(600, 32, device)
    logits = (3 * torch.randn(70, 600, device=device)).to(logits_dtype)
    weight = torch.randn(70, device=device)
    indices, rate, gradients = with_gradients(features, codebook, logits, temperature, weight)
    expected = exact(features, codebook, logits, temperature, weight)
    assert torch.equal(indices, expected[0])
    assert relative_error(rate, expected[1]) < 1e-6
    rounding = {torch.float32: 3e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}[logits_dtype]
    for actual, truth, bound in zip(gradients, expected[2], (3e-6, 3e-6, rounding), strict=True):
        assert relative_error(actual, truth) < bound * max(1, 0.1 / temperature)
    assert gradients[2].dtype == logits_dtype


@pytest.mark.gradcheck
def test_gradients_pass_gradcheck(device):
    features, codebook = (torch.randn(n, 3, device=device, dtype=torch.float64) for n in (4, 6))
    logits = torch.randn(4, 6, device=device, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (features, codebook, logits)]
    torch.autograd.gradcheck(lambda *t: ops.soft_cross_entropy(*t, 0.7)[1], leaves)


def test_gradient_to_features_is_a_covariance(device):
    """(2 / temperature) Cov_p(l, c) with l = -log2 q."""
    features, codebook = (unit_rows(n, 8, device, torch.float64) for n in (9, 64))
    logits = torch.randn(9, 64, device=device, dtype=torch.float64)
    gradient = with_gradients(features, codebook, logits, 0.1)[2][0]
    p = functional.softmax(2 / 0.1 * features @ codebook.T, dim=1)  # unit norms: the rest cancels
    length = -functional.log_softmax(logits, dim=1) / math.log(2)
    centred = length - (p * length).sum(1, keepdim=True)
    expected = 2 / 0.1 * torch.einsum("nk,nk,kc->nc", p, centred, codebook)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rate_becomes_that_of_the_nearest_code(device, dtype):
    features, codebook = unit_rows(40, 16, device, dtype), unit_rows(300, 16, device, dtype)
    logits = torch.randn(40, 300, device=device, dtype=dtype)
    bits = -functional.log_softmax(logits, dim=1) / math.log(2)
    hard = bits.gather(1, ops.nearest_code(features, codebook)[1][:, None])[:, 0]
    distances = [
        (ops.soft_cross_entropy(features, codebook, logits, t)[1] - hard).abs().max().item()
        for t in (1.0, 1e-2, 1e-4, 1e-7)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 1
    assert distances[-1] < 20 * torch.finfo(dtype).eps


def test_one_code_word_that_takes_all_leaves_no_gradient(device):
    features, codebook = unit_rows(30, 32, device), unit_rows(500, 32, device)
    for temperature in (1e-6, 1e-30, 1e-300):
        _, rate, gradients = with_gradients(
            features, codebook, torch.randn(30, 500, device=device), temperature
        )
        assert rate.isfinite().all()
        assert not gradients[0].any()
        assert not gradients[1].any()
        assert gradients[2].isfinite().all()


def test_index_is_that_of_nearest_code(device):
    features, codebook = unit_rows(500, 32, device), unit_rows(1000, 32, device)
    logits = torch.zeros(500, 1000, device=device)
    indices, rate = ops.soft_cross_entropy(features, codebook, logits, 0.1)
    assert torch.equal(indices, ops.nearest_code(features, codebook)[1])
    torch.testing.assert_close(rate, torch.full_like(rate, math.log2(1000)))


def test_index_is_of_the_smallest_distance_for_any_length(device):
    features = 3 * torch.randn(50, 6, device=device, dtype=torch.float64)
    codebook = torch.randn(80, 6, device=device, dtype=torch.float64)
    logits = torch.zeros(50, 80, device=device, dtype=torch.float64)
    indices, _ = ops.soft_cross_entropy(features, codebook, logits, 0.1)
    assert torch.equal(indices, torch.cdist(features, codebook).argmin(1))


def test_exact_ties_go_to_the_lowest_index(device):
    codebook = unit_rows(700, 8, device)
    codebook[[17, 60, 300, 699]] = codebook[3].clone()
    logits = torch.zeros(1, 700, device=device)
    indices, _ = ops.soft_cross_entropy(codebook[3:4], codebook, logits, 0.1)
    assert indices.tolist() == [3]


@pytest.mark.parametrize("temperature", [1e-7, 0.01, 1e30])
def test_extreme_logits_give_numbers(device, temperature):
    features, codebook = unit_rows(12, 32, device), unit_rows(300, 32, device)
    logits = 1e4 * (2 * torch.randint(0, 2, (12, 300), device=device) - 1).float()
    logits[0], logits[1], logits[2] = 1e4, -1e4, torch.linspace(-1e4, 1e4, 300)
    weight = torch.randn(12, device=device)
    _, rate, gradients = with_gradients(features, codebook, logits, temperature, weight)
    assert rate.isfinite().all()
    assert (rate >= 0).all()
    assert all(g.isfinite().all() for g in gradients)
    expected = exact(features, codebook, logits, temperature, weight)
    torch.testing.assert_close(rate[:2], torch.full_like(rate[:2], math.log2(300)))
    if temperature == 1e30:
        torch.testing.assert_close(rate.double(), expected[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients[2].double(), expected[2][2], rtol=1e-3, atol=1e-3)


def test_largest_and_smallest_half_logits(device):
    features, codebook = unit_rows(2, 4, device), unit_rows(19, 4, device)
    logits = torch.full((2, 19), -65504.0, device=device, dtype=torch.float16)
    logits[1] = 65504.0
    _, rate, gradients = with_gradients(features, codebook, logits, 0.1)
    torch.testing.assert_close(rate, torch.full_like(rate, math.log2(19)))
    assert all(g.isfinite().all() for g in gradients)


def test_features_that_are_no_numbers_stay_in_range(device):
    features = torch.full((5, 4), math.nan, device=device)
    indices, rate = ops.soft_cross_entropy(
        features, unit_rows(9, 4, device), torch.zeros(5, 9, device=device), 0.1
    )
    assert ((indices >= 0) & (indices < 9)).all()
    assert rate.isnan().all()


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_wanted_gradients_are_made(device, wanted):
    inputs = [
        unit_rows(20, 8, device),
        unit_rows(40, 8, device),
        torch.randn(20, 40, device=device),
    ]
    everything = with_gradients(*inputs, 0.1)[2]
    for i in wanted:
        inputs[i].requires_grad_()
    _, rate = ops.soft_cross_entropy(*inputs, 0.1)
    rate.sum().backward()
    for i, tensor in enumerate(inputs):
        assert torch.equal(tensor.grad, everything[i]) if i in wanted else tensor.grad is None


def test_no_rows_give_zeros_to_the_codebook(device):
    codebook = unit_rows(5, 3, device)
    nothing = torch.empty(0, 3, device=device), codebook, torch.empty(0, 5, device=device)
    assert not with_gradients(*nothing, 0.1)[2][1].any()


def test_threads_do_not_change_the_result():
    features, codebook = unit_rows(333, 16, "cpu"), unit_rows(900, 16, "cpu")
    logits = torch.randn(333, 900)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        indices, rate, gradients = with_gradients(features, codebook, logits, 0.05)
        results.append((indices, rate, *gradients))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_views_are_accepted(device):
    logits = torch.randn(9, 20, device=device)
    views = torch.randn(6, 20, device=device).T, torch.randn(6, 9, device=device).T, logits.T
    expected = ops.soft_cross_entropy(*(v.contiguous() for v in views), 0.3)
    for actual, wanted in zip(ops.soft_cross_entropy(*views, 0.3), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_a_view_that_starts_anywhere_is_accepted(device):
    """Rows of a multiple of four logits, which do not start at a multiple of 16 bytes."""
    features, codebook = unit_rows(6, 8, device), unit_rows(64, 8, device)
    logits = torch.randn(6 * 64 + 1, device=device)[1:].view(6, 64)
    weight = torch.randn(6, device=device)
    shifted = with_gradients(features, codebook, logits, 0.1, weight)
    plain = with_gradients(features, codebook, logits.clone(), 0.1, weight)
    assert torch.equal(shifted[1], plain[1])
    _, rate = ops.soft_cross_entropy(features, codebook, logits.requires_grad_(), 0.1)
    torch.testing.assert_close(torch.autograd.grad(rate, logits, weight)[0], plain[2][2])


def test_compiles_without_graph_breaks():
    inputs = [torch.randn(10, 4), torch.randn(7, 4), torch.randn(10, 7)]
    leaves = [t.requires_grad_() for t in inputs]

    def loss(*tensors):
        return ops.soft_cross_entropy(*tensors, 0.5)[1].mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(*leaves), leaves)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


GOOD = {
    "features": torch.ones(2, 3),
    "codebook": torch.ones(4, 3),
    "logits": torch.ones(2, 4),
    "temperature": 0.1,
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": [[1.0]]}, TypeError, "features must be a tensor, got list"),
        ({"features": torch.ones(2, 3).half()}, TypeError, "float32 or float64"),
        ({"codebook": torch.ones(4, 3).double()}, TypeError, "codebook must be torch.float32"),
        ({"logits": torch.ones(2, 4).double()}, TypeError, "logits must be float64 if and only if"),
        ({"logits": torch.ones(2, 4).long()}, TypeError, "logits must be float16, bfloat16"),
        ({"logits": torch.ones(2, 5)}, ValueError, r"logits must have shape \(2, 4\)"),
        ({"codebook": torch.ones(4, 5)}, ValueError, "codebook must have 3 columns"),
        ({"codebook": torch.ones(0, 3)}, ValueError, "at least one row"),
        ({"temperature": "1"}, TypeError, "temperature must be a number, got str"),
        ({"temperature": True}, TypeError, "temperature must be a number, got bool"),
        ({"temperature": 0}, ValueError, "temperature must be above 0 and finite, got 0"),
        ({"temperature": -0.1}, ValueError, "above 0 and finite"),
        ({"temperature": math.inf}, ValueError, "above 0 and finite"),
        ({"temperature": math.nan}, ValueError, "above 0 and finite"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        ops.soft_cross_entropy(**{**GOOD, **change})


def test_the_operator_itself_guards_memory():
    op = torch.ops.genaccel.soft_cross_entropy.default
    y, c, z, temperature = GOOD.values()
    with pytest.raises(RuntimeError, match="logits must have size 4 in axis 1, got 5"):
        op(y, c, torch.ones(2, 5), temperature)
    with pytest.raises(RuntimeError, match="logits must be contiguous"):
        op(y, c, torch.ones(4, 2).T, temperature)
    with pytest.raises(RuntimeError, match="temperature must be above 0 and finite"):
        op(y, c, z, math.nan)
    backward = torch.ops.genaccel.soft_cross_entropy_backward.default
    rate, indices, statistics = op(y, c, z, temperature)
    with pytest.raises(RuntimeError, match=r"indices must be in \[0, 3\], got 4"):
        backward(rate, y, c, z, indices + 4, statistics, temperature, True, True, True)
    with pytest.raises(RuntimeError, match="statistics must have size 5 in axis 1"):
        backward(rate, y, c, z, indices, statistics[:, :4].contiguous(), 0.1, True, True, True)
