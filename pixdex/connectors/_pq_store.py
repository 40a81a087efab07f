"""One directory as one store: what makes it one, its SQLite connections, its transactions, its errors."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from pixdex.connectors import _pq_sql
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._files import sync_directory
from pixdex.connectors._pq_errors import DATABASE, SQLITE_DENIED, translated
from pixdex.connectors._pq_lock import WriterLock
from pixdex.errors import AccessDenied, NotFound, StoreError, StoreFormat, StoreTimeout

__all__ = ["Store"]

LOCK, SEGMENTS = "pixdex.lock", "segments"
APPLICATION, VERSION = 0x70697864, 1  # "pixd"
LOCK_WAIT = 1.0
"""Seconds that a second writer waits at most before StoreLocked."""

_OURS = frozenset({DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", LOCK, SEGMENTS})

Place: TypeAlias = tuple[int, int]
"""Which file a database is: a path may be removed and made anew."""


class Store:
    """A directory. Nothing is made before the first ``writing(create=True)``; reading needs no lock."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        self.path = path
        self.sync = sync
        self.place: Place | None = None
        """The database that was found to be ours, last time."""
        self._idle: list[tuple[Place, sqlite3.Connection]] = []
        self._shared = True
        self._held: list[WriterLock] = []
        self._closed = False
        self._guard = threading.Lock()
        _STORES.add(self)
        # A forgotten handle must not keep others from writing.
        weakref.finalize(self, _forgotten, self._idle, self._held)

    def segment(self, vector: int) -> Path:
        """The file of a physical vector."""
        return self.path / SEGMENTS / f"{vector:016x}.seg"

    def remove(self, vector: int) -> None:
        """Remove the file of a vector that is gone from SQLite; what fails, the next writer sweeps."""
        with suppress(OSError):
            self.segment(vector).unlink()

    @contextmanager
    def reading(self, deadline: Deadline) -> Iterator[sqlite3.Connection]:
        """A snapshot: what is committed now, until the block ends.

        Raises:
            NotFound: there is no store here yet.
            StoreFormat: it is not a store, newer, or corrupt.
            AccessDenied: it may not be read.
        """
        with translated(self.path):
            self._refuse_closed()
            with self._transaction("BEGIN", self._required()) as db:
                deadline.check()
                yield db

    @contextmanager
    def writing(self, deadline: Deadline, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """The one write transaction: committed when the block ends, rolled back when it raises.

        Raises:
            NotFound: there is no store here yet, and ``create`` is off.
            StoreLocked: another process writes.
            StoreFull: no space; nothing of this transaction was written, nothing before it is lost.
            AccessDenied: it may not be written.
        """
        with translated(self.path):
            self._refuse_closed()
            if not create:
                self._required()
            elif self._found() is None:
                self._make_directory()
            lock = self._lock()
            if not lock.turn.acquire(timeout=deadline.left(threading.TIMEOUT_MAX)):
                raise StoreTimeout(f"{self.path}: another thread was writing all the time")
            try:
                self._refuse_closed()  # while it waited: nobody would give the lock back
                if lock.take(deadline.left(LOCK_WAIT)):
                    self._sweep()
                if create:
                    self._make_database()
                with self._transaction("BEGIN IMMEDIATE", self._required()) as db:
                    yield db
            finally:
                lock.turn.release()

    def knows(self, vector: int) -> bool:
        """Whether a vector is there now, whatever the caller's snapshot says."""
        place = self._found()
        if place is None:
            return False
        with self._transaction("BEGIN", place) as db:
            return db.execute("SELECT 1 FROM vectors WHERE id = ?", (vector,)).fetchone() is not None

    def close(self) -> None:
        """Give back the connections and, with the last handle of this process, the writer's lock. For good."""
        with self._guard:
            self._closed = True
        _release(self._idle, self._held)

    def release(self) -> None:
        """Give back the idle connections."""
        _release(self._idle, [])

    def forget(self) -> None:
        """Be a handle that never wrote: in a forked child, whose parent keeps the lock."""
        self._held.clear()
        self._guard = threading.Lock()  # a thread that the child lacks may have held it

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreError(f"pq://{self.path} is closed")

    def _lock(self) -> WriterLock:
        with self._guard:
            self._refuse_closed()
            if not self._held:
                self._held.append(WriterLock.join(self.path / LOCK))
            return self._held[0]

    # --- the directory ------------------------------------------------------------------------------

    def _required(self) -> Place:
        place = self._found()
        if place is None:
            raise NotFound(f"there is no store at {self.path} yet: it is made with its first collection")
        return place

    def _found(self) -> Place | None:
        """The finished store that is there now; something else in its place is refused, not touched."""
        place = _place(self.path / DATABASE)
        if place is not None and place == self.place:
            return place
        self.place = None
        self.release()  # connections to a database that somebody removed, and perhaps made anew
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            raise StoreFormat(f"{self.path} is a file, not a store: a store is a directory")
        entries = {entry.name for entry in self.path.iterdir()}
        if not entries <= _OURS and DATABASE not in entries:
            raise StoreFormat(f"{self.path} is a directory with other files in it, not a store: choose an empty one")
        if place is None or not (self.path / DATABASE).stat().st_size:
            return None
        with self._transaction("BEGIN", place) as db:
            if not self._identified(db):
                return None
        self.place = place
        return place

    def _identified(self, db: sqlite3.Connection) -> bool:
        """Whether the database is ours and finished; a crash while it was made leaves an empty one."""
        application, version = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application == 0 and not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            return False
        if application != APPLICATION:
            raise StoreFormat(f"{self.path / DATABASE} is a database of another program")
        if version > VERSION:
            raise StoreFormat(
                f"{self.path} was written by a newer pixdex (format {version}, this one reads {VERSION}): "
                "pip install -U pixdex"
            )
        return True

    def _make_directory(self) -> None:
        (self.path / SEGMENTS).mkdir(parents=True, exist_ok=True)
        if self.sync:
            sync_directory(self.path)
            sync_directory(self.path.resolve().parent)

    def _make_database(self) -> None:
        if self._found() is not None:
            return
        db = sqlite3.connect(self.path / DATABASE, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            statements = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
            db.executescript(f"BEGIN IMMEDIATE; {_pq_sql.STORE_SCHEMA} {statements} COMMIT;")
        finally:
            db.close()
        if self.sync:
            sync_directory(self.path)

    # --- connections --------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, begin: str, place: Place) -> Iterator[sqlite3.Connection]:
        db = self._pooled(place) or self._connect()
        try:
            db.execute(begin)
            yield db
            db.execute("COMMIT")
        except BaseException:
            db.close()  # rolls back
            raise
        if not self._shared:
            db.close()  # it would not notice what others write
            return
        self._idle.append((place, db))
        if self._closed:
            self.release()  # close() may have looked before

    def _pooled(self, place: Place) -> sqlite3.Connection | None:
        """An idle connection to the database at ``place``; one to another was given back after that was removed."""
        while True:
            try:
                known, db = self._idle.pop()
            except IndexError:
                return None
            if known == place:
                return db
            db.close()

    def _connect(self) -> sqlite3.Connection:
        """Read-write, so that the log can be shared; what that is denied is opened to read."""
        denied: sqlite3.OperationalError | None = None
        for mode in ("mode=rw", "mode=ro", "immutable=1"):
            if mode == "immutable=1" and self._has_log():
                break  # without the log, acknowledged records would be missing
            db = sqlite3.connect(
                f"{(self.path / DATABASE).absolute().as_uri()}?{mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,  # one thread at a time: that is what the list of idle ones is for
                timeout=10.0,
            )
            try:
                db.execute(f"PRAGMA synchronous = {'FULL' if self.sync else 'NORMAL'}")
                db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            except sqlite3.OperationalError as error:
                db.close()
                if error.sqlite_errorcode & 0xFF not in SQLITE_DENIED:
                    raise
                denied = error
                continue
            _pq_sql.register(db)
            self._shared = mode != "immutable=1"
            return db
        if not (self.path / DATABASE).exists():
            raise NotFound(f"the store at {self.path} is gone") from denied
        raise AccessDenied(
            f"{self.path}: {denied}; reading a store that was not closed needs write permission"
        ) from denied

    def _has_log(self) -> bool:
        log = self.path / f"{DATABASE}-wal"
        return log.exists() and log.stat().st_size > 0

    def _sweep(self) -> None:
        """Remove the files of vectors that were dropped when a crash came between."""
        place = self._found()
        if place is None:
            return
        with self._transaction("BEGIN", place) as db:
            known = {self.segment(vector) for (vector,) in db.execute("SELECT id FROM vectors")}
        for file in (self.path / SEGMENTS).glob("*.seg"):
            if file not in known:
                file.unlink(missing_ok=True)


def _place(file: Path) -> Place | None:
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _release(idle: list[tuple[Place, sqlite3.Connection]], held: list[WriterLock]) -> None:
    while idle:
        with suppress(IndexError):  # a thread was faster
            idle.pop()[1].close()
    while held:
        held.pop().leave()


def _forgotten(idle: list[tuple[Place, sqlite3.Connection]], held: list[WriterLock]) -> None:
    """Release what nobody closed: in the garbage collector or at exit, where an error would only be noise."""
    with suppress(Exception):
        _release(idle, held)


_STORES: weakref.WeakSet[Store] = weakref.WeakSet()


def _before_fork() -> None:
    """SQLite connections must not be carried over a fork."""
    for store in list(_STORES):
        store.release()


def _in_child() -> None:
    for store in list(_STORES):
        store.forget()


os.register_at_fork(before=_before_fork, after_in_child=_in_child)
