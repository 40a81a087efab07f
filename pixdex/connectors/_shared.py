"""One open embedded store per path in this process, shared by its connectors.

A local store may be opened once. Two connectors of one process, such as two collections of the same
directory, share it, and the last one closes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Lease", "Shared"]

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
    lock: threading.RLock
    release: Callable[[], None]


class Shared(Generic[T]):
    """Opens stores with ``opener`` and, after their last user, closes them with ``closer``."""

    def __init__(self, opener: Callable[[str], T], closer: Callable[[T], object]) -> None:
        self._opener = opener
        self._closer = closer
        self._entries: dict[str, _Entry[T]] = {}
        self._lock = threading.Lock()

    def lease(self, path: str) -> Lease[T]:
        """The store at ``path``, opened when this process has not got it open."""
        key = os.path.realpath(path)
        with self._lock:
            if key not in self._entries:
                self._entries[key] = _Entry(self._opener(path))
            entry = self._entries[key]
            entry.users += 1
        return Lease(entry.resource, entry.lock, lambda: self._release(key))

    def _release(self, key: str) -> None:
        with self._lock:
            entry = self._entries[key]
            entry.users -= 1
            if entry.users == 0:
                del self._entries[key]
                with entry.lock:  # a call of another thread may still run
                    self._closer(entry.resource)
