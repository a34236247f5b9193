# SPDX-License-Identifier: Apache-2.0
"""The config of SODA: the target that a user asks for, and the options of the planner."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from genaccel.files.user_cache import user_cache

FORECASTERS = ("reuse", "taylor1", "taylor2", "affine")

# Computed steps that plans of outputs need.
_FEWEST_FOR_OUTPUTS = 8
# A plan slower by this is what was asked for: steps are whole.
_SPEEDUP_SLACK = 0.02

_DEFAULT_TARGET = 'speedup=2.0, speedup="max", max_lpips=0.05 or min_psnr=30'


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannerOptions:
    """Options of the planner, which ablations compare; other users need not change them.

    Args:
        forecasters: What may stand in for a skipped step; the plan takes the best for each. With
            the default prices "affine" is used only if it is the only one.
        metric: Error of a forecast: "l2" or "l1" relative to the true output, or "cosine", the
            paper's (SODA, arXiv:2603.07057).
        edge_cost: "cumulative" prices an interval by the errors of its skipped steps (S4b),
            "endpoint" by the error at its end (S4a).
        objective: "minimax" keeps the dearest interval cheap, as LeMiCa argues; "sum", the paper's,
            tolerates one bad interval. On a class-conditional DiT minimax is 2 to 5 dB closer to
            the unaccelerated samples.
        weigh_steps: Weigh the errors of a step by its effect on the finished sample, where the
            scheduler tells it.
        warmup_steps: First steps that are always computed.
        max_blocks: Longest run of blocks with a schedule of its own; None for whole runs.
        shared_schedule: Whether all segments are computed at the same steps.
        time_windows: Whether computed steps may be given the mean embedded time of those they stand
            for, in plans of outputs.
        token_score: Which tokens are recomputed: of the largest "mean" feature, as in the paper, of
            the largest "drift" of it since the last computed step, or at "random".

    Raises:
        ValueError: If a value is out of range.
    """

    forecasters: tuple[str, ...] = FORECASTERS
    metric: Literal["cosine", "l1", "l2"] = "l2"
    edge_cost: Literal["endpoint", "cumulative"] = "cumulative"
    objective: Literal["sum", "minimax"] = "minimax"
    weigh_steps: bool = True
    warmup_steps: int = 1
    max_blocks: int | None = None
    shared_schedule: bool = True
    time_windows: bool = True
    token_score: Literal["mean", "drift", "random"] = "mean"

    def __post_init__(self) -> None:
        if not self.forecasters or not set(self.forecasters) <= set(FORECASTERS):
            raise ValueError(
                f"forecasters must be some of {', '.join(FORECASTERS)}, got {self.forecasters}"
            )
        for name, allowed in (
            ("metric", ("cosine", "l1", "l2")),
            ("edge_cost", ("endpoint", "cumulative")),
            ("objective", ("sum", "minimax")),
            ("token_score", ("mean", "drift", "random")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if self.metric == "l1" and "affine" in self.forecasters:
            if self.forecasters == ("affine",):
                raise ValueError("the error of affine is not known by the metric l1: use l2")
            object.__setattr__(
                self, "forecasters", tuple(f for f in self.forecasters if f != "affine")
            )
        if self.warmup_steps < 1:
            raise ValueError(f"warmup_steps must be at least 1, got {self.warmup_steps}")
        if self.max_blocks is not None and self.max_blocks < 1:
            raise ValueError(f"max_blocks must be at least 1 or None, got {self.max_blocks}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlannerOptions:
        """Build from ``dataclasses.asdict`` output; unknown keys raise ValueError."""
        given = dict(values)
        _check_keys(cls, given)
        if "forecasters" in given:
            given["forecasters"] = tuple(given["forecasters"])
        return cls(**given)


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityConfig:
    """SODA (arXiv:2603.07057), by target instead of thresholds.

    Args:
        speedup: FLOPs of the denoiser without acceleration over those with it, above 1; or "max" for
            the most that can be had, with a quality as its floor if one is given. What is out of
            reach gets the best plan below it, and the report says so.
        max_lpips: Largest ST-LPIPS (vgg) to the unaccelerated sample, from the plans that
            ``genaccel tune`` measured. Instead of a number for ``speedup``.
        min_psnr: Least PSNR to it in decibels. Instead of a number for ``speedup``.
        plan: Folder of a plan, or of the plans of ``genaccel tune``. By default the plans beside
            the model and in ``cache_dir`` are looked up.
        first_run: What happens to a run for which there is no plan: "measure" computes it in full
            and makes a plan of it for those that follow; "plan" follows a fixed rule from the first
            run on, and measures nothing.
        max_interval: Largest distance between computed steps.
        granularity: What is forecast: the "output" of the model, whose computed steps then stand for
            those around them (:mod:`genaccel.hooks.time_window`); what a "segment", a run of blocks,
            adds as a whole, as in the paper; or the outputs of every attention and feed-forward
            "module", as TaylorSeer does. That follows the norms and gates of the current step, costs
            these, and holds more memory. "mixed" has submodules at a third of the steps that are not
            computed, those directly behind computed ones where segments cost the most, and segments
            at the others. "auto" is "output" where enough steps are computed for it, else "segment".
        pruning_share: Part of the FLOPs that is spent on recomputing tokens of feed-forwards at
            skipped steps (UAS of the paper); 0 for none. Needs granularity "segment" or "module".
        cache_megabytes: Most memory that forecasts may hold, or None.
        cache_dir: Where plans are kept; by default ``~/.cache/genaccel/plans``, or what
            ``GENACCEL_CACHE`` says.
        planner: How plans are made, for ablations.

    Raises:
        ValueError: If not exactly one target is given, or a value is out of range.

    Example:
        >>> SensitivityConfig(speedup=2.0).max_interval
        8
    """

    speedup: float | Literal["max"] | None = None
    max_lpips: float | None = None
    min_psnr: float | None = None
    plan: str | os.PathLike[str] | None = None
    first_run: Literal["measure", "plan"] = "measure"
    max_interval: int = 8
    granularity: Literal["auto", "output", "segment", "module", "mixed"] = "auto"
    pruning_share: float = 0.0
    cache_megabytes: float | None = None
    cache_dir: str | os.PathLike[str] | None = None
    planner: PlannerOptions = PlannerOptions()

    def __post_init__(self) -> None:
        targets = [n for n in ("speedup", "max_lpips", "min_psnr") if getattr(self, n) is not None]
        is_most = self.speedup == "max" and len(targets) == 2
        if (len(targets) > 1 and not is_most) or (not targets and self.plan is None):
            raise ValueError(
                f"give one target: {_DEFAULT_TARGET}, got {' and '.join(targets) or 'none'}"
            )
        if isinstance(self.speedup, str):
            if self.speedup != "max":
                raise ValueError(f'speedup must be a number or "max", got {self.speedup!r}')
        elif self.speedup is not None and not 1 < self.speedup < math.inf:
            raise ValueError(f"speedup must be above 1 and finite, got {self.speedup}")
        if self.max_lpips is not None and not self.max_lpips > 0:
            raise ValueError(f"max_lpips must be above 0, got {self.max_lpips}")
        if self.granularity == "auto" and self.pruning_share > 0:
            object.__setattr__(self, "granularity", "segment")
        for name, allowed in (
            ("first_run", ("measure", "plan")),
            ("granularity", ("auto", "output", "segment", "module", "mixed")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if self.max_interval < 1:
            raise ValueError(f"max_interval must be at least 1, got {self.max_interval}")
        if not 0 <= self.pruning_share < 1:
            raise ValueError(f"pruning_share must be in [0, 1), got {self.pruning_share}")
        if not isinstance(self.planner, PlannerOptions):
            raise ValueError(f"planner must be PlannerOptions, got {type(self.planner).__name__}")
        if self.has_partial_steps:
            self._check_partial_steps()
        if self.cache_megabytes is not None and not self.cache_megabytes > 0:
            raise ValueError(f"cache_megabytes must be above 0 or None, got {self.cache_megabytes}")

    def _check_partial_steps(self) -> None:
        if not self.planner.shared_schedule:
            raise ValueError(
                "pruning_share and forecasts of submodules need shared_schedule=True: their price is that of a step"
            )
        if self.pruning_share > 0 and self.granularity in ("mixed", "output"):
            raise ValueError(
                f'pruning_share needs granularity="segment" or "module", got "{self.granularity}"'
            )
        forecasters = tuple(f for f in self.planner.forecasters if f != "affine")
        if not forecasters:
            raise ValueError("affine knows no outputs of submodules: allow reuse or taylor1")
        object.__setattr__(self, "planner", replace(self.planner, forecasters=forecasters))

    @property
    def has_partial_steps(self) -> bool:
        """Whether blocks may run on forecasts of their submodules."""
        return self.pruning_share > 0 or self.granularity in ("module", "mixed")

    @property
    def has_floor(self) -> bool:
        """Whether a quality is asked for, which only plans of measured quality can keep."""
        return self.min_psnr is not None or self.max_lpips is not None

    @property
    def target(self) -> str:
        """The target in words, such as ``2x fewer FLOPs``."""
        floors = [
            *([f"PSNR of {self.min_psnr:g} dB"] if self.min_psnr is not None else []),
            *([f"ST-LPIPS of {self.max_lpips:g}"] if self.max_lpips is not None else []),
        ]
        if self.speedup is None:
            return f"as fast as a {floors[0]} allows" if floors else "what the given plan does"
        if self.speedup == "max":
            return " ".join(["as fast as can be", *(f"with a {floor}" for floor in floors)])
        return f"{self.speedup:g}x fewer FLOPs"

    @property
    def cache_folder(self) -> Path:
        """The folder where plans are kept."""
        if self.cache_dir is not None:
            return Path(self.cache_dir)
        return user_cache("plans")

    def for_steps(self, steps: int) -> SensitivityConfig:
        """The config with the granularity that "auto" means for runs of so many steps.

        On landscapes-dit, outputs are 2.5 dB better at 10 computed steps of 20 and up to 9 dB at
        more, as good at 6 of 12, and 6 dB worse at 6 of 20: computed steps are then too far apart in
        time for a parabola through whole outputs.

        Example:
            >>> config = SensitivityConfig(speedup=2.0)
            >>> config.for_steps(50).granularity, config.for_steps(8).granularity
            ('output', 'segment')
        """
        if self.granularity != "auto":
            return self
        count = computed_steps(steps, self.speedup, self.max_interval)
        kind: Literal["output", "segment"] = "output" if count >= _FEWEST_FOR_OUTPUTS else "segment"
        return replace(self, granularity=kind)

    def changed(self, **values: Any) -> SensitivityConfig:
        """A copy with other values, of its own fields or of the planner's.

        Example:
            >>> SensitivityConfig(speedup=2.0).changed(metric="cosine").planner.metric
            'cosine'
        """
        options = {f.name for f in fields(PlannerOptions)}
        planner = {name: value for name, value in values.items() if name in options}
        own = {name: value for name, value in values.items() if name not in options}
        if planner:
            own["planner"] = replace(own.get("planner", self.planner), **planner)
        return replace(self, **own)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        values = asdict(self)
        for name in ("plan", "cache_dir"):
            values[name] = None if values[name] is None else os.fspath(values[name])
        values["planner"]["forecasters"] = list(self.planner.forecasters)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SensitivityConfig:
        """Build from ``to_dict`` output; unknown keys raise ValueError."""
        given = dict(values)
        _check_keys(cls, given)
        if isinstance(given.get("planner"), Mapping):
            given["planner"] = PlannerOptions.from_dict(given["planner"])
        return cls(**given)


def fewest_computed(steps: int, max_interval: int) -> int:
    """Least number of computed steps if none is further than ``max_interval`` from the one before.

    Example:
        >>> fewest_computed(50, 8), fewest_computed(2, 8), fewest_computed(4, 1)
        (8, 2, 4)
    """
    first = min(2, steps)
    return first + max(0, math.ceil((steps - first + 1) / max_interval) - 1)


def computed_steps(steps: int, speedup: float | str | None, max_interval: int) -> int:
    """Steps that a plan of outputs computes for a speed-up.

    Args:
        steps: Steps of the run.
        speedup: Plain FLOPs over planned ones; anything but a finite number means the most possible.
        max_interval: Largest distance between computed steps.

    Example:
        >>> computed_steps(50, 2.0, 8), computed_steps(8, 2.0, 8), computed_steps(50, "max", 8)
        (25, 4, 8)
    """
    fewest = fewest_computed(steps, max_interval)
    if not isinstance(speedup, int | float) or math.isinf(speedup):
        return fewest
    return min(steps, max(fewest, int(steps / speedup * (1 + _SPEEDUP_SLACK) + 1e-9)))


def _check_keys(cls: Any, values: Mapping[str, Any]) -> None:
    known = {f.name for f in fields(cls)}
    if not set(values) <= known:
        further = {f.name for f in fields(PlannerOptions)} - known
        inside = sorted(set(values) & further)
        hint = f'; {inside[0]} belongs into "planner"' if inside else ""
        raise ValueError(
            f"unknown keys {sorted(set(values) - known)}; known are {sorted(known)}{hint}"
        )
