# SPDX-License-Identifier: Apache-2.0
"""EXIF and XMP of pictures to the metadata that ``.gac`` files carry, and back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from genaccel.codec.format.metadata import CONTROL_CHARACTERS, MAX_TEXT_BYTES, PhotoMetadata
from genaccel.files.images import Metadata

_MAX_XMP_BYTES = 2**20
_MAX_CAMERA_BYTES = 256
_MICRODEGREES = 10**6
_NUMBER = re.compile(r"-?\d{1,12}(?:\.\d{1,12})?(?:/\d{1,12})?", re.ASCII)

_SPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "exifEX": "http://cipa.jp/exif/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
}
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# Where XMP says the texts; of several the first that is there.
_XMP_TEXTS = {
    "author": ("dc:creator", "tiff:Artist"),
    "copyright": ("dc:rights", "tiff:Copyright"),
    "description": ("dc:description", "tiff:ImageDescription"),
    "camera_make": ("tiff:Make",),
    "camera_model": ("tiff:Model",),
    "lens": ("exifEX:LensModel", "aux:Lens"),
}
_XMP_DATES = ("exif:DateTimeOriginal", "photoshop:DateCreated", "xmp:CreateDate")
_BASE, _EXIF, _GPS = ExifTags.Base, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
_CAMERA = ("camera_make", "camera_model", "lens")
# Fields in the words of a report.
_GROUPS = {
    "date": ("date",),
    "author": ("author",),
    "copyright": ("copyright",),
    "description": ("description",),
    "camera": (*_CAMERA, "exposure_time", "f_number", "iso", "focal_length"),
    "GPS position": ("position",),
}


def groups_in(metadata: PhotoMetadata) -> list[str]:
    """What there is, in the words of a report: ``["date", "camera", "GPS position"]``."""
    there = metadata.in_words()
    return [group for group, names in _GROUPS.items() if any(name in there for name in names)]


def kept(metadata: PhotoMetadata, *, keep_metadata: bool, keep_gps: bool) -> PhotoMetadata:
    """What is to be carried: all but the position, or the position, or both, or nothing."""
    wanted = metadata if keep_metadata else PhotoMetadata()
    return replace(wanted, position=metadata.position if keep_gps else None)


def read_metadata(stored: Metadata, notes: list[str]) -> PhotoMetadata:
    """What EXIF and XMP say; what is damaged or has no meaning is left out.

    Dates, numbers and the position are those of EXIF, and of XMP where EXIF has none; texts the other way round, for
    those of EXIF have no declared encoding: they are UTF-8, or else Latin-1.

    Args:
        stored: As the reader of pictures hands them on.
        notes: A sentence is added for each text that is cut.
    """
    found = _of_xmp(stored.xmp)
    of_exif = _of_exif(stored.exif)
    texts = {*_XMP_TEXTS} - {*_CAMERA}
    for name, value in of_exif.items():
        if name not in texts or name not in found:
            found[name] = value
    values: dict[str, str] = {}
    for field in fields(PhotoMetadata):
        value = found.get(field.name, "")
        if field.name in _XMP_TEXTS:
            value = _cut(field.name, _cleaned(value), notes)
        if value:
            with suppress(ValueError):  # of another form, such as a date of zeros
                PhotoMetadata(**{field.name: value})
                values[field.name] = value
    return PhotoMetadata(**values)


def _cleaned(text: str) -> str:
    """Without what :class:`PhotoMetadata` refuses; the parts of a text that a NUL divides are joined."""
    parts = (part.strip() for part in text.replace("\r\n", "\n").replace("\r", "\n").split("\0"))
    return CONTROL_CHARACTERS.sub("", "; ".join(part for part in parts if part)).strip()


def _cut(name: str, text: str, notes: list[str]) -> str:
    most = _MAX_CAMERA_BYTES if name in _CAMERA else MAX_TEXT_BYTES
    data = text.encode()
    if len(data) <= most:
        return text
    notes.append(f"{name} of {len(data)} bytes was cut to {most}")
    return data[:most].decode(errors="ignore").strip()


def _decimal(value: Fraction | float) -> str:
    return f"{float(value):.6f}".rstrip("0").rstrip(".")


def _fraction(value: Any) -> Fraction:
    """Of a number of EXIF, or of XMP, as ``28/10``.

    Raises:
        ArithmeticError, ValueError, TypeError: If it is none.
    """
    if isinstance(value, IFDRational):
        return Fraction(int(value.numerator), int(value.denominator))
    if not isinstance(value, str):
        return Fraction(value)
    if not _NUMBER.fullmatch(value):  # Fraction would compute powers of ten without end
        raise ValueError(f"no number: {value!r:.60}")
    numerator, _, denominator = value.partition("/")
    return Fraction(numerator) / Fraction(denominator or 1)


def _numbers(values: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of exposure, in the forms of :class:`PhotoMetadata`."""
    found = {}
    for name, value in values.items():
        # Zero denominators, numbers that are texts, numbers of absurd sizes.
        with suppress(ArithmeticError, ValueError, TypeError):
            number = _fraction(value).limit_denominator(10**6)
            if number > 0:
                is_exact = name == "exposure_time"
                found[name] = str(number) if is_exact else _decimal(number)
    return found


