# SPDX-License-Identifier: Apache-2.0
"""Rate-distortion curves of codecs, their BD-rates, and decoded pictures to look at.

Rates are sizes of real files. All means are over the same images: one that any codec cannot code, or any
metric cannot judge, is left out of all of them, and named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from genaccel.errors import UnknownModelError
from genaccel.eval._pairs.pair_metrics import PairedMetric, load_paired_metric
from genaccel.eval._rate.curves import bd_rates, codec_records, common_images, picture_records
from genaccel.eval._rate.operating_points import OperatingPoint, parse_codec
from genaccel.eval._rate.sweep import finish, load_originals, sweep
from genaccel.eval.commands import (
    AsJson,
    Convert,
    Device,
    Label,
    Strict,
    check_output,
    exit_if_skipped,
    usage_errors,
    verbatim_console,
)
from genaccel.eval.metrics import METRICS, PAIRED_METRICS
from genaccel.eval.results import record, to_json
from genaccel.files.atomic import refuse_existing, write_atomically

RUN_FILE = "run.json"


def load_metrics(names: Sequence[str], *, device: str = "cpu") -> list[PairedMetric]:
    """Metrics by their names on the command line.

    Raises:
        ValueError: If there is no such metric.
    """
    for name in names:  # before loading the networks of the others
        if name not in PAIRED_METRICS:
            raise ValueError(f"metric must be one of {', '.join(PAIRED_METRICS)}, got {name!r}")
    return [
        load_paired_metric(name, **({"device": device} if METRICS[name].weights else {}))
        for name in names
    ]


def rate_distortion(
    points: Sequence[OperatingPoint],
    originals: str,
    metrics: Sequence[PairedMetric],
    out: Path,
    *,
    anchor: str | None = None,
    min_overlap: float = 0.5,
    num_pictures: int = 0,
    overwrite: bool = False,
    strict: bool = False,
    convert: bool = False,
    label: str = "",
    device: str = "cpu",
) -> dict[str, Any]:
    """Run a sweep, and write its record to ``out/run.json`` and its pictures below ``out/pictures``.

    Args:
        points: From :func:`genaccel.eval._rate.operating_points.parse_codec`.
        originals: Folder of images, or ``held-out``.
        metrics: From :func:`load_metrics`.
        out: Folder to write; an interrupted sweep into it goes on where it stopped.
        anchor: Title of the codec that BD-rates are against, in any case; by default that of the first
            point.
        min_overlap: As for :func:`genaccel.eval.bjontegaard_delta.bd_rate`.
        num_pictures: Images of which pictures are kept.
        overwrite: Replace a record that is there already.
        strict: Raise for the first image that fails.
        convert: As for :func:`genaccel.eval.images.load_image`.
        label: The user's name for the run.
        device: Where the networks run; for the record.

    Returns:
        The record.

    Raises:
        ValueError: If an argument is wrong, or no image is left.
        OSError: If a file cannot be read or written, or there is a record already.
    """
    if not points:
        raise ValueError("give at least one codec")
    titles = list(dict.fromkeys(point.codec for point in points))
    wanted = titles[0] if anchor is None else anchor
    base = next((title for title in titles if title.lower() == wanted.lower()), None)
    if base is None:
        raise ValueError(f"anchor must be one of {', '.join(titles)}, got {wanted!r}")
    if not 0.0 <= min_overlap <= 1.0:
        raise ValueError(f"min_overlap must be within 0 to 1, got {min_overlap}")
    if not overwrite:
        refuse_existing(out / RUN_FILE)  # before the work, not after
    images = load_originals(originals, convert=convert)
    results = sweep(points, images, metrics, out, num_pictures=num_pictures, strict=strict)
    names, skipped = common_images(results)
    meanings = [paired.metric for paired in metrics]
    codecs = codec_records(results, meanings, names)
    for codec in codecs:
        for point in codec["points"]:
            point["pooled"] = _pooled(point["images"].values(), metrics)
    content = record(
        "rate_distortion",
        label=label,
        settings={
            "originals": originals,
            "num_images": len(names),
            "originals_sha256": images.digest,
            "anchor": base,
            "min_overlap": min_overlap,
            "convert": convert,
            "device": device,
            "threads": torch.get_num_threads(),
            "metrics": {paired.metric.key: dict(paired.settings) for paired in metrics},
        },
        packages=sorted(
            {name for point in points for name in point.packages}
            | {name for paired in metrics for name in paired.packages}
        ),
        metrics={metric.key: metric.to_dict() for metric in meanings},
        codecs=codecs,
        bd_rates=bd_rates(codecs, meanings, anchor=base, min_overlap=min_overlap),
        pictures=picture_records(results, names),
        skipped=skipped,
    )
    write_atomically(out / RUN_FILE, to_json(content).encode() + b"\n", overwrite=overwrite)
    finish(out)
    return content


def _pooled(
    images: Collection[Mapping[str, float]], metrics: Sequence[PairedMetric]
) -> dict[str, float]:
    """The further numbers of each metric from all images of a point."""
    return {
        name: function([image[paired.metric.key] for image in images])
        for paired in metrics
        for name, function in paired.pooled.items()
    }


def main(
    originals: Annotated[str, typer.Argument(help="Folder of images, or the word held-out.")],
    codec: Annotated[
        list[str],
        typer.Option(
            help="jpeg:5,10,20, webp:.., avif:.., genaccel[:MODEL,..], "
            "compressai:ARCH:QUALITY,..[:CHECKPOINT], folder:TITLE:SETTING=DECODED:FILES; repeat it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write run.json and the pictures to.")],
    metrics: Annotated[
        str, typer.Option(help=f"With commas between: {', '.join(PAIRED_METRICS)}.")
    ] = "psnr,ms-ssim,st-lpips",
    anchor: Annotated[
        str | None, typer.Option(help="Codec that BD-rates are against; else the first.")
    ] = None,
    min_overlap: Annotated[
        float, typer.Option(help="Share of each curve that a BD-rate must rest on; 0 forces it.")
    ] = 0.5,
    pictures: Annotated[int, typer.Option(min=0, help="Images of which pictures are kept.")] = 3,
    device: Device = "cpu",
    convert: Convert = False,
    strict: Strict = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run.")] = False,
    label: Label = "",
    as_json: AsJson = False,
) -> None:
    """Rate-distortion points and BD-rates of codecs, from real files, with pictures."""
    with usage_errors(UnknownModelError):
        # Before networks and images are read.
        check_output(out / RUN_FILE, overwrite=force, parents=True)
        points = [p for text in codec for p in parse_codec(text, device=device, convert=convert)]
        content = rate_distortion(
            points,
            originals,
            load_metrics([name.strip() for name in metrics.split(",")], device=device),
            out,
            anchor=anchor,
            min_overlap=min_overlap,
            num_pictures=pictures,
            overwrite=force,
            strict=strict,
            convert=convert,
            label=label,
            device=device,
        )
    if as_json:
        print(to_json(content))
    else:
        _print_tables(content)
        print(f"wrote {out / RUN_FILE}")
    exit_if_skipped(content["skipped"], " images")


def _significant(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _mean_of(point: Mapping[str, Any], key: str) -> str:
    """A mean, with a plus where infinite values are left out of it."""
    return _significant(point["metrics"][key]) + "+" * (key in point["num_infinite"])


def _print_tables(content: Mapping[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    console = verbatim_console()
    metrics = content["metrics"]
    # Headings of several lines and no rules between the columns: three metrics fit into 80 columns.
    points = Table(
        box=box.SIMPLE_HEAD,
        title=f"means of {content['settings']['num_images']} images",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    points.add_column("codec", no_wrap=True, min_width=8)
    # What does not fit is folded here, and never cut off from a number.
    points.add_column("setting", overflow="fold", min_width=10)
    titles = [f"{m['title']} {m['unit']}".strip().replace(" ", "\n") for m in metrics.values()]
    # Times are in run.json too; a narrow terminal has no place for them beside four metrics.
    with_times = len(metrics) <= 3 or console.width >= 100
    for title in ("bits/\npixel", *titles, *(("encode\nms", "decode\nms") if with_times else ())):
        width = max(len(line) for line in title.splitlines())
        points.add_column(title, justify="right", no_wrap=True, min_width=width)
    for codec in content["codecs"]:
        for i, point in enumerate(codec["points"]):
            times = [point["encode_seconds"], point["decode_seconds"]] if with_times else []
            points.add_row(
                "" if i else codec["codec"],
                point["setting"],
                f"{point['bits_per_pixel']:.4f}",
                *(_mean_of(point, key) for key in metrics),
                *("-" if time is None else f"{1000 * time:.0f}" for time in times),
            )
        points.add_section()
    console.print(points)
    if any(point["num_infinite"] for codec in content["codecs"] for point in codec["points"]):
        console.print("+ some images are equal to their originals; the mean is that of the others")
    if not content["bd_rates"]:
        return
    anchor = content["settings"]["anchor"]
    rates = Table(box=box.SIMPLE_HEAD, title=f"BD-rate against {anchor}")
    for title in ("codec", "metric", "BD-rate", "over"):
        rates.add_column(title, justify="right" if title == "BD-rate" else "left")
    for row in content["bd_rates"]:
        title = metrics[row["metric"]]["title"]
        if row["percent"] is None:
            rates.add_row(row["codec"], title, "-", row["reason"])
            continue
        low, high = row["interval"]
        shares = (
            f"{row['overlap_anchor']:.0%} of {anchor}, {row['overlap_test']:.0%} of {row['codec']}"
        )
        rates.add_row(
            row["codec"], title, f"{row['percent']:+.1f} %", f"{low:.4g} to {high:.4g}: {shares}"
        )
    console.print(rates)


if __name__ == "__main__":
    typer.run(main)
