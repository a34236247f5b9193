# SPDX-License-Identifier: Apache-2.0
"""Pipelines of true sizes with random weights, for ``bench/gpu_end_to_end.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench._sensitivity.workload import Samples, Workload
from genaccel.sampling.calls import generators
from genaccel.sampling.methods import Attached

Mode = str
# How a model runs: as it is, compiled, and compiled with CUDA graphs.
MODES: Mapping[Mode, Mapping[str, Any] | None] = {
    "eager": None,
    "compiled": {"dynamic": False},
    "graphs": {"dynamic": False, "mode": "reduce-overhead"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model and how it is called.

    Attributes:
        name: For the table.
        pipeline: diffusers class.
        transformer: diffusers class.
        config: Of the transformer.
        scheduler: diffusers class.
        num_steps: Of a run.
        arguments: Of the call, for some samples on a device in a dtype; without noise and steps.
        components: Of the pipeline, besides transformer, scheduler and decoder.
        scheduler_config: Of the scheduler.
        note: For the table.
    """

    name: str
    pipeline: str
    transformer: str
    config: Mapping[str, Any]
    scheduler: str
    num_steps: int
    arguments: Callable[[int, torch.device, torch.dtype], dict[str, Any]]
    components: tuple[str, ...] = ()
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def build(self, device: torch.device, dtype: torch.dtype) -> Any:
        """The pipeline, without text encoders and decoder."""
        import diffusers

        torch.manual_seed(0)
        with torch.device(device):
            transformer = getattr(diffusers, self.transformer)(**self.config)
        transformer = transformer.eval().to(device, dtype)
        with torch.no_grad():
            for parameter in transformer.parameters():
                # Zeros would make residuals vanish, and caches that look at them skip all.
                if not parameter.any():
                    parameter.normal_(0, 0.02)
        scheduler = getattr(diffusers, self.scheduler)(**self.scheduler_config)
        return getattr(diffusers, self.pipeline)(
            transformer=transformer,
            scheduler=scheduler,
            vae=None,
            **dict.fromkeys(self.components),
        )


class PipelineWorkload(Workload):
    """Any subject where ``bench/soda.py`` has DiT; its search and its peers take one for the other.

    Args:
        subject: What is run.
        pipeline: Of :meth:`Subject.build`.
        batch_size: Samples in a call.
        num_steps: Instead of the subject's.
    """

    def __init__(
        self, subject: Subject, pipeline: Any, *, batch_size: int, num_steps: int | None = None
    ) -> None:
        super().__init__(
            subject.name,
            pipeline,
            num_steps=num_steps or subject.num_steps,
            guidance=1.0,
            classes=range(1),
            batch_size=batch_size,
        )
        self.subject = subject

    def sample(
        self, attached: Attached, samples: Samples, *, num_steps: int | None = None
    ) -> Tensor:
        """Run a pipeline, without its decoder."""
        pipeline = attached.pipeline
        transformer = pipeline.transformer
        arguments = self.subject.arguments(
            len(samples.seeds), transformer.device, transformer.dtype
        )
        with attached.around():
            output = pipeline(
                **arguments,
                generator=generators(samples.seeds),
                # A method's own number goes first: ours has a plan for that many.
                num_inference_steps=attached.num_steps or num_steps or self.num_steps,
            )
        if arguments.get("output_type") == "latent":
            # Where the search looks for them.
            pipeline.vae.latents = output[0]
        caught: Tensor = pipeline.vae.latents
        return caught


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Of DiT-XL/2, which PixArt has too.
_XL_2 = {
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 8,
}


def _latents(sample_size: int) -> dict[str, Any]:
    return {"height": 8 * sample_size, "width": 8 * sample_size, "output_type": "latent"}


def dit(name: str, sample_size: int, **others: Any) -> Subject:
    """DiT-XL/2, unless ``others`` of its configuration say otherwise."""
    config = {**_XL_2, "num_embeds_ada_norm": 1000, "sample_size": sample_size, **others}
    return Subject(
        name=name,
        pipeline="DiTPipeline",
        transformer="DiTTransformer2DModel",
        config=config,
        scheduler="DDIMScheduler",
        scheduler_config={"clip_sample": False},
        num_steps=50,
        arguments=lambda count, device, dtype: {
            "class_labels": [207 % config["num_embeds_ada_norm"]] * count,
            "guidance_scale": 4.0,
            "output_type": "pt",
        },
        note="guidance in the batch",
    )


def pixart_sigma(name: str, sample_size: int, **others: Any) -> Subject:
    """PixArt-Sigma, 600 M parameters, 300 tokens of text."""
    config = {
        **_XL_2,
        "cross_attention_dim": 1152,
        "caption_channels": 4096,
        "sample_size": sample_size,
        "interpolation_scale": max(1, sample_size // 64),
        "use_additional_conditions": False,
        **others,
    }

    def arguments(count: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        text = _randn(1, 2 * count, 300, config["caption_channels"]).to(device, dtype)
        mask = torch.ones(count, 300, device=device, dtype=torch.long)
        return {
            "prompt_embeds": text[:count],
            "negative_prompt_embeds": text[count:],
            "prompt_attention_mask": mask,
            "negative_prompt_attention_mask": mask,
            "negative_prompt": None,
            "guidance_scale": 4.5,
            "use_resolution_binning": False,
            **_latents(sample_size),
        }

    return Subject(
        name=name,
        pipeline="PixArtSigmaPipeline",
        transformer="PixArtTransformer2DModel",
        config=config,
        scheduler="DPMSolverMultistepScheduler",
        num_steps=20,
        arguments=arguments,
        components=("tokenizer", "text_encoder"),
        note="guidance in the batch",
    )


def flux(name: str, sample_size: int, **others: Any) -> Subject:
    """FLUX.1-dev in width, with a quarter of its blocks, 512 tokens of text."""
    config = {
        "num_layers": 5,
        "num_single_layers": 10,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
        **others,
    }

    def arguments(count: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        pooled = _randn(2, count, config["pooled_projection_dim"])
        return {
            "prompt_embeds": _randn(1, count, 512, config["joint_attention_dim"]).to(device, dtype),
            "pooled_prompt_embeds": pooled.to(device, dtype),
            "guidance_scale": 3.5,
            **_latents(sample_size),
        }

    blocks = config["num_layers"] + config["num_single_layers"]
    return Subject(
        name=name,
        pipeline="FluxPipeline",
        transformer="FluxTransformer2DModel",
        config=config,
        scheduler="FlowMatchEulerDiscreteScheduler",
        scheduler_config={"use_dynamic_shifting": True},
        num_steps=28,
        arguments=arguments,
        components=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        note=f"{blocks} of 57 blocks",
    )


SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "dit-xl-2-256": lambda: dit("dit-xl-2-256", 32),
    "dit-xl-2-512": lambda: dit("dit-xl-2-512", 64),
    "pixart-sigma-1024": lambda: pixart_sigma("pixart-sigma-1024", 128),
    "flux-1024": lambda: flux("flux-1024", 128),
}
