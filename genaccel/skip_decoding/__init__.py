# SPDX-License-Identifier: Apache-2.0
"""Image tokens drawn several at a time: speculative decoding of stock language models, exact, relaxed, or skipping
verifications (VVS, arXiv:2511.13587).

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.skip_decoding.acceptance import Relaxation, nearest_code_words
    from genaccel.skip_decoding.config import SkipDecodingConfig
    from genaccel.skip_decoding.decoding import Decoded, decode
    from genaccel.skip_decoding.drafters import JacobiDrafter, ModelDrafter
    from genaccel.skip_decoding.feature_drafter import FeatureDrafter, FeatureDrafterNetwork
    from genaccel.skip_decoding.generate import GenerationReport, speculative_generate
    from genaccel.skip_decoding.options import DecodingOptions, SkipRule
    from genaccel.skip_decoding.report import DecodingReport
    from genaccel.skip_decoding.sampling import SamplingRule

__all__ = [
    "Decoded",
    "DecodingOptions",
    "DecodingReport",
    "FeatureDrafter",
    "FeatureDrafterNetwork",
    "GenerationReport",
    "JacobiDrafter",
    "ModelDrafter",
    "Relaxation",
    "SamplingRule",
    "SkipDecodingConfig",
    "SkipRule",
    "decode",
    "nearest_code_words",
    "speculative_generate",
]

_MODULES = {
    "Decoded": "decoding",
    "DecodingOptions": "options",
    "DecodingReport": "report",
    "FeatureDrafter": "feature_drafter",
    "FeatureDrafterNetwork": "feature_drafter",
    "GenerationReport": "generate",
    "JacobiDrafter": "drafters",
    "ModelDrafter": "drafters",
    "Relaxation": "acceptance",
    "SamplingRule": "sampling",
    "SkipDecodingConfig": "config",
    "SkipRule": "options",
    "decode": "decoding",
    "nearest_code_words": "acceptance",
    "speculative_generate": "generate",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
