# SPDX-License-Identifier: Apache-2.0
"""Trains a drafter of one layer for a generator of image tokens, on features that the generator gives while it trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from genaccel.skip_decoding.drafts.feature_drafter import (
    FeatureDrafterNetwork,
    FeatureDrafterParams,
)
from genaccel.training.loop import LoopConfig, PathLike, RunPath, TrainingLoop, averaged_weights
from genaccel.training.options import AT_LEAST_0, SHARE_BELOW_1, Option, check
from genaccel.training.recipes.token_transformer import TOKENS_NAME
from genaccel.training.run_folder import RunFolder

LOOP = LoopConfig(steps=3_000, batch_size=8, learning_rate=1e-3)

# Steps beyond the first that a drafter guesses from its own features; their likelihood is told while it trains.
_FORETOLD = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class DrafterConfig:
    """The loss, ``cross entropy to the target's distribution + feature_weight * smooth L1 of features``.

    Args:
        feature_weight: Of the distance to the target's next feature.
        feature_noise: Deviation of the noise that is added to features, over theirs: guesses go on from features that
            are not quite right.
        class_dropout: Share of the samples without a class, as the target has it for guidance.
    """

    feature_weight: Annotated[float, Option(), AT_LEAST_0] = 0.1
    feature_noise: Annotated[float, Option(), AT_LEAST_0] = 0.1
    class_dropout: Annotated[float, SHARE_BELOW_1] = 0.1

    def __post_init__(self) -> None:
        check(self)


class DrafterTraining(TrainingLoop):
    """One run.

    Args:
        config: The loss.
        loop: How the run proceeds.
        target: Run folder of `genaccel train ar`: its model of now, and the tokens that it learned.
        run: Run folder; the drafter is its folder `drafter`.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If the folder holds a run with other options.
        FileNotFoundError: If the target's run has no checkpoint.
    """

    recipe = "drafter"

    def __init__(
        self,
        config: DrafterConfig,
        loop: LoopConfig = LOOP,
        *,
        target: PathLike,
        run: RunPath,
        cpu: bool = False,
    ) -> None:
        from genaccel.training.recipes.token_transformer import load_token_transformer

        self.drafter_config = config
        folder = RunFolder(target)
        begun = folder.options()
        self._codebook_size = int(begun["codebook_size"])
        self._no_class = self._codebook_size + len(begun["classes"])
        self._target: Any = load_token_transformer(target).requires_grad_(False)
        self._tokens_path = folder.path / TOKENS_NAME
        params = FeatureDrafterParams.for_target(self._target.config)
        torch.manual_seed(loop.seed)
        super().__init__(
            FeatureDrafterNetwork(params),
            loop,
            run=RunFolder(run),
            options={"drafter": {**asdict(config), **params.to_dict()}},
            cpu=cpu,
        )

    def setup(self) -> None:
        """Take the tokens that the target learned."""
        self._target.to(self.accelerator.device)
        stored = load_file(self._tokens_path)
        self.tokens, self.labels = stored["tokens"], stored["labels"]

    def batch(self, numbers: range) -> Tensor:
        """Sequences of a class and its tokens, ``[B, 1 + N]``."""
        count = len(self.tokens)
        rows = torch.tensor(
            [n * 7919 % count for n in numbers]
        )  # a prime: all before any comes twice
        sequences = torch.cat(
            (self.labels[rows, None] + self._codebook_size, self.tokens[rows].long()), 1
        )
        return sequences.to(self.accelerator.device)

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy and feature distance; tells how often guesses would be accepted, at each depth."""
        config = self.drafter_config
        dropped = torch.rand(len(batch), generator=generator) < config.class_dropout
        batch[:, 0] = batch[:, 0].masked_fill(dropped.to(batch.device), self._no_class)
        with torch.no_grad():
            features = self._target.base_model(input_ids=batch, use_cache=False).last_hidden_state
            features = features.float()
        noise = torch.randn(features.shape, generator=generator).to(features.device)
        given = features + config.feature_noise * features.std() * noise
        embeddings = self._target.get_input_embeddings()(batch)
        # The feature of token t and the embedding of token t + 1 foretell the feature of token t + 1.
        predicted = self.model(given[:, :-1], embeddings[:, 1:], use_cache=False).float()
        wanted = self._distribution(features[:, 1:])
        guessed = self._log_distribution(predicted)
        parts = {
            "cross_entropy": -(wanted * guessed).sum(-1).mean(),
            "feature": torch.nn.functional.smooth_l1_loss(predicted, features[:, 1:]),
        }
        with torch.no_grad():
            parts["acceptance"] = self._acceptance(guessed, wanted)
            # Guesses behind guesses: from the drafter's own features, on the tokens that were drawn.
            length, own = 1 + parts["acceptance"], predicted.detach()
            chance = parts["acceptance"]
            for depth in range(1, _FORETOLD + 1):
                own = self.model(own[:, :-1], embeddings[:, 1 + depth :], use_cache=False).float()
                chance = chance * self._acceptance(self._log_distribution(own), wanted[:, depth:])
                length = length + chance
            parts["acceptance_length"] = length
        return parts["cross_entropy"] + config.feature_weight * parts["feature"], parts

    def _logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self._target.get_output_embeddings()(features)
        return logits[..., : self._codebook_size].float()

    def _distribution(self, features: Tensor) -> Tensor:
        return self._logits(features).softmax(-1)

    def _log_distribution(self, features: Tensor) -> Tensor:
        return self._logits(features).log_softmax(-1)

    @staticmethod
    def _acceptance(guessed: Tensor, wanted: Tensor) -> Tensor:
        """How often one guess drawn by the drafter is accepted: one less the distance in total variation."""
        return torch.minimum(guessed.exp(), wanted).sum(-1).mean()

    def export(self) -> str:
        """Write the folder ``drafter`` of the run."""
        out = self.run.path / "drafter"
        load_drafter(self.run.path).save_pretrained(out)
        return f"wrote {out}"


def load_drafter(run: PathLike) -> FeatureDrafterNetwork:
    """The drafter with the averaged weights of a run.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    folder = RunFolder(run)
    names = FeatureDrafterParams.__dataclass_fields__
    values = {k: v for k, v in folder.options()["drafter"].items() if k in names}
    return averaged_weights(folder, FeatureDrafterNetwork(FeatureDrafterParams(**values)))
