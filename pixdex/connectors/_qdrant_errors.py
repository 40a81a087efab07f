"""The one boundary where what the Qdrant client raises becomes a pixdex error."""

from __future__ import annotations

import errno
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import portalocker

from pixdex import errors

__all__ = ["translated"]

_MESSAGES: Sequence[tuple[re.Pattern[str], type[errors.PixdexError]]] = (
    (re.compile(r"^Collection .* not found$", re.DOTALL), errors.NotFound),
    (re.compile(r"^(Collection|Alias) .* already exists$", re.DOTALL), errors.AlreadyExists),
    (re.compile(r"Not existing vector name|is not found in the collection"), errors.FingerprintMismatch),
    (re.compile(r"already accessed by another instance"), errors.StoreLocked),
    (re.compile(r"disk is full"), errors.StoreFull),
    (re.compile(r"malformed|not a database"), errors.StoreFormat),
    (re.compile(r"readonly database|unable to open"), errors.AccessDenied),
)


@contextmanager
def translated() -> Iterator[None]:
    """Turns what the client raises into pixdex errors, cause chained."""
    try:
        yield
    except errors.PixdexError:
        raise
    except portalocker.LockException as error:
        raise errors.StoreLocked("another process has this Qdrant directory open") from error
    except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:
        raise _kind(error)(str(error) or type(error).__name__) from error


def _kind(error: Exception) -> type[errors.PixdexError]:
    if isinstance(error, json.JSONDecodeError):
        return errors.StoreFormat
    if isinstance(error, PermissionError):
        return errors.AccessDenied
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.StoreFull
    return next((kind for pattern, kind in _MESSAGES if pattern.search(str(error))), errors.StoreError)
