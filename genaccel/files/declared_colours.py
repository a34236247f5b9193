# SPDX-License-Identifier: Apache-2.0
"""Which of all that an image file says about its colours counts."""

from __future__ import annotations

from PIL import Image

from genaccel.files.colour import (
    ADOBE_RGB,
    RgbEncoding,
    encoding_of_code_points,
    encoding_of_gamma,
)
from genaccel.files.image_headers import HeaderFacts

# Folders of EXIF data, and tags in them (CIPA DC-008, 4.6.3 and 4.6.8).
EXIF_FOLDER, INTEROPERABILITY_FOLDER = 0x8769, 0xA005
_COLOUR_SPACE_TAG, _INTEROPERABILITY_INDEX_TAG = 0xA001, 0x0001


def _names_adobe_rgb(exif: Image.Exif) -> bool:
    index = exif.get_ifd(INTEROPERABILITY_FOLDER).get(_INTEROPERABILITY_INDEX_TAG)
    space = exif.get_ifd(EXIF_FOLDER).get(_COLOUR_SPACE_TAG)
    return (index in ("R03", b"R03", "R03\0") and space != 1) or space == 2


def declared_colours(
    image: Image.Image, exif: Image.Exif, facts: HeaderFacts, notes: list[str]
) -> bytes | RgbEncoding | None:
    """What a file says about its colours: an ICC profile, an encoding, or None for nothing.

    Of several, one counts. In PNG, code points come before a profile, that before the sRGB chunk, and that before
    gamma and chromaticities (W3C PNG, third edition, 4.3); in AVIF and HEIC, a profile comes before code points
    (ISO/IEC 23000-22, 7.3.6.4); a camera's EXIF data comes last.

    Args:
        image: Its pixels need not be decoded yet.
        exif: Of the image, with the folders it names read.
        facts: Of its file.
        notes: Gets what could not be made use of.

    Raises:
        UnsupportedImageError: For code points of PQ and HLG.
    """
    points = facts.code_points
    profile: bytes | None = image.info.get("icc_profile")
    if points is not None and (image.format == "PNG" or not profile):
        encoding = encoding_of_code_points(points, notes)
        if encoding is not None:
            return encoding
    if profile:
        return profile
    if image.format == "PNG" and "icc_profile" in image.info:  # which Pillow could not unpack
        notes.append("colour profile could not be used, sRGB is assumed (it is damaged)")
    if "srgb" in image.info and image.format == "PNG":
        return None
    gamma, chromaticities = image.info.get("gamma"), image.info.get("chromaticity")
    if gamma is not None or chromaticities is not None:
        return encoding_of_gamma(gamma, chromaticities, notes)
    return ADOBE_RGB if _names_adobe_rgb(exif) else None
