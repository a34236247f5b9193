# SPDX-License-Identifier: Apache-2.0
"""The draft of a base of super-resolution by four, as it is trained and saved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from genaccel.models.ranges import require_whole
from genaccel.models.saved_network import SavedNetwork
from genaccel.speculative_sr.draft import INTERVAL, Draft
from genaccel.speculative_sr.flow import PUBLISHED_SIGMAS, SpeculativeSteps
from genaccel.speculative_sr.networks import (
    SuperResolutionBase,
    SuperResolutionParams,
    VelocityTransformer,
)

MODEL_TYPE = "super-resolution-draft"


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftParams:
    """Shape of a draft.

    Args:
        base: That of its base.
        interval: One of so many blocks of the base is kept.
        sigmas: Levels of the steps, falling, below that of the base's step.
    """

    base: SuperResolutionParams = field(default_factory=SuperResolutionParams)
    interval: int = INTERVAL
    sigmas: tuple[float, ...] = PUBLISHED_SIGMAS[1:]

    def __post_init__(self) -> None:
        require_whole("interval", self.interval, 1, self.base.num_layers)
        if not 1 <= len(self.sigmas) <= 100:
            raise ValueError(f"sigmas must have 1 to 100 entries, got {len(self.sigmas)}")
        SpeculativeSteps((self.base.sigma, *self.sigmas))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The parameters that :meth:`to_dict` gave.

        Raises:
            ValueError: If there are other keys, or a value is out of range.
        """
        if set(values) != {"base", "interval", "sigmas"} or not isinstance(values["sigmas"], list):
            raise ValueError("a draft's configuration has base, interval and a list of sigmas")
        return cls(
            base=SuperResolutionParams.from_dict(values["base"]),
            interval=values["interval"],
            sigmas=tuple(values["sigmas"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "sigmas": list(self.sigmas)}


class SuperResolutionDraft(SavedNetwork):
    """The draft.

    Args:
        params: Its shape.

    Example:
        >>> base = SuperResolutionBase(SuperResolutionParams(channels=64, num_layers=3)).eval()
        >>> draft = SuperResolutionDraft.of(base)
        >>> [estimate.shape[2:] for estimate in draft.estimates(base, torch.zeros(1, 3, 8, 8))]
        [torch.Size([32, 32]), torch.Size([32, 32]), torch.Size([32, 32]), torch.Size([32, 32])]
    """

    model_type = MODEL_TYPE
    params_class = DraftParams
    stored_dtype = torch.float16

    def __init__(self, params: DraftParams) -> None:
        super().__init__()
        self.params = params
        self.steps = SpeculativeSteps((params.base.sigma, *params.sigmas))
        self.draft = Draft(VelocityTransformer(params.base), interval=params.interval)

    @classmethod
    def of(
        cls,
        base: SuperResolutionBase,
        *,
        interval: int = INTERVAL,
        sigmas: Sequence[float] = PUBLISHED_SIGMAS[1:],
    ) -> Self:
        """A fresh draft of a base, with the weights of the blocks that it keeps."""
        made = cls(DraftParams(base=base.params, interval=interval, sigmas=tuple(sigmas)))
        made.draft = Draft(base.transformer, interval=interval)
        return made.eval()

    def velocity(
        self, state: Tensor, low: Tensor, sigma: float, projected: Sequence[Tensor]
    ) -> Tensor:
        """Velocity ``[B, 3, H, W]`` of states at a level, given the base's share of each fusion."""
        timestep = torch.full((len(state),), 1000 * sigma, device=state.device)
        velocity: Tensor = self.draft(state, low, timestep, projected=projected)[0]
        return velocity

    def forward(self, low: Tensor, velocity: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Estimates of the good picture: the base's and those of all drafts.

        Args:
            low: Enlarged picture, ``[B, 3, H, W]`` in [-1, 1].
            velocity: Of the base there.
            features: What the kept blocks took in the base.
        """
        projected = self.draft.project(features)
        return self.steps.run(low, lambda *_: (velocity, projected), self.velocity)

    def estimates(self, base: SuperResolutionBase, small: Tensor) -> list[Tensor]:
        """Estimates of the good pictures ``[B, 3, 4 h, 4 w]`` of small ones ``[B, 3, h, w]``, in [-1, 1].

        Nothing of the base is recorded for gradients.
        """
        found: list[Tensor] = self(*self.first_step(base, small))
        return found

    @torch.no_grad()
    def first_step(
        self, base: SuperResolutionBase, small: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What :meth:`forward` takes: the enlarged pictures, the base's velocity and its features."""
        low = base.upscaler(small)
        velocity, features = base.velocity(low, low, base.params.sigma, keep=self.draft.kept)
        return low, velocity, features

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Load a model folder, in evaluation mode, as fp32 in channels-last layout; raises as the base does."""
        return super().from_pretrained(folder).to(memory_format=torch.channels_last)
