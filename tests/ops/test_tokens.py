# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as functional

from genaccel import ops, reference

NAN, INF = float("nan"), float("inf")


def tensors(batch=2, tokens=9, channels=24, k=4, dtype=torch.float32, device="cpu"):
    x, cache = torch.randn(2, batch, tokens, channels, dtype=dtype, device=device)
    index = torch.rand(batch, tokens, device=device).argsort(dim=1)[:, :k]
    rows = torch.randn(batch, k, channels, dtype=dtype, device=device)
    gate = torch.randn(batch, channels, dtype=dtype, device=device)
    return x, cache.clone(), rows, index.contiguous(), gate


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


class TestGatherNormModulate:
    def test_is_the_normalisation_of_a_dit_block(self, device):
        x, _, _, index, shift = tensors(device=device)
        scale = torch.randn_like(shift)
        every = functional.layer_norm(x, (24,), eps=1e-5) * (1 + scale[:, None]) + shift[:, None]
        expected = torch.stack([every[b, index[b]] for b in range(2)])
        actual = ops.gather_norm_modulate(x, index, shift, scale, eps=1e-5)
        torch.testing.assert_close(actual, expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_chunks_of_a_wider_matrix_are_taken(self, device, dtype):
        x, _, _, index, _ = tensors(dtype=dtype, device=device)
        wide = torch.randn(2, 6 * 24, dtype=dtype, device=device)
        shift, scale = wide.chunk(6, dim=1)[1:3]
        expected = ops.gather_norm_modulate(x, index, shift.contiguous(), scale.contiguous())
        assert torch.equal(ops.gather_norm_modulate(x, index, shift, scale), expected)
        three = wide.view(2, 6, 24).chunk(6, dim=1)[1:3]  # [B, 1, C]
        assert torch.equal(ops.gather_norm_modulate(x, index, *three), expected)
        columns = [m.T.contiguous().T for m in (shift, scale)]
        assert torch.equal(ops.gather_norm_modulate(x, index, *columns), expected)

    def test_one_row_may_serve_the_whole_batch(self, device):
        x, _, _, index, gate = tensors(device=device)
        shared = gate[:1].expand(2, -1)
        expected = ops.gather_norm_modulate(x, index, shared.contiguous(), shared.contiguous())
        assert torch.equal(ops.gather_norm_modulate(x, index, shared, shared), expected)

    def test_a_large_mean_does_not_hurt_the_deviation(self, device):
        x = torch.randn(1, 4, 1152, device=device) + 1000
        zeros = torch.zeros(1, 1152, device=device)
        index = torch.arange(4, device=device)[None]
        expected = functional.layer_norm(x.double(), (1152,), eps=1e-6)
        actual = ops.gather_norm_modulate(x, index, zeros, zeros)
        torch.testing.assert_close(actual.double(), expected, atol=2e-4, rtol=0)

    def test_no_token_and_repeated_tokens(self, device):
        x, _, _, index, gate = tensors(device=device)
        assert ops.gather_norm_modulate(x, index[:, :0], gate, gate).shape == (2, 0, 24)
        twice = ops.gather_norm_modulate(x, index[:, [1, 1]], gate, gate)
        assert torch.equal(twice[:, 0], twice[:, 1])

    @pytest.mark.parametrize("wrong", [-1, 9])
    def test_index_out_of_range(self, wrong):
        x, _, _, index, gate = tensors()
        index[1, 2] = wrong
        with pytest.raises(RuntimeError, match=rf"index must be in \[0, 9\), got {wrong}"):
            ops.gather_norm_modulate(x, index, gate, gate)

    @pytest.mark.cuda
    @pytest.mark.parametrize("wrong", [-1, 9, 2**40])
    def test_index_out_of_range_is_nan_on_a_gpu(self, wrong):
        x, _, _, index, gate = tensors(device="cuda")
        expected = ops.gather_norm_modulate(x, index, gate, gate)
        expected[1, 2] = NAN
        index[1, 2] = wrong
        actual = ops.gather_norm_modulate(x, index, gate, gate)
        torch.testing.assert_close(actual, expected, equal_nan=True, atol=0, rtol=0)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"x": torch.ones(2, 9, 24).int()}, TypeError, "x must be float16, bfloat16"),
            ({"x": torch.ones(2, 24)}, ValueError, "x must have 3 dimensions"),
            ({"index": torch.zeros(2, 4).int()}, TypeError, "index must be torch.int64"),
            ({"index": torch.zeros(4).long()}, ValueError, "index must have 2 dimensions"),
            ({"index": torch.zeros(3, 4).long()}, ValueError, "index must have 2 rows as x has"),
            ({"shift": torch.ones(2, 23)}, ValueError, r"shift must have shape \(2, 24\) or"),
            ({"scale": torch.ones(24)}, ValueError, "scale must have shape"),
            ({"scale": torch.ones(2, 24).half()}, TypeError, "scale must be torch.float32 as x"),
            ({"scale": torch.ones(2, 24, requires_grad=True)}, ValueError, "scale requires a grad"),
            ({"eps": 0.0}, ValueError, "eps must be positive, got 0.0"),
        ],
    )
    def test_bad_arguments_are_named(self, change, error, message):
        x, _, _, index, gate = tensors()
        arguments = {"x": x, "index": index, "shift": gate, "scale": gate} | change
        with pytest.raises(error, match=message):
            ops.gather_norm_modulate(**arguments)


