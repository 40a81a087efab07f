"""One directory as one store: what makes it one, its SQLite connections, its transactions, its errors."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pixdex.connectors import _pq_schema, _pq_sql
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._files import sync_directory
from pixdex.connectors._pq_errors import DATABASE, SQLITE_DENIED, Translated
from pixdex.connectors._pq_group import Group
from pixdex.connectors._pq_lock import WriterLock
from pixdex.connectors._pq_schema import VERSION, Connection
from pixdex.errors import AccessDenied, NotFound, StoreError, StoreFormat, StoreLocked, StoreTimeout

if TYPE_CHECKING:
    from pixdex.connectors._pq_records import Snapshot

__all__ = ["Store"]

LOCK, SEGMENTS, DERIVED = "pixdex.lock", "segments", "derived"
APPLICATION = 0x70697864  # "pixd"
LOCK_WAIT = 1.0
"""Seconds that a second writer waits at most before StoreLocked."""
_NUDGE = 0.05
"""Seconds after which a writer that waits for others to commit looks whether it has to."""

_OURS = frozenset({DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", LOCK, SEGMENTS, DERIVED})
_MAPPED, _CACHED = 256 << 20, 8 << 20
"""Bytes of the database that a connection maps, and keeps of what cannot be mapped."""
_FREE = 5
"""One free page in so many is worth making the database anew."""

Place: TypeAlias = tuple[int, int]
"""Which file a database is: a path may be removed and made anew."""


class Store:
    """A directory. Nothing is made before the first ``writing(create=True)``; reading needs no lock."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        self.path = path
        self.sync = sync
        self.place: Place | None = None
        """The database that was found to be ours, last time."""
        self.translated = Translated(path)
        self._database = str(path / DATABASE)
        self._idle: list[tuple[Place, Connection]] = []
        self._known: dict[int, Snapshot] = {}
        self._shared = True
        self._held: list[WriterLock] = []
        self._closed = False
        self._guard = threading.Lock()
        _STORES.add(self)
        # A forgotten handle must not keep others from writing.
        weakref.finalize(self, _forgotten, self._idle, self._held)

    @property
    def derived(self) -> Path:
        """The folder of what can be made anew; the writer makes it. Names start with the number of a segment file."""
        return self.path / DERIVED

    def segment(self, file: int) -> Path:
        """The segment file of that number."""
        return self.path / SEGMENTS / f"{file:016x}.seg"

    def remove(self, file: int) -> None:
        """Remove a segment file that is gone from SQLite, and what was derived from it; what fails, the next writer
        sweeps.
        """
        with suppress(OSError):
            self.segment(file).unlink()
            for derived in self.derived.glob(f"{file:016x}.*"):
                derived.unlink()

    def reading(self, deadline: Deadline) -> _Reading:
        """A snapshot: what is committed now, until the block ends.

        Raises:
            NotFound: there is no store here yet.
            StoreFormat: it is not a store, newer, or corrupt.
            AccessDenied: it may not be read.
        """
        return _Reading(self, deadline)

    @contextmanager
    def writing(self, deadline: Deadline, *, create: bool = False, alone: bool = False) -> Iterator[Connection]:
        """The one write transaction: committed when the block has ended, rolled back when it raises.

        Threads that wait for each other share it, unless one has to be ``alone``: what it reads is then committed.

        Raises:
            NotFound: there is no store here yet, and ``create`` is off.
            StoreLocked: another process writes.
            StoreFull: no space; nothing of this transaction was written, nothing before it is lost.
            AccessDenied: it may not be written.
        """
        with self.translated:
            self.refuse_closed()
            if not create:
                self.required()
            elif self._found() is None:
                self._make_directory()
            with self._turn(deadline) as lock:
                if alone:
                    lock.end_group()
                if create:
                    self._make_database()
                group = self._group(lock)
                with group.member() as db:
                    yield db
                if alone:
                    lock.end_group()
            while not group.wait(_NUDGE):
                with lock.in_turn(0):  # those who were to join it gave up: who leaves commits
                    pass

    @contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[WriterLock]:
        """The one thread of the one process that may write."""
        lock = self._lock()
        with lock.in_turn(deadline.left(threading.TIMEOUT_MAX)) as held:
            if not held:
                raise StoreTimeout(f"{self.path}: another thread was writing all the time")
            self.refuse_closed()  # while it waited: nobody would give the lock back
            if lock.take(deadline.left(LOCK_WAIT)):
                self.derived.mkdir(exist_ok=True)
                self._sweep()
            yield lock

    def _group(self, lock: WriterLock) -> Group:
        """The open transaction where it is this handle's and of the database that is there now, else a new one. Other
        handles of this process have connections of their own, perhaps such as don't force anything to the disk.
        """
        group, place = lock.group, self.required()
        owner = (self, place)
        if group is None or group.ended or group.owner != owner:
            lock.end_group()
            group = lock.group = Group(self.connection(place), owner, partial(self.give_back, place))
        return group

    def force(self, path: Path, *, size: int | None = None) -> None:
        """Have a file, or the names in a folder, on the disk before the transaction under way is committed; the file is cut
        to ``size`` bytes if that fails.
        """
        if self.sync and self._held and self._held[0].group is not None:
            self._held[0].group.unforced.setdefault(path, size)

    def size(self) -> int:
        """Bytes of all files."""
        sizes = 0
        for file in self.path.rglob("*"):
            with suppress(OSError):  # it went meanwhile
                sizes += file.stat().st_size
        return sizes

    def tidy(self, deadline: Deadline) -> None:
        """Give back pages that SQLite does not need, when they are many and there is room to make the database anew."""
        with self.translated, self._turn(deadline) as lock:
            lock.end_group()
            place = self.required()
            db = self.connection(place)
            try:
                pages, free, size = (
                    db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
                )
                if free * _FREE > pages and shutil.disk_usage(self.path).free > 2 * pages * size:
                    db.execute("VACUUM")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except BaseException:
                db.close()
                raise
            self.give_back(place, db)

    def file_of(self, vector: int) -> int | None:
        """Which segment file a vector has now, whatever the caller's snapshot says; None when it is gone."""
        place = self._found()
        if place is None:
            return None
        with self._transaction("BEGIN", place) as db:
            found = db.execute("SELECT file FROM vectors WHERE id = ?", (vector,)).fetchone()
            return found[0] if found else None

    def close(self) -> None:
        """Give back the connections and, with the last handle of this process, the writer's lock. For good."""
        with self._guard:
            self._closed = True
        _release(self._idle, self._held)

    def release(self) -> None:
        """Give back the idle connections, and look again at what is there: nothing keeps it from being exchanged."""
        self.place = None
        self._known = {}
        _release(self._idle, [])

    def forget(self) -> None:
        """Be a handle that never wrote: in a forked child, whose parent keeps the lock."""
        self._held.clear()
        self._guard = threading.Lock()  # a thread that the child lacks may have held it

    def refuse_closed(self) -> None:
        """Raise StoreError when the store was closed."""
        if self._closed:
            raise StoreError(f"pq://{self.path} is closed")

    def _lock(self) -> WriterLock:
        with self._guard:
            self.refuse_closed()
            if not self._held:
                self._held.append(WriterLock.join(self.path / LOCK))
            return self._held[0]

    # --- the directory ------------------------------------------------------------------------------

    def required(self) -> Place:
        """The finished store that is there now. Raises NotFound."""
        place = self._found()
        if place is None:
            raise NotFound(f"there is no store at {self.path} yet: it is made with its first collection")
        return place

    def _found(self) -> Place | None:
        """The finished store that is there now; something else in its place is refused, not touched."""
        place = _place(self._database)
        if place is not None and place == self.place:
            return place
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
            version = self._version(db)
        if not version:
            return None
        if version < VERSION:
            self._upgrade(place)
        self.place = place
        return place

    def _version(self, db: Connection) -> int:
        """The format of the database; 0 when it is empty, as a crash while it was made leaves it."""
        application, version = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application == 0 and not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            return 0
        if application != APPLICATION:
            raise StoreFormat(f"{self.path / DATABASE} is a database of another program")
        if version > VERSION:
            raise StoreFormat(
                f"{self.path} was written by a newer pixdex (format {version}, this one reads {VERSION}): "
                "pip install -U pixdex"
            )
        return int(version)

    def _upgrade(self, place: Place) -> None:
        """Make a store of an older format one of this; who comes first does, reader or writer."""
        lock = WriterLock.join(self.path / LOCK)
        try:
            with lock.holding(LOCK_WAIT), self._transaction("BEGIN IMMEDIATE", place) as db:
                _pq_schema.upgrade(db, self._version(db))
        except (AccessDenied, StoreLocked, sqlite3.OperationalError, PermissionError) as error:
            raise StoreFormat(
                f"{self.path} was written by an older pixdex and could not be upgraded ({error}): open it once where "
                "it may be written and nobody else writes"
            ) from error
        finally:
            lock.leave()

    def _make_directory(self) -> None:
        for folder in (SEGMENTS, DERIVED):
            (self.path / folder).mkdir(parents=True, exist_ok=True)
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
            db.executescript(f"BEGIN IMMEDIATE; {_pq_schema.STORE_SCHEMA} {statements} COMMIT;")
        finally:
            db.close()
        if self.sync:
            sync_directory(self.path)

    # --- connections --------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, begin: str, place: Place) -> Iterator[Connection]:
        db = self.connection(place)
        try:
            db.execute(begin)
            yield db
            db.execute("COMMIT")
        except BaseException:
            db.close()  # rolls back
            raise
        self.give_back(place, db)

    def connection(self, place: Place) -> Connection:
        """An idle or a new connection to the database at ``place``."""
        return self._pooled(place) or self._connect(place)

    def give_back(self, place: Place, db: Connection) -> None:
        """Take back a connection that is outside of a transaction."""
        if not self._shared:
            db.close()  # it would not notice what others write
            return
        self._idle.append((place, db))
        if self._closed:
            self.release()  # close() may have looked before

    def _pooled(self, place: Place) -> Connection | None:
        """An idle connection to the database at ``place``; one to another was given back after that was removed."""
        while True:
            try:
                known, db = self._idle.pop()
            except IndexError:
                return None
            if known == place:
                return db
            db.close()

    def _connect(self, place: Place) -> Connection:
        """Read-write, so that the log can be shared; what that is denied is opened to read."""
        denied: sqlite3.OperationalError | None = None
        for mode in ("mode=rw", "mode=ro", "immutable=1"):
            if mode == "immutable=1" and self._has_log():
                break  # without the log, acknowledged records would be missing
            db = sqlite3.connect(
                f"{(self.path / DATABASE).absolute().as_uri()}?{mode}",
                factory=Connection,
                uri=True,
                isolation_level=None,
                check_same_thread=False,  # one thread at a time: that is what the list of idle ones is for
                timeout=10.0,
            )
            try:
                db.execute(f"PRAGMA synchronous = {'FULL' if self.sync else 'NORMAL'}")
                db.execute(f"PRAGMA mmap_size = {_MAPPED}")
                db.execute(f"PRAGMA cache_size = {-(_CACHED >> 10)}")
                db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            except sqlite3.OperationalError as error:
                db.close()
                if error.sqlite_errorcode & 0xFF not in SQLITE_DENIED:
                    raise
                denied = error
                continue
            _pq_sql.register(db)
            self._shared = mode != "immutable=1"
            # Not when the file was exchanged meanwhile: what is known is of one database.
            db.known = self._known if self._shared and _place(self._database) == place else {}
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
        """Remove the files of vectors that were dropped or compacted when a crash came between."""
        place = self._found()
        if place is None:
            return
        with self._transaction("BEGIN", place) as db:
            known = {f"{file:016x}" for (file,) in db.execute("SELECT file FROM vectors")}
        for file in (*(self.path / SEGMENTS).glob("*.seg"), *self.derived.iterdir()):
            if file.name.partition(".")[0] not in known:
                file.unlink(missing_ok=True)


class _Reading:
    """A read transaction. A class, since generators cost each search microseconds."""

    __slots__ = ("_db", "_deadline", "_place", "_store")

    def __init__(self, store: Store, deadline: Deadline) -> None:
        self._store = store
        self._deadline = deadline

    def __enter__(self) -> Connection:
        with self._store.translated:
            self._store.refuse_closed()
            self._place = self._store.required()
            self._db = self._store.connection(self._place)
            try:
                self._db.execute("BEGIN")
                self._deadline.check()
            except BaseException:
                self._db.close()
                raise
            return self._db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        translated = self._store.translated
        if error is not None:
            self._db.close()  # rolls back
            translated.__exit__(kind, error, trace)
            return
        with translated:
            try:
                self._db.execute("COMMIT")
            except BaseException:
                self._db.close()
                raise
            self._store.give_back(self._place, self._db)


def _place(file: str) -> Place | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - in each read, and a Path costs as much again
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _release(idle: list[tuple[Place, Connection]], held: list[WriterLock]) -> None:
    while idle:
        with suppress(IndexError):  # a thread was faster
            idle.pop()[1].close()
    while held:
        held.pop().leave()


def _forgotten(idle: list[tuple[Place, Connection]], held: list[WriterLock]) -> None:
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
