"""Collections and indexes for programs on asyncio: the same verbs, awaited.

Every call runs the one of ``Collection`` or ``ImageIndex`` in a thread of a ``Limiter``; there is no second
implementation. ``DEFAULT_THREADS`` calls run at once, of all objects and event loops together, and further ones
wait their turn; ``set_default_limiter`` puts another limiter in place.

A call that is cancelled returns at once, and is left out if it waits for a thread still. One that runs cannot be
stopped half-way: its thread finishes it, so that a write is written whole, and is then free for others. ``add``
alone returns late: it stops between chunks, what was written stays, and adding the same again goes on from there.
``close`` waits for what runs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from pixdex._progress import following
from pixdex.collection import Collection
from pixdex.errors import ConfigError, StoreError
from pixdex.types import Batch, Field, Fingerprint, Hit, Page, Source, Spec, TokenSpec, Tuning, Vector, Want

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pixdex.connectors.port import Capabilities, Connector
    from pixdex.encoders.port import Encoder
    from pixdex.filters import Filter
    from pixdex.index import Fields, ImageIndex, Info
    from pixdex.pictures import Picture
    from pixdex.policy import Policy
    from pixdex.report import Progress, Report
    from pixdex.rerankers.port import Reranker

__all__ = [
    "DEFAULT_THREADS",
    "AsyncCollection",
    "AsyncImageIndex",
    "Limiter",
    "default_limiter",
    "open",
    "set_default_limiter",
]

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


class _Calls:
    """The calls to one store: in threads, counted, and refused once it is being closed."""

    def __init__(self, limiter: Limiter | None) -> None:
        self._limiter = limiter or default_limiter()
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._closing = False

    def submit(self, work: Callable[[], R]) -> Future[R]:
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


async def open(  # noqa: A001 - as pixdex.open
    url: str,
    *,
    encoder: Encoder | str | None = None,
    fields: Fields | None = None,
    tokens: bool = False,
    policy: Policy | None = None,
) -> AsyncImageIndex:
    """``pixdex.open``, awaited. Use the index in an ``async with``, or await its ``close``."""
    limiter = default_limiter()
    job = limiter.submit(lambda: _opened(url, encoder, fields, policy, tokens=tokens))
    try:
        return AsyncImageIndex(await asyncio.wrap_future(job), limiter=limiter)
    except asyncio.CancelledError:
        job.add_done_callback(_close_unclaimed)
        raise


def _opened(
    url: str, encoder: Encoder | str | None, fields: Fields | None, policy: Policy | None, *, tokens: bool
) -> ImageIndex:
    from pixdex import index  # late: it loads numpy

    return index.open(url, encoder=encoder, fields=fields, tokens=tokens, policy=policy)


def _close_unclaimed(job: Future[ImageIndex]) -> None:
    if not job.cancelled() and job.exception() is None:
        job.result().close()


class AsyncCollection:
    """A ``Collection``, awaited. What asks nothing of the store is a property or a plain method, as there."""

    def __init__(self, collection: Collection, *, limiter: Limiter | None = None) -> None:
        """Serve ``collection`` by ``limiter``, or by the default one."""
        self._calls = _Calls(limiter)
        self._sync = collection

    @classmethod
    def _sharing(cls, collection: Collection, calls: _Calls) -> AsyncCollection:
        made = cls(collection)
        made._calls = calls
        return made

    @classmethod
    async def create(
        cls, connector: Connector, name: str, spec: Spec, *, policy: Policy | None = None
    ) -> AsyncCollection:
        """See ``Collection.create``. When cancelled, the collection may have been made."""
        calls = _Calls(None)
        return cls._sharing(await calls.run(Collection.create, connector, name, spec, policy=policy), calls)

    @classmethod
    async def open(
        cls,
        connector: Connector,
        name: str,
        *,
        expect: Mapping[str, Fingerprint] | None = None,
        policy: Policy | None = None,
    ) -> AsyncCollection:
        """See ``Collection.open``."""
        calls = _Calls(None)
        return cls._sharing(await calls.run(Collection.open, connector, name, expect=expect, policy=policy), calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for the calls that run, cancelled ones too, and release the store."""
        await self._calls.close(self._sync.connector.close)

    @property
    def connector(self) -> Connector:
        """The open store. Its own methods block."""
        return self._sync.connector

    @property
    def name(self) -> str:
        """The name of the collection."""
        return self._sync.name

    @property
    def spec(self) -> Spec:
        """How it lies in the store."""
        return self._sync.spec

    @property
    def policy(self) -> Policy:
        """How calls to the store are repeated."""
        return self._sync.policy

    @property
    def capabilities(self) -> Capabilities:
        """What the store does natively."""
        return self._sync.capabilities

    def require(self, fingerprint: Fingerprint, *, vector: str) -> None:
        """See ``Collection.require``; not awaited."""
        self._sync.require(fingerprint, vector=vector)

    def require_tokens(self, tokens: TokenSpec | None) -> None:
        """See ``Collection.require_tokens``; not awaited."""
        self._sync.require_tokens(tokens)

    async def refresh(self) -> None:
        """See ``Collection.refresh``."""
        await self._calls.run(self._sync.refresh)

    async def alter(
        self,
        *,
        fields: Sequence[Field] = (),
        vectors: Sequence[Vector] = (),
        sources: Sequence[Source] = (),
    ) -> None:
        """See ``Collection.alter``."""
        await self._calls.run(self._sync.alter, fields=fields, vectors=vectors, sources=sources)

    async def drop(self) -> None:
        """See ``Collection.drop``."""
        await self._calls.run(self._sync.drop)

    async def flush(self) -> None:
        """See ``Collection.flush``."""
        await self._calls.run(self._sync.flush)

    async def alias(self, alias: str) -> None:
        """See ``Collection.alias``."""
        await self._calls.run(self._sync.alias, alias)

    async def unalias(self, alias: str) -> None:
        """See ``Collection.unalias``."""
        await self._calls.run(self._sync.unalias, alias)

    async def aliases(self) -> list[str]:
        """See ``Collection.aliases``."""
        return await self._calls.run(self._sync.aliases)

    async def upsert(self, batch: Batch) -> None:
        """See ``Collection.upsert``. When cancelled while it runs, the batch is written all the same."""
        await self._calls.run(self._sync.upsert, batch)

    async def delete(self, ids: Sequence[str]) -> None:
        """See ``Collection.delete``."""
        await self._calls.run(self._sync.delete, ids)

    async def delete_where(self, where: Filter) -> None:
        """See ``Collection.delete_where``."""
        await self._calls.run(self._sync.delete_where, where)

    async def fetch(self, ids: Sequence[str], *, want: Want = Want()) -> Batch:
        """See ``Collection.fetch``."""
        return await self._calls.run(self._sync.fetch, ids, want=want)

    async def search(
        self,
        queries: ArrayLike,
        *,
        k: int = 10,
        where: Filter | None = None,
        using: str | None = None,
        threshold: float | None = None,
        tuning: Tuning = Tuning(),
        want: Want = Want(),
    ) -> list[list[Hit]]:
        """See ``Collection.search``."""
        search = self._sync.search
        return await self._calls.run(
            search, queries, k=k, where=where, using=using, threshold=threshold, tuning=tuning, want=want
        )

    async def search_one(
        self,
        query: ArrayLike,
        *,
        k: int = 10,
        where: Filter | None = None,
        using: str | None = None,
        threshold: float | None = None,
        tuning: Tuning = Tuning(),
        want: Want = Want(),
    ) -> list[Hit]:
        """See ``Collection.search_one``."""
        search = self._sync.search_one
        return await self._calls.run(
            search, query, k=k, where=where, using=using, threshold=threshold, tuning=tuning, want=want
        )

    async def scan(
        self,
        *,
        where: Filter | None = None,
        want: Want = Want(),
        size: int = 1000,
        after: str | None = None,
        since: int | None = None,
    ) -> AsyncIterator[Page]:
        """See ``Collection.scan``: ``async for page in collection.scan()``. A page is fetched when it is asked
        for. When cancelled, go on with a new scan behind the last page: ``after=page.after``.
        """
        pages = self._sync.scan(where=where, want=want, size=size, after=after, since=since)
        while (page := await self._calls.run(_next, pages)) is not None:
            yield page

    async def count(self, where: Filter | None = None) -> int:
        """See ``Collection.count``."""
        return await self._calls.run(self._sync.count, where)