class TestScatterGatedResidual:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    def test_cache_gets_the_rows_and_nothing_else(self, device, dtype):
        x, cache, rows, index, gate = tensors(dtype=dtype, device=device)
        before = x.clone()
        expected = cache.clone()
        for b in range(2):
            expected[b, index[b]] = rows[b]
        result = ops.scatter_gated_residual(x, cache, rows, index, gate)
        assert torch.equal(cache, expected)  # to the bit
        assert torch.equal(x, before)
        wide = x.float() + gate[:, None].float() * cache.float()
        torch.testing.assert_close(result, wide.to(dtype))  # rounded once

    def test_no_rows_are_plain_reuse(self, device):
        x, cache, rows, index, gate = tensors(device=device)
        before = cache.clone()
        result = ops.scatter_gated_residual(x, cache, rows[:, :0], index[:, :0], gate)
        assert torch.equal(cache, before)
        torch.testing.assert_close(result, x + gate[:, None] * cache)

    def test_of_equal_indices_the_last_counts(self, device):
        x, cache, rows, _, gate = tensors(batch=1, tokens=300, k=290, device=device)
        index = torch.full((1, 290), 7, device=device)
        result = ops.scatter_gated_residual(x, cache, rows, index, gate)
        assert torch.equal(cache[0, 7], rows[0, -1])
        torch.testing.assert_close(result, x + gate[:, None] * cache)

    def test_chunks_and_views_are_taken(self, device):
        x, cache, rows, index, _ = tensors(device=device)
        wide = torch.randn(2, 6, 24, device=device)
        other = cache.clone()
        expected = ops.scatter_gated_residual(x, other, rows, index, wide[:, 5].contiguous())
        turned = x.transpose(1, 2).contiguous().transpose(1, 2)
        every_second = torch.repeat_interleave(rows, 2, dim=1)[:, ::2]
        actual = ops.scatter_gated_residual(turned, cache, every_second, index, wide[:, 5:6])
        assert torch.equal(actual, expected)
        assert torch.equal(cache, other)

    @pytest.mark.parametrize("wrong", [-1, 9])
    def test_index_out_of_range_changes_nothing(self, wrong):
        x, cache, rows, index, gate = tensors()
        before = cache.clone()
        index[0, 1] = wrong
        with pytest.raises(RuntimeError, match=rf"index must be in \[0, 9\), got {wrong}"):
            ops.scatter_gated_residual(x, cache, rows, index, gate)
        assert torch.equal(cache, before)

    @pytest.mark.cuda
    @pytest.mark.parametrize("wrong", [-1, 9, 2**40])
    def test_index_out_of_range_is_dropped_on_a_gpu(self, wrong):
        x, cache, rows, index, gate = tensors(batch=1, device="cuda")
        other = cache.clone()
        expected = ops.scatter_gated_residual(x, other, rows[:, 1:], index[:, 1:], gate)
        index[0, 0] = wrong
        assert torch.equal(ops.scatter_gated_residual(x, cache, rows, index, gate), expected)
        assert torch.equal(cache, other)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"residual": [1.0]}, TypeError, "residual must be a tensor, got list"),
            ({"cache": torch.ones(2, 9, 24).half()}, TypeError, "cache must be torch.float32 as"),
            ({"cache": torch.ones(2, 9, 25)}, ValueError, r"cache must have shape \(2, 9, 24\)"),
            ({"cache": torch.ones(2, 24, 9).mT}, ValueError, "cache must be contiguous"),
            ({"rows": torch.ones(2, 5, 24)}, ValueError, r"rows must have shape \(2, 4, 24\)"),
            ({"gate": torch.ones(2, 2, 24)}, ValueError, "gate must have shape"),
            ({"index": torch.zeros(2, 4)}, TypeError, "index must be torch.int64"),
            ({"rows": torch.ones(2, 4, 24, requires_grad=True)}, ValueError, "rows requires a"),
        ],
    )
    def test_bad_arguments_are_named(self, change, error, message):
        x, cache, rows, index, gate = tensors()
        arguments = {"residual": x, "cache": cache, "rows": rows, "index": index, "gate": gate}
        with pytest.raises(error, match=message):
            ops.scatter_gated_residual(**(arguments | change))

    def test_cache_is_no_other_argument(self):
        x, _, rows, index, gate = tensors()
        with pytest.raises(ValueError, match="must be no other argument"):
            ops.scatter_gated_residual(x, x, rows, index, gate)


