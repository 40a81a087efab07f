"""Derived files: what can be computed again from the truth, kept so that it need not be.

A file belongs to one segment file and says how many of its positions it covers; both stand in its name. It is
written beside and renamed, mapped when read, and believed only when its checksum fits: what is missing, cut off,
flipped or of another version is computed again.

    offset  0  "pixdexDF", CRC-32 of all that follows, format version
           16  kind (16 bytes), segment file, positions covered, bytes of the JSON, bytes of the file
           64  JSON: {"facts": ..., "arrays": {name: [dtype, shape, offset]}}
               the arrays, little-endian, each at a multiple of 64
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import orjson

from pixdex.connectors._files import replace_file
from pixdex.errors import StoreFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Derived", "clean", "find", "path_of", "read", "write"]

VERSION = 1
STALE = 3600.0
"""Seconds after which a temporary file is what a crash left; a younger one may be being written."""

_MAGIC = b"pixdexDF"
_HEAD = struct.Struct("<8sII16sQQQQ")
_CHECKED = 12
"""Where the bytes begin that the CRC covers."""
_ALIGNMENT = 64
_NAME = re.compile(r"([0-9a-f]{16})\.(\d{12,})\.([a-z0-9-]+)")


@dataclass(frozen=True, slots=True)
class Derived:
    """What a derived file holds; the arrays are mapped and read-only.

    Attributes:
        covers: it covers the positions below.
        facts: JSON values, as they were written.
    """

    covers: int
    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def path_of(folder: Path, kind: str, file: int, covers: int) -> Path:
    """Where the derived file of a segment file lies."""
    return folder / f"{file:016x}.{covers:012d}.{kind}"


def write(
    path: Path, kind: str, file: int, covers: int, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a file so that at any moment it is there as a whole or not at all.

    Raises:
        OSError: the disk said no.
    """
    plain = {name: _little(array) for name, array in arrays.items()}
    table, size = {}, 0
    for name, array in plain.items():
        table[name] = [array.dtype.str, array.shape, size]
        size = _aligned(size + array.nbytes)
    text = orjson.dumps({"facts": facts, "arrays": table})
    start = _aligned(_HEAD.size + len(text))
    head = _HEAD.pack(_MAGIC, 0, VERSION, kind.encode(), file, covers, len(text), start + size)
    parts: list[bytes | memoryview] = [head[_CHECKED:], text.ljust(start - _HEAD.size, b"\0")]
    for array in plain.values():
        parts += [array.reshape(-1).view(np.uint8).data, b"\0" * (_aligned(array.nbytes) - array.nbytes)]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    replace_file(path, _MAGIC, struct.pack("<I", crc), *parts)


def read(path: Path, kind: str, file: int) -> Derived:
    """A derived file, mapped and checked.

    Raises:
        StoreFormat: it is missing, damaged, of another version, or not what its name says; the message names it.
    """
    view = _mapped(path)
    if len(view) < _HEAD.size:
        _refuse(path, "cut off")
    magic, crc, version, kind_there, file_there, covers, length, size = _HEAD.unpack_from(view)
    if magic != _MAGIC or version != VERSION:
        _refuse(path, "of another format")
    if size != len(view) or zlib.crc32(memoryview(view)[_CHECKED:]) != crc:
        _refuse(path, "damaged")
    if kind_there.rstrip(b"\0") != kind.encode() or file_there != file:
        _refuse(path, "not what its name says")
    start = _aligned(_HEAD.size + length)
    try:
        stored = orjson.loads(view[_HEAD.size : _HEAD.size + length])
        arrays: dict[str, NDArray[Any]] = {
            name: np.ndarray(shape, dtype, buffer=view, offset=start + offset)
            for name, (dtype, shape, offset) in stored["arrays"].items()
        }
        return Derived(covers, stored["facts"], arrays)
    except (LookupError, TypeError, ValueError) as error:
        _refuse(path, "of another format", error)


def find(folder: Path, kind: str, file: int) -> list[Path]:
    """The derived files of a kind that a segment file has, the one that covers most first."""
    return sorted(folder.glob(f"{file:016x}.*.{kind}"), reverse=True)


def clean(folder: Path, known: Collection[int]) -> None:
    """Remove the derived files of segment files that are not ``known``, all but the newest of each kind, and what
    crashes left. Who has one mapped keeps it.
    """
    newest: set[tuple[str, str]] = set()
    for path in sorted(folder.glob("*"), reverse=True):
        named = _NAME.fullmatch(path.name)
        if named is None or path.name != path_of(folder, named[3], int(named[1], 16), int(named[2])).name:
            kept = time.time() - _modified(path) < STALE
        else:
            kept = int(named[1], 16) in known and (named[1], named[3]) not in newest
            newest.add((named[1], named[3]))
        if not kept:
            with suppress(OSError):
                path.unlink()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone, since it was renamed
        return time.time()


def _mapped(path: Path) -> mmap.mmap | bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return mmap.mmap(file, 0, access=mmap.ACCESS_READ) if os.fstat(file).st_size else b""
        finally:
            os.close(file)
    except OSError as error:
        _refuse(path, f"not readable ({error.strerror})", error)


def _little(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _refuse(path: Path, reason: str, cause: Exception | None = None) -> NoReturn:
    raise StoreFormat(f"{path} is {reason}; remove it: it will be made again") from cause
