# SPDX-License-Identifier: Apache-2.0
"""What the commands of ``genaccel train`` share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples per step and process.")]
WarmupSteps = Annotated[
    int, typer.Option(min=0, help="Steps over which the learning rate rises to its peak.")
]
LearningRate = Annotated[float, typer.Option(help="Peak of the cosine schedule.")]
Minutes = Annotated[float, typer.Option(help="Minutes between checkpoints.")]
Precision = Annotated[Literal["no", "fp16", "bf16"], typer.Option()]
Seed = Annotated[int, typer.Option()]
Cpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPU even where a GPU is.")]


def missing_extra(error: ModuleNotFoundError) -> typer.BadParameter:
    """What to tell a user whose installation cannot train."""
    return typer.BadParameter(f"training needs {error.name}: pip install 'genaccel[train]'")


def run_training(training: Any) -> None:
    """Run to the last step; a loss that is not finite ends the command with one line and exit code 1."""
    from genaccel.training.loop import NonFiniteLossError

    try:
        training.train()
    except NonFiniteLossError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
