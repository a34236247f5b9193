# SPDX-License-Identifier: Apache-2.0
"""A LARGE MODEL OF RANDOM WEIGHTS, decoded with the ACCEPTANCE OF ANOTHER MODEL REPLAYED.

Random weights have no drafter, so no acceptance of their own. What is measured here is what the engine adds around the
forwards of a model whose forwards are long: how near the measured speed-up comes to what the forwards alone would give. It
says nothing of pictures, and nothing of how often guesses for such a model are right.

How often they are is the record of `photo-ar` and its drafter, of the same run. It is replayed by a drafter that knows the
tokens: it guesses as many of them as the record says that were right, and then a wrong one. It computes nothing, so a real
drafter's time comes on top.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genaccel import zoo
from genaccel.skip_decoding.decoding import _Decoding, decode
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafting import Draft, Noise, Round
from genaccel.skip_decoding.drafts.feature_drafter import FeatureDrafter, FeatureDrafterNetwork
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.report import DecodingReport
from genaccel.skip_decoding.sampling import SamplingRule

CHAIN = 4
GUIDANCE = 2.0
_SEED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplaySize:
    """Of the random model and its decoding.

    Attributes:
        layers: Of the model.
        channels: Of the model.
        vocabulary: Of the model; the default is that of LlamaGen, and makes 342 M parameters.
        prompt: Tokens before the first that is drawn: as many as stand in the middle of a picture.
        sequences: Decoded together, each with both branches of guidance.
        tokens: Of each.
    """

    layers: int = 24
    channels: int = 1024
    vocabulary: int = 16384
    prompt: int = 128
    sequences: int = 1
    tokens: int = 64


LARGE = ReplaySize()


SMALL = ReplaySize(layers=2, channels=64, vocabulary=64, prompt=8, sequences=2, tokens=24)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayFigures:
    """What came out; seconds are CPU time of the one thread.

    Attributes:
        parameters: Of the RANDOM model.
        replayed_tokens_per_forward: Tokens of a sequence by forwards after the prompt: the REPLAYED acceptance.
        row_cost: Seconds of a forward with the guesses' rows over those of a forward with one.
        speedup: Seconds of plain decoding over those of the replay.
        efficiency: ``speedup / (replayed_tokens_per_forward / row_cost)``.
        overhead: Share of the replay's seconds outside of the model's forwards.
        plain_overhead: The same of plain decoding.
        differing_tokens: Of the replay from plain decoding: 0.
        seconds: Wall time of all.
    """

    parameters: int
    replayed_tokens_per_forward: float
    row_cost: float
    speedup: float
    efficiency: float
    overhead: float
    plain_overhead: float
    differing_tokens: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"RANDOM weights ({self.parameters / 1e6:.0f} M), acceptance of photo-ar REPLAYED: "
            f"{self.replayed_tokens_per_forward:.2f} tokens a forward at {self.row_cost:.2f} times the cost, "
            f"{self.speedup:.2f} times as fast as plain, {self.efficiency:.0%} of what the forwards allow; "
            f"outside of forwards {self.overhead:.1%} (plain {self.plain_overhead:.1%})"
        )


def recorded_acceptance(*, pictures: int = 1, tokens: int = 256) -> list[int]:
    """How many of four guesses `photo-ar`'s own drafter had right in each round, exact, with guidance 2.

    Args:
        pictures: One after the other.
        tokens: Of each.
    """
    from genaccel.pipelines.autoregressive_image_pipeline import AutoregressiveImagePipeline

    folder = zoo.path("photo-ar")
    pipe: Any = AutoregressiveImagePipeline.from_pretrained(folder, dtype=torch.float32)
    network = FeatureDrafterNetwork.from_pretrained(folder / "drafter").float()
    first, classes = int(pipe.vqvae.config.num_vq_embeddings), len(pipe.config.class_names)
    record: list[int] = []
    for number in range(pictures):
        drafter = _Recording(FeatureDrafter(network, pipe.transformer, widths=(1,) * CHAIN))
        decode(
            pipe.transformer,
            torch.tensor([[first + number * 7 % classes]]),
            rule=SamplingRule(guidance_scale=GUIDANCE, allowed=(0, first)),
            max_new_tokens=tokens,
            drafter=drafter,
            options=DecodingOptions(seed=_SEED + number),
            negative_prompts=torch.tensor([[first + classes]]),
        )
        record += drafter.accepted
    return record


class _Recording:
    """Writes down what became of another drafter's chains."""

    def __init__(self, drafter: FeatureDrafter) -> None:
        self._drafter, self.needs_features = drafter, drafter.needs_features
        self.begin, self.guess, self.select = drafter.begin, drafter.guess, drafter.select
        self.accepted: list[int] = []

    def learn(self, round_: Round) -> None:
        if round_.shape.max_depth == CHAIN:  # not the cut ones of the end
            self.accepted += (round_.counts - 1).tolist()
        self._drafter.learn(round_)


