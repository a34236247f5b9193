# SPDX-License-Identifier: Apache-2.0
"""Trains diffusers' ``VQModel``: pictures as a grid of tokens of one codebook (VQGAN, arXiv:2012.09841)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from genaccel.data.digit_images import DigitImages, open_training_images
from genaccel.data.image_folder import RandomCropDataset
from genaccel.models.registry import replaced_folder
from genaccel.models.st_lpips import StLpips
from genaccel.training.loop import LoopConfig, PathLike, RunPath, TrainingLoop, averaged_weights
from genaccel.training.options import AT_LEAST_0, AT_LEAST_1, SHARE_ABOVE_0, Option, Within, check
from genaccel.training.recipes.latent_autoencoder import blocks_of, check_widths
from genaccel.training.run_folder import RunFolder

LOOP = LoopConfig(steps=10_000, batch_size=8)

# Latents from which the first codebook is made, and rounds of k-means: more moves no code word visibly.
_CLUSTERED_CROPS = 256
_CLUSTER_ROUNDS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorQuantizedAutoencoderConfig:
    """The network and its loss, ``MSE + perceptual_weight * ST-LPIPS (alex) + codebook and commitment terms``.

    Args:
        image_size: Side of a crop in pixels.
        channels: Widths from full resolution down, halved in between.
        codebook_size: Code words.
        codebook_dim: Channels of a code word, and of the latent.
        layers_per_block: Residual blocks of each resolution.
        min_scale: Smallest random downscaling of a picture.
        max_scale: Largest.
        perceptual_weight: Weight of ST-LPIPS beside the squared error.
        perceptual_fraction: Share of the crops that ST-LPIPS sees.
        codebook_weight: Weight of the distance from code words to latents, which moves the code words.
        commitment_weight: Weight of the distance from latents to code words, which moves the encoder.
        decoder_only: Keep the encoder and the codebook of the start, and with them the tokens that a generator may
            have been trained on.
    """

    image_size: Annotated[int, Option(), AT_LEAST_1] = 128
    channels: Annotated[tuple[int, ...], Option()] = (32, 64, 96, 128)
    codebook_size: Annotated[int, Option(), Within(low=2, high=65_536)] = 1024
    codebook_dim: Annotated[int, Option(), AT_LEAST_1] = 4
    layers_per_block: Annotated[int, AT_LEAST_1] = 1
    min_scale: Annotated[float, Option(), SHARE_ABOVE_0] = 0.36
    max_scale: Annotated[float, Option(), SHARE_ABOVE_0] = 1.0
    perceptual_weight: Annotated[float, Option(), AT_LEAST_0] = 0.1
    perceptual_fraction: Annotated[float, SHARE_ABOVE_0] = 0.5
    codebook_weight: Annotated[float, AT_LEAST_0] = 1.0
    commitment_weight: Annotated[float, Option(), AT_LEAST_0] = 0.25
    decoder_only: Annotated[bool, Option()] = False

    def __post_init__(self) -> None:
        check(self)
        check_widths(self.channels, self.image_size)
        if self.min_scale > self.max_scale:
            raise ValueError(
                f"min_scale must not be above max_scale, got {self.min_scale} and {self.max_scale}"
            )

    def build(self) -> nn.Module:
        """A fresh ``VQModel``."""
        from diffusers import VQModel

        model: Any = VQModel(
            **blocks_of(self.channels, self.layers_per_block),
            latent_channels=self.codebook_dim,
            num_vq_embeddings=self.codebook_size,
            sample_size=self.image_size,
            # A generator's tokens are indices: decode() then takes them as they are.
            lookup_from_codebook=True,
        )
        return model

    def dataset(self, data: PathLike, *, seed: int) -> RandomCropDataset | DigitImages:
        """The stream of crops of the images under a folder, or of digits."""
        scale = (self.min_scale, self.max_scale)
        return open_training_images(data, self.image_size, scale=scale, seed=seed)


def weights_of_kl(autoencoder: Any) -> dict[str, Tensor]:
    """Weights of an ``AutoencoderKL`` for a ``VQModel`` of the same widths: its latent is the other's mean.

    The convolution that gives mean and variance is folded into the encoder's last one, as both are linear.
    """
    weights = dict(autoencoder.state_dict())
    mean = weights.pop("quant_conv.weight").squeeze((2, 3)).chunk(2)[0]  # [C, 2 C]
    bias = weights.pop("quant_conv.bias").chunk(2)[0]
    last = weights["encoder.conv_out.weight"]
    weights["encoder.conv_out.weight"] = torch.einsum("om,mchw->ochw", mean, last)
    weights["encoder.conv_out.bias"] = mean @ weights["encoder.conv_out.bias"] + bias
    weights["quant_conv.weight"] = torch.eye(len(mean))[..., None, None]
    weights["quant_conv.bias"] = torch.zeros(len(mean))
    return weights


def cluster_centres(points: Tensor, count: int, *, rounds: int, seed: int) -> Tensor:
    """Centres ``[count, C]`` of points ``[N, C]`` by Lloyd's algorithm, from random points.

    A centre that loses all its points is put on a random one.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = points[torch.randperm(len(points), generator=generator)[:count]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        sizes = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        strays = points[torch.randint(len(points), (count,), generator=generator)]
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], strays)
    return centres


