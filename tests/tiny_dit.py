# SPDX-License-Identifier: Apache-2.0
"""Fixtures of a small ``DiTPipeline`` of the real classes, for the conftest files of several rooms."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch


def _build(folder: Any = None, layers: int = 4, scheduler: Any = None, size: int = 8) -> Any:
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=size,
        num_layers=layers,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_embeds_ada_norm=1000,
    ).eval()
    # Gates that begin as zeros would hide the blocks.
    for parameter in transformer.parameters():
        parameter.data.normal_(0, 0.05)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=size
    )
    scheduler = scheduler or diffusers.DDIMScheduler(clip_sample=False)
    pipeline = diffusers.DiTPipeline(transformer, vae, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    if folder is not None:
        pipeline.save_pretrained(folder)
    return pipeline


@pytest.fixture
def build_pipeline() -> Callable[..., Any]:
    """Makes small ``DiTPipeline``s of always the same weights; saves them if given a folder."""
    return _build


@pytest.fixture
def pipeline(monkeypatch: Any, tmp_path: Any) -> Any:
    """One of them, with plans kept in the test's own folder."""
    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path / "cache"))
    return _build()


def _sample(pipeline: Any, steps: int = 8, seed: int = 0, **arguments: Any) -> torch.Tensor:
    images = pipeline(
        class_labels=[1],
        num_inference_steps=steps,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
        **arguments,
    ).images
    return torch.from_numpy(images)


@pytest.fixture
def sample() -> Callable[..., torch.Tensor]:
    """Runs a pipeline from always the same noise."""
    return _sample


@pytest.fixture
def calls() -> list[dict[str, Any]]:
    """Two short generations."""
    shared = {"num_inference_steps": 8, "guidance_scale": 2.0}
    return [{**shared, "class_labels": [label], "seed": label} for label in (1, 2)]
