"""What this process knows of a physical vector in one snapshot, kept from search to search.

A view is a value: it is never changed, only followed by the view of a later snapshot, which shares its arrays. What it
holds of a position stays right for ever, since a position's record never changes; only tombstones and positions behind
the last are news.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pixdex.connectors import _pq_columns, _pq_derived, _pq_index
from pixdex.connectors._pq_selection import Selection, Selections
from pixdex.errors import MissingDependency, StoreFormat

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

    from pixdex.connectors._pq_columns import Columns
    from pixdex.connectors._pq_index import Index
    from pixdex.connectors._pq_records import Physical, Snapshot
    from pixdex.connectors._pq_segments import Segment
    from pixdex.connectors._pq_store import Store
    from pixdex.connectors._pq_vectors import Vectors
    from pixdex.filters import Filter

__all__ = ["INDEX", "View", "Views"]

_log = logging.getLogger("pixdex.connectors.pq")

INDEX = "index"
"""The kind of derived file that an index is, and the name of its one array."""

_Stamp: TypeAlias = tuple[str, int, int]

_TAIL = 256
"""Positions behind an index that are scored one by one, and one more for each ``_TAIL_SHARE`` that it covers."""
_TAIL_SHARE = 1024
_CATCH_UP = 20_000
"""Positions that a search adds to an index on its way: a quarter of a second. More are left to the builder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A physical vector in the snapshot ``seq`` of its collection.

    Attributes:
        file: the segment file; a compaction gives the vector another.
        rows: the positions there are.
        dead: how many of them are tombstones.
        living: the positions that are not dead; None when none is.
        columns: ids, rows and typed columns by position.
        index: proposes positions; None where all are scored.
        saved: which derived file it was read from.
    """

    seq: int
    file: int
    rows: int
    dead: int
    living: Selection | None
    segment: Segment
    columns: Columns
    index: Index | None
    saved: _Stamp | None
    _filtered: Selections = field(default_factory=Selections, compare=False, repr=False)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.segment.dim

    def allowed(self, where: Filter | None, matching: Callable[[Filter], NDArray[np.bool_]]) -> Selection | None:
        """Which positions may be found under a bound filter, None for all.

        ``matching`` says where it holds, dead positions perhaps among them: bool ``[rows]``, ours from then on.
        """
        if where is None:
            return self.living
        return self._filtered.of(where, lambda: self._without_dead(matching(where)))

    def _without_dead(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self.living is not None:
            mask &= self.living.mask
        return mask


class Views:
    """The newest view of each vector that this process has read. Safe for several threads."""

    def __init__(self, store: Store, vectors: Vectors) -> None:
        self._store, self._vectors = store, vectors
        self._known: dict[int, View] = {}
        self._lock = threading.Lock()

    def at(self, db: sqlite3.Connection, target: Snapshot, vector: Physical) -> View | None:
        """The view of a snapshot; None where this process has seen a later one, so that the caller takes a new snapshot.

        Raises:
            StoreFormat: a segment is damaged.
        """
        view = self._known.get(vector.id)
        if view is None or view.seq != target.seq:
            with self._lock:
                view = self._known.get(vector.id)
                if view is None or view.seq < target.seq:
                    view = self._known[vector.id] = self._followed(db, target, vector, view)
        return view if view.seq == target.seq else None

    def forget(self, vectors: Iterable[Physical]) -> None:
        """Let go of vectors that are gone."""
        with self._lock:
            for vector in vectors:
                self._known.pop(vector.id, None)

    def close(self) -> None:
        """Let go of everything; reading reads again."""
        with self._lock:
            self._known.clear()

    def _followed(self, db: sqlite3.Connection, target: Snapshot, vector: Physical, known: View | None) -> View:
        if known is None or known.file != vector.file:
            known = None
            columns = _pq_columns.load(db, target, vector, self._store.derived)
        else:
            columns = known.columns.extended(db, target, vector)
        segment = self._vectors.segment(db, vector)
        index, saved = self._newest(vector, known)
        return View(
            seq=target.seq,
            file=vector.file,
            rows=vector.rows,
            dead=vector.dead,
            living=self._living(db, vector),
            segment=segment,
            columns=columns,
            index=_caught_up(index, segment, vector),
            saved=saved,
        )

    def _living(self, db: sqlite3.Connection, vector: Physical) -> Selection | None:
        if not vector.dead:
            return None
        alive = np.ones(vector.rows, dtype=bool)
        alive[self._vectors.tombstones(db, vector)] = False
        return Selection(alive)

    def _newest(self, vector: Physical, known: View | None) -> tuple[Index | None, _Stamp | None]:
        """The index to use, and the newest file there was to choose from: where it is the known one, so is the index. What
        cannot be used is passed over, and not looked at again: the next writer makes another.
        """
        index, saved = (None, None) if known is None else (known.index, known.saved)
        paths = _pq_derived.find(self._store.derived, INDEX, vector.file)
        newest = _stamp(paths[0]) if paths else None
        if newest == saved:
            return index, saved
        for path in paths:
            try:
                found = load_index(path, vector.file)
            except (StoreFormat, MissingDependency) as error:
                _log.warning("%s", error)
                continue
            if found.covers <= vector.rows:
                return found, newest
            newest = None  # it was made for a later snapshot, which looks again
        return index, newest


def _stamp(path: Path) -> _Stamp | None:
    """What tells a file from one that takes its place."""
    try:
        found = path.stat()
    except OSError:  # removed meanwhile, for a newer one
        return None
    return path.name, found.st_ino, found.st_mtime_ns


def load_index(path: Path, file: int) -> Index:
    """The index in a derived file of a vector file.

    Raises:
        StoreFormat: it is damaged.
        MissingDependency: it needs a package that is not installed.
    """
    return _pq_index.from_bytes(_pq_derived.read(path, INDEX, file).arrays[INDEX])


def _caught_up(index: Index | None, segment: Segment, vector: Physical) -> Index | None:
    """``index`` with the positions behind it, when they are so many that scoring them one by one would be felt."""
    if index is None or not _TAIL + index.covers // _TAIL_SHARE < vector.rows - index.covers <= _CATCH_UP:
        return index
    return index.extended(segment.rows(np.arange(index.covers, vector.rows)).astype(np.float32, copy=False))
