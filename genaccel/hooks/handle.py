# SPDX-License-Identifier: Apache-2.0
"""The handle that ``genaccel.enable`` returns: it pauses, reports on and ends an acceleration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from genaccel.hooks.doctor import Diagnosis, diagnose
from genaccel.hooks.engine import Engine
from genaccel.hooks.report import ModelReport, report_of


class Acceleration:
    """Something that is enabled until :meth:`disable`, whatever it is.

    Args:
        ended: Called once when it is disabled.

    Attributes:
        disabled: Called after ``ended``; whoever keeps the handle sets it, to forget the handle.
    """

    def __init__(self, ended: Callable[[], object] | None = None) -> None:
        self._ended = ended
        self.disabled: Callable[[], None] | None = None
        self._is_enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether :meth:`disable` was not called yet."""
        return self._is_enabled

    def disable(self) -> None:
        """Remove everything from the models: they compute what they did before, bit for bit.

        May be called more than once.
        """
        if self._is_enabled:
            self._is_enabled = False
            self._detach()
            for end in (self._ended, self.disabled):
                if end is not None:
                    end()

    def _detach(self) -> None:
        """Take off what is not undone by ``ended``: here nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.disable()


class AccelerationHandle(Acceleration):
    """Acceleration of one pipeline or model by engines, until :meth:`disable`.

    Args:
        attachments: The engines of the accelerated models, by name.
        ended: Called once when it is disabled.
    """

    def __init__(
        self, attachments: Mapping[str, Engine], ended: Callable[[], object] | None = None
    ) -> None:
        super().__init__(ended)
        self.attachments = dict(attachments)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Run unaccelerated within the ``with``, for comparison."""
        with contextlib.ExitStack() as stack:
            for engine in self.attachments.values():
                stack.enter_context(engine.paused())
            yield

    def _detach(self) -> None:
        for engine in self.attachments.values():
            engine.detach()

    def reset(self) -> None:
        """Forget what was cached. Runs do so by themselves when they begin."""
        for engine in self.attachments.values():
            engine.reset()

    def compile(self, **options: Any) -> None:
        """Compile the models' forward with ``torch.compile``, the step logic outside of it.

        One graph is compiled for each kind of step: all computed, all forecast, and each mixture
        that the plan has.

        Args:
            options: For ``torch.compile``: ``fullgraph=True``, ``mode="reduce-overhead"``...
        """
        for engine in self.attachments.values():
            engine.binding.compile(**options)

    def report(self) -> dict[str, ModelReport]:
        """The report of each model's last run, by name: its steps, FLOPs and memory; ``print`` shows a table."""
        return Printed(
            {
                name: self.describe(name, report_of(engine))
                for name, engine in self.attachments.items()
            }
        )

    def describe(self, name: str, base: ModelReport) -> ModelReport:
        """The report of one model, with what a method has to add to ``base``: here nothing."""
        return base

    def doctor(self) -> dict[str, Diagnosis]:
        """The diagnosis of each model, by name: the blocks that were found, and those that can be skipped."""
        return Printed({name: diagnose(engine) for name, engine in self.attachments.items()})


class Printed(dict[str, Any]):
    """A dictionary whose values print themselves."""

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.items())
