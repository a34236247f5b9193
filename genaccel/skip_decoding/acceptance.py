# SPDX-License-Identifier: Apache-2.0
"""Which guesses of a tree are accepted, by rejection sampling, exact or relaxed (LANTERN, arXiv:2410.03355 and 2502.06352).

Many image tokens look alike, so a model spreads its probability over them and guesses right about the picture are
rejected. LANTERN lends a guess the probability of its nearest code words, as long as what is lent stays below a bound: the
bound is how far, in total variation, the distribution that is drawn from may be from the model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from genaccel.skip_decoding.draft_tree import TreeShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Relaxation:
    """How much probability a guess may borrow.

    Attributes:
        neighbours: Other code words by rising distance, int64 ``[V, n]``; see :func:`nearest_code_words`.
        count: Of them that lend, at least 1 and at most n.
        delta: Up to 1, the probability that all guesses after one token borrow at most together; above 1, ``delta - 1``
            times its own for each of them (LANTERN++).
        is_original: As the authors' code does: each guess may borrow delta anew, and a rejected one that could borrow
            takes all ``count + 1`` neighbours with it, not only those that lend.
    """

    neighbours: Tensor
    count: int
    delta: float
    is_original: bool = False

    def __post_init__(self) -> None:
        if self.neighbours.ndim != 2 or not 1 <= self.count <= self.neighbours.shape[1]:
            raise ValueError(
                f"neighbours must have shape [V, n] with n at least {self.count}, "
                f"got {tuple(self.neighbours.shape)}"
            )
        if not 0 <= self.delta < float("inf"):
            raise ValueError(f"delta must be at least 0, got {self.delta}")

    @property
    def shares_bound(self) -> bool:
        """Whether the guesses after one token have one bound together."""
        return self.delta <= 1 and not self.is_original

    def borrowed(
        self, probabilities: Tensor, tokens: Tensor, bound: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What tokens ``[*]`` borrow under probabilities ``[*, V]``, and from how many code words.

        The longest run of the nearest code words is taken whose sum stays within the bound.

        Args:
            probabilities: The target's.
            tokens: The guesses.
            bound: Less than delta, ``[*]``.
        """
        sums = probabilities.gather(-1, self.neighbours[tokens, : self.count]).cumsum(-1)
        if self.delta > 1:
            limit = (self.delta - 1) * probabilities.gather(-1, tokens[..., None])
        else:
            limit = torch.full_like(sums[..., :1], self.delta)
        if bound is not None:
            limit = limit.minimum(bound[..., None])
        number = (sums <= limit).sum(-1)
        lent = sums.gather(-1, (number - 1).clamp(min=0)[..., None])[..., 0]
        return torch.where(number > 0, lent, 0.0), number

    def struck(self, tokens: Tensor, number: Tensor) -> Tensor:
        """Code words that rejected tokens ``[*]`` take with them, ``[*, n]``, the tokens themselves where there are fewer.

        Args:
            tokens: The guesses.
            number: Code words that lent, as :meth:`borrowed` tells it.
        """
        wide = self.count + 1 if self.is_original else self.count
        near = self.neighbours[tokens, :wide]
        upto = torch.where(number > 0, wide, 0) if self.is_original else number
        is_struck = torch.arange(near.shape[-1], device=near.device) < upto[..., None]
        return torch.where(is_struck, near, tokens[..., None])

    def lends(self, probabilities: Tensor, tokens: Tensor, lenders: Tensor) -> Tensor:
        """Whether code words ``lenders`` lend to tokens under these probabilities, bool ``[*]``.

        Args:
            probabilities: The target's, ``[*, V]``.
            tokens: The guesses, ``[*]``.
            lenders: ``[*]``.
        """
        number = self.borrowed(probabilities, tokens)[1]
        near = self.neighbours[tokens, : self.count]
        is_lender = torch.arange(self.count, device=near.device) < number[..., None]
        return ((near == lenders[..., None]) & is_lender).any(-1)


