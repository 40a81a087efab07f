"""The embedded store: a directory, for people who run no vector database.

``pq://photos.pix#name`` or ``pq:///var/lib/photos#name``. Vectors lie in append-only, checksummed segment
files, forced to the disk before the SQLite transaction that names them; SQLite holds all else. Killed at
any instant it opens again with every acknowledged record. One process writes, many read; in each, any
number of threads. Small collections are searched exactly, large ones by an index that proposes positions, which are
scored exactly (``_pq_plan``). It needs POSIX file locks.
"""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex.connectors import _pq_index
from pixdex.connectors import _pq_records as records
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._pq_building import Builder
from pixdex.connectors._pq_compact import compact
from pixdex.connectors._pq_reading import Reading
from pixdex.connectors._pq_store import Store
from pixdex.connectors._pq_vectors import Vectors
from pixdex.connectors._pq_verify import verify
from pixdex.connectors._pq_view import Views
from pixdex.connectors.port import Capabilities, Compacted, Finding
from pixdex.errors import AlreadyExists, ConfigError, NotFound, Unsupported
from pixdex.spec import Native, Spec
from pixdex.types import Batch, Hit, Page, Scan, Search, Want

if TYPE_CHECKING:
    from pixdex.connectors.address import Address
    from pixdex.filters import Filter

__all__ = ["PqConnector", "PqOptions", "connect"]


@dataclass(frozen=True, slots=True)
class PqOptions:
    """Options of ``pq://``.

    Attributes:
        index: how new collections index their vectors: auto, flat, ivf, pq, ivf-pq, opq, rabitq, hnsw, lsh, kdtree
            or balltree; see docs/embedded.md. What there is keeps its own.
        sync: force every write to the disk. Off, what was acknowledged still survives the process, but
            not a power cut.
    """

    index: str = "auto"
    sync: bool = True


def connect(address: Address) -> PqConnector:
    """The store in a directory. It is made by the first ``create``; until then nothing is touched.

    Raises:
        ConfigError: no path, or an unknown option.
    """
    return PqConnector(Path(address.path), address.read_options(PqOptions))


