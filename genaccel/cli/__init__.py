# SPDX-License-Identifier: Apache-2.0
"""The ``genaccel`` command. Each subcommand is a module that is imported when it is called, and not before."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

import genaccel
from genaccel.cli.exit_codes import ExitCode, exit_code, said
from genaccel.cli.lazy_group import Subcommand, lazy_group
from genaccel.cli.streams import set_up_process, shown

SUBCOMMANDS = (
    Subcommand("encode", "genaccel.cli.encode", "Compress images to .gac files."),
    Subcommand("decode", "genaccel.cli.decode", "Restore images from .gac files."),
    Subcommand("blend", "genaccel.cli.blend", "Blend a faithful and a sharp upscale."),
    Subcommand("info", "genaccel.cli.info", "Show what .gac files say about themselves."),
    Subcommand("zoo", "genaccel.cli.zoo", "List the models that come with the package.", True),
    Subcommand("demo", "genaccel.cli.demo", "Compress held-out photographs and compare."),
    Subcommand(
        "accelerate", "genaccel.cli.accelerate", "Sample a pipeline with and without acceleration."
    ),
    Subcommand("doctor", "genaccel.cli.doctor", "Show what can be accelerated in a pipeline."),
    Subcommand("calibrate", "genaccel.cli.calibrate", "Measure a pipeline and plan its speed-ups."),
    Subcommand("tune", "genaccel.cli.tune", "Search for a pipeline's best plans by quality."),
    Subcommand("train", "genaccel.cli.train", "Train models.", True),
    Subcommand("convert", "genaccel.cli.convert", "Convert other people's checkpoints.", True),
    Subcommand("data", "genaccel.cli.data", "Fetch training data.", True),
    Subcommand("eval", "genaccel.cli.eval", "Measure image quality, rate and speed.", True),
)


class GenaccelGroup(lazy_group(SUBCOMMANDS)):  # type: ignore[misc]
    """Says expected failures in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Turn expected failures into one line on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            raise  # typer ends quietly
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            typer.echo(f"error: {shown(said(error))}", err=True)
            raise typer.Exit(code) from error


app = typer.Typer(
    cls=GenaccelGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from genaccel.codec.format.limits import FORMAT_VERSIONS

        versions = " and ".join(map(str, FORMAT_VERSIONS))
        typer.echo(f"genaccel {genaccel.__version__}, .gac format versions {versions}")
        raise typer.Exit


@app.callback()
def genaccel_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Faster, smaller image generation: codec, models, training and measurements.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 damaged file,
    4 unknown model, 5 limit exceeded, 6 some files of a batch failed,
    130 interrupted, 129 and 143 ended by SIGHUP and SIGTERM.
    """
    # Names of files need not be text, and none of them shall end a command.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Entry point of the ``genaccel`` script."""
    set_up_process()
    try:
        app(prog_name="genaccel")
    except OSError as error:  # of help that is written to a full disk, before there is a command
        sys.exit(f"error: {error}")
