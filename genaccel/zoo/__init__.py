# SPDX-License-Identifier: Apache-2.0
"""Small trained models that come with the package, each with a card.

``models.json`` gives each model a kind and, for codecs, the number that compressed files carry, the quality that
chooses it, and its rate on photographs. A number is never given to another model: old files must stay readable.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genaccel.errors import UnknownModelError

_FOLDER = Path(__file__).parent


def _entries() -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads((_FOLDER / "models.json").read_text())
    return entries


def _entry(name: str) -> dict[str, Any]:
    entries = _entries()
    if name not in entries:
        raise UnknownModelError(
            f"no model {name!r} in the zoo; it has {', '.join(sorted(entries))}"
        )
    return entries[name]


def names(kind: str | None = None) -> list[str]:
    """Names of the shipped models, sorted; of one ``kind`` ("codec", "pipeline", "restoration") if given.

    Example:
        >>> names("codec")
        ['photo-codec-low', 'photo-codec-medium', 'photo-codec-small']
    """
    return sorted(n for n, entry in _entries().items() if kind is None or entry["kind"] == kind)


def path(name: str) -> Path:
    """Folder of a model, as its ``from_pretrained`` takes it; for a pipeline that of diffusers.

    Raises:
        UnknownModelError: If there is no such model.
    """
    _entry(name)
    return _FOLDER / name


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
    return float(_entry(name).get("fair_rdo", 0.0))


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
    number = _entry(name).get("codec_number")
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
