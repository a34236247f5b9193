# SPDX-License-Identifier: Apache-2.0
"""What files carry from picture to picture: transparency, metadata, times and permissions."""

import json
import os
import stat

import numpy as np
import pytest
from full_metadata import FULL
from PIL import Image

from genaccel.codec.exif_xmp import read_metadata, write_metadata
from genaccel.codec.format.bitstream import describe
from genaccel.files.image_writer import encode_image
from genaccel.files.images import read_image


@pytest.fixture
def code(run, model_folder):
    """Runs a command with the tiny model and gives click's result, which must be good."""

    def invoke(*arguments):
        result = run(*arguments, "--model", model_folder)
        assert result.exit_code == 0, result.output
        return result

    return invoke


@pytest.fixture
def cutout(tmp_path):
    """A picture of 40x40 that is transparent around a square, half so in a part of that."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[8:30, 8:30, 3] = 255
    pixels[8:12, 8:30, 3] = 130
    Image.fromarray(pixels).save(tmp_path / "cutout.png")
    return pixels[..., 3]


@pytest.fixture
def tagged(tmp_path):
    """A photograph with EXIF and XMP."""
    pixels = np.random.default_rng(0).integers(0, 256, (31, 33, 3), np.uint8)
    data = encode_image(pixels, "jpeg", metadata=write_metadata(FULL))
    (tmp_path / "tagged.jpg").write_bytes(data)
    return tmp_path / "tagged.jpg"


def metadata_of(path):
    return read_metadata(read_image(path).metadata, [])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_transparency_is_kept(code, cutout, tmp_path, suffix):
    result = code("encode", "cutout.png", "a.gac")
    assert "note" not in result.stderr
    code("decode", "a.gac", f"back{suffix}")
    with Image.open(tmp_path / f"back{suffix}") as image:
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image)[..., 3], cutout)


@pytest.mark.parametrize("suffix", [".jpg", ".ppm"])
def test_formats_without_transparency_get_white(code, cutout, tmp_path, suffix):
    code("encode", "cutout.png", "a.gac")
    result = code("decode", "a.gac", f"back{suffix}")
    assert "put on white" in result.stderr
    with Image.open(tmp_path / f"back{suffix}") as image:
        assert min(image.getpixel((37, 37))) > 240
    result = code("decode", "a.gac", "green.png", "--background", "#00ff00")
    with Image.open(tmp_path / "green.png") as image:
        assert image.mode == "RGB"
        assert image.getpixel((37, 37)) == (0, 255, 0)


def test_alpha_can_be_dropped(code, cutout, run, tmp_path):
    code("encode", "cutout.png", "a.gac", "--drop-alpha")
    assert describe((tmp_path / "a.gac").read_bytes()).alpha_bytes == 0
    result = run("encode", "cutout.png", "b.gac", "--drop-alpha", "--background", "white")
    assert result.exit_code == 2
    assert "not both" in result.stderr


def test_nothing_is_kept_unless_asked_for_and_that_is_said(code, tagged, tmp_path):
    result = code("encode", "tagged.jpg", "a.gac")
    assert result.stderr == (
        "note: tagged.jpg: left out: date, author, copyright, description, camera, GPS position; "
        "--keep-metadata and --keep-gps keep them\n"
    )
    assert describe((tmp_path / "a.gac").read_bytes()).metadata_bytes == 0
    code("decode", "a.gac", "back.png")
    assert metadata_of(tmp_path / "back.png").in_words() == {}


def test_the_position_is_in_no_file_without_its_switch(code, tagged, tmp_path):
    result = code("encode", "tagged.jpg", "a.gac", "--keep-metadata")
    assert "left out: GPS position; --keep-gps keeps it" in result.stderr
    data = (tmp_path / "a.gac").read_bytes()
    assert describe(data).metadata == {
        name: text for name, text in FULL.in_words().items() if name != "position"
    }
    assert b"48.858222" not in data
    code("decode", "a.gac", "back.jpg")
    assert metadata_of(tmp_path / "back.jpg").position is None
    result = code("encode", "tagged.jpg", "b.gac", "--keep-gps")
    assert (
        "left out: date, author, copyright, description, camera; --keep-metadata" in result.stderr
    )
    assert describe((tmp_path / "b.gac").read_bytes()).metadata == {"position": FULL.position}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_metadata_comes_back_as_exif_and_xmp(code, tagged, tmp_path, suffix):
    result = code("encode", "tagged.jpg", "a.gac", "--keep-metadata", "--keep-gps")
    assert result.stderr == ""
    code("decode", "a.gac", f"back{suffix}")
    stored = read_image(tmp_path / f"back{suffix}").metadata
    assert stored.exif
    assert b"xmpmeta" in stored.xmp
    assert metadata_of(tmp_path / f"back{suffix}") == FULL


def test_ppm_says_what_it_does_not_hold(code, tagged):
    code("encode", "tagged.jpg", "a.gac", "--keep-metadata")
    result = code("decode", "a.gac", "back.ppm")
    assert (
        "left out: date, author, copyright, description, camera; ppm holds no metadata"
        in result.stderr
    )


def test_info_and_reports_show_both(run, code, cutout, tagged, tmp_path):
    code("encode", "cutout.png", "a.gac")
    report = json.loads(code("encode", "tagged.jpg", "b.gac", "--keep-metadata", "--json").stdout)
    assert (report["alpha_bytes"], report["metadata_bytes"] > 100) == (0, True)
    text = run("info", "a.gac", "b.gac").stdout
    assert f"alpha plane of {describe((tmp_path / 'a.gac').read_bytes()).alpha_bytes} bytes" in text
    assert f"metadata of {report['metadata_bytes']} bytes" in text
    assert "  description: 'Zwei Zeilen\\nund ein 👩" in text
    described = json.loads(run("info", "b.gac", "--json").stdout)
    assert described["metadata"]["author"] == FULL.author


@pytest.mark.parametrize("way", ["there", "back"])
def test_times_are_handed_on_if_asked_for(code, photo, tmp_path, way):
    photo("a.png")
    os.utime(tmp_path / "a.png", ns=(1_000_000_000_123_456_789, 1_234_567_890_987_654_321))
    code("encode", "a.png", "plain.gac")
    assert (tmp_path / "plain.gac").stat().st_mtime > 1_600_000_000
    os.utime(tmp_path / "a.png", ns=(1_000_000_000_123_456_789, 1_234_567_890_987_654_321))
    code("encode", "a.png", "a.gac", "--preserve-times")
    made = tmp_path / "a.gac"
    if way == "back":
        code("decode", "a.gac", "b.png", "--preserve-times")
        made = tmp_path / "b.png"
    assert made.stat().st_mtime_ns == 1_234_567_890_987_654_321
    if way == "there":
        assert made.stat().st_atime_ns == 1_000_000_000_123_456_789


@pytest.mark.parametrize(
    ("mode", "umask", "expected"),
    [
        (0o600, 0o022, 0o600),
        (0o644, 0o077, 0o600),
        (0o777, 0o022, 0o644),
        (0o444, 0o022, 0o444),
        (0o666, 0o002, 0o664),
    ],
)
def test_permissions_are_those_of_the_input_as_far_as_the_umask_allows(
    code, photo, tmp_path, mode, umask, expected
):
    photo("a.png").chmod(mode)
    before = os.umask(umask)
    try:
        code("encode", "a.png", "a.gac")
        code("decode", "a.gac", "b.png")
    finally:
        os.umask(before)
    for name in ("a.gac", "b.png"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected


def test_a_file_that_is_replaced_keeps_its_permissions(code, photo, tmp_path):
    photo("a.png").chmod(0o600)
    (tmp_path / "a.gac").write_bytes(b"old")
    (tmp_path / "a.gac").chmod(0o640)
    code("encode", "a.png", "a.gac", "--force")
    assert stat.S_IMODE((tmp_path / "a.gac").stat().st_mode) == 0o640
