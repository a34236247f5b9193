# SPDX-License-Identifier: Apache-2.0
"""A generator of image tokens with its drafter, and the ways in which ``bench/vvs.py`` decodes it."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench._decoding.random_guesses import RandomDrafter
from genaccel.pipelines.autoregressive_image_pipeline import (
    AutoregressiveImageOutput,
    AutoregressiveImagePipeline,
)
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter
from genaccel.skip_decoding.drafts.drafting import Drafter
from genaccel.skip_decoding.drafts.feature_drafter import FeatureDrafter, FeatureDrafterNetwork
from genaccel.skip_decoding.options import DecodingOptions, SkipRule
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.verifying.acceptance import Relaxation, nearest_code_words

GUIDANCE = 2.0


@dataclass(frozen=True)
class Generator:
    """An :class:`AutoregressiveImagePipeline` in float32 and the drafter that was trained for it.

    Attributes:
        name: For tables.
        pipeline: Class -> tokens -> picture.
        network: The drafter's layer.
    """

    name: str
    pipeline: AutoregressiveImagePipeline
    network: FeatureDrafterNetwork

    @classmethod
    def load(cls, folder: Path) -> Generator:
        """Of a folder of the pipeline with the drafter in its folder ``drafter``."""
        pipeline: Any = AutoregressiveImagePipeline.from_pretrained(folder, dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        network = FeatureDrafterNetwork.from_pretrained(folder / "drafter").float().eval()
        return cls(folder.name, pipeline, network)

    @property
    def num_classes(self) -> int:
        """Of the pipeline."""
        return len(self.pipeline.labels)

    @property
    def row_length(self) -> int:
        """Tokens of a row of a picture."""
        return round(self.num_tokens**0.5)

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of a picture."""
        vqvae = self.pipeline.vqvae
        stride = 2 ** (len(vqvae.config.block_out_channels) - 1)
        return (int(vqvae.config.sample_size) // stride) ** 2

    @cached_property
    def codebook(self) -> Tensor:
        """Code words, float32 ``[K, C]``."""
        weight: Tensor = self.pipeline.vqvae.quantize.embedding.weight
        return weight.detach().float()

    @cached_property
    def unit_codes(self) -> Tensor:
        """Code words of length 1."""
        return torch.nn.functional.normalize(self.codebook, dim=1)

    @property
    def rule(self) -> SamplingRule:
        """Of the tokens."""
        return SamplingRule(guidance_scale=GUIDANCE, allowed=(0, len(self.codebook)))

    def labels(self, first: int, count: int) -> list[int]:
        """Labels of pictures ``first``, ``first + 1``, ...: the classes in turn."""
        return [number % self.num_classes for number in range(first, first + count)]

    def draw(self, mode: Mode, labels: Sequence[int], seed: int) -> AutoregressiveImageOutput:
        """Tokens of pictures, in one batch."""
        drafter, options = mode.drafter(self), mode.options(self)
        drafting = None
        if mode.kind == "auto":
            drafting = automatic_drafting()(
                self.pipeline.transformer,
                drafter,
                sequences=len(labels),
                rule=self.rule,
                options=options,
                max_new_tokens=self.num_tokens,
            )
            drafter = drafting.drafter
        found = self.pipeline(
            labels,
            guidance_scale=GUIDANCE,
            seed=seed,
            drafter=drafter,
            options=options,
            output_type="latent",
        )
        assert isinstance(found, AutoregressiveImageOutput)
        if drafting is not None:
            drafting.finish(found.report)
        return found


def automatic_drafting() -> Any:
    """The class that chooses widths by cost, or None where genaccel has none."""
    if importlib.util.find_spec("genaccel.skip_decoding.tuning.auto") is None:
        return None
    return importlib.import_module("genaccel.skip_decoding.tuning.auto").AutoDrafting


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A way of decoding.

    Attributes:
        name: For tables, files and bars.
        kind: Of drafter: ``none``, ``jacobi``, ``features`` or ``random``; ``auto`` for what automatic drafting makes of
            ``features``.
        widths: Children of a node at each depth of the drafter's tree.
        parents: Instead of these, the parents of its nodes.
        neighbours: Code words that lend probability (LANTERN); 0 for none.
        delta: What they lend at most.
        staleness: Of the drafter's features.
        skip: Fields of the rule of skipping; empty for none. ``unit_codes`` are those of the generator.
        others: Other fields of the options.
    """

    name: str
    kind: str = "features"
    widths: tuple[int, ...] = (1, 1, 1, 1)
    parents: tuple[int, ...] = ()
    neighbours: int = 0
    delta: float = 0.0
    staleness: tuple[int, int] = (-1, 0)
    skip: tuple[tuple[str, Any], ...] = ()
    others: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> str:
        """All that the tokens depend on but for the generator, as JSON."""
        values = {
            "kind": self.kind,
            "widths": self.widths,
            "parents": self.parents,
            "neighbours": self.neighbours,
            "delta": self.delta,
            "staleness": self.staleness,
            "skip": dict(self.skip),
            "others": dict(self.others),
            "guidance": GUIDANCE,
        }
        return json.dumps(values, sort_keys=True)

    def drafter(self, generator: Generator) -> Drafter | None:
        """A new one."""
        return _DRAFTERS[self.kind](self, generator)

    def options(self, generator: Generator) -> DecodingOptions:
        """Of decoding; the seed is the caller's."""
        relaxation = None
        if self.neighbours:
            nearest = nearest_code_words(generator.codebook, self.neighbours + 1)
            relaxation = Relaxation(neighbours=nearest, count=self.neighbours, delta=self.delta)
        rule = dict(self.skip)
        if rule.get("threshold") is not None:
            rule["unit_codes"] = generator.unit_codes
        return DecodingOptions(
            relaxation=relaxation, skip=SkipRule(**rule) if rule else None, **dict(self.others)
        )

    def with_skip(self, name: str, **values: Any) -> Mode:
        """This with other values of the rule of skipping."""
        return replace(self, name=name, skip=tuple((dict(self.skip) | values).items()))


def _feature_drafter(mode: Mode, generator: Generator) -> FeatureDrafter:
    return FeatureDrafter(
        generator.network,
        generator.pipeline.transformer,
        widths=TreeShape(mode.parents) if mode.parents else mode.widths,
        staleness=mode.staleness,
    )


_DRAFTERS: Mapping[str, Callable[[Mode, Generator], Drafter | None]] = {
    "none": lambda mode, generator: None,
    "jacobi": lambda mode, generator: JacobiDrafter(
        len(mode.widths), row_length=generator.row_length
    ),
    "features": _feature_drafter,
    "auto": _feature_drafter,
    "random": lambda mode, generator: RandomDrafter(len(generator.codebook), len(mode.widths)),
}

# LANTERN's guesses are drawn, as LANTERN++ draws them (arXiv:2502.06352): the likeliest are seldom accepted.
_DRAWN = (("guessing", "drawn"),)

PLAIN = Mode(name="plain", kind="none", widths=())
JACOBI = Mode(name="jacobi", kind="jacobi")
EXACT = Mode(name="exact")
AUTO = Mode(name="auto", kind="auto")
LANTERN = Mode(name="lantern", neighbours=20, delta=0.2, others=_DRAWN)
VVS = Mode(name="vvs", skip=(("interval", 2),))
RANDOM = Mode(name="random", kind="random", skip=(("interval", 2),))
# Paths can be alike only where there are several.
UNIFORM_TREE = Mode(name="vvs-tree", widths=(2, 2, 1), skip=(("interval", 2),))
DYNAMIC = Mode(name="vvs-dynamic", widths=(2, 2, 1), skip=(("interval", None), ("threshold", 0.5)))