class PqConnector:
    """A directory as a store. Any number of threads may share it."""

    scheme = "pq"
    capabilities = Capabilities()

    def __init__(self, path: Path, options: PqOptions = PqOptions()) -> None:
        self._store = Store(path, sync=options.sync)
        self._kind = _pq_index.kind_named(options.index)
        self._vectors = Vectors(self._store)
        self._views = Views(self._store, self._vectors)
        self._builder = Builder(self._store, self._views)

    # --- collections --------------------------------------------------------------------------------

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        if not isinstance(spec.layout, Native):
            raise Unsupported("the embedded store has no collections of other tools: leave the layout native")
        for vector in spec.vectors:
            _pq_index.check(self._kind, vector.dim)
        with self._store.writing(Deadline.after(timeout), create=True) as db:
            if _number(db, name) is not None or name in _aliases(db):
                raise AlreadyExists(f"there is a collection or alias {name!r} already")
            records.create(db, name, spec, self._kind.value)

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        with self._store.reading(Deadline.after(timeout)) as db:
            return records.resolve(db, name).spec

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        deadline = Deadline.after(timeout)
        with self._store.writing(deadline) as db:
            target = records.resolve(db, name)
            kept = {vector.column for vector in spec.vectors}
            if not set(target.spec.fields) <= set(spec.fields) or not target.vectors.keys() <= kept:
                raise Unsupported("alter adds fields and vectors; to drop or change one, copy to a new collection")
            fields = [declared for declared in spec.fields if declared not in target.spec.fields]
            vectors = [vector for vector in spec.vectors if vector.column not in target.vectors]
            records.add_columns(db, target.id, fields, vectors)
            if fields:
                for _ in records.back_fill(db, target.id, fields):
                    deadline.check()
            records.respecify(db, target.id, spec)

    def drop(self, name: str, *, timeout: float | None) -> None:
        try:
            with self._store.writing(Deadline.after(timeout)) as db:
                number = _number(db, name)
                if number is None:
                    return
                dropped = list(records.resolve(db, name).vectors.values())
                for table in "rbm":
                    db.execute(f"DROP TABLE {table}{number}")
                for table in ("blocks", "dead"):
                    db.execute(
                        f"DELETE FROM {table} WHERE vector IN (SELECT id FROM vectors WHERE collection = ?)", (number,)
                    )
                for table in ("vectors", "aliases"):
                    db.execute(f"DELETE FROM {table} WHERE collection = ?", (number,))
                db.execute("DELETE FROM collections WHERE id = ?", (number,))
        except NotFound:  # no store
            return
        self._views.forget(dropped)
        self._vectors.remove(dropped)

    def versions(self, *, timeout: float | None) -> Mapping[str, str]:
        return {"faiss-cpu": metadata.version("faiss-cpu"), "SQLite": sqlite3.sqlite_version}

    def names(self, *, timeout: float | None) -> Sequence[str]:
        try:
            with self._store.reading(Deadline.after(timeout)) as db:
                return [name for (name,) in db.execute("SELECT name FROM collections ORDER BY name")]
        except NotFound:
            return []

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        with self._store.writing(Deadline.after(timeout)) as db:
            if _number(db, alias) is not None:
                raise AlreadyExists(f"{alias!r} is a collection, so it cannot be an alias")
            if name is None:
                db.execute("DELETE FROM aliases WHERE name = ?", (alias,))
                return
            number = _number(db, name)
            if number is None:
                raise NotFound(f"no collection {name!r}")
            db.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?)", (alias, number))

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        try:
            with self._store.reading(Deadline.after(timeout)) as db:
                return _aliases(db)
        except NotFound:
            return {}

    # --- writes -------------------------------------------------------------------------------------

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        deadline = Deadline.after(timeout)
        with self._store.writing(deadline) as db:
            target = records.resolve(db, name)
            blocks = {}
            for column, matrix in batch.vectors.items():
                vector, present = target.vector(column), batch.present(column)
                if present.any():
                    blocks[column] = self._vectors.append(db, vector, matrix[present])
                deadline.check()
            records.insert(db, target, batch, blocks)
        for column, block in blocks.items():
            self._builder.notice(name, target, column, block.stop)

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        with self._store.writing(Deadline.after(timeout)) as db:
            target = records.resolve(db, name)
            records.remove(db, target, list(records.rows_of(db, target.id, ids).values()))

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        with self._store.writing(Deadline.after(timeout)) as db:
            target = records.resolve(db, name)
            records.remove(db, target, [row for (row,) in records.select(db, target, "row", where)])

    def flush(self, name: str, *, timeout: float | None) -> None:
        """Every write is visible when it returns: this only checks that the collection is there."""
        self.describe(name, timeout=timeout)

    # --- upkeep -------------------------------------------------------------------------------------

    def settle(self, name: str, *, progress: Callable[[int, int], None] | None = None, timeout: float | None) -> None:
        self._builder.settle(name, progress=progress or _silent, deadline=Deadline.after(timeout))

    def compact(
        self, name: str, *, progress: Callable[[int, int], None] | None = None, timeout: float | None
    ) -> Compacted:
        deadline, progress = Deadline.after(timeout), progress or _silent
        done, replaced = compact(
            self._store, self._vectors, name, prepare=self._builder.prepare, progress=progress, deadline=deadline
        )
        self._views.forget(replaced)
        return done

    def verify(
        self, name: str, *, progress: Callable[[int, int], None] | None = None, timeout: float | None
    ) -> Sequence[Finding]:
        return verify(self._store, name, progress=progress or _silent, deadline=Deadline.after(timeout))

    # --- reads --------------------------------------------------------------------------------------

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        with self._store.reading(Deadline.after(timeout)) as db:
            target = records.resolve(db, name)
            rows = sorted(records.rows_of(db, target.id, ids).values())
            return Reading(db, target, self._vectors).batch(rows, want)

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        after = _cursor(request.after)
        with self._store.reading(Deadline.after(timeout)) as db:
            target = records.resolve(db, name)
            order = "AND row > ? ORDER BY row LIMIT ?"
            found = records.select(db, target, "row", request.where, order, after, request.size + 1).fetchall()
            rows = [row for (row,) in found[: request.size]]
            batch = Reading(db, target, self._vectors).batch(rows, request.want)
            return Page(batch, str(rows[-1]) if len(found) > len(rows) else None)

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        with self._store.reading(Deadline.after(timeout)) as db:
            target = records.resolve(db, name)
            return int(records.select(db, target, "count(*)", where).fetchone()[0])

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        deadline = Deadline.after(timeout)
        hits = None
        while hits is None:
            with self._store.reading(deadline) as db:
                reading = Reading(db, records.resolve(db, name), self._vectors)
                hits = reading.search(self._views, request, deadline)
        return hits

    def close(self) -> None:
        self._builder.close()
        self._store.close()
        self._views.close()
        self._vectors.close()


def _silent(done: int, total: int) -> None:
    """Follow nothing."""


def _number(db: sqlite3.Connection, name: str) -> int | None:
    found = db.execute("SELECT id FROM collections WHERE name = ?", (name,)).fetchone()
    return found[0] if found else None


def _aliases(db: sqlite3.Connection) -> dict[str, str]:
    return dict(
        db.execute("SELECT a.name, c.name FROM aliases a JOIN collections c ON c.id = a.collection ORDER BY a.name")
    )


def _cursor(after: str | None) -> int:
    try:
        return int(after or 0)
    except ValueError:
        raise ConfigError(f"{after!r} is no cursor of a scan") from None