class ReplayDrafter:
    """Guesses right as often as a record says, for it reads the tokens where another decoding drew them before.

    Args:
        truth: Tokens, ``[S, T]``, that are filled in meanwhile, far enough ahead.
        accepted: Right guesses of each round; sequence n begins at the n-th of equal parts.
        vocabulary: Number of tokens.
    """

    needs_features = False

    def __init__(self, truth: Tensor, accepted: Sequence[int], vocabulary: int) -> None:
        if not accepted or not all(0 <= number <= CHAIN for number in accepted):
            raise ValueError(f"a record has numbers from 0 to {CHAIN}")
        self._truth, self._vocabulary = truth, vocabulary
        self._accepted = torch.tensor(list(accepted))
        self._next = torch.arange(len(truth)) * len(accepted) // len(truth)
        self._sequences = torch.arange(len(truth))

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        """Nothing is read."""

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        """A chain, of which the record says how much is right."""
        count = min(CHAIN, depth)
        columns = lengths[:, None] - 1 + torch.arange(count + 1)
        known = self._truth[self._sequences]
        tokens = known.gather(1, columns.clamp(max=known.shape[1] - 1))
        right = self._accepted[self._next]
        is_wrong = torch.arange(count + 1) > right[:, None]
        tokens = torch.where(is_wrong, (tokens + 1) % self._vocabulary, tokens)
        self._next = (self._next + 1) % len(self._accepted)
        return Draft(TreeShape.chain(count), tokens)

    def learn(self, round_: Round) -> None:
        """Nothing is learned."""

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences."""
        self._sequences, self._next = self._sequences[sequences], self._next[sequences]


def random_llama(size: ReplaySize) -> Any:
    """A ``LlamaForCausalLM`` of RANDOM weights in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config: Any = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.channels,
        intermediate_size=11 * size.channels // 4,
        num_hidden_layers=size.layers,
        num_attention_heads=size.channels // 64 or 1,
        num_key_value_heads=size.channels // 64 or 1,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def replay(accepted: Sequence[int], size: ReplaySize = LARGE) -> ReplayFigures:
    """Decode plainly and with the replayed acceptance, turn by turn in one process, on one thread.

    Args:
        accepted: Right guesses of each round, of :func:`recorded_acceptance`.
        size: Of the model.
    """
    begin = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return _replayed(accepted, size, begin)
    finally:
        torch.set_num_threads(threads)


def _replayed(accepted: Sequence[int], size: ReplaySize, begin: float) -> ReplayFigures:
    model = random_llama(size)
    rule = SamplingRule(guidance_scale=GUIDANCE)
    numbers = torch.arange(size.sequences)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(size.vocabulary, (2 * size.sequences, size.prompt), generator=generator)

    def decoding(drafter: ReplayDrafter | None) -> _Decoding:
        return _Decoding(
            model,
            rule,
            drafter,
            DecodingOptions(seed=_SEED),
            numbers,
            size.tokens,
            DecodingReport(),
        )

    plain = decoding(None)
    replayed = decoding(ReplayDrafter(plain.result, accepted, size.vocabulary))
    for one in (plain, replayed):
        one.begin(prompts, torch.ones_like(prompts, dtype=torch.bool))
    spent = {id(plain): 0.0, id(replayed): 0.0}
    prefills = {id(one): one.target.time.cpu_seconds for one in (plain, replayed)}

    def turn(one: _Decoding) -> None:
        start = time.process_time()
        one.round()
        spent[id(one)] += time.process_time() - start

    while len(replayed.active):
        # The replay reads what plain decoding has drawn, and a guess beyond.
        ahead = int(replayed.lengths.max()) + CHAIN + 1
        while len(plain.active) and int(plain.lengths.min()) < ahead:
            turn(plain)
        turn(replayed)
    while len(plain.active):
        turn(plain)
    models = {id(one): one.target.time.cpu_seconds - prefills[id(one)] for one in (plain, replayed)}
    forwards = {id(one): one.report.target_forwards - 1 for one in (plain, replayed)}
    one_row, rows = (models[id(one)] / forwards[id(one)] for one in (plain, replayed))
    tokens_per_forward = forwards[id(plain)] / forwards[id(replayed)]
    speedup = spent[id(plain)] / spent[id(replayed)]
    return ReplayFigures(
        parameters=sum(p.numel() for p in model.parameters()),
        replayed_tokens_per_forward=tokens_per_forward,
        row_cost=rows / one_row,
        speedup=speedup,
        efficiency=speedup / (tokens_per_forward / (rows / one_row)),
        overhead=1 - models[id(replayed)] / spent[id(replayed)],
        plain_overhead=1 - models[id(plain)] / spent[id(plain)],
        differing_tokens=int((plain.result != replayed.result).sum()),
        seconds=time.perf_counter() - begin,
    )
