# SPDX-License-Identifier: Apache-2.0
import io
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from full_metadata import FULL
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from genaccel.codec.exif_xmp import groups_in, kept, read_metadata, write_metadata
from genaccel.codec.format.metadata import PhotoMetadata
from genaccel.files.image_writer import encode_image
from genaccel.files.images import Metadata, read_image

BASE, GPS = ExifTags.Base, ExifTags.GPS


def read(exif=b"", xmp=b""):
    return read_metadata(Metadata(exif=exif, xmp=xmp), [])


def exif_of(base=(), inner=(), gps=()):
    exif = Image.Exif()
    exif.update(base)
    exif.get_ifd(ExifTags.IFD.Exif).update(inner)
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    return exif.tobytes().removeprefix(b"Exif\0\0")


def xmp_of(inside):
    return f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
        xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
        xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/">{inside}
        </rdf:RDF></x:xmpmeta>""".encode()


@pytest.mark.parametrize(
    "metadata", [FULL, PhotoMetadata(iso="100"), PhotoMetadata(position="0,-0.000001")]
)
def test_exif_and_xmp_each_say_all_of_it(metadata):
    written = write_metadata(metadata)
    assert read(exif=written.exif) == metadata
    assert read(xmp=written.xmp) == metadata
    assert read(written.exif, written.xmp) == metadata


def test_nothing_is_written_for_nothing():
    assert write_metadata(PhotoMetadata()) == Metadata()
    assert read() == PhotoMetadata()


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp", "tiff"])
def test_files_of_all_formats_hold_both(file_format):
    data = encode_image(np.zeros((8, 8, 3), np.uint8), file_format, metadata=write_metadata(FULL))
    stored = read_image(io.BytesIO(data)).metadata
    # TIFF has the texts in its own tags, and the rest in XMP.
    texts = {name: getattr(FULL, name) for name in ("author", "copyright", "camera_model")}
    of_exif = read(exif=stored.exif)
    assert of_exif == FULL if file_format != "tiff" else texts.items() <= of_exif.in_words().items()
    assert read(xmp=stored.xmp) == FULL


def test_what_a_camera_writes():
    exif = exif_of(
        base={
            BASE.Make: "Canon\0",
            BASE.Model: "Canon EOS R5  ",
            BASE.DateTime: "2027:01:01 00:00:00",
            BASE.Copyright: "Photographer\0Editor\0",
            BASE.Artist: " \0",
        },
        inner={
            BASE.DateTimeOriginal: "2026:11:30 07:40:37",
            BASE.OffsetTimeOriginal: "-05:30",
            BASE.ExposureTime: IFDRational(10, 2500),
            BASE.FNumber: IFDRational(28, 10),
            BASE.ISOSpeedRatings: 6400,
            BASE.FocalLength: IFDRational(0, 0),
        },
        gps={
            GPS.GPSLatitudeRef: "S",
            GPS.GPSLatitude: (IFDRational(48), IFDRational(51), IFDRational(2960, 100)),
            GPS.GPSLongitudeRef: "W",
            GPS.GPSLongitude: (IFDRational(2), IFDRational(17666, 1000), IFDRational(0)),
            GPS.GPSAltitude: IFDRational(352, 10),
        },
    )
    assert read(exif=exif) == PhotoMetadata(
        date="2026-11-30T07:40:37-05:30",
        copyright="Photographer; Editor",
        camera_make="Canon",
        camera_model="Canon EOS R5",
        exposure_time="1/250",
        f_number="2.8",
        iso="6400",
        position="-48.858222,-2.294433,35.2",
    )


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ("Größe".encode(), "Größe"),
        ("Größe".encode("latin-1"), "Größe"),
        ("שלום".encode(), "שלום"),
        ("👩‍👩‍👧 hi".encode(), "👩‍👩‍👧 hi"),
        (b"a\0\0b\0", "a; b"),
        (b"a\x1b[31mb\x07", "a[31mb"),
        (b"one\r\ntwo\rthree", "one\ntwo\nthree"),
        (b"\0\0", None),
    ],
)
def test_texts_of_any_encoding(stored, text):
    assert read(exif=exif_of(base={BASE.ImageDescription: stored})).description == text


def test_long_texts_are_cut_between_characters_and_that_is_said():
    notes = []
    exif = exif_of(base={BASE.ImageDescription: ("é" * 32_000).encode(), BASE.Make: b"x" * 999})
    metadata = read_metadata(Metadata(exif=exif), notes)
    assert metadata.description == "é" * 2048
    assert metadata.camera_make == "x" * 256
    assert notes == [
        "description of 64000 bytes was cut to 4096",
        "camera_make of 999 bytes was cut to 256",
    ]
    full = dict.fromkeys(("author", "copyright", "description"), "€" * 1365)
    assert PhotoMetadata(**full).to_bytes()  # what is cut fits the section


@pytest.mark.parametrize(
    ("date", "found"),
    [
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("2026:13:40 99:00:00", None),
        ("2026:11:30 07:40:37", "2026-11-30T07:40:37"),
    ],
)
def test_dates_of_clocks_that_were_never_set(date, found):
    assert read(exif=exif_of(inner={BASE.DateTimeOriginal: date})).date == found


def test_xmp_of_other_writers():
    xmp = xmp_of(
        """<rdf:Description xmp:CreateDate="2026-11-30T07:40Z" tiff:Make="Nikon" exif:FNumber="28/10"
            exif:GPSLatitude="48,51.49333N" exif:GPSLongitude="2,17,40W">
        <dc:creator><rdf:Seq><rdf:li>Ada</rdf:li><rdf:li>Bob</rdf:li></rdf:Seq></dc:creator>
        <dc:description><rdf:Alt><rdf:li xml:lang="de">Bild</rdf:li><rdf:li xml:lang="x-default">Picture</rdf:li>
        </rdf:Alt></dc:description></rdf:Description>"""
    )
    assert read(xmp=xmp) == PhotoMetadata(
        date="2026-11-30T07:40:00+00:00",
        author="Ada; Bob",
        description="Picture",
        camera_make="Nikon",
        f_number="2.8",
        position="48.858222,-2.294444",
    )


def test_texts_are_those_of_xmp_and_the_rest_those_of_exif():
    exif = exif_of(base={BASE.Artist: b"exif", BASE.Make: b"exif"})
    xmp = xmp_of(
        '<rdf:Description tiff:Make="xmp" tiff:Model="xmp"><dc:creator>xmp</dc:creator></rdf:Description>'
    )
    assert read(exif, xmp) == PhotoMetadata(author="xmp", camera_make="exif", camera_model="xmp")


HOSTILE = {
    "laughs": b"<!DOCTYPE r [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><r>&b;</r>",
    "outside": b"<!DOCTYPE r [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><r>&a;</r>",
    "no XML": b"<x:xmpmeta",
    "encoding": b"<?xml version='1.0' encoding='none'?><r/>",
    "no UTF-8": b"<r>\xff\xfe\xfd</r>",
    "deep": b"<a>" * 100_000 + b"</a>" * 100_000,
    "large": b"<r>" + b" " * 2**21 + b"</r>",
    "powers": xmp_of(
        '<rdf:Description exif:FNumber="1e999999999" exif:GPSLatitude="1e99999999N"/>'
    ),
    "nested": xmp_of("<rdf:Description>" * 10_000 + "</rdf:Description>" * 10_000),
    "nowhere": xmp_of('<rdf:Description exif:GPSLatitude="91,0N" exif:GPSLongitude="0,0E"/>'),
    "no side": xmp_of('<rdf:Description exif:GPSLatitude="9" exif:GPSLongitude=" "/>'),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_xmp_says_nothing(name):
    start = time.process_time()
    assert read(xmp=HOSTILE[name]) == PhotoMetadata()
    assert time.process_time() - start < 2


def test_damaged_exif_and_xmp_say_less():
    rng = random.Random(0)
    written = write_metadata(FULL)
    for _ in range(300):
        exif, xmp = bytearray(written.exif), bytearray(written.xmp)
        for data in (exif, xmp):
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        found = read(bytes(exif[: rng.randint(0, len(exif))]), bytes(xmp))
        assert PhotoMetadata.from_bytes(found.to_bytes() or PhotoMetadata(iso="1").to_bytes())


def test_the_position_has_a_switch_of_its_own():
    without = replace(FULL, position=None)
    alone = PhotoMetadata(position=FULL.position)
    assert kept(FULL, keep_metadata=False, keep_gps=False) == PhotoMetadata()
    assert kept(FULL, keep_metadata=True, keep_gps=False) == without
    assert kept(FULL, keep_metadata=False, keep_gps=True) == alone
    assert kept(FULL, keep_metadata=True, keep_gps=True) == FULL
    assert groups_in(FULL) == [
        "date",
        "author",
        "copyright",
        "description",
        "camera",
        "GPS position",
    ]
    assert groups_in(PhotoMetadata()) == []


def test_no_empty_folder_tells_of_a_place() -> None:
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + write_metadata(PhotoMetadata(author="Ada")).exif)
    assert dict(exif) == {315: "Ada"}
