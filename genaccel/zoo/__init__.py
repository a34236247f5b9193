# SPDX-License-Identifier: Apache-2.0
"""Small trained models that come with the package, each with a card.

``models.json`` has a row for each: its kind, aliases (former names that stay good), and for codecs the number that compressed files carry, the
quality that chooses it, and its rate on photographs. A number is never given to another model: old files must stay
readable.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genaccel.errors import UnknownModelError
from genaccel.models.registry import check_model_folder

_FOLDER = Path(__file__).parent

# The folders of a kind are of the type of the same name, but for these.
_TYPE_OF_KIND = {"codec": "autoencoder", "autoregressive": "pipeline"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel:
    """A model that a user named.

    Attributes:
        name: In the zoo; the folder as the user wrote it, for a model outside it.
        folder: Where it is.
        codec_number: Of a codec of the zoo; 0 for all others.
    """

    name: str
    folder: Path
    codec_number: int


def _entries() -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads((_FOLDER / "models.json").read_text())
    return entries


def _entry(name: str) -> tuple[str, dict[str, Any]]:
    """Name and row of a model."""
    entries = _entries()
    for present, entry in entries.items():
        if name == present or name in entry.get("aliases", ()):
            return present, entry
    raise UnknownModelError(f"no model {name!r} in the zoo; it has {', '.join(sorted(entries))}")


def names(kind: str | None = None) -> list[str]:
    """Names of the shipped models, sorted; of one ``kind`` ("autoregressive", "codec", "pipeline",
    "restoration") if given.

    Example:
        >>> names("codec")
        ['photo-codec-high', 'photo-codec-low', 'photo-codec-medium']
    """
    return sorted(n for n, entry in _entries().items() if kind is None or entry["kind"] == kind)


def canonical_name(name: str, kind: str) -> str | None:
    """The name of a model of this kind that it or an alias of it stands for; None if the zoo has no such model.

    Example:
        >>> canonical_name("photo-codec-small", "codec")
        'photo-codec-high'
    """
    try:
        present, entry = _entry(name)
    except UnknownModelError:
        return None
    return present if entry["kind"] == kind else None


def resolve(name_or_folder: str | os.PathLike[str], kind: str) -> ResolvedModel:
    """The model of a kind that a name in the zoo (an alias, too) or a folder stands for, its parts checked.

    Args:
        name_or_folder: A name goes before a folder that is called so in the working directory.
        kind: As for :func:`names`.

    Raises:
        UnknownModelError: If there is no such model, or it is of another kind, or lacks a part or has another model's.

    Example:
        >>> resolve("photo-codec-low", "codec").codec_number
        3
    """
    text = os.fspath(name_or_folder)
    present, number = canonical_name(text, kind), 0
    if present is not None:
        folder, number = _FOLDER / present, int(_entry(present)[1].get("codec_number", 0))
    elif os.path.isdir(text):  # also of names that no file system takes
        folder = Path(text)
    elif any(text == name or text in row.get("aliases", ()) for name, row in _entries().items()):
        raise UnknownModelError(f"{text} of the zoo is no {kind}: it has {', '.join(names(kind))}")
    else:
        raise UnknownModelError(
            f"no model {text!r}: it is neither a folder nor one of {', '.join(names(kind))}"
        )
    try:
        check_model_folder(folder, _TYPE_OF_KIND.get(kind, kind))
    except (OSError, ValueError) as error:
        raise UnknownModelError(f"model {text!r} cannot be loaded: {error}") from error
    return ResolvedModel(name=present or text, folder=folder, codec_number=number)


def path(name: str) -> Path:
    """Folder of a model, as its ``from_pretrained`` takes it; for a pipeline that of diffusers.

    Raises:
        UnknownModelError: If there is no such model.
    """
    return _FOLDER / _entry(name)[0]


def card(name: str) -> str:
    """The model's card, Markdown: data, command, seconds, figures, licence.

    Raises:
        UnknownModelError: If there is no such model.
    """
    return (path(name) / "README.md").read_text(encoding="utf-8")


def codecs_by_rate() -> list[str]:
    """Names of the codecs that a file's size or quality chooses from, the largest files first."""
    rates = {n: e["bits_per_pixel"] for n, e in _entries().items() if "bits_per_pixel" in e}
    return sorted(rates, key=lambda name: -float(rates[name]))


def fair_rdo(name: str) -> float:
    """Weight of the rate beyond which the next codec of :func:`codecs_by_rate` is better.

    There, this one has the ST-LPIPS of the next one without such a weight, in more bits. Next after the last codec is the
    first one at half size.

    Raises:
        UnknownModelError: If there is no such model.
    """
    return float(_entry(name)[1].get("fair_rdo", 0.0))


def codec_of_quality(quality: str) -> str:
    """Name of the codec for "low", "medium" or "high" quality.

    Raises:
        UnknownModelError: If there is none.
    """
    for name, entry in _entries().items():
        if entry.get("quality") == quality:
            return name
    raise UnknownModelError(f"the zoo has no codec of {quality!r} quality")


def codec_number(name: str) -> int:
    """The number (1 to 255) that files of this codec model carry.

    Raises:
        UnknownModelError: If there is no such model, or it is no codec.
    """
    number = _entry(name)[1].get("codec_number")
    if number is None:
        raise UnknownModelError(
            f"model {name!r} is no codec; codecs are {', '.join(names('codec'))}"
        )
    return int(number)


def codec_name(number: int) -> str | None:
    """The codec model that a file's number stands for; None if this version has none."""
    for name, entry in _entries().items():
        if entry.get("codec_number") == number:
            return name
    return None
