"""The one boundary where what the Qdrant client and Qdrant Edge raise becomes a pixdex error."""

from __future__ import annotations

import errno
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pixdex import errors
from pixdex.connectors._remedies import with_remedy

__all__ = ["from_message", "told", "translated"]

_MESSAGES: Sequence[tuple[re.Pattern[str], type[errors.PixdexError]]] = tuple(
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (r"already exists", errors.AlreadyExists),
        (r"[Nn]ot existing vector name|is not found in the collection", errors.FingerprintMismatch),
        (r"Index required but not found", errors.FingerprintMismatch),
        (r"Shard is not initialized", errors.NotFound),  # dropped by another thread
        (r"^Collection .* not found$|Collection .* doesn't exist|Not found: Collection", errors.NotFound),
        (r"already accessed by another instance|WouldBlock", errors.StoreLocked),
        (r"disk is full|No space left|disk I/O error|[Qq]uota exceeded", errors.StoreFull),
        (r"malformed|not a database|WAL checksum|[Cc]orrupt", errors.StoreFormat),
        (r"readonly database|unable to open|Permission denied|Read-only file system", errors.AccessDenied),
        (r"[Tt]imeout|timed out|Deadline Exceeded", errors.StoreTimeout),
    )
)
_SERVER_AT_WORK = frozenset({500, 502, 503})
_TIMED_OUT = frozenset({408, 504})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def told(error: Exception, place: str) -> errors.PixdexError | None:
    """What a client raised, as a pixdex error that names ``place``, an address or a path; None for what is one
    already, or a fault of the program.
    """
    if isinstance(error, errors.PixdexError):
        return None
    found = _of(error)
    if isinstance(error, json.JSONDecodeError) and "://" in place:
        found = _from_transport(error)
    return None if found is None else _worded(place, *found)


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raises what ``told`` makes of an error, from it."""
    try:
        yield
    except Exception as error:
        found = told(error, place)
        if found is None:
            raise
        raise found from error


def from_message(text: str) -> type[errors.PixdexError] | None:
    """The kind of error that an engine's message tells of."""
    return next((kind for pattern, kind in _MESSAGES if pattern.search(text)), None)


def _worded(place: str, kind: type[errors.PixdexError], text: str, wait: float | None) -> errors.PixdexError:
    message = with_remedy(kind, f"{place}: {text}")
    if kind is errors.RateLimited:
        return errors.RateLimited(message, retry_after=wait)
    return kind(message)


_Found = tuple[type[errors.PixdexError], str, float | None]


def _of(error: Exception) -> _Found | None:
    """Kind, text and seconds to wait; None for what no store raises: a fault of the program."""
    library = type(error).__module__.partition(".")[0]
    if library == "qdrant_client":
        return _from_client(error)
    if library == "grpc":
        return _from_grpc(error)
    text = str(error) or type(error).__name__
    if library == "portalocker":
        return errors.StoreLocked, text, None
    if isinstance(error, json.JSONDecodeError):
        return errors.StoreFormat, text, None
    if isinstance(error, OSError):
        return _from_system(error), text, None
    known = from_message(text)
    if isinstance(error, RuntimeError | ValueError | sqlite3.Error):
        return known or errors.StoreError, text, None
    # Edge raises plain exceptions, everything in their text.
    return (known or errors.StoreError, text, None) if type(error) is Exception else None


def _from_system(error: OSError) -> type[errors.PixdexError]:
    if error.errno in _FULL:
        return errors.StoreFull
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return errors.AccessDenied
    if isinstance(error, NotADirectoryError | FileExistsError):
        return errors.StoreFormat
    return from_message(str(error)) or errors.StoreError


def _from_client(error: Exception) -> _Found:
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return errors.RateLimited, str(error), float(error.retry_after_s)
    if isinstance(error, ResponseHandlingException):
        return _from_transport(error.source)
    if isinstance(error, UnexpectedResponse):
        text = _answer(error)
        return _from_status(error.status_code or 0, text), f"{error.status_code} {text}", None
    return errors.StoreError, str(error), None


def _from_transport(source: BaseException) -> _Found:
    import httpx

    text = str(source) or type(source).__name__
    if isinstance(source, httpx.TimeoutException):
        return errors.StoreTimeout, f"no answer in time ({type(source).__name__})", None
    if isinstance(source, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return errors.ConfigError, text, None
    if isinstance(source, httpx.TransportError):
        if "SSL" in text:
            text += " (a server without TLS is qdrant://, one with TLS qdrant+https://)"
        return errors.StoreUnavailable, text, None
    return errors.StoreError, f"not an answer of a Qdrant server: {text:.200}", None


def _answer(error: object) -> str:
    """What the server said, without the rest of the response."""
    content: bytes = getattr(error, "content", b"") or b""
    try:
        status = json.loads(content)["status"]
        return str(status["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace") or str(getattr(error, "reason_phrase", ""))


def _from_status(status: int, text: str) -> type[errors.PixdexError]:
    if status in (401, 403):
        return errors.AccessDenied
    if status == 429:
        return errors.RateLimited
    if status in _TIMED_OUT:
        return errors.StoreTimeout
    known = from_message(text)
    if known is not None:
        return known
    if status == 404:
        return errors.NotFound
    if status == 409:
        return errors.AlreadyExists
    return errors.StoreUnavailable if status in _SERVER_AT_WORK else errors.StoreError


_GRPC = {
    "UNAUTHENTICATED": errors.AccessDenied,
    "PERMISSION_DENIED": errors.AccessDenied,
    "NOT_FOUND": errors.NotFound,
    "ALREADY_EXISTS": errors.AlreadyExists,
    "RESOURCE_EXHAUSTED": errors.RateLimited,
    "DEADLINE_EXCEEDED": errors.StoreTimeout,
    "UNAVAILABLE": errors.StoreUnavailable,
    "CANCELLED": errors.StoreUnavailable,
    "ABORTED": errors.StoreUnavailable,
}


def _from_grpc(error: Exception) -> _Found:
    code = getattr(error, "code", None)
    name = getattr(code() if callable(code) else None, "name", "UNKNOWN")
    details = getattr(error, "details", None)
    text = str((details() if callable(details) else None) or error)[:500]
    kind: type[errors.PixdexError] = _GRPC.get(name) or from_message(text) or errors.StoreError
    if name == "INTERNAL" and kind is errors.StoreError:
        kind = errors.StoreUnavailable
    if name == "RESOURCE_EXHAUSTED" and "larger than max" in text:
        kind = errors.StoreError
    return kind, f"{name} {text}", None
