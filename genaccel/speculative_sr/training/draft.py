# SPDX-License-Identifier: Apache-2.0
"""Trains the draft of a base that is there, on the states that the draft's own steps lead to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from genaccel.models.registry import record_parts
from genaccel.speculative_sr.degradation import DegradationConfig
from genaccel.speculative_sr.draft import INTERVAL
from genaccel.speculative_sr.draft_network import DraftParams, SuperResolutionDraft
from genaccel.speculative_sr.flow import PUBLISHED_SIGMAS
from genaccel.speculative_sr.networks import SuperResolutionBase
from genaccel.speculative_sr.training.base import CROPS, TilesTraining, load_base
from genaccel.speculative_sr.training.distance import Distance, DistanceConfig
from genaccel.training.crops import CropConfig
from genaccel.training.loop import LoopConfig, PathLike, RunPath, averaged_weights
from genaccel.training.options import AT_LEAST_1, Option, check
from genaccel.training.run_folder import RunFolder

LOOP = LoopConfig(steps=8_000, batch_size=8, learning_rate=3e-4, mixed_precision="auto")
DISTANCE = DistanceConfig(perceptual_weight=0.5)

BASE_NAME = "base"


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftTrainingConfig:
    """The draft.

    Args:
        interval: One of so many blocks of the base is kept; 1 for a draft that is not pruned, to compare with.
        sigmas: Levels of its steps, falling, below that of the base's step.
    """

    interval: Annotated[int, Option(), AT_LEAST_1] = INTERVAL
    sigmas: Annotated[tuple[float, ...], Option()] = PUBLISHED_SIGMAS[1:]

    def __post_init__(self) -> None:
        check(self)


class SuperResolutionDraftTraining(TilesTraining):
    """One run.

    Args:
        config: The draft.
        distance: Of its estimates from the good picture, the mean over its steps.
        crops: Which tiles are trained on.
        degradation: What is done to them.
        loop: How the run proceeds.
        base: Run folder of `genaccel train super-resolution`, whose averaged weights of now are kept in this run, or a
            model folder.
        data: Folder of training images.
        run: Run folder; base and draft are its folder `model`.
        held_out: Folder of images that are not trained on, to measure at each checkpoint.
        num_workers: Processes that prepare tiles; with 0, they are made when they are needed.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If the folder holds a run with other options, or the levels do not fall below the base's.
        FileNotFoundError: If there is no base.
    """

    recipe = "super-resolution-draft"

    def __init__(
        self,
        config: DraftTrainingConfig,
        distance: DistanceConfig = DISTANCE,
        crops: CropConfig = CROPS,
        degradation: DegradationConfig = DegradationConfig(),  # noqa: B008
        loop: LoopConfig = LOOP,
        *,
        base: PathLike,
        data: PathLike,
        run: RunPath,
        held_out: PathLike | None = None,
        num_workers: int = 0,
        cpu: bool = False,
    ) -> None:
        self._distance = distance
        folder = RunFolder(run)
        # The base's run may go on meanwhile: all of this run reads the one that it began with.
        own = folder.path / BASE_NAME
        if own.is_dir():
            self._base = SuperResolutionBase.from_pretrained(own)
        elif RunFolder(base).has_checkpoint:
            self._base = load_base(base)
        else:
            self._base = SuperResolutionBase.from_pretrained(base)
        self._base.requires_grad_(False)
        torch.manual_seed(loop.seed)
        draft = SuperResolutionDraft.of(
            self._base, interval=config.interval, sigmas=config.sigmas
        ).requires_grad_(True)
        super().__init__(
            draft,
            loop,
            crops,
            degradation,
            data=data,
            run=folder,
            options={"draft": draft.params.to_dict(), "distance": asdict(distance)},
            held_out=held_out,
            num_workers=num_workers,
            cpu=cpu,
        )

    def setup(self) -> None:
        """Keep the base, open the tiles and load the perceptual distance, if it has a weight."""
        with self.accelerator.main_process_first():
            if not (self.run.path / BASE_NAME).is_dir():
                self._base.save_pretrained(self.run.path / BASE_NAME, dtype=torch.float32)
        self._base.to(self.accelerator.device).to(memory_format=torch.channels_last)
        super().setup()
        self.distance = Distance(self._distance, device=self.accelerator.device)

    def loss(
        self, batch: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Distances of the drafts' estimates, the mean over the steps."""
        small, high = batch
        # The call is of the wrapped model: gradients of several processes meet there.
        _, *estimates = self.model(*self.plain_model().first_step(self._base, small))
        found = [self.distance(estimate, high, generator) for estimate in estimates]
        loss = torch.stack([total for total, _ in found]).mean()
        # Of the last step, whose picture is used.
        return loss, found[-1][1]

    def estimates(self, small: Tensor) -> dict[str, Tensor]:
        """Pictures of base and last draft."""
        base, *drafts = self.plain_model().estimates(self._base, small)
        return {"base": base, "draft": drafts[-1]}

    def export(self) -> str:
        """Write the folder ``model`` of the run: the base, and in it the folder ``draft``."""
        out = self.run.path / "model"
        self._base.save_pretrained(out)
        load_draft(self.run.path).save_pretrained(out / "draft")
        record_parts(out)
        return f"wrote {out}"


def load_draft(run: PathLike) -> SuperResolutionDraft:
    """The draft with the averaged weights of a run's last checkpoint, in evaluation mode.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    folder = RunFolder(run)
    values: dict[str, Any] = folder.options()["draft"]
    return averaged_weights(folder, SuperResolutionDraft(DraftParams.from_dict(values)))
