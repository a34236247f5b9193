# SPDX-License-Identifier: Apache-2.0
"""Speed against quality, of plans and of the plain pipeline with fewer steps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def pareto_plot(rows: Sequence[dict[str, Any]], steps: int) -> bytes:
    """A PNG file: PSNR over measured speed-up, and ST-LPIPS if every plan has it.

    Args:
        rows: As ``genaccel tune`` writes them into ``pareto.json``.
        steps: Of the full run.
    """
    panels = [("psnr", "PSNR to the full run (dB)")]
    if rows and all(_both(row, "st_lpips") for row in rows):
        panels.append(("st_lpips", "ST-LPIPS (vgg) to the full run"))
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (key, title) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        ordered = sorted(rows, key=lambda row: float(row["speedup"]))
        x = [row["speedup"] for row in ordered]
        axes.plot(x, [row[key] for row in ordered], "o-", label="plans")
        axes.plot(
            x,
            [row["fewer_steps"][key] for row in ordered],
            "s--",
            label=f"fewer than {steps} steps, same time",
        )
        for row in ordered:
            axes.annotate(
                f"{row['flop_ratio']:.2g}x FLOPs",
                (row["speedup"], row[key]),
                textcoords="offset points",
                xytext=(4, 5),
                fontsize=7,
            )
        axes.set_xlabel("measured speed-up of the pipeline call")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()


def _both(row: dict[str, Any], key: str) -> bool:
    return row[key] is not None and row["fewer_steps"][key] is not None
