"""Everything read and compared with its checksums: SQLite's pages, the blocks of segment files, positions, payloads,
typed columns, and what is derived.

What this process has mapped or read before does not count: files are opened anew.
"""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from pixdex.connectors import _pq_derived, _pq_schema, _pq_sql
from pixdex.connectors import _pq_records as records
from pixdex.connectors._pq_errors import DATABASE
from pixdex.connectors._pq_segments import Block, Segment
from pixdex.connectors.port import Finding
from pixdex.errors import PixdexError, StoreFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pixdex.connectors._deadline import Deadline
    from pixdex.connectors._pq_records import Physical, Snapshot
    from pixdex.connectors._pq_schema import Connection
    from pixdex.connectors._pq_store import Store
    from pixdex.spec import Field

__all__ = ["verify"]

_RESTORE = "restore the store from a copy"
_AGAIN = "write these records again, or restore the store from a copy"
_REBUILT = "nothing: it is ignored, and made anew by the next write or search that needs it"
_PAGE = 1000
_NONSENSE = (sqlite3.Error, TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError)


def verify(store: Store, name: str, *, progress: Callable[[int, int], None], deadline: Deadline) -> list[Finding]:
    """What is not as it was written, in one snapshot of a collection and in the database.

    Raises:
        NotFound: there is no such collection.
    """
    database = str(store.path / DATABASE)
    findings: list[Finding] = []
    try:
        with store.reading(deadline) as db:
            try:
                findings += _database(db, database)
                findings += _collection(db, store, name, progress, deadline)
            except _NONSENSE as error:  # what damaged pages say may be anything
                what = f"it cannot be read to the end: {type(error).__name__}: {error}"
                findings.append(Finding(place=database, what=what, remedy=_RESTORE))
    except StoreFormat as error:
        findings.append(Finding(place=database, what=str(error), remedy=_RESTORE))
    return findings


def _collection(
    db: Connection, store: Store, name: str, progress: Callable[[int, int], None], deadline: Deadline
) -> Iterator[Finding]:
    database, target = str(store.path / DATABASE), records.resolve(db, name)
    for vector in target.vectors.values():
        yield from _segment(db, store, target, vector, deadline)
        yield from _positions(db, database, target, vector)
        yield from _derived(store, vector)
    yield from _records(db, database, target, progress, deadline)


def _database(db: Connection, place: str) -> Iterator[Finding]:
    """What SQLite finds in its own pages."""
    try:
        for (said,) in db.execute("PRAGMA integrity_check(20)"):
            if said != "ok":
                yield Finding(place=place, what=said, remedy=_RESTORE)
    except sqlite3.DatabaseError as error:
        yield Finding(place=place, what=str(error), remedy=_RESTORE)


def _segment(db: Connection, store: Store, target: Snapshot, vector: Physical, deadline: Deadline) -> Iterator[Finding]:
    """Each block of a segment file."""
    segment = Segment(store.segment(vector.file), vector.dim, vector.dtype)
    query = "SELECT start, stop, crc FROM blocks WHERE vector = ? ORDER BY start"
    blocks = [Block(*block) for block in db.execute(query, (vector.id,))]
    ends = [0, *(block.stop for block in blocks)]
    if [block.start for block in blocks] != ends[:-1] or ends[-1] != vector.rows:
        what = f"the blocks of {segment.path} do not follow each other up to row {vector.rows}"
        yield Finding(place=str(store.path / DATABASE), what=what, remedy=_RESTORE)
        return
    try:
        segment.extend(vector.rows, blocks)
    except StoreFormat as error:
        yield Finding(
            place=str(segment.path),
            what=str(error),
            remedy=_RESTORE,
            records=_between(db, target, vector, 0, vector.rows),
        )
        return
    for block in blocks:
        deadline.check()
        try:
            segment.rows(np.arange(block.start, block.stop))
        except StoreFormat as error:
            yield Finding(
                place=f"{segment.path}, bytes {segment.offset(block.start)} to {segment.offset(block.stop)}",
                what=str(error),
                remedy=_AGAIN,
                records=_between(db, target, vector, block.start, block.stop),
            )


def _between(db: Connection, target: Snapshot, vector: Physical, start: int, stop: int) -> tuple[str, ...]:
    query = f"SELECT id FROM r{target.id} WHERE v{vector.id} >= ? AND v{vector.id} < ? ORDER BY v{vector.id}"
    return tuple(record for (record,) in db.execute(query, (start, stop)))


