# SPDX-License-Identifier: Apache-2.0
"""Trains diffusers' ``AutoencoderKL``: the latent space of a small diffusion model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from genaccel.data.image_folder import RandomCropDataset
from genaccel.models.registry import replaced_folder
from genaccel.models.st_lpips import StLpips
from genaccel.training.loop import LoopConfig, PathLike, RunPath, TrainingLoop, averaged_weights
from genaccel.training.options import AT_LEAST_0, AT_LEAST_1, SHARE_ABOVE_0, Option, check
from genaccel.training.run_folder import RunFolder

LOOP = LoopConfig(steps=10_000, batch_size=8)

# Latents are encoded to estimate their deviation, by which diffusion models divide.
_SCALING_SAMPLES = 256


def check_widths(channels: tuple[int, ...], image_size: int) -> None:
    """Raise ValueError for widths, or a side of crops in pixels, that diffusers' autoencoders cannot have."""
    stride = 2 ** (len(channels) - 1)
    if image_size < stride or image_size % stride:
        raise ValueError(
            f"image_size must be a multiple of {stride} for {len(channels)} widths, got {image_size}"
        )
    if any(width < 1 or width % 8 for width in channels):
        raise ValueError(f"channels must be multiples of 8, got {channels}")


def blocks_of(channels: tuple[int, ...], layers_per_block: int) -> dict[str, Any]:
    """Arguments of diffusers' autoencoders for convolutions of some widths, without attention."""
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": channels,
        "layers_per_block": layers_per_block,
        "norm_num_groups": 8,
        "mid_block_add_attention": False,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentAutoencoderConfig:
    """The network and its loss, ``MSE + perceptual_weight * ST-LPIPS (alex) + kl_weight * KL``.

    Args:
        image_size: Side of a crop in pixels.
        channels: Widths from full resolution down, halved in between.
        latent_channels: Channels of the latent.
        layers_per_block: Residual blocks of each resolution.
        min_scale: Smallest random downscaling of a picture; the largest is 1.
        perceptual_weight: Weight of ST-LPIPS beside the squared error.
        perceptual_fraction: Share of the crops that ST-LPIPS sees.
        kl_weight: Weight of the divergence from a normal distribution, per latent value.
        decoder_only: Keep the encoder of the start, and with it the latents that a diffusion model may have
            been trained on.
    """

    image_size: Annotated[int, Option(), AT_LEAST_1] = 128
    channels: Annotated[tuple[int, ...], Option()] = (32, 64, 96, 128)
    latent_channels: Annotated[int, AT_LEAST_1] = 4
    layers_per_block: Annotated[int, AT_LEAST_1] = 1
    min_scale: Annotated[float, SHARE_ABOVE_0] = 0.36
    perceptual_weight: Annotated[float, Option(), AT_LEAST_0] = 0.5
    perceptual_fraction: Annotated[float, SHARE_ABOVE_0] = 0.5
    kl_weight: Annotated[float, AT_LEAST_0] = 1e-4
    decoder_only: Annotated[bool, Option()] = False

    def __post_init__(self) -> None:
        check(self)
        check_widths(self.channels, self.image_size)

    def build(self) -> nn.Module:
        """A fresh ``AutoencoderKL``."""
        from diffusers import AutoencoderKL

        model: Any = AutoencoderKL(
            **blocks_of(self.channels, self.layers_per_block),
            latent_channels=self.latent_channels,
            sample_size=self.image_size,
        )
        return model


class LatentAutoencoderTraining(TrainingLoop):
    """One run.

    Args:
        config: The network and its loss.
        loop: How the run proceeds.
        data: Folder of training images.
        run: Run folder; the model is its folder `vae`.
        start: Folder of the AutoencoderKL to begin with, of the same widths; by default weights are random.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If only the decoder is to be trained and there is no ``start``.
    """

    recipe = "latent-autoencoder"
    channels_last = False  # in fp32, so that runs of former versions go on bit for bit

    def __init__(
        self,
        config: LatentAutoencoderConfig,
        loop: LoopConfig = LOOP,
        *,
        data: PathLike,
        run: RunPath,
        start: PathLike | None = None,
        cpu: bool = False,
    ) -> None:
        from diffusers import AutoencoderKL

        if config.decoder_only and start is None:
            raise ValueError("to train the decoder alone, give the autoencoder to start from")
        self.autoencoder_config, self._data = config, data
        torch.manual_seed(loop.seed)
        options = {"autoencoder": asdict(config)}
        model: Any = config.build()
        if start is not None:
            model.load_state_dict(AutoencoderKL.from_pretrained(start).state_dict())
        if config.decoder_only:
            for part in (model.encoder, model.quant_conv):
                part.requires_grad_(False)
        super().__init__(model, loop, run=RunFolder(run), options=options, cpu=cpu)

    def setup(self) -> None:
        """Open the crops and, where it has a weight, load the perceptual distance."""
        config = self.autoencoder_config
        self.dataset = RandomCropDataset(
            self._data, config.image_size, scale=(config.min_scale, 1.0), seed=self.config.seed
        )
        self.perceptual: StLpips | None = None
        if config.perceptual_weight > 0:
            self.perceptual = StLpips.from_pretrained("alex").to(self.accelerator.device)

    def batch(self, numbers: range) -> Tensor:
        """Crops ``[B, 3, S, S]`` in [-1, 1]."""
        return torch.stack([self.dataset[n] for n in numbers]).to(self.accelerator.device)

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error, weighted KL divergence a latent value and perceptual distance of crops in [-1, 1]."""
        config = self.autoencoder_config
        with torch.set_grad_enabled(not config.decoder_only):
            posterior = self.plain_model().encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(batch.device)
        latent = posterior.mean + posterior.std * noise
        restored = self.plain_model().decode(latent).sample
        parts = {
            "mse": torch.nn.functional.mse_loss(restored, batch),
            "kl": posterior.kl().mean() / latent[0].numel(),
        }
        loss = parts["mse"] + config.kl_weight * parts["kl"]
        if self.perceptual is not None:
            count = max(1, round(config.perceptual_fraction * len(batch)))
            parts["perceptual"] = self.perceptual(restored[:count], batch[:count]).mean()
            loss = loss + config.perceptual_weight * parts["perceptual"]
        return loss, parts

    def export(self) -> str:
        """Write the folder ``vae`` of the run."""
        out = self.run.path / "vae"
        with replaced_folder(out) as fresh:
            load_latent_autoencoder(self.run.path, data=self._data).save_pretrained(fresh)
        return f"wrote {out}"


def load_latent_autoencoder(run: PathLike, *, data: PathLike) -> Any:
    """The ``AutoencoderKL`` with the averaged weights of a run, and the scaling factor of its latents.

    Args:
        run: Folder of the run.
        data: Folder of images to measure the latents' deviation on.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    folder = RunFolder(run)
    values = dict(folder.options()["autoencoder"])
    values["channels"] = tuple(values["channels"])
    config = LatentAutoencoderConfig(**values)
    model: Any = averaged_weights(folder, config.build())
    dataset = RandomCropDataset(
        data, config.image_size, scale=(config.min_scale, 1.0), cache_bytes=1 << 30
    )
    with torch.inference_mode():
        latents = [model.encode(dataset[n][None]).latent_dist.mean for n in range(_SCALING_SAMPLES)]
    model.register_to_config(scaling_factor=1 / float(torch.cat(latents).std()))
    return model
