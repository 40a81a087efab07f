"""The ids of what the second store of a mirror has not taken: in a small SQLite file, so that a program which goes on later
knows them too.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["Missed"]

_log = logging.getLogger("pixdex.connectors.mirror")

_TABLE = "CREATE TABLE IF NOT EXISTS missed (collection TEXT, id TEXT, PRIMARY KEY (collection, id)) WITHOUT ROWID"


class Missed:
    """Ids by collection, in ``file`` or in memory. A file that can't be used is no reason to fail a write: what it does not take is
    counted and told, and known to nobody later.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._uncounted = 0
        self._db = _opened(file)

    def add(self, collection: str, ids: Iterable[str]) -> None:
        """The second store is about to get these, or did not take them."""
        rows = [(collection, record) for record in ids]
        if not self._done("INSERT OR IGNORE INTO missed VALUES (?, ?)", rows):
            self._uncounted += len(rows)

    def remove(self, collection: str, ids: Iterable[str]) -> None:
        """The second store has taken these."""
        self._done("DELETE FROM missed WHERE collection = ? AND id = ?", [(collection, record) for record in ids])

    def forget(self, collection: str) -> None:
        """There is no such collection any more."""
        self._done("DELETE FROM missed WHERE collection = ?", [(collection,)])

    def page(self, collection: str, after: str, size: int) -> list[str]:
        """The next ids after one, in order."""
        sql = "SELECT id FROM missed WHERE collection = ? AND id > ? ORDER BY id LIMIT ?"
        with self._lock:
            return [row[0] for row in self._db.execute(sql, (collection, after, size))]

    def count(self) -> int:
        """How many there are, of all collections."""
        try:
            with self._lock:
                return int(self._db.execute("SELECT count(*) FROM missed").fetchone()[0]) + self._uncounted
        except sqlite3.Error:  # closed, or of no use
            return self._uncounted

    def close(self) -> None:
        """Let go of the file."""
        self._uncounted = self.count()
        self._db.close()

    def _done(self, sql: str, rows: Sequence[tuple[str, ...]]) -> bool:
        try:
            with self._lock, self._db:
                self._db.executemany(sql, rows)
        except sqlite3.Error as error:
            _log.warning("mirror: what the second store misses cannot be remembered: %s", error)
            return False
        return True


def _opened(file: Path | None) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(":memory:" if file is None else file, check_same_thread=False)
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
