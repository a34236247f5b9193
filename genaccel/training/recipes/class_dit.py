# SPDX-License-Identifier: Apache-2.0
"""Trains a class-conditional diffusion transformer (DiT, arXiv:2212.09748) that diffusers runs as ``DiTPipeline``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from genaccel.data.image_folder import RandomCropDataset
from genaccel.files.atomic import write_atomically
from genaccel.models.registry import record_parts, replaced_folder
from genaccel.training.loop import LoopConfig, PathLike, RunPath, TrainingLoop, averaged_weights
from genaccel.training.options import AT_LEAST_1, SHARE_BELOW_1, Option, check
from genaccel.training.run_folder import CONFIG_NAME, RunFolder

LOOP = LoopConfig(steps=20_000, batch_size=32, learning_rate=5e-4)

# ``DiTPipeline`` asks for this label where it wants no class; ImageNet has as many before it.
NO_CLASS = 1000

_TRAIN_TIMESTEPS = 1000
_LATENTS_NAME = "latents.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassDitConfig:
    """The transformer and what it learns from.

    Args:
        num_layers: Transformer blocks.
        num_heads: Attention heads, of 32 channels each unless told otherwise.
        head_dim: Channels of a head.
        patch_size: Latent values along a side of a token.
        class_dropout: Share of the samples without a class, for classifier-free guidance.
        min_class_images: Pictures below which a class is left out.
        num_latents: Crops that are encoded once and trained on.
    """

    num_layers: Annotated[int, Option(name="layers"), AT_LEAST_1] = 12
    num_heads: Annotated[int, Option(name="heads"), AT_LEAST_1] = 7
    head_dim: Annotated[int, AT_LEAST_1] = 32
    patch_size: Annotated[int, AT_LEAST_1] = 2
    class_dropout: Annotated[float, SHARE_BELOW_1] = 0.1
    min_class_images: Annotated[int, AT_LEAST_1] = 4
    num_latents: Annotated[int, Option(name="latents"), AT_LEAST_1] = 8192

    def __post_init__(self) -> None:
        check(self)

    def build(self, *, latent_size: int, latent_channels: int) -> nn.Module:
        """A fresh ``DiTTransformer2DModel``."""
        from diffusers import DiTTransformer2DModel

        model: Any = DiTTransformer2DModel(
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
            label = label_of.get(dataset.class_of(number))
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
        vae: Folder of the autoencoder, from `genaccel train vae`.
        data: Folder of images named by their class: beach3.jpg.
        run: Run folder; the pipeline is its folder `pipeline`.
        image_size: Side of the views in pixels; by default that of the autoencoder's crops, which may
            be smaller, as it treats large images like small ones.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If no class has enough pictures, the size is no multiple of the stride, or the folder holds a run with other options.
    """

    recipe = "class-dit"
    channels_last = False  # in fp32, so that runs of former versions go on bit for bit

    def __init__(
        self,
        config: ClassDitConfig,
        loop: LoopConfig = LOOP,
        *,
        vae: PathLike,
        data: PathLike,
        run: RunPath,
        image_size: int | None = None,
        cpu: bool = False,
    ) -> None:
        from diffusers import AutoencoderKL

        self.dit_config, self._vae = config, vae
        self._autoencoder: Any = AutoencoderKL.from_pretrained(vae).eval()
        stride = 2 ** (len(self._autoencoder.config.block_out_channels) - 1)
        image_size = image_size or int(self._autoencoder.config.sample_size)
        if image_size % (stride * config.patch_size):
            raise ValueError(
                f"image_size must be a multiple of {stride * config.patch_size}, got {image_size}"
            )
        # The scale is raised to what makes the short side as long as a crop: whole views.
        self.dataset = RandomCropDataset(data, image_size, scale=(1e-3, 1e-3), seed=loop.seed)
        folder = RunFolder(run)
        # A run that began when another rule named the classes keeps those.
        begun = folder.options() if (folder.path / CONFIG_NAME).is_file() else {}
        self.class_names: list[str] = begun.get("classes") or self.dataset.class_names(
            min_images=config.min_class_images
        )
        torch.manual_seed(loop.seed)
        geometry = {
            "latent_size": image_size // stride,
            "latent_channels": int(self._autoencoder.config.latent_channels),
        }
        side = geometry["latent_size"]
        self._latent_shape = (geometry["latent_channels"], side, side)
        super().__init__(
            # Evaluation mode: each block would drop the class by itself, and we drop it for all of them.
            config.build(**geometry).eval(),
            loop,
            run=RunFolder(run),
            options={"dit": {**asdict(config), **geometry}, "classes": self.class_names},
            cpu=cpu,
        )

    def setup(self) -> None:
        """Encode crops, unless that is done."""
        from diffusers import DDPMScheduler

        self.scheduler: Any = DDPMScheduler(num_train_timesteps=_TRAIN_TIMESTEPS)
        path = self.run.path / _LATENTS_NAME
        if not path.is_file():
            self._autoencoder.to(self.accelerator.device)
            latents, labels = encode_latents(
                self._autoencoder, self.dataset, self.class_names, self.dit_config.num_latents
            )
            encoded = save({"latents": latents.contiguous(), "labels": labels})
            write_atomically(path, encoded, overwrite=True)
        del self._autoencoder
        try:
            stored = load_file(path)
            self.latents, self.labels = stored["latents"], stored["labels"]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it to make it anew") from error
        if (
            self.latents.shape[1:] != self._latent_shape
            or self.labels.shape != self.latents.shape[:1]
        ):
            raise ValueError(f"{path} holds latents of another run; remove it to make it anew")

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
        """Squared error of the predicted noise, at random timesteps, some of the classes left out."""
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

    def export(self) -> str:
        """Write the folder ``pipeline`` of the run."""
        out = self.run.path / "pipeline"
        export_pipeline(self.run.path, out, vae=self._vae)
        return f"wrote {out}"


def export_pipeline(run: PathLike, out: PathLike, *, vae: PathLike) -> None:
    """Write the averaged weights of a run and its autoencoder as a ``DiTPipeline``, in fp16.

    Args:
        run: Folder of the run; it may still be running.
        out: Folder of the pipeline.
        vae: Folder of the ``AutoencoderKL`` that it was trained with.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline

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
