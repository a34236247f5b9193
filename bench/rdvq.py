# SPDX-License-Identifier: Apache-2.0
"""Rate and distortion of genaccel's image codecs beside JPEG, WebP, AVIF and JPEG XL, on photographs that no model saw.

    python bench/rdvq.py [--quick] [--json FILE] [--model [FAMILY=]FOLDER,...] [--refine STEPS] [--keep FOLDER]

Bits are those of whole files. The classical formats end at 0.08 to 0.17 bits per pixel at this size of picture; so each
of them also codes the picture at half its width and height, enlarged by Lanczos after decoding, in rows that say so, and
so do our models. An anchor, in comparisons, is the better of the two at each rate, and genaccel the best of its models,
sizes and weights of the rate (RDO). Refined points are a codec of their own: refinement minimises ST-LPIPS itself, so
SSIMULACRA 2, PSNR and MS-SSIM, which it does not look at but for the squared error, tell whether pictures are better.

Speed is measured beside CompressAI's bmshj2018-hyperprior, whose weights are random, since only time is asked for, and
AVIF; the sides take turns. With ``--keep``, finished points stay in a folder and an interrupted run goes on from there.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench._codec.rdvq_codecs import (
    ANCHORS,
    HALF,
    REFINED,
    STATIC,
    WITH_RDO,
    anchor_points,
    classical_codec,
    models_of,
    our_points,
)
from bench._codec.rdvq_curves import (
    anchor_front,
    comparisons,
    curve_of,
    pareto_front,
    plot,
    quality_at,
    rate_at,
)
from bench.harness import Bench
from genaccel.codec.image_codec import ImageCodec
from genaccel.eval._rate.curves import codec_records
from genaccel.eval._rate.operating_points import Codec, OperatingPoint
from genaccel.eval._rate.sweep import Originals, PointResult, sweep
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.metrics import Metric
from genaccel.eval.rate_distortion import load_metrics
from genaccel.sampling.costs import peak_memory_of_call
from genaccel.sampling.turns import seconds_in_turn

METRICS = ("st-lpips", "ssimulacra2", "psnr", "ms-ssim")
# MS-SSIM's five scales need 161 pixels a side.
QUICK_SIDE = 224
SIZES = ((768, 512), (1920, 1080))  # width, height
# Files of about 0.17 bits per pixel, near our model's.
SPEED_AVIF_QUALITY = 20
HYPERPRIOR = "bmshj2018-hyperprior"


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "rdvq",
        __doc__.splitlines()[0],
        {
            "model": (str, "", "", "more models, commas between: FOLDER or FAMILY=FOLDER"),
            "photographs": (int, 7, 1, "held-out photographs to use"),
            "refine": (int, 40, 0, "steps of refinement; 0 leaves it out, as a quick run does"),
            "keep": (Path, None, None, "folder to keep finished points in"),
        },
    )
    ours = our_points(
        [text for text in bench.options["model"].split(",") if text],
        refine=bench.options["refine"],
        quick=bench.quick,
    )
    points = [*ours, *anchor_points(quick=bench.quick)]
    photographs = _photographs(bench.options["photographs"], quick=bench.quick)
    with tempfile.TemporaryDirectory() as folder:
        keep = bench.options["keep"] or Path(folder)
        results, metrics = measure(points, photographs, keep)
    codecs = {
        record["codec"]: record["points"]
        for record in codec_records(results, metrics, list(photographs))
    }
    bench.rows = [
        {
            "codec": title,
            "setting": point["setting"],
            "bits_per_pixel": point["bits_per_pixel"],
            **{metric.title: point["metrics"][metric.key] for metric in metrics},
            "encode_ms": 1e3 * point["encode_seconds"],
            "decode_ms": 1e3 * point["decode_seconds"],
        }
        for title, points_of in codecs.items()
        for point in points_of
    ]
    titles = list(dict.fromkeys(p.codec for p in ours if not p.codec.endswith((STATIC, HALF))))
    compared = comparisons(codecs, titles, metrics[:3])
    bench.tables["against the better of full and half size of each anchor"] = compared
    speeds = measure_speed(ours, quick=bench.quick)
    bench.tables[f"speed, {torch.get_num_threads()} threads"] = speeds
    _add_bars(bench, codecs, titles, compared, speeds, metrics[0])
    packages = ["pillow", "pillow-jxl-plugin", "compressai", "ssimulacra2", "stlpips-pytorch"]
    bench.finish(packages)
    if bench.json_path is not None:
        plot(codecs, titles, metrics, bench.json_path.with_suffix(".png"))


def _photographs(count: int, *, quick: bool) -> dict[str, NDArray[np.uint8]]:
    found = held_out_photographs()
    if quick:  # their middles
        for name, image in found.items():
            top, left = ((side - QUICK_SIDE) // 2 for side in image.shape[:2])
            found[name] = image[top : top + QUICK_SIDE, left : left + QUICK_SIDE].copy()
    return {name: found[name] for name in list(found)[:count]}


def measure(
    points: Sequence[OperatingPoint], photographs: dict[str, NDArray[np.uint8]], keep: Path
) -> tuple[list[PointResult], list[Metric]]:
    """Every point on every photograph.

    One photograph after the other, since ST-LPIPS keeps the features of its last original.
    """
    metrics = load_metrics(METRICS)
    merged: list[PointResult] = []
    for name, image in photographs.items():
        for point in points[:1]:
            point.load()(name, image)  # the first call allocates
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        originals = Originals(read={name: partial(np.copy, image)}, digest=digest)
        found = sweep(points, originals, metrics, keep / name, strict=True)
        if not merged:
            merged = found
        for whole, part in zip(merged, found, strict=True):
            whole.images.update(part.images)
    return merged, [paired.metric for paired in metrics]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A codec whose speed is measured."""

    name: str
    codec: Codec


