# SPDX-License-Identifier: Apache-2.0
"""Image codec: photographs to very small files and back (RDVQ, arXiv 2604.10546).

Names are loaded on first use: reading a file's header needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.codec.carried import DecodedImage
    from genaccel.codec.encoder.encode_options import EncodeOptions
    from genaccel.codec.format.bitstream import Bitstream, BitstreamInfo, describe
    from genaccel.codec.format.limits import CodecLimits
    from genaccel.codec.format.metadata import PhotoMetadata
    from genaccel.codec.image_codec import ImageCodec
    from genaccel.files.image_writer import encode_image
    from genaccel.files.images import read_image

__all__ = [
    "Bitstream",
    "BitstreamInfo",
    "CodecLimits",
    "DecodedImage",
    "EncodeOptions",
    "ImageCodec",
    "PhotoMetadata",
    "describe",
    "encode_image",
    "read_image",
]

_MODULES = {
    "Bitstream": "codec.format.bitstream",
    "BitstreamInfo": "codec.format.bitstream",
    "CodecLimits": "codec.format.limits",
    "DecodedImage": "codec.carried",
    "EncodeOptions": "codec.encoder.encode_options",
    "ImageCodec": "codec.image_codec",
    "PhotoMetadata": "codec.format.metadata",
    "describe": "codec.format.bitstream",
    "encode_image": "files.image_writer",
    "read_image": "files.images",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"genaccel.{_MODULES[name]}"), name)
