"""Compaction: the vectors that records still have, copied to a new segment file, and the old one removed.

The copy is made beside the store in use, without a transaction: positions that count never change. What was written
or deleted meanwhile is followed up in the one short transaction that makes the new file the vector's. Until that is
committed the old file is the truth, from then on the new one; killed at any instant, the store has one of them, and
the next writer sweeps the other.
"""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex.connectors import _pq_records as records
from pixdex.connectors._files import sync_directory
from pixdex.connectors._pq_segments import BLOCK_BYTES, Block, Segment, append
from pixdex.connectors.port import Compacted
from pixdex.errors import StoreFormat, StoreFull

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pixdex.connectors._deadline import Deadline
    from pixdex.connectors._pq_records import Physical, Snapshot
    from pixdex.connectors._pq_store import Store
    from pixdex.connectors._pq_vectors import Vectors

__all__ = ["Prepare", "compact"]

Prepare: TypeAlias = Callable[["Snapshot", "Physical", "NDArray[Any]"], None]
"""Called before the commit with the collection, the vector as it will be (its new ``file``) and its vectors
``[rows, dim]``, mapped: the moment to make what is derived of the new file."""

Progress: TypeAlias = Callable[[int, int], None]

_ROOM = 1 << 20
"""Bytes to be left over for SQLite's log, and as many for each 20,000 records."""


