"""JPEG files: read by simplejpeg in strict mode, because Pillow accepts corrupt scans silently.

libjpeg warns, and strict mode refuses, also where nothing is wrong with the picture: stray bytes between segments, padding
after a scan, an unknown revision of JFIF, nonsense in fields that the decoder ignores. Strict mode cannot be told which
warnings to pass over, and without it nothing would be seen of those that come after. So the file is mended: written anew
without what was warned about, and decoded strictly again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pixdex.encoders import _colour, exif
from pixdex.encoders._raster import Raster
from pixdex.encoders.decoding import Decoding, Limits
from pixdex.errors import InvalidImage

__all__ = ["Header", "OddLayout", "decode", "read_header"]

_EOI, _SOS, _APP0, _APP1, _APP2, _APP14 = 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SEQUENTIAL, _PROGRESSIVE = frozenset({0xC0, 0xC1}), frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
"""Huffman, arithmetic and quantization tables, restart interval: with frames and scans, all that decoding needs."""
_STANDALONE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_EXIF, _ICC, _JFIF, _ADOBE = b"Exif\x00\x00", b"ICC_PROFILE\x00", b"JFIF\x00", b"Adobe"
_MAX_WORK = 20
"""Scans of the largest allowed picture that a progressive file may have, or more of a smaller one: each is a pass over
all of it, and a scan of a few bytes is enough for one."""
_MAX_MARKERS = 10_000
"""Profiles and long metadata come in up to 255 segments."""
_ROUNDS = 4
"""How often a file is mended: each round ends one kind of warning."""


class OddLayout(Exception):
    """A subsampling that simplejpeg has no name for."""


class _Segment(NamedTuple):
    """``source[start:end]`` after marker and length."""

    marker: int
    start: int
    end: int


def _segments(source: bytes) -> Iterator[_Segment]:
    """The segments of a JPEG file; stops at its end, or where it breaks off. Bytes between segments are skipped, as
    libjpeg does. Raises InvalidImage when there are too many.
    """
    at = 2
    for _ in range(_MAX_MARKERS):
        found = _MARKER.search(source, at)
        if found is None or found[1][0] == _EOI:
            return
        marker, start = found[1][0], found.end()
        if marker in _STANDALONE:
            at = start
            continue
        end = start + int.from_bytes(source[start : start + 2], "big")
        if end < start + 2 or end > len(source):
            return
        yield _Segment(marker, start + 2, end)
        at = _data_end(source, end) if marker == _SOS else end
    raise InvalidImage(f"a JPEG of more than {_MAX_MARKERS} segments")


def _data_end(source: bytes, start: int) -> int:
    """Where the picture data of a scan ends: at the first marker that is none of its restarts."""
    found = _END_OF_SCAN.search(source, start)
    return found.start() if found else len(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands before the first scan.

    Attributes:
        width: pixels.
        height: pixels.
        marker: of the frame; it says how the picture is coded.
        sampling: horizontal and vertical sampling factor of each component.
        scan: where the first scan begins.
        in_scan: how many components the first scan has.
        metadata: what EXIF says.
        profile: the ICC profile, empty when there is none or parts are missing.
    """

    width: int
    height: int
    marker: int
    sampling: tuple[tuple[int, int], ...]
    scan: int
    in_scan: int
    metadata: exif.Exif
    profile: bytes

    @property
    def has_many_scans(self) -> bool:
        """Whether the decoder has to keep the coefficients of the whole picture."""
        return self.marker in _PROGRESSIVE or self.in_scan < len(self.sampling)


def read_header(source: bytes) -> Header:
    """Raises InvalidImage: there is no frame, or no scan after it, or more segments than a picture has."""
    frame: _Segment | None = None
    block, chunks = b"", {}
    for segment in _segments(source):
        marker, start, end = segment
        if marker in _FRAMES and frame is None and end - start >= 6:
            frame = segment if end - start >= 6 + 3 * source[start + 5] else None
        elif marker == _APP1 and not block and source.startswith(_EXIF, start):
            block = source[start:end]
        elif marker == _APP2 and source.startswith(_ICC, start) and end - start > len(_ICC) + 2:
            number, count = source[start + 12], source[start + 13]
            chunks[number, count] = source[start + 14 : end]
        elif marker == _SOS and frame is not None:
            at, components = frame.start, source[frame.start + 5]
            factors = [source[at + 7 + 3 * i] for i in range(components)]
            return Header(
                width=int.from_bytes(source[at + 3 : at + 5], "big"),
                height=int.from_bytes(source[at + 1 : at + 3], "big"),
                marker=frame.marker,
                sampling=tuple((factor >> 4, factor & 15) for factor in factors),
                scan=end,
                in_scan=source[start] if start < end else 0,
                metadata=exif.parse(block),
                profile=_joined(chunks),
            )
    raise InvalidImage("truncated or corrupt JPEG: its header cannot be read")


def _joined(chunks: dict[tuple[int, int], bytes]) -> bytes:
    """An ICC profile from its numbered parts."""
    count = max((count for _, count in chunks), default=0)
    wanted = [(number, count) for number in range(1, count + 1)]
    return b"".join(chunks[key] for key in wanted) if set(wanted) <= set(chunks) else b""


