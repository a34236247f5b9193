# SPDX-License-Identifier: Apache-2.0
"""Evaluations as one HTML page: charts, tables, and pictures to compare with a slider."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer

import genaccel
from genaccel.eval import _page
from genaccel.eval._page.markup import Html, element, join, verbatim
from genaccel.eval._page.pair_pictures import Gallery, gallery
from genaccel.eval._page.pairs_section import pairs_section
from genaccel.eval._page.pictures import PictureStore
from genaccel.eval._page.run_files import Run, read_run
from genaccel.eval._page.sections import (
    joint_section,
    place,
    rate_distortion_section,
    set_section,
    speed_section,
    speed_up,
)
from genaccel.eval._page.subjects import Subject, distinct, subjects_of, with_distinct_names
from genaccel.eval.commands import usage_errors
from genaccel.files.atomic import refuse_existing, write_atomically

_TITLE = "Evaluation"
_MAX_IMAGES = 8
_MAX_MEGABYTES = 24.0

# Joined in this order.
_STYLES = ("page.css", "chart.css", "viewer.css", "pairs.css")
_SCRIPTS = ("elements.js", "scales.js", "chart.js", "viewer.js", "sorting.js", "page.js")


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str = _TITLE,
    overwrite: bool = False,
    max_images: int = _MAX_IMAGES,
    max_megabytes: float = _MAX_MEGABYTES,
    pictures_from: Sequence[Path] = (),
) -> None:
    """Write a page that shows evaluations, in one file that needs nothing else.

    Args:
        runs: JSON files that the commands of ``genaccel eval`` wrote. Their pictures are read from the
            folders they lie in.
        out: The page.
        title: Its heading.
        overwrite: Replace a file that is there already.
        max_images: Pairs of each paired run that are shown as pictures, the worst first.
        max_megabytes: What the pictures may take, in 10**6 bytes of the page; those beyond are left out,
            which the page says.
        pictures_from: Further folders that pictures of paired runs may be read from.

    Raises:
        ValueError: If there are no runs, or one cannot be used, or an argument is out of range.
        FileExistsError: If the page exists and ``overwrite`` is off.
        OSError: If a file cannot be read or written.
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    if any(out.resolve() == path.resolve() for path in runs):
        raise ValueError(f"{out} is one of the runs; writing the report there would destroy it")
    if not overwrite:
        refuse_existing(out)  # before the pictures are encoded, which takes a while
    page = render_report(
        [read_run(path) for path in runs],
        title=title,
        max_images=max_images,
        max_megabytes=max_megabytes,
        pictures_from=pictures_from,
    )
    # UTF-8 has no half surrogate pairs, which a JSON text can ask for.
    write_atomically(out, page.encode("utf-8", "replace"), overwrite=overwrite)


def render_report(
    runs: Sequence[Run],
    *,
    title: str = _TITLE,
    max_images: int = _MAX_IMAGES,
    max_megabytes: float = _MAX_MEGABYTES,
    pictures_from: Sequence[Path] = (),
) -> str:
    """The page as text; arguments as for :func:`write_report`.

    Raises:
        ValueError: If a picture of a rate-distortion run cannot be used, or an argument is out of range.
    """
    if max_images < 0:
        raise ValueError(f"max_images must be at least 0, got {max_images}")
    if not (max_megabytes >= 0 and math.isfinite(max_megabytes)):
        raise ValueError(f"max_megabytes must be finite and at least 0, got {max_megabytes}")
    pictures = PictureStore(int(max_megabytes * 1e6))
    drawn: list[dict[str, Any]] = []
    sections: list[Html] = []
    contents: list[tuple[str, str]] = []
    runs = with_distinct_names(runs)
    curves = [run for run in runs if run.kind == "rate_distortion"]
    if len(curves) > 1:
        sections.append(joint_section(curves, len(drawn)))
        contents.append((f"run-{len(drawn)}", "Rate and distortion of all runs"))
        drawn.append(_joint_data(curves))
    for run in runs:
        if run.kind not in ("rate_distortion", "speed"):
            continue
        data, left_out = _script_data(run, pictures)
        if run.kind == "rate_distortion":
            sections.append(rate_distortion_section(run, len(drawn), left_out))
        else:
            sections.append(speed_section(run, len(drawn)))
        contents.append((f"run-{len(drawn)}", run.name))
        drawn.append(data)
    shown = Gallery()
    paired = subjects_of([run for run in runs if run.kind == "paired"])
    if paired:
        shown = gallery(paired, pictures, max_images=max_images, trusted=pictures_from)
        viewer = Html("")
        if shown.cards:
            viewer = place("viewer", len(drawn))
            drawn.append(_pair_data(paired, shown))
        sections.append(pairs_section(paired, shown, pictures.entries, viewer))
        contents.append(("paired", "Pairs of images"))
    of_sets = [run for run in runs if run.kind == "set"]
    if of_sets:
        sections.append(set_section(of_sets))
        contents.append(("sets", "Sets of images"))
    now = datetime.datetime.now(datetime.UTC)
    date = element(
        "time",
        f"{now.day} {now:%B %Y, %H:%M} UTC",
        datetime=now.isoformat(timespec="seconds"),
    )
    links = (
        element("li", element("a", verbatim(name), href=f"#{anchor}")) for anchor, name in contents
    )
    script = f'\n(() => {{\n"use strict";\n{_assets(_SCRIPTS)}\n}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_assets(("page.html",))).substitute(
        title=join([title]),
        style=_assets(_STYLES),
        version=genaccel.__version__,
        date=date,
        contents=join(links) if len(contents) > 1 else "",
        sections=join(sections),
        data=_embeddable({"runs": drawn, "pictures": _pictures_data(pictures, shown)}),
        script=script,
        script_digest=digest,
    )


