# SPDX-License-Identifier: Apache-2.0
"""From the results of a sweep to curves: means over images, BD-rates, and where the pictures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from genaccel.eval._pairs.summary import summarise
from genaccel.eval._rate.sweep import PointResult
from genaccel.eval.bjontegaard_delta import Curve, bd_rate
from genaccel.eval.metrics import Metric


def common_images(results: Sequence[PointResult]) -> tuple[list[str], dict[str, str]]:
    """Names of the images that every point has, and the reason for each of the others.

    Raises:
        ValueError: If there are no results, or every image failed somewhere.
    """
    if not results:
        raise ValueError("results must hold at least one point, got none")
    skipped: dict[str, str] = {}
    for result in results:
        for name, reason in result.failures.items():
            skipped.setdefault(name, f"{result.title}: {reason}")
    names = [name for name in results[0].images if name not in skipped]
    if not names:
        name, reason = next(iter(skipped.items()))
        raise ValueError(f"no image was coded and judged at every point; {name}: {reason}")
    return names, skipped


def codec_records(
    results: Sequence[PointResult], metrics: Sequence[Metric], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Codecs in the order of their first points, each with its points by rate.

    The mean of a metric is that of its finite values, so that one image decoded without loss takes no point off a
    chart; ``num_infinite`` counts the others.

    Args:
        results: From :func:`genaccel.eval._rate.sweep.sweep`.
        metrics: What was measured.
        names: Images to take means over.
    """
    codecs: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        codecs.setdefault(result.codec, []).append(_point_record(result, metrics, names))
    return [
        {"codec": codec, "points": sorted(points, key=lambda point: point["bits_per_pixel"])}
        for codec, points in codecs.items()
    ]


def _point_record(
    result: PointResult, metrics: Sequence[Metric], names: Sequence[str]
) -> dict[str, Any]:
    images = {name: result.images[name] for name in names}

    def mid(times: Sequence[float | None]) -> float | None:
        known = [time for time in times if time is not None]
        return median(known) if known else None

    summaries = {
        metric.key: summarise([image.metrics[metric.key] for image in images.values()])
        for metric in metrics
    }
    return {
        "setting": result.setting,
        "bits_per_pixel": fmean(image.bits_per_pixel for image in images.values()),
        "num_bytes": sum(image.num_bytes for image in images.values()),
        "encode_seconds": mid([image.encode_seconds for image in images.values()]),
        "decode_seconds": mid([image.decode_seconds for image in images.values()]),
        "metrics": {
            key: summary.mean if summary.mean_of_finite is None else summary.mean_of_finite
            for key, summary in summaries.items()
        },
        "num_infinite": {
            key: summary.num_infinite for key, summary in summaries.items() if summary.num_infinite
        },
        "standard_deviations": {
            key: summary.standard_deviation for key, summary in summaries.items()
        },
        "images": {
            name: {
                "bits_per_pixel": image.bits_per_pixel,
                "num_bytes": image.num_bytes,
                **image.metrics,
            }
            for name, image in images.items()
        },
    }


def bd_rates(
    codecs: Sequence[Mapping[str, Any]],
    metrics: Sequence[Metric],
    *,
    anchor: str,
    min_overlap: float = 0.5,
) -> list[dict[str, Any]]:
    """BD-rate of each codec against one of them, in each metric, or why there is none.

    Args:
        codecs: From :func:`codec_records`.
        metrics: What was measured.
        anchor: Title of the codec that counts as 100 %.
        min_overlap: As for :func:`genaccel.eval.bjontegaard_delta.bd_rate`.
    """

    def curve(codec: Mapping[str, Any], metric: Metric) -> Curve:
        return Curve(
            rates=[point["bits_per_pixel"] for point in codec["points"]],
            qualities=[point["metrics"][metric.key] for point in codec["points"]],
        )

    base = next(codec for codec in codecs if codec["codec"] == anchor)
    rows = []
    for codec in codecs:
        for metric in metrics if codec is not base else ():
            row: dict[str, Any] = {
                "codec": codec["codec"],
                "anchor": anchor,
                "metric": metric.key,
                "percent": None,
                "interval": None,
                "overlap_anchor": None,
                "overlap_test": None,
                "reason": "",
            }
            try:
                _refuse_infinite([base, codec], metric)
                result = bd_rate(
                    curve(base, metric),
                    curve(codec, metric),
                    higher_is_better=metric.higher_is_better,
                    min_overlap=min_overlap,
                )
            except (ValueError, ImportError) as error:
                row["reason"] = str(error)
            else:
                row |= {
                    "percent": result.percent,
                    "interval": list(result.interval),
                    "overlap_anchor": result.overlap_anchor,
                    "overlap_test": result.overlap_test,
                }
            rows.append(row)
    return rows


def _refuse_infinite(codecs: Sequence[Mapping[str, Any]], metric: Metric) -> None:
    """Raise ValueError where a mean leaves images out: a rate between such qualities means nothing."""
    for codec in codecs:
        for point in codec["points"]:
            count = point["num_infinite"].get(metric.key, 0)
            if count:
                images = "image" if count == 1 else "images"
                raise ValueError(
                    f"{metric.title} of {codec['codec']} at {point['setting']} is infinite for {count} {images}"
                )


def picture_records(results: Sequence[PointResult], names: Sequence[str]) -> list[dict[str, Any]]:
    """Images of which pictures were kept, each with its versions.

    Args:
        results: From :func:`genaccel.eval._rate.sweep.sweep`.
        names: Images to list.
    """
    return [
        {
            "name": name,
            "original": f"pictures/{name}/original.png",
            "versions": [
                {
                    "label": f"{result.codec}, {result.setting}",
                    "codec": result.codec,
                    "setting": result.setting,
                    "file": result.images[name].picture,
                    "bits_per_pixel": result.images[name].bits_per_pixel,
                    "num_bytes": result.images[name].num_bytes,
                    "metrics": result.images[name].metrics,
                }
                for result in results
            ],
        }
        for name in names
        if all(result.images[name].picture for result in results)
    ]
