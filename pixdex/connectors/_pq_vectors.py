"""The vectors of an open store: appended, found and read inside a transaction's snapshot."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pixdex.connectors._pq_segments import Block, Segment, append
from pixdex.errors import NotFound, StoreFormat

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
        self._place = store.place
        self._lock = threading.Lock()

    def append(self, db: sqlite3.Connection, vector: Physical, matrix: NDArray[np.float32]) -> Block:
        """Write ``matrix`` ``[n, dim]`` behind what counts; it counts once SQLite has committed the block."""
        last = db.execute(
            "SELECT start, stop, crc FROM blocks WHERE vector = ? ORDER BY start DESC LIMIT 1", (vector.id,)
        ).fetchone()
        rows = matrix.astype(np.dtype(vector.dtype).newbyteorder("<"))
        return append(self._store.segment(vector.id), Block(*last) if last else None, rows, sync=self._store.sync)

    def segment(self, db: sqlite3.Connection, vector: Physical) -> Segment:
        """The segment of a vector, mapped as far as the snapshot reaches or farther.

        Raises:
            NotFound: the collection was dropped after the snapshot was taken, and the file with it.
            StoreFormat: the file is missing, short, or not the one that belongs here.
        """
        with self._lock:
            self._renew()
            segment = self._segments.get(vector.id)
            if segment is None:
                path = self._store.segment(vector.id)
                segment = self._segments[vector.id] = Segment(path, vector.dim, vector.dtype)
        if segment.mapped < vector.rows:
            query = "SELECT start, stop, crc FROM blocks WHERE vector = ? AND start >= ? ORDER BY start"
            found = db.execute(query, (vector.id, segment.last_start))
            try:
                segment.extend(vector.rows, [Block(*block) for block in found])
            except StoreFormat as error:
                if not isinstance(error.__cause__, FileNotFoundError) or self._store.knows(vector.id):
                    raise
                raise NotFound(f"the collection of vector {vector.name!r} was dropped meanwhile") from error
        return segment

    def live(self, db: sqlite3.Connection, vector: Physical) -> NDArray[np.bool_]:
        """Which positions belong to a record: bool ``[rows]``."""
        selected = np.ones(vector.rows, dtype=bool)
        selected[self._tombstones(db, vector)] = False
        return selected

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
            self._segments.pop(vector.id, None)
            self._dead.pop(vector.id, None)
            self._store.remove(vector.id)

    def close(self) -> None:
        """Let go of the mappings; reading maps again."""
        self._segments.clear()
        self._dead.clear()

    def _renew(self) -> None:
        """Let go of what belongs to a store that was removed and made anew."""
        if self._place != self._store.place:
            self.close()
            self._place = self._store.place

    def _tombstones(self, db: sqlite3.Connection, vector: Physical) -> NDArray[np.int64]:
        """The dead positions of this snapshot. The list only grows, so a newer one starts with an older one."""
        known = self._dead.get(vector.id, np.zeros(0, dtype=np.int64))
        if len(known) < vector.dead:
            query = "SELECT position FROM dead WHERE vector = ? AND ordinal >= ? ORDER BY ordinal"
            fresh = [position for (position,) in db.execute(query, (vector.id, len(known)))]
            known = self._dead[vector.id] = np.concatenate([known, np.array(fresh, dtype=np.int64)])
        return known[: vector.dead]
