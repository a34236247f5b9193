# SPDX-License-Identifier: Apache-2.0
import functools
import struct
import zlib

import numpy as np
import pytest
from hand_made_images import (
    LINEAR,
    P3,
    SRGB,
    icc,
    png,
    power,
    sampled_srgb_curve,
    stored,
    with_nclx,
)
from PIL import Image, ImageCms

from genaccel.errors import UnsupportedImageError
from genaccel.files.images import AS_STORED, ReadPolicy, read_image

GREY = Image.new("RGB", (2, 2), (55, 55, 55))
COLOURS = np.array([[[200, 100, 50], [30, 160, 90], [10, 20, 240], [128, 128, 128]]], np.uint8)


def read(pixels, **options):
    return read_image(stored(pixels, "PNG", **options))


def encoded(light):
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def light_of(samples):
    v = np.asarray(samples) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


# From light of these primaries under D65 to light of sRGB's, by other people: CSS Color 4, and BT.2087 for BT.2020.
P3_TO_SRGB = np.array(
    [[1.2249402, -0.2249402, 0], [-0.0420570, 1.0420570, 0], [-0.0196376, -0.0786361, 1.0982736]]
)
BT2020_TO_SRGB = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


def expected(light, matrix):
    return 255 * encoded((light @ matrix.T).clip(0, 1))


# ------------------------------------------------------------------------------------------------------- ICC profiles


@pytest.mark.parametrize(
    "name", ["GIMP built-in Linear sRGB", "sRGB IEC61966-2.1", "", "\x1b[31m" * 30]
)
def test_a_profile_counts_by_what_it_holds_not_by_its_name(name):
    image = read(GREY, icc_profile=icc(name, curve=LINEAR))
    # 55 / 255 of the light is sRGB 0.2157 ** (1 / 2.4) * 1.055 - 0.055 = 0.5018.
    assert np.abs(image.pixels.astype(int) - 128).max() <= 1
    (note,) = image.notes
    assert note.startswith("colours were converted from ")
    assert note.isprintable()
    assert len(note) < 120


def test_wide_primaries_with_the_srgb_curve_are_converted():
    image = read(Image.fromarray(COLOURS), icc_profile=icc("P3 with sRGB transfer", P3))
    np.testing.assert_allclose(image.pixels, expected(light_of(COLOURS), P3_TO_SRGB), atol=1.1)
    assert image.notes == ("colours were converted from P3 with sRGB transfer to sRGB",)


def test_exchanged_primaries_exchange_colours():
    image = read(Image.fromarray(COLOURS), icc_profile=icc("sRGB", (SRGB[1], SRGB[0], SRGB[2])))
    np.testing.assert_allclose(image.pixels, COLOURS[..., [1, 0, 2]], atol=1)


def test_another_gamma_is_applied():
    image = read(GREY, icc_profile=icc("sRGB", curve=power(1.8)))
    np.testing.assert_allclose(image.pixels, 255 * encoded((55 / 255) ** 1.8), atol=1)


@pytest.mark.parametrize("kind", ["curve", "littlecms", "samples"])
def test_pixels_of_srgb_stay_as_they_are(kind, picture):
    profile = {
        "curve": lambda: icc("Bild"),
        "littlecms": lambda: ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "samples": lambda: icc("Camera", curve=sampled_srgb_curve()),
    }[kind]()
    pixels = picture(40, 30)
    image = read(Image.fromarray(pixels), icc_profile=profile)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.notes == ()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB"])
def test_grey_profiles_apply_to_grey_images_of_every_mode(mode):
    profile = icc("Grey", curve=LINEAR, space=b"GRAY")
    image = Image.new("L", (4, 4), 55).convert(mode)
    read_policy = ReadPolicy(transparency="drop")
    pixels = read_image(stored(image, "PNG", icc_profile=profile), read_policy).pixels
    # Dithering to one bit leaves black and white, which stay.
    assert set(np.unique(pixels)) <= ({0, 255} if mode == "1" else {127, 128})
    same = read_image(stored(image, "PNG", icc_profile=icc("Grey", space=b"GRAY")), read_policy)
    assert not any("colour" in note for note in same.notes)


def test_rgb_profiles_apply_to_grey_and_palette_images():
    for grey in (GREY.convert("L"), GREY.quantize(2)):
        image = read(grey, icc_profile=icc("Linear", curve=LINEAR))
        assert np.abs(image.pixels.astype(int) - 128).max() <= 1


