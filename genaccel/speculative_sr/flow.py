# SPDX-License-Identifier: Apache-2.0
"""The flow between a low-quality picture and a good one, and the speculative way along it (PS-SR, CVPR 2026).

``state = (1 - sigma) high + sigma low``: no noise is anywhere in it. The base network computes the velocity at its begin
once; a draft, a third as deep, computes those of the steps that follow, from features that the base left behind. Every
velocity gives an estimate of the good picture, ``state - sigma velocity``. The base's is faithful and the last draft's
sharp; an update puts the sharp one's fine luminance into the faithful one, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from genaccel.files.untrusted import shown

# The scheduler of the published weights: 1000 steps of training, moved towards noise by this shift.
_TRAIN_STEPS = 1000
_SHIFT = 5.0
_PUBLISHED_TIMESTEPS = (699, 599, 499, 399)

UpdateMode = Literal["final", "iterate"]

# Velocity and features of a state, the picture that the flow began with, and sigma.
Base = Callable[[Tensor, Tensor, float], tuple[Tensor, Any]]
# Velocity of a state, that picture, sigma and the features.
Draft = Callable[[Tensor, Tensor, float, Any], Tensor]
# What a faithful and a sharp picture become.
Update = Callable[[Tensor, Tensor], Tensor]


def published_sigmas() -> tuple[float, ...]:
    """The levels of the published method: .69982, .60031, .50060, .40082.

    Its script asks for the timesteps 699, 599, 499 and 399, holds them in bf16, and takes the nearest of its grid.
    """
    places = torch.linspace(1, 0, _TRAIN_STEPS + 1, dtype=torch.float64)[:-1]
    grid = _SHIFT * places / (1 + (_SHIFT - 1) * places)
    asked = torch.tensor(_PUBLISHED_TIMESTEPS, dtype=torch.bfloat16).double() / _TRAIN_STEPS
    nearest = (grid[None] - asked[:, None]).abs().argmin(1)
    return tuple(grid[nearest].tolist())


PUBLISHED_SIGMAS = published_sigmas()


def check_sigmas(sigmas: Sequence[float]) -> None:
    """Check the levels of a flow.

    Raises:
        ValueError: If there are none, or they do not fall within (0, 1].
    """
    are_numbers = all(isinstance(sigma, float) for sigma in sigmas)
    falls = are_numbers and all(now > after for now, after in pairwise(sigmas))
    if not sigmas or not falls or not 0 < sigmas[-1] <= sigmas[0] <= 1:
        raise ValueError(f"sigmas must fall within (0, 1], got {shown(tuple(sigmas))}")


def between(high: Tensor, low: Tensor, sigma: float) -> Tensor:
    """The state at a level, of a good picture and its low-quality one, of one shape."""
    return (1 - sigma) * high + sigma * low


@dataclass(frozen=True, slots=True)
class SpeculativeSteps:
    """One base step and the drafts that follow it.

    Args:
        sigmas: The level of the base's step, then those of the drafts', falling within (0, 1].

    Raises:
        ValueError: If they are not such.

    Example:
        >>> steps = SpeculativeSteps((0.7, 0.6))
        >>> low, high = torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
        >>> base = lambda state, low, sigma: ((low - high), None)
        >>> draft = lambda state, low, sigma, features: (state - high) / sigma
        >>> [round(float(estimate.mean()), 3) for estimate in steps.run(low, base, draft)]
        [0.3, 0.0]
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        check_sigmas(self.sigmas)

    def run(self, low: Tensor, base: Base, draft: Draft) -> list[Tensor]:
        """Estimates of the good picture: the base's, then each draft's.

        No gradient goes from a step into the one before it: as published, drafts learn where their own way leads them.

        Args:
            low: Enlarged low-quality picture, or its latents, of any shape.
            base: Computes velocity and features, once.
            draft: Computes the velocities of the further steps.
        """
        velocity, features = base(low, low, self.sigmas[0])
        estimates = [low - self.sigmas[0] * velocity]
        state = low
        for sigma, after in pairwise(self.sigmas):
            state = (state - (sigma - after) * velocity).detach()
            velocity = draft(state, low, after, features)
            estimates.append(state - after * velocity)
        return estimates


def merged(pictures: Sequence[Tensor], update: Update, *, mode: UpdateMode = "final") -> Tensor:
    """The result of a run: the base's picture with what the update takes from the drafts'.

    Args:
        pictures: Of the base and of each draft, decoded where they were latents.
        update: Takes a faithful and a sharp picture.
        mode: "final" updates once, with the last draft's, as the authors' code does; "iterate" after each draft, as
            their paper says. Without drafts both return the base's picture.

    Raises:
        ValueError: If there is no picture, or the mode is neither.
    """
    if not pictures:
        raise ValueError("there must be at least the picture of the base")
    if mode not in ("final", "iterate"):
        raise ValueError(f'mode must be "final" or "iterate", got {mode!r}')
    drafts = pictures[1:] if mode == "iterate" else pictures[1:][-1:]
    return reduce(update, drafts, pictures[0])
