# SPDX-License-Identifier: Apache-2.0
"""One pipeline with and without acceleration: times, what changed in the samples, and the samples."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.enable import enable_sensitivity
from genaccel.sensitivity.study.calibrate import PipelineCall, run_call
from genaccel.sensitivity.study.tune import Distance, Images, image_psnr, images_of

_GAP = 8
_LABEL_WIDTH = 200
_LEAST_TILE = 192  # pixels; smaller samples are enlarged by a whole factor
_FONT_SIZE = 14


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One way to sample.

    Attributes:
        name: Such as "speed-up 2".
        steps: Of the sampler.
        seconds: Median over the rounds, of all generations together, decoding included.
        speedup: Measured, beside plain runs in turn.
        flop_ratio: FLOPs of the denoiser without acceleration over those with it.
        psnr: Mean decibels to the plain samples; None for these themselves.
        st_lpips: Mean distance to them; None without a metric.
        images: The samples, ``[H, W, 3]`` each.
        report: What ``handle.report()`` says of an accelerated run; empty for others.
    """

    name: str
    steps: int
    seconds: float
    speedup: float
    flop_ratio: float
    psnr: float | None
    st_lpips: float | None
    images: Images
    report: str = ""


def side_by_side(
    pipeline: Any,
    calls: Sequence[PipelineCall],
    configs: Sequence[SensitivityConfig],
    *,
    rounds: int = 1,
    distance: Distance | None = None,
) -> list[Side]:
    """Sample plainly, with each config, and with as many fewer steps as take the same time.

    A config without a plan is calibrated on the first generation, which is not timed.

    Args:
        pipeline: Not accelerated at present; it is not afterwards either.
        calls: Arguments of the generations, with their ``num_inference_steps`` and ``seed``.
        configs: What to compare.
        rounds: Timed runs of each side, in turn with plain ones.
        distance: Of two images ``[H, W, 3]``.

    Returns:
        The plain side, then for each config the accelerated one and the one of fewer steps.

    Raises:
        ValueError: If there are no calls, or one does not say its steps.
    """
    if not calls or any("num_inference_steps" not in call for call in calls):
        raise ValueError("calls must hold at least one generation, and say their steps")
    steps = int(calls[0]["num_inference_steps"])
    reference, first_seconds = _run(pipeline, calls)  # also warms up
    plain_seconds: list[float] = []
    sides: list[Side] = []

    def compare(name: str, steps: int, images: Images, seconds: list[float], **more: Any) -> Side:
        # Beside the plain runs of the same minutes: machines are shared.
        plain = statistics.median(plain_seconds[-rounds:])
        pairs = list(zip(images, reference, strict=True))
        return Side(
            name,
            steps,
            statistics.median(seconds),
            plain / statistics.median(seconds),
            psnr=float(np.mean([image_psnr(a, b) for a, b in pairs])),
            st_lpips=None
            if distance is None
            else float(np.mean([distance(a, b) for a, b in pairs])),
            images=images,
            **more,
        )

    with tqdm(
        total=len(configs) * (2 * rounds + 2), desc="sampling", unit="run", disable=None
    ) as bar:
        for config in configs:
            with enable_sensitivity(pipeline, config) as handle:
                _run(pipeline, calls[:1])  # looks for the plan, or measures one
                bar.update()
                seconds = []
                for _ in range(rounds):
                    images, taken = _run(pipeline, calls)
                    seconds.append(taken)
                    report = handle.report()
                    with handle.paused():
                        plain_seconds.append(_run(pipeline, calls)[1])
                    bar.update(2)
                ratio = statistics.mean(r.flop_ratio for r in report.values())
            name = "accelerated" if config.speedup is None else f"speed-up {config.speedup:g}"
            side = compare(name, steps, images, seconds, flop_ratio=ratio, report=str(report))
            sides.append(side)
            fewer = min(steps, max(1, round(steps / side.speedup)))
            images, taken = _run(pipeline, [{**c, "num_inference_steps": fewer} for c in calls])
            bar.update()
            sides.append(
                compare(f"{fewer} steps", fewer, images, [taken], flop_ratio=steps / fewer)
            )
    plain = statistics.median(plain_seconds or [first_seconds])
    return [
        Side("plain", steps, plain, 1.0, 1.0, None, None, reference),
        *sides,
    ]


def _run(pipeline: Any, calls: Sequence[PipelineCall]) -> tuple[Images, float]:
    began = time.perf_counter()
    images = [image for call in calls for image in images_of(run_call(pipeline, call))]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return images, time.perf_counter() - began


def sheet(sides: Sequence[Side], *, columns: int = 6) -> Image.Image:
    """A row for each side: what it is, and its first samples.

    Raises:
        ValueError: If there are no sides.
    """
    if not sides:
        raise ValueError("sides must hold at least one, got none")
    count = min(columns, len(sides[0].images))
    height, width = sides[0].images[0].shape[:2]
    scale = max(1, math.ceil(_LEAST_TILE / max(height, width)))
    tile_height, tile_width = height * scale, width * scale
    size = (
        _LABEL_WIDTH + count * (tile_width + _GAP) + _GAP,
        len(sides) * (tile_height + _GAP) + _GAP,
    )
    drawn = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(_FONT_SIZE)
    for row, side in enumerate(sides):
        top = _GAP + row * (tile_height + _GAP)
        draw.multiline_text((_GAP, top), _label(side), fill=(0, 0, 0), font=font, spacing=4)
        for column, image in enumerate(side.images[:count]):
            tile = Image.fromarray(image).resize(
                (tile_width, tile_height), Image.Resampling.BICUBIC
            )
            drawn.paste(tile, (_LABEL_WIDTH + column * (tile_width + _GAP), top))
    return drawn


def _label(side: Side) -> str:
    lines = [side.name, f"{side.seconds:.2f} s, {side.speedup:.2f}x"]
    if side.psnr is not None:
        lines.append(f"PSNR {side.psnr:.1f} dB")
    if side.st_lpips is not None:
        lines.append(f"ST-LPIPS {side.st_lpips:.4f}")
    return "\n".join(lines)
