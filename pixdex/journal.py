"""What became of each picture of a collection, kept on this machine: one row a picture, in a small SQLite file.

The collection is the truth of what it holds; this is what it cannot say: what failed and why, what was seen in which run,
and the content hashes of files that have not changed since, so that going on after a kill reads no file again that was
hashed before. Losing the file loses nothing but that.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pixdex._state import job_file, locked
from pixdex.errors import ConfigError, StoreError, StoreFull
from pixdex.report import Entry, Stamp, Status

__all__ = ["Journal", "counts", "journal_of", "read"]

_VERSION = 4
_RACY_NS = 2_000_000_000
"""A file that was changed so shortly before it was hashed may have been changed again within the clock's grain."""
_PAGE = 1000
_SCHEMA = """
CREATE TABLE pictures (
    id TEXT PRIMARY KEY, label TEXT NOT NULL, status TEXT NOT NULL, reason TEXT, content TEXT, size INTEGER,
    mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER, how TEXT, run INTEGER NOT NULL, attempts INTEGER NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX pictures_status ON pictures (status);
CREATE TABLE runs (run INTEGER PRIMARY KEY, encoder TEXT NOT NULL, begun REAL NOT NULL, ended REAL);
CREATE TABLE mounts (place BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE planned (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_SINCE = {
    1: "ALTER TABLE pictures ADD COLUMN inode INTEGER;",
    2: "CREATE TABLE mounts (place BLOB PRIMARY KEY) WITHOUT ROWID;",
    3: "CREATE TABLE planned (id TEXT PRIMARY KEY) WITHOUT ROWID;",
}
"""What makes of a file of that version one of the next."""


def journal_of(url: str) -> Path:
    """The file of the journal of a collection: one a collection on this machine."""
    return job_file("journal", url)


class Journal:
    """The journal in a file, and one run of a job that writes it. A context that ends the run; one job at a time.

    ``how`` is what makes other content of the same file (``Decoding``): only hashes made so are known. ``kept_before``: a run
    came to its end before this one, so that the journal has met what is added from this machine.

    Raises:
        StoreLocked: another process adds to this collection.
        ConfigError: the file is no journal, or of a newer pixdex.
        StoreFull: no room for it.
        StoreError: it cannot be written for another reason.
    """

    def __init__(self, file: Path, *, encoder: str, how: str = "") -> None:
        self.file = file
        self._how = how
        self._mutex = threading.Lock()
        self._held = locked(file)
        self._held.__enter__()
        try:
            self._db = _opened(file)
            with self._writing() as db:
                self.kept_before = bool(db.execute("SELECT 1 FROM runs WHERE ended IS NOT NULL LIMIT 1").fetchone())
                row = db.execute("INSERT INTO runs (encoder, begun) VALUES (?, ?)", (encoder, time.time()))
                self.run = int(row.lastrowid or 0)
        except BaseException:
            self._held.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._writing() as db:
                    db.execute("UPDATE runs SET ended = ? WHERE run = ?", (time.time(), self.run))
        finally:
            self._db.close()
            self._held.__exit__(None, None, None)

    def known(self, record: str, stamp: Stamp | None) -> str | None:
        """The content hash of a file that looks as it did when it was hashed; None when it has to be read."""
        if stamp is None:
            return None
        try:
            with self._mutex:
                row = self._db.execute(
                    "SELECT content, at FROM pictures WHERE id = ? AND how = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?"
                    " AND inode = ?",
                    (record, self._how, stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode),
                ).fetchone()
        except sqlite3.DatabaseError:  # it is no picture's fault, and told when something is to be recorded
            return None
        if row is None or row[0] is None:
            return None
        newest = max(stamp.mtime_ns, stamp.ctime_ns)
        return str(row[0]) if newest + _RACY_NS < row[1] * 1e9 else None

    def plan(self, ids: Sequence[str]) -> None:
        """Records of these are about to be written: whoever is killed before it says what became of them has met them all the same."""
        with self._writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO planned SELECT value FROM json_each(?)"
                " WHERE NOT EXISTS (SELECT 1 FROM pictures WHERE id = value AND status <> ?)",
                (json.dumps(ids), Status.REMOVED),
            )

    def planned(self) -> list[str]:
        """Those that were about to be written and of which nobody knows what became."""
        with self._mutex, _told(self.file):
            return [row[0] for row in self._db.execute("SELECT id FROM planned ORDER BY id")]

    def record(self, entries: Sequence[Entry]) -> None:
        """Keep what became of pictures, all or none; called when the collection has acknowledged them."""
        now = time.time()
        rows = []
        for entry in entries:
            stamp = entry.stamp
            marks = (None,) * 4 if stamp is None else (stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode)
            rows.append(
                (
                    entry.id,
                    entry.label,
                    entry.status,
                    entry.reason,
                    entry.content,
                    *marks,
                    self._how,
                    self.run,
                    entry.at or now,
                )
            )
        with self._writing() as db:
            db.executemany(
                "INSERT INTO pictures (id, label, status, reason, content, size, mtime_ns, ctime_ns, inode, how, run, at, attempts)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (id) DO UPDATE SET label = excluded.label,"
                " attempts = CASE WHEN status = 'failed' AND excluded.status = 'failed' THEN attempts + 1 ELSE 1 END, status = excluded.status,"
                " reason = excluded.reason, content = excluded.content, size = excluded.size,"
                " mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, inode = excluded.inode, how = excluded.how,"
                " run = excluded.run, at = excluded.at",
                rows,
            )
            db.executemany("DELETE FROM planned WHERE id = ?", [(entry.id,) for entry in entries])

    def seen(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that this run has come by."""
        return self._among(ids, "pictures WHERE run = ?", self.run)

    def met(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that some run has come by, and that were not removed since."""
        wanted = list(ids)
        return self._among(wanted, "pictures WHERE status <> ?", Status.REMOVED) | self._among(
            wanted, "planned WHERE id <> ?", ""
        )

    def _among(self, ids: Iterable[str], rows_where: str, value: object) -> set[str]:
        found: set[str] = set()
        wanted = list(ids)
        with self._mutex, _told(self.file):
            for start in range(0, len(wanted), _PAGE):
                piece = wanted[start : start + _PAGE]
                rows = self._db.execute(
                    f"SELECT id FROM {rows_where} AND id IN (SELECT value FROM json_each(?))",  # noqa: S608
                    (value, json.dumps(piece)),
                )
                found.update(row[0] for row in rows)
        return found

    def mounts(self) -> list[str]:
        """The folders that drives were mounted at when a sync last came by."""
        with self._mutex, _told(self.file):
            return [os.fsdecode(row[0]) for row in self._db.execute("SELECT place FROM mounts ORDER BY place")]

    def keep_mounts(self, folders: Sequence[Path], places: Iterable[str]) -> None:
        """Of what is in these folders, drives are mounted at these places, and at no others."""
        old = [place for place in self.mounts() if {Path(place), *Path(place).parents}.intersection(folders)]
        with self._writing() as db:
            db.executemany("DELETE FROM mounts WHERE place = ?", [(os.fsencode(place),) for place in old])
            db.executemany("INSERT OR IGNORE INTO mounts VALUES (?)", [(os.fsencode(place),) for place in places])

    def entries(self, *statuses: Status) -> Iterator[Entry]:
        """The rows of these statuses (all, without any), by id."""
        yield from _entries(self._db, self.file, statuses)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, _told(self.file), self._db:
            yield self._db


def counts(file: Path) -> Mapping[Status, int]:
    """How many pictures a journal has of each status; empty where there is none."""
    if not file.is_file():
        return {}
    db = _opened(file)
    try:
        with _told(file):
            rows = db.execute("SELECT status, count(*) FROM pictures GROUP BY status ORDER BY status")
            return {Status(status): count for status, count in rows}
    finally:
        db.close()


def read(file: Path, *statuses: Status) -> list[Entry]:
    """The rows of a journal that nobody needs to have open, by id."""
    if not file.is_file():
        return []
    db = _opened(file)
    try:
        return list(_entries(db, file, statuses))
    finally:
        db.close()


def _entries(db: sqlite3.Connection, file: Path, statuses: Sequence[Status]) -> Iterator[Entry]:
    wanted = statuses or tuple(Status)
    marks = ", ".join("?" * len(wanted))
    after = ""
    while True:  # page by page, so that rows may be written meanwhile
        with _told(file):
            rows = db.execute(
                "SELECT id, label, status, reason, content, size, mtime_ns, ctime_ns, inode, attempts, at FROM pictures"  # noqa: S608
                f" WHERE status IN ({marks}) AND id > ? ORDER BY id LIMIT {_PAGE}",
                (*wanted, after),
            ).fetchall()
        for record, label, status, reason, content, size, mtime, ctime, inode, attempts, at in rows:
            yield Entry(
                id=record,
                label=label,
                status=Status(status),
                reason=reason,
                content=content,
                stamp=None if size is None else Stamp(size, mtime, ctime, inode or 0),
                attempts=attempts,
                at=at,
            )
        if len(rows) < _PAGE:
            return
        after = rows[-1][0]


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Errors of SQLite on a journal as pixdex says them."""
    try:
        yield
    except (
        sqlite3.OperationalError
    ) as error:  # full, locked, may not be written: there is nothing wrong with what it holds
        if "full" in str(error) or "disk I/O" in str(error):
            raise StoreFull(
                f"the journal {file} cannot be written ({error}): make room, or let PIXDEX_STATE name another folder; what was "
                "added before is in the collection, and the same command goes on"
            ) from error
        raise StoreError(f"the journal {file} cannot be written: {error}") from error
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"{file} is not a journal that can be read ({error}): remove it; nothing is lost but the reasons of failures"
        ) from error


def _opened(file: Path) -> sqlite3.Connection:
    with _told(file):
        db = sqlite3.connect(file, check_same_thread=False)
        try:
            _made_ready(db, file)
        except BaseException:
            db.close()
            raise
    return db


def _made_ready(db: sqlite3.Connection, file: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # a power cut may take the last rows, which are made again
    if _version(db) < _VERSION:
        _made_anew(db)
    version = _version(db)
    if version > _VERSION:
        raise ConfigError(f"{file} is of a newer pixdex: version {version}, this one knows {_VERSION}")
    try:
        os.chmod(file, 0o600)  # noqa: PTH101 - paths of pictures are the owner's own
    except OSError as error:
        raise ConfigError(f"{file} cannot be opened: {error}") from error


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _made_anew(db: sqlite3.Connection) -> None:
    """Make of what is there a journal of this version, whoever else does the same."""
    db.execute("BEGIN IMMEDIATE")
    with db:
        version = _version(db)
        if version >= _VERSION:  # another program has done it meanwhile
            return
        steps = _SCHEMA if version == 0 else "".join(_SINCE[since] for since in range(version, _VERSION))
        for step in steps.split(";"):
            db.execute(step)
        db.execute(f"PRAGMA user_version = {_VERSION}")
