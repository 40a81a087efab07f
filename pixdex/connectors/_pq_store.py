"""One directory as one store: what makes it one, its SQLite connections, its transactions, its errors."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pixdex.connectors import _pq_sql
from pixdex.connectors._pq_lock import WriterLock
from pixdex.connectors._pq_segments import sync_directory
from pixdex.errors import (
    AccessDenied,
    NotFound,
    PixdexError,
    StoreError,
    StoreFormat,
    StoreFull,
    StoreLocked,
    StoreTimeout,
)

__all__ = ["Deadline", "Store"]

DATABASE, LOCK, SEGMENTS = "pixdex.sqlite", "pixdex.lock", "segments"
APPLICATION, VERSION = 0x70697864, 1  # "pixd"
LOCK_WAIT = 1.0
"""Seconds that a second writer waits at most before StoreLocked."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_OURS = frozenset({DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", LOCK, SEGMENTS})


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a call must stop: on the monotonic clock, None for never."""

    at: float | None

    @classmethod
    def after(cls, timeout: float | None) -> Deadline:
        """The deadline ``timeout`` seconds from now."""
        return cls(None if timeout is None else time.monotonic() + timeout)

    def left(self, most: float) -> float:
        """Seconds left, at most ``most``."""
        return most if self.at is None else max(0.0, min(most, self.at - time.monotonic()))

    def check(self) -> None:
        """Raise StoreTimeout when it has passed. Called between steps, never after a commit."""
        if self.at is not None and time.monotonic() > self.at:
            raise StoreTimeout("the embedded store ran out of time: allow more, or ask for less")


class Store:
    """A directory. Nothing is made before the first ``writing(create=True)``; reading needs no lock."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        self.path = path
        self.sync = sync
        self._idle: list[sqlite3.Connection] = []
        self._shared = True
        self._held: list[WriterLock] = []
        self._checked = False
        _STORES.add(self)
        weakref.finalize(self, _release, self._idle, self._held)  # a forgotten handle must not keep others from writing

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
        with self._translated():
            if not self._exists():
                raise NotFound(f"there is no store at {self.path} yet: it is made with its first collection")
            with self._transaction("BEGIN") as db:
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
        with self._translated():
            if not self._exists():
                if not create:
                    raise NotFound(f"there is no store at {self.path} yet: it is made with its first collection")
                self._make_directory()
            lock = self._lock()
            if not lock.turn.acquire(timeout=deadline.left(threading.TIMEOUT_MAX)):
                raise StoreTimeout(f"{self.path}: another thread was writing all the time")
            try:
                if lock.take(deadline.left(LOCK_WAIT)):
                    self._sweep()
                if create:
                    self._make_database()
                with self._transaction("BEGIN IMMEDIATE") as db:
                    yield db
            finally:
                lock.turn.release()

    def close(self) -> None:
        """Give back the connections and, with the last handle of this process, the writer's lock."""
        _release(self._idle, self._held)

    def release(self) -> None:
        """Give back the idle connections."""
        _release(self._idle, [])

    def forget(self) -> None:
        """Be a handle that never wrote: in a forked child, whose parent keeps the lock."""
        self._held.clear()

    def _lock(self) -> WriterLock:
        if not self._held:
            self._held.append(WriterLock.join(self.path / LOCK))
        return self._held[0]

    # --- the directory ------------------------------------------------------------------------------

    def _exists(self) -> bool:
        """Whether there is a finished store; something else in its place is refused, not touched."""
        if self._checked:
            if (self.path / DATABASE).exists():
                return True
            self._checked = False
            self.release()  # connections to a database that somebody removed
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            raise StoreFormat(f"{self.path} is a file, not a store: a store is a directory")
        entries = {entry.name for entry in self.path.iterdir()}
        if not entries <= _OURS and DATABASE not in entries:
            raise StoreFormat(f"{self.path} is a directory with other files in it, not a store: choose an empty one")
        if DATABASE not in entries or not (self.path / DATABASE).stat().st_size:
            return False
        with self._transaction("BEGIN") as db:
            self._checked = self._identified(db)
        return self._checked

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
        if self._exists():
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
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        try:
            db = self._idle.pop()
        except IndexError:
            db = self._connect()
        try:
            db.execute(begin)
            yield db
            db.execute("COMMIT")
        except BaseException:
            db.close()  # rolls back
            raise
        if self._shared:
            self._idle.append(db)
        else:
            db.close()  # it would not notice what others write

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
                if error.sqlite_errorcode & 0xFF not in _SQLITE_DENIED:
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
        if not self._exists():
            return
        with self._transaction("BEGIN") as db:
            known = {self.segment(vector) for (vector,) in db.execute("SELECT id FROM vectors")}
        for file in (self.path / SEGMENTS).glob("*.seg"):
            if file not in known:
                file.unlink(missing_ok=True)

    # --- errors -------------------------------------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The one boundary where SQLite's and the system's errors become pixdex's."""
        try:
            yield
        except PixdexError:
            raise
        except sqlite3.Error as error:
            raise self._from_sqlite(error) from error
        except OSError as error:
            raise self._from_system(error) from error

    def _from_system(self, error: OSError) -> StoreError:
        if error.errno in _FULL:
            return StoreFull(f"{self.path}: {error.strerror}; what was acknowledged is safe, free some space and go on")
        if error.errno in _DENIED:
            return AccessDenied(f"{self.path}: {error.strerror} ({error.filename})")
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            return StoreFormat(f"{self.path}: {error.strerror} ({error.filename})")
        return StoreError(f"{self.path}: {error}")

    def _from_sqlite(self, error: sqlite3.Error) -> StoreError:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF == sqlite3.SQLITE_FULL or code in _SQLITE_FULL:
            return StoreFull(f"{self.path}: {error}; what was acknowledged is safe, free some space and go on")
        if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreFormat(f"{self.path / DATABASE}: {error}; restore it from a copy")
        if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreLocked(f"{self.path}: {error}; another program holds the database")
        if code & 0xFF in _SQLITE_DENIED:
            return AccessDenied(f"{self.path}: {error}")
        return StoreError(f"{self.path}: {error}")


_SQLITE_DENIED = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
# Quotas and file size limits reach us as failed writes; only "no space" has a code of its own.
_SQLITE_FULL = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE})


def _release(idle: list[sqlite3.Connection], held: list[WriterLock]) -> None:
    while idle:
        idle.pop().close()
    while held:
        held.pop().leave()


_STORES: weakref.WeakSet[Store] = weakref.WeakSet()


def _before_fork() -> None:
    """SQLite connections must not be carried over a fork."""
    for store in list(_STORES):
        store.release()


def _in_child() -> None:
    for store in list(_STORES):
        store.forget()


os.register_at_fork(before=_before_fork, after_in_child=_in_child)