def test_a_profile_for_another_kind_of_image_is_passed_over():
    plain = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    image = read_image(stored(plain, "TIFF", icc_profile=icc("an RGB profile", P3)))
    assert image.pixels[0, 0].tolist() == [255, 0, 0]
    assert image.notes == (
        "colour profile could not be used, sRGB is assumed (it is for RGB images, and this one is CMYK)",
        "CMYK was converted to RGB",
    )


@pytest.mark.parametrize(
    "profile",
    [
        b"",
        b"no profile",
        b"\0" * 200,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        icc("cut")[:300],
        icc("device link", kind=b"link"),
        icc("abstract", kind=b"abst"),
        icc("CMYK without tables", space=b"CMYK"),
        icc("Grey", space=b"GRAY"),
        icc("hostile", curve=b"curv" + bytes(4) + b"\xff" * 4),
        icc("hostile")[:128] + b"\xff" * 4 + icc("hostile")[132:],
    ],
    ids=range(11),
)
def test_profiles_that_are_broken_or_of_another_kind_are_a_note(profile):
    image = read_image(
        stored(Image.fromarray(COLOURS), "TIFF" if profile else "PNG", icc_profile=profile)
    )
    np.testing.assert_array_equal(image.pixels, COLOURS)
    if profile:
        (note,) = image.notes
        assert note.startswith("colour profile could not be used, sRGB is assumed")


def test_a_profile_that_does_not_unpack_is_a_note():
    image = read_image(png(COLOURS, chunks=[(b"iCCP", b"x\0\0 no deflate")]))
    np.testing.assert_array_equal(image.pixels, COLOURS)
    assert image.notes == ("colour profile could not be used, sRGB is assumed (it is damaged)",)


def test_a_profile_of_pq_or_hlg_is_refused():
    for transfer in (16, 18):
        tag = b"cicp" + bytes(4) + bytes((9, transfer, 0, 1))
        with pytest.raises(UnsupportedImageError, match="tone-map it first"):
            read(GREY, icc_profile=icc("Rec. 2100", P3, cicp=tag))
    sdr = b"cicp" + bytes(4) + bytes((12, 13, 0, 1))
    assert read(GREY, icc_profile=icc("Linear", curve=LINEAR, cicp=sdr)).pixels[0, 0, 0] > 126


def test_a_profile_survives_the_reduction_of_depth():
    image = Image.fromarray(np.full((2, 2), 55 << 8, np.uint16))
    stream = stored(image, "TIFF", icc_profile=icc("Grey", curve=LINEAR, space=b"GRAY"))
    assert np.abs(read_image(stream, ReadPolicy(depth="reduce")).pixels - 128.0).max() <= 1


# -------------------------------------------------------------------------------------------------------- code points


def cicp(primaries, transfer, is_full_range=1):
    return (b"cICP", bytes((primaries, transfer, 0, is_full_range)))


@functools.cache
def avif():
    picture = Image.fromarray(COLOURS.repeat(16, axis=0).repeat(8, axis=1))
    return stored(picture, "AVIF", quality=100, subsampling="4:4:4").getvalue()


@functools.cache
def heic():
    pytest.importorskip("pillow_heif").register_heif_opener()
    picture = Image.fromarray(COLOURS.repeat(64, axis=0).repeat(16, axis=1))
    return stored(picture, "HEIF", quality=100, chroma=444).getvalue()


@pytest.mark.parametrize("container", ["AVIF", "HEIC", "PNG"])
@pytest.mark.parametrize(
    ("points", "matrix", "to_light"),
    [
        ((12, 13), P3_TO_SRGB, light_of),
        ((1, 8), np.eye(3), lambda v: v / 255),
        ((1, 4), np.eye(3), lambda v: (v / 255) ** 2.2),
        ((2, 8), np.eye(3), lambda v: v / 255),
        ((9, 13), BT2020_TO_SRGB, light_of),
        ((9, 2), BT2020_TO_SRGB, light_of),
    ],
)
def test_code_points_are_converted(container, points, matrix, to_light):
    if container == "PNG":
        file = png(COLOURS, chunks=[cicp(*points)])
        colours = COLOURS
    else:
        data = avif() if container == "AVIF" else heic()
        colours = read_image(with_nclx(data, 1, 13)).pixels
        file = with_nclx(data, *points)
    image = read_image(file)
    np.testing.assert_allclose(image.pixels, expected(to_light(colours), matrix), atol=1.5)
    assert len(image.notes) == 1
    assert image.notes[0].endswith(" to sRGB")


