# SPDX-License-Identifier: Apache-2.0
"""Image tokens drawn several at a time: speculative decoding of stock language models, exact, relaxed, or skipping
verifications (VVS, arXiv:2511.13587).

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.skip_decoding.config import SkipDecodingConfig
    from genaccel.skip_decoding.decoding import Decoded, decode
    from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
    from genaccel.skip_decoding.drafts.feature_drafter import FeatureDrafter, FeatureDrafterNetwork
    from genaccel.skip_decoding.generation.generate import GenerationReport, speculative_generate
    from genaccel.skip_decoding.options import DecodingOptions, SkipRule
    from genaccel.skip_decoding.report import DecodingReport
    from genaccel.skip_decoding.sampling import SamplingRule
    from genaccel.skip_decoding.verifying.acceptance import Relaxation, nearest_code_words

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
    "FeatureDrafter": "drafts.feature_drafter",
    "FeatureDrafterNetwork": "drafts.feature_drafter",
    "GenerationReport": "generation.generate",
    "JacobiDrafter": "drafts.drafters",
    "ModelDrafter": "drafts.drafters",
    "Relaxation": "verifying.acceptance",
    "SamplingRule": "sampling",
    "SkipDecodingConfig": "config",
    "SkipRule": "options",
    "decode": "decoding",
    "nearest_code_words": "verifying.acceptance",
    "speculative_generate": "generation.generate",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
