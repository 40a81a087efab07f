"""Parts of picture files that libraries do not write: colour profiles, PNG chunks, JPEG of any subsampling.

Everything shows the same four quadrants, so that colours and orientation can be told from the pixels alone.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "FOUR",
    "HEIGHT",
    "WIDTH",
    "adam7",
    "cmyk_profile",
    "encoded",
    "filtered",
    "flat_jpeg",
    "grey_profile",
    "jpeg_with",
    "png",
    "png_chunk",
    "profile_segments",
    "quadrants",
    "rgb_profile",
    "segment",
]

WIDTH, HEIGHT = 128, 64
"""Halves of them are whole units of every subsampling."""
FOUR = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128))
"""Red and green over blue and grey."""

D50 = (0.9642, 1.0, 0.8249)
SRGB_PRIMARIES = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
"""XYZ of red, green and blue, adapted to D50."""


def quadrants(width: int = WIDTH, height: int = HEIGHT, *, noise: float = 0.0) -> NDArray[np.uint8]:
    """Red and green over blue and grey, uint8 ``[height, width, 3]``."""
    array = np.zeros((height, width, 3))
    top, left = slice(0, height // 2), slice(0, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    for place, colour in zip(((top, left), (top, right), (bottom, left), (bottom, right)), FOUR, strict=True):
        array[place] = colour
    if noise:
        array += np.random.default_rng(0).normal(0, noise, array.shape)
    return array.clip(0, 255).astype(np.uint8)


def encoded(image: Image.Image | NDArray[np.uint8], name: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, name, **options)
    return buffer.getvalue()


# --- ICC profiles --------------------------------------------------------------------------------------------------


def rgb_profile(order: Sequence[int] = (0, 1, 2), gamma: float = 2.2) -> bytes:
    """A display whose red, green and blue are those of sRGB in another order: (2, 0, 1) shows blue for red."""
    tags = {b"wtpt": _xyz(D50)}
    for channel, source in zip(b"rgb", order, strict=True):
        tags[bytes((channel,)) + b"XYZ"] = _xyz(SRGB_PRIMARIES[source])
        tags[bytes((channel,)) + b"TRC"] = _curve(gamma)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """Grey of another gamma."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz(D50), b"kTRC": _curve(gamma)})


def cmyk_profile(order: Sequence[int] = (0, 1, 2)) -> bytes:
    """A press whose three colour inks take away red, green and blue in the order given: a table of 2 x 2 x 2 x 2."""
    nodes = bytearray()
    for inks in np.ndindex(2, 2, 2, 2):
        light = np.ones(3)
        for ink, takes in zip(inks, order, strict=False):
            light[takes] *= 1 - ink
        nodes += _lab(light * (1 - inks[3]))
    identity = b"".join(struct.pack(">i", int(value * 65536)) for value in np.eye(3).ravel())
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + bytes(nodes) + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(D50), b"A2B0": table})


def _lab(light: NDArray[np.float64]) -> bytes:
    """Linear sRGB as Lab in eight bits (ICC version 2)."""
    xyz = (light @ np.array(SRGB_PRIMARIES)) / np.array(D50)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    values = (116 * f[1] - 16) * 2.55, 500 * (f[0] - f[1]) + 128, 200 * (f[1] - f[2]) + 128
    return bytes(int(np.clip(round(value), 0, 255)) for value in values)


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {
        b"cprt": b"text\0\0\0\0none\0",
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78),
    } | tags
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += padded
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"", 0x02400000, kind, space, connection)
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(D50)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


