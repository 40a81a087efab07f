"""Calls in a bounded number of threads, for programs on asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

from pixdex.errors import ConfigError, StoreError

__all__ = ["DEFAULT_THREADS", "Calls", "Limiter", "default_limiter", "set_default_limiter"]

DEFAULT_THREADS = 16
"""Calls at once, where nobody says otherwise: stores spend most of a call waiting or outside the interpreter."""

P = ParamSpec("P")
R = TypeVar("R")


class Limiter:
    """At most ``size`` threads, made when needed. It may serve any number of objects and event loops."""

    def __init__(self, size: int = DEFAULT_THREADS) -> None:
        """Raises ConfigError for a size below one."""
        if size < 1:
            raise ConfigError(f"a limiter of {size} threads runs nothing: give at least 1")
        self.size = size
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="pixdex-aio")

    def submit(self, work: Callable[[], R]) -> Future[R]:
        """Run ``work`` in a thread, in the context of the caller; first come, first served."""
        return self._pool.submit(copy_context().run, work)

    def close(self) -> None:
        """Finish what was submitted and let the threads end. Blocks; nothing can be submitted after it."""
        self._pool.shutdown()


_default = Limiter()


def default_limiter() -> Limiter:
    """The limiter of objects that are given none."""
    return _default


def set_default_limiter(limiter: Limiter) -> None:
    """Let ``limiter`` serve objects made from now on; those that exist keep theirs."""
    global _default  # noqa: PLW0603 - the one setting of this module
    _default = limiter


class Calls:
    """The calls to one store: in threads, counted, and refused once it is being closed."""

    def __init__(self, limiter: Limiter | None) -> None:
        self._limiter = limiter or default_limiter()
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._closing = False

    def submit(self, work: Callable[[], R]) -> Future[R]:
        """Run ``work`` in a thread of the limiter. Raises StoreError once closed."""
        with self._lock:
            if self._closing:
                raise StoreError("this handle is closed")
            job = self._limiter.submit(work)
            self._running.add(job)
        job.add_done_callback(self._forget)
        return job

    def _forget(self, job: Future[Any]) -> None:
        with self._lock:
            self._running.discard(job)

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The call, awaited."""
        return await asyncio.wrap_future(self.submit(partial(call, *args, **kwargs)))

    async def run_to_rest(self, work: Callable[[], R], stop: Callable[[], object]) -> R:
        """``work``; when cancelled, it is told to ``stop``, and has done so before the cancellation goes on."""
        job = self.submit(work)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            stop()
            await _rested(job)
            raise

    async def close(self, release: Callable[[], None]) -> None:
        """Begin nothing more, and ``release`` when everything has ended. It is safe to call again."""
        with self._lock:
            self._closing = True
            running = list(self._running)

        def rest_and_release() -> None:
            wait_for(running)  # they came first, so that each has a thread or is cancelled already
            release()

        await asyncio.wrap_future(self._limiter.submit(rest_and_release))


async def _rested(job: Future[Any]) -> None:
    """Return when ``job`` has ended, however it did."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def tell(_: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(ended.set)

    job.add_done_callback(tell)
    await ended.wait()