def nearest_code_words(codebook: Tensor, count: int) -> Tensor:
    """The code words nearest to each, without itself, by rising Euclidean distance: int64 ``[K, count]``.

    Args:
        codebook: ``[K, C]``.
        count: From 1 to K - 1.

    Raises:
        ValueError: If there are not as many others.
    """
    if not 1 <= count < len(codebook):
        raise ValueError(f"count must be from 1 to {len(codebook) - 1}, got {count}")
    distances = torch.cdist(codebook.double(), codebook.double())
    distances.fill_diagonal_(-1.0)
    return distances.argsort(dim=1, stable=True)[:, 1 : count + 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """What became of a tree.

    Attributes:
        path: Nodes from the root to the last one accepted.
        residual: Probabilities that the token after it is drawn from, ``[V]``.
        num_substituted: Guesses of the path that only what they borrowed let pass.
    """

    path: tuple[int, ...]
    residual: Tensor
    num_substituted: int


def accept_by_rejection(
    shape: TreeShape,
    tokens: Tensor,
    log_weights: Tensor,
    uniforms: Iterator[float],
    *,
    relaxation: Relaxation | None = None,
    draft_probabilities: Tensor | None = None,
) -> Accepted:
    """Accept guesses of one sequence from the root down, the siblings one after the other.

    This is the specification, number by number; :func:`accept_in_batch` does the same for many sequences.

    Without ``draft_probabilities`` the guesses count as deterministic (q = 1): a rejected one is struck out of the
    target's distribution with the code words that lent to it. With them, siblings were drawn without replacement, and a
    rejected one takes what the drafter gave it out of the distribution (SpecInfer, arXiv:2305.09781). There the guess that
    borrows is itself drawn, and each could borrow delta, so that what is drawn could be as far from the target as the
    drafter is; hence a guess x borrows no more than the share ``min(1, delta / sum [q - p]+)`` of its own
    ``[q(x) - p(x)]+``. Summed over all x that is at most delta. Among m siblings each has delta / m.

    Args:
        shape: Of the tree.
        tokens: Its guesses, ``[N]``.
        log_weights: Of the target after each node, ``[N, V]``, filtered as they will be drawn from.
        uniforms: Numbers in [0, 1), one for each guess that is looked at.
        relaxation: Without one, the token that comes out is distributed as the target says.
        draft_probabilities: Of the drafter after each node, ``[N, V]``; leaves may be missing.
    """
    path, num_substituted = [0], 0
    while True:
        node = path[-1]
        children = [n for n, parent in enumerate(shape.parents, 1) if parent == node]
        residual = log_weights[node].softmax(-1)
        if not children:
            break
        guessed = None if draft_probabilities is None else draft_probabilities[node].clone()
        shares_bound = relaxation is not None and relaxation.shares_bound
        # Borrowed at most by those who come, and how probable it is at most that none before was accepted.
        left, reach = relaxation.delta if relaxation is not None else 0.0, 1.0
        for child in children:
            token = tokens[child]
            own, chance = float(residual[token]), 1.0 if guessed is None else float(guessed[token])
            lent, struck = 0.0, token[None]
            if relaxation is not None:
                bound = None
                if shares_bound and guessed is None:
                    bound = residual.new_tensor(left / max(reach, 1e-30))
                borrowed, number = relaxation.borrowed(residual, token, bound)
                lent, struck = float(borrowed), relaxation.struck(token, number)
            if shares_bound and guessed is None:
                left = max(0.0, left - reach * lent)
                reach *= max(0.0, 1 - own - lent)
            elif shares_bound and guessed is not None:
                excess = (guessed - residual).clamp(min=0)
                total = float(excess.sum())
                share = left / len(children) / max(reach * total, 1e-30)
                lent = min(lent, min(1.0, share) * float(excess[token]))
                reach *= total
            uniform = next(uniforms)
            if chance > 0 and uniform <= (own + lent) / chance:
                num_substituted += uniform > own / chance
                path.append(child)
                break
            if guessed is None:
                residual[token], residual[struck] = 0, 0
            elif chance > 0:  # a guess that the drafter could not draw says nothing
                taken = guessed.clone()
                if relaxation is not None and relaxation.is_original and number > 0:
                    taken[relaxation.neighbours[token, : relaxation.count + 1]] = 0
                residual = (residual - taken).clamp(min=0)
                guessed[token] = 0
                guessed = guessed / guessed.sum().clamp(min=1e-30)
            residual = _normalised(residual)
        else:
            break
    return Accepted(path=tuple(path), residual=residual, num_substituted=num_substituted)


def _normalised(weights: Tensor) -> Tensor:
    """Divided by their sum; where nothing is left, all tokens alike."""
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=1e-30), 1 / weights.shape[-1])


