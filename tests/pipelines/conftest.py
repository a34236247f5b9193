# SPDX-License-Identifier: Apache-2.0
"""Toy pipelines of the real classes: random weights, no text encoders, prompts as embeddings."""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DDIMScheduler,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)

# Enough blocks for the rest of such a small model to matter little: a plan of 2x is then within reach.
LAYERS = 6
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
TEXT = (6, 16)


@dataclass(frozen=True)
class Tiny:
    """A pipeline in small.

    Args:
        stock: Name of the diffusers class.
        file: Stem of the ready pipeline's file, before ``_sensitivity``.
        components: Makes its components, with weights from the global generator.
        arguments: Makes the arguments of a call, likewise.
        guided: What turns classifier-free guidance on.
        unguided: What turns it off.
        guided_calls: Calls of the transformer in a step with guidance; one if it is in the batch.
    """

    stock: str
    file: str
    components: Callable[[], dict[str, Any]]
    arguments: Callable[[], dict[str, Any]]
    guided: dict[str, Any]
    unguided: dict[str, Any]
    guided_calls: int = 1

    @property
    def stock_class(self) -> Any:
        return getattr(diffusers, self.stock)

    @property
    def sensitivity_name(self) -> str:
        return self.stock.removesuffix("Pipeline") + "SensitivityPipeline"

    def build(self, pipeline_class: Any = None, seed: int = 0) -> Any:
        """The pipeline; with one seed its weights are always the same."""
        torch.manual_seed(seed)
        components = self.components()
        for name, module in components.items():
            if isinstance(module, torch.nn.Module):
                # As loaded ones are; DiT drops class labels while it trains.
                module.eval()
            if name.startswith("transformer") and module is not None:
                # Many weights begin as zeros, and a model of zeros cannot be wrong.
                for parameter in module.parameters():
                    parameter.data.normal_(0, 0.05)
        return quiet((pipeline_class or self.stock_class)(**components))

    def load(self, folder: Any, **others: Any) -> Any:
        """The pipeline of a folder; diffusers wants to be told which components are missing."""
        missing = {name: None for name, module in self.components().items() if module is None}
        return quiet(diffusers.DiffusionPipeline.from_pretrained(folder, **missing, **others))

    def call(self, *, guidance: bool = True, **others: Any) -> dict[str, Any]:
        """Arguments of a call, always the same."""
        torch.manual_seed(1)
        return {
            **self.arguments(),
            **(self.guided if guidance else self.unguided),
            "num_inference_steps": 8,
            "generator": torch.Generator().manual_seed(0),
            **others,
        }


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image_vae(channels: int, **others: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=8,
        **others,
    )


def dit() -> dict[str, Any]:
    return {
        "transformer": DiTTransformer2DModel(
            **HEADS, sample_size=8, num_layers=LAYERS, out_channels=4, num_embeds_ada_norm=1000
        ),
        "vae": image_vae(4),
        "scheduler": DDIMScheduler(clip_sample=False),
    }


def pixart_sigma() -> dict[str, Any]:
    return {
        "transformer": PixArtTransformer2DModel(
            **HEADS,
            sample_size=8,
            num_layers=LAYERS,
            cross_attention_dim=32,
            caption_channels=TEXT[1],
            out_channels=8,
        ),
        "vae": image_vae(4),
        "scheduler": DPMSolverMultistepScheduler(),
        "tokenizer": None,
        "text_encoder": None,
    }


def stable_diffusion_3() -> dict[str, Any]:
    numbers = ("", "_2", "_3")
    return {
        "transformer": SD3Transformer2DModel(
            **HEADS,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=LAYERS,
            caption_projection_dim=32,
            joint_attention_dim=TEXT[1],
            pooled_projection_dim=8,
        ),
        "vae": image_vae(4, shift_factor=0.06),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        **{f"{kind}{n}": None for kind in ("text_encoder", "tokenizer") for n in numbers},
    }


def flux() -> dict[str, Any]:
    return {
        "transformer": FluxTransformer2DModel(
            **HEADS,
            in_channels=16,
            num_layers=LAYERS // 2,
            num_single_layers=LAYERS,
            joint_attention_dim=TEXT[1],
            pooled_projection_dim=8,
            axes_dims_rope=(4, 6, 6),
        ),
        "vae": image_vae(4, shift_factor=0.06),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        **{f"{kind}{n}": None for kind in ("text_encoder", "tokenizer") for n in ("", "_2")},
    }


