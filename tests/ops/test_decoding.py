# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genaccel import ops, reference
from genaccel.skip_decoding.sampling import perturbed

FOLDER = Path(__file__).parents[1] / "golden/vvs_lantern"
NUMBERS = json.loads((FOLDER / "scalars.json").read_text())
NAN, INF = float("nan"), float("inf")


class TestAcceptTree:
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    @pytest.mark.parametrize(
        ("drawn", "expected"),
        [
            ([5, 9, 9, 9, 9, 9], [0, 1, -1]),
            ([6, 9, 7, 9, 9, 9], [0, 2, 4]),  # of two equal siblings the first
            ([6, 9, 8, 9, 9, 9], [0, 2, -1]),
            ([3, 9, 9, 9, 9, 9], [0, -1, -1]),
        ],
    )
    def test_small_cases(self, device, drawn, expected, dtype):
        parents = torch.tensor([0, 0, 0, 1, 2, 2], dtype=dtype, device=device)
        tokens = torch.tensor([[0, 5, 6, 8, 7, 7]], device=device)
        path, counts = ops.accept_tree(parents, tokens, torch.tensor([drawn], device=device), 2)
        assert path.tolist() == [expected]
        assert counts.tolist() == [sum(node >= 0 for node in expected)]

    def test_a_parent_that_does_not_exist_has_no_children(self, device):
        parents = torch.tensor([0, -1, 2**40, 3, 9, 0], device=device)
        tokens = torch.ones(1, 6, dtype=torch.long, device=device)
        path, _ = ops.accept_tree(parents, tokens, tokens, 3)
        assert path.tolist() == [[0, 5, -1, -1]]

    def test_no_deeper_than_asked_for(self, device):
        tokens = torch.ones(2, 4, dtype=torch.long, device=device)
        path, counts = ops.accept_tree(torch.tensor([0, 0, 1, 2], device=device), tokens, tokens, 1)
        assert path.tolist() == [[0, 1]] * 2
        assert counts.tolist() == [2, 2]

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"parents": torch.zeros(3)}, TypeError, "parents must be torch.int64"),
            ({"parents": torch.zeros(2).long()}, ValueError, r"parents must have shape \(3,\)"),
            ({"tokens": torch.zeros(1, 3)}, TypeError, "tokens must be torch.int64"),
            ({"tokens": torch.zeros(3).long()}, ValueError, "tokens must have 2 dimensions"),
            ({"drawn": torch.zeros(2, 3).long()}, ValueError, r"drawn must have shape \(1, 3\)"),
            ({"depth": -1}, ValueError, "depth must be at least 0"),
            ({"depth": 1.0}, TypeError, "depth must be an int"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, error, message):
        zeros = torch.zeros(1, 3, dtype=torch.long)
        good = {"parents": zeros[0], "tokens": zeros, "drawn": zeros, "depth": 2}
        with pytest.raises(error, match=message):
            ops.accept_tree(**{**good, **arguments})


@pytest.fixture(scope="module")
def stored():
    return load_file(FOLDER / "vvs_lantern.safetensors")


def tree_of(stored, number):
    """Parents, tokens and depth of a tree that is stored as the table of its paths."""
    nodes, candidates = stored[f"tree{number}.retrieve"], stored[f"tree{number}.candidates"]
    parents, tokens = torch.zeros(2, int(nodes.max()) + 1, dtype=torch.long)
    for row, row_tokens in zip(nodes.tolist(), candidates.tolist(), strict=True):
        for depth, node in enumerate(row):
            if node >= 0:
                tokens[node] = row_tokens[depth]
                parents[node] = row[depth - 1] if depth else 0
    return parents, tokens, nodes.shape[1] - 1


