# SPDX-License-Identifier: Apache-2.0
"""Peak signal-to-noise ratio of 8-bit RGB images."""

from __future__ import annotations

import typer

from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval.metrics import METRICS
from genaccel.sampling.distances import psnr

__all__ = ["main", "psnr"]


@paired_command
def main() -> PairedMetric:
    """PSNR in dB between two folders of images, matched by file stem."""
    return PairedMetric(metric=METRICS["psnr"].metric, function=psnr)


if __name__ == "__main__":
    typer.run(main)
