"""Everything pixdex raises on purpose.

::

    PixdexError
    ├── ConfigError (ValueError)           an address, option or argument that cannot mean anything
    ├── MissingDependency (ImportError)    an extra that is not installed
    ├── Unsupported                        the store cannot do it, and it cannot be emulated
    ├── NotFound (LookupError)             no such collection
    ├── AlreadyExists                      the collection is there already
    ├── InvalidRecord (ValueError)         a record that breaks a law (id, vector, payload)
    ├── InvalidFilter (ValueError)         unknown field, wrong kind, or text that does not parse
    ├── InvalidImage (ValueError)          bytes that are not a usable picture
    ├── FingerprintMismatch                vectors of another encoder
    ├── SyncRefused                        more would be removed than may be; ``gone`` holds the ids
    └── StoreError                         the store failed; ``retryable`` says whether again may help
        ├── StoreTimeout                   no answer in time
        ├── StoreUnavailable               no connection
        ├── RateLimited                    told to slow down; ``retry_after`` in seconds
        ├── PartialWrite                   ``done`` holds the ids that were acknowledged
        ├── StoreLocked                    another process holds the store
        ├── StoreFull                      no space left
        ├── StoreFormat                    not a store, from a newer pixdex, or corrupt
        └── AccessDenied                   credentials or permissions

A connector translates its client's exceptions into these at one boundary, with the cause chained.
A retry reads ``error.retryable`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "ConfigError",
    "FingerprintMismatch",
    "InvalidFilter",
    "InvalidImage",
    "InvalidRecord",
    "MissingDependency",
    "NotFound",
    "PartialWrite",
    "PixdexError",
    "RateLimited",
    "StoreError",
    "StoreFormat",
    "StoreFull",
    "StoreLocked",
    "StoreTimeout",
    "StoreUnavailable",
    "SyncRefused",
    "Unsupported",
    "nearest",
]


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean ...? known: ...)``, for messages about a name that is not known."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f" ({guess}known: {', '.join(names) or 'none'})"


class PixdexError(Exception):
    """The root: catch it to catch whatever pixdex raises on purpose."""


class ConfigError(PixdexError, ValueError):
    """An address, option or argument that cannot mean anything."""


class MissingDependency(PixdexError, ImportError):
    """An optional dependency is needed and absent."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed: pip install "pixdex[{extra}]"')
        self.package = package
        self.extra = extra


class Unsupported(PixdexError):
    """The store cannot do what was asked, and the facade cannot make it up."""


class NotFound(PixdexError, LookupError):
    """No such collection."""


class AlreadyExists(PixdexError):
    """A collection of that name is there already."""


class InvalidRecord(PixdexError, ValueError):
    """A record that breaks a law: its id, a vector, a payload value."""


class InvalidFilter(PixdexError, ValueError):
    """A filter on an unknown field, with a value of the wrong kind, or text that does not parse."""


class InvalidImage(PixdexError, ValueError):
    """Bytes that are not a usable picture; the message is the reason."""


class FingerprintMismatch(PixdexError):
    """The collection holds vectors of another encoder."""


class SyncRefused(PixdexError):
    """Keeping in step with folders would remove more records than it may, so it removed none; ``gone`` holds their ids."""

    def __init__(self, message: str, *, gone: Sequence[str]) -> None:
        super().__init__(message)
        self.gone = tuple(gone)


class StoreError(PixdexError):
    """The store failed. ``retryable`` says whether the same call may succeed later."""

    retryable: bool = False


class StoreTimeout(StoreError):
    """No answer in time."""

    retryable = True


class StoreUnavailable(StoreError):
    """No connection to the store."""

    retryable = True


class RateLimited(StoreError):
    """The store asks for fewer calls."""

    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PartialWrite(StoreError):
    """A write stopped half-way; ``done`` holds the ids that were acknowledged."""

    def __init__(self, message: str, *, done: Sequence[str]) -> None:
        super().__init__(message)
        self.done = tuple(done)


class StoreLocked(StoreError):
    """Another process holds the store."""


class StoreFull(StoreError):
    """No space left where the store lives."""


class StoreFormat(StoreError):
    """Not a store, made by a newer pixdex, or corrupt."""


class AccessDenied(StoreError):
    """Wrong credentials or missing permissions."""