def decode(source: bytes, header: Header, settings: Decoding, min_side: int | None) -> Raster:
    """The picture, at a fraction of its size where at least ``min_side`` pixels of its shorter side are left.

    Raises:
        InvalidImage: too large, damaged.
        OddLayout: the file may be good, but simplejpeg does not take it.
    """
    width, height = header.width, header.height
    settings.limits.check_size(width, height)
    size = _scaled(width, height, min_side)
    settings.limits.check_decoded(_needed_bytes(header, size))
    _check_work(source, header, settings.limits)
    by_inks = _colour.to_srgb(header.profile, "CMYK") if len(header.sampling) == 4 else None
    pixels = _decode(source, header, "CMYK" if by_inks else "RGB", size, settings)
    if by_inks:
        pixels = _colour.apply_to_inverted_cmyk(pixels, by_inks)
    else:
        _colour.apply_in_place(pixels, header.profile, grey=len(header.sampling) == 1)
    return Raster(pixels=pixels, width=width, height=height, metadata=header.metadata)


def _scaled(width: int, height: int, min_side: int | None) -> tuple[int, int]:
    """Width and height to decode to. Only halves, quarters and eighths: the fractions between have no fast code."""
    for divisor in (8, 4, 2) if min_side else ():
        size = -(-width // divisor), -(-height // divisor)
        if min(size) >= (min_side or 0):
            return size
    return width, height


def _needed_bytes(header: Header, size: tuple[int, int]) -> int:
    across, down = (max((pair[i] for pair in header.sampling), default=1) or 1 for i in (0, 1))
    samples = sum(h * v for h, v in header.sampling) / (across * down)
    coefficients = 2 * samples * header.width * header.height if header.has_many_scans else 0
    copies = 2 if header.metadata.orientation != 1 or len(header.sampling) == 4 else 1
    return int(coefficients + size[0] * size[1] * max(3, len(header.sampling)) * copies)


def _check_work(source: bytes, header: Header, limits: Limits) -> None:
    if not header.has_many_scans:
        return
    scans = source.count(b"\xff\xda")
    if scans * header.width * header.height > _MAX_WORK * limits.max_pixels:
        raise InvalidImage(f"a progressive JPEG of {scans} scans: too many for its size")


def _decode(
    source: bytes, header: Header, colours: str, size: tuple[int, int], settings: Decoding
) -> NDArray[np.uint8]:
    """Strictly, mending the file as long as that helps."""
    for attempt in range(_ROUNDS):
        try:
            return _simplejpeg(source, colours, size, strict=True)
        except ValueError as error:
            # Not a second try with Pillow: it would accept what strict mode refused.
            if "subsampling" in str(error):
                raise OddLayout from error
            if settings.truncated == "accept":
                break
            mended = _mended(source, str(error)) if attempt < _ROUNDS - 1 else None
            if mended is None:
                raise InvalidImage(_reason(error)) from error
            source = mended
    if header.scan >= len(source):
        raise InvalidImage("truncated JPEG: nothing of its picture is there")
    try:
        return _simplejpeg(source, colours, size, strict=False)
    except ValueError as error:
        raise InvalidImage(_reason(error)) from error


def _simplejpeg(source: bytes, colours: str, size: tuple[int, int], *, strict: bool) -> NDArray[np.uint8]:
    width, height = size
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            source, colorspace=colours, min_height=height, min_width=width, strict=strict
        )
    except MemoryError as error:
        raise InvalidImage("not enough memory to decode this JPEG") from error
    return pixels


def _reason(error: ValueError) -> str:
    text = str(error).lower()
    cut = "premature end of jpeg file" in text or "premature end of input file" in text
    return "truncated JPEG" if cut else f"corrupt JPEG: {error}"


# --- mending -------------------------------------------------------------------------------------------------------

_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_HARMLESS = (
    "extraneous bytes",
    "unknown JFIF revision",
    "Unknown Adobe color transform",
    "bad ICC marker",
    "Invalid SOS parameters for sequential JPEG",
)


def _mended(source: bytes, warning: str) -> bytes | None:
    """The same picture without what libjpeg warned about; None when that is more than a blemish."""
    if not any(text in warning for text in _HARMLESS):
        return None
    tidy = _tidied(source)
    if tidy == source and (found := _STRAY.search(warning)):
        return _without_padding(source, int(found[1]), int(found[2], 16))
    return tidy if tidy != source else None


def _tidied(source: bytes) -> bytes:
    """Only the segments that decoding needs, nothing between them, their ignored fields as the standard has them."""
    parts = [source[:2]]
    at, sequential = 2, True
    transform = 2 if len(read_header(source).sampling) == 4 else 1  # for which libjpeg takes what it does not know
    for marker, start, end in _segments(source):
        at = _data_end(source, end) if marker == _SOS else end
        body = bytearray(source[start:end])
        if marker in _FRAMES:
            sequential = marker in _SEQUENTIAL
        elif marker == _APP0 and body.startswith(_JFIF):
            body[5:7] = b"\x01\x01"  # the revision
        elif marker == _APP14 and body.startswith(_ADOBE) and len(body) >= 12:
            body[11] = body[11] and transform
        elif marker == _SOS:
            if sequential and len(body) >= 3:
                body[-3:] = b"\x00\x3f\x00"  # which coefficients: in this kind of file, all
        elif marker not in _TABLES:
            continue
        parts += [bytes((0xFF, marker)), (len(body) + 2).to_bytes(2, "big"), bytes(body), source[end:at]]
    return b"".join((*parts, source[at:]))


def _without_padding(source: bytes, count: int, marker: int) -> bytes | None:
    """The file without ``count`` bytes of filler at the end of a scan. What is no filler is picture data that the decoder
    did not want: something before it was corrupt.
    """
    for segment in _segments(source):
        if segment.marker != _SOS:
            continue
        end = _data_end(source, segment.end)
        following = _MARKER.match(source, end)
        start = max(segment.end, end - count)
        if following and following[1][0] == marker and not source[start:end].strip(b"\x00\xff"):
            return source[:start] + source[end:]
    return None
