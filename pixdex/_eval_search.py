"""Rankings of an evaluation: as the store gives them, and as an exact search would."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pixdex.scores import similarities
from pixdex.types import Hit, Tuning, Want

if TYPE_CHECKING:
    from pixdex._eval_queries import Gallery, Queries
    from pixdex._progress import Count
    from pixdex.collection import Collection
    from pixdex.filters import Filter

__all__ = ["SHOWN", "Exact", "Ranking", "exact_ranking", "overlap", "through_store"]

SHOWN = 8
"""Hits of each query that are kept with their scores."""
_AT_ONCE = 64
_PAGE = 1000
_SCORED_AT_ONCE = 4096
_NONE = -1
_TOLERANCE = 1e-5
"""Scores closer than that, by magnitude, are equal: see DESIGN, Scores."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What was found.

    Attributes:
        rows: int64 ``[q, depth]``, rows of the gallery, best first; -1 behind the last, and for what is not in the gallery.
        best: the first hits of each query, with scores.
        seconds: what the searches took.
    """

    rows: NDArray[np.int64]
    best: tuple[tuple[Hit, ...], ...]
    seconds: float


def through_store(
    collection: Collection,
    gallery: Gallery,
    queries: Queries,
    depth: int,
    *,
    using: str,
    where: Filter | None,
    tuning: Tuning,
    count: Count | None,
) -> Ranking:
    """The store's own search, with whatever its index loses."""
    row_of = gallery.rows()
    rows = np.full((len(queries.ids), depth), _NONE, dtype=np.int64)
    best: list[tuple[Hit, ...]] = []
    seconds = 0.0
    more = max(map(len, queries.own), default=0)
    for start in range(0, len(queries.ids), _AT_ONCE):
        block = queries.vectors[start : start + _AT_ONCE]
        began = time.perf_counter()
        found = collection.search(
            block, k=depth + more, where=where, using=using, tuning=tuning, want=Want(payload=False)
        )
        seconds += time.perf_counter() - began
        for query, hits in enumerate(found, start):
            own = {gallery.ids[row] for row in queries.own[query]}
            kept = [hit for hit in hits if hit.id not in own][:depth]
            rows[query, : len(kept)] = [row_of.get(hit.id, _NONE) for hit in kept]
            best.append(tuple(kept[:SHOWN]))
        if count is not None:
            count(len(best), len(queries.ids))
    return Ranking(rows, tuple(best), seconds)


@dataclass(frozen=True, slots=True)
class Exact:
    """What an exact search finds.

    Attributes:
        rows: as of a ``Ranking``.
        scores: float64 ``[q, depth]``, falling; minus infinity behind the last.
        of_store: float64 ``[q, depth]``, the true scores of what the store found; minus infinity where it found nothing.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    of_store: NDArray[np.float64]


def exact_ranking(
    collection: Collection,
    gallery: Gallery,
    queries: Queries,
    store: Ranking,
    *,
    using: str,
    where: Filter | None,
    count: Count | None,
) -> Exact:
    """Every record scored, by one reading of the collection: the same on any store, and no index in it."""
    metric = collection.spec.vector(using).metric
    count_of, depth, total = len(queries.ids), store.rows.shape[1], len(gallery.ids)
    row_of = gallery.rows()
    scores = np.full((count_of, depth), -np.inf)
    rows = np.full((count_of, depth), _NONE, dtype=np.int64)
    of_store = np.full(store.rows.shape, -np.inf)
    place = np.full(total + 1, _NONE, dtype=np.int64)  # the last for -1, which is not in the gallery
    done = 0
    for page in collection.scan(where=where, want=Want(payload=False, vectors=(using,)), size=_PAGE):
        batch = page.batch
        there = [at for at in np.flatnonzero(batch.present(using)).tolist() if batch.ids[at] in row_of]
        of_page = np.array([row_of[batch.ids[at]] for at in there], dtype=np.int64)
        place[of_page] = np.arange(len(of_page))
        for start in range(0, count_of if there else 0, _SCORED_AT_ONCE):
            block = slice(start, start + _SCORED_AT_ONCE)
            found = similarities(metric, queries.vectors[block], batch.vectors[using][there])
            at = place[store.rows[block]]
            theirs = np.take_along_axis(found, np.maximum(at, 0), axis=1)
            of_store[block] = np.where(at >= 0, theirs, of_store[block])
            for query, own in enumerate(queries.own[block]):
                found[query, [place[row] for row in own if place[row] >= 0]] = -np.inf
            scores[block], rows[block] = _best(scores[block], rows[block], found, of_page)
        place[of_page] = _NONE
        done += len(there)
        if count is not None:
            count(done, max(total, done))
    order = np.lexsort((rows, -scores), axis=1)
    scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
    rows[np.isneginf(scores)] = _NONE
    return Exact(rows, scores, of_store)


def _best(
    scores: NDArray[np.float64], rows: NDArray[np.int64], found: NDArray[np.float64], of_page: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The best so far, in no order."""
    depth = scores.shape[1]
    all_scores = np.concatenate([scores, found], axis=1)
    all_rows = np.concatenate([rows, np.broadcast_to(of_page, found.shape)], axis=1)
    kept = np.argpartition(-all_scores, depth - 1, axis=1)[:, :depth]
    return np.take_along_axis(all_scores, kept, axis=1), np.take_along_axis(all_rows, kept, axis=1)


def overlap(exact: Exact) -> NDArray[np.float64]:
    """float64 ``[q]``: the share of the exact hits that the store found, NaN where there are none. A hit as good as the last of
    them, within the tolerance of scores, is one of them: of equal ones nobody can say which comes first.
    """
    there = np.isfinite(exact.scores)
    wanted = there.sum(axis=1)
    last = np.where(there, exact.scores, np.inf).min(axis=1, initial=np.inf)
    bar = last - _TOLERANCE * np.maximum(1, np.abs(np.where(np.isfinite(last), last, 0)))
    found = np.minimum((exact.of_store >= bar[:, None]).sum(axis=1), wanted)
    return np.where(wanted > 0, found / np.maximum(wanted, 1), np.nan)