@pytest.mark.golden
class TestAcceptTreeByRejection:
    @pytest.mark.parametrize("kind", ["accept", "accept_with_draft_probability"])
    def test_the_authors_cases(self, stored, kind, device):
        """All that they drew is looked at: whatever follows changes nothing."""
        name = "accept" if kind == "accept" else "draftq"
        assert NUMBERS[kind]
        for number, case in enumerate(NUMBERS[kind]):
            parents, tokens, depth = tree_of(stored, case["tree"])
            drafted = kind != "accept"
            logits = stored[f"tree{case['tree']}.node_logits"].clone()
            if case.get("top_k"):
                least = logits.topk(case["top_k"]).values[..., -1:]
                logits[logits < least] = -INF
            given = stored[f"{name}{number}.uniforms"].double()
            for rest in (0.0, 0.999999, NAN):
                uniforms = torch.full((len(tokens),), rest, dtype=torch.float64)
                uniforms[: len(given)] = given
                path, counts, residual, substituted = ops.accept_tree_by_rejection(
                    parents.to(device),
                    tokens[None].to(device),
                    logits[None].to(device),
                    uniforms[None].to(device),
                    depth,
                    neighbours=stored["neighbours"].to(device) if case["lantern"] else None,
                    lenders=case.get("k", 0) if case["lantern"] else 0,
                    delta=case.get("delta", 0.0) if case["lantern"] else 0.0,
                    is_original=True,
                    draft_probabilities=stored[f"tree{case['tree']}.draft_probs"][None].to(device)
                    if drafted
                    else None,
                )
                assert int(counts) - 1 == case["accepted"]
                assert 0 <= int(substituted) <= (case["accepted"] if case["lantern"] else 0)
                rows = stored[f"tree{case['tree']}.retrieve"][:, : int(counts)]
                found = (rows == path[0, : int(counts)].cpu()).all(1).nonzero()[0]
                assert int(found) == case["best_path"]
                torch.testing.assert_close(
                    residual[0].cpu(), stored[f"{name}{number}.residual"], atol=1e-6, rtol=0
                )

    @pytest.mark.parametrize("is_original", [False, True])
    def test_what_is_struck_with_a_rejected_guess(self, device, is_original):
        """Of three neighbours two lend, which are 0.1 each; the third would be too much."""
        weights = torch.tensor([[[0.2, 0.1, 0.1, 0.5, 0.1]] * 2], device=device).log()
        _, counts, residual, _ = ops.accept_tree_by_rejection(
            torch.tensor([0, 0], device=device),
            torch.tensor([[0, 0]], device=device),
            weights,
            torch.tensor([[0.9, 0.9]], dtype=torch.float64, device=device),
            1,
            neighbours=torch.tensor([[1, 2, 3, 4]] * 5, device=device),
            lenders=2 if is_original else 3,
            delta=0.3,
            is_original=is_original,
        )
        left = [0, 0, 0, 0.0, 1.0] if is_original else [0, 0, 0, 5 / 6, 1 / 6]
        assert counts.tolist() == [1]
        torch.testing.assert_close(residual.cpu(), torch.tensor([left]), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("is_original", [False, True])
    def test_siblings_share_a_bound_or_borrow_anew(self, device, is_original):
        """The first guess borrows 0.25 of 0.26, so that of the 0.25 that the second asks for nothing is left."""
        weights = torch.tensor([[[0.5, 0.125, 0.25, 0.0625, 0.0625]] * 3], device=device).log()
        path, _, residual, substituted = ops.accept_tree_by_rejection(
            torch.tensor([0, 0, 0], device=device),
            torch.tensor([[0, 0, 1]], device=device),
            weights,
            torch.tensor([[0.8, 0.6, NAN]], dtype=torch.float64, device=device),
            1,
            neighbours=torch.tensor([[2], [3], [0], [0], [0]], device=device),
            lenders=1,
            delta=0.26,
            is_original=is_original,
        )
        assert path.tolist() == [[0, 2 if is_original else -1]]
        assert substituted.tolist() == [int(is_original)]
        if not is_original:
            expected = torch.tensor([[0, 0, 0, 0.5, 0.5]])
            torch.testing.assert_close(residual.cpu(), expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("is_original", [False, True])
    @pytest.mark.parametrize(("uniform", "length"), [(0.4, 2), (0.43, None), (0.46, 1)])
    def test_a_drawn_guess_borrows_its_share(self, device, uniform, length, is_original):
        """Of 0.1 it may have 0.1001 / 0.475 times (0.5 - 0.125); so it is accepted up to 0.408 instead of 0.45."""
        weights = torch.tensor([[[0.125, 0.1, 0.775]] * 2], device=device).log()
        _, counts, _, substituted = ops.accept_tree_by_rejection(
            torch.tensor([0, 0], device=device),
            torch.tensor([[0, 0]], device=device),
            weights,
            torch.tensor([[uniform, NAN]], dtype=torch.float64, device=device),
            1,
            neighbours=torch.tensor([[1], [0], [0]], device=device),
            lenders=1,
            delta=0.1001,
            is_original=is_original,
            draft_probabilities=torch.tensor([[[0.5, 0.2, 0.3]]], device=device),
        )
        assert counts.tolist() == [length or 1 + is_original]
        assert torch.equal(substituted, counts - 1)

    def test_tokens_that_are_no_code_words_borrow_from_none(self, device):
        weights = torch.tensor([[[0.25, 0.25, 0.5]] * 2] * 3, device=device).log()
        _, counts, _, substituted = ops.accept_tree_by_rejection(
            torch.tensor([0, 0], device=device),
            torch.tensor([[0, 1], [0, 2], [0, 2]], device=device),
            weights,
            torch.tensor([[0.4], [0.4], [0.6]], device=device).double().expand(-1, 2),
            1,
            neighbours=torch.tensor([[1], [0]], device=device),
            lenders=1,
            delta=0.9,
        )
        assert counts.tolist() == [2, 2, 1]
        assert substituted.tolist() == [1, 0, 0]

    def test_a_guess_that_could_not_be_drawn_says_nothing(self, device):
        path, _, residual, _ = ops.accept_tree_by_rejection(
            torch.tensor([0, 0, 0], device=device),
            torch.tensor([[0, 0, 1], [0, 0, 1]], device=device),
            torch.tensor([0.25, 0.5, 0.25], device=device).log().expand(2, 3, -1),
            torch.tensor([[0.0, 0.49, NAN], [0.0, 0.51, NAN]], device=device).double(),
            1,
            draft_probabilities=torch.tensor([0.0, 1.0, 0.0], device=device).expand(2, 1, -1),
        )
        assert path.tolist() == [[0, 2], [0, -1]]
        torch.testing.assert_close(residual[1].cpu(), torch.tensor([0.5, 0.0, 0.5]))

    def test_where_nothing_is_left_all_tokens_are_alike(self, device):
        weights = torch.tensor([[[0.0, -INF, -INF]] * 2], device=device)
        uniforms = torch.full((1, 2), 1.5, dtype=torch.float64, device=device)
        tree = torch.tensor([0, 0], device=device)
        _, _, residual, _ = ops.accept_tree_by_rejection(tree, tree[None], weights, uniforms, 1)
        torch.testing.assert_close(residual.cpu(), torch.full((1, 3), 1 / 3))

    def test_nodes_with_children_need_the_drafters_row(self):
        chain, tokens = torch.tensor([0, 0, 1]), torch.zeros(1, 3, dtype=torch.long)
        weights, uniforms = torch.zeros(1, 3, 2), torch.zeros(1, 3).double()
        for inner in (2, 3):
            draft = torch.full((1, inner, 2), 0.5)
            ops.accept_tree_by_rejection(
                chain, tokens, weights, uniforms, 2, draft_probabilities=draft
            )
        with pytest.raises(RuntimeError, match="got 1 and a child of node 1"):
            ops.accept_tree_by_rejection(
                chain, tokens, weights, uniforms, 2, draft_probabilities=draft[:, :1]
            )

    def test_bad_arguments_are_named(self):
        tree, weights = torch.zeros(2, dtype=torch.long), torch.zeros(1, 2, 3)
        uniforms = torch.zeros(1, 2, dtype=torch.float64)

        def call(log_weights=weights, u=uniforms, **others):
            return ops.accept_tree_by_rejection(tree, tree[None], log_weights, u, 1, **others)

        call()
        for given, error, message in (
            ({"log_weights": weights.half()}, TypeError, "log_weights must be float32 or float64"),
            (
                {"log_weights": weights[:, :1]},
                ValueError,
                r"log_weights must have shape \(1, 2, 3\)",
            ),
            ({"log_weights": weights[..., :0]}, ValueError, "must have a token"),
            ({"u": uniforms.float()}, TypeError, "uniforms must be torch.float64"),
            ({"delta": NAN}, ValueError, "delta must be at least 0 and finite"),
            ({"neighbours": tree.new_zeros(4, 2)}, ValueError, "neighbours must be of at most 3"),
            (
                {"neighbours": tree.new_zeros(3, 2), "lenders": 3},
                ValueError,
                r"lenders must be in \[0, 2\]",
            ),
            (
                {"draft_probabilities": weights.double()},
                TypeError,
                "draft_probabilities must be torch.float32",
            ),
            (
                {"draft_probabilities": weights[:, :0]},
                ValueError,
                "draft_probabilities must be of 1 to 2 nodes, got 0",
            ),
            (
                {"draft_probabilities": weights[..., :2]},
                ValueError,
                r"draft_probabilities must have shape \(1, 2, 3\)",
            ),
            ({"log_weights": weights.clone().requires_grad_()}, ValueError, "requires a gradient"),
        ):
            with pytest.raises(error, match=message):
                call(**given)


class TestDrawKeyed:
    @pytest.mark.parametrize(
        ("weights", "expected"),
        [
            ([-INF, 0.0, -INF], 1),
            ([-INF, -INF, -INF], 0),
            ([0.0, NAN, 1e9, NAN], 1),
            ([0.0, INF, 5.0, INF], 1),
            ([0.0, 1e300, -1e300], 1),
        ],
    )
    def test_small_cases(self, device, weights, expected):
        rows = torch.tensor([weights] * 9, dtype=torch.float64, device=device)
        places = torch.arange(9, device=device)
        assert ops.draw_keyed(rows, 3, places, places).tolist() == [expected] * 9

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_noise_is_that_of_the_place(self, device, dtype):
        """The largest of what ``perturbed`` gives, which drafters use, whatever stands around a row."""
        weights = torch.randn(200, 500, dtype=dtype)
        sequences, positions = torch.arange(200) % 7, torch.arange(200) // 7
        expected = perturbed(weights, -9, sequences, positions).argmax(1)
        moved = [t.to(device) for t in (weights, sequences, positions)]
        for seed in (-9, 2**64 - 9, 2**65 - 9):
            assert torch.equal(ops.draw_keyed(moved[0], seed, *moved[1:]).cpu(), expected)
        assert torch.equal(
            ops.draw_keyed(moved[0].flip(0), -9, *(t.flip(0) for t in moved[1:])).cpu(),
            expected.flip(0),
        )
        assert not torch.equal(ops.draw_keyed(moved[0], -8, *moved[1:]).cpu(), expected)

    def test_draws_follow_the_probabilities(self, device):
        probabilities = torch.tensor([0.6, 0.25, 0.1, 0.05, 0.0], dtype=torch.float64)
        count = 50_000
        places = torch.arange(count, device=device)
        weights = probabilities.log().expand(count, -1).to(device)
        counts = torch.bincount(ops.draw_keyed(weights, 1, places * 0, places).cpu(), minlength=5)
        expected = probabilities[:4] * count
        assert counts[4] == 0
        # 3 degrees of freedom, p 0.001
        assert float(((counts[:4] - expected) ** 2 / expected).sum()) < 16.3


class TestPathSimilarity:
    def test_the_closed_form_is_that_of_pairs(self, device):
        paths = torch.tensor([[[1, 2, 3], [1, 2, -1], [4, -1, -1]], [[5, -1, -1]] * 3])
        codes = torch.nn.functional.normalize(torch.randn(6, 4).double(), dim=1)
        weights = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
        first = (2 * codes[1] @ codes[4] + 1) / 3
        second = torch.tensor(1 / 3).double()
        expected = torch.stack(((first + 0.5 * second) / 1.75, torch.tensor(1.0).double()))
        found = ops.path_similarity(*(t.to(device) for t in (paths, codes, weights)))
        torch.testing.assert_close(found.cpu(), expected)
        torch.testing.assert_close(reference.path_similarity(paths, codes, weights), expected)

    @pytest.mark.parametrize("shape", [(2, 1, 3), (2, 0, 3), (2, 4, 0)])
    def test_nothing_to_compare_is_0(self, device, shape):
        weights = torch.ones(shape[2], dtype=torch.float64, device=device)
        paths = torch.zeros(shape, dtype=torch.long, device=device)
        codes = torch.ones(1, 1, device=device)
        assert ops.path_similarity(paths, codes, weights).tolist() == [0, 0]
        assert ops.path_similarity(paths - 1, codes, weights).tolist() == [0, 0]

    def test_tokens_that_do_not_exist_are_refused_or_on_a_gpu_the_first(self, device):
        paths = torch.tensor([[[0], [3]]], device=device)
        codes, weights = torch.eye(3, device=device), torch.ones(1, device=device).double()
        if device.type == "cpu":
            with pytest.raises(RuntimeError, match="tokens below 3, got 3"):
                ops.path_similarity(paths, codes, weights)
        else:
            assert ops.path_similarity(paths, codes, weights).tolist() == [1]


@pytest.mark.parametrize(
    ("states", "error", "message"),
    [
        ([torch.ones(2, 1, 5)], ValueError, r"states\[0\] must have 4 dimensions"),
        ([torch.ones(3, 1, 5, 2)], ValueError, r"states\[0\] must have shape \(2, 1, 5, 2\)"),
        ([torch.ones(2, 1, 5, 2), torch.ones(2, 1, 4, 2)], ValueError, r"states\[1\] must have"),
        (
            [torch.ones(2, 1, 5, 2), torch.ones(2, 1, 5, 2).half()],
            TypeError,
            r"states\[1\] must be",
        ),
        ([[1.0]], TypeError, r"states\[0\] must be a tensor"),
        ([torch.ones(2, 1, 5, 2, requires_grad=True)], ValueError, "requires a gradient"),
    ],
)
def test_states_that_are_not_alike_are_named(states, error, message):
    moves = torch.tensor([[2], [3]]), torch.tensor([1, 1]), torch.tensor([1, 1])
    with pytest.raises(error, match=message):
        ops.compact_rows_(states, *moves)
    ops.compact_rows_([], *moves)
