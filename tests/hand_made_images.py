# SPDX-License-Identifier: Apache-2.0
"""Image files and ICC profiles put together byte by byte, of kinds that Pillow does not write."""

import io
import struct
import zlib

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
# Colorants under D50: red, green, blue in XYZ.
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))


def stored(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    stream.seek(0)
    return stream


def s15(values):
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def power(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


LINEAR = b"curv" + bytes(4) + struct.pack(">I", 0)
SRGB_CURVE = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
SRGB_CURVE += s15((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))


def sampled_srgb_curve(entries=1024):
    """As the profile that most cameras embed has it."""
    v = np.linspace(0, 1, entries)
    light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    samples = np.rint(light * 65535).astype(">u2").tobytes()
    return b"curv" + bytes(4) + struct.pack(">I", entries) + samples


def icc(description, colorants=SRGB, curve=SRGB_CURVE, space=b"RGB ", kind=b"mntr", **others):
    """A matrix or grey profile, as ICC.1:2001-04 lays it out."""
    name = description.encode() + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + s15(D50),
    }
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for channel, colorant in zip(b"rgb", colorants, strict=True):
            tags[bytes([channel]) + b"XYZ"] = b"XYZ " + bytes(4) + s15(colorant)
            tags[bytes([channel]) + b"TRC"] = curve
    tags.update({key.encode(): value for key, value in others.items()})
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"    ", 0x02400000, kind, space, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + s15(D50)
    return header + bytes(128 - len(header)) + table + body


def png_chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(samples, bits=8, colour_type=2, chunks=()):
    """A PNG of samples ``[H, W, C]``, with further chunks (name, body) before its pixels."""
    height, width = samples.shape[:2]
    if bits == 16:
        rows = samples.reshape(height, -1).astype(">u2").view(np.uint8)
    else:
        flat = samples.reshape(height, -1).astype(np.uint8)
        ones = np.unpackbits(flat[..., None], axis=2)[..., 8 - bits :]
        rows = np.packbits(ones.reshape(height, -1), axis=1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    return io.BytesIO(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
        + b"".join(png_chunk(*chunk) for chunk in chunks)
        + png_chunk(b"IDAT", zlib.compress(pixels))
        + png_chunk(b"IEND", b"")
    )


def tiff(samples, bits, photometric, order="<", **tags):
    """An uncompressed TIFF of rows of bytes ``[H, W, C]`` of any type; further tags by their numbers, as ``t339``."""
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    data = np.ascontiguousarray(samples, samples.dtype.newbyteorder(order)).tobytes()
    if bits == 12:
        flat = samples.reshape(height, -1).astype(int)
        a, b = flat[:, ::2], flat[:, 1::2]
        data = (
            np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=2).astype(np.uint8).tobytes()
        )
    entries = {256: width, 257: height, 258: [bits] * channels, 259: 1, 262: photometric}
    entries |= {273: 8, 277: channels, 278: height, 279: len(data)}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    data += bytes(len(data) % 2)
    table, extra = b"", b""
    extra_start = 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag in sorted(entries):
        values = entries[tag] if isinstance(entries[tag], list) else [entries[tag]]
        kind, code = ("I", 4) if max(values) > 65535 or tag in (273, 279) else ("H", 3)
        body = struct.pack(f"{order}{len(values)}{kind}", *values)
        table += struct.pack(f"{order}HHI", tag, code, len(values))
        if len(body) <= 4:
            table += body.ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}I", extra_start + len(extra))
            extra += body
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return io.BytesIO(
        mark
        + struct.pack(f"{order}I", 8 + len(data))
        + data
        + struct.pack(f"{order}H", len(entries))
        + table
        + bytes(4)
        + extra
    )


def with_nclx(avif, primaries, transfer):
    """An AVIF or HEIC file with other code points."""
    place = avif.index(b"nclx") + 4
    return io.BytesIO(avif[:place] + struct.pack(">HH", primaries, transfer) + avif[place + 4 :])
