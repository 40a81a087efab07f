"""One writer: a lock file that the system releases with its process, shared by the handles of that process, whose threads
take turns.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex.errors import StoreLocked

if TYPE_CHECKING:
    from pixdex.connectors._pq_group import Group

__all__ = ["WriterLock"]

_LOCKS: dict[str, WriterLock] = {}
_GUARD = threading.RLock()  # a forgotten handle may be collected while this thread holds it


@dataclass(slots=True, eq=False)
class WriterLock:
    """The right to write to one directory.

    Attributes:
        path: the lock file; it names the process that holds it.
        file: the descriptor, while this process holds the lock.
        handles: how many stores of this process may use it.
        group: the transaction that whose turn is next may join, None where there is none; changed in one's turn only.
    """

    path: Path
    file: int | None = None
    handles: int = 0
    group: Group | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _waiting: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def join(cls, path: Path) -> WriterLock:
        """The lock of this process on the lock file ``path``; one more handle uses it, until ``leave``."""
        with _GUARD:
            lock = _LOCKS.setdefault(os.path.realpath(path), cls(path))
            lock.handles += 1
            return lock

    def leave(self) -> None:
        """One handle less; the last one releases the file."""
        with _GUARD:
            self.handles -= 1
            if self.handles:
                return
            _LOCKS.pop(os.path.realpath(self.path), None)
        with self._turn:  # a write that is under way ends first
            self.end_group()
            if self.file is not None:
                os.close(self.file)
                self.file = None

    @contextmanager
    def in_turn(self, wait: float) -> Iterator[bool]:
        """One thread of this process at a time; False where its turn did not come within ``wait`` seconds.

        Who leaves commits the open group, unless another waits to join it.
        """
        self._count(1)
        try:
            held = self._turn.acquire(timeout=wait)
        finally:
            self._count(-1)
        try:
            yield held
        finally:
            if held:
                try:
                    if self.group is not None and (self.group.full or not self._waiting):
                        self.end_group()
                finally:
                    self._turn.release()

    def end_group(self) -> None:
        """Commit what is open, in one's turn."""
        try:
            if self.group is not None:
                self.group.commit()
        finally:
            self.group = None

    def _count(self, more: int) -> None:
        with self._counting:
            self._waiting += more

    def take(self, wait: float) -> bool:
        """Hold the file, after ``wait`` seconds at most. True when this call took it, False when it was ours.

        Raises:
            StoreLocked: another process holds it; the message says which.
            OSError: the file cannot be made.
        """
        if self.file is not None:
            if _is_at(self.file, self.path):
                return False
            os.close(self.file)  # the directory was removed, and perhaps made anew
            self.file = None
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._wait(file, wait)
            os.ftruncate(file, 0)
            os.pwrite(file, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except BaseException:
            os.close(file)
            raise
        self.file = file
        return True

    @contextmanager
    def holding(self, wait: float) -> Iterator[None]:
        """The turn of this thread and the file, for what needs them once. Raises StoreLocked."""
        with self.in_turn(wait) as held:
            if not held:
                raise StoreLocked(f"{self.path.parent} is being written by another thread")
            self.take(wait)
            yield

    def _wait(self, file: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not _locked(file):
            if time.monotonic() > until:
                owner = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
                raise StoreLocked(
                    f"{self.path.parent} is being written by {owner}: close it there, or write to another store"
                )
            time.sleep(0.02)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_child() -> None:
    """The parent keeps its locks; the child has none."""
    for lock in _LOCKS.values():
        if lock.file is not None:
            os.close(lock.file)
    _LOCKS.clear()
    _GUARD.release()


os.register_at_fork(before=_GUARD.acquire, after_in_parent=_GUARD.release, after_in_child=_in_child)
