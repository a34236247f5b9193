# SPDX-License-Identifier: Apache-2.0
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hand_made_images import P3, icc, stored
from PIL import Image

from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError
from genaccel.files.folders import find_images
from genaccel.files.formats import IMAGE_FORMATS, IMAGE_SUFFIXES, recognised
from genaccel.files.image_writer import encode_image
from genaccel.files.images import ReadPolicy, read_image, read_size

# A format's own mark, of files that no package here need write.
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
JXL = b"\0\0\0\x0cJXL \r\n\x87\n"


def written_as(suffix):
    """What files of a suffix hold."""
    Image.init()
    special = {".mpo": "MPO", ".pfm": "PFM", ".avifs": "AVIF", ".hif": "HEIF", ".jxl": "JXL"}
    return special.get(suffix) or Image.EXTENSION[suffix]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_what_is_found_is_read(suffix, tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    pytest.importorskip("pillow_jxl")
    path = tmp_path / f"picture{suffix.upper()}"
    kind = written_as(suffix)
    mode = {".pgm": "L", ".pbm": "1", ".pfm": "F", ".gif": "P"}.get(suffix, "RGB")
    Image.new(mode, (16, 8), 1 if mode in "F1" else 0).save(path, "PPM" if kind == "PFM" else kind)
    assert find_images(tmp_path) == [path]
    assert read_image(path, ReadPolicy(depth="reduce")).pixels.shape == (8, 16, 3)
    assert read_size(path) == (16, 8)


@pytest.mark.parametrize(("head", "package"), [(HEIC, "pillow-heif"), (JXL, "pillow-jxl-plugin")])
def test_the_package_of_a_format_is_named_where_it_is_missing(head, package, monkeypatch):
    known = recognised(head)
    name, module = known.package
    assert name == package
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(Image.OPEN, known.name, raising=False)
    for read in (read_image, read_size):
        with pytest.raises(
            UnsupportedImageError, match=rf"needs .* {name}: run `pip install {name}`"
        ):
            read(io.BytesIO(head + bytes(100)))


def test_every_optional_format_is_in_the_extra():
    extra = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for known in IMAGE_FORMATS:
        if known.package is not None:
            assert f'"{known.package[0]}>=' in extra.split("\nformats = ")[1].split("]")[0]


def test_formats_are_recognised_by_what_they_hold():
    def brands(major, *compatible):
        body = major + bytes(4) + b"".join(compatible)
        return (len(body) + 8).to_bytes(4, "big") + b"ftyp" + body

    for head, name in (
        (brands(b"avif", b"mif1", b"miaf"), "AVIF"),
        (brands(b"mif1", b"avif", b"miaf"), "AVIF"),
        (brands(b"mif1", b"heic"), "HEIF"),
        (brands(b"heix", b"mif1"), "HEIF"),
        (brands(b"msf1", b"hevc"), "HEIF"),
        (b"\xff\x0a", "JXL"),
    ):
        assert recognised(head).name == name
    for head in (b"", b"ftyp", brands(b"isom", b"mp42"), b"\xff\x0b"):
        assert recognised(head) is None


def test_of_a_moving_gif_the_first_picture_is_taken_and_said():
    frames = [Image.new("P", (4, 3), i) for i in range(2)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 255, 0])
    image = read_image(stored(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image.pixels[0, 0].tolist() == [255, 0, 0]
    assert image.notes == ("only the first of 2 images in the file was taken",)
    assert read_image(stored(frames[0], "GIF")).notes == ()
    frames[0].putpixel((1, 0), 1)
    glass = read_image(stored(frames[0], "GIF", transparency=1), ReadPolicy(transparency="keep"))
    assert glass.alpha[0].tolist() == [255, 0, 255, 255]


class TestHeic:
    @pytest.fixture(autouse=True)
    def heif(self):
        plugin = pytest.importorskip("pillow_heif")
        plugin.register_heif_opener()
        return plugin

    def test_it_is_read_upright_with_alpha_and_profile(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x013B] = "Ada"
        picture = Image.new("RGBA", (64, 48), (250, 20, 20, 100))
        image = read_image(
            stored(picture, "HEIF", exif=exif.tobytes(), quality=100, icc_profile=icc("P3", P3)),
            ReadPolicy(transparency="keep"),
        )
        assert image.pixels.shape == (64, 48, 3)
        assert image.alpha[0, 0] == 100
        assert image.notes == ("colours were converted from P3 to sRGB",)
        assert b"Ada" in image.metadata.exif

    def test_ten_bits_are_deep(self, heif):
        samples = np.full((64, 64, 3), 30000, np.uint16).tobytes()
        stream = io.BytesIO()
        heif.from_bytes("RGB;16", (64, 64), samples).save(stream, quality=100)
        with pytest.raises(UnsupportedImageError, match="more than 8 bits"):
            read_image(stream)
        reduced = read_image(stream, ReadPolicy(depth="reduce"))
        np.testing.assert_allclose(reduced.pixels, 30000 >> 8, atol=2)

    def test_of_several_images_the_main_one_is_taken(self, heif):
        several = heif.from_pillow(Image.new("RGB", (64, 48), "red"))
        several.add_from_pillow(Image.new("RGB", (32, 32), "blue"))
        stream = io.BytesIO()
        several.save(stream)
        image = read_image(stream)
        assert image.pixels.shape == (48, 64, 3)
        assert image.notes == ("only the main one of 2 images in the file was taken",)


class TestJpegXl:
    @pytest.fixture(autouse=True)
    def jxl(self):
        return pytest.importorskip("pillow_jxl")

    def test_pixels_alpha_and_metadata_come_back(self, picture):
        pixels = picture(20, 30)
        exif = Image.Exif()
        exif[0x013B] = "Ada"
        image = read_image(
            stored(Image.fromarray(pixels), "JXL", lossless=True, exif=exif.tobytes())
        )
        np.testing.assert_array_equal(image.pixels, pixels)
        assert image.notes == ()
        assert b"Ada" in image.metadata.exif
        bare = stored(Image.fromarray(pixels), "JXL", lossless=True, use_container=False)
        np.testing.assert_array_equal(read_image(bare).pixels, pixels)
        glass = Image.new("LA", (2, 2), (9, 8))
        kept = read_image(stored(glass, "JXL", lossless=True), ReadPolicy(transparency="keep"))
        np.testing.assert_array_equal(kept.alpha, 8)

    @pytest.mark.parametrize(
        "size",
        [(1, 1), (8, 8), (256, 256), (255, 170), (40, 30), (1000, 3), (513, 512), (1600, 900)],
    )
    def test_the_size_is_read_before_anything_is_decoded(self, size):
        stream = stored(Image.new("L", size), "JXL")
        assert read_size(stream) == size
        for read in (read_image, read_size):
            with pytest.raises(LimitExceededError, match=f"{size[0]}x{size[1]} pixels"):
                read(stream, ReadPolicy(max_pixels=size[0] * size[1] - 1))

    def test_a_jpeg_in_it_is_turned_once(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        levels = np.arange(0, 240, 10, np.uint8)[None, :, None].repeat(16, 0).repeat(3, 2)
        (tmp_path / "a.jpg").write_bytes(encode_image(levels, "jpeg", exif=exif, quality=98))
        with (
            pytest.warns(UserWarning, match="reconstruction"),
            Image.open(tmp_path / "a.jpg") as jpeg,
        ):
            jpeg.save(tmp_path / "a.jxl")
        upright = read_image(tmp_path / "a.jpg").pixels
        for source in (tmp_path / "a.jxl", Image.open(tmp_path / "a.jxl")):
            pixels = read_image(source).pixels
            assert pixels.shape == (24, 16, 3)
            np.testing.assert_allclose(pixels, upright, atol=2)

    @pytest.mark.parametrize("kind", [np.uint16, np.float32])
    def test_deep_samples_are_deep(self, kind):
        largest = 65535 if kind is np.uint16 else 1.0
        stream = stored(Image.fromarray(np.full((8, 8), largest, kind)), "JXL", lossless=True)
        with pytest.raises(UnsupportedImageError, match="more than 8 bits"):
            read_image(stream)
        np.testing.assert_array_equal(read_image(stream, ReadPolicy(depth="reduce")).pixels, 255)

    def test_headers_that_are_cut_off_are_damaged(self):
        data = stored(Image.new("RGB", (300, 200)), "JXL", use_container=False).getvalue()
        for length in (2, 3, 5):
            with pytest.raises(BitstreamError):
                read_image(io.BytesIO(data[:length]))
