"""An evaluation step by step: what was asked for, and one collection of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from pixdex import _eval_queries as asking
from pixdex import _eval_search as searching
from pixdex._eval_results import Evaluation, Query
from pixdex._progress import Count, counted
from pixdex.errors import ConfigError, Unsupported
from pixdex.evaluation import Interval, Measure, interval, named
from pixdex.evaluation.metrics import Found
from pixdex.pictures import Picture
from pixdex.types import Tuning

if TYPE_CHECKING:
    from pixdex._eval_queries import Gallery, Pictures, Queries
    from pixdex.collection import Collection
    from pixdex.encoders.port import Encoder
    from pixdex.filters import Filter

__all__ = ["Plan", "Side"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for: see ``evaluating.evaluate``.

    Raises:
        ConfigError: no such metric, or a number that makes no sense.
    """

    label: str
    where: Filter | None
    k: int
    metrics: Sequence[str]
    exact: bool
    limit: int | None
    seed: int
    using: str | None
    tuning: Tuning
    progress: Count | bool | None

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ConfigError("metrics: name at least one")
        for name, value in (("k", self.k), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}: 1 at least")
        _ = self.depth

    @property
    def measures(self) -> list[Measure]:
        """The metrics, each once."""
        return list({measure.name: measure for measure in map(named, self.metrics)}.values())

    @property
    def depth(self) -> int:
        """How many hits of each query are looked at: all that a metric asks for."""
        return max(self.k, *(measure.k or 1 for measure in self.measures))

    def chosen(self, each: Sequence[_T]) -> list[_T]:
        """All, or as many as there may be, in their order."""
        if self.limit is None or len(each) <= self.limit:
            return list(each)
        picked = np.random.default_rng(self.seed).choice(len(each), self.limit, replace=False)
        return [each[place] for place in sorted(picked.tolist())]

    def counted(self, what: str) -> AbstractContextManager[Count | None]:
        """Who hears how far it is."""
        return counted(what, self.progress)

    def measured(self, found: Found) -> dict[str, NDArray[np.float64]]:
        """Name of a metric -> a value a query."""
        return {measure.name: measure(found) for measure in self.measures}

    def intervals(self, values: Mapping[str, NDArray[np.float64]]) -> dict[str, Interval]:
        """The means of those."""
        return {name: interval(each, seed=self.seed) for name, each in values.items()}


