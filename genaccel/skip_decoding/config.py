# SPDX-License-Identifier: Apache-2.0
"""The config of speculative decoding: what drafts, what is accepted, and what is not verified at all."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, Literal

from torch import Tensor

_FLAGS = ("exact", "lantern", "uniform", "dynamic")
_NUMBERS = (
    "relaxed_delta",
    "assistant_ensemble_weight",
    "skip_similarity",
    "max_unverified",
    "max_nll_gap",
    "rollback_below",
)
# Of a round: masks of trees grow with the square.
_MOST_GUESSES = 1024


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SkipDecodingConfig:
    """Speculative decoding of image tokens (VVS, arXiv:2511.13587), for ``genaccel.enable`` and ``generate``.

    By default the tokens are those that the model draws without it, seed by seed; ``acceptance`` and ``skip`` trade
    likeness for speed.

    Args:
        drafter: What guesses: "auto" for the drafter in the folder ``drafter`` beside the model, or Jacobi decoding, which
            needs no training, where there is none; the folder of a ``FeatureDrafterNetwork``, or one that is loaded; a
            smaller language model of transformers over the same tokens; any
            :class:`~genaccel.skip_decoding.drafts.drafting.Drafter`; None to draw one by one.
        tree: Guesses of a round: "auto", the length of a chain, or the children of a node at each depth, such as
            ``(3, 2, 1)``, of 1,024 guesses at most. A ``Drafter`` has its own.
        acceptance: "exact" accepts what the model itself draws; "lantern" lends a guess the probability of code words that
            look like it (arXiv:2410.03355); "ensemble" judges guesses by a mixture of model and drafter.
        relaxed_delta: Of "lantern": up to 1, the probability that is borrowed at most; above 1, ``relaxed_delta - 1``
            times the guess's own.
        relaxed_topk: Of "lantern": how many code words lend at most.
        assistant_ensemble_weight: Of "ensemble": the model's share of the mixture, as in transformers, in (0, 1).
        is_stochastic: Guesses are drawn from the drafter's distribution, and accepted by the quotient of both, instead of
            being those that this seed's noise makes likeliest. The tokens are distributed as the model says, but are not
            those without a drafter.
        skip: "none", "uniform" to commit every ``skip_interval``-th round's guesses without verification, or "dynamic" to
            do so where the paths of the tree, which is then no chain, look alike. Needs a drafter that was trained.
        skip_interval: Rounds from one skipped to the next, at least 2.
        skip_similarity: Of "dynamic": least likeness of the paths, in (0, 1].
        max_unverified: Largest share of the tokens that no forward judges, in (0, 1].
        max_nll_gap: Largest loss of log-likelihood of a token, in nats, that "lantern" and ``skip`` may cost; they are
            tuned to it once, and what was found is kept.
        rollback_below: Take back unverified tokens of which the model, when it reads them, says that they were less likely
            than this, in (0, 1].
        row_length: Tokens of a row of the picture, for guesses from the row above; by default what the pipeline knows, 0
            for none.
        seed: Of the noise, the same in every call; by default each call of ``generate`` takes one from torch's global
            generator, so that ``torch.manual_seed`` makes calls repeatable. ``AutoregressiveImagePipeline`` has a ``seed``
            of its own, which goes before this one; without either it is 0, as without acceleration.
        codebook: Code words ``[K, C]`` of the tokens 0 to K - 1, for "lantern" and "dynamic", one for each token that can be
            drawn; by default the pipeline's own.

    Raises:
        ValueError: If a value is out of range, or of another name than those above.

    Example:
        >>> SkipDecodingConfig(skip="uniform").is_exact, SkipDecodingConfig().is_exact
        (False, True)
    """

    drafter: Any = "auto"
    tree: Literal["auto"] | int | tuple[int, ...] = "auto"
    acceptance: Literal["exact", "lantern", "ensemble"] = "exact"
    relaxed_delta: float = 0.2
    relaxed_topk: int = 100
    assistant_ensemble_weight: float = 0.5
    is_stochastic: bool = False
    skip: Literal["none", "uniform", "dynamic"] = "none"
    skip_interval: int = 2
    skip_similarity: float = 0.7
    max_unverified: float | None = None
    max_nll_gap: float | None = None
    rollback_below: float | None = None
    row_length: int | None = None
    seed: int | None = None
    codebook: Tensor | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("acceptance", ("exact", "lantern", "ensemble")),
            ("skip", ("none", "uniform", "dynamic")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if self.tree != "auto":
            widths: Any = (self.tree,) if _is_int(self.tree) else self.tree
            if (
                not isinstance(widths, tuple | list)
                or not widths
                or not all(_is_int(width) and width >= 1 for width in widths)
            ):
                raise ValueError(
                    f'tree must be "auto", a length of at least 1, or a tuple of widths of at least 1, got {self.tree!r}'
                )
            guesses = sum(accumulate(widths, operator.mul))
            if isinstance(self.tree, int):
                guesses = self.tree
            if guesses > _MOST_GUESSES:
                raise ValueError(
                    f"tree may have {_MOST_GUESSES} guesses at most, and {self.tree!r} has {guesses}"
                )
            if isinstance(self.tree, list):
                object.__setattr__(self, "tree", tuple(self.tree))
        for name, least in (("relaxed_topk", 1), ("skip_interval", 2)):
            value = getattr(self, name)
            if not _is_int(value) or value < least:
                raise ValueError(f"{name} must be at least {least}, got {value!r}")
        if self.row_length is not None and (not _is_int(self.row_length) or self.row_length < 0):
            raise ValueError(f"row_length must be at least 0 or None, got {self.row_length!r}")
        if self.seed is not None and not _is_int(self.seed):
            raise ValueError(f"seed must be an integer or None, got {self.seed!r}")
        for name in _NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, int | float | None) or isinstance(value, bool):
                raise ValueError(f"{name} must be a number, got {value!r}")
        if self.codebook is not None and (
            not isinstance(self.codebook, Tensor)
            or self.codebook.ndim != 2
            or len(self.codebook) < 3
            or not bool(self.codebook.isfinite().all())
        ):
            raise ValueError(
                "codebook must be a tensor [K, C] of finite numbers, with K at least 3"
            )
        if not 0 <= self.relaxed_delta < math.inf:
            raise ValueError(
                f"relaxed_delta must be at least 0 and finite, got {self.relaxed_delta}"
            )
        for name, includes_one in (
            ("assistant_ensemble_weight", False),
            ("skip_similarity", True),
            ("max_unverified", True),
            ("rollback_below", True),
        ):
            value = getattr(self, name)
            if value is not None and not (0 < value < 1 or (includes_one and value == 1)):
                end = "]" if includes_one else ")"
                raise ValueError(f"{name} must be in (0, 1{end}, got {value}")
        if self.max_nll_gap is not None and not 0 < self.max_nll_gap < math.inf:
            raise ValueError(f"max_nll_gap must be above 0 and finite, got {self.max_nll_gap}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.skip == "none":
            for name in ("max_unverified", "rollback_below"):
                if getattr(self, name) is not None:
                    raise ValueError(f'{name} is of skipped rounds, and skip is "none"')
        if self.max_nll_gap is not None and self.skip == "none" and self.acceptance == "exact":
            raise ValueError(
                'max_nll_gap bounds what acceptance="lantern" or skip cost, and neither is asked for'
            )
        is_chain = self.tree != "auto" and (isinstance(self.tree, int) or max(self.tree) == 1)
        if self.skip == "dynamic" and is_chain:
            raise ValueError(
                'skip="dynamic" compares the paths of a tree, and a chain has one: give widths such as (2, 2, 1)'
            )
        if self.drafter is None and not self.is_exact:
            raise ValueError(
                "without a drafter there are no guesses to accept, to skip or to draw: drafter=None goes with none of these"
            )
        if self.is_stochastic and self.acceptance == "ensemble":
            raise ValueError(
                'acceptance="ensemble" draws from its own mixture; is_stochastic goes without'
            )

    def __eq__(self, other: object) -> bool:
        # By hand: a comparison of tensors is a tensor, and a drafter is itself alone.
        if not isinstance(other, SkipDecodingConfig):
            return NotImplemented
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return all(
            a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
            for a, b in pairs
        )

    __hash__ = None  # type: ignore[assignment]  # a codebook has none

    @property
    def is_exact(self) -> bool:
        """Whether the tokens are those that the model draws without it."""
        return self.acceptance == "exact" and self.skip == "none" and not self.is_stochastic

    @property
    def needs_codebook(self) -> bool:
        """Whether it has to be known which code words look alike."""
        return self.acceptance == "lantern" or self.skip == "dynamic"


def config_from_text(text: str) -> SkipDecodingConfig:
    """Make the config of a flag's value, the part behind ``"vvs:"``.

    Args:
        text: "exact" or nothing for the same pictures in fewer forwards; "lantern", "uniform" or "dynamic" for that
            acceptance or those skips.

    Raises:
        ValueError: If it is something else.

    Example:
        >>> config_from_text("uniform").skip
        'uniform'
    """
    if text in ("", "exact"):
        return SkipDecodingConfig()
    if text == "lantern":
        return SkipDecodingConfig(acceptance="lantern")
    if text == "uniform":
        return SkipDecodingConfig(skip="uniform")
    if text == "dynamic":
        return SkipDecodingConfig(skip="dynamic")
    raise ValueError(f"the values are {', '.join(_FLAGS)}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
