# SPDX-License-Identifier: Apache-2.0
"""Shapes of drafts: which guess follows which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from genaccel.ops import accept_tree


class Level(NamedTuple):
    """Nodes of one depth, and how the next depth comes of them.

    Attributes:
        begin: Number of the first node.
        end: Number behind the last.
        width: Most children that one of them has.
        picks: Of ``width`` guesses after each node, those that are nodes of the next depth: numbers into ``[nodes * width]``.
    """

    begin: int
    end: int
    width: int
    picks: tuple[int, ...]

    @property
    def takes_all(self) -> bool:
        """Whether all guesses after its nodes are nodes, in their order."""
        return self.picks == tuple(range((self.end - self.begin) * self.width))


@dataclass(frozen=True)
class TreeShape:
    """A tree of guesses below a root that is known.

    Node 0 is the root; the others are numbered so that parents come first, and siblings in the order of how likely the
    drafter holds them.

    Args:
        parents: Of the nodes 1, 2, ...

    Example:
        >>> TreeShape.chain(3).parents
        (0, 1, 2)
        >>> TreeShape((0, 0, 1)).depths
        (0, 1, 1, 2)
    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        for node, parent in enumerate(self.parents, 1):
            if not 0 <= parent < node:
                raise ValueError(
                    f"the parent of node {node} must be one of the nodes before it, got {parent}"
                )

    @classmethod
    def chain(cls, length: int) -> TreeShape:
        """One guess after the other."""
        return cls(tuple(range(length)))

    @classmethod
    def of_widths(cls, widths: Sequence[int]) -> TreeShape:
        """As many children of each node as its depth says: ``(3, 2)`` has nine guesses."""
        parents: list[int] = []
        level = [0]
        for width in widths:
            following = []
            for node in level:
                for _ in range(width):
                    parents.append(node)
                    following.append(len(parents))
            level = following
        return cls(tuple(parents))

    @classmethod
    def for_drafter(cls, tree: TreeShape | Sequence[int]) -> TreeShape:
        """The tree itself, or that of these widths, if a drafter can guess it.

        Raises:
            ValueError: If there are no guesses, or they are not numbered depth by depth.
        """
        if not isinstance(tree, TreeShape):
            if not tree or min(tree) < 1:
                raise ValueError(
                    f"widths must be one or more numbers of at least 1, got {tuple(tree)}"
                )
            return cls.of_widths(tree)
        if not tree.parents or list(tree.depths) != sorted(tree.depths):
            raise ValueError("a drafter's tree must have guesses, numbered depth by depth")
        return tree

    @property
    def num_nodes(self) -> int:
        """The root counts too: as many rows as the target model computes."""
        return 1 + len(self.parents)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Of each node; 0 for the root."""
        depths = [0]
        for parent in self.parents:
            depths.append(depths[parent] + 1)
        return tuple(depths)

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Of each node among its siblings, from 0; 0 for the root."""
        ranks, seen = [0], dict[int, int]()
        for parent in self.parents:
            ranks.append(seen.get(parent, 0))
            seen[parent] = ranks[-1] + 1
        return tuple(ranks)

    @cached_property
    def max_depth(self) -> int:
        """Tokens of the longest path, the root not counted."""
        return max(self.depths)

    def levels(self) -> list[list[int]]:
        """Nodes by depth."""
        return [
            [node for node, depth in enumerate(self.depths) if depth == level]
            for level in range(self.max_depth + 1)
        ]

    @cached_property
    def expansions(self) -> tuple[Level, ...]:
        """The depths that have a next one, for a tree whose nodes are numbered depth by depth."""
        levels = []
        for nodes, following in pairwise(self.levels()):
            width = 1 + max(self.ranks[node] for node in following)
            picks = tuple(
                (self.parents[node - 1] - nodes[0]) * width + self.ranks[node] for node in following
            )
            levels.append(Level(nodes[0], nodes[-1] + 1, width, picks))
        return tuple(levels)

    def ancestor_mask(self) -> Tensor:
        """Whether a node (row) sees a node (column): itself and its ancestors, bool ``[N, N]``; not to be written to."""
        return _ancestor_mask(self.parents)

    def paths(self) -> Tensor:
        """Nodes from the root to each leaf, int64 ``[leaves, max_depth + 1]``, -1 behind the leaf."""
        inner = set(self.parents)
        rows = []
        for leaf in range(self.num_nodes):
            if leaf not in inner:
                nodes = [leaf]
                while nodes[-1]:
                    nodes.append(self.parents[nodes[-1] - 1])
                rows.append(nodes[::-1] + [-1] * (self.max_depth + 1 - len(nodes)))
        return torch.tensor(rows)

    def longest_path(self, agrees: Tensor) -> Tensor:
        """Nodes from the root to the deepest one all of whose ancestors agree, ``[S, max_depth + 1]``, -1 behind it.

        Of nodes of one depth, the one whose path's nodes come first.

        Args:
            agrees: bool ``[S, N]``, true for the root.
        """
        # A leaf's path counts up to where it stops agreeing; paths() has them in the order of leaves.
        paths = self.paths().to(agrees.device)
        rows = sorted(range(len(paths)), key=lambda row: paths[row].tolist())
        paths = paths[rows]
        is_reached = ((paths >= 0) & agrees[:, paths.clamp(min=0)]).long().cumprod(2)  # [S, P, D]
        depths = is_reached.sum(2)
        # The first of the deepest, said outright: argmax need not take the first.
        order = torch.arange(len(paths), device=agrees.device)
        best = (depths * len(paths) - order).argmax(1)
        return torch.where(is_reached[torch.arange(len(best)), best] > 0, paths[best], -1)

    def behind_chain(self, length: int) -> TreeShape:
        """The tree with a chain of ``length`` nodes before its root."""
        if length == 0:
            return self
        return TreeShape((*range(length), *(parent + length for parent in self.parents)))

    def cut(self, max_depth: int) -> TreeShape:
        """The part of the tree that is no deeper; its nodes keep their order, not their numbers."""
        if max_depth >= self.max_depth:
            return self
        number = {0: 0}
        parents = []
        for node, parent in enumerate(self.parents, 1):
            if self.depths[node] <= max_depth:
                parents.append(number[parent])
                number[node] = len(parents)
        return TreeShape(tuple(parents))


