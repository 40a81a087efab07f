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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from pixdex._aio_collection import AsyncCollection
from pixdex._limiter import DEFAULT_THREADS, Calls, Limiter, default_limiter, set_default_limiter
from pixdex._progress import Count, counting, following
from pixdex.collection import Collection
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.fusion import Method, Moment, Place
from pixdex.types import Batch, Hit, Tuning, Want

if TYPE_CHECKING:
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