@dataclass(slots=True)
class _Copy:
    """A new segment file in the making.

    Attributes:
        positions: the old positions of its rows.
        blocks: by start, for a block grows.
    """

    store: Store
    file: int
    vector: Physical
    positions: NDArray[np.int64]
    blocks: dict[int, Block] = field(default_factory=dict)
    last: Block | None = None

    def add(self, rows: NDArray[Any]) -> None:
        """Write rows behind those that are there."""
        self.last = append(self.store.segment(self.file), self.last, rows)
        self.blocks[self.last.start] = self.last

    def force(self) -> None:
        """Force the file to the disk, where the store does so."""
        if self.last is not None and self.store.sync:
            handle = os.open(self.store.segment(self.file), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            sync_directory(self.store.segment(self.file).parent)

    def mapped(self) -> NDArray[Any]:
        """The rows as the file has them now, with every checksum compared."""
        segment = Segment(self.store.segment(self.file), self.vector.dim, self.vector.dtype)
        segment.extend(len(self.positions), list(self.blocks.values()))
        return segment.rows(np.arange(len(self.positions)))


def compact(
    store: Store, vectors: Vectors, name: str, *, prepare: Prepare, progress: Progress, deadline: Deadline
) -> tuple[Compacted, list[Physical]]:
    """Give every vector of a collection that has tombstones a new file without them, and SQLite's free pages back.

    Needs room for the vectors that stay, besides the old file. Returns what became of it, and the vectors as they
    were, whose files are gone.

    Raises:
        StoreFull: there is no room; nothing is lost, and nothing left behind.
        StoreFormat: a segment is damaged; it stays as it is.
    """
    with store.writing(deadline) as db:  # from here on no other process writes, or sweeps what is in the making
        wounded = [vector.name for vector in records.resolve(db, name).vectors.values() if vector.dead]
    before, replaced, kept = store.size(), [], 0
    for column in wounded:
        old, rows = _compacted(store, vectors, name, column, prepare, progress, deadline)
        if old is not None:
            replaced.append(old)
            kept += rows
    store.tidy(deadline)
    gone = sum(old.rows for old in replaced) - kept
    return Compacted(kept=kept, removed=gone, freed=max(0, before - store.size())), replaced


def _compacted(
    store: Store,
    vectors: Vectors,
    name: str,
    column: str,
    prepare: Prepare,
    progress: Progress,
    deadline: Deadline,
) -> tuple[Physical | None, int]:
    """The vector as it was, or None where another was faster; and how many rows it has now."""
    with store.reading(deadline) as db:
        target = records.resolve(db, name)
        old = target.vectors[column]
        segment, dead = vectors.segment(db, old), vectors.tombstones(db, old)
    copy = _Copy(store, secrets.randbits(62), old, _others(old.rows, dead))
    with _undone(store, copy), store.translated:
        _check_room(store, copy)
        for some in _steps(copy):
            deadline.check()
            copy.add(segment.rows(some))
            progress(copy.last.stop if copy.last else 0, len(copy.positions))
        copy.force()
        prepare(target, replace(old, file=copy.file, rows=len(copy.positions), dead=0), copy.mapped())
        with store.writing(deadline, alone=True) as db:
            now = records.resolve(db, name)
            vector = now.vectors.get(column)
            if vector is None or vector.file != old.file:
                store.remove(copy.file)
                return None, 0
            _follow(db, vectors, vector, copy)
            _exchange(db, now, vector, copy, vectors.tombstones(db, vector)[old.dead :])
    vectors.remove([old])
    return vector, len(copy.positions)


def _others(rows: int, dead: NDArray[np.int64], first: int = 0) -> NDArray[np.int64]:
    """The positions from ``first`` to ``rows`` that are not dead."""
    alive = np.ones(rows, dtype=bool)
    alive[dead] = False
    return first + np.flatnonzero(alive[first:])


def _steps(copy: _Copy) -> Iterator[NDArray[np.int64]]:
    size = max(1, BLOCK_BYTES // _stride(copy.vector))
    for start in range(0, len(copy.positions), size):
        yield copy.positions[start : start + size]


def _stride(vector: Physical) -> int:
    return vector.dim * np.dtype(vector.dtype).itemsize


def _check_room(store: Store, copy: _Copy) -> None:
    count = len(copy.positions)
    needed, free = count * _stride(copy.vector) + _ROOM * (1 + count // 20_000), shutil.disk_usage(store.path).free
    if free < needed:
        raise StoreFull(
            f"{store.path}: compaction needs {needed >> 20} MiB for the vectors that stay, and {free >> 20} MiB are free; "
            "nothing was changed"
        )


@contextmanager
def _undone(store: Store, copy: _Copy) -> Iterator[None]:
    """Remove the copy when it has not become the vector's file."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # then the next writer sweeps it
            if store.file_of(copy.vector.id) != copy.file:
                store.remove(copy.file)
        raise


def _follow(db: sqlite3.Connection, vectors: Vectors, vector: Physical, copy: _Copy) -> None:
    """Copy what was written meanwhile."""
    late = _others(vector.rows, vectors.tombstones(db, vector), copy.vector.rows)
    if len(late):
        copy.add(vectors.segment(db, vector).rows(late))
        copy.force()
        copy.positions = np.concatenate([copy.positions, late])


def _exchange(db: sqlite3.Connection, target: Snapshot, vector: Physical, copy: _Copy, died: NDArray[np.int64]) -> None:
    """Make the copy the vector's file; of its rows, those of ``died`` have died meanwhile."""
    moved = np.full(vector.rows, -1, dtype=np.int64)
    moved[copy.positions] = np.arange(len(copy.positions))
    tombs = [position for position in moved[died].tolist() if position >= 0]
    _move(db, target, vector, moved.tolist())
    for table in ("blocks", "dead"):
        db.execute(f"DELETE FROM {table} WHERE vector = ?", (vector.id,))
    blocks: Sequence[Block] = list(copy.blocks.values())
    db.executemany("INSERT INTO blocks VALUES (?, ?, ?, ?)", [(vector.id, b.start, b.stop, b.crc) for b in blocks])
    db.executemany("INSERT INTO dead VALUES (?, ?, ?)", [(vector.id, n, at) for n, at in enumerate(tombs)])
    change = "UPDATE vectors SET file = ?, rows = ?, dead = ? WHERE id = ?"
    db.execute(change, (copy.file, len(copy.positions), len(tombs), vector.id))
    records.changed(db, target.id)


def _move(db: sqlite3.Connection, target: Snapshot, vector: Physical, moved: list[int]) -> None:
    """Say in each record where its vector lies now."""
    table, column = f"r{target.id}", f"v{vector.id}"
    db.create_function("moved", 1, lambda position: moved[position])
    db.execute(f"DROP INDEX {table}_{column}")  # positions pass each other on the way
    db.execute(f"UPDATE {table} SET {column} = moved({column}) WHERE {column} IS NOT NULL")
    db.create_function("moved", 1, None)
    if db.execute(f"SELECT 1 FROM {table} WHERE {column} < 0 LIMIT 1").fetchone():
        raise StoreFormat(f"a record of {target.name!r} has a vector that was deleted: see pixdex verify")
    records.index_positions(db, target.id, vector.id)
