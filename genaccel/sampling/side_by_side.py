# SPDX-License-Identifier: Apache-2.0
"""One pipeline with and without acceleration: times, samples, and distances between these."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from genaccel.hooks.handle import AccelerationHandle
from genaccel.sampling.calls import PipelineCall, images_of_calls
from genaccel.sampling.costs import Cost, cost_of_call, median_cost
from genaccel.sampling.distances import Closeness, Distance
from genaccel.sampling.fewer_steps import shortened, steps_of
from genaccel.sampling.images import Images

Enabler = Callable[[Any], AccelerationHandle]

_GAP = 8
_LABEL_WIDTH = 200
_LEAST_TILE = 192  # pixels; smaller samples are enlarged by a whole factor
_FONT_SIZE = 14


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One way to sample.

    Attributes:
        name: Its name, such as "speed-up 2".
        steps: Steps of the sampler.
        seconds: Median seconds over the rounds, of all generations together, decoding included.
        speedup: Speed-up, measured beside plain runs in turn.
        flop_ratio: FLOPs of the denoiser without acceleration over those with it.
        psnr: Mean decibels to the plain samples; None for these themselves.
        distance: Mean distance to them; None without one.
        images: The samples, ``[H, W, 3]`` each.
        report: Text of ``handle.report()`` for an accelerated run; empty for others.
    """

    name: str
    steps: int
    seconds: float
    speedup: float
    flop_ratio: float
    psnr: float | None
    distance: float | None
    images: Images
    report: str = ""


def side_by_side(
    pipeline: Any,
    calls: Sequence[PipelineCall],
    enablers: Mapping[str, Enabler],
    *,
    rounds: int = 1,
    distance: Distance | None = None,
) -> list[Side]:
    """Sample plainly, with each acceleration, and with as many fewer steps as take the same time.

    The first generation with each is not timed: a method may measure the pipeline in it.

    Args:
        pipeline: Not accelerated at present; it is not afterwards either.
        calls: Arguments of the generations, with their ``num_inference_steps`` and ``seed``.
        enablers: The sides by name: each accelerates the pipeline, such as
            ``functools.partial(genaccel.enable, config=config)``.
        rounds: Timed runs of each side, in turn with plain ones.
        distance: Distance of two images ``[H, W, 3]``.

    Returns:
        The plain side, then for each enabler the accelerated one and the one of fewer steps.

    Raises:
        ValueError: If there are no calls, or one does not say its steps.
    """
    steps = steps_of(calls)
    reference, first_cost = _run(pipeline, calls)  # also warms up
    plain_costs: list[Cost] = []
    sides: list[Side] = []

    def compare(name: str, steps: int, images: Images, costs: list[Cost], **more: Any) -> Side:
        seconds = median_cost(costs).wall
        # Beside the plain runs of the same minutes: machines are shared.
        plain = median_cost(plain_costs[-rounds:]).wall
        close = Closeness.of(images, reference, distance)
        return Side(
            name,
            steps,
            seconds,
            plain / seconds,
            psnr=close.psnr,
            distance=close.distance,
            images=images,
            **more,
        )

    with tqdm(
        total=len(enablers) * (2 * rounds + 2), desc="sampling", unit="run", disable=None
    ) as bar:
        for name, enable in enablers.items():
            with enable(pipeline) as handle:
                _run(pipeline, calls[:1])
                bar.update()
                costs = []
                for _ in range(rounds):
                    images, cost = _run(pipeline, calls)
                    costs.append(cost)
                    report = handle.report()
                    with handle.paused():
                        plain_costs.append(_run(pipeline, calls)[1])
                    bar.update(2)
                ratio = statistics.mean(r.flop_ratio for r in report.values())
            side = compare(name, steps, images, costs, flop_ratio=ratio, report=str(report))
            sides.append(side)
            fewer, shorter = shortened(calls, side.speedup)
            images, cost = _run(pipeline, shorter)
            bar.update()
            sides.append(compare(f"{fewer} steps", fewer, images, [cost], flop_ratio=steps / fewer))
    plain = median_cost(plain_costs or [first_cost]).wall
    return [
        Side("plain", steps, plain, 1.0, 1.0, None, None, reference),
        *sides,
    ]


def _run(pipeline: Any, calls: Sequence[PipelineCall]) -> tuple[Images, Cost]:
    images: list[Images] = []
    run = functools.partial(images_of_calls, pipeline, calls)
    cost = cost_of_call(lambda: images.append(run()), torch.device(pipeline.device))
    return images[0], cost


def sheet(
    sides: Sequence[Side], *, columns: int = 6, distance_title: str = "distance"
) -> Image.Image:
    """A row for each side: what it is, and its first samples.

    Args:
        sides: Sides of :func:`side_by_side`.
        columns: Samples of each at most.
        distance_title: Name of the sides' distance.

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
        draw.multiline_text(
            (_GAP, top), _label(side, distance_title), fill=(0, 0, 0), font=font, spacing=4
        )
        for column, image in enumerate(side.images[:count]):
            tile = Image.fromarray(image).resize(
                (tile_width, tile_height), Image.Resampling.BICUBIC
            )
            drawn.paste(tile, (_LABEL_WIDTH + column * (tile_width + _GAP), top))
    return drawn


def _label(side: Side, distance_title: str) -> str:
    lines = [side.name, f"{side.seconds:.2f} s, {side.speedup:.2f}x"]
    if side.psnr is not None:
        lines.append(f"PSNR {side.psnr:.1f} dB")
    if side.distance is not None:
        lines.append(f"{distance_title} {side.distance:.4f}")
    return "\n".join(lines)
