"""What rows say, and which records they are about: put side by side on disk, so that memory does not grow with either."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby, islice
from types import TracebackType
from typing import TYPE_CHECKING, Self

import orjson

from pixdex._scratch import scratch

if TYPE_CHECKING:
    import sqlite3

    from pixdex.sources.labels import Said
    from pixdex.types import Payload

__all__ = ["Sheet", "below", "normal"]

_TABLES = """
CREATE TABLE rows (key TEXT, written TEXT, said BLOB, row TEXT);
CREATE TABLE places (turned TEXT, id TEXT, path TEXT, own INTEGER);
CREATE TABLE found (key TEXT, id TEXT);
"""
_LAST = "\U0010ffff"


class Sheet:
    """A context."""

    def __init__(self) -> None:
        self._scratch: AbstractContextManager[sqlite3.Connection] = scratch(_TABLES)

    def __enter__(self) -> Self:
        self._db = self._scratch.__enter__()
        self._db.execute("BEGIN")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scratch.__exit__(kind, error, trace)

    # --- what rows say ---

    def say(self, key: str, written: str, said: Said) -> None:
        """Keep a row about the picture ``key``, as it is written there."""
        self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (key, written, orjson.dumps(said.values), said.row))

    def all_said(self) -> None:
        """There are no more rows."""
        self._db.execute("CREATE INDEX by_key ON rows (key)")

    def keys(self) -> int:
        """How many pictures rows are about."""
        (count,) = self._db.execute("SELECT count(DISTINCT key) FROM rows").fetchone()
        return int(count)

    def pages(self, size: int) -> Iterator[list[str]]:
        """Those pictures, so many at a time."""
        keys = self._db.execute("SELECT DISTINCT key FROM rows ORDER BY key")
        while page := [key for (key,) in islice(keys, size)]:
            yield page

    def rows_of(self, key: str) -> list[str]:
        """What reports call the rows about a picture."""
        return [row for (row,) in self._db.execute("SELECT row FROM rows WHERE key = ? ORDER BY rowid", (key,))]

    def written(self, keys: Sequence[str]) -> list[str]:
        """These pictures as rows write them, each spelling once."""
        marks = ",".join("?" * len(keys))
        rows = self._db.execute(f"SELECT DISTINCT written FROM rows WHERE key IN ({marks})", keys)  # noqa: S608 - marks
        return [written for (written,) in rows]

    # --- where records lie ---

    def place(self, record: str, paths: Sequence[str]) -> None:
        """A record and the paths that may name it, its own first."""
        rows = [(_turned(path), record, paths[0], number == 0) for number, path in enumerate(dict.fromkeys(paths))]
        self._db.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", rows)

    def all_placed(self) -> None:
        """There are no more records."""
        self._db.execute("CREATE INDEX by_place ON places (turned)")

    def at(self, key: str) -> list[str]:
        """The records of the file at a path; those of which it is the own one alone, if there are such."""
        rows = self._db.execute("SELECT id, own FROM places WHERE turned = ?", (_turned(key),)).fetchall()
        own = [record for record, is_own in rows if is_own]
        return own or [record for record, _ in rows]

    def ending(self, key: str, most: int) -> dict[str, list[str]]:
        """Path -> its records, of paths that end with ``key``; of no more than ``most`` paths."""
        first = _turned(key)
        found: dict[str, list[str]] = {}
        for record, path in self._db.execute(
            "SELECT id, path FROM places WHERE turned >= ? AND turned < ? AND own", (first, first + _LAST)
        ):
            if path not in found and len(found) == most:
                break
            found.setdefault(path, []).append(record)
        return found

    # --- both ---

    def find(self, key: str, records: Iterable[str]) -> None:
        """These records are of that picture."""
        self._db.executemany("INSERT INTO found VALUES (?, ?)", ((key, record) for record in records))

    def said(self) -> Iterator[tuple[str, list[tuple[str, Payload]]]]:
        """Each record that was found, with what rows say of it, in their order."""
        found: Iterator[tuple[str, bytes, str]] = self._db.execute(
            "SELECT f.id, r.said, r.row FROM found f JOIN rows r ON r.key = f.key ORDER BY f.id, r.rowid"
        )
        for record, rows in groupby(found, key=lambda one: one[0]):
            yield record, [(row, orjson.loads(said)) for _, said, row in rows]


def normal(path: str) -> str:
    """A path in one spelling, whatever is there; an address as it is."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path):
        return path
    return os.path.normpath(path).replace(os.sep, "/")


def below(path: str, root: str) -> str | None:
    """The rest of a path below a folder; None elsewhere."""
    start = root.rstrip("/") + "/"
    return path.removeprefix(start) if path.startswith(start) else None


def _turned(path: str) -> str:
    """The name first, then its folder, and so on: paths that end alike begin alike."""
    return "".join(f"{part}/" for part in reversed(path.split("/")))
