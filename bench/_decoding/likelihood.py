# SPDX-License-Identifier: Apache-2.0
"""How likely tokens are under the target that they stand for, teacher-forced and with guidance."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench._decoding.generator import Generator

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of pictures, each the mean over its tokens, in nats.

    Attributes:
        negative: Negative log-likelihood.
        excess: The same less the entropy of the distribution that the token stands for. Of tokens that are drawn from it the
            mean is 0 whatever the picture shows, so that few pictures tell much.
    """

    negative: list[float]
    excess: list[float]

    def __add__(self, other: Likelihood) -> Likelihood:
        return Likelihood(self.negative + other.negative, self.excess + other.excess)


@torch.inference_mode()
def likelihood(generator: Generator, tokens: Tensor, labels: Sequence[int]) -> Likelihood:
    """How likely the tokens of pictures are.

    Args:
        generator: Whose model is the judge.
        tokens: ``[S, T]``.
        labels: Class of each.
    """
    model, rule, first = generator.pipeline.transformer, generator.rule, len(generator.codebook)
    negative: list[float] = []
    excess: list[float] = []
    for part, names in zip(tokens.split(_BATCH), torch.tensor(labels).split(_BATCH), strict=True):
        no_class = torch.full_like(names, first + generator.num_classes)
        heads = torch.cat((names + first, no_class))[:, None]
        inputs = torch.cat((heads, part[:, :-1].repeat(2, 1)), 1)
        logits = model(inputs, use_cache=False).logits.float()
        weights = rule.log_weights(rule.combine(logits)).log_softmax(-1)
        of_tokens = -weights.gather(2, part[..., None])[..., 0]
        # What cannot be drawn has no part in it: 0 log 0 is 0.
        entropy = torch.special.entr(weights.exp()).sum(2)
        negative += of_tokens.mean(1).tolist()
        excess += (of_tokens - entropy).mean(1).tolist()
    return Likelihood(negative, excess)


@dataclass(frozen=True, slots=True)
class Gap:
    """How much less likely tokens are than others, in nats a token.

    Attributes:
        mean: Positive where they are less likely.
        standard_error: Of the mean.
    """

    mean: float
    standard_error: float


def gap(ours: Sequence[float], others: Sequence[float]) -> Gap:
    """The mean difference of pictures and its standard error, pair by pair: of one number, of the same class.

    Raises:
        ValueError: If there are not as many of both, or fewer than two.
    """
    differences = [a - b for a, b in zip(ours, others, strict=True)]
    if len(differences) < 2:
        raise ValueError(f"a standard error needs at least 2 pictures, got {len(differences)}")
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return Gap(statistics.fmean(differences), error)
