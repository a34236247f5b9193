# SPDX-License-Identifier: Apache-2.0
"""Small pipelines of diffusers' own classes, with random weights, and runs of them on latents."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

STEPS = 10
FLUX = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 3,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": [4, 4, 8],
}
SD3 = {
    "sample_size": 8,
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 6,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "caption_projection_dim": 32,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 64,
    "out_channels": 4,
    "pos_embed_max_size": 16,
}
WAN = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 256,
    "num_layers": 8,
    "rope_max_seq_len": 32,
}


def filled(module, seed, scale=0.15):
    """A module of random weights: gates that begin as zeros would hide the blocks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def missing(*numbers):
    """Text encoders and tokenizers that a pipeline does without."""
    return {f"{kind}{n}": None for kind in ("text_encoder", "tokenizer") for n in numbers}


def image_vae(channels):
    return filled(
        AutoencoderKL(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=channels, shift_factor=0.0
        ),
        2,
    )


def flux_transformer(seed=1, **changes):
    return filled(FluxTransformer2DModel(**{**FLUX, **changes}), seed)


def flux_controlnet(seed=3):
    return filled(FluxControlNetModel(**FLUX), seed)


def flux(pipeline_class=FluxPipeline, transformer=None, scheduler=None, **components):
    """A Flux pipeline of any kind."""
    return quiet(
        pipeline_class(
            scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
            vae=image_vae(1),
            transformer=transformer or flux_transformer(),
            **missing("", "_2"),
            **components,
        )
    )


def run_flux(pipe, *, seed=0, prompt=5, steps=STEPS, size=16, **arguments):
    """Latents of a run; always from the same noise and prompt, unless told otherwise."""
    text = torch.Generator().manual_seed(prompt)
    return pipe(
        prompt_embeds=torch.randn(1, 6, 32, generator=text),
        pooled_prompt_embeds=torch.randn(1, 32, generator=text),
        num_inference_steps=steps,
        height=size,
        width=size,
        guidance_scale=1.0,
        output_type="latent",
        generator=torch.Generator().manual_seed(seed),
        **arguments,
    ).images


def flux_inputs(seed=0, tokens=64):
    """Arguments of one call of the transformer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(1, tokens, 4, generator=generator),
        "encoder_hidden_states": torch.randn(1, 6, 32, generator=generator),
        "pooled_projections": torch.randn(1, 32, generator=generator),
        "timestep": torch.full((1,), 0.5),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(6, 3),
        "return_dict": False,
    }


def control_image(seed=9, size=16):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def sd3(pipeline_class=StableDiffusion3Pipeline, **components):
    """A Stable Diffusion 3 pipeline of any kind."""
    return quiet(
        pipeline_class(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=image_vae(4),
            transformer=filled(SD3Transformer2DModel(**SD3), 1),
            **missing("", "_2", "_3"),
            **components,
        )
    )


def sd3_controlnet():
    config = {k: v for k, v in SD3.items() if k != "out_channels"}
    return filled(SD3ControlNetModel(**{**config, "num_layers": 3}), 3)


def run_sd3(pipe, *, seed=0, steps=STEPS, **arguments):
    """Latents of a guided run."""
    torch.manual_seed(seed)  # ControlNet's pipeline draws from the global generator
    text = torch.Generator().manual_seed(5)
    embeddings = {}
    for prefix in ("", "negative_"):
        embeddings[f"{prefix}prompt_embeds"] = torch.randn(1, 8, 32, generator=text)
        embeddings[f"{prefix}pooled_prompt_embeds"] = torch.randn(1, 64, generator=text)
    return pipe(
        **embeddings,
        height=8,
        width=8,
        num_inference_steps=steps,
        output_type="latent",
        generator=torch.Generator().manual_seed(seed),
        **arguments,
    ).images


def wan_transformer(seed=1, **changes):
    return filled(WanTransformer3DModel(**{**WAN, **changes}), seed)


def wan_vae():
    return AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def wan(pipeline_class=WanPipeline, **components):
    """A Wan pipeline; with ``transformer_2`` and ``boundary_ratio`` that of Wan 2.2."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    return quiet(
        pipeline_class(
            **missing(""),
            vae=wan_vae(),
            scheduler=scheduler,
            **{"transformer": wan_transformer(), **components},
        )
    )


def run_wan(pipe, *, seed=0, steps=STEPS, guidance=1.0, **arguments):
    """Latents of a video."""
    text = torch.Generator().manual_seed(5)
    return pipe(
        prompt_embeds=torch.randn(1, 8, 32, generator=text),
        negative_prompt_embeds=torch.randn(1, 8, 32, generator=text),
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
        generator=torch.Generator().manual_seed(seed),
        **{"height": 16, "width": 16, **arguments},
    ).frames


def problems(caplog):
    """What genaccel warned of, but for the promise that runs behind a measured one are faster."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("genaccel")
        and record.levelname == "WARNING"
        and "the next ones are faster" not in record.getMessage()
    ]


def report(handle, name="transformer"):
    return handle.report()[name]


def is_fast(handle, name="transformer"):
    """Whether the last run forecast anything."""
    found = report(handle, name)
    return found.flops < found.plain_flops


class Stopped(Exception):
    """Raised by a callback."""


def stop_at(step):
    """A callback that ends a run by an exception."""

    def callback(pipe, index, timestep, values):
        if index == step:
            raise Stopped
        return values

    return callback


def interrupt_at(step):
    """A callback that ends a run as a user interface does."""

    def callback(pipe, index, timestep, values):
        if index == step:
            pipe._interrupt = True
        return values

    return callback


def traces(module):
    """What of ours is in a module. An empty registry of hooks is diffusers' own."""
    found = []
    for name, part in module.named_modules():
        own = vars(part)
        registry = own.get("_diffusers_hook")
        found += [f"{name}: {key}" for key in own if "genaccel" in key]
        found += [f"{name}: {key}" for key in ("forward", "__deepcopy__") if key in own]
        found += [] if registry is None else [f"{name}: hook {hook}" for hook in registry.hooks]
    return found


def same(first, second):
    """Whether two lists of tensors are equal bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def the_only(sentences):
    """The one sentence that was said; an error if there were none or more."""
    (sentence,) = sentences
    return sentence
