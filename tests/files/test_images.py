# SPDX-License-Identifier: Apache-2.0
import base64
import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from hand_made_images import LINEAR, icc, png, stored
from PIL import Image, PngImagePlugin

import genaccel
from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError
from genaccel.files.image_writer import encode_image, write_image
from genaccel.files.images import AS_STORED, ReadPolicy, parse_colour, read_image, read_size

REDUCE = ReadPolicy(depth="reduce")


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
    with pytest.raises(UnsupportedImageError, match="transparent in places"):
        read_image(stored(image, "PNG", **options))
    flat = read_image(stored(image, "PNG", **options), ReadPolicy(transparency=(0, 255, 0)))
    assert flat.pixels[0, 0].tolist() == [0, 255, 0]
    if mode != "LA":
        assert flat.pixels[1, 1].tolist() == [255, 0, 0]
    assert any("background" in note for note in flat.notes)


def test_half_transparency_is_mixed():
    image = Image.new("RGBA", (2, 2), (255, 255, 255, 51))
    flat = read_image(stored(image, "PNG"), ReadPolicy(transparency=(0, 0, 0)))
    assert flat.pixels[0, 0].tolist() == [51, 51, 51]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_kept_beside_colours_that_it_has_not_touched(mode):
    picture = Image.new("RGBA", (3, 2), (200, 200, 200, 255)).convert(mode)
    picture.putpixel((0, 1), (80, 51) if mode == "LA" else (80, 80, 80, 51))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    image = read_image(stored(picture, "PNG", exif=exif), ReadPolicy(transparency="keep"))
    assert image.alpha.dtype == np.uint8
    assert image.alpha.tolist() == [[51, 255], [255, 255], [255, 255]]
    assert image.pixels[0, 0].tolist() == [80, 80, 80]
    opaque = read_image(
        stored(Image.new(mode, (2, 2), "white"), "PNG"), ReadPolicy(transparency="keep")
    )
    assert opaque.alpha is None


