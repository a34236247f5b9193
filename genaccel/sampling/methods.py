# SPDX-License-Identifier: Apache-2.0
"""Ways to accelerate a pipeline, each with the settings that trade quality for speed, and the workload that they are tried on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor


@dataclass(slots=True)
class Attached:
    """A pipeline with a method on it.

    Attributes:
        pipeline: A copy that belongs to the method.
        num_steps: Steps, if they are not those of the workload.
        around: Makes a context that is entered around each run.
        note: Remark in tables, found out when it was attached.
    """

    pipeline: Any
    num_steps: int | None = None
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    note: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a method.

    Attributes:
        label: Its name in tables.
        values: Argument of the method's ``attach``.
        expected: FLOP ratio, where it is known without a run.
    """

    label: str
    values: Mapping[str, Any]
    expected: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to accelerate.

    Attributes:
        name: Its name in tables.
        attach: Puts it on a fresh copy of the pipeline.
        ladders: Settings, each tuple from the slowest to the fastest. A later ladder is for speeds
            that the earlier ones do not reach.
        role: "ours" is what the bars are about, "other" what it has to beat. A "variant" is ours too,
            but asks its user for more.
        may_be_tuned: Whether it is one of the candidates for the row of the setting that was chosen
            on samples for calibration.
        adapts: Whether it decides by the samples what it computes.
        note: Remark in tables.
    """

    name: str
    attach: Callable[[Any, Mapping[str, Any]], Attached]
    ladders: tuple[tuple[Setting, ...], ...]
    role: Literal["ours", "variant", "other"] = "other"
    may_be_tuned: bool = False
    adapts: bool = False
    note: str = ""


def settings(name: str, values: Sequence[Any], **others: Any) -> tuple[Setting, ...]:
    """A ladder over one parameter."""
    return tuple(
        Setting(f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}", {name: v, **others})
        for v in values
    )


class Workload(Protocol):
    """A pipeline and the samples that are drawn from it."""

    @property
    def num_steps(self) -> int:
        """Steps of a plain run."""

    @property
    def device(self) -> torch.device:
        """Device of the pipeline."""

    @property
    def plain(self) -> Attached:
        """The pipeline without any method."""

    def copy(self) -> Any:
        """A copy of the pipeline that shares its weights."""

    def test_samples(self, batch: int) -> Any:
        """Samples of one batch that methods are judged by."""

    def calibration_samples(self, batch: int) -> Any:
        """Samples that methods may be tuned on."""

    def sample(self, attached: Attached, samples: Any, *, num_steps: int | None = None) -> Tensor:
        """Run a pipeline without its decoder, and return its samples ``[B, ...]``."""
