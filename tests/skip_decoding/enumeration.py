# SPDX-License-Identifier: Apache-2.0
"""Distributions of what is drawn, without drawing."""

import itertools

import torch
from torch import Tensor

from genaccel.skip_decoding.acceptance import Relaxation, accept_by_rejection
from genaccel.skip_decoding.draft_tree import TreeShape


def first_token_distribution(
    shape: TreeShape, tokens: Tensor, probabilities: Tensor, relaxation: Relaxation | None
) -> Tensor:
    """Of the token after the root, by enumeration: each child is accepted or not."""
    total = torch.zeros_like(probabilities)
    children = [n for n, parent in enumerate(shape.parents, 1) if parent == 0]
    weights = probabilities.log().expand(shape.num_nodes, -1)
    reach = 1.0
    for number, child in enumerate(children):
        # Uniforms of 1 reject what can be rejected; what is accepted then has probability min(1, mass).
        rejecting = [2.0] * number
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            found = accept_by_rejection(
                shape,
                tokens,
                weights,
                itertools.chain(rejecting, [middle], itertools.repeat(2.0)),
                relaxation=relaxation,
            )
            if len(found.path) > 1 and found.path[1] == child:
                low = middle
            else:
                high = middle
        total[tokens[child]] += reach * low
        reach *= 1 - low
    left = accept_by_rejection(shape, tokens, weights, itertools.repeat(2.0), relaxation=relaxation)
    return total + reach * left.residual
