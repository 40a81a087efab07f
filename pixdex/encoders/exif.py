"""The few EXIF values that pictures are filed by: orientation, the moment, the place.

EXIF comes from strangers and is often damaged, so it is read here, by bounds-checked code that never raises
and never warns: what cannot be read is absent.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TypeAlias

__all__ = ["NOTHING", "Exif", "parse"]

Value: TypeAlias = "str | tuple[float, ...]"
Directory: TypeAlias = Mapping[int, Value]

_ORIENTATION, _EXIF_DIRECTORY, _GPS_DIRECTORY = 0x0112, 0x8769, 0x8825
_TAKEN, _TAKEN_OFFSET = 0x9003, 0x9011
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 9: 4, 10: 8}
"""Bytes of one value of each TIFF type that is read: byte, ascii, short, long, rational and the signed ones."""
_CODES = {1: "B", 3: "H", 4: "I", 5: "II", 9: "i", 10: "ii"}
_MAX_VALUES = 64
_DATE = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exif:
    """``orientation`` 1-8, ``taken`` in UTC or None, ``place`` as (latitude, longitude) in degrees or None."""

    orientation: int = 1
    taken: datetime | None = None
    place: tuple[float, float] | None = None


NOTHING = Exif()


def parse(block: bytes) -> Exif:
    """The EXIF of a TIFF block (``II*`` or ``MM*``, an ``Exif`` header before it is allowed). Never raises."""
    tiff = block[6:] if block[:6] == b"Exif\x00\x00" else block
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return NOTHING
    main = _directory(tiff, order, struct.unpack_from(order + "I", tiff, 4)[0])
    details = _directory(tiff, order, _pointer(main, _EXIF_DIRECTORY))
    gps = _directory(tiff, order, _pointer(main, _GPS_DIRECTORY))
    return Exif(orientation=_orientation(main), taken=_taken(details), place=_place(gps))


def _directory(tiff: bytes, order: str, start: int) -> Directory:
    if not 8 <= start <= len(tiff) - 2:
        return {}
    count = struct.unpack_from(order + "H", tiff, start)[0]
    found: dict[int, Value] = {}
    for at in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", tiff, at)
        value = _value(tiff, order, at + 8, kind, number)
        if value is not None:
            found.setdefault(tag, value)
    return found


def _value(tiff: bytes, order: str, at: int, kind: int, count: int) -> Value | None:
    if kind not in _WIDTHS or not 1 <= count <= _MAX_VALUES:
        return None
    size = _WIDTHS[kind] * count
    start = at if size <= 4 else struct.unpack_from(order + "I", tiff, at)[0]
    if start + size > len(tiff):
        return None
    raw = tiff[start : start + size]
    if kind == 2:
        return raw.split(b"\x00")[0].decode("ascii", "replace").strip()
    numbers = struct.unpack(order + _CODES[kind] * count, raw)
    if kind in (5, 10):
        return tuple(n / d if d else math.nan for n, d in zip(numbers[::2], numbers[1::2], strict=True))
    return tuple(float(n) for n in numbers)


def _pointer(directory: Directory, tag: int) -> int:
    value = directory.get(tag, ())
    return int(value[0]) if isinstance(value, tuple) and value else 0


def _orientation(directory: Directory) -> int:
    value = directory.get(_ORIENTATION, ())
    found = value[0] if isinstance(value, tuple) and value else 1.0
    return int(found) if found in range(1, 9) else 1


def _taken(directory: Directory) -> datetime | None:
    text, offset = directory.get(_TAKEN), directory.get(_TAKEN_OFFSET)
    match = _DATE.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    try:
        local = datetime(*(int(part) for part in match.groups()), tzinfo=_zone(offset))  # type: ignore[arg-type, misc]
        return local.astimezone(UTC)
    except (ValueError, OverflowError):  # 0000:00:00, or year 1 minus an offset
        return None


def _zone(offset: Value | None) -> timezone:
    match = _OFFSET.match(offset) if isinstance(offset, str) else None
    if match is None:
        return UTC
    sign = -1 if match[1] == "-" else 1
    return timezone(sign * timedelta(hours=int(match[2]), minutes=int(match[3])))


def _place(directory: Directory) -> tuple[float, float] | None:
    latitude = _degrees(directory.get(_LATITUDE), directory.get(_LATITUDE_REF), "NS", 90.0)
    longitude = _degrees(directory.get(_LONGITUDE), directory.get(_LONGITUDE_REF), "EW", 180.0)
    return None if latitude is None or longitude is None else (latitude, longitude)


def _degrees(value: Value | None, reference: Value | None, signs: str, limit: float) -> float | None:
    if not isinstance(value, tuple) or not isinstance(reference, str) or len(value) != 3:
        return None
    sign = {signs[0]: 1.0, signs[1]: -1.0}.get(reference[:1].upper())
    degrees = value[0] + value[1] / 60 + value[2] / 3600
    if sign is None or not 0 <= degrees <= limit:  # NaN fails the comparison too
        return None
    return sign * degrees
