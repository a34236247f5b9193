# SPDX-License-Identifier: Apache-2.0
"""Photographs to very small files and back (RDVQ, arXiv 2604.10546).

Names are loaded on first use: reading a file's header needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.codec.bitstream import Bitstream, BitstreamInfo, describe
    from genaccel.codec.encode_options import EncodeOptions
    from genaccel.codec.image_codec import ImageCodec
    from genaccel.codec.images import encode_image, read_image
    from genaccel.codec.limits import CodecLimits

__all__ = [
    "Bitstream",
    "BitstreamInfo",
    "CodecLimits",
    "EncodeOptions",
    "ImageCodec",
    "describe",
    "encode_image",
    "read_image",
]

_MODULES = {
    "Bitstream": "bitstream",
    "BitstreamInfo": "bitstream",
    "CodecLimits": "limits",
    "EncodeOptions": "encode_options",
    "ImageCodec": "image_codec",
    "describe": "bitstream",
    "encode_image": "images",
    "read_image": "images",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