@pytest.mark.parametrize("container", ["AVIF", "HEIC", "PNG"])
@pytest.mark.parametrize("points", [(1, 13), (2, 2), (1, 2), (2, 13)])
def test_code_points_of_srgb_and_unspecified_ones_change_nothing(container, points):
    if container == "PNG":
        file = png(COLOURS, chunks=[cicp(*points)])
    else:
        file = with_nclx(avif() if container == "AVIF" else heic(), *points)
    image = read_image(file)
    np.testing.assert_array_equal(image.pixels, np.asarray(Image.open(file).convert("RGB")))
    assert image.notes == ()


@pytest.mark.parametrize("container", ["AVIF", "HEIC", "PNG"])
@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_a_high_dynamic_range_is_refused_and_training_takes_it_as_stored(container, transfer, name):
    if container == "PNG":
        file = png(COLOURS, chunks=[cicp(9, transfer)])
    else:
        file = with_nclx(avif() if container == "AVIF" else heic(), 9, transfer)
    with pytest.raises(UnsupportedImageError, match=rf"{name}.*tone-map it first"):
        read_image(file)
    assert read_image(file, AS_STORED).notes == ()


def test_unknown_code_points_are_a_note():
    image = read_image(png(COLOURS, chunks=[cicp(99, 77)]))
    np.testing.assert_array_equal(image.pixels, COLOURS)
    assert image.notes == (
        "colours have primaries of the unknown code 99, sRGB is assumed",
        "colours have a transfer curve of the unknown code 77, sRGB is assumed",
    )


@pytest.mark.parametrize("transfer", [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17])
@pytest.mark.parametrize("primaries", [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 22])
def test_every_known_encoding_keeps_black_and_neutral_greys(primaries, transfer):
    ramp = np.arange(0, 256, 5)[None, :, None].repeat(3, axis=2)
    pixels = read_image(png(ramp, chunks=[cicp(primaries, transfer)])).pixels.astype(int)
    assert (np.diff(pixels[0], axis=0) >= 0).all()
    assert np.ptp(pixels, axis=2).max() <= 1
    assert pixels[0, 0].max() == 0
    assert pixels[0, -1].min() >= 254


def test_bt_709_is_linearised_by_its_own_curve():
    image = read_image(png(np.full((1, 1, 3), 128), chunks=[cicp(1, 1)]))
    light = ((128 / 255 + 0.09929682680944) / 1.09929682680944) ** (1 / 0.45)
    np.testing.assert_allclose(image.pixels, 255 * encoded(light), atol=0.6)


def test_samples_in_video_range_are_spread():
    image = read_image(png(np.array([[[16] * 3, [235] * 3, [5] * 3]]), chunks=[cicp(1, 13, 0)]))
    assert image.pixels[0, :, 0].tolist() == [0, 255, 0]
    assert "video range" in image.notes[0]


# ------------------------------------------------------------------------------------------------- PNG's other chunks


def gama(gamma):
    return (b"gAMA", struct.pack(">I", round(gamma * 100000)))


def chrm(*numbers):
    return (b"cHRM", struct.pack(">8I", *(round(n * 100000) for n in numbers)))


P3_CHROMATICITIES = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)


def test_gamma_is_applied():
    image = read_image(png(COLOURS, chunks=[gama(1.0)]))
    np.testing.assert_allclose(image.pixels, 255 * encoded(COLOURS / 255), atol=0.6)
    assert image.notes == ("colours were converted from sRGB primaries with gamma 1 to sRGB",)
    grey = read_image(png(COLOURS[..., :1], colour_type=0, chunks=[gama(1.0)]))
    np.testing.assert_array_equal(grey.pixels[..., 0], image.pixels[..., 0])


