"""One open embedded store per path in this process, shared by its connectors.

A local store may be opened once. Two connectors of one process, such as two collections of the same
directory, share it, and the last one closes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from pixdex.errors import StoreError, StoreFormat

__all__ = ["Lease", "Own", "Share", "Shared", "Use", "holds_store"]

T = TypeVar("T")


@dataclass(slots=True)
class _Entry(Generic[T]):
    resource: T
    lock: threading.RLock = field(default_factory=threading.RLock)
    users: int = 0


@dataclass(frozen=True, slots=True)
class Lease(Generic[T]):
    """A share of an open store: hold ``lock`` around each use, call ``release`` once."""

    resource: T
    lock: AbstractContextManager[object]
    release: Callable[[], None]


class Use(Generic[T]):
    """An open store in use by one call: ``with`` holds its lock, and raises what ``told`` makes of an error, from it.

    ``told`` gives None for what is to be raised as it is. A class, since every call goes through it, and a generator
    takes three times as long.
    """

    __slots__ = ("_lock", "_resource", "_told")

    def __init__(self, lease: Lease[T], told: Callable[[Exception], Exception | None], *, alone: bool = True) -> None:
        self._resource = lease.resource
        self._lock = lease.lock if alone else _NO_LOCK
        self._told = told

    def __enter__(self) -> T:
        self._lock.__enter__()
        return self._resource

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)
        if isinstance(error, Exception):
            told = self._told(error)
            if told is not None:
                raise told from error


_NO_LOCK = nullcontext()


def _itself(lock: AbstractContextManager[object]) -> AbstractContextManager[object]:
    return lock


class Shared(Generic[T]):
    """Opens stores with ``opener`` and, after their last user, closes them with ``closer``. What ``guard`` makes of
    a lock is entered instead of it.
    """

    def __init__(
        self,
        opener: Callable[[str], T],
        closer: Callable[[T], object],
        guard: Callable[[AbstractContextManager[object]], AbstractContextManager[object]] = _itself,
    ) -> None:
        self._opener = opener
        self._closer = closer
        self._guard = guard
        self._entries: dict[str, _Entry[T]] = {}
        # Reentrant: a garbage collection while it is held may finalize a forgotten connector, which
        # releases on this thread. So any call here may drop entries, and counts are checked after it.
        self._lock = threading.RLock()

    def lease(self, path: str) -> Lease[T]:
        """The store at ``path``, opened when this process has not got it open."""
        key = os.path.realpath(path)
        with self._lock:
            entry = self._entered(key, path)
            return Lease(entry.resource, self._guard(entry.lock), lambda: self._release(key, entry))

    def _entered(self, key: str, path: str) -> _Entry[T]:
        """The entry of ``key``, with one more user."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.users += 1
            if self._entries.get(key) is entry:  # else its last user went before we were counted
                return entry
        entry = self._entries[key] = _Entry(self._opener(path), users=1)
        return entry

    def _release(self, key: str, entry: _Entry[T]) -> None:
        with self._lock:
            entry.users -= 1
            if entry.users == 0 and self._entries.get(key) is entry:
                del self._entries[key]
                with entry.lock:  # a call of another thread may still run
                    self._closer(entry.resource)


class Share(Generic[T]):
    """A connector's share of the store at ``path``, leased as soon as there is one: reading makes none.

    ``found`` says whether a store is there, and raises where something else is.
    """

    def __init__(self, shared: Shared[T], path: str, found: Callable[[str], bool]) -> None:
        self.path = path
        self._shared = shared
        self._found = found
        self._lock = threading.RLock()
        self._lease: Lease[T] | None = None
        self._closed = False
        self.lease()  # what is locked or corrupt is named at once

    def lease(self, *, make: bool = False) -> Lease[T] | None:
        """The open store; None where there is none and it is not to be made."""
        lease = self._lease
        if lease is not None:  # every call asks, and nearly always it is open
            return lease
        with self._lock:
            if self._closed:
                raise StoreError(f"this connector of {self.path} is closed")
            if self._lease is None and (make or self._found(self.path)):
                self._lease = self._shared.lease(self.path)
            return self._lease

    def close(self) -> None:
        """Give it back; twice is fine."""
        with self._lock:
            lease, self._lease, self._closed = self._lease, None, True
        if lease is not None:
            lease.release()


class Own(Generic[T]):
    """A connector's own connection to the server at ``place``: nobody shares it, and it takes calls of many threads.
    ``guard`` is entered around each.
    """

    def __init__(
        self,
        place: str,
        resource: T,
        closer: Callable[[T], object],
        guard: AbstractContextManager[object] = _NO_LOCK,
    ) -> None:
        self.path = place
        self._closer = closer
        self._lock = threading.Lock()
        self._lease: Lease[T] | None = Lease(resource, guard, self.close)

    def lease(self, *, make: bool = False) -> Lease[T]:
        """The open connection."""
        lease = self._lease
        if lease is None:
            raise StoreError(f"this connector of {self.path} is closed")
        return lease

    def close(self) -> None:
        """Close it; twice is fine."""
        with self._lock:
            lease, self._lease = self._lease, None
        if lease is not None:
            self._closer(lease.resource)


def holds_store(path: str, mark: str, kind: str) -> bool:
    """Whether there is a store of that kind at ``path``, known by an entry ``mark``; an empty directory is none yet.

    Raises:
        StoreFormat: there is something else.
        OSError: it cannot be looked at.
    """
    place = Path(path)
    entries = {entry.name for entry in place.iterdir()} if place.is_dir() else set()
    if place.is_file() or (entries and mark not in entries):
        raise StoreFormat(f"{path} exists and is no {kind} directory")
    return bool(entries)
