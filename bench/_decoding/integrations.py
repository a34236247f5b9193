# SPDX-License-Identifier: Apache-2.0
"""Generators of diffusers and transformers, accelerated by one line: what they draw, and in how many forwards.

The classes are the real ones, at tiny size with random weights, so that forwards are no measure of a real model's.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import GlmImagePipeline
from torch import Tensor

import genaccel
from genaccel.skip_decoding import SkipDecodingConfig
from tests.pipelines.tiny_glm_image import tiny_glm_image
from tests.skip_decoding.tiny_generators import (
    EMU3_CALL,
    EMU3_PROMPTS,
    JANUS_CALL,
    JANUS_PROMPTS,
    tiny_emu3,
    tiny_janus,
)


def integration_rows() -> list[dict[str, Any]]:
    """Greedy tokens of Emu3 and Janus with guidance, beside those of their own ``generate``; and GLM-Image's pictures."""
    return [
        _generated("Emu3ForConditionalGeneration", tiny_emu3(), EMU3_PROMPTS, EMU3_CALL),
        _generated("JanusForConditionalGeneration", tiny_janus(), JANUS_PROMPTS, JANUS_CALL),
        _glm_image(),
    ]


def _generated(name: str, model: Any, prompts: Tensor, call: dict[str, Any]) -> dict[str, Any]:
    plain = model.generate(prompts, **call)
    with genaccel.enable(model, SkipDecodingConfig(row_length=5)) as handle:
        found = model.generate(prompts, **call)
        report = handle.report()["model"].decoding
    differing = int((found != plain).sum()) if found.shape == plain.shape else plain.numel()
    return _row(name, "tokens of its own generate, prompts too", plain.numel(), differing, report)


def _glm_image() -> dict[str, Any]:
    """Its pipeline samples with torch's generator, which no drafter can follow: the other side draws one by one."""
    pipe = tiny_glm_image(GlmImagePipeline)
    pipe.vision_language_encoder.double()
    pictures = []
    for drafter in (None, "auto"):
        with genaccel.enable(pipe, SkipDecodingConfig(drafter=drafter, seed=3)) as handle:
            pictures.append(
                pipe(
                    prompt=["a red cat", "a dog"],
                    height=64,
                    width=64,
                    num_inference_steps=1,
                    generator=torch.Generator().manual_seed(3),
                    output_type="pt",
                ).images
            )
            report = handle.report()["vision_language_encoder"].decoding
    differing = int((pictures[0] != pictures[1]).sum())
    title = "pixels of drawing one by one"
    return _row("GlmImagePipeline", title, pictures[0].numel(), differing, report)


def _row(name: str, beside: str, compared: int, differing: int, report: Any) -> dict[str, Any]:
    sequences = 2
    return {
        "model": name,
        "beside": beside,
        "compared": compared,
        # Where decoding was plain there is no report, and nothing was shown.
        "differing": compared if report is None else differing,
        "tokens_of_each": None if report is None else report.generated_tokens // sequences,
        "forwards": None if report is None else report.target_forwards,
    }