def _next(pages: Iterator[Page]) -> Page | None:
    return next(pages, None)


class AsyncImageIndex:
    """An ``ImageIndex``, awaited. Made by ``pixdex.aio.open``; close it, or use it in an ``async with``."""

    def __init__(self, index: ImageIndex, *, limiter: Limiter | None = None) -> None:
        """Serve ``index`` by ``limiter``, or by the default one."""
        self._calls = _Calls(limiter)
        self._sync = index

    @property
    def encoder(self) -> Encoder:
        """What makes vectors of pictures."""
        return self._sync.encoder

    async def collection(self) -> AsyncCollection:
        """See ``ImageIndex.collection``. Awaited, since it asks the store when nothing was added by this handle.
        It shares the threads and the life of this index.
        """
        found = await self._calls.run(lambda: self._sync.collection)
        return AsyncCollection._sharing(found, self._calls)  # noqa: SLF001 - two halves of one module

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for the calls that run, cancelled ones too, and release the store."""
        await self._calls.close(self._sync.close)

    async def add(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        fields: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        source: str | None = None,
        tokens: bool | None = None,
        column: str | None = None,
        allow_remote: bool = False,
        allow_private: bool = False,
        progress: Progress | bool | None = None,
    ) -> Report:
        """See ``ImageIndex.add``. An iterator of pictures is read, and ``progress`` called, in a thread.

        When cancelled, it stops after the chunk in hand, and only then does the cancellation go on: nothing reads
        the pictures or writes any more. What was written stays.
        """
        stop = threading.Event()

        def add() -> Report:
            with following(progress) as follow:
                watch = partial(_stop_or_follow, stop, follow)
                return self._sync.add(
                    pictures,
                    fields=fields,
                    ids=ids,
                    source=source,
                    tokens=tokens,
                    column=column,
                    allow_remote=allow_remote,
                    allow_private=allow_private,
                    progress=watch,
                )

        return await self._calls.run_to_rest(add, stop.set)

    async def declare(self, fields: Fields) -> None:
        """See ``ImageIndex.declare``."""
        await self._calls.run(self._sync.declare, fields)

    async def search(
        self,
        query: Any = None,
        *,
        text: str | None = None,
        k: int = 10,
        where: Filter | None = None,
        threshold: float | None = None,
        exclude_self: bool = False,
        rerank: Reranker | str | None = None,
        candidates: int = 100,
        tuning: Tuning = Tuning(),
    ) -> list[Hit]:
        """See ``ImageIndex.search``."""
        return await self._calls.run(
            self._sync.search,
            query,
            text=text,
            k=k,
            where=where,
            threshold=threshold,
            exclude_self=exclude_self,
            rerank=rerank,
            candidates=candidates,
            tuning=tuning,
        )

    async def get(self, ids: str | Sequence[str], *, want: Want = Want()) -> Batch:
        """See ``ImageIndex.get``."""
        return await self._calls.run(self._sync.get, ids, want=want)

    async def delete(self, what: str | Sequence[str] | Filter) -> None:
        """See ``ImageIndex.delete``."""
        await self._calls.run(self._sync.delete, what)

    async def count(self, where: Filter | None = None) -> int:
        """See ``ImageIndex.count``."""
        return await self._calls.run(self._sync.count, where)

    async def info(self) -> Info:
        """See ``ImageIndex.info``."""
        return await self._calls.run(self._sync.info)


class _Stopped(Exception):
    """The add was cancelled."""


def _stop_or_follow(stop: threading.Event, follow: Progress | None, report: Report) -> None:
    if stop.is_set():
        raise _Stopped
    if follow is not None:
        follow(report)
