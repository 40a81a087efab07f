"""Which format a file is of, by its first bytes, and what has to be known of it before its decoder may see it."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

from PIL import Image

from pixdex.errors import InvalidImage, MissingDependency

__all__ = [
    "SIGNATURE_BYTES",
    "Png",
    "check_ppm",
    "check_tiff",
    "lean_gif",
    "looks_like_picture",
    "plugin",
    "read_png",
    "sniff",
    "webp_size",
]

SIGNATURE_BYTES = 12
"""How much of a file ``looks_like_picture`` wants to see."""

_SIGNATURES = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("BMP", b"BM"),
    ("TIFF", b"II*\x00"),
    ("TIFF", b"MM\x00*"),
    ("TIFF", b"II+\x00"),
    ("TIFF", b"MM\x00+"),
    ("PPM", b"P4"),
    ("PPM", b"P5"),
    ("PPM", b"P6"),
)
_UNMISTAKABLE = frozenset({"JPEG", "PNG", "GIF", "WEBP"})
"""Formats whose signature no other file starts with: two letters, as BMP and PPM have, are in many a text."""
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})


def sniff(source: bytes) -> str:
    """The format that the first bytes name.

    Raises:
        InvalidImage: none that is known.
    """
    for name, signature in _SIGNATURES:
        if source.startswith(signature):
            return name
    if source[:4] == b"RIFF" and source[8:12] == b"WEBP":
        return "WEBP"
    if source[4:8] == b"ftyp":
        length = min(int.from_bytes(source[:4], "big"), 256)
        brands = {source[at : at + 4] for at in (8, *range(16, length - 3, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    raise InvalidImage("not a picture")


def looks_like_picture(head: bytes) -> bool:
    """Whether the first bytes of a file, whatever it is called, are certainly those of a picture."""
    try:
        return sniff(head) in _UNMISTAKABLE
    except InvalidImage:
        return False


_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "HEIC": ("pillow_heif.as_plugin", "HeifImageFile"),
}


def plugin(name: str) -> Callable[[io.BytesIO], Image.Image]:
    """The Pillow class that reads a format, imported when first needed. HEIC's is used without registering it: what
    ``Image.open`` knows is the application's.

    Raises:
        InvalidImage: HEIC, and the extra for it is not installed; a Pillow that is too old for the format.
    """
    module, reader = _PLUGINS[name]
    try:
        found: Callable[[io.BytesIO], Image.Image] = getattr(import_module(module), reader)
    except ImportError as error:
        why = MissingDependency("pillow-heif", "heif") if name == "HEIC" else "this Pillow is too old for it"
        raise InvalidImage(f"{name} is not read: {why}") from error
    return found


def webp_size(source: bytes) -> tuple[int, int]:
    """Width and height from a WebP header: its plugin allocates the canvas on opening."""
    if len(source) < 30:
        raise InvalidImage("truncated WEBP")
    chunk = source[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(source[24:27], "little"), 1 + int.from_bytes(source[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(source[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(source[26:28], "little") & 0x3FFF, int.from_bytes(source[28:30], "little") & 0x3FFF
    raise InvalidImage("truncated or corrupt WEBP: its header cannot be read")


# --- PPM, GIF --------------------------------------------------------------------------------------------------------

_PPM_HEADER = re.compile(rb"P(?:4(?:(?:\s|#[^\r\n]*[\r\n])+\d+){2}|[56](?:(?:\s|#[^\r\n]*[\r\n])+\d+){3})")
_MAX_PPM_HEADER = 65_536


def check_ppm(source: bytes) -> None:
    """Refuse a header that does not end: its plugin reads comments byte by byte.

    Raises:
        InvalidImage: it is damaged, or longer than any.
    """
    if _PPM_HEADER.match(source, 0, _MAX_PPM_HEADER) is None:
        raise InvalidImage("truncated or corrupt PPM: its header cannot be read")


_MAX_BLOCKS = 1_100_000
"""A GIF comes in blocks of up to 255 bytes: those of the largest file."""


def lean_gif(source: bytes, frame: int) -> bytes:
    """A GIF without comments and other texts, which its plugin takes time over, and without the frames after ``frame``.

    Raises:
        InvalidImage: it consists of more blocks than a picture does.
    """
    parts = [source[: 13 + _colour_table(source, 10)]]
    at, blocks = len(parts[0]), 0
    while frame >= 0 and (kind := source[at : at + 1]) in (b"!", b","):
        start = at
        at += 2 if kind == b"!" else 11 + _colour_table(source, at + 9)
        while at < len(source) and source[at]:
            at += 1 + source[at]
            blocks += 1
        at += 1
        blocks += 1
        if blocks > _MAX_BLOCKS:
            raise InvalidImage(f"a GIF of more than {_MAX_BLOCKS} blocks")
        if kind == b"," or source[start + 1 : start + 2] == b"\xf9":
            parts.append(source[start:at])
            frame -= kind == b","
    if frame < 0 and at <= len(source):
        return b"".join((*parts, b";"))
    return b"".join((*parts, source[at : at + 1]))


def _colour_table(source: bytes, flags: int) -> int:
    """The bytes of the colour table that the flags announce."""
    found = source[flags] if flags < len(source) else 0
    return 3 << (found & 7) + 1 if found & 0x80 else 0


# --- TIFF ----------------------------------------------------------------------------------------------------------

_MAX_TAGS = 4_096
_MAX_VALUES = 250_000
"""Of a tag, strips and tiles above all: Pillow makes objects of each."""
_TEXT = frozenset({1, 2, 6, 7})
"""Types whose values stay bytes."""


def check_tiff(source: bytes, page: int) -> None:
    """Refuse what would take minutes and gigabytes only to open: directories that claim millions of values, up to that of
    the page. What is wrong with them otherwise is for the plugin to find.

    Raises:
        InvalidImage: there are too many, or there is no first one.
    """
    order = "<" if source[:2] == b"II" else ">"
    big = 43 in source[2:4]
    number, entry, after = ("Q", "HHQ8x", 8) if big else ("H", "HHI4x", 2)
    pointer = "Q" if big else "I"
    place = 8 if big else 4
    for number_of_page in range(page + 1):
        try:
            (start,) = struct.unpack_from(order + pointer, source, place)
            if start == 0:  # no further page
                return
            (count,) = struct.unpack_from(order + number, source, start)
            if count > _MAX_TAGS:
                raise InvalidImage(f"a TIFF directory of {count} tags, the limit is {_MAX_TAGS}")
            size = struct.calcsize(order + entry)
            place = start + after + count * size
            for tag, kind, values in struct.iter_unpack(order + entry, source[start + after : place]):
                if values > _MAX_VALUES and kind not in _TEXT:
                    raise InvalidImage(f"a TIFF tag ({tag}) of {values} values, the limit is {_MAX_VALUES}")
        except (struct.error, OverflowError) as error:
            if number_of_page:
                return
            raise InvalidImage("truncated or corrupt TIFF: its directory cannot be read") from error


# --- PNG -----------------------------------------------------------------------------------------------------------

_STILL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})
"""What makes the picture. Compressed text is what bombs are made of, and nothing here reads it."""
_ANIMATED = _STILL | {b"acTL", b"fcTL", b"fdAT"}
_MAX_CHUNKS = 500_000
_MAX_PROFILE = 4 * 1024 * 1024
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
"""Of an interlaced picture: the first row and column, and the steps between rows and columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Png:
    """``source`` without the chunks that nobody reads; ``whole``: whether it goes on to its end; ``exif`` and
    ``profile``: empty where there is none.
    """

    source: bytes
    whole: bool
    exif: bytes
    profile: bytes

    def has_all_rows(self) -> bool:
        """Whether the compressed data is as long as the picture: it may end early without a fault of its own, and the
        rest is then taken for black. As costly as decoding.
        """
        inflate, found = zlib.decompressobj(), 0
        for name, start, end in _chunks(self.source):
            data = self.source[start + 8 : end - 4] if name == b"IDAT" else b""
            while data and not inflate.eof:
                found += len(inflate.decompress(data, 1 << 20))
                data = inflate.unconsumed_tail
        return found >= _bytes_of_rows(self.source[16:29])