def _speed_sides(ours: Sequence[OperatingPoint], *, quick: bool) -> list[Side]:
    names = models_of(ours)[-1:] if quick else models_of(ours)  # those of the zoo are of one shape
    sides = [Side(name=name, codec=ImageCodec.from_pretrained(name)) for name in names]
    try:
        from genaccel.eval._rate.compressai_models import CompressAiCodec, require_architecture

        require_architecture(HYPERPRIOR)
        import compressai.zoo

        torch.manual_seed(0)
        model = compressai.zoo.image_models[HYPERPRIOR](1, pretrained=False).eval()
        model.update(force=True)
        title = f"{HYPERPRIOR} q1, random weights"
        sides.append(Side(name=title, codec=CompressAiCodec(model)))
    except ImportError as error:
        print(f"{HYPERPRIOR} is left out: {error}")
    avif = classical_codec("AVIF", SPEED_AVIF_QUALITY)
    return [*sides, Side(name=f"AVIF quality {SPEED_AVIF_QUALITY}", codec=avif)]


def measure_speed(ours: Sequence[OperatingPoint], *, quick: bool) -> list[dict[str, Any]]:
    """Rows of a size and a codec: medians, and how far memory rises in the first call."""
    sides = _speed_sides(ours, quick=quick)
    photograph = held_out_photographs()["motorcycle"]
    rows = []
    for width, height in SIZES[:1] if quick else SIZES:
        # Mirrored until it fills the size: the sharpness of a photograph, which enlarging would take.
        missing = [
            (0, max(have_to - have, 0))
            for have_to, have in zip((height, width), photograph.shape[:2], strict=True)
        ]
        image = np.pad(photograph, [*missing, (0, 0)], "reflect")[:height, :width].copy()
        repeats = 2 if quick else 5
        files, peaks = {}, {}
        for side in sides:
            encode_peak, files[side.name] = peak_memory_of_call(
                partial(side.codec.encode, image), torch.device("cpu")
            )
            decode_peak, _ = peak_memory_of_call(
                partial(side.codec.decode, files[side.name]), torch.device("cpu")
            )
            peaks[side.name] = encode_peak, decode_peak
        encode = seconds_in_turn({s.name: partial(s.codec.encode, image) for s in sides}, repeats)
        decode = seconds_in_turn(
            {s.name: partial(s.codec.decode, files[s.name]) for s in sides}, repeats
        )
        rows += [
            {
                "size": f"{width}x{height}",
                "codec": side.name,
                "bits_per_pixel": 8 * len(files[side.name]) / (width * height),
                "encode_ms": 1e3 * encode[side.name],
                "decode_ms": 1e3 * decode[side.name],
                **{
                    f"{what}_peak_MB": None if peak is None else peak / 1e6
                    for what, peak in zip(("encode", "decode"), peaks[side.name], strict=True)
                },
            }
            for side in sides
        ]
    return rows