class Side:
    """One collection that is evaluated, with its encoder where there is one."""

    def __init__(self, collection: Collection, encoder: Encoder | None, plan: Plan) -> None:
        self.collection = collection
        self.encoder = encoder
        self.plan = plan
        self.name = f"{collection.connector.scheme} {collection.name}"
        self._vector = asking.vector_of(collection, plan.using)
        with plan.counted(f"reading {self.name}") as count:
            self.gallery: Gallery = asking.read_gallery(
                collection, plan.label, using=self._vector, where=plan.where, count=count
            )

    def own(self, records: Sequence[str]) -> Queries:
        """Records as queries."""
        if not records:
            raise ConfigError(
                f"no two records of collection {self.collection.name!r} have the same {self.plan.label}: there is nothing "
                "to find"
            )
        with self.plan.counted("reading queries") as count:
            return asking.own_queries(self.collection, self.gallery, records, using=self._vector, count=count)

    def encoded(self, pictures: Picture | Iterable[Picture]) -> Pictures:
        """Pictures, encoded by the encoder of the collection."""
        if self.encoder is None:
            raise Unsupported(
                "queries that are pictures need an encoder: give an ImageIndex (pixdex.open) or its address"
            )
        progress = False if callable(self.plan.progress) else self.plan.progress
        return asking.encoded(pictures, self.encoder, self.gallery, self.plan.label, progress=progress)

    def evaluated(self, queries: Queries, notices: Sequence[str] = ()) -> Evaluation:
        """Search, and measure what is found."""
        plan, gallery = self.plan, self.gallery
        with plan.counted(f"searching {self.name}") as count:
            ranking = searching.through_store(
                self.collection,
                gallery,
                queries,
                plan.depth,
                using=self._vector,
                where=plan.where,
                tuning=plan.tuning,
                count=count,
            )
        codes, positives = _codes(gallery, queries)
        relevance = _relevance(gallery, codes, ranking.rows)
        values = plan.measured(Found.of(relevance, positives))
        exact, ann_recall = self._exactly(queries, ranking, codes, positives) if plan.exact else (None, None)
        vector = self.collection.spec.vector(self._vector)
        return Evaluation(
            collection=self.collection.name,
            store=self.collection.connector.scheme,
            encoder=self.collection.spec.encoder or vector.fingerprint.encoder,
            fingerprint=vector.fingerprint.digest,
            label=plan.label,
            depth=plan.depth,
            records=len(gallery.ids),
            classes=len(gallery.names),
            queries=_queries(queries, positives, relevance, ranking),
            values=values,
            metrics=plan.intervals(values),
            exact=exact,
            ann_recall=ann_recall,
            seconds=ranking.seconds,
            unusable=queries.unusable,
            notices=(*notices, *queries.notices, *_caveats(plan, gallery, queries, positives)),
        )

    def _exactly(
        self, queries: Queries, ranking: searching.Ranking, codes: NDArray[np.int64], positives: NDArray[np.intp]
    ) -> tuple[dict[str, Interval], Interval]:
        plan = self.plan
        with plan.counted(f"searching {self.name} exactly") as count:
            exact = searching.exact_ranking(
                self.collection, self.gallery, queries, ranking, using=self._vector, where=plan.where, count=count
            )
        found = Found.of(_relevance(self.gallery, codes, exact.rows), positives)
        return plan.intervals(plan.measured(found)), interval(searching.overlap(exact), seed=plan.seed)


def _codes(gallery: Gallery, queries: Queries) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Which label each query has, and how many right answers."""
    number = {name: code for code, name in enumerate(gallery.names)}
    codes = np.array([number[label] for label in queries.labels], dtype=np.int64)
    own = [sum(gallery.codes[row] == code for row in rows) for rows, code in zip(queries.own, codes, strict=True)]
    return codes, (gallery.labelled()[codes] - np.array(own, dtype=np.int64)).astype(np.intp)


def _relevance(gallery: Gallery, codes: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which hits are right, bool ``[q, depth]``."""
    right: NDArray[np.bool_] = (rows >= 0) & (gallery.codes[rows] == codes[:, None])
    return right


def _queries(
    queries: Queries, positives: NDArray[np.intp], relevance: NDArray[np.bool_], ranking: searching.Ranking
) -> tuple[Query, ...]:
    first = np.where(relevance.any(axis=1), relevance.argmax(axis=1) + 1, 0)
    return tuple(
        Query(
            id=queries.ids[row],
            label=queries.labels[row],
            path=queries.paths[row],
            positives=int(positives[row]),
            first_right=int(first[row]),
            hits=hits,
            right=tuple(relevance[row, : len(hits)].tolist()),
        )
        for row, hits in enumerate(ranking.best)
    )


def _caveats(plan: Plan, gallery: Gallery, queries: Queries, positives: NDArray[np.intp]) -> Iterator[str]:
    """Where a ranking that ends at some depth tells less than a metric wants to know."""
    beyond = int((positives > plan.depth).sum())
    by_r = [measure.name for measure in plan.measures if measure.k is None and not measure.whole]
    if beyond and by_r:
        yield (
            f"lower bounds: {', '.join(by_r)}: {beyond} of {len(positives)} queries have more than k = {plan.depth} right "
            f"answers; k = {int(positives.max())} would do"
        )
    whole = [measure.name for measure in plan.measures if measure.whole]
    if whole and len(gallery.ids) - min(map(len, queries.own)) > plan.depth:
        yield f"lower bounds: {', '.join(whole)}: what is not among the first {plan.depth} hits counts as not found"
