# SPDX-License-Identifier: Apache-2.0
"""Where what was measured or planned on this machine is kept for later calls."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(kind: str) -> Path:
    """The folder of one kind of things, in ``$GENACCEL_CACHE``, by default ``~/.cache/genaccel``; it need not exist.

    Raises:
        RuntimeError: If the user has no home folder.
    """
    root = os.environ.get("GENACCEL_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "genaccel") / kind