def _add_bars(
    bench: Bench,
    codecs: dict[str, Any],
    ours: Sequence[str],
    compared: Sequence[dict[str, Any]],
    speeds: Sequence[dict[str, Any]],
    st_lpips: Metric,
) -> None:
    avif = quality_at(anchor_front(codecs, "AVIF", st_lpips), 0.20)
    for name, refined in (("", True), ("_without_refinement", False)):
        small = [
            quality
            for title in ours
            if refined or not title.endswith(REFINED)
            for curve in [curve_of(codecs[title], st_lpips)]
            for rate, quality in zip(curve.rates, curve.qualities, strict=True)
            if rate <= 0.10
        ]
        ratio = min(small) / avif if small and avif is not None else None
        bench.bar(f"st_lpips_at_0.10bpp_vs_avif_0.20{name}", ratio, 1.0, higher_is_better=False)
        rates = [
            row["bd_rate"]
            for row in compared
            if (row["anchor"], row["metric"]) == ("AVIF", st_lpips.title)
            and row["bd_rate"] is not None
            and (refined or not row["codec"].endswith(REFINED))
        ]
        lowest = min(rates) if rates else None
        bench.bar(f"bd_rate_st_lpips_avif{name}", lowest, -0.30, higher_is_better=False)
    # What is left if ours has no half sizes, and AVIF keeps its own.
    full = {t: p for t, p in codecs.items() if t in ours or t.split(",")[0] in ANCHORS}
    rates = [
        row["bd_rate"]
        for row in comparisons(full, ours, [st_lpips])
        if row["anchor"] == "AVIF" and row["bd_rate"] is not None
    ]
    lowest = min(rates) if rates else None
    bench.bar("bd_rate_st_lpips_avif_full_size", lowest, -0.30, higher_is_better=False)
    _add_entropy_bars(bench, codecs, st_lpips)
    slowest = max(
        row["decode_ms"]
        for row in speeds
        if row["size"] == "768x512" and not row["codec"].startswith((HYPERPRIOR, "AVIF"))
    )
    bench.bar("decode_ms_768x512", slowest, 1000.0, higher_is_better=False)


def _add_entropy_bars(bench: Bench, codecs: dict[str, Any], st_lpips: Metric) -> None:
    """Add bars of the rate that the zoo's entropy models save at equal indices, and RDO and refinement at equal ST-LPIPS."""
    plain, static = codecs["genaccel"], codecs.get("genaccel" + STATIC, [])
    by_model = {point["setting"]: point["bits_per_pixel"] for point in plain}
    ratios = [
        by_model[point["setting"].removesuffix(STATIC)] / point["bits_per_pixel"]
        for point in static
    ]
    worst = max(ratios) if ratios else None
    bench.bar("rate_entropy_model_vs_static", worst, 0.80, higher_is_better=False)
    for name, title in (("rdo", WITH_RDO), ("refined", REFINED)):
        saved = None
        if "genaccel" + title in codecs:
            # Of each plain point that lies on the front with weights: the rate there over its own.
            curve = pareto_front(codecs["genaccel" + title], st_lpips)
            at_equal = [
                rate / point["bits_per_pixel"]
                for point in plain
                if (rate := rate_at(curve, point["metrics"][st_lpips.key])) is not None
            ]
            saved = float(np.mean(at_equal)) - 1 if at_equal else None
        bench.bar(f"{name}_rate_at_equal_st_lpips", saved, -0.05, higher_is_better=False)


if __name__ == "__main__":
    main()