def _position(latitude: float, longitude: float, altitude: float | None) -> dict[str, str]:
    if not (math.isfinite(latitude) and math.isfinite(longitude)):
        return {}
    numbers = [latitude, longitude]
    if altitude is not None and math.isfinite(altitude):
        numbers.append(altitude)
    return {"position": ",".join(_decimal(round(number, 6) + 0.0) for number in numbers)}


def _of_exif(data: bytes) -> dict[str, str]:
    if not data:
        return {}
    try:
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + data)
        base, inner, gps = dict(exif), dict(exif.get_ifd(_EXIF)), dict(exif.get_ifd(_GPS))
    except Exception:  # of whatever damage Pillow's parser trips over
        return {}
    found = {
        "author": _exif_text(base.get(_BASE.Artist)),
        "copyright": _exif_text(base.get(_BASE.Copyright)),
        "description": _exif_text(base.get(_BASE.ImageDescription)),
        "camera_make": _exif_text(base.get(_BASE.Make)),
        "camera_model": _exif_text(base.get(_BASE.Model)),
        "lens": _exif_text(inner.get(_BASE.LensModel)),
        "date": _exif_date(inner, base),
    }
    sensitivity = inner.get(_BASE.ISOSpeedRatings)
    numbers = {
        "exposure_time": inner.get(_BASE.ExposureTime),
        "f_number": inner.get(_BASE.FNumber),
        "iso": sensitivity[0] if isinstance(sensitivity, tuple) and sensitivity else sensitivity,
        "focal_length": inner.get(_BASE.FocalLength),
    }
    found |= _numbers(numbers)
    with suppress(ArithmeticError, ValueError, TypeError, KeyError):
        found |= _exif_position(gps)
    return {name: value for name, value in found.items() if value}


def _exif_text(value: Any) -> str:
    if isinstance(value, str):  # which Pillow made of the bytes as if they were Latin-1
        value = value.encode("latin-1", errors="ignore")
    if not isinstance(value, bytes):
        return ""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _exif_date(inner: Mapping[int, Any], base: Mapping[int, Any]) -> str:
    pairs = (
        (inner.get(_BASE.DateTimeOriginal), inner.get(_BASE.OffsetTimeOriginal)),
        (inner.get(_BASE.DateTimeDigitized), inner.get(_BASE.OffsetTimeDigitized)),
        (base.get(_BASE.DateTime), inner.get(_BASE.OffsetTime)),
    )
    for date, offset in pairs:
        match = re.match(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)", _exif_text(date), re.ASCII)
        if match and match[1] != "0000":
            zone = re.match(r"[+-]\d\d:\d\d", _exif_text(offset), re.ASCII)
            return f"{match[1]}-{match[2]}-{match[3]}T{match[4]}{zone[0] if zone else ''}"
    return ""


def _exif_position(gps: Mapping[int, Any]) -> dict[str, str]:
    tags = ExifTags.GPS

    def degrees(value: Iterable[Any], reference: Any) -> float:
        whole = sum(_fraction(part) / 60**i for i, part in enumerate(value))
        return float(-whole if _exif_text(reference).upper()[:1] in ("S", "W") else whole)

    altitude = gps.get(tags.GPSAltitude)
    if altitude is not None:
        below = gps.get(tags.GPSAltitudeRef) in (b"\1", 1)
        altitude = float(-_fraction(altitude) if below else _fraction(altitude))
    return _position(
        degrees(gps[tags.GPSLatitude], gps.get(tags.GPSLatitudeRef, "N")),
        degrees(gps[tags.GPSLongitude], gps.get(tags.GPSLongitudeRef, "E")),
        altitude,
    )