def test_chromaticities_are_applied_with_and_without_gamma():
    alone = read_image(png(COLOURS, chunks=[chrm(*P3_CHROMATICITIES)]))
    np.testing.assert_allclose(alone.pixels, expected(light_of(COLOURS), P3_TO_SRGB), atol=0.6)
    image = read_image(png(COLOURS, chunks=[gama(1 / 1.8), chrm(*P3_CHROMATICITIES)]))
    light = (COLOURS / 255) ** 1.8
    np.testing.assert_allclose(image.pixels, expected(light, P3_TO_SRGB), atol=0.6)


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(0.45455)],
        [gama(0.45455), chrm(*SRGB_CHROMATICITIES)],
        [(b"sRGB", b"\0"), gama(1.0), chrm(*P3_CHROMATICITIES)],
        [chrm(0.31269, 0.32899, 0.63999, 0.33001, 0.3, 0.6, 0.15, 0.05999)],
        [cicp(1, 13), gama(1.0)],
    ],
    ids=range(5),
)
def test_what_writers_of_srgb_add_changes_nothing(chunks):
    image = read_image(png(COLOURS, chunks=chunks))
    np.testing.assert_array_equal(image.pixels, COLOURS)
    assert image.notes == ()


def test_of_several_descriptions_the_most_telling_one_counts():
    profile = (b"iCCP", b"x\0\0" + zlib.compress(icc("Linear", curve=LINEAR)))
    light = read_image(png(COLOURS, chunks=[profile, gama(0.3)]))
    assert light.notes == ("colours were converted from Linear to sRGB",)
    points = read_image(png(COLOURS, chunks=[cicp(12, 13), profile]))
    assert "Display P3" in points.notes[0]
    open_points = read_image(png(COLOURS, chunks=[cicp(2, 2), profile]))
    assert open_points.notes == light.notes
    stream = stored(Image.fromarray(COLOURS), "AVIF", icc_profile=icc("Linear", curve=LINEAR))
    both = with_nclx(avif(), 12, 13)
    assert "Display P3" in read_image(both).notes[0]
    assert read_image(stream).notes == light.notes


NONSENSE = [gama(0), gama(42949), (b"gAMA", b"\0\0\0\1"), (b"cICP", b"\1"), (b"cICP", bytes(99))]
NONSENSE += [chrm(*[0] * 8), chrm(*[42949] * 8), chrm(0.3127, 0.329, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3)]


@pytest.mark.parametrize("chunk", NONSENSE, ids=range(8))
def test_nonsense_is_a_note_at_most(chunk):
    image = read_image(png(COLOURS, chunks=[chunk]))
    np.testing.assert_array_equal(image.pixels, COLOURS)
    assert all("sense" in note or "sRGB is assumed" in note for note in image.notes)


# --------------------------------------------------------------------------------------------------------------- EXIF


def camera_exif(space, index):
    folder = struct.pack(">HHHII4x", 1, 0x8769, 4, 1, 26)
    camera = struct.pack(">HHHIHHHHII4x", 2, 0xA001, 3, 1, space, 0, 0xA005, 4, 1, 56)
    return (
        b"MM\0*"
        + struct.pack(">I", 8)
        + folder
        + camera
        + struct.pack(">HHHI4s4x", 1, 1, 2, 4, index)
    )


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_cameras_adobe_rgb_is_known_by_its_exif_data(file_format):
    options = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    if file_format == "WEBP":
        options = {"lossless": True}
    picture = Image.new("RGB", (16, 16), (120, 160, 90))

    def read_with(space, index):
        exif = b"Exif\0\0" + camera_exif(space, index)
        return read_image(stored(picture, file_format, exif=exif, **options))

    adobe = read_with(0xFFFF, b"R03\0")
    # From Adobe RGB (1998), 4.3.5.3 and 4.2.
    matrix = np.array([[1.39836, -0.39836, 0], [0, 1, 0], [0, -0.0429, 1.0429]])
    light = (np.array((120, 160, 90)) / 255) ** 2.2
    np.testing.assert_allclose(adobe.pixels[0, 0], expected(light, matrix), atol=2)
    assert adobe.notes == (
        "colours were converted from Adobe RGB primaries with gamma 2.199 to sRGB",
    )
    for space, index in ((1, b"R98\0"), (0xFFFF, b"R98\0"), (1, b"R03\0")):
        assert read_with(space, index).notes == ()


def test_policies_that_take_samples_as_stored_ignore_every_description():
    for file in (
        stored(Image.fromarray(COLOURS), "PNG", icc_profile=icc("P3", P3)),
        png(COLOURS, chunks=[cicp(12, 13)]),
        png(COLOURS, chunks=[gama(1.0)]),
    ):
        image = read_image(file, AS_STORED)
        np.testing.assert_array_equal(image.pixels, COLOURS)
        assert image.notes == ()
