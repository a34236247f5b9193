# SPDX-License-Identifier: Apache-2.0
"""Quality of AVIF with restoration and without, at full and half size, on photographs that restoration was not trained on.

    python bench/restoration.py [--quick] [--json FILE] [--model FOLDER] [--vgg16 FILE] [--keep FILE] [--sheet PNG]

Both sides decode the same file; the plain side enlarges a smaller base by Lanczos. Bits are those of whole files without
metadata, BD-rates those of one size. Distances of VGG16 features are those of ``genaccel.models.oxford_vgg16``: neither LPIPS nor comparable with it, and a
model may have been trained on the first four of its five stages.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from genaccel import zoo
from genaccel.eval import metrics
from genaccel.eval.bjontegaard_delta import Curve, bd_rate
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.metrics import Metric
from genaccel.eval.ms_ssim import ms_ssim_of_images
from genaccel.eval.ssimulacra2 import ssimulacra2_of_images
from genaccel.files.atomic import write_json
from genaccel.files.image_writer import write_image
from genaccel.models.oxford_vgg16 import INSTALL_COMMAND, OxfordVgg16
from genaccel.models.restoration import SCALES, Restoration, lanczos_enlarged
from genaccel.sampling.costs import median_cost
from genaccel.sampling.distances import psnr
from genaccel.sampling.turns import costs_in_turn
from genaccel.training.recipes.restoration_pairs import coded_base

# Side of the picture over that of the base -> qualities, from about 0.03 to about 0.4 bits per pixel.
QUALITIES = {1: (0, 15, 25, 35, 45), 2: (10, 30, 45, 60, 75)}
QUICK_QUALITIES = {1: (15,), 2: (45,)}
QUICK_SIDE = 224
TIMED_SIZES = ((640, 427), (1920, 1280))  # width, height

SIDES = ("plain", "restored")

Pixels = NDArray[np.uint8]
METRICS: dict[str, Metric] = {
    "psnr": metrics.METRICS["psnr"].metric,
    "ms_ssim": metrics.METRICS["ms-ssim"].metric,
    "ssimulacra2": metrics.METRICS["ssimulacra2"].metric,
    "vgg": Metric(key="vgg", title="VGG distance", higher_is_better=False),
}


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "restoration",
        __doc__.splitlines()[0],
        {
            "model": (Path, None, None, "model folder; by default that of the zoo"),
            "vgg16": (Path, None, None, "ONNX file of VGG16; by default that of the package"),
            "keep": (Path, None, None, "JSON file of judgements, which are not made again"),
            "sheet": (Path, None, None, "also draw crops, coded and restored"),
        },
    )
    model = Restoration.from_pretrained(bench.options["model"] or zoo.path("photo-restoration"))
    judges = _judges(bench.options["vgg16"])
    kept = _Kept(bench.options["keep"])
    photographs = held_out_photographs()
    if bench.quick:
        photographs = {
            name: image[:QUICK_SIDE, :QUICK_SIDE].copy()
            for name, image in list(photographs.items())[:2]
        }
    found: dict[tuple[int, int], list[Point]] = {}
    # One photograph after the other: the judge keeps the features of its last original.
    for name, image in photographs.items():
        for scale, qualities in (QUICK_QUALITIES if bench.quick else QUALITIES).items():
            for quality in qualities:
                point = _point(model, judges, kept, image, scale=scale, quality=quality)
                found.setdefault((scale, quality), []).append(point)
        print(f"{name}: done", file=sys.stderr, flush=True)
        kept.write()
    for (scale, quality), points in found.items():
        row: dict[str, object] = {"scale": scale, "quality": quality}
        row["bits_per_pixel"] = statistics.mean(point.bits_per_pixel for point in points)
        for key in judges:
            for side in SIDES:
                values = [point.judgements[side][key] for point in points]
                row[f"{key} {side}"] = statistics.mean(values)
        bench.rows.append(row)
    if not bench.quick:
        bench.tables["BD-rate of restored against plain, at each size"] = [
            _bd_row(
                name,
                scale,
                [points[index] for (other, _), points in found.items() if other == scale],
                list(judges),
            )
            for scale in QUALITIES
            for index, name in enumerate(photographs)
        ]
    bench.tables["milliseconds of processor time, one thread"] = _speeds(model, quick=bench.quick)
    if bench.options["sheet"] is not None:
        draw_sheet(model, photographs, bench.options["sheet"])
    bench.finish(["pillow", "ssimulacra2"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One photograph in one file: its rate, and what each judge says of each side."""

    bits_per_pixel: float
    judgements: dict[str, dict[str, float]]


def _point(
    model: Restoration,
    judges: dict[str, Callable[[Pixels, Pixels], float]],
    kept: _Kept,
    image: Pixels,
    *,
    scale: int,
    quality: int,
) -> Point:
    size = (image.shape[0], image.shape[1])
    base, num_bytes = coded_base(image, scale=scale, quality=quality)
    decoded = {
        "plain": enlarged(base, scale, size),
        "restored": restored(model, base, scale, quality, size),
    }
    return Point(
        bits_per_pixel=8 * num_bytes / (size[0] * size[1]),
        judgements={
            side: {
                key: kept.judgement(key, judge, image, decoded[side])
                for key, judge in judges.items()
            }
            for side in SIDES
        },
    )


