# SPDX-License-Identifier: Apache-2.0
"""Trains a class-conditional diffusion transformer (DiT, arXiv:2212.09748) that diffusers runs as ``DiTPipeline``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiTPipeline
from diffusers import DiTTransformer2DModel as DiT
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from genaccel.data.class_names import class_of, classes_of
from genaccel.data.image_folder import RandomCropDataset
from genaccel.files.atomic import write_atomically
from genaccel.models.registry import record_parts, replaced_folder
from genaccel.training.loop import LoopConfig, TrainingLoop, averaged_weights
from genaccel.training.run_folder import CONFIG_NAME, RunFolder

# ``DiTPipeline`` asks for this label where it wants no class; ImageNet has as many before it.
NO_CLASS = 1000

_TRAIN_TIMESTEPS = 1000
_LATENTS_NAME = "latents.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassDitConfig:
    """The transformer and what it learns from.

    Args:
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        head_dim: Channels of a head.
        patch_size: Latent values along a side of a token.
        class_dropout: Share of the samples without a class, for classifier-free guidance.
        min_class_images: Pictures below which a class is left out.
        num_latents: Crops that are encoded once and trained on.
    """

    num_layers: int = 12
    num_heads: int = 7
    head_dim: int = 32
    patch_size: int = 2
    class_dropout: float = 0.1
    min_class_images: int = 4
    num_latents: int = 8192

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_heads", "head_dim", "patch_size", "num_latents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.class_dropout < 1:
            raise ValueError(f"class_dropout must be in [0, 1), got {self.class_dropout}")

    def build(self, *, latent_size: int, latent_channels: int) -> nn.Module:
        """A fresh ``DiTTransformer2DModel``."""
        model: Any = DiT(
            sample_size=latent_size,
            num_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            attention_head_dim=self.head_dim,
            patch_size=self.patch_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            num_embeds_ada_norm=NO_CLASS,
        )
        return model


@torch.inference_mode()
def encode_latents(
    vae: Any, dataset: RandomCropDataset, names: Sequence[str], count: int
) -> tuple[Tensor, Tensor]:
    """Scaled latents ``[count, C, H, W]`` and labels ``[count]`` of the first crops that have a class."""
    label_of = {name: label for label, name in enumerate(names)}
    latents: list[Tensor] = []
    labels: list[int] = []
    number = 0
    with tqdm(total=count, desc="encoding crops", unit="crop", disable=None) as progress:
        while len(latents) < count:
            label = label_of.get(class_of(dataset.path_of(number)))
            if label is not None:
                crop = dataset[number][None].to(vae.device)
                latents.append(vae.encode(crop).latent_dist.mean[0].cpu())
                labels.append(label)
                progress.update()
            number += 1
    return torch.stack(latents) * vae.config.scaling_factor, torch.tensor(labels)


class ClassDitTraining(TrainingLoop):
    """One run: noise prediction on encoded crops.

    Args:
        config: The transformer.
        loop: How the run proceeds.
        vae: Folder of an ``AutoencoderKL``.
        data: Folder of images whose names say their classes.
        run: Folder of the run.
        image_size: Side of the views in pixels; None for that of the autoencoder's crops, which may
            be smaller, as it treats large images like small ones.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If no class has enough pictures, the size is no multiple of the stride, or the folder holds a run with other options.
    """

    def __init__(
        self,
        config: ClassDitConfig,
        loop: LoopConfig,
        *,
        vae: str | os.PathLike[str],
        data: str | os.PathLike[str],
        run: str | os.PathLike[str],
        image_size: int | None = None,
        cpu: bool = False,
    ) -> None:
        self.dit_config = config
        autoencoder: Any = AutoencoderKL.from_pretrained(vae).eval()
        stride = 2 ** (len(autoencoder.config.block_out_channels) - 1)
        image_size = image_size or int(autoencoder.config.sample_size)
        if image_size % (stride * config.patch_size):
            raise ValueError(
                f"image_size must be a multiple of {stride * config.patch_size}, got {image_size}"
            )
        # The scale is raised to what makes the short side as long as a crop: whole views.
        dataset = RandomCropDataset(data, image_size, scale=(1e-3, 1e-3), seed=loop.seed)
        folder = RunFolder(run)
        # A run that began when another rule named the classes keeps those.
        begun = folder.options() if (folder.path / CONFIG_NAME).is_file() else {}
        self.class_names: list[str] = begun.get("classes") or classes_of(
            dataset.paths, min_images=config.min_class_images
        )
        torch.manual_seed(loop.seed)
        geometry = {
            "latent_size": image_size // stride,
            "latent_channels": int(autoencoder.config.latent_channels),
        }
        super().__init__(
            # Evaluation mode: each block would drop the class by itself, and we drop it for all of them.
            config.build(**geometry).eval(),
            loop,
            run=folder,
            options={"dit": {**asdict(config), **geometry}, "classes": self.class_names},
            cpu=cpu,
        )
        self.scheduler: Any = DDPMScheduler(num_train_timesteps=_TRAIN_TIMESTEPS)
        path = folder.path / _LATENTS_NAME
        if not path.is_file():
            autoencoder.to(self.accelerator.device)
            latents, labels = encode_latents(
                autoencoder, dataset, self.class_names, config.num_latents
            )
            data_file = save({"latents": latents.contiguous(), "labels": labels})
            write_atomically(path, data_file, overwrite=True)
        stored = load_file(path)
        self.latents, self.labels = stored["latents"], stored["labels"]

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        """Latents ``[B, C, H, W]`` and labels ``[B]``."""
        count = len(self.latents)
        epochs = {n // count for n in numbers}
        orders = {
            epoch: torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
            for epoch in epochs
        }
        rows = torch.stack([orders[n // count][n % count] for n in numbers])
        device = self.accelerator.device
        return self.latents[rows].to(device), self.labels[rows].to(device)

    def loss(
        self, batch: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TrainingLoop`."""
        latents, labels = batch
        device = latents.device
        noise = torch.randn(latents.shape, generator=generator).to(device)
        timesteps = torch.randint(_TRAIN_TIMESTEPS, (len(latents),), generator=generator).to(device)
        dropped = torch.rand(len(latents), generator=generator) < self.dit_config.class_dropout
        labels = labels.masked_fill(dropped.to(device), NO_CLASS)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        predicted = self.model(noisy, timestep=timesteps, class_labels=labels).sample
        mse = torch.nn.functional.mse_loss(predicted.float(), noise)
        return mse, {"mse": mse}


def export_pipeline(
    run: str | os.PathLike[str], out: str | os.PathLike[str], *, vae: str | os.PathLike[str]
) -> None:
    """Write the averaged weights of a run and its autoencoder as a ``DiTPipeline``, in fp16.

    Args:
        run: Folder of the run; it may still be running.
        out: Folder of the pipeline.
        vae: Folder of the ``AutoencoderKL`` that it was trained with.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    folder = RunFolder(run)
    options = folder.options()
    values = dict(options["dit"])
    geometry = {key: values.pop(key) for key in ("latent_size", "latent_channels")}
    transformer = averaged_weights(folder, ClassDitConfig(**values).build(**geometry))
    autoencoder: Any = AutoencoderKL.from_pretrained(vae)
    pipeline: Any = DiTPipeline(
        transformer=transformer.half(),
        vae=autoencoder.half(),
        scheduler=DDIMScheduler(num_train_timesteps=_TRAIN_TIMESTEPS, clip_sample=False),
    )
    # Where DiTPipeline looks for them when it is loaded; its own argument is not saved.
    pipeline.register_to_config(id2label={str(i): n for i, n in enumerate(options["classes"])})
    with replaced_folder(out) as fresh:
        pipeline.save_pretrained(fresh)
        record_parts(fresh)
