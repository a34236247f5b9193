# SPDX-License-Identifier: Apache-2.0
"""The image formats that are read: how their files are called, known, and opened. It needs no Pillow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """An image format.

    Attributes:
        name: Pillow's name of it.
        title: Its name for people.
        suffixes: Extensions of its files, in lower case.
        package: What has to be installed beside Pillow to read it, and the module that then gives Pillow the
            format; None where Pillow needs nothing.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    package: tuple[str, str] | None = None


# Named one by one: Pillow knows dozens of formats, and each is code that a hostile file can reach.
IMAGE_FORMATS = (
    ImageFormat("PNG", "PNG", (".png", ".apng")),
    ImageFormat("JPEG", "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    ImageFormat("WEBP", "WebP", (".webp",)),
    ImageFormat("AVIF", "AVIF", (".avif", ".avifs")),
    ImageFormat("TIFF", "TIFF", (".tif", ".tiff")),
    ImageFormat("BMP", "BMP", (".bmp",)),
    ImageFormat("DIB", "BMP", (".dib",)),
    ImageFormat("PPM", "PNM", (".ppm", ".pgm", ".pbm", ".pnm", ".pfm")),
    ImageFormat("GIF", "GIF", (".gif",)),
    ImageFormat("HEIF", "HEIC", (".heic", ".heif", ".hif"), ("pillow-heif", "pillow_heif")),
    ImageFormat("JXL", "JPEG XL", (".jxl",), ("pillow-jxl-plugin", "pillow_jxl")),
)

# One list for finding and for reading.
IMAGE_SUFFIXES = frozenset(suffix for known in IMAGE_FORMATS for suffix in known.suffixes)

# ISO/IEC 23008-12, annexes B and D: HEVC in an image, in a sequence, and layered.
_HEVC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\x0a", "JXL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
)


def recognised(head: bytes) -> ImageFormat | None:
    """The format that a file's first bytes name, of those that have a mark there.

    Args:
        head: 64 bytes, or the whole file if it is shorter.
    """
    name = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        name = "WEBP"
    if head[4:8] == b"ftyp":
        size = int.from_bytes(head[:4], "big")
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))]
        if brands[0] in (b"avif", b"avis") or {b"avif", b"avis"} & set(brands):
            name = "AVIF"
        elif _HEVC_BRANDS & set(brands):
            name = "HEIF"
    return next((known for known in IMAGE_FORMATS if known.name == name), None)