@torch.inference_mode()
def tokens_of(model: Any, images: Tensor) -> Tensor:
    """Indices ``[B, h, w]`` of images ``[B, 3, H, W]`` in [-1, 1]."""
    latents = model.encode(images).latents.float()
    indices = model.quantize(latents)[2][2]
    return indices.view(latents.shape[0], *latents.shape[2:])


class VectorQuantizedAutoencoderTraining(TrainingLoop):
    """One run.

    Args:
        config: The network and its loss.
        loop: How the run proceeds.
        data: Folder of training images, or of digits (`genaccel data digits`).
        run: Run folder; the model is its folder `vq`.
        start: Folder of the VQModel, or the AutoencoderKL, to begin with, of the same widths; by default weights are
            random. A codebook that does not come with it is made by k-means of the encoder's latents.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If only the decoder is to be trained and there is no ``start``.
    """

    recipe = "vector-quantized-autoencoder"

    def __init__(
        self,
        config: VectorQuantizedAutoencoderConfig,
        loop: LoopConfig = LOOP,
        *,
        data: PathLike,
        run: RunPath,
        start: PathLike | None = None,
        cpu: bool = False,
    ) -> None:
        from diffusers import AutoencoderKL, VQModel

        if config.decoder_only and start is None:
            raise ValueError("to train the decoder alone, give the autoencoder to start from")
        self.vq_config, self._data = config, data
        self._has_codebook = False
        torch.manual_seed(loop.seed)
        model: Any = config.build()
        if start is not None:
            self._has_codebook = VQModel.load_config(start)["_class_name"] == "VQModel"
            source: Any = (VQModel if self._has_codebook else AutoencoderKL).from_pretrained(start)
            weights = source.float().state_dict() if self._has_codebook else weights_of_kl(source)
            model.load_state_dict(weights, strict=self._has_codebook)
        if config.decoder_only:
            for part in (model.encoder, model.quant_conv, model.quantize):
                part.requires_grad_(False)
        super().__init__(model, loop, run=RunFolder(run), options={"vq": asdict(config)}, cpu=cpu)

    def setup(self) -> None:
        """Open the crops, make the first codebook and load the perceptual distance where it has a weight."""
        config = self.vq_config
        self.dataset = config.dataset(self._data, seed=self.config.seed)
        if not self._has_codebook and not self.run.has_checkpoint:
            model = self.plain_model()
            with torch.inference_mode():
                latents = torch.cat(
                    [
                        model.encode(self.batch(range(n, n + 8))).latents
                        for n in range(0, _CLUSTERED_CROPS, 8)
                    ]
                )
            points = latents.permute(0, 2, 3, 1).flatten(0, 2).clone()
            centres = cluster_centres(
                points, config.codebook_size, rounds=_CLUSTER_ROUNDS, seed=self.config.seed
            )
            model.quantize.embedding.weight.data.copy_(centres)
            self.ema.shadow_params = [p.detach().clone() for p in model.parameters()]
        self.perceptual: StLpips | None = None
        if config.perceptual_weight > 0:
            self.perceptual = StLpips.from_pretrained("alex").to(self.accelerator.device)

    def batch(self, numbers: range) -> Tensor:
        """Crops ``[B, 3, S, S]`` in [-1, 1]."""
        crops = torch.stack([self.dataset[n] for n in numbers]).to(self.accelerator.device)
        return crops.contiguous(memory_format=torch.channels_last)

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error, codebook and commitment terms, and perceptual distance of crops in [-1, 1]."""
        config, model = self.vq_config, self.plain_model()
        with torch.set_grad_enabled(not config.decoder_only):
            latents = model.encode(batch).latents.float()
        with torch.autocast(
            batch.device.type, enabled=False
        ):  # nearest by fp32, as it will be used
            codes, _, (_, _, indices) = model.quantize(latents)
            words = model.quantize.embedding(indices).view(latents.permute(0, 2, 3, 1).shape)
            words = words.permute(0, 3, 1, 2)
        # Not by decode(), which would look indices up.
        restored = model.decoder(model.post_quant_conv(codes)).float()
        used = torch.bincount(indices.flatten(), minlength=config.codebook_size) / indices.numel()
        parts = {
            "mse": torch.nn.functional.mse_loss(restored, batch),
            "codebook": torch.nn.functional.mse_loss(words, latents.detach()),
            "commitment": torch.nn.functional.mse_loss(latents, words.detach()),
            "perplexity": torch.exp(-torch.special.xlogy(used, used).sum()),
        }
        loss = parts["mse"]
        if not config.decoder_only:
            loss = loss + config.codebook_weight * parts["codebook"]
            loss = loss + config.commitment_weight * parts["commitment"]
        if self.perceptual is not None:
            count = max(1, round(config.perceptual_fraction * len(batch)))
            parts["perceptual"] = self.perceptual(restored[:count], batch[:count]).float().mean()
            loss = loss + config.perceptual_weight * parts["perceptual"]
        return loss, parts

    def export(self) -> str:
        """Write the folder ``vq`` of the run."""
        out = self.run.path / "vq"
        with replaced_folder(out) as fresh:
            load_vq_model(self.run.path).save_pretrained(fresh)
        return f"wrote {out}"


def load_vq_model(run: PathLike) -> Any:
    """The ``VQModel`` with the averaged weights of a run.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    folder = RunFolder(run)
    values = dict(folder.options()["vq"])
    values["channels"] = tuple(values["channels"])
    return averaged_weights(folder, VectorQuantizedAutoencoderConfig(**values).build())
