# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from genaccel import ops


def test_exact_ties_go_to_the_lowest_index(device):
    codebook = torch.randn(100, 8, device=device)
    codebook[[17, 60, 99]] = codebook[3].clone()
    codebook[40] = 2 * codebook[3]  # a power of two: the same direction to the bit
    _, indices = ops.nearest_code(codebook[3:4] * 4, codebook)
    assert indices.tolist() == [3]


def test_length_of_rows_and_codes_does_not_matter(device):
    features, codebook = torch.randn(50, 6, device=device), torch.randn(20, 6, device=device)
    expected = ops.nearest_code(features, codebook)
    actual = ops.nearest_code(features * 1024, codebook / 256)
    assert torch.equal(actual[1], expected[1])
    torch.testing.assert_close(actual[0], expected[0])


def test_zero_rows_get_index_zero_and_no_gradient(device):
    features = torch.zeros(3, 4, device=device, requires_grad=True)
    quantized, indices = ops.nearest_code(features, torch.randn(9, 4, device=device))
    quantized.sum().backward()
    assert indices.tolist() == [0, 0, 0]
    assert not features.grad.any()


def test_threads_do_not_change_the_result():
    features, codebook = torch.randn(1000, 16), torch.randn(300, 16)
    torch.set_num_threads(1)
    one = ops.nearest_code(features, codebook)
    torch.set_num_threads(2)
    two = ops.nearest_code(features, codebook)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


def test_views_are_accepted(device):
    features, codebook = torch.randn(6, 20, device=device), torch.randn(6, 9, device=device)
    quantized, indices = ops.nearest_code(features.T, codebook.T)
    expected = ops.nearest_code(features.T.contiguous(), codebook.T.contiguous())
    assert torch.equal(indices, expected[1])
    assert torch.equal(quantized, expected[0])


def test_compiles_without_graph_breaks():
    features, codebook = torch.randn(10, 4), torch.randn(7, 4)
    compiled = torch.compile(ops.nearest_code, fullgraph=True, backend="aot_eager")
    for a, b in zip(
        compiled(features, codebook), ops.nearest_code(features, codebook), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("features", "codebook", "error", "message"),
    [
        ([[1.0]], torch.ones(1, 1), TypeError, "features must be a tensor, got list"),
        (torch.ones(2, 3).half(), torch.ones(4, 3).half(), TypeError, "float32 or float64"),
        (torch.ones(2, 3), torch.ones(4, 3).double(), TypeError, "codebook must be torch.float32"),
        (torch.ones(3), torch.ones(4, 3), ValueError, "features must have 2 dimensions"),
        (torch.ones(2, 3), torch.ones(4, 5), ValueError, "codebook must have 3 columns"),
        (torch.ones(2, 0), torch.ones(4, 0), ValueError, "at least 1"),
        (torch.ones(2, 3), torch.ones(0, 3), ValueError, "at least one row"),
    ],
)
def test_bad_arguments_are_named(features, codebook, error, message):
    with pytest.raises(error, match=message):
        ops.nearest_code(features, codebook)


def test_the_operator_itself_guards_memory():
    op = torch.ops.genaccel.nearest_code.default
    with pytest.raises(RuntimeError, match="codebook must have size 3 in axis 1, got 5"):
        op(torch.ones(2, 3), torch.ones(4, 5))
    with pytest.raises(RuntimeError, match="features must be contiguous"):
        op(torch.ones(3, 2).T, torch.ones(4, 3))
    with pytest.raises(RuntimeError) as caught:
        op(torch.ones(2, 3), torch.ones(0, 3))
    assert "/home/" not in str(caught.value)  # no build path in messages