def enlarged(base: Pixels, scale: int, size: tuple[int, int]) -> Pixels:
    """The base ``[h, w, 3]`` at the size of its picture."""
    with torch.inference_mode():
        return _pixels(lanczos_enlarged(_planes(base), scale), size)


def restored(
    model: Restoration, base: Pixels, scale: int, quality: int, size: tuple[int, int]
) -> Pixels:
    """The base ``[h, w, 3]`` after restoration."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        picture = model(_planes(base), torch.tensor([float(quality)]), scale=scale, size=size)
    return _pixels(picture, size)


def _planes(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def _pixels(planes: torch.Tensor, size: tuple[int, int]) -> Pixels:
    image = planes[0, :, : size[0], : size[1]].clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels: Pixels = image.permute(1, 2, 0).contiguous().numpy()
    return pixels


def _judges(vgg16: Path | None) -> dict[str, Callable[[Pixels, Pixels], float]]:
    judges: dict[str, Callable[[Pixels, Pixels], float]] = {
        "psnr": psnr,
        "ms_ssim": ms_ssim_of_images,
        "ssimulacra2": ssimulacra2_of_images,
    }
    try:
        network = OxfordVgg16.from_pretrained(vgg16)
    except FileNotFoundError as error:
        print(f"VGG16 is left out: {error} ({INSTALL_COMMAND})", file=sys.stderr)
        return judges

    last: dict[str, list[torch.Tensor]] = {}

    @torch.inference_mode()
    def vgg_distance(original: Pixels, decoded: Pixels) -> float:
        digest = hashlib.sha256(original.tobytes()).hexdigest()
        if digest not in last:
            last.clear()
            last[digest] = network.features(_planes(original))
        return float(network.distance(network.features(_planes(decoded)), last[digest]))

    judges["vgg"] = vgg_distance
    return judges


class _Kept:
    """Judgements by digest of what was judged, in a file if one is given."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._values: dict[str, float] = {}
        if path is not None and path.is_file():
            self._values = json.loads(path.read_text())

    def judgement(
        self, key: str, judge: Callable[[Pixels, Pixels], float], original: Pixels, decoded: Pixels
    ) -> float:
        digest = hashlib.sha256(original.tobytes() + decoded.tobytes()).hexdigest()
        name = f"{key} {digest}"
        if name not in self._values:
            self._values[name] = judge(original, decoded)
        return self._values[name]

    def write(self) -> None:
        if self._path is not None:
            write_json(self._path, self._values, indent=None, overwrite=True)


def _bd_row(name: str, scale: int, points: list[Point], judges: list[str]) -> dict[str, object]:
    row: dict[str, object] = {"photograph": name, "scale": scale}
    for key in judges:
        metric = METRICS[key]
        plain, restored = (
            Curve(
                rates=[point.bits_per_pixel for point in points],
                qualities=[point.judgements[side][key] for point in points],
            )
            for side in SIDES
        )
        found = bd_rate(plain, restored, higher_is_better=metric.higher_is_better)
        row[metric.title] = f"{found.percent:.1f} %"
    return row


def _speeds(model: Restoration, *, quick: bool) -> list[dict[str, object]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for width, height in TIMED_SIZES[:1] if quick else TIMED_SIZES:
        for scale in SCALES:
            base = torch.rand(1, 3, -(-height // scale), -(-width // scale))

            def restore(
                dtype: torch.dtype,
                base: torch.Tensor = base,
                scale: int = scale,
                size: tuple[int, int] = (height, width),
            ) -> None:
                with (
                    torch.inference_mode(),
                    torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
                ):
                    model(base, torch.tensor([20.0]), scale=scale, size=size)

            # Of this thread alone: a busy machine takes time away, but not work.
            sides = {
                "fp32": partial(restore, torch.float32),
                "bf16": partial(restore, torch.bfloat16),
            }
            costs = costs_in_turn(sides, rounds=3 if quick else 4)
            # Without the first round, which warms up.
            medians = {
                name: 1e3 * median_cost(values[1:]).seconds for name, values in costs.items()
            }
            rows.append({"size": f"{width}x{height}", "scale": scale, **medians})
    torch.set_num_threads(threads)
    return rows


def draw_sheet(model: Restoration, photographs: dict[str, Pixels], path: Path) -> None:
    """Middles of the photographs, enlarged twice: the original, then the base and its restoration at two rates."""
    side, points = 160, ((2, 30), (2, 60), (1, 20))
    rows = []
    for image in photographs.values():
        size = (image.shape[0], image.shape[1])
        top, left = ((length - side) // 2 for length in size)
        cells = [image]
        for scale, quality in points:
            base, _ = coded_base(image, scale=scale, quality=quality)
            cells.append(enlarged(base, scale, size))
            cells.append(restored(model, base, scale, quality, size))
        cut = [cell[top : top + side, left : left + side] for cell in cells]
        rows.append(np.concatenate(cut, axis=1))
    sheet = Image.fromarray(np.concatenate(rows))
    twice = sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST)
    write_image(path, twice, overwrite=True, parents=True)


if __name__ == "__main__":
    main()
