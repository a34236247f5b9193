# SPDX-License-Identifier: Apache-2.0
"""Evaluations as one HTML page: charts, tables, and pictures to compare with a slider."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer

from genaccel.eval import _page
from genaccel.eval._page.markup import Html, element, join
from genaccel.eval._page.pictures import PictureStore
from genaccel.eval._page.run_files import Run, read_run
from genaccel.eval._page.sections import (
    paired_section,
    rate_distortion_section,
    set_section,
    speed_section,
    speed_up,
)
from genaccel.eval.commands import usage_errors
from genaccel.files.atomic import refuse_existing, write_atomically

_TITLE = "Evaluation"

# Joined in this order.
_STYLES = ("page.css", "chart.css", "viewer.css")
_SCRIPTS = ("elements.js", "scales.js", "chart.js", "viewer.js", "page.js")


def write_report(
    runs: Sequence[Path], out: Path, *, title: str = _TITLE, overwrite: bool = False
) -> None:
    """Write a page that shows evaluations, in one file that needs nothing else.

    Args:
        runs: JSON files that the commands of ``genaccel eval`` wrote. Their pictures are read from the
            folders they lie in.
        out: The page.
        title: Its heading.
        overwrite: Replace a file that is there already.

    Raises:
        ValueError: If there are no runs, or one cannot be used.
        FileExistsError: If the page exists and ``overwrite`` is off.
        OSError: If a file cannot be read or written.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    if any(out.resolve() == path.resolve() for path in runs):
        raise ValueError(f"{out} is one of the runs; writing the report there would destroy it")
    if not overwrite:
        refuse_existing(out)  # before the pictures are encoded, which takes a while
    # UTF-8 has no half surrogate pairs, which a JSON text can ask for.
    page = render_report([read_run(path) for path in runs], title=title).encode("utf-8", "replace")
    write_atomically(out, page, overwrite=overwrite)


def render_report(runs: Sequence[Run], *, title: str = _TITLE) -> str:
    """The page as text.

    Raises:
        ValueError: If a picture of a run cannot be used.
    """
    pictures = PictureStore()
    drawn: list[dict[str, Any]] = []
    sections: list[Html] = []
    contents: list[tuple[str, str]] = []
    for run in runs:
        if run.kind == "rate_distortion":
            sections.append(rate_distortion_section(run, len(drawn)))
        elif run.kind == "speed":
            sections.append(speed_section(run, len(drawn)))
        else:
            continue
        contents.append((f"run-{len(drawn)}", run.name))
        drawn.append(_script_data(run, pictures))
    for kind, anchor, name, section in (
        ("paired", "paired", "Pairs of images", paired_section),
        ("set", "sets", "Sets of images", set_section),
    ):
        chosen = [run for run in runs if run.kind == kind]
        if chosen:
            sections.append(section(chosen))
            contents.append((anchor, name))
    now = datetime.datetime.now(datetime.UTC)
    date = element(
        "time",
        f"{now.day} {now:%B %Y, %H:%M} UTC",
        datetime=now.isoformat(timespec="seconds"),
    )
    links = (element("li", element("a", name, href=f"#{anchor}")) for anchor, name in contents)
    return Template(_assets(("page.html",))).substitute(
        title=join([title]),
        style=_assets(_STYLES),
        date=date,
        contents=join(links) if len(contents) > 1 else "",
        sections=join(sections),
        data=_embeddable({"runs": drawn, "pictures": pictures.entries}),
        script=_assets(_SCRIPTS),
    )


def _script_data(run: Run, pictures: PictureStore) -> dict[str, Any]:
    """The part of a run that the page's script draws; the tables have the rest."""
    content = run.content
    if run.kind == "speed":
        sides = [
            {**side, "speedup": speed_up(content["sides"][0], side)} for side in content["sides"]
        ]
        return {"kind": run.kind, "metrics": content["metrics"], "sides": sides}
    try:
        shown = [
            {
                **picture,
                "original": pictures.add(run.path.parent, picture["original"]),
                "versions": [
                    {**version, "file": pictures.add(run.path.parent, version["file"])}
                    for version in picture["versions"]
                ],
            }
            for picture in content["pictures"]
        ]
    except ValueError as error:
        raise ValueError(f"{run.path}: {error}") from error
    codecs = [
        {
            "codec": codec["codec"],
            "points": [
                {name: value for name, value in point.items() if name != "images"}
                for point in codec["points"]
            ],
        }
        for codec in content["codecs"]
    ]
    return {
        "kind": run.kind,
        "metrics": content["metrics"],
        "codecs": codecs,
        "pictures": shown,
    }


def _embeddable(data: Any) -> str:
    # Without a "<", no name can close the script element that holds it, nor open a comment there.
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _assets(names: Sequence[str]) -> str:
    folder = resources.files(_page)
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8").strip() for name in names)


def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN.json...", help="Results to show.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="HTML", help="The page.")],
    title: Annotated[str, typer.Option(help="Its heading.")] = _TITLE,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite an existing page.")
    ] = False,
) -> None:
    """Put results of genaccel eval (their --json output) on one HTML page."""
    with usage_errors():
        write_report(runs, out, title=title, overwrite=force)
    typer.echo(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB", err=True)


if __name__ == "__main__":
    typer.run(main)
