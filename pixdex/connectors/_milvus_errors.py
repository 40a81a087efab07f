"""The one boundary where what the Milvus client raises becomes a pixdex error, and where its log is kept quiet."""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any

import grpc
from pymilvus import MilvusException

from pixdex import errors
from pixdex.connectors._remedies import with_remedy

try:
    from milvus_lite.exceptions import DataDirLockedError, MilvusLiteError
except ImportError:  # a server needs no Milvus Lite

    class MilvusLiteError(Exception):  # type: ignore[no-redef]
        """Raised by nobody."""

    class DataDirLockedError(MilvusLiteError):  # type: ignore[no-redef,misc]
        """Raised by nobody."""


__all__ = ["NOT_LOADED", "Quiet", "not_loaded", "told", "translated"]

NOT_LOADED = frozenset({101, 103})
"""Codes of a read from a collection that is not in memory, or not yet in full."""

_KINDS: Mapping[Any, type[errors.PixdexError]] = {
    4: errors.NotFound,
    8: errors.RateLimited,
    9: errors.RateLimited,
    100: errors.NotFound,
    800: errors.NotFound,  # database
    1400: errors.AccessDenied,
    1401: errors.AccessDenied,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.StoreTimeout,
    grpc.StatusCode.UNAVAILABLE: errors.StoreUnavailable,
    grpc.StatusCode.CANCELLED: errors.StoreUnavailable,
    grpc.StatusCode.ABORTED: errors.StoreUnavailable,
    grpc.StatusCode.UNAUTHENTICATED: errors.AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessDenied,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.RateLimited,
}
# Looked at before the codes: some say less than the text, 65535 nothing.
_MESSAGES: Sequence[tuple[re.Pattern[str], type[errors.PixdexError]]] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), kind)
    for pattern, kind in (
        (r"larger than max|exceeds? (the )?max(imum)? (message|output|allowed) size", errors.StoreError),
        (r"^anns_field .* not found in schema", errors.FingerprintMismatch),
        (r"cannot parse expression.*field .* not exist|fieldName\(.*\) not found", errors.FingerprintMismatch),
        (r"^field .* not exist|Insert missed an field|missed a field|unexpected field", errors.FingerprintMismatch),
        (r"Attempt to insert an unexpected field|not match with schema", errors.FingerprintMismatch),
        (r"field data .* does(n't| not) match|the length of data.*schema", errors.FingerprintMismatch),
        (r"^collection .* does not exist|collection not found|can't find collection", errors.NotFound),
        (r"(database|alias).* not (found|exist)", errors.NotFound),
        (
            r"already exists?|conflicts with an existing|create duplicate collection|duplicate(d)? alias",
            errors.AlreadyExists,
        ),
        (
            r"auth check failure|unauthenticated|PermissionDenied|permission deny|incorrect (user|password)",
            errors.AccessDenied,
        ),
        (r"rate limit|quota exceeded|request limit exceeded|force deny", errors.RateLimited),
        (r"Fail connecting to server|connection refused|failed to connect|connect failed", errors.StoreUnavailable),
        (
            r"can ?not find client of node|fail(ed)? to get (shard )?delegator|no available shard",
            errors.StoreUnavailable,
        ),
        (r"state is Abnormal|service not ready|not ready|node .*offline|no available", errors.StoreUnavailable),
        (r"deadline exceeded|timed? ?out|wait for loading collection timeout", errors.StoreTimeout),
        (r"No space left|Disk quota", errors.StoreFull),
        (r"Permission denied|Read-only", errors.AccessDenied),
        (r"corrupt|failed to load|Parquet|not valid JSON|pickled|could only read", errors.StoreFormat),
    )
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def not_loaded(error: MilvusException) -> bool:
    """Whether a call failed because its collection is not in memory, or only just comes there."""
    return error.code in NOT_LOADED or "can not find client of node" in str(error.message)


def told(error: Exception, name: str = "", place: str = "") -> errors.PixdexError | None:
    """What the client raised, as a pixdex error that names ``place``, an address or a path; None for what is one
    already, or a fault of the program.
    """
    if not isinstance(error, _RAISED) or isinstance(error, errors.PixdexError):
        return None
    kind, text = _of(error)
    where = ": ".join(part for part in (place, f"collection {name!r}" if name else "") if part)
    return kind(with_remedy(kind, f"{where}: {text}" if where else text))


_RAISED = (MilvusLiteError, MilvusException, grpc.RpcError, grpc.FutureTimeoutError, OSError)


@contextmanager
def translated(name: str = "", place: str = "") -> Iterator[None]:
    """Raises what ``told`` makes of an error, from it."""
    try:
        yield
    except Exception as error:
        found = told(error, name, place)
        if found is None:
            raise
        raise found from error


def _of(error: Exception) -> tuple[type[errors.PixdexError], str]:
    if isinstance(error, DataDirLockedError):
        return errors.StoreLocked, "it is open already"
    if isinstance(error, MilvusLiteError):
        return errors.StoreFormat, str(error)
    if isinstance(error, MilvusException):
        # It may wrap another, to say that the client gave up; and the client names it as its own cause.
        for cause in (error.__cause__, error.__context__):
            if cause is not error and isinstance(cause, grpc.RpcError | MilvusException):
                return _of(cause)
        text = str(error.message)
        return _kind(error.code, text), text[:500]
    if isinstance(error, grpc.FutureTimeoutError):
        return errors.StoreTimeout, "no answer in time"
    if isinstance(error, grpc.RpcError):
        code = error.code() if hasattr(error, "code") else None
        text = str(error.details() or code)
        return _kind(code, text), text[:500]
    if isinstance(error, OSError):
        if error.errno in _FULL:
            return errors.StoreFull, str(error)
        denied = isinstance(error, PermissionError) or error.errno == errno.EROFS
        return (errors.AccessDenied if denied else errors.StoreError), str(error)
    return errors.StoreError, str(error)


def _kind(code: Any, message: str) -> type[errors.PixdexError]:
    known = next((kind for pattern, kind in _MESSAGES if pattern.search(message)), None)
    if isinstance(code, grpc.StatusCode) and code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _KINDS.get(code) or known or errors.StoreError
    return known or _KINDS.get(code) or errors.StoreError


_callers: dict[int, int] = {}
"""Threads that are in a call made here -> how deep."""


class _NotOurs(logging.Filter):
    """Drops what the client logs of calls made here: a traceback for every error, which is raised anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        return threading.get_ident() not in _callers


class _NotMeanwhile(logging.Filter):
    """Drops what the server of Milvus Lite logs of the same errors, on threads that nothing tells from another's."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _callers


for _name, _filter in (
    ("pymilvus.decorators", _NotOurs()),
    ("pymilvus.client.grpc_handler", _NotOurs()),
    ("pymilvus.client.connection_manager", _NotOurs()),
    ("milvus_lite.adapter.grpc.servicer", _NotMeanwhile()),
):
    logging.getLogger(_name).addFilter(_filter)


class Quiet:
    """While it is entered, client and server log nothing of what is raised anyway. ``lock`` is held as long."""

    __slots__ = ("_lock",)

    def __init__(self, lock: AbstractContextManager[object] | None = None) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if self._lock is not None:
            self._lock.__enter__()
        caller = threading.get_ident()
        _callers[caller] = _callers.get(caller, 0) + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        caller = threading.get_ident()
        depth = _callers.pop(caller) - 1
        if depth:
            _callers[caller] = depth
        if self._lock is not None:
            self._lock.__exit__(kind, error, trace)
