# SPDX-License-Identifier: Apache-2.0
"""Learning rates over a run."""

from __future__ import annotations

import math


def warmup_cosine(
    step: int, *, steps: int, peak: float, warmup_steps: int, final_ratio: float
) -> float:
    """Linear warm-up, then a half cosine from the peak to a share of it.

    Args:
        step: Number of finished steps.
        steps: Length of the run.
        peak: Highest learning rate.
        warmup_steps: Steps of the warm-up.
        final_ratio: Last learning rate over the peak.

    Example:
        >>> warmup_cosine(100, steps=100, peak=1.0, warmup_steps=10, final_ratio=0.1)
        0.1
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * (final_ratio + (1 - final_ratio) * cosine)
