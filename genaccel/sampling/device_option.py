# SPDX-License-Identifier: Apache-2.0
"""The check of ``--device``, which many commands have."""

from __future__ import annotations

import re

import typer


def checked_device(value: str) -> str:
    """A device that is here, for the callback of an option.

    Args:
        value: ``cpu``, ``cuda``, or ``cuda:N``.

    Raises:
        typer.BadParameter: If it is something else, or a GPU that this machine does not have.
    """
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", value, re.ASCII)
    if found is None:
        raise typer.BadParameter(f"must be cpu, cuda, or cuda:1 and so on, got {value!r}")
    if value != "cpu":
        import torch

        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(found[1] or 0) >= there:
            has = "no GPU that CUDA can use" if not there else f"cuda:0 to cuda:{there - 1} only"
            raise typer.BadParameter(f"{value} is not here: this machine has {has}")
    return value
