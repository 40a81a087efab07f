"""The rows of a collection: found, written, removed, read. Every function works inside a transaction."""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from pixdex.connectors import _pq_sql
from pixdex.connectors._pq_segments import Block
from pixdex.errors import InvalidRecord, NotFound
from pixdex.filters import Filter, check_columns
from pixdex.types import Batch, Field, Payload, Spec, Vector

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

__all__ = [
    "Physical",
    "Snapshot",
    "add_columns",
    "back_fill",
    "bodies",
    "insert",
    "remove",
    "resolve",
    "rows_of",
    "select",
]

_FEW = 500
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Physical:
    """A physical vector as SQLite knows it: ``rows`` of its segment count, ``dead`` of them are tombstones."""

    id: int
    name: str
    dim: int
    dtype: str
    rows: int
    dead: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection in the snapshot of a transaction."""

    id: int
    name: str
    spec: Spec
    next_row: int
    vectors: Mapping[str, Physical]

    def vector(self, name: str) -> Physical:
        """The physical vector of that name.

        Raises:
            FingerprintMismatch: there is none; physical names carry the fingerprint.
        """
        return self.vectors[self.spec.physical(name).column]


def resolve(db: sqlite3.Connection, name: str) -> Snapshot:
    """The collection of that name or alias.

    Raises:
        NotFound: there is none.
    """
    found = db.execute(
        "SELECT id, name, spec, next_row FROM collections "
        "WHERE name = ? OR id = (SELECT collection FROM aliases WHERE name = ?)",
        (name, name),
    ).fetchone()
    if found is None:
        raise NotFound(f"no collection {name!r}")
    number, own_name, spec, next_row = found
    vectors = db.execute(
        "SELECT id, name, dim, dtype, rows, dead FROM vectors WHERE collection = ? ORDER BY name", (number,)
    )
    return Snapshot(number, own_name, Spec.from_json(spec), next_row, {row[1]: Physical(*row) for row in vectors})


def add_columns(db: sqlite3.Connection, collection: int, fields: Sequence[Field], vectors: Sequence[Vector]) -> None:
    """The physical columns of fields and vectors, added to the tables of a collection."""
    for declared in fields:
        for column, kind in _pq_sql.columns(declared):
            db.execute(f"ALTER TABLE r{collection} ADD COLUMN {column} {kind}")
    for vector in vectors:
        number = secrets.randbits(62)  # never the same again, also where a store was removed and made anew
        db.execute(
            "INSERT INTO vectors (id, collection, name, dim, dtype) VALUES (?, ?, ?, ?, ?)",
            (number, collection, vector.column, vector.dim, vector.dtype),
        )
        column = f"v{number}"
        db.execute(f"ALTER TABLE r{collection} ADD COLUMN {column} INTEGER")
        db.execute(f"CREATE UNIQUE INDEX r{collection}_{column} ON r{collection} ({column}) WHERE {column} IS NOT NULL")


def back_fill(db: sqlite3.Connection, collection: int, fields: Sequence[Field]) -> Iterator[int]:
    """Fill the columns of new fields from the payloads, yielding how many records each step did.

    Raises:
        InvalidRecord: a payload holds a value of another kind; the message names the record.
    """
    columns = [column for declared in fields for column, _ in _pq_sql.columns(declared)]
    change = f"UPDATE r{collection} SET {', '.join(f'{column} = ?' for column in columns)} WHERE row = ?"
    last = 0
    while True:
        page = db.execute(
            f"SELECT row, payload FROM b{collection} WHERE row > ? ORDER BY row LIMIT ?", (last, _PAGE)
        ).fetchall()
        if not page:
            return
        last = page[-1][0]
        read = [(row, orjson.loads(payload)) for row, payload in page]
        db.executemany(change, [(*_fitting(db, collection, fields, row, payload), row) for row, payload in read])
        _insert_items(db, collection, fields, read)
        yield len(page)


def _fitting(db: sqlite3.Connection, collection: int, fields: Sequence[Field], row: int, payload: Payload) -> list[Any]:
    try:
        return _typed(fields, payload)
    except InvalidRecord as error:
        record = db.execute(f"SELECT id FROM r{collection} WHERE row = ?", (row,)).fetchone()[0]
        raise InvalidRecord(f"record {record!r}: {error}; no field was added") from error


def _typed(fields: Sequence[Field], payload: Payload) -> list[Any]:
    return [value for declared in fields for value in _pq_sql.values(declared, payload)]


def _insert_items(
    db: sqlite3.Connection, collection: int, fields: Sequence[Field], payloads: Sequence[tuple[int, Payload]]
) -> None:
    lists = [declared for declared in fields if declared.many]
    items = [
        (row, *item) for row, payload in payloads for declared in lists for item in _pq_sql.items(declared, payload)
    ]
    if items:
        db.executemany(f"INSERT INTO m{collection} (row, field, value, lon) VALUES (?, ?, ?, ?)", items)


def rows_of(db: sqlite3.Connection, collection: int, ids: Sequence[str]) -> dict[str, int]:
    """``id -> row``, of those that exist."""
    found: dict[str, int] = {}
    for start in range(0, len(ids), _FEW):
        some = ids[start : start + _FEW]
        marks = ", ".join("?" * len(some))
        found.update(db.execute(f"SELECT id, row FROM r{collection} WHERE id IN ({marks})", some))
    return found


def select(
    db: sqlite3.Connection, target: Snapshot, what: str, where: Filter | None, rest: str = "", *more: Any
) -> Any:
    """A cursor over ``what`` of the records that match; ``rest`` follows the condition, ``more`` are its parameters.

    Raises:
        FingerprintMismatch: the filter was bound to another collection's fields.
        Unsupported: it has more values than SQLite takes.
    """
    if where is not None:
        check_columns(where, target.spec)
    named, condition = _pq_sql.compiled(where, target.id)
    text = f"{named}SELECT {what} FROM r{target.id} WHERE {condition.text} {rest}"
    return db.execute(text, (*condition.parameters, *more))


def insert(db: sqlite3.Connection, target: Snapshot, batch: Batch, blocks: Mapping[str, Block]) -> None:
    """Write whole records whose vectors are the last rows of ``blocks``; a record keeps its row when it is replaced."""
    payloads = batch.payloads or ({},) * len(batch)
    old = rows_of(db, target.id, batch.ids)
    remove(db, target, list(old.values()))
    fresh = iter(range(target.next_row, target.next_row + len(batch) - len(old)))
    rows = [old[record] if record in old else next(fresh) for record in batch.ids]
    fields = target.spec.columns
    columns = [column for declared in fields for column, _ in _pq_sql.columns(declared)]
    columns += [f"v{target.vector(name).id}" for name in blocks]
    places = [_positions(target.vector(name), batch.present(name)) for name in blocks]
    db.executemany(
        f"INSERT INTO r{target.id} (row, id, {', '.join(columns)}) VALUES (?, ?{', ?' * len(columns)})",
        [
            (row, record, *_typed(fields, payload), *(column[i] for column in places))
            for i, (row, record, payload) in enumerate(zip(rows, batch.ids, payloads, strict=True))
        ],
    )
    tokens = batch.tokens or (None,) * len(batch)
    db.executemany(
        f"INSERT INTO b{target.id} (row, payload, tokens, height, width, dtype) VALUES (?, ?, ?, ?, ?, ?)",
        [(row, orjson.dumps(p), *_packed(t)) for row, p, t in zip(rows, payloads, tokens, strict=True)],
    )
    _insert_items(db, target.id, fields, list(zip(rows, payloads, strict=True)))
    db.execute("UPDATE collections SET next_row = next_row + ? WHERE id = ?", (len(batch) - len(old), target.id))
    for name, block in blocks.items():
        vector = target.vector(name)
        db.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)", (vector.id, block.start, block.stop, block.crc))
        db.execute("UPDATE vectors SET rows = ? WHERE id = ?", (block.stop, vector.id))


def _positions(vector: Physical, present: NDArray[np.bool_]) -> list[int | None]:
    """Where each record's vector lies: those that have one follow each other from ``vector.rows``."""
    following = vector.rows + np.cumsum(present) - 1
    return [position if there else None for position, there in zip(following.tolist(), present.tolist(), strict=True)]


