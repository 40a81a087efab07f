"""What the embedded store is in SQLite: its tables, the checksums in them, and how older formats become this one.

SQLite checks its own log, but not its pages: a flipped byte in a payload would be read as it is. So what is served from
there carries a CRC-32: each Spec, each payload together with the id of its record, each token matrix. What has none
(typed columns, items of lists, positions) follows from what has, and ``verify`` compares them.
"""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

import sqlite3
import zlib
from typing import TYPE_CHECKING

from pixdex.errors import StoreFormat

if TYPE_CHECKING:
    from pixdex.connectors._pq_records import Snapshot

__all__ = [
    "STORE_SCHEMA",
    "VERSION",
    "Connection",
    "check",
    "payload_crc",
    "tables",
    "text_crc",
    "tokens_crc",
    "upgrade",
]

VERSION = 2
STORE_SCHEMA = """
CREATE TABLE collections (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    seq INTEGER NOT NULL DEFAULT 0, next_row INTEGER NOT NULL DEFAULT 1, indexing TEXT NOT NULL DEFAULT 'auto',
    crc INTEGER NOT NULL, spec TEXT NOT NULL);
CREATE TABLE aliases (name TEXT PRIMARY KEY, collection INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE vectors (id INTEGER PRIMARY KEY, collection INTEGER NOT NULL, name TEXT NOT NULL,
    dim INTEGER NOT NULL, dtype TEXT NOT NULL, rows INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0,
    file INTEGER NOT NULL, UNIQUE (collection, name));
CREATE TABLE blocks (vector INTEGER, start INTEGER, stop INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (vector, start)) WITHOUT ROWID;
CREATE TABLE dead (vector INTEGER, ordinal INTEGER, position INTEGER NOT NULL,
    PRIMARY KEY (vector, ordinal)) WITHOUT ROWID;
"""
"""``vectors.rows`` is how much of a segment file counts; ``dead`` lists the positions that no record has any more.
``collections.seq`` grows by one in each transaction that changes records, positions or the Spec. ``vectors.file``
names the segment file and what is derived from it; a compaction gives the vector another one."""

_TOKENS = "tokens BLOB, height INTEGER, width INTEGER, dtype TEXT, tokens_crc INTEGER"


class Connection(sqlite3.Connection):
    """A connection that knows which collections were read before.

    Attributes:
        known: by number, as they were read last; shared by the connections to one database. A transaction that
            writes has its own, since what it reads may be rolled back.
    """

    known: dict[int, Snapshot]


def tables(collection: int) -> list[str]:
    """The statements that make the tables of an empty collection, still without typed columns."""
    return [
        f"CREATE TABLE r{collection} (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE)",
        f"CREATE TABLE b{collection} (row INTEGER PRIMARY KEY, crc INTEGER NOT NULL, payload BLOB NOT NULL, {_TOKENS})",
        f"CREATE TABLE m{collection} (row INTEGER NOT NULL, field INTEGER NOT NULL, value, lon)",
        f"CREATE INDEX m{collection}_row ON m{collection} (row)",
        f"CREATE INDEX m{collection}_value ON m{collection} (field, value)",
    ]


def text_crc(text: str) -> int:
    """The checksum of a text."""
    return zlib.crc32(text.encode())


def payload_crc(record: str, payload: bytes) -> int:
    """The checksum of a payload and the id that it belongs to; -1 where a flipped bit has made text of bytes."""
    try:
        return zlib.crc32(payload, zlib.crc32(record.encode()))
    except (TypeError, AttributeError):
        return -1


def tokens_crc(tokens: bytes | None, height: int, width: int, dtype: str | None) -> int | None:
    """The checksum of a token matrix and its form; None for none."""
    try:
        return None if tokens is None else zlib.crc32(tokens, text_crc(f"{height} {width} {dtype}"))
    except TypeError:
        return -1


def check(found: int | None, expected: int | None, what: str) -> None:
    """Raise StoreFormat when the checksum of ``what`` does not fit."""
    if found != expected:
        raise StoreFormat(
            f"{what} is not what was written: pixdex verify says what else is damaged; restore the store from a copy, "
            "or write the record again"
        )


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Inside a transaction, make a database of an older format one of this."""
    for older in range(version, VERSION):
        _UPGRADES[older](db)
        db.execute(f"PRAGMA user_version = {older + 1}")


def _from_1(db: sqlite3.Connection) -> None:
    for name, function in (("text_crc", text_crc), ("payload_crc", payload_crc), ("tokens_crc", tokens_crc)):
        db.create_function(name, -1, function, deterministic=True)
    for column in ("seq INTEGER NOT NULL DEFAULT 0", "indexing TEXT NOT NULL DEFAULT 'auto'", "crc INTEGER DEFAULT 0"):
        db.execute(f"ALTER TABLE collections ADD COLUMN {column}")
    db.execute("UPDATE collections SET crc = text_crc(spec)")
    db.execute("ALTER TABLE vectors ADD COLUMN file INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE vectors SET file = id")
    for (number,) in db.execute("SELECT id FROM collections").fetchall():
        for column in ("crc", "tokens_crc"):
            db.execute(f"ALTER TABLE b{number} ADD COLUMN {column} INTEGER")
        db.execute(
            f"UPDATE b{number} SET tokens_crc = tokens_crc(tokens, height, width, dtype), "
            f"crc = payload_crc((SELECT id FROM r{number} WHERE row = b{number}.row), payload)"
        )


_UPGRADES = {1: _from_1}
