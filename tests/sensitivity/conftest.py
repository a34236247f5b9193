# SPDX-License-Identifier: Apache-2.0
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genaccel.sensitivity.plans.fingerprint import Fingerprint
from genaccel.sensitivity.plans.plan import Plan

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_dit import build_pipeline, calls, pipeline, sample

__all__ = ["build_pipeline", "calls", "make_plan", "pipeline", "sample"]


def _make_plan(steps: int = 12, **changes: Any) -> Plan:
    step = np.arange(steps)
    mask = np.stack([step % 3 == 0, (step % 4 == 0) | (step == steps - 1)], axis=1)
    owners = (0, 0, 1, 1)
    computed = np.repeat(mask[:, list(owners), None], 2, axis=2)
    random = np.random.default_rng(0)
    values: dict[str, Any] = {
        "fingerprint": Fingerprint(
            model_class="DiTTransformer2DModel",
            model_config_digest="1" * 32,
            scheduler_class="DDIMScheduler",
            scheduler_config_digest="2" * 32,
            num_inference_steps=steps,
            height=256,
            width=256,
        ),
        "compute_mask": mask,
        "forecasters": ("reuse", "taylor1", "affine"),
        "forecaster_index": np.where(mask, -1, step[:, None] * 3 // steps).astype(np.int8),
        "token_counts": np.where(computed, 64, 16).astype(np.int32),
        "segment_of_layer": owners,
        "affine_slope": random.normal(1, 0.1, (steps, 3, 2, 2)).astype(np.float32),
        "affine_intercept": random.normal(0, 0.1, (steps, 3, 2, 2)).astype(np.float32),
        "expected_error": 1.25,
        "flop_fraction": 0.4,
    }
    return Plan(**{**values, **changes})


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """Plans of two segments of two layers.

    The first segment computes every third step, the second every fourth and the last.
    """
    return _make_plan
