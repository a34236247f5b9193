# SPDX-License-Identifier: Apache-2.0
"""Trains an autoregressive generator of image tokens: a stock ``LlamaForCausalLM`` over a ``VQModel`` (arXiv:2406.06525).

A sequence is the token of a class and then those of the picture, row by row from the top left. Tokens below the
codebook's size are code words, the next ones the classes, and the last one stands for no class, which
classifier-free guidance needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from genaccel.data.digit_images import DigitImages, open_training_images
from genaccel.data.digits import Split
from genaccel.data.image_folder import RandomCropDataset
from genaccel.files.atomic import write_atomically
from genaccel.models.registry import replaced_folder
from genaccel.training.loop import LoopConfig, PathLike, RunPath, TrainingLoop, averaged_weights
from genaccel.training.options import (
    AT_LEAST_1,
    SHARE_ABOVE_0,
    SHARE_BELOW_1,
    Option,
    Within,
    check,
)
from genaccel.training.recipes.vector_quantized_autoencoder import tokens_of
from genaccel.training.run_folder import CONFIG_NAME, RunFolder

LOOP = LoopConfig(steps=20_000, batch_size=16, learning_rate=6e-4, weight_decay=0.05)

TOKENS_NAME = "tokens.safetensors"
_HELD_OUT_NAME = "held-out-tokens.safetensors"
_ENCODED_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTransformerConfig:
    """The transformer and what it learns from.

    Args:
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        head_dim: Channels of a head.
        mlp_dim: Hidden channels of a feed-forward layer.
        image_size: Side of a crop in pixels; a multiple of the tokeniser's stride.
        min_scale: Smallest random downscaling of a picture.
        max_scale: Largest.
        class_dropout: Share of the samples without a class, for classifier-free guidance.
        min_class_images: Pictures below which a class counts as none.
        num_crops: Crops that are encoded once and trained on.
        held_out_crops: Crops of held-out pictures that the likelihood is told of.
    """

    num_layers: Annotated[int, Option(name="layers"), AT_LEAST_1] = 12
    num_heads: Annotated[int, Option(name="heads"), AT_LEAST_1] = 4
    head_dim: Annotated[int, AT_LEAST_1] = 64
    mlp_dim: Annotated[int, Option(), AT_LEAST_1] = 704
    image_size: Annotated[int, Option(), AT_LEAST_1] = 128
    min_scale: Annotated[float, Option(), SHARE_ABOVE_0] = 0.05
    max_scale: Annotated[float, Option(), SHARE_ABOVE_0] = 0.4
    class_dropout: Annotated[float, SHARE_BELOW_1] = 0.1
    min_class_images: Annotated[int, AT_LEAST_1] = 4
    num_crops: Annotated[int, Option(name="crops"), AT_LEAST_1] = 8192
    held_out_crops: Annotated[int, Within(low=1, high=65_536)] = 256

    def __post_init__(self) -> None:
        check(self)

    def build(self, *, vocabulary: int, length: int) -> nn.Module:
        """A fresh ``LlamaForCausalLM`` for sequences of ``length`` image tokens."""
        from transformers import LlamaConfig, LlamaForCausalLM

        width = self.num_heads * self.head_dim
        config: Any = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=self.mlp_dim,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            max_position_embeddings=length + 1,
            # None of the tokens ends a picture: its length does.
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=vocabulary - 1,
            tie_word_embeddings=False,
        )
        return LlamaForCausalLM(config)


def encode_tokens(
    tokenizer: Any,
    dataset: RandomCropDataset | DigitImages,
    names: Sequence[str],
    count: int,
    *,
    device: Any,
) -> dict[str, Tensor]:
    """Tokens ``[count, h * w]`` of the first crops, and their labels ``[count]``: ``len(names)`` for no class."""
    label_of = {name: label for label, name in enumerate(names)}
    tokens: list[Tensor] = []
    for first in tqdm(
        range(0, count, _ENCODED_AT_ONCE), desc="encoding crops", unit="batch", disable=None
    ):
        numbers = range(first, min(first + _ENCODED_AT_ONCE, count))
        crops = torch.stack([dataset[n] for n in numbers]).to(device)
        tokens.append(tokens_of(tokenizer, crops).flatten(1).cpu())
    labels = [label_of.get(dataset.class_of(n), len(names)) for n in range(count)]
    # int32, for torch knows few operations on uint16.
    return {"tokens": torch.cat(tokens).int(), "labels": torch.tensor(labels)}


class TokenTransformerTraining(TrainingLoop):
    """One run: prediction of the next token of encoded crops.

    Args:
        config: The transformer.
        loop: How the run proceeds.
        tokenizer: Folder of a VQModel, from `genaccel train vq`.
        data: Folder of images named by their class, as in beach3.jpg, where those without one are learned without; or of
            digits (`genaccel data digits`).
        run: Run folder; the model is its folder `transformer`.
        held_out: Folder of images that are not learned from, of which the export tells the likelihood; of a folder of digits, its
            test digits.
        start: Folder of a LlamaForCausalLM of the same shape to begin with.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If no class has enough pictures, the size is no multiple of the stride, or the folder holds a run
            with other options.
    """

    recipe = "token-transformer"

    def __init__(
        self,
        config: TokenTransformerConfig,
        loop: LoopConfig = LOOP,
        *,
        tokenizer: PathLike,
        data: PathLike,
        run: RunPath,
        held_out: PathLike | None = None,
        start: PathLike | None = None,
        cpu: bool = False,
    ) -> None:
        from diffusers import VQModel

        self.token_config, self._held_out = config, held_out
        self._tokenizer: Any = VQModel.from_pretrained(tokenizer).eval()
        stride = 2 ** (len(self._tokenizer.config.block_out_channels) - 1)
        if config.image_size % stride:
            raise ValueError(f"image_size must be a multiple of {stride}, got {config.image_size}")
        self.dataset = self._crops(data, loop.seed)
        folder = RunFolder(run)
        begun = folder.options() if (folder.path / CONFIG_NAME).is_file() else {}
        self.class_names: list[str] = begun.get("classes") or self.dataset.class_names(
            min_images=config.min_class_images
        )
        self._codebook_size = int(self._tokenizer.config.num_vq_embeddings)
        geometry = {
            "vocabulary": self._codebook_size + len(self.class_names) + 1,
            "length": (config.image_size // stride) ** 2,
        }
        torch.manual_seed(loop.seed)
        model: Any = config.build(**geometry)
        if start is not None:
            model.load_state_dict(_model_of(start).state_dict())
        super().__init__(
            model,
            loop,
            run=folder,
            options={
                "transformer": {**asdict(config), **geometry},
                "classes": self.class_names,
                "codebook_size": self._codebook_size,
            },
            cpu=cpu,
        )

    def _crops(
        self, data: PathLike, seed: int, split: Split = "train"
    ) -> RandomCropDataset | DigitImages:
        config = self.token_config
        scale = (config.min_scale, config.max_scale)
        return open_training_images(data, config.image_size, scale=scale, seed=seed, split=split)

    def setup(self) -> None:
        """Encode crops, unless that is done."""
        config, device = self.token_config, self.accelerator.device
        self._tokenizer.to(device)
        for name, dataset, count in (
            (TOKENS_NAME, self.dataset, config.num_crops),
            (_HELD_OUT_NAME, None, config.held_out_crops),
        ):
            path = self.run.path / name
            if dataset is None and self._held_out is not None:
                dataset = self._crops(self._held_out, self.config.seed, "test")
            if dataset is not None and not path.is_file():
                encoded = encode_tokens(
                    self._tokenizer, dataset, self.class_names, count, device=device
                )
                write_atomically(path, save(encoded), overwrite=True)
        del self._tokenizer
        stored = load_file(self.run.path / TOKENS_NAME)
        self.tokens, self.labels = stored["tokens"], stored["labels"]

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, N]`` and labels ``[B]``."""
        count = len(self.tokens)
        orders = {
            epoch: torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
            for epoch in sorted({n // count for n in numbers})
        }
        rows = torch.stack([orders[n // count][n % count] for n in numbers])
        device = self.accelerator.device
        return self.tokens[rows].long().to(device), self.labels[rows].to(device)

    def loss(
        self, batch: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood of a token in nats, some of the classes left out."""
        tokens, labels = batch
        dropped = torch.rand(len(tokens), generator=generator) < self.token_config.class_dropout
        labels = labels.masked_fill(dropped.to(labels.device), len(self.class_names))
        nll = negative_log_likelihood(self.model, tokens, labels, self._codebook_size).mean()
        return nll, {"nll": nll}

    def export(self) -> str:
        """Write the folder ``transformer`` of the run; tells the likelihood of learned and of held-out crops."""
        out = self.run.path / "transformer"
        model = load_token_transformer(self.run.path)
        with replaced_folder(out) as fresh:
            model.half().save_pretrained(fresh)
        told = [f"wrote {out}"]
        for name, title in ((TOKENS_NAME, "learned"), (_HELD_OUT_NAME, "held-out")):
            if (self.run.path / name).is_file():
                nll = _likelihood(model.float(), load_file(self.run.path / name), self)
                told.append(f"{nll:.4f} nats a token of {title} crops")
        return "; ".join(told)

    def measured(self, tokens: Tensor) -> Tensor:
        """The part of stored tokens that a likelihood is measured on."""
        return tokens[: self.token_config.held_out_crops]


def negative_log_likelihood(
    model: Any, tokens: Tensor, labels: Tensor, codebook_size: int
) -> Tensor:
    """Nats of each token ``[B, N]`` of pictures with labels ``[B]``; only code words count as possible."""
    sequences = torch.cat((labels[:, None] + codebook_size, tokens[:, :-1]), 1)
    logits = model(input_ids=sequences, use_cache=False).logits[..., :codebook_size].float()
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens.flatten(), reduction="none"
    )
    return losses.view(tokens.shape)


@torch.inference_mode()
def _likelihood(model: Any, stored: dict[str, Tensor], run: TokenTransformerTraining) -> float:
    tokens, labels = run.measured(stored["tokens"]).long(), run.measured(stored["labels"])
    parts = [
        negative_log_likelihood(model, some, some_labels, run._codebook_size).mean(1)
        for some, some_labels in zip(tokens.split(16), labels.split(16), strict=True)
    ]
    return float(torch.cat(parts).mean())


def _model_of(folder: PathLike) -> Any:
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(folder)
    return model.float()


def load_token_transformer(run: PathLike) -> Any:
    """The ``LlamaForCausalLM`` with the averaged weights of a run.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    folder = RunFolder(run)
    values = dict(folder.options()["transformer"])
    geometry = {key: values.pop(key) for key in ("vocabulary", "length")}
    return averaged_weights(folder, TokenTransformerConfig(**values).build(**geometry))
