# SPDX-License-Identifier: Apache-2.0
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from genaccel.data import photographs
from genaccel.data.photographs import (
    PHOTOGRAPH_SOURCES,
    TEXTURE_SOURCE,
    PhotographSource,
    fetch_photographs,
    split_of,
)
from genaccel.eval.held_out import held_out_photographs
from genaccel.files.images import AS_STORED, read_image

WriteDeb = Callable[..., Path]


def _file(image: NDArray[np.uint8] | Image.Image, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def held_out() -> dict[str, NDArray[np.uint8]]:
    return held_out_photographs()


@pytest.fixture
def cache(
    write_deb: WriteDeb,
    held_out: dict[str, NDArray[np.uint8]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder of small packages with the layout of the real ones, and the sources pointed at them."""
    folder = tmp_path / "cache"
    folder.mkdir()
    landscapes, wallpapers, plasma = (PHOTOGRAPH_SOURCES[i] for i in (0, 1, -1))
    photograph = _file(held_out["coffee"])
    copyright_path = "usr/share/doc/{}/copyright".format

    def point_at(source: PhotographSource, files: dict[str, bytes]) -> PhotographSource:
        path = write_deb(folder / source.package.file_name, files)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return replace(source, package=replace(source.package, sha256=digest))

    land = {f"{landscapes.installed_prefix}hills{i}.jpg": photograph for i in range(20)}
    land[f"{landscapes.installed_prefix}hills20-harro.jpg"] = photograph
    land["usr/share/games/endless-sky/images/ship/finch.png"] = photograph
    land[copyright_path("endless-sky-data")] = (
        b"Files: images/land/*-harro*\nCopyright: Harro\nLicense: CC-BY-SA-4.0\n\n"
        b"Files: images/land/hills*\nCopyright: Various\nLicense: public-domain\n"
    )
    large = Image.fromarray(held_out["astronaut"]).resize((2640, 1980))
    walls = {
        f"{wallpapers.installed_prefix}large.jpg": _file(large),
        f"{wallpapers.installed_prefix}small.jpg": photograph,
        f"{wallpapers.installed_prefix}umang_by_Abhishek_Mudgal.jpg": photograph,
        copyright_path("lomiri-wallpapers-16.04"): b"Files: *\nCopyright: A\nLicense: CC0-1.0\n",
    }
    pixels = Image.fromarray(held_out["rocket"])
    cut_out = pixels.convert("RGBA")
    cut_out.putalpha(Image.new("L", pixels.size, 0))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as textures:
        textures.writestr("textures/tex/wall.png", _file(pixels, "PNG"))
        textures.writestr("textures/tex/opaque.png", _file(pixels.convert("RGBA"), "PNG"))
        textures.writestr("textures/tex/wall_nm.png", _file(pixels, "PNG"))
        textures.writestr("textures/tex/tree.png", _file(cut_out, "PNG"))
        textures.writestr("textures/tex/plain.png", _file(Image.new("RGB", (300, 300)), "PNG"))
        textures.writestr("textures/tex/tiny.png", _file(pixels.resize((255, 300)), "PNG"))
        textures.writestr("textures/tex/grey.png", _file(pixels.convert("L"), "PNG"))
        textures.writestr("textures/readme.txt", b"text")
    assert TEXTURE_SOURCE.archive is not None
    game = {
        copyright_path("ufoai-textures"): b"Files: *\nCopyright: B\nLicense: GPL-2+\n",
        TEXTURE_SOURCE.archive: archive.getvalue(),
    }
    meadow = f"{plasma.installed_prefix}Path/contents/images/2560x1600.jpg"
    drawn = f"{plasma.installed_prefix}Autumn/contents/images/2560x1600.jpg"
    stated = {"License": "LGPLv3", "Authors": [{"Name": "Risto", "Name[ar]": "R"}, {"Name": "Ian"}]}
    more_walls = {
        meadow: photograph,
        drawn: photograph,
        f"{plasma.installed_prefix}Path/metadata.json": json.dumps({"KPlugin": stated}).encode(),
        copyright_path(plasma.package.name): b"Files: *\nCopyright: KDE\nLicense: GPL-2+\n",
    }
    sources = point_at(landscapes, land), point_at(wallpapers, walls), point_at(plasma, more_walls)
    monkeypatch.setattr(photographs, "PHOTOGRAPH_SOURCES", sources)
    monkeypatch.setattr(photographs, "TEXTURE_SOURCE", point_at(TEXTURE_SOURCE, game))
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get: all must come from the cache
    return folder


def test_a_source_may_list_its_files_by_name() -> None:
    (examples,) = (s for s in PHOTOGRAPH_SOURCES if s.package.name == "opencv-doc")
    wanted = photographs._is_wanted
    assert wanted(examples, f"{examples.installed_prefix}fruits.jpg")
    assert not wanted(examples, f"{examples.installed_prefix}chessboard.png")
    assert not wanted(examples, "usr/share/doc/opencv-doc/html/fruits.jpg")


def test_photographs_are_stored_with_their_licences(
    cache: Path, tmp_path: Path, held_out: dict[str, NDArray[np.uint8]]
) -> None:
    root = tmp_path / "photos"
    records = fetch_photographs(root, cache_dir=cache)
    stored = {p.relative_to(root).as_posix() for p in root.glob("*/*/**/*") if p.is_file()}
    assert {record.file for record in records} == stored
    assert len(records) == 21 + 2 + 1
    assert all(file.startswith(("train/", "val/")) for file in stored)
    by_name = {Path(record.file).name: record for record in records}
    assert by_name["hills3.jpg"].licence == "public-domain"
    assert by_name["hills3.jpg"].package == "endless-sky-data 0.9.8-1.2"
    assert by_name["hills20-harro.jpg"].copyright == "Harro"
    assert by_name["large.png"].source == "16.04/large.jpg"
    # What a wallpaper says of itself goes before what its package says of all of them.
    meadow = by_name["2560x1600.png"]
    assert meadow.file.endswith("plasma/Path/contents/images/2560x1600.png")
    assert (meadow.licence, meadow.copyright) == ("LGPLv3", "Risto; Ian")
    # Photographs keep their bytes; large wallpapers shrink by 3.3, but to 512 pixels a side at least.
    assert (root / by_name["hills3.jpg"].file).read_bytes() == _file(held_out["coffee"])
    assert read_image(root / by_name["large.png"].file, AS_STORED).pixels.shape == (600, 800, 3)
    assert (
        read_image(root / by_name["small.png"].file, AS_STORED).pixels.shape
        == held_out["coffee"].shape
    )
    manifest = json.loads((root / "manifest.json").read_text())
    assert [row["file"] for row in manifest["files"]] == sorted(stored)


def test_only_photographic_textures_are_kept(cache: Path, tmp_path: Path) -> None:
    records = fetch_photographs(tmp_path / "photos", textures=True, cache_dir=cache)
    textures = [record for record in records if record.package.startswith("ufoai")]
    assert [Path(record.file).name for record in textures] == ["opaque.png", "wall.png"]
    assert textures[0].source == "base/textures/tex/opaque.png"


def test_an_interrupted_call_is_resumed(cache: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    records = fetch_photographs(root, cache_dir=cache)
    kept = next(cache.glob("endless*"))
    whole = kept.read_bytes()
    for package in cache.iterdir():
        package.unlink()
    # Nothing is missing, so no package is needed.
    assert fetch_photographs(root, cache_dir=cache) == records
    lost = root / next(record.file for record in records if record.package.startswith("endless"))
    lost.unlink()
    with pytest.raises(OSError, match="apt-get"):
        fetch_photographs(root, cache_dir=cache)
    kept.write_bytes(whole)
    assert fetch_photographs(root, cache_dir=cache) == records
    assert lost.is_file()
    assert not list(root.rglob("*.partial"))


def test_one_picture_in_ten_is_held_out_whatever_else_is_there() -> None:
    parts = [split_of(f"endless-sky/{i}.jpg") for i in range(2000)]
    assert 150 < parts.count("val") < 250
    assert split_of("endless-sky/fog7.jpg") == split_of("endless-sky/fog7.jpg")
