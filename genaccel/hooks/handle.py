# SPDX-License-Identifier: Apache-2.0
"""What ``genaccel.enable`` returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from genaccel.hooks.attachment import Attachment
from genaccel.hooks.doctor import Diagnosis, diagnose
from genaccel.hooks.report import ModelReport, report_of


class AccelerationHandle:
    """Acceleration of one pipeline or model, until :meth:`disable`.

    Args:
        attachments: The accelerated models by name.
    """

    def __init__(self, attachments: Mapping[str, Attachment]) -> None:
        self.attachments = dict(attachments)
        self._is_enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether :meth:`disable` was not called yet."""
        return self._is_enabled

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Run unaccelerated within the ``with``, for comparison."""
        with contextlib.ExitStack() as stack:
            for attachment in self.attachments.values():
                stack.enter_context(attachment.paused())
            yield

    def disable(self) -> None:
        """Remove everything from the models: they compute what they did before, bit for bit.

        May be called more than once.
        """
        if self._is_enabled:
            for attachment in self.attachments.values():
                attachment.detach()
            self._is_enabled = False

    def reset(self) -> None:
        """Forget what was cached. Runs do so by themselves when they begin."""
        for attachment in self.attachments.values():
            attachment.reset()

    def compile(self, **options: Any) -> None:
        """Compile the models' forward with ``torch.compile``, the step logic outside of it.

        One graph is compiled for each kind of step: all computed, all forecast, and each mixture
        that the plan has.

        Args:
            options: For ``torch.compile``: ``fullgraph=True``, ``mode="reduce-overhead"``...
        """
        for attachment in self.attachments.values():
            attachment.compile(**options)

    def report(self) -> dict[str, ModelReport]:
        """What the last run of each model computed and saved; ``print`` shows a table."""
        return _Printed(
            {name: report_of(attachment) for name, attachment in self.attachments.items()}
        )

    def doctor(self) -> dict[str, Diagnosis]:
        """What was bound, what can be saved, and what does nothing."""
        return _Printed(
            {name: diagnose(attachment) for name, attachment in self.attachments.items()}
        )

    def __enter__(self) -> AccelerationHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.disable()


class _Printed(dict[str, Any]):
    """A dictionary whose values print themselves."""

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.items())
