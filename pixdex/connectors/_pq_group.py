"""Group commit: writers of one process that wait for each other share a transaction, and what forcing it to the disk
costs.

The first of a group begins the transaction, each further one runs under a savepoint, and who finds nobody waiting commits
it. So a lone writer commits at once, and many threads with small writes pay for one fsync together. Each returns only
after the commit: acknowledged means on the disk, as without a group.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex.errors import StoreError

if TYPE_CHECKING:
    from pixdex.connectors._pq_schema import Connection

__all__ = ["Group"]

_MOST = 64
"""Writers that share a transaction."""
_LONGEST = 0.02
"""Seconds that the first of them may wait for more."""


class Group:
    """An open write transaction on ``db``, which nobody else uses meanwhile.

    Attributes:
        owner: whose it is; only that may join.
        unforced: files written under it and folders with new ones, which have to be on the disk before it counts; how
            many bytes the files had, None for a folder.

    Args:
        done_with: takes the connection back after the commit; one whose transaction failed is closed.
    """

    def __init__(self, db: Connection, owner: object, done_with: Callable[[Connection], None]) -> None:
        self.owner = owner
        self.unforced: dict[Path, int | None] = {}
        self._db = db
        self._done_with = done_with
        self._until = time.monotonic() + _LONGEST
        self._members = 0
        self._ended = threading.Event()
        self._error: BaseException | None = None
        db.execute("BEGIN IMMEDIATE")
        self._known, db.known = db.known, {}  # what a snapshot of ours finds may never be committed

    @property
    def ended(self) -> bool:
        """Whether it was committed, or failed."""
        return self._ended.is_set()

    @property
    def full(self) -> bool:
        """Whether those in it should not wait for more."""
        return self._members >= _MOST or time.monotonic() > self._until

    @contextmanager
    def member(self) -> Iterator[Connection]:
        """One writer's part: what it raises undoes this part alone."""
        self._members += 1
        first = self._members == 1
        try:
            if not first:
                self._db.execute("SAVEPOINT member")
            yield self._db
            if not first:
                self._db.execute("RELEASE member")
        except BaseException as error:
            if first or not self._undone():
                self._end(error)
            raise

    def _undone(self) -> bool:
        """Whether the last part could be taken back; SQLite gives the whole transaction up where the disk is full."""
        self._db.known = {}
        try:
            self._db.execute("ROLLBACK TO member")
            self._db.execute("RELEASE member")
        except sqlite3.Error:
            return False
        return True

    def commit(self) -> None:
        """Bring everything to the disk, in the right order. What goes wrong, ``wait`` raises for each."""
        if self.ended:
            return
        error: BaseException | None = None
        try:
            self._force()
            self._db.execute("COMMIT")
            self._db.known = self._known
        except BaseException as caught:
            error = caught
            if not isinstance(caught, Exception):
                raise
        finally:
            self._end(error)

    def _force(self) -> None:
        try:
            for path in self.unforced:
                _fsync(path)
        except OSError:
            self._shrink()
            raise

    def _shrink(self) -> None:
        """On a full disk, give back what was taken. Never once the commit has begun: it may count by then."""
        for path, size in self.unforced.items():
            if size is not None:
                with suppress(OSError):
                    os.truncate(path, size)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        try:
            if error is None:
                self._done_with(self._db)
            else:
                self._db.close()  # rolls back
        finally:
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Whether it ended within so many seconds.

        Raises:
            Exception: what kept it from being committed.
        """
        if not self._ended.wait(seconds):
            return False
        if isinstance(self._error, Exception):
            raise self._error
        if self._error is not None:
            raise StoreError("a write that this one shared a transaction with was broken off: write again")
        return True


def _fsync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