def remove(db: sqlite3.Connection, target: Snapshot, rows: Sequence[int]) -> None:
    """Remove records; the positions of their vectors become tombstones."""
    if not rows:
        return
    among = "row IN (SELECT value FROM json_each(?))"
    wanted = orjson.dumps(list(rows)).decode()
    for vector in target.vectors.values():
        column = f"v{vector.id}"
        dead = db.execute(
            f"SELECT {column} FROM r{target.id} WHERE {among} AND {column} IS NOT NULL", (wanted,)
        ).fetchall()
        if dead:
            tombs = [(vector.id, vector.dead + n, position) for n, (position,) in enumerate(dead)]
            db.executemany("INSERT INTO dead VALUES (?, ?, ?)", tombs)
            db.execute("UPDATE vectors SET dead = dead + ? WHERE id = ?", (len(dead), vector.id))
    for table in "rbm":
        db.execute(f"DELETE FROM {table}{target.id} WHERE {among}", (wanted,))


def bodies(
    db: sqlite3.Connection, collection: int, rows: Sequence[int], *, tokens: bool
) -> tuple[list[Payload], list[NDArray[Any] | None]]:
    """The payloads and, when asked for, the tokens at ascending ``rows``, all of which exist."""
    columns = "payload, tokens, height, width, dtype" if tokens else "payload, NULL, 0, 0, NULL"
    found = db.execute(
        f"SELECT {columns} FROM b{collection} WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row",
        (orjson.dumps(list(rows)).decode(),),
    ).fetchall()
    return [orjson.loads(body[0]) for body in found], [_unpacked(*body[1:]) for body in found]


def _packed(tokens: NDArray[Any] | None) -> tuple[bytes | None, int, int, str | None]:
    if tokens is None:
        return None, 0, 0, None
    little = np.ascontiguousarray(tokens, dtype=tokens.dtype.newbyteorder("<"))
    return little.tobytes(), little.shape[0], little.shape[1], little.dtype.name


def _unpacked(data: bytes | None, height: int, width: int, dtype: str | None) -> NDArray[Any] | None:
    if data is None or dtype is None:
        return None
    return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<")).reshape(height, width).copy()
