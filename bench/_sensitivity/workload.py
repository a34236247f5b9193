# SPDX-License-Identifier: Apache-2.0
"""The workload of ``bench/soda.py``: a DiT pipeline, fixed classes and noise, and accelerated copies of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from genaccel.sampling.calls import generators
from genaccel.sampling.methods import Attached

# Of the noise that methods are judged on, and of that which they may look at before. The plans beside the zoo's model
# were tuned on seeds below these.
_TEST_SEED, _CALIBRATION_SEED = 50_000, 1_000_000


@dataclass(frozen=True, slots=True)
class Samples:
    """Some images to generate.

    Attributes:
        labels: A class for each.
        seeds: A noise for each.
    """

    labels: tuple[int, ...]
    seeds: tuple[int, ...]


class LatentCatcher:
    """Stand-in for the pipeline's decoder, which keeps the latents that it is given.

    Decoding costs the same with every method: it is timed by itself, and done only where images are looked at.
    """

    def __init__(self, scaling_factor: float = 1.0) -> None:
        self.config = SimpleNamespace(scaling_factor=scaling_factor)
        self.latents: Tensor | None = None

    def decode(self, latents: Tensor) -> Any:
        self.latents = latents
        return SimpleNamespace(sample=latents[:, :1, :1, :1])


class Workload:
    """A pipeline and the samples that are drawn from it.

    Args:
        name: For the table.
        pipeline: A ``DiTPipeline``; it is kept as it is, but for its decoder.
        num_steps: Steps of the sampler.
        guidance: Scale of classifier-free guidance; 1 for none.
        classes: Classes that the model learned; every other one is for calibration.
        batch_size: Samples in a call.
    """

    def __init__(
        self,
        name: str,
        pipeline: Any,
        *,
        num_steps: int,
        guidance: float,
        classes: Sequence[int],
        batch_size: int,
    ) -> None:
        self.name = name
        self.num_steps = num_steps
        self.guidance = guidance
        self.classes = tuple(classes)
        self.batch_size = batch_size
        self.decoder = pipeline.vae
        pipeline.set_progress_bar_config(disable=True)
        self.device = pipeline.transformer.device
        scale = 1.0 if self.decoder is None else float(self.decoder.config.scaling_factor)
        pipeline.vae = LatentCatcher(scale)
        self.pristine = pipeline
        self.plain = Attached(self.copy())

    def copy(self) -> Any:
        """A copy of the pipeline that shares its weights."""
        transformer = self.pristine.transformer
        weights = [*transformer.parameters(), *transformer.buffers()]
        return copy.deepcopy(self.pristine, {id(w): w for w in weights})

    def test_samples(self, batch: int) -> Samples:
        """Samples of one batch that methods are judged by."""
        return self._samples(_TEST_SEED + batch * self.batch_size, first_class=0)

    def calibration_samples(self, batch: int) -> Samples:
        """Samples that methods may be tuned on: other noise and, where there are several, other classes."""
        return self._samples(_CALIBRATION_SEED + batch * self.batch_size, first_class=1)

    def _samples(self, first_seed: int, *, first_class: int) -> Samples:
        classes = self.classes[first_class if len(self.classes) > 1 else 0 :: 2]
        seeds = tuple(range(first_seed, first_seed + self.batch_size))
        return Samples(tuple(classes[s % len(classes)] for s in seeds), seeds)

    def sample(
        self, attached: Attached, samples: Samples, *, num_steps: int | None = None
    ) -> Tensor:
        """Run a pipeline, and return its latents ``[B, C, H, W]``."""
        pipeline = attached.pipeline
        with attached.around():
            pipeline(
                class_labels=list(samples.labels),
                guidance_scale=self.guidance,
                generator=generators(samples.seeds),
                num_inference_steps=num_steps or attached.num_steps or self.num_steps,
                output_type="pt",
            )
        caught: Tensor = pipeline.vae.latents
        return caught

    @torch.inference_mode()
    def images(self, latents: Tensor) -> Tensor:
        """Decode latents ``[B, C, H, W]`` to images, uint8 ``[B, H, W, 3]`` on the CPU."""
        decoded = self.decoder.decode(latents.to(self.decoder.dtype)).sample
        scaled = (decoded.float() / 2 + 0.5).clamp(0, 1) * 255
        return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