def _of_xmp(packet: bytes) -> dict[str, str]:
    properties = _xmp_properties(packet)

    def first(names: Iterable[str]) -> str:
        return next((properties[name] for name in names if properties.get(name)), "")

    found = {name: first(places) for name, places in _XMP_TEXTS.items()}
    for name in _XMP_DATES:
        match = re.fullmatch(
            r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(:\d\d)?(?:\.\d+)?(Z|[+-]\d\d:\d\d)?",
            properties.get(name, ""),
            re.ASCII,
        )
        if match:
            zone = "+00:00" if match[3] == "Z" else match[3] or ""
            found["date"] = f"{match[1]}{match[2] or ':00'}{zone}"
            break
    numbers = {
        "exposure_time": properties.get("exif:ExposureTime"),
        "f_number": properties.get("exif:FNumber"),
        "iso": first(("exifEX:PhotographicSensitivity", "exif:ISOSpeedRatings")).split(";")[0],
        "focal_length": properties.get("exif:FocalLength"),
    }
    found |= _numbers(numbers)
    with suppress(ArithmeticError, ValueError, KeyError):
        altitude = properties.get("exif:GPSAltitude")
        sign = -1 if properties.get("exif:GPSAltitudeRef") == "1" else 1
        found |= _position(
            _xmp_degrees(properties["exif:GPSLatitude"]),
            _xmp_degrees(properties["exif:GPSLongitude"]),
            sign * float(_fraction(altitude)) if altitude else None,
        )
    return {name: value for name, value in found.items() if value}


def _xmp_degrees(text: str) -> float:
    """``48,51.4933N`` or ``48,51,29N``."""
    whole = sum(_fraction(part) / 60**i for i, part in enumerate(text[:-1].split(",")))
    if text[-1] not in "NESW":
        raise ValueError(f"no direction in {text!r}")
    return float(-whole if text[-1] in "SW" else whole)


def _xmp_properties(packet: bytes) -> dict[str, str]:
    """Properties by ``prefix:name``, items of a list joined by semicolons; nothing of a packet that is damaged."""
    # No XMP declares entities, which a parser could be made to expand without end.
    if len(packet) > _MAX_XMP_BYTES or b"<!" in packet.replace(b"<!--", b"").replace(
        b"<![CDATA[", b""
    ):
        return {}
    try:
        root = ElementTree.fromstring(packet.strip(b"\0 \t\r\n"))
    except (ElementTree.ParseError, ValueError, LookupError):  # the last of unknown encodings
        return {}
    prefixes = {f"{{{space}}}": prefix for prefix, space in _SPACES.items()}
    found: dict[str, str] = {}

    def keep(name: str, text: str | None) -> None:
        end = name.find("}") + 1
        if name[:end] in prefixes and text and text.strip():
            found.setdefault(f"{prefixes[name[:end]]}:{name[end:]}", text.strip())

    item = f"{{{_SPACES['rdf']}}}li"
    rdf = next(root.iter(f"{{{_SPACES['rdf']}}}RDF"), ElementTree.Element("none"))
    for description in rdf.iterfind(f"{{{_SPACES['rdf']}}}Description"):
        for name, text in description.items():
            keep(name, text)
        for child in description:
            items = list(child.iter(item))
            default = [each for each in items if each.get(_LANGUAGE) == "x-default"]
            has_languages = any(each.get(_LANGUAGE) for each in items)
            chosen = (default or items)[:1] if has_languages else items
            texts = [each.text.strip() for each in chosen if each.text and each.text.strip()]
            keep(child.tag, "; ".join(texts) if items else child.text)
    return found


def write_metadata(metadata: PhotoMetadata) -> Metadata:
    """EXIF and XMP that say what the metadata does; empty if that is nothing."""
    there = metadata.in_words()
    return Metadata(exif=_to_exif(there), xmp=_to_xmp(there)) if there else Metadata()


def _rational(text: str) -> IFDRational:
    number = Fraction(text)
    return IFDRational(number.numerator, number.denominator)