def test_all_tokens_make_a_full_step(device):
    """Score, select, normalise, write: with every token, the same as the block without a cache."""
    x, cache, _, _, gate = tensors(device=device)
    index = ops.select_tokens(ops.token_scores(x), x.shape[1])
    rows = ops.gather_norm_modulate(x, index, gate, gate)
    result = ops.scatter_gated_residual(x, cache, rows, index, gate)
    assert torch.equal(cache, rows)
    normalized = functional.layer_norm(x, (24,), eps=1e-6) * (1 + gate[:, None]) + gate[:, None]
    torch.testing.assert_close(result, x + gate[:, None] * normalized)


def test_threads_do_not_change_the_result():
    x, cache, rows, index, gate = tensors(batch=3, tokens=200, channels=1000, k=50)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        own = cache.clone()
        score = ops.token_scores(x, "drift", cache)
        results.append(
            (
                score,
                ops.select_tokens(score, 77),
                ops.gather_norm_modulate(x, index, gate, gate),
                ops.scatter_gated_residual(x, own, rows, index, gate),
                own,
            )
        )
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_compiles_without_graph_breaks():
    def step(x, cache, gate):
        index = ops.select_tokens(ops.token_scores(x, "drift", cache), 3, groups=2)
        rows = ops.gather_norm_modulate(x, index, gate, gate)
        return ops.scatter_gated_residual(x, cache, rows, index, gate)

    x, cache, _, _, gate = tensors()
    other = cache.clone()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, cache, gate), step(x, other, gate))
    assert torch.equal(cache, other)


def test_the_operators_guard_memory():
    x, cache, rows, index, gate = tensors()
    scatter = torch.ops.genaccel.scatter_gated_residual.default
    gather = torch.ops.genaccel.gather_norm_modulate.default
    with pytest.raises(RuntimeError, match="cache must have size 9 in axis 1, got 8"):
        scatter(x, cache[:, :8].contiguous(), rows, index, gate)
    with pytest.raises(RuntimeError, match="gate must have dense rows"):
        scatter(x, cache, rows, index, gate.T.contiguous().T)
    with pytest.raises(RuntimeError, match="index must be int64"):
        gather(x, index.int(), gate, gate, 1e-6)
    with pytest.raises(RuntimeError, match="no index is in range of 0 tokens"):
        gather(x[:, :0].contiguous(), index, gate, gate, 1e-6)
    with pytest.raises(RuntimeError, match="elements must be float16"):
        torch.ops.genaccel.token_scores.default(x.long(), None)
    with pytest.raises(RuntimeError, match=r"k must be in \[0, 9\], got 10"):
        torch.ops.genaccel.select_tokens.default(x[:, :, 0].contiguous(), 10, 1)


def test_reference_of_an_empty_batch():
    assert reference.select_tokens(torch.ones(0, 4), 2, 2).shape == (0, 2)
