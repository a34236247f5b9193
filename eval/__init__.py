# SPDX-License-Identifier: Apache-2.0
"""Measuring images, codecs and speed: one metric a file, listed in :mod:`genaccel.eval.metrics`.

Each also runs as ``python -m genaccel.eval.<name>``. The names below work on the files of all of them; they are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.eval._pairs.folder_pairs import match_folders
    from genaccel.eval._pairs.pair_metrics import load_paired_metric, score_pairs
    from genaccel.eval._rate.compressai_models import as_compressai
    from genaccel.eval._sets.image_sources import FileImages, GeneratedImages, PipelineImages
    from genaccel.eval._sets.set_features import extract_features

_MODULES = {
    "FileImages": "_sets.image_sources",
    "GeneratedImages": "_sets.image_sources",
    "PipelineImages": "_sets.image_sources",
    "as_compressai": "_rate.compressai_models",
    "extract_features": "_sets.set_features",
    "load_paired_metric": "_pairs.pair_metrics",
    "match_folders": "_pairs.folder_pairs",
    "score_pairs": "_pairs.pair_metrics",
}

__all__ = [
    "FileImages",
    "GeneratedImages",
    "PipelineImages",
    "as_compressai",
    "extract_features",
    "load_paired_metric",
    "match_folders",
    "score_pairs",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
