# SPDX-License-Identifier: Apache-2.0
"""Rate-distortion curves of ``bench/rdvq.py``: comparisons of codecs with anchors, and the plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench._codec.rdvq_codecs import ANCHORS, HALF, REFINED, WITH_RDO
from genaccel.eval.bjontegaard_delta import MIN_POINTS, Curve, bd_rate
from genaccel.eval.metrics import Metric
from genaccel.files.atomic import atomic_stream

Codecs = Mapping[str, Sequence[Mapping[str, Any]]]  # title -> points by rate


def curve_of(points: Sequence[Mapping[str, Any]], metric: Metric) -> Curve:
    """Rates and qualities of points."""
    return Curve(
        rates=[point["bits_per_pixel"] for point in points],
        qualities=[point["metrics"][metric.key] for point in points],
    )


def pareto_front(points: Sequence[Mapping[str, Any]], metric: Metric) -> Curve:
    """The points, by rate, of which none is as good at no more bits.

    Nobody would choose the others, and a BD-rate needs a curve that rises.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    front: list[Mapping[str, Any]] = []
    for point in sorted(
        points, key=lambda p: (p["bits_per_pixel"], -sign * p["metrics"][metric.key])
    ):
        value = point["metrics"][metric.key]
        if not front or sign * value > sign * front[-1]["metrics"][metric.key]:
            front.append(point)
    return curve_of(front, metric)


def anchor_front(codecs: Codecs, anchor: str, metric: Metric) -> Curve:
    """The best that a format does at each rate, at full or at half size."""
    return pareto_front([*codecs.get(anchor, ()), *codecs.get(anchor + HALF, ())], metric)


def our_front(codecs: Codecs, title: str, metric: Metric) -> Curve:
    """The best that models of ours do at each rate, at full or at half size.

    With or without rate-distortion optimised quantisation; for a title that ends so, with refinement too.
    """
    base = title.removesuffix(REFINED)
    titles = dict.fromkeys((base, base + WITH_RDO, base + HALF, title, title + HALF))
    return pareto_front([point for t in titles for point in codecs.get(t, ())], metric)


def quality_at(curve: Curve, rate: float) -> float | None:
    """Quality at a rate, linear in its logarithm between the points; None outside of them."""
    if not curve.rates or not min(curve.rates) <= rate <= max(curve.rates):
        return None
    order = np.argsort(curve.rates)
    logs = np.log(np.asarray(curve.rates)[order])
    return float(np.interp(np.log(rate), logs, np.asarray(curve.qualities)[order]))


def rate_at(front: Curve, quality: float) -> float | None:
    """Rate at a quality of a front, its logarithm linear between the points; None outside of them."""
    if not front.rates or not min(front.qualities) <= quality <= max(front.qualities):
        return None
    order = np.argsort(front.qualities)
    logs = np.log(np.asarray(front.rates)[order])
    return float(np.exp(np.interp(quality, np.asarray(front.qualities)[order], logs)))


def comparisons(
    codecs: Codecs, ours: Sequence[str], metrics: Sequence[Metric]
) -> list[dict[str, Any]]:
    """Rows of each of our codecs against each anchor in each metric.

    A codec whose front, over its points with and without RDO, has four points or more has a BD-rate, or a note why
    it has none; its refined points make another front with all of those. Of a codec with fewer points without RDO, each has the ratio of its rate to the anchor's at equal
    quality.
    """
    rows = []
    for title in ours:
        base = title.removesuffix(WITH_RDO)
        if base != title and base in ours:
            continue  # its points are on the front of the other
        for anchor in ANCHORS:
            if anchor not in codecs:
                continue
            for metric in metrics:
                front = anchor_front(codecs, anchor, metric)
                best = our_front(codecs, title, metric)
                few = len(codecs[title]) < MIN_POINTS and not title.endswith(REFINED)
                compared = []
                if len(best.rates) >= MIN_POINTS or not few:
                    compared.append((best, _bd_rate(front, best, metric)))
                if few:
                    alone = [curve_of([point], metric) for point in codecs[title]]
                    compared += [(test, _ratio(front, test)) for test in alone]
                for test, found in compared:
                    rates = " to ".join(
                        f"{rate:.3f}" for rate in test.rates[:: max(len(test.rates) - 1, 1)]
                    )
                    rows.append(
                        {
                            "codec": title,
                            "anchor": anchor,
                            "metric": metric.title,
                            "bits_per_pixel": rates,
                            **found,
                        }
                    )
    return rows


def _bd_rate(front: Curve, test: Curve, metric: Metric) -> dict[str, Any]:
    empty = {"bd_rate": None, "rate_ratio_at_equal_quality": None}
    try:
        result = bd_rate(front, test, higher_is_better=metric.higher_is_better)
    except ValueError as error:
        return {**empty, "note": str(error)}
    note = f"over {result.overlap_anchor:.0%} of the anchor, {result.overlap_test:.0%} of the codec"
    return {**empty, "bd_rate": result.percent / 100, "note": note}


def _ratio(front: Curve, test: Curve) -> dict[str, Any]:
    rate = rate_at(front, test.qualities[0])
    note = ""
    if rate is None:
        low, high = min(front.qualities), max(front.qualities)
        note = f"{test.qualities[0]:.4g} is outside of the anchor's {low:.4g} to {high:.4g}"
    ratio = None if rate is None else test.rates[0] / rate
    return {"bd_rate": None, "rate_ratio_at_equal_quality": ratio, "note": note}


def plot(codecs: Codecs, ours: Sequence[str], metrics: Sequence[Metric], path: Path) -> None:
    """One panel a metric: quality over bits per pixel; half size is dashed, or hollow.

    Those of ``ours`` are stars and no lines, since they are of several models. Codecs that are neither anchors nor of
    ``ours`` are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8), sharex=True, layout="constrained")
    colours = {title: f"C{i}" for i, title in enumerate((*ANCHORS, *ours))}
    for panel, metric in zip(axes.flat, metrics, strict=False):
        for title, points in codecs.items():
            if title.removesuffix(HALF) not in colours:
                continue
            curve = curve_of(points, metric)
            is_half, is_ours = title.endswith(HALF), title.removesuffix(HALF) in ours
            panel.plot(
                curve.rates,
                curve.qualities,
                label=title,
                color=colours[title.removesuffix(HALF)],
                linestyle="none" if is_ours else "--" if is_half else "-",
                marker="*" if is_ours else ".",
                markersize=9 if is_ours else 5,
                fillstyle="none" if is_ours and is_half else "full",
            )
        arrow = "higher is better" if metric.higher_is_better else "lower is better"
        panel.set_title(f"{metric.title} {metric.unit} ({arrow})".replace("  ", " "))
        panel.set_xscale("log")
        panel.set_xticks([0.03, 0.05, 0.1, 0.2, 0.3])
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    for panel in axes[-1]:
        panel.set_xlabel("bits per pixel, whole file")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    with atomic_stream(path, overwrite=True, parents=True) as stream:
        figure.savefig(stream, format="png", dpi=110)
    pyplot.close(figure)
