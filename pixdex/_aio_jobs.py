"""Jobs of ``pixdex.aio``: the sync ones, awaited. Apart from it, since their defaults take numpy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixdex import calibrating, copying, dedup, fusion_fitting, labelling, reindexing
from pixdex._aio_collection import AsyncCollection
from pixdex._aio_running import Target, awaited, calls_of, sync_of
from pixdex._limiter import Calls
from pixdex._progress import Count, counted
from pixdex.calibrating import Outcome
from pixdex.copying import CopyReport, Follow, Sampling, Until
from pixdex.dedup import Duplicates, Keep, Near, Seen
from pixdex.encoders.decoding import Decoding
from pixdex.fields import IMAGE
from pixdex.fusion import Method
from pixdex.fusion_fitting import Fitted, Sought
from pixdex.labelling import By, LabelReport
from pixdex.reindexing import Options, ReindexReport, RollbackReport
from pixdex.spec import Kind
from pixdex.types import Tuning

if TYPE_CHECKING:
    from pixdex.aio import AsyncImageIndex
    from pixdex.encoders.port import Encoder
    from pixdex.filters import Filter
    from pixdex.pictures import Picture
    from pixdex.policy import Policy
    from pixdex.rerankers.port import Reranker

__all__ = ["calibrate", "copy", "find_duplicates", "fit_fusion", "label", "reindex", "rollback"]

Watch = Callable[..., None]


async def copy(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    into_existing: bool = False,
    replace_others: bool = False,
    rate: float | None = None,
    overlap: float = 60.0,
    sampling: Sampling = Sampling(),
    switch_alias: str | None = None,
    switch_from: str | None = None,
    follow: Until | None = None,
    policy: Policy | None = None,
    progress: Follow | None = None,
) -> CopyReport:
    """``pixdex.copy``, awaited; ``progress`` is called in a thread. When cancelled, it stops after the page in hand, and only then
    does the cancellation go on; the same call goes on from there. While it keeps up (``follow``), that may take ``follow.every``
    seconds.
    """
    work = partial(
        copying.copy,
        source,
        target,
        into_existing=into_existing,
        replace_others=replace_others,
        rate=rate,
        overlap=overlap,
        sampling=sampling,
        switch_alias=switch_alias,
        switch_from=switch_from,
        follow=follow,
        policy=policy,
    )
    return await awaited(Calls(None), lambda watch: work(progress=watch), nullcontext(progress))


async def reindex(
    url: str,
    *,
    encoder: Encoder | str,
    options: Options = Options(),
    policy: Policy | None = None,
    progress: Follow | None = None,
) -> ReindexReport:
    """``pixdex.reindex``, awaited, as ``copy``. Searches of indexes that follow the alias go on meanwhile."""
    work = partial(reindexing.reindex, url, encoder=encoder, options=options, policy=policy)
    return await awaited(Calls(None), lambda watch: work(progress=watch), nullcontext(progress))


async def rollback(
    url: str,
    *,
    to: str | None = None,
    catch_up: bool = False,
    options: Options = Options(),
    policy: Policy | None = None,
    progress: Follow | None = None,
) -> RollbackReport:
    """``pixdex.rollback``, awaited, as ``copy``."""
    work = partial(reindexing.rollback, url, to=to, catch_up=catch_up, options=options, policy=policy)
    return await awaited(Calls(None), lambda watch: work(progress=watch), nullcontext(progress))


async def label(
    target: Target,
    file: str | os.PathLike[str],
    *,
    label: str | Sequence[str] | None = None,
    field: str | None = None,
    kind: Kind | str | None = None,
    column: str | None = None,
    by: By | str | None = None,
    root: str | os.PathLike[str] | None = None,
    largest: bool = False,
    declare: bool = True,
    dry_run: bool = False,
    progress: Count | bool | None = None,
) -> LabelReport:
    """``pixdex.labelling.label``, awaited, as ``copy``."""

    def run(watch: Watch) -> LabelReport:
        return labelling.label(
            sync_of(target),
            file,
            label=label,
            field=field,
            kind=kind,
            column=column,
            by=by,
            root=root,
            largest=largest,
            declare=declare,
            dry_run=dry_run,
            progress=watch,
        )

    return await awaited(calls_of(target), run, counted("labelling", progress))


async def find_duplicates(
    collection: AsyncCollection,
    near: Near = Near(),
    *,
    keep: Keep = Keep.LARGEST,
    using: str = IMAGE,
    where: Filter | None = None,
    decoding: Decoding = Decoding(),
    progress: Seen | None = None,
) -> Duplicates:
    """``pixdex.dedup.find_duplicates``, awaited; ``progress`` is called in a thread. When cancelled, it stops between pages, and
    only then does the cancellation go on.
    """
    found: Any = sync_of(collection)
    work = partial(dedup.find_duplicates, found, near, keep=keep, using=using, where=where, decoding=decoding)
    return await awaited(calls_of(collection), lambda watch: work(progress=watch), nullcontext(progress))


async def calibrate(
    target: Target,
    rerank: str | Reranker,
    *,
    label: str | None = None,
    copies: bool = False,
    output: str | Path | None = None,
    candidates: int = 100,
    limit: int = 500,
    using: str | None = None,
    seed: int = 0,
    progress: Count | bool | None = None,
) -> Outcome:
    """``pixdex.calibrating.calibrate``, awaited, as ``find_duplicates``."""

    def run(watch: Watch) -> Outcome:
        return calibrating.calibrate(
            sync_of(target),
            rerank,
            label=label,
            copies=copies,
            output=output,
            candidates=candidates,
            limit=limit,
            using=using,
            seed=seed,
            progress=watch,
        )

    return await awaited(calls_of(target), run, counted("calibrating", progress))


async def fit_fusion(
    target: str | AsyncImageIndex,
    *,
    label: str,
    evidence: Sequence[str] | Sought = ("image", "text"),
    queries: Picture | Iterable[Picture] | None = None,
    query_text: str | None = None,
    methods: Sequence[Method | str] = tuple(Method),
    where: Filter | None = None,
    k: int = 100,
    limit: int | None = None,
    folds: int = 5,
    seed: int = 0,
    tuning: Tuning = Tuning(),
    progress: Count | bool | None = None,
) -> Fitted:
    """``pixdex.fusion_fitting.fit_fusion``, awaited, as ``find_duplicates``."""
    index: Any = sync_of(target)

    def run(watch: Watch) -> Fitted:
        return fusion_fitting.fit_fusion(
            index,
            label=label,
            evidence=evidence,
            queries=queries,
            query_text=query_text,
            methods=methods,
            where=where,
            k=k,
            limit=limit,
            folds=folds,
            seed=seed,
            tuning=tuning,
            progress=watch,
        )

    return await awaited(calls_of(target), run, counted("fitting weights", progress))
