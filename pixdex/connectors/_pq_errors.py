"""The one boundary where SQLite's and the system's errors become pixdex's."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixdex.errors import AccessDenied, PixdexError, StoreError, StoreFormat, StoreFull, StoreLocked

__all__ = ["DATABASE", "SQLITE_DENIED", "translated"]

DATABASE = "pixdex.sqlite"

SQLITE_DENIED = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
# Quotas and file size limits reach us as failed writes; only "no space" has a code of its own.
_SQLITE_FULL = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of the store at ``path``, with the cause chained."""
    try:
        yield
    except PixdexError:
        raise
    except sqlite3.Error as error:
        raise _from_sqlite(path, error) from error
    except OSError as error:
        raise _from_system(path, error) from error


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
