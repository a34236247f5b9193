# SPDX-License-Identifier: Apache-2.0
"""What a user asks for."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

FORECASTERS = ("reuse", "taylor1", "taylor2", "affine")


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityConfig:
    """SODA (arXiv:2603.07057), by target instead of thresholds.

    Args:
        speedup: FLOPs of the denoiser without acceleration over those with it, above 1.
        max_lpips: Largest ST-LPIPS (vgg) to the unaccelerated sample, from the plans that
            ``genaccel tune`` measured. Instead of ``speedup``.
        min_psnr: Least PSNR to it in decibels. Instead of ``speedup``.
        plan: Folder of a plan, or of the plans of ``genaccel tune``. By default the plans beside
            the model and in ``cache_dir`` are looked up, and if there is none, the first run is
            computed in full and measured, and its plan is kept in ``cache_dir``.
        forecasters: What may stand in for a skipped step; the plan takes the best for each. With
            the default prices "affine" is used only if it is the only one.
        max_interval: Largest distance between computed steps.
        metric: Error of a forecast: "l2" or "l1" relative to the true output, or "cosine", the
            paper's.
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
        granularity: What is forecast: what a "segment", a run of blocks, adds as a whole, or the
            outputs of every attention and feed-forward "module", as TaylorSeer does. That follows
            the norms and gates of the current step, costs these, and holds more memory. "mixed"
            has modules at a third of the steps that are not computed, those directly behind computed
            ones where segments cost the most, and segments at the others.
        pruning_share: Part of the FLOPs that is spent on recomputing tokens of feed-forwards at
            skipped steps (UAS of the paper); 0 for none.
        token_score: Which tokens: of the largest "mean" feature, as in the paper, of the largest
            "drift" of it since the last computed step, or at "random".
        cache_megabytes: Most memory that forecasts may hold, or None.
        cache_dir: Where plans are kept; by default ``~/.cache/genaccel/plans``, or what
            ``GENACCEL_CACHE`` says.

    Raises:
        ValueError: If not exactly one target is given, or a value is out of range.

    Example:
        >>> SensitivityConfig(speedup=2.0).max_interval
        8
    """

    speedup: float | None = None
    max_lpips: float | None = None
    min_psnr: float | None = None
    plan: str | os.PathLike[str] | None = None
    forecasters: tuple[str, ...] = FORECASTERS
    max_interval: int = 8
    metric: Literal["cosine", "l1", "l2"] = "l2"
    edge_cost: Literal["endpoint", "cumulative"] = "cumulative"
    objective: Literal["sum", "minimax"] = "minimax"
    weigh_steps: bool = True
    warmup_steps: int = 1
    max_blocks: int | None = None
    shared_schedule: bool = True
    granularity: Literal["segment", "module", "mixed"] = "segment"
    pruning_share: float = 0.0
    token_score: Literal["mean", "drift", "random"] = "mean"
    cache_megabytes: float | None = None
    cache_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        targets = [n for n in ("speedup", "max_lpips", "min_psnr") if getattr(self, n) is not None]
        if len(targets) > 1 or (not targets and self.plan is None):
            raise ValueError(
                "give one target: speedup=2.0, max_lpips=0.05 or min_psnr=30, "
                f"got {' and '.join(targets) or 'none'}"
            )
        if self.speedup is not None and not 1 < self.speedup < math.inf:
            raise ValueError(f"speedup must be above 1 and finite, got {self.speedup}")
        if self.max_lpips is not None and not self.max_lpips > 0:
            raise ValueError(f"max_lpips must be above 0, got {self.max_lpips}")
        if not self.forecasters or not set(self.forecasters) <= set(FORECASTERS):
            raise ValueError(
                f"forecasters must be some of {', '.join(FORECASTERS)}, got {self.forecasters}"
            )
        for name, allowed in (
            ("metric", ("cosine", "l1", "l2")),
            ("edge_cost", ("endpoint", "cumulative")),
            ("objective", ("sum", "minimax")),
            ("granularity", ("segment", "module", "mixed")),
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
        for name in ("max_interval", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.pruning_share < 1:
            raise ValueError(f"pruning_share must be in [0, 1), got {self.pruning_share}")
        if self.has_partial_steps:
            self._check_partial_steps()
        if self.max_blocks is not None and self.max_blocks < 1:
            raise ValueError(f"max_blocks must be at least 1 or None, got {self.max_blocks}")
        if self.cache_megabytes is not None and not self.cache_megabytes > 0:
            raise ValueError(f"cache_megabytes must be above 0 or None, got {self.cache_megabytes}")

    def _check_partial_steps(self) -> None:
        if not self.shared_schedule:
            raise ValueError(
                "pruning_share and forecasts of modules need shared_schedule=True: their price is that of a step"
            )
        if self.pruning_share > 0 and self.granularity == "mixed":
            raise ValueError('pruning_share needs granularity="segment" or "module", got "mixed"')
        forecasters = tuple(f for f in self.forecasters if f != "affine")
        if not forecasters:
            raise ValueError("affine knows no outputs of modules: allow reuse or taylor1")
        object.__setattr__(self, "forecasters", forecasters)

    @property
    def has_partial_steps(self) -> bool:
        """Whether blocks may run on forecasts of their modules."""
        return self.pruning_share > 0 or self.granularity != "segment"

    @property
    def cache_folder(self) -> Path:
        """Where plans are kept."""
        if self.cache_dir is not None:
            return Path(self.cache_dir)
        root = os.environ.get("GENACCEL_CACHE")
        return (Path(root) if root else Path.home() / ".cache" / "genaccel") / "plans"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        values = asdict(self)
        for name in ("plan", "cache_dir"):
            values[name] = None if values[name] is None else os.fspath(values[name])
        return {**values, "forecasters": list(self.forecasters)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SensitivityConfig:
        """Build from ``to_dict`` output; unknown keys raise ValueError."""
        known = {f.name for f in fields(cls)}
        if not set(values) <= known:
            raise ValueError(
                f"unknown keys {sorted(set(values) - known)}; known are {sorted(known)}"
            )
        given = dict(values)
        if "forecasters" in given:
            given["forecasters"] = tuple(given["forecasters"])
        return cls(**given)
