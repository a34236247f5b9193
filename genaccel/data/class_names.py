# SPDX-License-Identifier: Apache-2.0
"""Classes of pictures, read off their file names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# Pictures of Endless Sky that are called after who took them, not after what they show.
_PHOTOGRAPHERS = {"endless-sky": frozenset({"bwerner", "dmottl", "mfield", "myrabella", "nasa"})}


def class_of(path: Path) -> str:
    """Class of a picture: the letters of its name before the first other character, as in ``beach3.jpg``.

    Returns:
        The class in lower case; empty if the name has none, or names the photographer, as some of Endless Sky do.
    """
    found = re.match(r"[a-z]+", path.name.lower())
    name = found[0] if found else ""
    return "" if name in _PHOTOGRAPHERS.get(path.parent.name, ()) else name


def classes_of(paths: Sequence[Path], *, min_images: int) -> list[str]:
    """Class names by label, in the order of the alphabet.

    Raises:
        ValueError: If no class has as many pictures.
    """
    counts = Counter(class_of(path) for path in paths)
    names = sorted(name for name, count in counts.items() if name and count >= min_images)
    if not names:
        raise ValueError(
            f"no class has {min_images} pictures; classes are the names before numbers"
        )
    return names
