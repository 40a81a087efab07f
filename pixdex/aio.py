"""Collections and indexes for programs on asyncio: the same verbs, awaited.

Every call runs the one of ``Collection`` or ``ImageIndex`` in a thread of a ``Limiter``; there is no second
implementation. ``DEFAULT_THREADS`` calls run at once, of all objects and event loops together, and further ones
wait their turn; ``set_default_limiter`` puts another limiter in place.

A call that is cancelled returns at once, and is left out if it waits for a thread still. One that runs cannot be
stopped half-way: its thread finishes it, so that a write is written whole, and is then free for others. ``add``,
``encode`` and ``load`` alone return late: they stop between chunks, what was written stays, and the same call goes on
from there; so do ``evaluate`` and ``compare``, which write nothing. ``close`` waits for what runs.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from pixdex._limiter import DEFAULT_THREADS, Calls, Limiter, default_limiter, set_default_limiter
from pixdex._progress import Count, counting, following
from pixdex.collection import Collection
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.fusion import Method, Moment, Place
from pixdex.types import Batch, Field, Fingerprint, Hit, Page, Source, Spec, TokenSpec, Tuning, Vector, Want

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pixdex.connectors.port import Capabilities, Compacted, Connector, Finding
    from pixdex.encoders.port import Encoder, WordEncoder
    from pixdex.evaluating import Comparison, Evaluation
    from pixdex.explaining import Explanation
    from pixdex.filters import Filter
    from pixdex.index import Fields, ImageIndex, Info
    from pixdex.jobs import Job
    from pixdex.pictures import Picture
    from pixdex.policy import Policy
    from pixdex.report import Progress, Report
    from pixdex.rerankers.port import Reranker
    from pixdex.rerankers.stages import Rerank

__all__ = [
    "DEFAULT_THREADS",
    "AsyncCollection",
    "AsyncImageIndex",
    "Limiter",
    "Target",
    "compare",
    "default_limiter",
    "encode",
    "evaluate",
    "load",
    "open",
    "set_default_limiter",
]


R = TypeVar("R")


async def open(  # noqa: A001 - as pixdex.open
    url: str,
    *,
    encoder: Encoder | str | None = None,
    text_encoder: WordEncoder | str | None = None,
    fields: Fields | None = None,
    tokens: bool = False,
    policy: Policy | None = None,
) -> AsyncImageIndex:
    """``pixdex.open``, awaited. Use the index in an ``async with``, or await its ``close``."""
    limiter = default_limiter()
    job = limiter.submit(lambda: _opened(url, encoder, text_encoder, fields, policy, tokens=tokens))
    try:
        return AsyncImageIndex(await asyncio.wrap_future(job), limiter=limiter)
    except asyncio.CancelledError:
        job.add_done_callback(_close_unclaimed)
        raise


def _opened(
    url: str,
    encoder: Encoder | str | None,
    text_encoder: WordEncoder | str | None,
    fields: Fields | None,
    policy: Policy | None,
    *,
    tokens: bool,
) -> ImageIndex:
    from pixdex import index  # late: it loads numpy

    return index.open(url, encoder=encoder, text_encoder=text_encoder, fields=fields, tokens=tokens, policy=policy)


def _close_unclaimed(job: Future[ImageIndex]) -> None:
    if not job.cancelled() and job.exception() is None:
        job.result().close()


class AsyncCollection:
    """A ``Collection``, awaited. What asks nothing of the store is a property or a plain method, as there."""

    def __init__(self, collection: Collection, *, limiter: Limiter | None = None) -> None:
        """Serve ``collection`` by ``limiter``, or by the default one."""
        self._calls = Calls(limiter)
        self._sync = collection

    @classmethod
    def _sharing(cls, collection: Collection, calls: Calls) -> AsyncCollection:
        made = cls(collection)
        made._calls = calls
        return made

    @classmethod
    async def create(
        cls, connector: Connector, name: str, spec: Spec, *, policy: Policy | None = None
    ) -> AsyncCollection:
        """See ``Collection.create``. When cancelled, the collection may have been made."""
        calls = Calls(None)
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
        calls = Calls(None)
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

    async def settle(self, *, progress: Callable[[int, int], None] | None = None) -> None:
        """See ``Collection.settle``; ``progress`` is called in a thread."""
        await self._calls.run(self._sync.settle, progress=progress)

    async def compact(self, *, progress: Callable[[int, int], None] | None = None) -> Compacted:
        """See ``Collection.compact``; ``progress`` is called in a thread."""
        return await self._calls.run(self._sync.compact, progress=progress)

    async def verify(self, *, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
        """See ``Collection.verify``; ``progress`` is called in a thread."""
        return await self._calls.run(self._sync.verify, progress=progress)

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
        self._calls = Calls(limiter)
        self._sync = index

    @property
    def encoder(self) -> Encoder:
        """What makes vectors of pictures."""
        return self._sync.encoder

    async def text_encoder(self) -> WordEncoder | None:
        """See ``ImageIndex.text_encoder``. Awaited, since it may be loaded."""
        return await self._calls.run(lambda: self._sync.text_encoder)

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
        text: str | None = None,
        tokens: bool | None = None,
        column: str | None = None,
        allow_remote: bool = False,
        allow_private: bool = False,
        decoding: Decoding = Decoding(),
        workers: int | None = None,
        patience: float = PATIENCE,
        job: Job | None = None,
        progress: Progress | bool | None = None,
    ) -> Report:
        """See ``ImageIndex.add``. An iterator of pictures is read, and ``progress`` called, in a thread.

        When cancelled, it stops after the chunk in hand, and only then does the cancellation go on: nothing reads
        the pictures or writes any more. What was written stays.
        """
        add = partial(
            self._sync.add,
            pictures,
            fields=fields,
            ids=ids,
            source=source,
            text=text,
            tokens=tokens,
            column=column,
            allow_remote=allow_remote,
            allow_private=allow_private,
            decoding=decoding,
            workers=workers,
            patience=patience,
            job=job,
        )
        return await _stoppable(self._calls, lambda watch: add(progress=watch), progress=progress)

    async def declare(self, fields: Fields) -> None:
        """See ``ImageIndex.declare``."""
        await self._calls.run(self._sync.declare, fields)

    async def search(
        self,
        query: Any = None,
        *,
        text: str | None = None,
        more_like: Sequence[Any] = (),
        less_like: Sequence[Any] = (),
        near: Place | tuple[float, float] | None = None,
        at: Moment | datetime | None = None,
        weights: Mapping[str, float] | None = None,
        fusion: Method | str = Method.RRF,
        k: int = 10,
        where: Filter | None = None,
        threshold: float | None = None,
        exclude_self: bool = False,
        rerank: Rerank | None = None,
        candidates: int = 100,
        tuning: Tuning = Tuning(),
        decoding: Decoding = Decoding(),
    ) -> list[Hit]:
        """See ``ImageIndex.search``."""
        return await self._calls.run(
            self._sync.search,
            query,
            text=text,
            more_like=more_like,
            less_like=less_like,
            near=near,
            at=at,
            weights=weights,
            fusion=fusion,
            k=k,
            where=where,
            threshold=threshold,
            exclude_self=exclude_self,
            rerank=rerank,
            candidates=candidates,
            tuning=tuning,
            decoding=decoding,
        )

    async def explain(
        self,
        query: Any,
        hit: Hit | str,
        *,
        rerank: Reranker | str = "maxsim",
        decoding: Decoding = Decoding(),
    ) -> Explanation:
        """See ``ImageIndex.explain``."""
        return await self._calls.run(self._sync.explain, query, hit, rerank=rerank, decoding=decoding)

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


async def encode(
    pictures: Picture | Iterable[Picture],
    target: str | os.PathLike[str],
    *,
    encoder: Encoder | str | None = None,
    declare: Fields | None = None,
    fields: Mapping[str, Any] | None = None,
    ids: Sequence[str] | None = None,
    source: str | None = None,
    tokens: bool = False,
    column: str | None = None,
    allow_remote: bool = False,
    allow_private: bool = False,
    decoding: Decoding = Decoding(),
    workers: int | None = None,
    patience: float = PATIENCE,
    progress: Progress | bool | None = None,
) -> Report:
    """``pixdex.encode``, awaited. When cancelled, it stops after the chunk in hand, and only then does the cancellation
    go on; the same call goes on from there.
    """

    def run(watch: Progress) -> Report:
        from pixdex import transfer  # late: it loads numpy

        return transfer.encode(
            pictures,
            target,
            encoder=encoder,
            declare=declare,
            fields=fields,
            ids=ids,
            source=source,
            tokens=tokens,
            column=column,
            allow_remote=allow_remote,
            allow_private=allow_private,
            decoding=decoding,
            workers=workers,
            patience=patience,
            progress=watch,
        )

    return await _stoppable(Calls(None), run, progress=progress)


async def load(
    url: str,
    file: str | os.PathLike[str],
    *,
    policy: Policy | None = None,
    progress: Progress | bool | None = None,
) -> Report:
    """``pixdex.load``, awaited. When cancelled, it stops after the part in hand, and only then does the cancellation go
    on; the same call goes on from there.
    """

    def run(watch: Progress) -> Report:
        from pixdex import transfer  # late: it loads numpy

        return transfer.load(url, file, policy=policy, progress=watch)

    return await _stoppable(Calls(None), run, progress=progress)


Target: TypeAlias = "str | AsyncImageIndex | AsyncCollection"
"""What is evaluated: an address, or what is open already."""


async def evaluate(
    target: Target,
    *,
    label: str,
    queries: Picture | Iterable[Picture] | None = None,
    where: Filter | None = None,
    k: int = 100,
    metrics: Sequence[str] | None = None,
    exact: bool = False,
    limit: int | None = None,
    seed: int = 0,
    using: str | None = None,
    tuning: Tuning = Tuning(),
    progress: Count | bool | None = None,
) -> Evaluation:
    """``pixdex.evaluating.evaluate``, awaited; ``progress`` is called in a thread. When cancelled, it stops between searches,
    and only then does the cancellation go on.
    """

    def run(watch: Count) -> Evaluation:
        from pixdex import evaluating  # late: it loads numpy

        return evaluating.evaluate(
            _sync_of(target),
            label=label,
            queries=queries,
            where=where,
            k=k,
            metrics=metrics,
            exact=exact,
            limit=limit,
            seed=seed,
            using=using,
            tuning=tuning,
            progress=watch,
        )

    return await _watched(_calls_of(target), run, progress)


async def compare(
    first: Target,
    second: Target,
    *,
    label: str,
    queries: Picture | Iterable[Picture] | None = None,
    where: Filter | None = None,
    k: int = 100,
    metrics: Sequence[str] | None = None,
    exact: bool = False,
    limit: int | None = None,
    seed: int = 0,
    using: str | None = None,
    tuning: Tuning = Tuning(),
    progress: Count | bool | None = None,
) -> Comparison:
    """``pixdex.evaluating.compare``, awaited, as ``evaluate``."""

    def run(watch: Count) -> Comparison:
        from pixdex import evaluating  # late: it loads numpy

        return evaluating.compare(
            _sync_of(first),
            _sync_of(second),
            label=label,
            queries=queries,
            where=where,
            k=k,
            metrics=metrics,
            exact=exact,
            limit=limit,
            seed=seed,
            using=using,
            tuning=tuning,
            progress=watch,
        )

    return await _watched(_calls_of(first), run, progress)


def _sync_of(target: Target) -> str | ImageIndex | Collection:
    return target if isinstance(target, str) else target._sync  # noqa: SLF001 - of this module


def _calls_of(target: Target) -> Calls:
    return Calls(None) if isinstance(target, str) else target._calls  # noqa: SLF001 - of this module


async def _watched(calls: Calls, work: Callable[[Count], R], progress: Count | bool | None) -> R:  # noqa: FBT001 - as given
    """``work``, which says now and then how far it is; when cancelled, it is stopped there."""
    stop = threading.Event()

    def run() -> R:
        with counting("evaluating", progress if isinstance(progress, bool) else None) as bar:
            follow = progress if callable(progress) else bar
            return work(partial(_stop_or_count, stop, follow))

    return await calls.run_to_rest(run, stop.set)


def _stop_or_count(stop: threading.Event, follow: Count | None, done: int, total: int) -> None:
    if stop.is_set():
        raise _Stopped
    if follow is not None:
        follow(done, total)


async def _stoppable(calls: Calls, work: Callable[[Progress], Report], *, progress: Progress | bool | None) -> Report:
    """``work``, which says now and then how far it is; when cancelled, it is stopped there."""
    stop = threading.Event()

    def run() -> Report:
        with following(progress) as follow:
            return work(partial(_stop_or_follow, stop, follow))

    return await calls.run_to_rest(run, stop.set)


class _Stopped(Exception):
    """The call was cancelled."""


def _stop_or_follow(stop: threading.Event, follow: Progress | None, report: Report) -> None:
    if stop.is_set():
        raise _Stopped
    if follow is not None:
        follow(report)