@lru_cache(maxsize=256)  # each forward asks for one, and most trees come again in every round
def _ancestor_mask(parents: tuple[int, ...]) -> Tensor:
    mask = torch.eye(1 + len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents, 1):
        mask[node] |= mask[parent]
    return mask


@lru_cache(maxsize=256)
def _parents(parents: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor((0, *parents), device=device)


def parents_of(shape: TreeShape, device: torch.device) -> Tensor:
    """Parent of each node, the root's itself, int64 ``[N]``; not to be written to."""
    return _parents(shape.parents, device)


def accepted_path(
    shape: TreeShape, tokens: Tensor, drawn: Tensor, stands_for: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Follow what was drawn down a tree of guesses, of which siblings differ.

    Args:
        shape: Of the tree.
        tokens: Guesses ``[S, N]``; the root's is not looked at.
        drawn: Token that was drawn after each node, ``[S, N]``.
        stands_for: Guesses that may be taken for the one that was drawn after their parent, bool ``[S, N]``: the first of
            them is, where none of the siblings is what was drawn.

    Returns:
        The nodes that were reached, ``[S, max_depth + 1]`` from the root on and -1 behind the last, and their
        number, ``[S]``, at least 1.
    """
    parents = parents_of(shape, tokens.device)
    if stands_for is None:
        return accept_tree(parents, tokens, drawn, shape.max_depth)
    count = len(tokens)
    numbers = torch.arange(shape.num_nodes, device=tokens.device)
    # Of the siblings the one of the largest rank is taken, if that is above 0.
    ranks = (tokens == drawn[:, parents]) * (shape.num_nodes + 1)
    ranks = ranks.maximum(stands_for * (shape.num_nodes - numbers))
    ranks[:, 0] = 0
    node = torch.zeros(count, dtype=torch.long, device=tokens.device)
    alive = torch.ones(count, dtype=torch.bool, device=tokens.device)
    path = torch.full((count, shape.max_depth + 1), -1, device=tokens.device)
    path[:, 0] = 0
    for depth in range(1, shape.max_depth + 1):
        best, child = torch.where(parents == node[:, None], ranks, 0).max(1)
        alive &= best > 0
        node = torch.where(alive, child, node)
        path[:, depth] = torch.where(alive, node, -1)
    return path, (path >= 0).sum(1)
