# SPDX-License-Identifier: Apache-2.0
"""``genaccel eval``: the commands of :mod:`genaccel.eval`, each in the module of its metric."""

from __future__ import annotations

import typer

from genaccel.cli.lazy_group import Subcommand, lazy_group


def _row(name: str, help: str) -> Subcommand:
    return Subcommand(name, f"genaccel.eval.{name.replace('-', '_')}", help, attribute="main")


SUBCOMMANDS = (
    _row("psnr", "Pairs of images: peak signal-to-noise ratio."),
    _row("ssim", "Pairs: structural similarity."),
    _row("ms-ssim", "Pairs: multi-scale structural similarity."),
    _row("lpips", "Pairs: LPIPS with AlexNet, VGG or SqueezeNet."),
    _row("dists", "Pairs: DISTS, structure and texture."),
    _row("st-lpips", "Pairs: ST-LPIPS, which tolerates shifts; works offline."),
    _row("ssimulacra2", "Pairs: SSIMULACRA 2."),
    _row("warping-error", "Videos: temporal warping error."),
    _row("fid", "Sets of images: Frechet Inception distance."),
    _row("fd-mobilenet-v2", "Sets: Frechet distance of MobileNetV2 features; works offline."),
    _row("kid", "Sets: kernel Inception distance."),
    _row("precision-recall", "Sets: precision, recall, density and coverage."),
    _row("rate", "Compressed files: bits per pixel."),
    _row("rate-distortion", "Codecs: rate-distortion points, BD-rates and pictures."),
    _row("speed", "Functions: time, FLOPs and memory, side by side."),
    _row("report", "Results: one HTML page."),
)

app = typer.Typer(
    cls=lazy_group(SUBCOMMANDS), help="Measure image quality, rate and speed.", no_args_is_help=True
)


@app.callback()
def eval_command() -> None:
    """Measure image quality, rate and speed. Each command also runs as python -m genaccel.eval.NAME."""
