# SPDX-License-Identifier: Apache-2.0
import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from genaccel.codec.images import (
    encode_image,
    parse_colour,
    read_image,
)
from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError


def stored(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    stream.seek(0)
    return stream


def png16(samples, colour_type):
    """16-bit PNG of ``[H, W, C]``; Pillow itself writes only gray ones."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return io.BytesIO(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("file_format", ["png", "webp", "tiff", "ppm"])
def test_lossless_formats_round_trip(file_format, picture):
    pixels = picture(13, 17)
    data = encode_image(pixels, file_format)
    image = read_image(io.BytesIO(data))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.notes == ()
    assert Image.open(io.BytesIO(data)).format.lower() == file_format


@pytest.mark.parametrize("file_format", ["JPEG", "AVIF", "BMP"])
def test_other_formats_are_read(file_format, picture):
    pixels = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    image = read_image(stored(Image.fromarray(pixels), file_format))
    assert image.pixels.shape == (16, 24, 3)
    assert np.abs(image.pixels.astype(int) - pixels).max() <= 8


def test_jpeg_is_written_with_full_colour_resolution(picture):
    pixels = picture(16, 16)
    back = read_image(io.BytesIO(encode_image(pixels, "jpeg"))).pixels
    assert np.abs(back.astype(int) - pixels).mean() < 4


def test_unknown_and_overlarge_output_formats_are_refused():
    with pytest.raises(ValueError, match="png, jpeg, webp, tiff, ppm, got 'gif'"):
        encode_image(np.zeros((1, 1, 3), np.uint8), "gif")
    with pytest.raises(LimitExceededError, match="webp cannot hold an image of 16384x1 pixels"):
        encode_image(np.zeros((1, 16384, 3), np.uint8), "webp")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation, file_format):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # white top left corner
    upright[:8, 16:] = 128
    undo = [
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[::-1],
        lambda a: a.transpose(1, 0, 2),
        lambda a: np.rot90(a),
        lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        lambda a: np.rot90(a, -1),
    ]
    kept = Image.fromarray(np.ascontiguousarray(undo[orientation - 1](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(stored(kept, file_format, exif=exif))
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels.astype(int) - upright).mean() < 4


def test_orientation_is_said():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(stored(Image.new("RGB", (4, 2)), "PNG", exif=exif))
    assert image.notes == ("EXIF orientation 6 was applied",)
    assert image.pixels.shape == (4, 2, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_gray_and_palette_images_become_rgb(mode):
    image = read_image(stored(Image.new("L", (5, 3), 255).convert(mode), "PNG"))
    np.testing.assert_array_equal(image.pixels, np.full((3, 5, 3), 255, np.uint8))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparency_is_refused_or_put_on_a_background(mode):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255)).convert("LA" if mode == "LA" else "RGBA")
    image.putpixel((0, 0), (0, 0) if mode == "LA" else (0, 0, 0, 0))
    options = {}
    if mode == "P":
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.putpixel((0, 0), 0)
        options["transparency"] = 0
    with pytest.raises(UnsupportedImageError, match="--background"):
        read_image(stored(image, "PNG", **options))
    flat = read_image(stored(image, "PNG", **options), background=(0, 255, 0))
    assert flat.pixels[0, 0].tolist() == [0, 255, 0]
    if mode != "LA":
        assert flat.pixels[1, 1].tolist() == [255, 0, 0]
    assert any("background" in note for note in flat.notes)


def test_half_transparency_is_mixed():
    image = Image.new("RGBA", (2, 2), (255, 255, 255, 51))
    flat = read_image(stored(image, "PNG"), background=(0, 0, 0))
    assert flat.pixels[0, 0].tolist() == [51, 51, 51]


def test_an_opaque_alpha_channel_is_dropped():
    image = read_image(stored(Image.new("RGBA", (2, 2), (9, 8, 7, 255)), "PNG"))
    assert image.pixels[0, 0].tolist() == [9, 8, 7]
    assert image.notes == ("alpha channel is opaque everywhere and was dropped",)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_16_bit_png_is_refused_or_reduced(colour_type, channels):
    samples = np.linspace(0, 65535, 12 * channels).reshape(3, 4, channels).astype(np.uint16)
    with pytest.raises(UnsupportedImageError, match="--reduce-depth"):
        read_image(png16(samples, colour_type))
    image = read_image(png16(samples, colour_type), reduce_depth=True)
    expected = np.broadcast_to((samples >> 8).astype(np.uint8), (3, 4, 3))
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.notes == ("samples were reduced to 8 bits",)


@pytest.mark.parametrize("kind", ["P5", "P6", "tiff"])
def test_other_16_bit_files_are_refused_or_reduced(kind):
    if kind == "tiff":
        stream = stored(Image.fromarray(np.full((2, 3), 0x8040, np.uint16)), "TIFF")
    else:
        samples = 6 * (3 if kind == "P6" else 1)
        stream = io.BytesIO(f"{kind}\n3 2\n65535\n".encode() + b"\x80\x40" * samples)
    with pytest.raises(UnsupportedImageError, match="8 bits"):
        read_image(stream)
    stream.seek(0)
    np.testing.assert_array_equal(
        read_image(stream, reduce_depth=True).pixels, np.full((2, 3, 3), 0x80, np.uint8)
    )


# 4x4 pixels of middle gray, from libavif; Pillow writes 8 bits only.
AVIF_OF_10_BITS = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAA"
    "AAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAHQAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEA"
    "AGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAABAAAAAQAAAAQcGl4aQAAAAADCgoKAAAADGF2MUOBIEAA"
    "AAAAE2NvbHJuY2x4AAIAAgAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAJW1kYXQSAAoIOAR9rAgIGkAyDxlCYwTE000zQAAA"
    "kD+f2A=="
)


def test_10_bit_avif_is_refused_or_reduced():
    with pytest.raises(UnsupportedImageError, match="8 bits"):
        read_image(io.BytesIO(AVIF_OF_10_BITS))
    image = read_image(io.BytesIO(AVIF_OF_10_BITS), reduce_depth=True)
    np.testing.assert_array_equal(image.pixels, 128)
    assert image.notes == ("samples were reduced to 8 bits",)


def test_float_images_are_refused():
    with pytest.raises(UnsupportedImageError, match="no fixed range"):
        read_image(stored(Image.new("F", (2, 2), 0.5), "TIFF"))


def test_cmyk_is_converted_and_said():
    image = read_image(stored(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(image.pixels.astype(int) - (255, 0, 0)).max() <= 4
    assert image.notes == ("CMYK was converted to RGB",)


def test_colour_profiles_are_converted_to_srgb():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = Image.new("RGB", (2, 2), (119, 119, 119))
    assert read_image(stored(gray, "PNG", icc_profile=srgb)).notes == ()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = read_image(stored(gray, "PNG", icc_profile=lab))
    assert "colour profile could not be used" in image.notes[0]
    np.testing.assert_array_equal(image.pixels, 119)
    image = read_image(stored(gray, "PNG", icc_profile=b"no profile"))
    assert "colour profile could not be used" in image.notes[0]


def linear_profile():
    """An RGB profile with sRGB primaries and a gamma of 1, as ICC.1:2001-04 lays it out."""

    def s15(values):
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 7) + b"Linear\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + s15((0.9642, 1.0, 0.8249)),
        b"rXYZ": b"XYZ " + bytes(4) + s15((0.4361, 0.2225, 0.0139)),
        b"gXYZ": b"XYZ " + bytes(4) + s15((0.3851, 0.7169, 0.0971)),
        b"bXYZ": b"XYZ " + bytes(4) + s15((0.1431, 0.0606, 0.7141)),
        **{name: b"curv" + bytes(4) + struct.pack(">I", 0) for name in (b"rTRC", b"gTRC", b"bTRC")},
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"    ", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += (
        struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + s15((0.9642, 1, 0.8249))
    )
    return header + bytes(128 - len(header)) + table + body


def test_linear_light_becomes_srgb():
    image = read_image(
        stored(Image.new("RGB", (2, 2), (55, 55, 55)), "PNG", icc_profile=linear_profile())
    )
    # 55 / 255 of the light is sRGB 0.2157 ** (1 / 2.4) * 1.055 - 0.055 = 0.5018.
    assert np.abs(image.pixels.astype(int) - 128).max() <= 1
    assert image.notes == ("colours were converted from Linear to sRGB",)


def test_of_several_images_the_first_is_taken():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    stream = stored(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    image = read_image(stream)
    assert image.pixels[0, 0].tolist() == [255, 0, 0]
    assert image.notes == ("only the first of 2 images in the file was taken",)


def test_a_telephones_multi_picture_jpeg_is_a_jpeg():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    stream = stored(frames[0], "MPO", save_all=True, append_images=frames[1:])
    image = read_image(stream)
    assert image.pixels[0, 0, 0] > 250
    assert image.notes == ()


def test_pixel_limit_holds_before_decoding():
    stream = stored(Image.new("1", (3000, 3000)), "PNG")
    with pytest.raises(LimitExceededError, match="3000x3000 pixels exceeds the limit of 1000000"):
        read_image(stream, max_pixels=10**6)
    bomb = stored(Image.new("1", (8, 8)), "PNG").getvalue()
    for side in (13000, 40000):  # where Pillow warns, and where it gives up
        ihdr = b"IHDR" + struct.pack(">II", side, side) + bomb[24:29]
        forged = bomb[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + bomb[33:]
        with pytest.raises(LimitExceededError):
            read_image(io.BytesIO(forged))


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a" + bytes(30), b"%PDF-1.4"])
def test_foreign_files_are_refused(data):
    with pytest.raises(BitstreamError, match="known format"):
        read_image(io.BytesIO(data))


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp", "tiff", "ppm"])
def test_damaged_files_end_in_an_error_or_an_image(file_format, picture):
    data = encode_image(picture(40, 40), file_format)
    with pytest.raises(BitstreamError):
        read_image(io.BytesIO(data[: len(data) // 2]))
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for position in generator.integers(0, min(len(data), 400), 3):
            damaged[position] = generator.integers(256)
        try:
            image = read_image(io.BytesIO(bytes(damaged)), max_pixels=10**6)
        except (BitstreamError, LimitExceededError, UnsupportedImageError):
            continue
        assert image.pixels.dtype == np.uint8


def test_files_are_read_by_path(tmp_path, picture):
    path = tmp_path / "a.png"
    path.write_bytes(encode_image(picture(3, 5), "png"))
    assert read_image(path).pixels.shape == (3, 5, 3)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "b.png")


def test_colours():
    assert parse_colour("white") == (255, 255, 255)
    assert parse_colour("#ff8000") == (255, 128, 0)
    for text in ("no colour", "#ff800080"):
        with pytest.raises(ValueError, match="colo"):
            parse_colour(text)