# --- PNG -----------------------------------------------------------------------------------------------------------


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    rows: bytes,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    depth: int = 8,
    colour_type: int = 2,
    interlaced: bool = False,
    before: Iterable[bytes] = (),
    after: Iterable[bytes] = (),
) -> bytes:
    """A PNG file of filtered rows, with chunks before and after the picture data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")
    start, data, end = (png_chunk(*part) for part in parts)
    return b"".join((b"\x89PNG\r\n\x1a\n", start, *before, data, *after, end))


def filtered(array: NDArray[Any]) -> bytes:
    """Rows without prediction; samples of 16 bits big-endian."""
    order = array.astype(">u2") if array.dtype == np.uint16 else array
    return b"".join(b"\0" + row.tobytes() for row in order)


def adam7(array: NDArray[np.uint8]) -> bytes:
    """The rows of the seven passes of an interlaced PNG."""
    passes = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
    return b"".join(filtered(array[top::down, left::across]) for top, left, down, across in passes)


# --- JPEG ----------------------------------------------------------------------------------------------------------


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment with its length."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(source: bytes, *segments: bytes) -> bytes:
    """A JPEG file with more segments at its beginning."""
    return b"".join((source[:2], *segments, source[2:]))


def profile_segments(profile: bytes, parts: int) -> list[bytes]:
    """An ICC profile in so many APP2 segments."""
    size = -(-len(profile) // parts)
    pieces = [profile[at : at + size] for at in range(0, len(profile), size)]
    return [segment(0xE2, b"ICC_PROFILE\0" + bytes((i, len(pieces))) + piece) for i, piece in enumerate(pieces, 1)]


def flat_jpeg(
    sampling: Sequence[tuple[int, int]], *, width: int = WIDTH, height: int = HEIGHT, restart: int = 0
) -> bytes:
    """The quadrants as a baseline JPEG of blocks of one colour, with any sampling factors (one component: luma only).

    Each block is a difference of means, coded in 4 + n bits, and the one-bit code that ends it.
    """
    laid = sampling if len(sampling) > 1 else [(1, 1)]  # alone, a component is laid out block by block
    across, down = max(h for h, _ in laid), max(v for _, v in laid)
    columns, rows = -(-width // (8 * across)), -(-height // (8 * down))
    planes = np.asarray(Image.fromarray(quadrants(columns * across * 8, rows * down * 8)).convert("YCbCr"), dtype=int)
    bits, data, last = "", bytearray(), [0] * len(sampling)
    for number, (row, column) in enumerate(np.ndindex(rows, columns)):
        if restart and number and number % restart == 0:
            data += _packed(bits) + bytes((0xFF, 0xD0 + (number // restart - 1) % 8))
            bits, last = "", [0] * len(sampling)
        for index, (h, v) in enumerate(laid):
            for y, x in np.ndindex(v, h):
                middle = int((row * v + y + 0.5) * 8 * down / v), int((column * h + x + 0.5) * 8 * across / h)
                value = int(planes[(*middle, index)]) - 128
                bits += _difference(value - last[index]) + "0"
                last[index] = value
    data += _packed(bits)
    components = b"".join(bytes((i, h << 4 | v, 0)) for i, (h, v) in enumerate(sampling, 1))
    scan = bytes((len(sampling),)) + b"".join(bytes((i, 0)) for i in range(1, len(sampling) + 1)) + b"\x00\x3f\x00"
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\x08" * 64),
            segment(0xC0, struct.pack(">BHHB", 8, height, width, len(sampling)) + components),
            segment(0xC4, b"\x00" + bytes((0, 0, 0, 12)) + bytes(12) + bytes(range(12))),
            segment(0xC4, b"\x10" + bytes((1,)) + bytes(15) + b"\x00"),
            segment(0xDD, struct.pack(">H", restart)) if restart else b"",
            segment(0xDA, scan),
            bytes(data),
            b"\xff\xd9",
        )
    )


def _difference(value: int) -> str:
    """The category in four bits, then as many bits of the value."""
    size = abs(value).bit_length()
    rest = value if value >= 0 else value + (1 << size) - 1
    return f"{size:04b}" + (f"{rest:0{size}b}" if size else "")


def _packed(bits: str) -> bytes:
    """Bits to bytes, filled up with ones; a zero after each 0xFF."""
    bits += "1" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