def _to_exif(there: Mapping[str, str]) -> bytes:
    exif = Image.Exif()
    inner: dict[int, Any] = {}
    texts: tuple[tuple[Any, int, str], ...] = (
        (exif, _BASE.Artist, "author"),
        (exif, _BASE.Copyright, "copyright"),
        (exif, _BASE.ImageDescription, "description"),
        (exif, _BASE.Make, "camera_make"),
        (exif, _BASE.Model, "camera_model"),
        (inner, _BASE.LensModel, "lens"),
    )
    for folder, tag, name in texts:
        if name in there:
            folder[tag] = there[name].encode()
    for tag, name in (
        (_BASE.ExposureTime, "exposure_time"),
        (_BASE.FNumber, "f_number"),
        (_BASE.FocalLength, "focal_length"),
    ):
        if name in there:
            inner[tag] = _rational(there[name])
    if "iso" in there:
        inner[_BASE.ISOSpeedRatings] = min(int(there["iso"]), 65535)
    if "date" in there:
        date, offset = there["date"][:19], there["date"][19:]
        inner[_BASE.DateTimeOriginal] = date.replace("-", ":").replace("T", " ")
        if offset:
            inner[_BASE.OffsetTimeOriginal] = offset
    # A folder that is asked for is written, be it empty: one for GPS would tell of a place that is not there.
    if inner:
        exif.get_ifd(_EXIF).update(inner)
    if "position" in there:
        exif.get_ifd(_GPS).update(_to_gps(there["position"]))
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _to_gps(position: str) -> dict[int, Any]:
    tags = ExifTags.GPS
    latitude, longitude, *altitude = map(Fraction, position.split(","))

    def parts(degrees: Fraction) -> tuple[IFDRational, ...]:
        micro = int(abs(degrees) * _MICRODEGREES)
        whole, rest = divmod(micro, _MICRODEGREES)
        minutes, rest = divmod(rest * 60, _MICRODEGREES)
        return IFDRational(whole), IFDRational(minutes), IFDRational(rest * 60, _MICRODEGREES)

    gps: dict[int, Any] = {
        tags.GPSVersionID: b"\2\3\0\0",
        tags.GPSLatitudeRef: "S" if latitude < 0 else "N",
        tags.GPSLatitude: parts(latitude),
        tags.GPSLongitudeRef: "W" if longitude < 0 else "E",
        tags.GPSLongitude: parts(longitude),
    }
    for metres in altitude:
        gps[tags.GPSAltitudeRef] = b"\1" if metres < 0 else b"\0"
        gps[tags.GPSAltitude] = IFDRational(abs(metres).numerator, metres.denominator)
    return gps


def _to_xmp(there: Mapping[str, str]) -> bytes:
    def item(text: str) -> str:
        return f"<rdf:li>{escape(text)}</rdf:li>"

    def default(text: str) -> str:
        return f'<rdf:Alt><rdf:li xml:lang="x-default">{escape(text)}</rdf:li></rdf:Alt>'

    properties = {
        "dc:creator": ("author", lambda text: f"<rdf:Seq>{item(text)}</rdf:Seq>"),
        "dc:rights": ("copyright", default),
        "dc:description": ("description", default),
        "exif:DateTimeOriginal": ("date", escape),
        "tiff:Make": ("camera_make", escape),
        "tiff:Model": ("camera_model", escape),
        "exifEX:LensModel": ("lens", escape),
        "exif:ExposureTime": ("exposure_time", escape),
        "exif:FNumber": ("f_number", lambda text: str(Fraction(text))),
        "exif:ISOSpeedRatings": ("iso", lambda text: f"<rdf:Seq>{item(text)}</rdf:Seq>"),
        "exif:FocalLength": ("focal_length", lambda text: str(Fraction(text))),
    }
    said = [
        f"<{tag}>{write(there[name])}</{tag}>"
        for tag, (name, write) in properties.items()
        if name in there
    ]
    if "position" in there:
        latitude, longitude, *altitude = map(Fraction, there["position"].split(","))
        for tag, degrees, sides in (("Latitude", latitude, "NS"), ("Longitude", longitude, "EW")):
            whole, rest = divmod(abs(degrees), 1)
            said.append(
                f"<exif:GPS{tag}>{whole},{_decimal(rest * 60)}{sides[degrees < 0]}</exif:GPS{tag}>"
            )
        for metres in altitude:
            said.append(f"<exif:GPSAltitude>{abs(metres)}</exif:GPSAltitude>")
            said.append(f"<exif:GPSAltitudeRef>{int(metres < 0)}</exif:GPSAltitudeRef>")
    spaces = " ".join(f'xmlns:{prefix}="{space}"' for prefix, space in _SPACES.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {spaces}><rdf:Description rdf:about="">'
        f"{''.join(said)}</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    ).encode()
