"""The one boundary where what the Milvus client raises becomes a pixdex error, and where its log is kept quiet."""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError
from pymilvus import MilvusException

from pixdex import errors

__all__ = ["NOT_LOADED", "quiet", "translated"]

NOT_LOADED = 101
"""The code of a read from a collection that is not in memory."""

_KINDS: Mapping[Any, type[errors.PixdexError]] = {
    4: errors.NotFound,
    8: errors.RateLimited,
    100: errors.NotFound,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.StoreTimeout,
    grpc.StatusCode.UNAVAILABLE: errors.StoreUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.RateLimited,
    grpc.StatusCode.UNAUTHENTICATED: errors.AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessDenied,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
}
_MESSAGES: Sequence[tuple[re.Pattern[str], type[errors.PixdexError]]] = (
    (re.compile(r"^collection .* does not exist", re.DOTALL), errors.NotFound),
    (re.compile(r"already exists|conflicts with an existing"), errors.AlreadyExists),
    (re.compile(r"^anns_field .* not found in schema"), errors.FingerprintMismatch),
    (re.compile(r"No space left|Disk quota"), errors.StoreFull),
    (re.compile(r"Permission denied|Read-only"), errors.AccessDenied),
    (re.compile(r"corrupt|failed to load|Parquet|not valid JSON|pickled|could only read"), errors.StoreFormat),
)


@contextmanager
def translated(name: str = "") -> Iterator[None]:
    """Turns what the client raises into pixdex errors, cause chained."""
    try:
        yield
    except DataDirLockedError as error:
        raise errors.StoreLocked("another process has this Milvus Lite directory open") from error
    except MilvusLiteError as error:
        raise errors.StoreFormat(str(error)) from error
    except MilvusException as error:
        raise _kind(error.code, error.message)(
            f"collection {name!r}: {error.message}" if name else error.message
        ) from error
    except grpc.RpcError as error:
        details = error.details() or str(error.code())
        raise _kind(error.code(), details)(details) from error
    except PermissionError as error:
        raise errors.AccessDenied(str(error)) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (errors.StoreFull if full else errors.StoreError)(str(error)) from error


def _kind(code: Any, message: str) -> type[errors.PixdexError]:
    if code in _KINDS:
        return _KINDS[code]
    return next((kind for pattern, kind in _MESSAGES if pattern.search(message)), errors.StoreError)


_callers: set[int] = set()
"""Threads that are in a call made here."""


class _NotOurs(logging.Filter):
    """Drops what the client logs of calls made here: a traceback for every error, which is raised anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        return threading.get_ident() not in _callers


class _NotMeanwhile(logging.Filter):
    """Drops what the server of Milvus Lite logs of the same errors, on threads that nothing tells from another's."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _callers


_FILTERS: Mapping[str, logging.Filter] = {
    "pymilvus.decorators": _NotOurs(),
    "milvus_lite.adapter.grpc.servicer": _NotMeanwhile(),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps client and server from logging what is raised anyway, while a call of ours runs."""
    for logger, known in _FILTERS.items():
        logging.getLogger(logger).addFilter(known)  # once: it is the same object
    caller = threading.get_ident()
    outermost = caller not in _callers
    _callers.add(caller)
    try:
        yield
    finally:
        if outermost:
            _callers.discard(caller)