def _positions(db: Connection, place: str, target: Snapshot, vector: Physical) -> Iterator[Finding]:
    """Each position belongs to one record or is one tombstone."""
    column = f"v{vector.id}"
    taken = _integers(db.execute(f"SELECT {column} FROM r{target.id} WHERE {column} IS NOT NULL"))
    query = "SELECT position FROM dead WHERE vector = ? ORDER BY ordinal"
    dead = _integers(db.execute(query, (vector.id,)))
    both = np.concatenate([taken, dead])
    if len(dead) == vector.dead and np.array_equal(np.sort(both), np.arange(vector.rows)):
        return
    lost = sorted(set(dead.tolist()) & set(taken.tolist()) | {at for at in taken.tolist() if not 0 <= at < vector.rows})
    named = db.execute(
        f"SELECT id FROM r{target.id} WHERE {column} IN (SELECT value FROM json_each(?))",
        (orjson.dumps(lost).decode(),),
    )
    yield Finding(
        place=place,
        what=f"vector {vector.name!r} has {vector.rows} positions, but {len(taken)} are taken and {len(dead)} deleted",
        remedy=_AGAIN if lost else _RESTORE,
        records=tuple(record for (record,) in named),
    )


def _integers(found: sqlite3.Cursor) -> NDArray[np.int64]:
    return np.array([value for (value,) in found], dtype=np.int64)


def _derived(store: Store, vector: Physical) -> Iterator[Finding]:
    for path in sorted(store.derived.glob(f"{vector.file:016x}.*")):
        kind = path.name.split(".")[-1]
        if path != _pq_derived.path_of(store.derived, kind, vector.file, _covered(path.name)):
            continue  # a file in the making
        try:
            _pq_derived.read(path, kind, vector.file)
        except PixdexError as error:
            yield Finding(place=str(path), what=str(error), remedy=_REBUILT, lost=False)


def _covered(name: str) -> int:
    middle = name.split(".")[1]
    return int(middle) if middle.isdigit() else -1


def _records(
    db: Connection, place: str, target: Snapshot, progress: Callable[[int, int], None], deadline: Deadline
) -> Iterator[Finding]:
    """Payloads and tokens against their checksums; typed columns and items of lists against payloads."""
    number, done, last = target.id, 0, 0
    counts = [db.execute(f"SELECT count(*) FROM {table}{number}").fetchone()[0] for table in "rb"]
    if counts[0] != counts[1]:
        yield Finding(place=place, what=f"{counts[0]} records have {counts[1]} payloads", remedy=_RESTORE)
    fields = target.spec.columns
    columns = "".join(f", {column}" for declared in fields for column, _ in _pq_sql.columns(declared))
    query = (
        f"SELECT row, id, payload, crc, tokens, height, width, dtype, tokens_crc{columns} "
        f"FROM r{number} JOIN b{number} USING (row) WHERE row > ? ORDER BY row LIMIT {_PAGE}"
    )
    damaged: dict[str, list[str]] = {}
    while page := db.execute(query, (last,)).fetchall():
        deadline.check()
        items = _items(db, number, page[0][0], page[-1][0])
        for row, record, *body in page:
            if wrong := _wrong(record, body, fields, items.get(row, [])):
                damaged.setdefault(wrong, []).append(record)
        last, done = page[-1][0], done + len(page)
        progress(done, counts[0])
    for wrong, ids in damaged.items():
        yield Finding(place=place, what=wrong, remedy=_AGAIN, records=tuple(ids))


def _items(db: Connection, collection: int, first: int, last: int) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = {}
    query = f"SELECT row, field, value, lon FROM m{collection} WHERE row >= ? AND row <= ?"
    for row, *item in db.execute(query, (first, last)):
        found.setdefault(row, []).append(tuple(item))
    return found


def _wrong(record: str, body: list[Any], fields: Sequence[Field], items: list[tuple[Any, ...]]) -> str:
    """What is wrong with a record, empty when nothing is."""
    payload, crc, *tokens = body[:7]
    if _pq_schema.payload_crc(record, payload) != crc:
        return "the payload or the id of records is not what was written"
    if _pq_schema.tokens_crc(*tokens[:4]) != tokens[4]:
        return "the token matrix of records is not what was written"
    loaded = orjson.loads(payload)
    typed = [value for declared in fields for value in _pq_sql.values(declared, loaded)]
    expected = [item for declared in fields if declared.many for item in _pq_sql.items(declared, loaded)]
    if typed != body[7:] or sorted(expected, key=repr) != sorted(items, key=repr):
        return "filters do not see what is in the payload of records"
    return ""
