# SPDX-License-Identifier: Apache-2.0
"""What acceleration has to beat: the plain pipeline with fewer steps, in the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from genaccel.sensitivity.study.calibrate import PipelineCall, run_call
from genaccel.sensitivity.study.tune import Distance, Images, image_psnr, images_of


@dataclass(frozen=True, slots=True)
class FewerSteps:
    """The plain pipeline with fewer steps, beside its own full run.

    Attributes:
        steps: Of the sampler.
        psnr: Mean decibels to the samples of the full run.
        st_lpips: Mean distance to them; None without a metric.
    """

    steps: int
    psnr: float
    st_lpips: float | None


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
        distance: Of two images ``[H, W, 3]``.

    Returns:
        One for each speed-up.

    Raises:
        ValueError: If a call does not say its steps.
    """
    if any("num_inference_steps" not in call for call in calls):
        raise ValueError("calls must say their num_inference_steps")
    reference = _images(pipeline, calls)
    found: dict[int, FewerSteps] = {}
    results = []
    for speedup in tqdm(speedups, desc="fewer steps", unit="speed-up", disable=None):
        full = int(calls[0]["num_inference_steps"])
        steps = min(full, max(1, round(full / speedup)))
        if steps not in found:
            shorter = [{**call, "num_inference_steps": steps} for call in calls]
            pairs = list(zip(_images(pipeline, shorter), reference, strict=True))
            found[steps] = FewerSteps(
                steps=steps,
                psnr=float(np.mean([image_psnr(a, b) for a, b in pairs])),
                st_lpips=None
                if distance is None
                else float(np.mean([distance(a, b) for a, b in pairs])),
            )
        results.append(found[steps])
    return results


def _images(pipeline: Any, calls: Sequence[PipelineCall]) -> Images:
    return [image for call in calls for image in images_of(run_call(pipeline, call))]
