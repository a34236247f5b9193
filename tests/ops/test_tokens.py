# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from genaccel import ops, reference

NAN, INF = float("nan"), float("inf")


class TestSelectTokens:
    @pytest.mark.parametrize(
        ("scores", "k", "expected"),
        [
            ([0.5, 2.0, -1.0, 1.0], 2, [1, 3]),
            ([1.0, 1.0, 1.0, 1.0], 3, [0, 1, 2]),  # ties: the lowest
            ([1.0, 3.0, 1.0, 2.0, 1.0], 4, [0, 1, 2, 3]),
            ([-0.0, 0.0, -1.0, 0.0], 2, [0, 1]),  # both zeros are equal
            ([0.0, INF, NAN, -INF, 5.0], 2, [1, 2]),  # NaN above all
            ([-INF, -INF, -3.0], 2, [0, 2]),
            ([-1e-45, 1e-45, 0.0], 2, [1, 2]),  # subnormal
            ([1.0, 2.0], 0, []),
            ([1.0, 2.0], 2, [0, 1]),
        ],
    )
    def test_small_cases(self, device, scores, k, expected):
        index = ops.select_tokens(torch.tensor([scores], device=device), k)
        assert index.dtype == torch.int64
        assert index.tolist() == [expected]

    @pytest.mark.parametrize(("tokens", "k"), [(256, 26), (1024, 1023), (4096, 1), (20000, 7000)])
    def test_same_set_as_topk(self, device, tokens, k):
        score = torch.randn(3, tokens, device=device)
        expected = score.topk(k, dim=1).indices.sort(dim=1).values
        assert torch.equal(ops.select_tokens(score, k), expected)

    def test_groups_share_the_tokens_of_summed_scores(self, device):
        score = torch.randn(6, 50, device=device)
        index = ops.select_tokens(score, 12, groups=2)
        assert torch.equal(index[:3], index[3:])
        assert torch.equal(index[:3], ops.select_tokens(score[:3] + score[3:], 12))
        assert not torch.equal(index, ops.select_tokens(score, 12))

    def test_groups_may_be_the_whole_batch(self, device):
        score = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 1]], device=device)
        assert ops.select_tokens(score, 1, groups=3).tolist() == [[2], [2], [2]]

    def test_views_and_gradients_are_accepted(self, device):
        score = torch.randn(30, 5, device=device, requires_grad=True).T
        index = ops.select_tokens(score, 7)
        assert not index.requires_grad
        assert torch.equal(index, ops.select_tokens(score.detach().contiguous(), 7))

    @pytest.mark.parametrize(
        ("score", "k", "groups", "error", "message"),
        [
            ([[1.0]], 1, 1, TypeError, "score must be a tensor, got list"),
            (torch.ones(2, 3).half(), 1, 1, TypeError, "score must be torch.float32"),
            (torch.ones(3), 1, 1, ValueError, "score must have 2 dimensions"),
            (torch.ones(2, 3), 4, 1, ValueError, r"k must be in \[0, 3\]"),
            (torch.ones(2, 3), -1, 1, ValueError, r"k must be in \[0, 3\]"),
            (torch.ones(2, 3), 1.0, 1, TypeError, "k must be an int, got float"),
            (torch.ones(2, 3), 1, True, TypeError, "groups must be an int, got bool"),
            (torch.ones(3, 3), 1, 2, ValueError, "divide the batch of 3, got 2"),
            (torch.ones(2, 3), 1, 0, ValueError, "groups must be at least 1"),
        ],
    )
    def test_bad_arguments_are_named(self, score, k, groups, error, message):
        with pytest.raises(error, match=message):
            ops.select_tokens(score, k, groups)


class TestTokenScores:
    def test_mean_and_drift(self, device):
        x, old = torch.randn(2, 2, 5, 40, device=device)
        torch.testing.assert_close(ops.token_scores(x), x.mean(2).abs())
        torch.testing.assert_close(
            ops.token_scores(x, "drift", old), (x.mean(2) - old.mean(2)).abs()
        )
        assert not ops.token_scores(x, "drift", x).any()

    def test_sums_are_wider_than_the_inputs(self, device):
        x = torch.full((1, 1, 4096), 30.0, dtype=torch.float16, device=device)  # a sum of 122880
        assert ops.token_scores(x).item() == 30.0
        assert ops.token_scores(x).dtype == torch.float32

    def test_views_are_accepted(self, device):
        x = torch.randn(3, 20, 7, device=device).transpose(1, 2)
        assert torch.equal(ops.token_scores(x), ops.token_scores(x.contiguous()))
        part = torch.randn(100, device=device)[1:97].view(
            2, 3, 16
        )  # dense, not aligned to 16 bytes
        torch.testing.assert_close(ops.token_scores(part), part.mean(2).abs())

    @pytest.mark.parametrize(
        ("x", "kind", "old", "error", "message"),
        [
            (torch.ones(1, 1, 1, dtype=torch.int64), "mean", None, TypeError, "x must be float16"),
            (torch.ones(1, 1), "mean", None, ValueError, "x must have 3 dimensions"),
            (torch.ones(1, 1, 0), "mean", None, ValueError, "at least one channel"),
            (torch.ones(1, 1, 1), "max", None, ValueError, 'must be "mean" or "drift", got'),
            (torch.ones(1, 1, 1), "drift", None, ValueError, "reference must be given"),
            (torch.ones(1, 1, 1), "mean", torch.ones(1, 1, 1), ValueError, "for that alone"),
            (torch.ones(1, 1, 1), "drift", torch.ones(1, 1, 2), ValueError, "shape"),
            (torch.ones(1, 1, 1), "drift", torch.ones(1, 1, 1).half(), TypeError, "float32 as x"),
            (torch.ones(1, 1, 1, requires_grad=True), "mean", None, ValueError, "torch.no_grad"),
        ],
    )
    def test_bad_arguments_are_named(self, x, kind, old, error, message):
        with pytest.raises(error, match=message):
            ops.token_scores(x, kind, old)


def test_threads_do_not_change_the_result():
    x, old = torch.randn(2, 3, 200, 1000)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        score = ops.token_scores(x, "drift", old)
        results.append((score, ops.select_tokens(score, 77)))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_compiles_without_graph_breaks():
    def select(x, old):
        return ops.select_tokens(ops.token_scores(x, "drift", old), 3, groups=2)

    x, old = torch.randn(2, 2, 9, 24)
    compiled = torch.compile(select, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, old), select(x, old))


def test_the_operators_guard_memory():
    x = torch.randn(2, 9, 24)
    scores, select = (
        getattr(torch.ops.genaccel, name).default for name in ("token_scores", "select_tokens")
    )
    with pytest.raises(RuntimeError, match="reference must have size 9 in axis 1, got 8"):
        scores(x, x[:, :8].contiguous())
    with pytest.raises(RuntimeError, match="x must be contiguous"):
        scores(x.transpose(1, 2), None)
    with pytest.raises(RuntimeError, match="reference must have the dtype and device"):
        scores(x, x.double())
    with pytest.raises(RuntimeError, match="elements must be float16"):
        scores(x.long(), None)
    with pytest.raises(RuntimeError, match=r"k must be in \[0, 9\], got 10"):
        select(x[:, :, 0].contiguous(), 10, 1)
    with pytest.raises(RuntimeError, match="score must be Float, got Double"):
        select(x[:, :, 0].double().contiguous(), 3, 1)


def test_reference_of_an_empty_batch():
    assert reference.select_tokens(torch.ones(0, 4), 2, 2).shape == (0, 2)