def accept_in_batch(
    shape: TreeShape,
    tokens: Tensor,
    log_weights: Tensor,
    uniforms: Tensor,
    *,
    relaxation: Relaxation | None = None,
    draft_probabilities: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`accept_by_rejection` for many sequences.

    Args:
        shape: Of the tree.
        tokens: Its guesses, ``[S, N]``.
        log_weights: Of the target after each node, ``[S, N, V]``.
        uniforms: For the guesses in the order in which they are looked at, ``[S, N]``.
        relaxation: As there.
        draft_probabilities: As there, ``[S, N, V]``.

    Returns:
        Nodes that were reached, ``[S, max_depth + 1]`` and -1 behind the last; probabilities that the token after the last
        one is drawn from, ``[S, V]``; and guesses of the path that only what they borrowed let pass, ``[S]``.
    """
    device = tokens.device
    children = shape.children().to(device)  # [N, siblings]
    num_children = (children >= 0).sum(1)
    path = torch.full((len(tokens), shape.max_depth + 1), -1, device=device)
    path[:, 0] = 0
    residual = torch.empty_like(log_weights[:, 0])
    substituted = torch.zeros(len(tokens), dtype=torch.long, device=device)
    looked_at = substituted.clone()
    # The sequences that go on, and the node where each is.
    rows = torch.arange(len(tokens), device=device)
    node = torch.zeros_like(rows)
    for depth in range(1, shape.max_depth + 2):
        target = log_weights[rows, node].softmax(-1)
        following = torch.full_like(node, -1)
        guessed = None
        if draft_probabilities is not None:
            guessed = draft_probabilities[rows, node.clamp(max=draft_probabilities.shape[1] - 1)]
        left = target.new_full((len(rows),), relaxation.delta if relaxation is not None else 0.0)
        reach = torch.ones_like(left)
        for rank in range(children.shape[1]):
            child = children[node, rank]
            is_looked_at = (child >= 0) & (following < 0)
            if not bool(is_looked_at.any()):
                break
            token = tokens[rows, child.clamp(min=0)]
            column = token[:, None]
            own = target.gather(1, column)[:, 0]
            chance = torch.ones_like(own) if guessed is None else guessed.gather(1, column)[:, 0]
            lent, struck = torch.zeros_like(own), column
            if relaxation is not None:
                bound = None
                if relaxation.shares_bound and guessed is None:
                    bound = left / reach.clamp(min=1e-30)
                lent, number = relaxation.borrowed(target, token, bound)
                struck = torch.cat((column, relaxation.struck(token, number)), 1)
                if relaxation.shares_bound and guessed is None:
                    left = (left - reach * lent).clamp(min=0)
                    reach = reach * (1 - own - lent).clamp(min=0)
                elif relaxation.shares_bound and guessed is not None:
                    excess = (guessed - target).clamp(min=0)
                    total = excess.sum(1)
                    share = left / num_children[node] / (reach * total).clamp(min=1e-30)
                    lent = lent.minimum(share.clamp(max=1) * excess.gather(1, column)[:, 0])
                    reach = reach * total
            uniform = uniforms[rows, looked_at[rows].clamp(max=uniforms.shape[1] - 1)]
            looked_at[rows] += is_looked_at
            can_be_drawn = is_looked_at & (chance > 0)
            chance = chance.clamp(min=1e-30)
            is_accepted = can_be_drawn & (uniform <= (own + lent) / chance)
            substituted[rows] += is_accepted & (uniform > own / chance)
            following = torch.where(is_accepted, child, following)
            is_rejected = (is_looked_at if guessed is None else can_be_drawn) & ~is_accepted
            if not bool(is_rejected.any()):
                continue
            if guessed is None:
                rest = target.scatter(1, struck, 0.0)
            else:
                taken = guessed
                if relaxation is not None and relaxation.is_original:
                    taken = taken.scatter(1, struck[:, 1:], 0.0)
                    # A guess that borrows from none takes its own probability with it.
                    taken = torch.where((number > 0)[:, None], taken, guessed)
                rest = (target - taken).clamp(min=0)
                without = guessed.scatter(1, column, 0.0)
                without = without / without.sum(1, keepdim=True).clamp(min=1e-30)
                guessed = torch.where(is_rejected[:, None], without, guessed)
            target = torch.where(is_rejected[:, None], _normalised(rest), target)
        residual[rows] = target
        goes_on = following >= 0
        if not bool(goes_on.any()):
            break
        rows, node = rows[goes_on], following[goes_on]
        path[rows, depth] = node
    return path, residual, substituted


def greedily_accepted(
    tokens: Tensor, parents: Tensor, probabilities: Tensor, relaxation: Relaxation | None
) -> Tensor:
    """Whether each guess is the likeliest token once it has borrowed, bool ``[S, N]``; always so for the root.

    Args:
        tokens: Guesses, ``[S, N]``.
        parents: Of the nodes, the root's itself, ``[N]``.
        probabilities: Of the target after each node, ``[S, N, V]``.
        relaxation: Without one, only the likeliest token itself is accepted.
    """
    before = probabilities[:, parents]
    if relaxation is not None:
        lent = relaxation.borrowed(before, tokens)[0]
        before = before.scatter_add(2, tokens[..., None], lent[..., None])
    agrees = before.argmax(-1) == tokens
    agrees[:, 0] = True
    return agrees


def accept_greedily(
    shape: TreeShape, tokens: Tensor, log_weights: Tensor, *, relaxation: Relaxation | None = None
) -> tuple[int, ...]:
    """The longest path of guesses that are each the likeliest token once they have borrowed: its nodes.

    Of paths of one length, the one whose nodes come first.

    Args:
        shape: Of the tree.
        tokens: Its guesses, ``[N]``.
        log_weights: Of the target after each node, ``[N, V]``.
        relaxation: Without one, only the likeliest token itself is accepted.
    """
    parents = torch.tensor((0, *shape.parents), device=tokens.device)
    agrees = greedily_accepted(tokens[None], parents, log_weights.softmax(-1)[None], relaxation)
    return tuple(node for node in shape.longest_path(agrees)[0].tolist() if node >= 0)
