# SPDX-License-Identifier: Apache-2.0
"""A fixture of a small workload of the real classes, for the conftest files of several rooms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench._sensitivity.workload import Workload


@pytest.fixture(scope="module")
def workload() -> Workload:
    """A DiT of random weights, 12 steps, 4 classes, batches of 2."""
    diffusers: Any = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=4,
        num_attention_heads=2,
        attention_head_dim=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_embeds_ada_norm=1000,
    ).eval()
    pipeline = diffusers.DiTPipeline(transformer, None, diffusers.DDIMScheduler(clip_sample=False))
    return Workload("tiny", pipeline, num_steps=12, guidance=4.0, classes=range(4), batch_size=2)