def _script_data(run: Run, pictures: PictureStore) -> tuple[dict[str, Any], int]:
    """The part of a run that the page's script draws, and how many of its pictures have no room."""
    content = run.content
    if run.kind == "speed":
        sides = [
            {**side, "speedup": speed_up(content["sides"][0], side)} for side in content["sides"]
        ]
        return {"kind": run.kind, "metrics": content["metrics"], "sides": sides}, 0
    shown = []
    for picture in content["pictures"]:
        files = [picture["original"], *(version["file"] for version in picture["versions"])]
        try:
            indices = pictures.add_all(run.path.parent, files)
        except ValueError as error:
            raise ValueError(f"{run.path}: {error}") from error
        if indices is None:
            break
        versions = [
            {**version, "file": index}
            for version, index in zip(picture["versions"], indices[1:], strict=True)
        ]
        shown.append({**picture, "original": indices[0], "versions": versions})
    codecs = [
        {"codec": name, "points": _points_without_images(codec)}
        for codec, name in zip(
            content["codecs"], distinct([c["codec"] for c in content["codecs"]]), strict=True
        )
    ]
    found = {
        "kind": run.kind,
        "metrics": content["metrics"],
        "codecs": codecs,
        "pictures": shown,
    }
    return found, len(content["pictures"]) - len(shown)


def _points_without_images(codec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in point.items() if name != "images"}
        for point in codec["points"]
    ]


def _joint_data(runs: Sequence[Run]) -> dict[str, Any]:
    """All curves of several runs, as if they were of one."""
    named = [
        (f"{codec['codec']}, {run.name}", codec) for run in runs for codec in run.content["codecs"]
    ]
    names = distinct([name for name, _ in named])
    return {
        "kind": "rate_distortion",
        "metrics": {key: metric for run in runs for key, metric in run.content["metrics"].items()},
        "codecs": [
            {"codec": name, "points": _points_without_images(codec)}
            for name, (_, codec) in zip(names, named, strict=True)
        ],
        "pictures": [],
    }


def _pictures_data(pictures: PictureStore, shown: Gallery) -> list[dict[str, Any]]:
    """The page's pictures; of those that it shows without the script, the script gets the elements."""
    found = [dict(entry) for entry in pictures.entries]
    for cards in shown.cards.values():
        for card in cards:
            for index in (card.original, card.result, card.difference):
                del found[index]["src"]
                found[index]["element"] = f"picture-{index}"
    return found


def _pair_data(subjects: Sequence[Subject], shown: Gallery) -> dict[str, Any]:
    """Pairs for the viewer: an original with the results of all subjects that show it."""
    metrics: dict[str, Any] = {}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for index, subject in enumerate(subjects):
        metrics |= subject.metrics
        values = dict(subject.images())
        for card in shown.cards.get(index, []):
            picture = found.setdefault(
                (card.name, card.file),
                {"name": card.name, "original": card.original, "versions": []},
            )
            picture["versions"] += [
                {"label": subject.name, "file": card.result, "metrics": values[card.name]},
                {"label": f"difference of {subject.name}", "file": card.difference, "metrics": {}},
            ]
    pictures = [
        {**picture, "name": name}
        for picture, name in zip(found.values(), distinct([name for name, _ in found]), strict=True)
    ]
    return {"kind": "pairs", "metrics": metrics, "pictures": pictures}


def _embeddable(data: Any) -> str:
    # Without a "<", no name can close the script element that holds it, nor open a comment there.
    return json.dumps(_with_infinities(data), allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )


def _with_infinities(value: Any) -> Any:
    """JSON has no infinity; the script makes it again of an object that nothing else looks like."""
    if isinstance(value, float) and math.isinf(value):
        return {"infinite": 1 if value > 0 else -1}
    if isinstance(value, Mapping):
        return {name: _with_infinities(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_infinities(item) for item in value]
    return value


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
    max_images: Annotated[
        int,
        typer.Option(min=0, help="Pairs of each run that are shown as pictures, the worst first."),
    ] = _MAX_IMAGES,
    max_megabytes: Annotated[
        float, typer.Option(min=0, help="What the pictures may take.")
    ] = _MAX_MEGABYTES,
    pictures_from: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder that pictures of pairs may be read from, beside those of the runs; repeat it.",
        ),
    ] = None,
) -> None:
    """Put results of genaccel eval (their --json output) on one HTML page."""
    with usage_errors():
        write_report(
            runs,
            out,
            title=title,
            overwrite=force,
            max_images=max_images,
            max_megabytes=max_megabytes,
            pictures_from=pictures_from or (),
        )
    typer.echo(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB", err=True)


if __name__ == "__main__":
    typer.run(main)
