"""The one boundary where SQLite's and the system's errors become pixdex's."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from pixdex.errors import AccessDenied, PixdexError, StoreError, StoreFormat, StoreFull, StoreLocked

__all__ = ["DATABASE", "SQLITE_DENIED", "Translated"]

DATABASE = "pixdex.sqlite"

SQLITE_DENIED = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
# Quotas and file size limits reach us as failed writes; only "no space" has a code of its own.
_SQLITE_FULL = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class Translated:
    """Errors of the store at ``path``, with the cause chained. A class, since a generator costs each read microseconds."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise _from_sqlite(self.path, error) from error
        if isinstance(error, OSError) and not isinstance(error, PixdexError):
            raise _from_system(self.path, error) from error


def _from_system(path: Path, error: OSError) -> StoreError:
    if error.errno in _FULL:
        return StoreFull(f"{path}: {error.strerror}; what was acknowledged is safe, free some space and go on")
    if error.errno in _DENIED:
        return AccessDenied(f"{path}: {error.strerror} ({error.filename})")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StoreFormat(f"{path}: {error.strerror} ({error.filename})")
    return StoreError(f"{path}: {error}")


def _from_sqlite(path: Path, error: sqlite3.Error) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF == sqlite3.SQLITE_FULL or code in _SQLITE_FULL:
        return StoreFull(f"{path}: {error}; what was acknowledged is safe, free some space and go on")
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreFormat(f"{path / DATABASE}: {error}; restore it from a copy")
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked(f"{path}: {error}; another program holds the database")
    if code & 0xFF in SQLITE_DENIED:
        return AccessDenied(f"{path}: {error}")
    return StoreError(f"{path}: {error}")
