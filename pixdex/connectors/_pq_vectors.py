"""The vectors of an open store: appended, found and read inside a transaction's snapshot."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pixdex.connectors._pq_segments import Block, Segment, append
from pixdex.errors import NotFound, StoreFormat, StoreUnavailable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from pixdex.connectors._pq_records import Physical
    from pixdex.connectors._pq_store import Store

__all__ = ["Vectors"]


class Vectors:
    """What this process has mapped of a store's segments. Safe for several threads, each in its own snapshot."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._segments: dict[int, Segment] = {}
        self._dead: dict[int, NDArray[np.int64]] = {}
        self._files: dict[int, int] = {}
        """Of each vector the file that was read last: what is mapped of another takes room on the disk."""
        self._place = store.place
        self._lock = threading.Lock()

    def append(self, db: sqlite3.Connection, vector: Physical, matrix: NDArray[np.float32]) -> Block:
        """Write ``matrix`` ``[n, dim]`` behind what counts, inside a write transaction; it counts once that is committed."""
        last = db.execute(
            "SELECT start, stop, crc FROM blocks WHERE vector = ? ORDER BY start DESC LIMIT 1", (vector.id,)
        ).fetchone()
        rows = matrix.astype(np.dtype(vector.dtype).newbyteorder("<"))
        path = self._store.segment(vector.file)
        size = path.stat().st_size if path.exists() else 0
        block = append(path, Block(*last) if last else None, rows)
        self._store.force(path, size=size)
        if not last:
            self._store.force(path.parent)
        return block

    def segment(self, db: sqlite3.Connection, vector: Physical) -> Segment:
        """The segment of a vector, mapped as far as the snapshot reaches or farther.

        Raises:
            NotFound: the collection was dropped after the snapshot was taken, and the file with it.
            StoreUnavailable: it was compacted after that; another snapshot finds the new file.
            StoreFormat: the file is missing, short, or not the one that belongs here.
        """
        with self._lock:
            self._renew()
            before = self._files.get(vector.id, vector.file)
            if before != vector.file:
                self._segments.pop(before, None)
                self._dead.pop(before, None)
            self._files[vector.id] = vector.file
            segment = self._segments.get(vector.file)
            if segment is None:
                path = self._store.segment(vector.file)
                segment = self._segments[vector.file] = Segment(path, vector.dim, vector.dtype)
        if segment.mapped < vector.rows:
            query = "SELECT start, stop, crc FROM blocks WHERE vector = ? AND start >= ? ORDER BY start"
            found = db.execute(query, (vector.id, segment.last_start))
            try:
                segment.extend(vector.rows, [Block(*block) for block in found])
            except StoreFormat as error:
                now = self._store.file_of(vector.id)
                if not isinstance(error.__cause__, FileNotFoundError) or now == vector.file:
                    raise
                if now is None:
                    raise NotFound(f"the collection of vector {vector.name!r} was dropped meanwhile") from error
                raise StoreUnavailable(f"{segment.path} went in a compaction: read again") from error
        return segment

    def read(self, db: sqlite3.Connection, vector: Physical, positions: Sequence[int | None]) -> NDArray[np.float32]:
        """The vectors at ``positions``, zeros where there is none: float32 ``[n, dim]``."""
        matrix = np.zeros((len(positions), vector.dim), dtype=np.float32)
        there = sorted((position, i) for i, position in enumerate(positions) if position is not None)
        if there:
            stored = self.segment(db, vector).rows(np.array([position for position, _ in there], dtype=np.intp))
            matrix[[i for _, i in there]] = stored
        return matrix

    def remove(self, vectors: Iterable[Physical]) -> None:
        """Forget vectors that no snapshot has any more, and their files."""
        for vector in vectors:
            self._segments.pop(vector.file, None)
            self._dead.pop(vector.file, None)
            self._store.remove(vector.file)

    def close(self) -> None:
        """Let go of the mappings; reading maps again."""
        self._segments.clear()
        self._dead.clear()

    def _renew(self) -> None:
        """Let go of what belongs to a store that was removed and made anew."""
        if self._place != self._store.place:
            self.close()
            self._place = self._store.place

    def tombstones(self, db: sqlite3.Connection, vector: Physical) -> NDArray[np.int64]:
        """The dead positions of this snapshot. The list only grows, so a newer one starts with an older one."""
        known = self._dead.get(vector.file, np.zeros(0, dtype=np.int64))
        if len(known) < vector.dead:
            query = "SELECT position FROM dead WHERE vector = ? AND ordinal >= ? ORDER BY ordinal"
            fresh = [position for (position,) in db.execute(query, (vector.id, len(known)))]
            known = self._dead[vector.file] = np.concatenate([known, np.array(fresh, dtype=np.int64)])
        return known[: vector.dead]