def wan_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        **HEADS,
        patch_size=(1, 2, 2),
        in_channels=4,
        out_channels=4,
        text_dim=TEXT[1],
        freq_dim=16,
        ffn_dim=64,
        num_layers=LAYERS,
        rope_max_seq_len=32,
    )


def wan() -> dict[str, Any]:
    return {
        "transformer": wan_transformer(),
        "vae": AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
            scale_factor_temporal=2,
            scale_factor_spatial=2,
        ),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        "tokenizer": None,
        "text_encoder": None,
    }


def qwen_image() -> dict[str, Any]:
    return {
        "transformer": QwenImageTransformer2DModel(
            **HEADS,
            in_channels=16,
            out_channels=4,
            num_layers=LAYERS,
            joint_attention_dim=TEXT[1],
            axes_dims_rope=(4, 6, 6),
        ),
        "vae": AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "tokenizer": None,
        "text_encoder": None,
    }


def text(*names: str, pooled: bool = False, mask: str | None = None) -> dict[str, Any]:
    """A prompt and its negative as embeddings."""
    given: dict[str, Any] = {}
    for prefix in ("", "negative_"):
        given[f"{prefix}prompt_embeds"] = torch.randn(1, *TEXT)
        if pooled:
            given[f"{prefix}pooled_prompt_embeds"] = torch.randn(1, 8)
        if mask is not None:
            given[f"{prefix}{mask}"] = torch.ones(1, TEXT[0], dtype=torch.long)
    return given


SIZE = {"height": 8, "width": 8}

TINY = (
    Tiny(
        "DiTPipeline",
        "dit",
        dit,
        lambda: {"class_labels": [1, 2], "output_type": "np"},
        guided={"guidance_scale": 2.0},
        unguided={"guidance_scale": 1.0},
    ),
    Tiny(
        "PixArtSigmaPipeline",
        "pixart_sigma",
        pixart_sigma,
        lambda: {
            **text(mask="prompt_attention_mask"),
            **SIZE,
            "negative_prompt": None,
            "use_resolution_binning": False,
            "output_type": "np",
        },
        guided={"guidance_scale": 4.5},
        unguided={"guidance_scale": 1.0},
    ),
    Tiny(
        "StableDiffusion3Pipeline",
        "stable_diffusion_3",
        stable_diffusion_3,
        lambda: {**text(pooled=True), **SIZE, "output_type": "np"},
        guided={"guidance_scale": 5.0},
        unguided={"guidance_scale": 1.0},
    ),
    Tiny(
        "FluxPipeline",
        "flux",
        flux,
        lambda: {**text(pooled=True), "height": 16, "width": 16, "output_type": "np"},
        guided={"true_cfg_scale": 2.0},
        unguided={"true_cfg_scale": 1.0},
        guided_calls=2,
    ),
    Tiny(
        "WanPipeline",
        "wan",
        wan,
        lambda: {**text(), "height": 16, "width": 16, "num_frames": 5, "output_type": "np"},
        guided={"guidance_scale": 5.0},
        unguided={"guidance_scale": 1.0},
        guided_calls=2,
    ),
    Tiny(
        "QwenImagePipeline",
        "qwen_image",
        qwen_image,
        lambda: {
            **text(mask="prompt_embeds_mask"),
            "height": 16,
            "width": 16,
            "output_type": "np",
        },
        guided={"true_cfg_scale": 4.0},
        unguided={"true_cfg_scale": 1.0},
        guided_calls=2,
    ),
)


@pytest.fixture(params=TINY, ids=[tiny.file for tiny in TINY])
def tiny(request):
    """Each ready pipeline's model in small."""
    return request.param


@pytest.fixture
def all_tiny():
    """All of them."""
    return TINY


@pytest.fixture
def tiny_dit():
    """The smallest of them."""
    return TINY[0]


@pytest.fixture
def tiny_wan_of_two():
    """Wan 2.2: one transformer for the first steps, another for the rest."""

    def components():
        return {**wan(), "transformer_2": wan_transformer(), "boundary_ratio": 0.8}

    return dataclasses.replace(TINY[4], components=components)


@pytest.fixture(autouse=True)
def _nothing_in_the_home(tmp_path, monkeypatch):
    """Plans, and the copies that diffusers makes of custom code, go to the test's folder."""
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    # diffusers fills a module of the same file name, rather than to replace it.
    for name in [name for name in sys.modules if name.startswith("diffusers_modules")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def pixels():
    """The generated tensor of any pipeline's output."""

    def first(output):
        return torch.as_tensor(output[0])

    return first
