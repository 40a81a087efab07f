"""The ids of what the second store of a mirror has not taken: in a small SQLite file, so that a program which goes on later
knows them too.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["Missed"]

_log = logging.getLogger("pixdex.connectors.mirror")

_TABLE = """CREATE TABLE IF NOT EXISTS missed_writes (
    collection TEXT, id TEXT, mark INTEGER NOT NULL, PRIMARY KEY (collection, id)
) WITHOUT ROWID"""


class Missed:
    """Ids by collection, in ``file`` or for this object only. A file that can't be used is no reason to fail a write: what it does
    not take is counted and told, and known to nobody later.

    Each id has the mark of the write that came last, of whichever program, so that none takes back what another one has to say.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._uncounted = 0
        self._db = _opened(file)

    def expect(self, collection: str, ids: Iterable[str]) -> Mapping[str, int]:
        """The second store is about to get these; id -> mark."""
        marks = dict.fromkeys(ids, secrets.randbits(62))
        self._keep(collection, marks)
        return marks

    def add(self, collection: str, ids: Iterable[str]) -> None:
        """The second store did not take these."""
        marks = dict.fromkeys(ids, secrets.randbits(62))
        if not self._keep(collection, marks):
            self._uncounted += len(marks)

    def remove(self, collection: str, marks: Mapping[str, int]) -> None:
        """The second store has taken these. Where another program has written some of them meanwhile, which of the two came last may
        differ from store to store: they are missed still.
        """
        rows = [(collection, record, mark) for record, mark in marks.items()]
        removed = self._done("DELETE FROM missed_writes WHERE collection = ? AND id = ? AND mark = ?", rows)
        if removed is not None and removed < len(rows):
            self.add(collection, marks)

    def forget(self, collection: str) -> None:
        """There is no such collection any more."""
        self._done("DELETE FROM missed_writes WHERE collection = ?", [(collection,)])

    def page(self, collection: str, after: str, size: int) -> dict[str, int]:
        """The next ids after one, in order, with their marks."""
        sql = "SELECT id, mark FROM missed_writes WHERE collection = ? AND id > ? ORDER BY id LIMIT ?"
        try:
            with self._lock:
                return dict(self._db.execute(sql, (collection, after, size)).fetchall())
        except sqlite3.Error as error:
            _log.warning("mirror: what the second store misses cannot be read: %s", error)
            return {}

    def count(self) -> int:
        """How many there are, of all collections."""
        try:
            with self._lock:
                return int(self._db.execute("SELECT count(*) FROM missed_writes").fetchone()[0]) + self._uncounted
        except sqlite3.Error:  # closed, or of no use
            return self._uncounted

    def close(self) -> None:
        """Let go of the file."""
        self._uncounted = self.count()
        self._db.close()

    def _keep(self, collection: str, marks: Mapping[str, int]) -> bool:
        rows = [(collection, record, mark) for record, mark in marks.items()]
        return self._done("INSERT OR REPLACE INTO missed_writes VALUES (?, ?, ?)", rows) is not None

    def _done(self, sql: str, rows: Sequence[tuple[str | int, ...]]) -> int | None:
        """How many rows were changed; None where that could not be."""
        try:
            with self._lock, self._db:
                return self._db.executemany(sql, rows).rowcount if rows else 0
        except sqlite3.Error as error:
            _log.warning("mirror: what the second store misses cannot be remembered: %s", error)
            return None


def _opened(file: Path | None) -> sqlite3.Connection:
    try:
        # Without a file it is in memory while it is small, else where the system keeps temporary files.
        db = sqlite3.connect("" if file is None else file, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # a power cut may take the last rows; a kill takes none
            with db:
                db.execute(_TABLE)
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as error:
        _log.warning(
            "mirror: what the second store misses is known to this program only, %s cannot be used: %s", file, error
        )
        return _opened(None)
    return db
