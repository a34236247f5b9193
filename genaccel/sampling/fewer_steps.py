# SPDX-License-Identifier: Apache-2.0
"""The baseline of any acceleration: the plain pipeline with fewer steps, in the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from genaccel.sampling.calls import PipelineCall, images_of_calls
from genaccel.sampling.distances import Closeness, Distance


@dataclass(frozen=True, slots=True)
class FewerSteps:
    """The plain pipeline with fewer steps, beside its own full run.

    Attributes:
        steps: Steps of the sampler.
        psnr: Mean decibels to the samples of the full run.
        distance: Mean distance to them; None without one.
    """

    steps: int
    psnr: float
    distance: float | None


def steps_of(calls: Sequence[PipelineCall]) -> int:
    """Steps of generations that are run in full.

    Raises:
        ValueError: If there are none, or one does not say its steps.
    """
    if not calls or any("num_inference_steps" not in call for call in calls):
        raise ValueError(
            "calls must hold at least one generation, and say their num_inference_steps"
        )
    return int(calls[0]["num_inference_steps"])


def shortened(calls: Sequence[PipelineCall], speedup: float) -> tuple[int, list[PipelineCall]]:
    """The generations with as many fewer steps as take the time of an accelerated run, and these steps.

    Args:
        calls: With the steps of the full run.
        speedup: Measured speed-up of the accelerated run.
    """
    full = steps_of(calls)
    steps = min(full, max(1, round(full / speedup)))
    return steps, [{**call, "num_inference_steps": steps} for call in calls]


def fewer_steps(
    pipeline: Any,
    calls: Sequence[PipelineCall],
    speedups: Sequence[float],
    *,
    distance: Distance | None = None,
) -> list[FewerSteps]:
    """Give each speed-up to the plain pipeline, as fewer steps.

    Args:
        pipeline: Not accelerated at present.
        calls: Arguments of the generations, with the steps of the full run.
        speedups: Measured ones, so that both sides take equal time.
        distance: Distance of two images ``[H, W, 3]``.

    Returns:
        One for each speed-up.

    Raises:
        ValueError: If there are no calls, or one does not say its steps.
    """
    steps_of(calls)
    reference = images_of_calls(pipeline, calls)
    found: dict[int, FewerSteps] = {}
    results = []
    for speedup in tqdm(speedups, desc="fewer steps", unit="speed-up", disable=None):
        steps, shorter = shortened(calls, speedup)
        if steps not in found:
            close = Closeness.of(images_of_calls(pipeline, shorter), reference, distance)
            found[steps] = FewerSteps(steps, close.psnr, close.distance)
        results.append(found[steps])
    return results
