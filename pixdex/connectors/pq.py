"""The embedded store: a directory, for people who run no vector database.

``pq://photos.pix#name`` or ``pq:///var/lib/photos#name``. Vectors lie in append-only, checksummed segment
files, forced to the disk before the SQLite transaction that names them; SQLite holds all else. Killed at
any instant it opens again with every acknowledged record. One process writes, many read; in each, any
number of threads. Searches are exact. It needs POSIX file locks.
"""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from pixdex.connectors import _pq_records as records
from pixdex.connectors import _pq_sql
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._pq_scan import scan
from pixdex.connectors._pq_store import Store
from pixdex.connectors._pq_vectors import Vectors
from pixdex.connectors.port import Capabilities
from pixdex.errors import AlreadyExists, ConfigError, NotFound, Unsupported
from pixdex.scores import similarities
from pixdex.types import REV, Batch, Hit, Native, Page, Scan, Search, Spec, Want

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

    from pixdex.connectors._pq_records import Physical, Snapshot
    from pixdex.connectors.address import Address
    from pixdex.filters import Filter

__all__ = ["PqConnector", "PqOptions", "connect"]


@dataclass(frozen=True, slots=True)
class PqOptions:
    """Options of ``pq://``.

    Attributes:
        sync: force every write to the disk. Off, what was acknowledged still survives the process, but
            not a power cut.
    """

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
        self._vectors = Vectors(self._store)

    # --- collections --------------------------------------------------------------------------------

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        if not isinstance(spec.layout, Native):
            raise Unsupported("the embedded store has no collections of other tools: leave the layout native")
        with self._store.writing(Deadline.after(timeout), create=True) as db:
            if _number(db, name) is not None or name in _aliases(db):
                raise AlreadyExists(f"there is a collection or alias {name!r} already")
            made = db.execute("INSERT INTO collections (name, spec) VALUES (?, ?)", (name, spec.to_json()))
            number = int(made.lastrowid or 0)
            for statement in _pq_sql.tables(number):
                db.execute(statement)
            records.add_columns(db, number, spec.columns, spec.vectors)
            db.execute(f"CREATE INDEX r{number}_rev ON r{number} ({REV.column})")

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
            db.execute("UPDATE collections SET spec = ? WHERE id = ?", (spec.to_json(), target.id))

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
        self._vectors.remove(dropped)

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

    # --- reads --------------------------------------------------------------------------------------

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        with self._store.reading(Deadline.after(timeout)) as db:
            target = records.resolve(db, name)
            return self._read(db, target, sorted(records.rows_of(db, target.id, ids).values()), want)

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        after = _cursor(request.after)
        with self._store.reading(Deadline.after(timeout)) as db:
            target = records.resolve(db, name)
            order = "AND row > ? ORDER BY row LIMIT ?"
            found = records.select(db, target, "row", request.where, order, after, request.size + 1).fetchall()
            rows = [row for (row,) in found[: request.size]]
            batch = self._read(db, target, rows, request.want)
            return Page(batch, str(rows[-1]) if len(found) > len(rows) else None)

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        with self._store.reading(Deadline.after(timeout)) as db:
            target = records.resolve(db, name)
            return int(records.select(db, target, "count(*)", where).fetchone()[0])

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        deadline = Deadline.after(timeout)
        with self._store.reading(deadline) as db:
            target = records.resolve(db, name)
            vector, metric = target.vector(request.using), target.spec.physical(request.using).metric
            segment = self._vectors.segment(db, vector)
            selected = self._selected(db, target, vector, request.where)
            found = scan(segment, selected, request.queries, metric, request.k, between=deadline.check)
            named = _records_at(db, target, vector, np.unique(found))
            best = []
            for query, proposed in zip(request.queries, found, strict=True):
                positions = np.sort(proposed)
                scores = similarities(metric, query[None], segment.rows(positions))[0]
                scored = zip(scores.tolist(), positions.tolist(), strict=True)
                ranked = sorted((-score, *named[position]) for score, position in scored)
                best.append(ranked[: request.k])
            rows = sorted({row for ranked in best for _, _, row in ranked})
            batch = self._read(db, target, rows, request.want)
        place = {row: i for i, row in enumerate(rows)}
        return [[batch.hit(place[row], -score) for score, _, row in ranked] for ranked in best]

    def close(self) -> None:
        self._store.close()
        self._vectors.close()

    def _selected(
        self, db: sqlite3.Connection, target: Snapshot, vector: Physical, where: Filter | None
    ) -> NDArray[np.bool_]:
        """Which positions hold a record that matches: bool ``[rows]``."""
        if where is None:
            return self._vectors.live(db, vector)
        selected = np.zeros(vector.rows, dtype=bool)
        found = records.select(db, target, f"v{vector.id}", where, f"AND v{vector.id} IS NOT NULL").fetchall()
        selected[np.fromiter((position for (position,) in found), dtype=np.int64, count=len(found))] = True
        return selected

    def _read(self, db: sqlite3.Connection, target: Snapshot, rows: Sequence[int], want: Want) -> Batch:
        """The records at ascending ``rows``, with what is wanted."""
        vectors = [target.vector(name) for name in want.vectors]
        columns = ", ".join(["id", *(f"v{vector.id}" for vector in vectors)])
        found = db.execute(
            f"SELECT {columns} FROM r{target.id} WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row",
            (orjson.dumps(list(rows)).decode(),),
        ).fetchall()
        matrices, absent = {}, {}
        for column, vector in enumerate(vectors, start=1):
            positions = [record[column] for record in found]
            absent[vector.name] = np.array([position is None for position in positions], dtype=bool)
            matrices[vector.name] = self._vectors.read(db, vector, positions)
        payloads, tokens = None, None
        if want.payload or want.tokens:
            payloads, tokens = records.bodies(db, target.id, rows, tokens=want.tokens)
        return Batch(
            tuple(record[0] for record in found),
            matrices,
            tuple(payloads) if payloads is not None and want.payload else None,
            tuple(tokens) if tokens is not None and want.tokens else None,
            absent,
        )


def _number(db: sqlite3.Connection, name: str) -> int | None:
    found = db.execute("SELECT id FROM collections WHERE name = ?", (name,)).fetchone()
    return found[0] if found else None


def _aliases(db: sqlite3.Connection) -> dict[str, str]:
    return dict(
        db.execute("SELECT a.name, c.name FROM aliases a JOIN collections c ON c.id = a.collection ORDER BY a.name")
    )


def _records_at(
    db: sqlite3.Connection, target: Snapshot, vector: Physical, positions: NDArray[np.intp]
) -> dict[int, tuple[str, int]]:
    """``position -> (id, row)``."""
    found = db.execute(
        f"SELECT v{vector.id}, id, row FROM r{target.id} WHERE v{vector.id} IN (SELECT value FROM json_each(?))",
        (orjson.dumps(positions.tolist()).decode(),),
    )
    return {position: (record, row) for position, record, row in found}


def _cursor(after: str | None) -> int:
    try:
        return int(after or 0)
    except ValueError:
        raise ConfigError(f"{after!r} is no cursor of a scan") from None
