"""Collections and indexes for programs on asyncio: the same verbs, awaited.

Every call runs the one of ``Collection`` or ``ImageIndex`` in a thread of a ``Limiter``; there is no second
implementation. ``DEFAULT_THREADS`` calls run at once, of all objects and event loops together, and further ones
wait their turn; ``set_default_limiter`` puts another limiter in place.

A call that is cancelled returns at once, and is left out if it waits for a thread still. One that runs cannot be
stopped half-way: its thread finishes it, so that a write is written whole, and is then free for others. Jobs alone return late:
``add``, ``encode``, ``load``, ``label``, ``copy``, ``reindex`` and ``rollback`` stop between chunks, what was written stays, and
the same call goes on from there; so do ``evaluate``, ``compare``, ``calibrate``, ``fit_fusion`` and ``find_duplicates``, which
change nothing. ``close`` waits for what runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pixdex._aio_collection import AsyncCollection
from pixdex._aio_running import Target, awaited, calls_of, sync_of
from pixdex._limiter import DEFAULT_THREADS, Calls, Limiter, default_limiter, set_default_limiter
from pixdex._progress import counted, following
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.fusion import Method, Moment, Place
from pixdex.types import Batch, Hit, Tuning, Want

if TYPE_CHECKING:
    from pixdex._aio_jobs import calibrate, copy, find_duplicates, fit_fusion, label, reindex, rollback
    from pixdex._progress import Count
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
    "calibrate",
    "compare",
    "copy",
    "default_limiter",
    "encode",
    "evaluate",
    "find_duplicates",
    "fit_fusion",
    "label",
    "load",
    "open",
    "reindex",
    "rollback",
    "set_default_limiter",
]

_JOBS = frozenset({"calibrate", "copy", "find_duplicates", "fit_fusion", "label", "reindex", "rollback"})
"""Loaded when they are asked for, since what they do loads numpy and more."""


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
        return await awaited(self._calls, lambda watch: add(progress=watch), following(progress))

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

    return await awaited(Calls(None), run, following(progress))


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

    return await awaited(Calls(None), run, following(progress))


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
            sync_of(target),
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

    return await awaited(calls_of(target), run, counted("evaluating", progress))


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
            sync_of(first),
            sync_of(second),
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

    return await awaited(calls_of(first), run, counted("evaluating", progress))


def __getattr__(name: str) -> Any:
    if name not in _JOBS:
        raise AttributeError(f"module 'pixdex.aio' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module("pixdex._aio_jobs"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
