# SPDX-License-Identifier: Apache-2.0
"""A small training set of photographs out of Debian packages, with the licence of every picture.

Packages of Debian 12 carry photographs: the landscapes of the game Endless Sky (273 pictures of 720x360
pixels), the wallpapers of the desktops Lomiri (14 photographs of up to 20 megapixels), MATE (12) and
Plasma (11), and the examples of OpenCV (22 pictures, up to 1282 pixels wide).
``textures=True`` adds the photographed textures of UFO: Alien Invasion.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from PIL import Image, ImageStat
from tqdm import tqdm

from genaccel.data.debian import (
    DebianPackage,
    Licence,
    fetch_package,
    iterate_files,
    licence_of,
    parse_copyright,
)
from genaccel.files.atomic import write_atomically, write_json
from genaccel.files.untrusted import read_json_object

MANIFEST_NAME = "manifest.json"

# Of the pictures in these packages; a longer list would change which of them are trained on.
_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)

# One picture in ten is held out.
_VALIDATION_DIVISOR = 10

# The wallpapers come from cameras, as JPEG. A factor that is no integer leaves no trace of the 8x8 blocks.
_WALLPAPER_SHRINK = 3.3
_WALLPAPER_MIN_SIDE = 512

_TEXTURE_MIN_SIDE = 256
# Normal, specular, glow and grey-scale maps are no pictures of anything.
_TEXTURE_MAP_SUFFIXES = ("_nm", "_sm", "_gm", "_glow", "_gray", "_blend", "_flat")
# Below this share of opaque pixels a texture is a cut-out, with arbitrary colours where it is transparent.
_TEXTURE_MIN_OPAQUE = 0.98
# Standard deviation in grey levels under which a texture is a plain colour.
_TEXTURE_MIN_DEVIATION = 8.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotographSource:
    """Where the photographs of one package are.

    Attributes:
        package: The package.
        collection: Name of their folder in the data set.
        installed_prefix: Start of the paths of the pictures in the package.
        source_prefix: What stands in its place in the package's copyright file.
        kind: ``"photograph"``: kept as it is; ``"wallpaper"``: downscaled; ``"texture"``: kept if it
            looks like a photograph.
        first_licences: Patterns of the copyright file that go before all others.
        excluded: Paths below the prefix that are graphics.
        included: The only paths below the prefix to take; all if empty.
        archive: Path of a zip archive in the package that holds the pictures.
    """

    package: DebianPackage
    collection: str
    installed_prefix: str
    source_prefix: str
    kind: Literal["photograph", "wallpaper", "texture"]
    first_licences: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    included: frozenset[str] = frozenset()
    archive: str | None = None


def _read_sources() -> Iterator[PhotographSource]:
    """The rows of ``photographs.json``; their field ``why`` is for its readers."""
    for row in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")):
        row.pop("why", None)
        names = {name: frozenset(value) for name, value in row.items() if isinstance(value, list)}
        yield PhotographSource(**{**row, **names, "package": DebianPackage(**row["package"])})


*PHOTOGRAPH_SOURCES, TEXTURE_SOURCE = _read_sources()


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotographRecord:
    """One line of the manifest.

    Attributes:
        file: Path in the data set, ``train/...`` or ``val/...``.
        package: Package and version it comes from.
        source: Path in that package's sources.
        licence: Short name, as the package states it.
        copyright: Holders, as the package states them.
    """

    file: str
    package: str
    source: str
    licence: str
    copyright: str


def fetch_photographs(
    out_dir: str | os.PathLike[str],
    *,
    textures: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[PhotographRecord]:
    """Make a data set of photographs: ``out_dir/train``, ``out_dir/val`` and ``out_dir/manifest.json``.

    A package whose pictures are all there is not fetched again, so an interrupted call can be repeated.

    Args:
        out_dir: Folder of the data set.
        textures: Also take the textures of ``ufoai-textures`` (336 MB to download).
        cache_dir: Folder of downloaded packages: taken from there if they have the right digest, else
            downloaded to there. Without it they are deleted after use.

    Returns:
        The manifest's records, ordered by file.

    Raises:
        OSError: If a package is in the cache neither nor to be had by ``apt-get``.
    """
    root = Path(out_dir)
    records = _read_manifest(root)
    with ExitStack() as stack:
        cache = Path(cache_dir or stack.enter_context(tempfile.TemporaryDirectory()))
        for source in (*PHOTOGRAPH_SOURCES, *([TEXTURE_SOURCE] if textures else [])):
            label = f"{source.package.name} {source.package.version}"
            known = [record for record in records if record.package == label]
            if known and all((root / record.file).is_file() for record in known):
                continue
            made = _unpack(source, fetch_package(source.package, cache.absolute()), root, label)
            records = [record for record in records if record.package != label] + made
            records.sort(key=lambda record: record.file)
            _write_manifest(root, records)
    return records


def split_of(name: str) -> Literal["train", "val"]:
    """The part of the data set that a picture belongs to: a hash of its name decides, so it never moves."""
    digest = hashlib.sha256(name.encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") % _VALIDATION_DIVISOR == 0 else "train"


def _unpack(
    source: PhotographSource, package_path: Path, root: Path, label: str
) -> list[PhotographRecord]:
    """Write the pictures of one package into the data set."""
    licences: list[Licence] = []
    # Plasma's wallpapers have folders of their own, which say more than the package's copyright file.
    own_licences: dict[str, Licence] = {}
    written: list[tuple[str, str]] = []
    progress = tqdm(desc=f"unpacking {source.package.name}", unit="picture", disable=None)
    for path, stream in iterate_files(package_path):
        if path == f"usr/share/doc/{source.package.name}/copyright":
            licences = parse_copyright(stream.read().decode())
            continue
        if path.startswith(source.installed_prefix) and path.endswith("/metadata.json"):
            own_licences[PurePosixPath(path).parent.name] = _stated_licence(stream.read())
            continue
        for picture_path, picture in _pictures(source, path, stream):
            relative = picture_path.removeprefix(source.installed_prefix)
            kept = _prepare(source.kind, relative, picture)
            if kept is None:
                continue
            data, extension = kept
            name = PurePosixPath(source.collection) / PurePosixPath(relative).with_suffix(extension)
            file = f"{split_of(str(name))}/{name}"
            write_atomically(root / file, data, overwrite=True, parents=True)
            written.append((file, source.source_prefix + relative))
            progress.update()
    progress.close()
    records = []
    for file, source_path in written:
        licence = own_licences.get(PurePosixPath(source_path).parts[0]) or licence_of(
            source_path, licences, first=source.first_licences
        )
        records.append(
            PhotographRecord(
                file=file,
                package=label,
                source=source_path,
                licence=licence.name,
                copyright=licence.copyright,
            )
        )
    return records


def _stated_licence(metadata: bytes) -> Licence:
    """Licence and authors that a wallpaper of Plasma states in its own metadata."""
    about = json.loads(metadata)["KPlugin"]
    authors = "; ".join(author["Name"] for author in about["Authors"])
    return Licence(files=(), name=about["License"], copyright=authors)


def _pictures(source: PhotographSource, path: str, stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """The wanted pictures that one file of the package is or holds."""
    if source.archive is not None:
        if path == source.archive:
            with zipfile.ZipFile(stream) as archive:
                for name in sorted(archive.namelist()):
                    if _is_wanted(source, name):
                        yield name, archive.read(name)
    elif _is_wanted(source, path):
        yield path, stream.read()


def _is_wanted(source: PhotographSource, path: str) -> bool:
    name = PurePosixPath(path)
    return (
        path.startswith(source.installed_prefix)
        and name.suffix.lower() in _SUFFIXES
        and (relative := path.removeprefix(source.installed_prefix)) not in source.excluded
        and (not source.included or relative in source.included)
        and not (source.kind == "texture" and name.stem.endswith(_TEXTURE_MAP_SUFFIXES))
    )


def _prepare(kind: str, name: str, data: bytes) -> tuple[bytes, str] | None:
    """Bytes and extension under which a picture is stored, or None if it is left out."""
    extension = PurePosixPath(name).suffix.lower()
    if kind == "wallpaper":
        return _shrink(data), ".png"
    if kind == "texture" and not _looks_photographic(data):
        return None
    return data, extension


def _shrink(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        short = min(image.size)
        factor = min(_WALLPAPER_SHRINK, max(1.0, short / _WALLPAPER_MIN_SIDE))
        size = (round(image.width / factor), round(image.height / factor))
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def _looks_photographic(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        if min(image.size) < _TEXTURE_MIN_SIDE or image.mode in ("1", "L", "LA", "I", "I;16"):
            return False
        if image.has_transparency_data:
            alpha = image.convert("RGBA").getchannel("A")
            if (
                ImageStat.Stat(alpha.point(lambda a: 255 * (a >= 250))).mean[0]
                < 255 * _TEXTURE_MIN_OPAQUE
            ):
                return False
        return ImageStat.Stat(image.convert("L")).stddev[0] >= _TEXTURE_MIN_DEVIATION


def _read_manifest(root: Path) -> list[PhotographRecord]:
    path = root / MANIFEST_NAME
    if not path.is_file():
        return []
    try:
        return [PhotographRecord(**record) for record in read_json_object(path)["files"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no list of photographs: {error}") from error


def _write_manifest(root: Path, records: list[PhotographRecord]) -> None:
    content = {"files": [asdict(record) for record in records]}
    write_json(root / MANIFEST_NAME, content, indent=1, overwrite=True, parents=True)
