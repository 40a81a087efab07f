"""A database for what is put side by side once: in memory while it is small, else where the system keeps temporary files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from pixdex.errors import StoreFull

__all__ = ["scratch"]

_NO_ROOM = ("full", "disk I/O", "unable to open")
"""What SQLite says where a disk has no room, a quota is used up, or no folder takes temporary files."""


@contextmanager
def scratch(tables: str) -> Iterator[sqlite3.Connection]:
    """The database with these tables; it is gone afterwards.

    Raises:
        StoreFull: no room for it.
    """
    db = sqlite3.connect("", isolation_level=None)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-32000", "temp_store=FILE"):
            db.execute(f"PRAGMA {pragma}")
        db.executescript(tables)
        yield db
    except sqlite3.OperationalError as error:
        if not any(what in str(error) for what in _NO_ROOM):
            raise
        raise StoreFull("no room for temporary files: free some, or let TMPDIR name another folder") from error
    finally:
        db.close()