def _bytes_of_rows(header: bytes) -> int:
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS.get(kind, 1)
    total = 0
    for top, left, down, across in _PASSES if interlaced else ((0, 0, 1, 1),):
        rows, columns = -(-(height - top) // down), -(-(width - left) // across)
        total += rows * (1 + -(-columns * bits // 8)) if rows > 0 and columns > 0 else 0
    return total


class _Chunk(NamedTuple):
    """``source[start:end]`` with length, name and checksum; the last of a truncated file may end before it is whole."""

    name: bytes
    start: int
    end: int


def read_png(source: bytes, *, animated: bool) -> Png:
    """The parts of a PNG; ``animated``: with those of the frames after the first.

    Raises:
        InvalidImage: there is nothing of the picture, or the file is nothing but chunks.
    """
    needed = _ANIMATED if animated else _STILL
    kept: list[tuple[int, int]] = [(0, 8)]
    exif = profile = b""
    names = set()
    for name, start, end in _chunks(source):
        names.add(name)
        if name == b"eXIf":
            exif = exif or source[start + 8 : end - 4]
        elif name == b"iCCP":
            profile = profile or _inflated_profile(source[start + 8 : end - 4])
        elif name in needed:
            follows = kept[-1][1] == start
            kept.append((kept.pop()[0] if follows else start, end))
    if b"IDAT" not in names:
        raise InvalidImage("truncated PNG")
    lean = source if len(kept) == 1 else b"".join(memoryview(source)[start:end] for start, end in kept)
    return Png(source=lean, whole=b"IEND" in names, exif=exif, profile=profile)


def _chunks(source: bytes) -> Iterator[_Chunk]:
    """The chunks of a PNG file, up to IEND."""
    at = 8
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(source):
            return
        length, name = struct.unpack_from(">I4s", source, at)
        end = at + 12 + length
        yield _Chunk(name, at, min(end, len(source)))
        if name == b"IEND" or end > len(source):
            return
        at = end
    raise InvalidImage(f"a PNG of more than {_MAX_CHUNKS} chunks")


def _inflated_profile(body: bytes) -> bytes:
    """The ICC profile of an iCCP chunk; empty when it is damaged or too large for one."""
    _, _, packed = body.partition(b"\x00")
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(packed[1:], _MAX_PROFILE)
    except zlib.error:
        return b""
    return profile if inflate.eof else b""