@pytest.mark.parametrize("file_format", ["AVIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_metadata_is_handed_on_as_it_is_stored(file_format):
    exif = Image.Exif()
    exif[0x013B] = "Ada"
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"
    options = {"exif": exif.tobytes(), "xmp": xmp}
    if file_format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    if file_format == "TIFF":
        options = {"tiffinfo": {0x013B: "Ada", 700: xmp}}
    stream = stored(Image.new("RGB", (16, 16)), file_format, **options)
    metadata = read_image(stream).metadata
    assert metadata.exif[:2] in (b"II", b"MM")
    back = Image.Exif()
    back.load(metadata.exif)
    assert back[0x013B] == "Ada"
    assert metadata.xmp == xmp
    assert read_image(stored(Image.new("RGB", (2, 2)), "BMP")).metadata.exif == b""


def test_an_opaque_alpha_channel_is_dropped():
    image = read_image(stored(Image.new("RGBA", (2, 2), (9, 8, 7, 255)), "PNG"))
    assert image.pixels[0, 0].tolist() == [9, 8, 7]
    assert image.notes == ("alpha channel is opaque everywhere and was dropped",)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_16_bit_png_is_refused_or_reduced(colour_type, channels):
    samples = np.linspace(0, 65535, 12 * channels).reshape(3, 4, channels).astype(np.uint16)
    with pytest.raises(UnsupportedImageError, match="more than 8 bits"):
        read_image(png(samples, 16, colour_type))
    image = read_image(png(samples, 16, colour_type), REDUCE)
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
        read_image(stream, REDUCE).pixels, np.full((2, 3, 3), 0x80, np.uint8)
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
    image = read_image(io.BytesIO(AVIF_OF_10_BITS), REDUCE)
    np.testing.assert_array_equal(image.pixels, 128)
    assert image.notes == ("samples were reduced to 8 bits",)


def test_cmyk_is_converted_and_said():
    image = read_image(stored(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(image.pixels.astype(int) - (255, 0, 0)).max() <= 4
    assert image.notes == ("CMYK was converted to RGB",)


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
        read_image(stream, ReadPolicy(max_pixels=10**6))
    bomb = stored(Image.new("1", (8, 8)), "PNG").getvalue()
    for side in (13000, 40000):  # where Pillow warns, and where it gives up
        ihdr = b"IHDR" + struct.pack(">II", side, side) + bomb[24:29]
        forged = bomb[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + bomb[33:]
        with pytest.raises(LimitExceededError):
            read_image(io.BytesIO(forged))


@pytest.mark.parametrize("data", [b"", b"hello", b"P7\nWIDTH 1\n", b"%PDF-1.4"])
def test_foreign_files_are_refused(data):
    with pytest.raises(BitstreamError, match="known format"):
        read_image(io.BytesIO(data))


@pytest.mark.parametrize(
    "file_format", ["AVIF", "BMP", "GIF", "HEIF", "JPEG", "JXL", "PNG", "PPM", "TIFF", "WEBP"]
)
def test_damaged_files_end_in_an_error_or_an_image(file_format, picture):
    if file_format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if file_format == "JXL":
        pytest.importorskip("pillow_jxl")
    data = stored(Image.fromarray(picture(40, 40)), file_format).getvalue()
    with pytest.raises(BitstreamError):
        read_image(io.BytesIO(data[: len(data) // 2]))
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for position in generator.integers(0, min(len(data), 400), 3):
            damaged[position] = generator.integers(256)
        try:
            image = read_image(io.BytesIO(bytes(damaged)), ReadPolicy(max_pixels=10**6))
        except (BitstreamError, LimitExceededError, UnsupportedImageError):
            continue
        assert image.pixels.dtype == np.uint8


def test_samples_can_be_taken_as_they_are_stored():
    """Of training sets: no picture is refused that has pixels, and no colours are converted."""
    glass = Image.new("RGBA", (4, 2), (200, 100, 50, 0))
    options = {"icc_profile": icc("Linear", curve=LINEAR)}
    image = read_image(stored(glass, "PNG", **options), AS_STORED)
    np.testing.assert_array_equal(image.pixels, np.full((2, 4, 3), (200, 100, 50), np.uint8))
    assert image.notes == ("alpha channel was dropped",)
    deep = np.full((2, 3, 1), 0x8040, np.uint16)
    np.testing.assert_array_equal(read_image(png(deep, 16, 0), AS_STORED).pixels, 0x80)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_image(stored(Image.new("RGB", (4, 2)), "PNG", exif=exif), AS_STORED)
    assert turned.pixels.shape == (4, 2, 3)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"]
)
def test_as_stored_is_what_pillow_converts_to(mode):
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (9, 7, 3), np.uint8)).convert(
        "P" if mode == "PA" else mode
    )
    if mode in ("LA", "PA", "RGBA"):
        picture.putalpha(Image.fromarray(generator.integers(0, 256, (9, 7), np.uint8)))
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read_image(picture, AS_STORED).pixels, expected)


def test_a_policy_says_how_to_avoid_a_refusal():
    policy = ReadPolicy(remedies={"transparency": "say --white", "depth": "say --flat"})
    glass = Image.new("RGBA", (2, 2))
    with pytest.raises(
        UnsupportedImageError, match=r"^image is transparent in places: say --white$"
    ):
        read_image(stored(glass, "PNG"), policy)
    with pytest.raises(UnsupportedImageError, match=r"^image is transparent in places$"):
        read_image(stored(glass, "PNG"))
    with pytest.raises(UnsupportedImageError, match=r"^image has more than 8 bits .*: say --flat$"):
        read_image(png(np.zeros((1, 1, 3), np.uint16), 16), policy)


def test_a_policy_names_formats_and_limits():
    picture = Image.new("RGB", (7, 5))
    with pytest.raises(BitstreamError, match="known format"):
        read_image(stored(picture, "PNG"), ReadPolicy(formats=("JPEG",)))
    for policy in (ReadPolicy(max_pixels=34), ReadPolicy(max_side=6)):
        for read in (read_image, read_size):
            with pytest.raises(LimitExceededError, match="7x5 pixels"):
                read(stored(picture, "PNG"), policy)


def test_pillow_images_in_memory_follow_the_same_policies():
    assert read_image(Image.new("RGB", (2, 1), (1, 2, 3))).pixels.tolist() == [[[1, 2, 3]] * 2]
    assert read_image(Image.new("RGBA", (1, 1), (1, 2, 3, 255))).pixels.tolist() == [[[1, 2, 3]]]
    glass = Image.new("RGBA", (1, 1), (1, 2, 3, 0))
    with pytest.raises(UnsupportedImageError, match="transparent"):
        read_image(glass)
    white = ReadPolicy(transparency=(255, 255, 255))
    assert read_image(glass, white).pixels.tolist() == [[[255, 255, 255]]]
    deep = Image.fromarray(np.full((1, 1), 0x8040, np.uint16))
    with pytest.raises(UnsupportedImageError, match="8 bits"):
        read_image(deep)
    assert read_image(deep, REDUCE).pixels.tolist() == [[[0x80] * 3]]
    with pytest.raises(UnsupportedImageError, match="mode I"):
        read_image(Image.new("I", (1, 1)))
    with pytest.raises(LimitExceededError, match="3x2 pixels"):
        read_image(Image.new("L", (3, 2)), ReadPolicy(max_pixels=5))


def test_pillow_images_are_read_as_files_are():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (96, 64), (55, 55, 55))
    stream = stored(picture, "JPEG", exif=exif, icc_profile=icc("Linear", curve=LINEAR))
    of_file = read_image(stream)
    for decoded in (False, True):
        image = Image.open(stream)
        if decoded:
            image.load()
        read = read_image(image)
        assert read.pixels.shape == (96, 64, 3)
        assert read.notes == of_file.notes
        np.testing.assert_array_equal(read.pixels, of_file.pixels)
        assert image.size == (96, 64)


def test_a_pillow_image_that_is_not_decoded_yet_still_has_its_file():
    deep = Image.open(png(np.zeros((1, 1, 3), np.uint16), 16))
    with pytest.raises(UnsupportedImageError, match="8 bits"):
        read_image(deep)
    wide = png(np.full((1, 1, 3), (200, 100, 0)), chunks=[(b"cICP", bytes((12, 13, 0, 1)))])
    np.testing.assert_array_equal(read_image(Image.open(wide)).pixels, read_image(wide).pixels)
    cut = stored(Image.effect_noise((64, 64), 50), "PNG").getvalue()[:1000]
    with pytest.raises(BitstreamError, match="does not decode"):
        read_image(Image.open(io.BytesIO(cut)))


def test_floating_point_images_are_in_0_to_1():
    levels = np.array([[0, 0.25, 0.5, 1.0, 1.01]], np.float32)
    image = read_image(Image.fromarray(levels))
    assert image.pixels[0, :, 0].tolist() == [0, 64, 128, 255, 255]
    assert image.notes == ()
    for wrong in (levels * 255, levels - 1, levels * np.nan):
        with pytest.raises(UnsupportedImageError, match=r"must be in \[0, 1\].*no fixed range"):
            read_image(Image.fromarray(wrong))


def test_a_source_that_cannot_be_sought_in_is_read_whole(tmp_path, picture):
    data = encode_image(picture(9, 7), "png")
    for policy in (ReadPolicy(), ReadPolicy(max_bytes=len(data) - 1)):
        os.mkfifo(tmp_path / "pipe")
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
        writer.start()
        if policy.max_bytes < len(data):
            with pytest.raises(LimitExceededError, match=f"limit of {len(data) - 1} bytes"):
                read_image(tmp_path / "pipe", policy)
        else:
            np.testing.assert_array_equal(
                read_image(tmp_path / "pipe", policy).pixels, picture(9, 7)
            )
        writer.join()
        (tmp_path / "pipe").unlink()


def test_a_closed_stream_is_no_image(picture):
    stream = io.BytesIO(encode_image(picture(3, 3), "png"))
    stream.close()
    with pytest.raises(BitstreamError, match="closed file"):
        read_image(stream)


@pytest.mark.parametrize("name", ["iCCP", "iTXt", "zTXt"])
def test_compressed_notes_that_would_fill_memory_are_one_error(name):
    many = zlib.compress(bytes(2**26))
    before = {"iCCP": b"x\0\0", "iTXt": b"x\0\1\0\0\0", "zTXt": b"x\0\0"}[name]
    file = png(np.zeros((1, 1, 3)), chunks=[(name.encode(), before + many)])
    with pytest.raises(BitstreamError, match="too large"):
        read_image(file)


def test_damaged_exif_data_is_a_note():
    picture = Image.new("RGB", (2, 2), (9, 8, 7))
    image = read_image(stored(picture, "PNG", exif=b"Exif\0\0XX no structure"))
    assert image.pixels[0, 0].tolist() == [9, 8, 7]
    assert "EXIF data is damaged" in image.notes[0]


def test_the_size_is_read_without_decoding(picture):
    data = encode_image(picture(30, 50), "png")
    assert read_size(io.BytesIO(data[:100])) == (50, 30)
    with pytest.raises(BitstreamError):
        read_size(io.BytesIO(data[:10]))


def test_files_are_written_by_the_format_of_their_suffix(tmp_path, picture):
    pixels = picture(5, 4)
    for name in ("a.png", "b.TIFF", "c.webp", "d.ppm"):
        write_image(tmp_path / "new" / name, pixels, parents=True)
        np.testing.assert_array_equal(read_image(tmp_path / "new" / name).pixels, pixels)
    with pytest.raises(FileExistsError):
        write_image(tmp_path / "new" / "a.png", pixels)
    write_image(tmp_path / "new" / "a.png", Image.new("RGB", (3, 2)), overwrite=True)
    assert read_size(tmp_path / "new" / "a.png") == (3, 2)
    with pytest.raises(ValueError, match=r"known suffixes are \.png.*got '.*a\.gif'"):
        write_image(tmp_path / "a.gif", pixels)


def test_options_of_pillow_take_the_place_of_ours(picture):
    pixels = picture(40, 40)
    data = encode_image(pixels, "AVIF", quality=1)
    assert Image.open(io.BytesIO(data)).format == "AVIF"
    assert len(data) < len(encode_image(pixels, "AVIF", quality=90))


def test_files_are_read_by_path(tmp_path, picture):
    path = tmp_path / "a.png"
    path.write_bytes(encode_image(picture(3, 5), "png"))
    for given in (path, str(path)):
        assert read_image(given).pixels.shape == (3, 5, 3)
    assert genaccel.read_image is read_image
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "b.png")


def test_colours():
    assert parse_colour("white") == (255, 255, 255)
    assert parse_colour("#ff8000") == (255, 128, 0)
    for text in ("no colour", "#ff800080"):
        with pytest.raises(ValueError, match="colo"):
            parse_colour(text)
