"""The rows of a collection: found, written, removed, read. Every function works inside a transaction."""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import numpy as np
import orjson

from pixdex.connectors import _pq_schema, _pq_sql
from pixdex.connectors._pq_segments import Block
from pixdex.errors import InvalidRecord, NotFound
from pixdex.filters import Filter, check_columns
from pixdex.spec import REV, Field, Spec, Vector
from pixdex.types import Batch, Payload

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

    from pixdex.connectors._pq_schema import Connection

__all__ = [
    "Physical",
    "Snapshot",
    "add_columns",
    "back_fill",
    "bodies",
    "changed",
    "create",
    "index_positions",
    "insert",
    "payloads",
    "remove",
    "resolve",
    "respecify",
    "rows_of",
    "select",
]

_FEW = 500
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Physical:
    """A physical vector as SQLite knows it: ``rows`` of its segment count, ``dead`` of them are tombstones.

    ``file`` names its segment file and what is derived from that; ``id`` is the vector's for life.
    """

    id: int
    name: str
    dim: int
    dtype: str
    rows: int
    dead: int
    file: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection in the snapshot of a transaction.

    Attributes:
        seq: as long as it is the same, so is all else here, and every record.
        indexing: the kind of index that was asked for.
    """

    id: int
    name: str
    seq: int
    next_row: int
    indexing: str
    spec: Spec
    vectors: Mapping[str, Physical]

    def vector(self, name: str) -> Physical:
        """The physical vector of that name.

        Raises:
            FingerprintMismatch: there is none; physical names carry the fingerprint.
        """
        return self.vectors[self.spec.physical(name).column]


def resolve(db: Connection, name: str) -> Snapshot:
    """The collection of that name or alias: the same object as long as nothing changed.

    Raises:
        NotFound: there is none.
    """
    named = "SELECT id, seq FROM collections WHERE name = ?"
    aliased = "SELECT id, seq FROM collections WHERE id = (SELECT collection FROM aliases WHERE name = ?)"
    found = db.execute(named, (name,)).fetchone() or db.execute(aliased, (name,)).fetchone()
    if found is None:
        raise NotFound(f"no collection {name!r}")
    number, seq = found
    known = db.known.get(number)
    if known is None or known.seq != seq:
        known = db.known[number] = _snapshot(db, number)
    return known


def _snapshot(db: Connection, number: int) -> Snapshot:
    query = "SELECT name, seq, next_row, indexing, crc, spec FROM collections WHERE id = ?"
    name, seq, next_row, indexing, crc, spec = db.execute(query, (number,)).fetchone()
    _pq_schema.check(_pq_schema.text_crc(spec), crc, f"the Spec of collection {name!r}")
    query = "SELECT id, name, dim, dtype, rows, dead, file FROM vectors WHERE collection = ? ORDER BY name"
    vectors = {row[1]: Physical(*row) for row in db.execute(query, (number,))}
    return Snapshot(number, name, seq, next_row, indexing, _parsed(spec), vectors)


_parsed = lru_cache(maxsize=64)(Spec.from_json)


def changed(db: sqlite3.Connection, collection: int) -> None:
    """Say that this transaction changes the collection: called once in it."""
    db.execute("UPDATE collections SET seq = seq + 1 WHERE id = ?", (collection,))


def create(db: sqlite3.Connection, name: str, spec: Spec, indexing: str) -> None:
    """An empty collection."""
    text = spec.to_json()
    made = db.execute(
        "INSERT INTO collections (name, indexing, crc, spec) VALUES (?, ?, ?, ?)",
        (name, indexing, _pq_schema.text_crc(text), text),
    )
    number = int(made.lastrowid or 0)
    for statement in _pq_schema.tables(number):
        db.execute(statement)
    add_columns(db, number, spec.columns, spec.vectors)
    db.execute(f"CREATE INDEX r{number}_rev ON r{number} ({REV.column})")


def respecify(db: sqlite3.Connection, collection: int, spec: Spec) -> None:
    """Replace the Spec of a collection."""
    text = spec.to_json()
    change = "UPDATE collections SET crc = ?, spec = ? WHERE id = ?"
    db.execute(change, (_pq_schema.text_crc(text), text, collection))
    changed(db, collection)


def add_columns(db: sqlite3.Connection, collection: int, fields: Sequence[Field], vectors: Sequence[Vector]) -> None:
    """The physical columns of fields and vectors, added to the tables of a collection."""
    for declared in fields:
        for column, kind in _pq_sql.columns(declared):
            db.execute(f"ALTER TABLE r{collection} ADD COLUMN {column} {kind}")
    for vector in vectors:
        number = secrets.randbits(62)  # never the same again, also where a store was removed and made anew
        db.execute(
            "INSERT INTO vectors (id, collection, name, dim, dtype, file) VALUES (?, ?, ?, ?, ?, ?)",
            (number, collection, vector.column, vector.dim, vector.dtype, number),
        )
        db.execute(f"ALTER TABLE r{collection} ADD COLUMN v{number} INTEGER")
        index_positions(db, collection, number)


def index_positions(db: sqlite3.Connection, collection: int, vector: int) -> None:
    """Index where the vectors of records lie: no two at the same position."""
    table, column = f"r{collection}", f"v{vector}"
    db.execute(f"CREATE UNIQUE INDEX {table}_{column} ON {table} ({column}) WHERE {column} IS NOT NULL")


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
            f"SELECT row, id, payload, crc FROM b{collection} JOIN r{collection} USING (row) WHERE row > ? "
            "ORDER BY row LIMIT ?",
            (last, _PAGE),
        ).fetchall()
        if not page:
            return
        last = page[-1][0]
        read = [(row, _loaded(record, payload, crc)) for row, record, payload, crc in page]
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
    _remove(db, target, list(old.values()))
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
    packed = [orjson.dumps(payload) for payload in payloads]
    checksums = map(_pq_schema.payload_crc, batch.ids, packed)
    db.executemany(
        f"INSERT INTO b{target.id} (row, crc, payload, tokens, height, width, dtype, tokens_crc) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(row, crc, p, *_packed(t)) for row, crc, p, t in zip(rows, checksums, packed, tokens, strict=True)],
    )
    _insert_items(db, target.id, fields, list(zip(rows, payloads, strict=True)))
    db.execute("UPDATE collections SET next_row = next_row + ? WHERE id = ?", (len(batch) - len(old), target.id))
    changed(db, target.id)
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
    if rows:
        _remove(db, target, rows)
        changed(db, target.id)


def _remove(db: sqlite3.Connection, target: Snapshot, rows: Sequence[int]) -> None:
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
    db: sqlite3.Connection, collection: int, rows: Sequence[int], ids: Sequence[str], *, tokens: bool
) -> tuple[list[Payload], list[NDArray[Any] | None]]:
    """The payloads and, when asked for, the tokens at ascending ``rows``, all of which exist, of the records ``ids``.

    Raises:
        StoreFormat: a checksum does not fit; the message names the record.
    """
    columns = "tokens, height, width, dtype, tokens_crc" if tokens else "NULL, 0, 0, NULL, NULL"
    found = db.execute(
        f"SELECT payload, crc, {columns} FROM b{collection} WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row",
        (orjson.dumps(list(rows)).decode(),),
    ).fetchall()
    payloads = [_loaded(record, *body[:2]) for record, body in zip(ids, found, strict=True)]
    return payloads, [_unpacked(record, *body[2:]) for record, body in zip(ids, found, strict=True)]


def payloads(db: sqlite3.Connection, collection: int, rows: Sequence[int], ids: Sequence[str]) -> list[Payload]:
    """The payload of the record at each of ``rows``, in that order: a new object for each. ``ids`` are theirs.

    Raises:
        StoreFormat: a checksum does not fit; the message names the record.
    """
    found: dict[int, tuple[int, bytes, int]] = {}
    distinct = list(dict.fromkeys(rows))
    for start in range(0, len(distinct), _FEW):
        some = distinct[start : start + _FEW]
        for body in db.execute(_bodies_of(collection, len(some)), some):
            found[body[0]] = body
    return [_loaded(record, *found[row][1:]) for row, record in zip(rows, ids, strict=True)]


def _loaded(record: str, payload: bytes, crc: int) -> Payload:
    if crc32(payload, crc32(record.encode())) != crc:
        _pq_schema.check(_pq_schema.payload_crc(record, payload), crc, f"the payload of record {record!r}")
    loaded: Payload = orjson.loads(payload)
    return loaded


@lru_cache(maxsize=1024)
def _bodies_of(collection: int, count: int) -> str:
    return f"SELECT row, payload, crc FROM b{collection} WHERE row IN ({', '.join('?' * count)})"


_Packed: TypeAlias = tuple[bytes | None, int, int, str | None, int | None]


def _packed(tokens: NDArray[Any] | None) -> _Packed:
    if tokens is None:
        return None, 0, 0, None, None
    little = np.ascontiguousarray(tokens, dtype=tokens.dtype.newbyteorder("<"))
    packed = little.tobytes(), little.shape[0], little.shape[1], little.dtype.name
    return *packed, _pq_schema.tokens_crc(*packed)


def _unpacked(
    record: str, data: bytes | None, height: int, width: int, dtype: str | None, crc: int | None
) -> NDArray[Any] | None:
    _pq_schema.check(_pq_schema.tokens_crc(data, height, width, dtype), crc, f"the token matrix of record {record!r}")
    if data is None or dtype is None:
        return None
    return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<")).reshape(height, width).copy()
