"""Indexes made behind a writer's back: trained when there are enough vectors, extended as they come, trained again when
they have outgrown or outdated the old one.

Readers never see half of anything: an index is a derived file that appears as a whole, and the collection's ``seq``
tells them to look for it.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex.connectors import _pq_columns, _pq_derived, _pq_index
from pixdex.connectors import _pq_records as records
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._pq_index import Kind, Stopped
from pixdex.connectors._pq_view import INDEX
from pixdex.errors import StoreFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.connectors._pq_index import Index
    from pixdex.connectors._pq_records import Physical, Snapshot
    from pixdex.connectors._pq_store import Store
    from pixdex.connectors._pq_view import View, Views
    from pixdex.spec import Metric

__all__ = ["Builder", "Saved", "read_saved"]

_log = logging.getLogger("pixdex.connectors.pq")

LEAST = 1_000
"""Vectors below which no kind has an index."""
_GROWN = 4
"""An index is trained anew for so many times the vectors that it was fitted to: it has too few lists then."""
_BEHIND = 20_000
"""Vectors, or a quarter of those covered, that may lie behind the saved index."""
_DRIFT = 1.5
"""How much worse it may fit the new ones (``_pq_index.drift``)."""
_SAMPLE = 1_000
_CHUNK = 20_000

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many vectors are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What there is on disk for a vector file: an index of ``covers`` positions, trained when there were ``fitted``."""

    covers: int = 0
    fitted: int = 0

    def due(self, kind: Kind, rows: int) -> bool:
        """Whether ``rows`` vectors ask for more than this."""
        if kind is Kind.FLAT or rows < LEAST:
            return False
        return rows - self.covers > (max(_BEHIND, self.covers // 4) if self.covers else 0)

    def outgrown(self, rows: int) -> bool:
        """Whether it has too few lists for so many vectors, or is not there."""
        return rows >= _GROWN * self.fitted


class Builder:
    """Makes and saves the indexes of a store, in a thread of its own or, by ``settle``, at once."""

    def __init__(self, store: Store, views: Views) -> None:
        self._store, self._views = store, views
        self._saved: dict[int, Saved] = {}
        self._prepared: set[int] = set()
        """Files that SQLite does not name yet."""
        self._due: dict[tuple[str, str], None] = {}
        self._guard = threading.Lock()
        self._turn = threading.Lock()
        """One index at a time."""
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        # Also at exit: a thread that is in faiss when the interpreter goes would take the process down.
        weakref.finalize(self, _ended, self._stop, self._threads)

    def notice(self, name: str, target: Snapshot, column: str, rows: int) -> None:
        """Hear that a vector of a collection has ``rows`` positions now."""
        vector = target.vector(column)
        kind = _kind(target, column, rows)
        if not self._state(vector.file).due(kind, rows):
            return
        with self._guard:
            if self._stop.is_set():
                return
            self._due[name, column] = None
            if not any(thread.is_alive() for thread in self._threads):
                self._threads[:] = [threading.Thread(target=self._run, name="pixdex-index", daemon=True)]
                self._threads[0].start()

    def settle(self, name: str, *, progress: Progress, deadline: Deadline) -> None:
        """Bring the indexes of a collection up to its last record.

        Raises:
            PixdexError: what reading and writing the store raises.
        """
        with self._store.reading(deadline) as db:
            columns = list(records.resolve(db, name).vectors)

        def counted(done: int, total: int) -> None:
            deadline.check()
            progress(done, total)

        for column in columns:
            self._make(name, column, threading.Event(), counted)

    def prepare(self, target: Snapshot, vector: Physical, vectors: NDArray[Any]) -> None:
        """Make the index of a file that is about to become the vector's: ``vectors`` ``[rows, dim]``. Where the store is
        closed meanwhile, the next writer makes it.
        """
        kind = _kind(target, vector.name, vector.rows)
        if kind is Kind.FLAT or vector.rows < LEAST:
            return
        self._prepared.add(vector.file)
        metric = target.spec.physical(vector.name).metric
        with suppress(Stopped):
            self._write(vector, _pq_index.train(kind, vectors, metric, stop=self._stop))

    def close(self) -> None:
        """Give up what is under way; the next writer takes it up."""
        _ended(self._stop, self._threads)

    # --- in the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._guard:
                if not self._due or self._stop.is_set():
                    self._threads.clear()
                    return
                name, column = next(iter(self._due))
                del self._due[name, column]
            try:
                self._make(name, column, self._stop, _unheard)
            except Stopped:
                return
            except Exception as error:  # noqa: BLE001 - without an index searches are slow, not wrong
                _log.warning("the index of %s in %s could not be made: %s", column, name, error)

    def _make(self, name: str, column: str, stop: threading.Event, progress: Progress) -> None:
        with self._turn:
            target, view, metric = self._look(name, column)
            vector = target.vector(column)
            saved, kind = self._state(vector.file), _kind(target, column, view.rows)
            if kind is Kind.FLAT or view.rows < LEAST:
                return
            if saved.covers == view.rows:
                self._mend(view)
                return
            self._save(view, vector, self._fresh(view, kind, metric, saved, stop, progress))
            self._register(target, vector)

    def _look(self, name: str, column: str) -> tuple[Snapshot, View, Metric]:
        while True:
            with self._store.reading(Deadline.after(None)) as db:
                target = records.resolve(db, name)
                view = self._views.at(db, target, target.vector(column))
                if view is not None:
                    return target, view, target.spec.physical(column).metric

    def _fresh(
        self, view: View, kind: Kind, metric: Metric, saved: Saved, stop: threading.Event, progress: Progress
    ) -> Index:
        vectors, index = view.segment.rows(np.arange(view.rows)), view.index
        fits = index is not None and index.kind is kind and not saved.outgrown(view.rows)
        if index is None or not fits or _outdated(index, vectors[saved.covers :]):
            return _pq_index.train(kind, vectors, metric, stop=stop, progress=lambda done: progress(done, view.rows))
        for start in range(index.covers, view.rows, _CHUNK):
            if stop.is_set():
                raise Stopped
            index = index.extended(np.asarray(vectors[start : start + _CHUNK], dtype=np.float32))
            progress(index.covers, view.rows)
        return index

    def _save(self, view: View, vector: Physical, index: Index) -> None:
        with self._store.translated:
            view.columns.save(self._store.derived)
        self._write(vector, index)

    def _write(self, vector: Physical, index: Index) -> None:
        path = _pq_derived.path_of(self._store.derived, INDEX, vector.file, index.covers)
        arrays = {INDEX: _pq_index.to_bytes(index)}
        with self._store.translated:
            _pq_derived.write(path, INDEX, vector.file, index.covers, {"fitted": index.fitted}, arrays)
        self._saved[vector.file] = Saved(index.covers, index.fitted)

    def _mend(self, view: View) -> None:
        """Write the columns again where those saved are damaged."""
        for path in _pq_derived.find(self._store.derived, _pq_columns.KIND, view.file)[:1]:
            try:
                _pq_derived.read(path, _pq_columns.KIND, view.file)
            except StoreFormat:
                with self._store.translated:
                    path.unlink(missing_ok=True)
                    view.columns.save(self._store.derived)

    def _register(self, target: Snapshot, vector: Physical) -> None:
        """Have every reader look for the index, and remove the ones before."""
        with self._store.writing(Deadline.after(None)) as db:
            files = {file for (file,) in db.execute("SELECT file FROM vectors")}
            if vector.file in files:
                records.changed(db, target.id)
            self._prepared -= files
            _pq_derived.clean(self._store.derived, files | self._prepared)

    def _state(self, file: int) -> Saved:
        saved = self._saved.get(file)
        if saved is None:
            saved = self._saved[file] = self._read_state(file)
        return saved

    def _read_state(self, file: int) -> Saved:
        for path in _pq_derived.find(self._store.derived, INDEX, file):
            try:
                return read_saved(path)
            except StoreFormat as error:
                _log.warning("%s", error)
        return Saved()


def read_saved(path: Path) -> Saved:
    """What the index in a derived file covers.

    Raises:
        StoreFormat: it is damaged.
    """
    found = _pq_derived.read(path, INDEX, int(path.name.partition(".")[0], 16))
    return Saved(found.covers, found.facts["fitted"])


def _kind(target: Snapshot, column: str, rows: int) -> Kind:
    vector = target.spec.physical(column)
    return _pq_index.resolve(Kind(target.indexing), rows, vector.dim)


def _outdated(index: Index, fresh: NDArray[np.float32]) -> bool:
    """Whether it does not fit what has come since it was saved."""
    if len(fresh) < _SAMPLE:
        return False
    return _pq_index.drift(index, np.asarray(fresh[:: len(fresh) // _SAMPLE], dtype=np.float32)) > _DRIFT


def _ended(stop: threading.Event, threads: list[threading.Thread]) -> None:
    stop.set()
    for thread in list(threads):
        if thread is not threading.current_thread():
            thread.join()


def _unheard(done: int, total: int) -> None:
    """Nobody waits for what is done in the background."""
