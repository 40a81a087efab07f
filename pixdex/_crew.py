"""Threads that work in order, with an eye on the clock: a job that takes too long is given up, its thread left behind.

``concurrent.futures`` waits for its threads when the interpreter ends, so that one call that never returns would keep
the process for ever. These are daemons, and one that does not come back is replaced.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from pixdex.errors import InvalidImage

__all__ = ["Crew", "Job"]

T = TypeVar("T")

_GOODBYE = 2.0
"""Seconds that ``close`` waits for what runs: what hangs is left behind."""


class Job(Generic[T]):
    """One call, made by a thread of a crew."""

    def __init__(self, crew: Crew, call: Callable[[], T]) -> None:
        self._crew = crew
        self._call = [call]
        self._begun = threading.Event()
        self._since = 0.0
        self.done = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        call = self._call.pop()  # what it holds may be large
        self._since = time.monotonic()
        self._begun.set()
        try:
            self._value = call()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error

    def drop(self) -> None:
        """Have nobody wait for it any longer."""
        self._error = InvalidImage("cancelled")
        self._call.clear()
        self.done.set()
        self._begun.set()

    def result(self, patience: float) -> T:
        """What the call returned or raised, waited for.

        Raises:
            InvalidImage: it began more than ``patience`` seconds ago and is not done.
        """
        self._begun.wait()
        left = self._since + patience - time.monotonic()
        if not self.done.wait(max(0.0, left)) and self._crew.give_up(self):
            raise InvalidImage(f"not done after {patience:g} seconds")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set, as there was no error


class Crew:
    """A few threads. Jobs begin in the order they were given, each when ``admits`` says so.

    Whoever changes what ``admits`` looks at calls ``look_again``.
    """

    def __init__(self, name: str, threads: int, *, admits: Callable[[], bool] = lambda: True) -> None:
        self._name = name
        self._admits = admits
        self._changed = threading.Condition()
        self._waiting: deque[Job[Any]] = deque()
        self._closed = False
        self._left = threads
        self._doing: dict[threading.Thread, Job[Any] | None] = {}

    def submit(self, call: Callable[[], T]) -> Job[T]:
        job = Job(self, call)
        with self._changed:
            if self._closed:
                job.drop()
                return job
            self._waiting.append(job)
            if self._left:  # threads start as they are needed
                self._left -= 1
                self._start()
            self._changed.notify()
        return job

    def look_again(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def give_up(self, job: Job[Any]) -> bool:
        """Leave the thread of a job behind, and have another in its place; False when it is done after all."""
        with self._changed:
            if job.done.is_set():
                return False
            thread = next((thread for thread, doing in self._doing.items() if doing is job), None)
            if thread is not None:
                del self._doing[thread]
                if not self._closed:
                    self._start()
            return True

    def close(self) -> None:
        """Drop what was not begun and wait for what was, not for ever."""
        with self._changed:
            self._closed = True
            while self._waiting:
                self._waiting.popleft().drop()
            self._changed.notify_all()
            threads = list(self._doing)
        end = time.monotonic() + _GOODBYE
        for thread in threads:
            with suppress(RuntimeError):  # Ctrl-C came while it was being started: it finds the crew closed
                thread.join(max(0.0, end - time.monotonic()))
        with self._changed:
            for job in self._doing.values():
                if job is not None:
                    job.drop()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._doing[thread] = None
        thread.start()

    def _work(self) -> None:
        me = threading.current_thread()
        while (job := self._next(me)) is not None:
            job.run()
            with self._changed:
                job.done.set()
            del job
        with self._changed:
            self._doing.pop(me, None)

    def _next(self, me: threading.Thread) -> Job[Any] | None:
        with self._changed:
            if me not in self._doing:  # it was given up, and replaced
                return None
            self._doing[me] = None
            self._changed.wait_for(lambda: self._closed or (self._waiting and self._admits()))
            if self._closed:
                return None
            job = self._doing[me] = self._waiting.popleft()
            return job
