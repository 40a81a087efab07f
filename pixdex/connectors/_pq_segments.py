"""Segment files: the vectors of one physical vector, appended, checksummed, mapped.

A file is a 64-byte header and then rows of ``dim`` numbers. SQLite says how many rows count and keeps
a CRC-32 for each block of them; bytes behind are what a crashed write left, and the next one overwrites
them. Rows that count never change, so any snapshot of SQLite can be read from the current mapping.

A block is checked when this process first touches it: about a second a gigabyte, once. What the disk
changes after that goes unnoticed until the next process.
"""

from __future__ import annotations

import bisect
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.errors import StoreFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Block", "Segment", "append"]

VERSION = 1
HEADER = 64
BLOCK_BYTES = 1 << 20
"""A block grows up to this size; single records don't get a row in SQLite each."""

_MAGIC = b"pixdexVS"
_FIELDS = struct.Struct("<8sII8s16s")  # magic, version, dim, dtype, the file's own name; CRC-32 of these; zeros
_LAST = 32
"""Blocks, up to which the rest is checked at once: some 20 ms."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows ``start`` to ``stop`` have this CRC-32."""

    start: int
    stop: int
    crc: int


def append(path: Path, last: Block | None, rows: NDArray[Any]) -> Block:
    """Write ``rows`` ``[n, dim]`` (little-endian, in the segment's dtype) behind the block ``last``.

    Returns the block that holds them: ``last``, grown, or a new one. They count once they were forced to the disk and
    SQLite has committed it.

    Raises:
        OSError: the disk said no. What counts is untouched.
        StoreFormat: the file is shorter than what counts.
    """
    start = last.stop if last else 0
    stride = rows.shape[1] * rows.itemsize
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        end = HEADER + start * stride
        if start and os.fstat(file).st_size < end:
            raise StoreFormat(f"{path}: cut off at byte {os.fstat(file).st_size} of {end}")
        if not start:
            _write(file, _header(path, rows), 0)
        os.ftruncate(file, end)  # the wound of a crashed write, if any
        data = np.ascontiguousarray(rows).data.cast("B")
        try:
            _write(file, data, end)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, end)  # on a full disk, give back what was taken
            raise
    finally:
        os.close(file)
    stop = start + len(rows)
    if last and (last.stop - last.start) * stride < BLOCK_BYTES:
        return Block(last.start, stop, zlib.crc32(data, last.crc))
    return Block(start, stop, zlib.crc32(data))


class Segment:
    """A segment file, read through a mapping. Safe for several threads."""

    def __init__(self, path: Path, dim: int, dtype: str) -> None:
        self.path = path
        self._empty: NDArray[Any] = np.zeros((0, dim), dtype=np.dtype(dtype).newbyteorder("<"))
        self._mapped = self._empty
        self._blocks: dict[int, Block] = {}
        self._starts: list[int] = []
        self._checked: dict[int, Block] = {}
        self._unchecked: set[int] = set()
        self._table = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
        """Where blocks start, and which of them ``verified`` has to look at."""
        self._lock = threading.Lock()

    @property
    def mapped(self) -> int:
        """How many rows can be read."""
        return len(self._mapped)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self._empty.shape[1])

    @property
    def last_start(self) -> int:
        """Where the last known block starts: it may have grown since."""
        return self._starts[-1] if self._starts else 0

    def offset(self, row: int) -> int:
        """Where a row starts in the file."""
        return HEADER + row * self.dim * self._empty.dtype.itemsize

    def extend(self, rows: int, blocks: Sequence[Block]) -> None:
        """Map ``rows`` rows; ``blocks`` are those from ``last_start`` on.

        Raises:
            StoreFormat: the file is missing, short, or of another kind than SQLite says.
        """
        with self._lock:
            if rows <= len(self._mapped):
                return
            self._mapped = self._map(rows)  # before the blocks: other threads check those against it
            for block in blocks:
                known = block.start in self._blocks
                self._blocks[block.start] = block
                self._unchecked.add(block.start)
                if not known:
                    self._starts.append(block.start)
            unchecked = np.array([start in self._unchecked for start in self._starts])
            self._table = np.array(self._starts), unchecked

    def rows(self, positions: NDArray[np.intp]) -> NDArray[Any]:
        """``[n, dim]`` in the segment's dtype, at ascending ``positions``; not copied when they are consecutive.

        Raises:
            StoreFormat: a checksum does not fit.
        """
        if not len(positions):
            return self._empty
        first, last = int(positions[0]), int(positions[-1])
        mapped = self._mapped
        self._check(first, last)
        if last - first + 1 == len(positions):
            return mapped[first : last + 1]
        return mapped[positions]

    def verified(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """The whole mapping ``[mapped, dim]``, with the blocks checked that hold ``positions`` (-1 for none).

        Raises:
            StoreFormat: a checksum does not fit.
        """
        mapped = self._mapped
        if self._unchecked:
            starts, unchecked = self._table
            touched = np.searchsorted(starts, positions, side="right") - 1
            touched = touched[unchecked[touched] & (positions >= 0)]
            if len(self._unchecked) <= _LAST:  # at once, so that looking for them ends
                touched = np.flatnonzero(unchecked)
            for index in np.unique(touched).tolist():
                self._check_block(int(starts[index]))
                unchecked[index] = False
        return mapped

    def _map(self, rows: int) -> NDArray[Any]:
        dim, dtype = self._empty.shape[1], self._empty.dtype
        length = HEADER + rows * dim * dtype.itemsize
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StoreFormat(f"{self.path} is missing, and with it {rows} vectors") from error
        try:
            size = os.fstat(file).st_size
            if size < length:
                raise StoreFormat(f"{self.path}: cut off at byte {size} of {length}")
            view = mmap.mmap(file, length, access=mmap.ACCESS_READ)
        finally:
            os.close(file)
        if view[:HEADER] != _header(self.path, self._empty):
            raise StoreFormat(f"{self.path}: the header, at offset 0, is not that of {rows} x {dim} {dtype.name}")
        return np.frombuffer(view, dtype=dtype, offset=HEADER).reshape(rows, dim)

    def _check(self, first: int, last: int) -> None:
        """Verify the blocks that hold rows ``first`` to ``last``, unless they were before."""
        for index in range(bisect.bisect_right(self._starts, first) - 1, bisect.bisect_right(self._starts, last)):
            self._check_block(self._starts[index])

    def _check_block(self, start: int) -> None:
        block, before = self._blocks[start], self._checked.get(start)
        if before is block:
            return
        self._verify(block, before)
        self._checked[start] = block
        with self._lock:
            if self._blocks[start] is block:  # else it has grown meanwhile
                self._unchecked.discard(start)

    def _verify(self, block: Block, before: Block | None) -> None:
        """A block that grew is checked from where it was."""
        start, crc = (before.stop, before.crc) if before and before.stop <= block.stop else (block.start, 0)
        data = self._mapped[start : block.stop]
        if zlib.crc32(data.data.cast("B") if len(data) else b"", crc) != block.crc:
            raise StoreFormat(
                f"{self.path}: the bytes at offset {self.offset(start)} to {self.offset(block.stop)} are not what was "
                "written: pixdex verify names the records; restore the file, or write them again"
            )


def _header(path: Path, rows: NDArray[Any]) -> bytes:
    known = _FIELDS.pack(_MAGIC, VERSION, rows.shape[1], rows.dtype.name.encode(), path.stem.encode())
    return (known + struct.pack("<I", zlib.crc32(known))).ljust(HEADER, b"\0")


def _write(file: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
