"""What an evaluation of a collection gives: of one, and of two over the same queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pixdex.evaluation import Interval
from pixdex.report import Quarantined
from pixdex.types import Hit

if TYPE_CHECKING:
    from pixdex._eval_queries import Label

__all__ = ["Comparison", "Evaluation", "Query"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What became of one query.

    Attributes:
        id: of the record, or what a picture would be called.
        label: what is right.
        path: where its picture lies; None where nobody knows.
        positives: how many right answers there are.
        first_right: the rank of the first right answer, 0 where none was found.
        hits: the first few, without payload.
        right: which of those are right.
    """

    id: str
    label: Label
    path: str | None
    positives: int
    first_right: int
    hits: tuple[Hit, ...]
    right: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How well a collection is searched.

    Attributes:
        collection: its name.
        store: the scheme of its store.
        encoder: what the collection calls its encoder.
        fingerprint: digest of the encoder's fingerprint.
        label: the field that says what is right.
        depth: how many hits of each query were looked at.
        records: how many can be found.
        classes: how many labels they have.
        queries: what became of each.
        values: name of a metric -> float64 ``[queries]``.
        metrics: name -> mean and 95 % interval over the queries.
        exact: the same of an exact search; None where none was asked for.
        ann_recall: the share of the exact hits that the store found, of the first ``depth``; None without exact search.
        seconds: what the store's searches took, all together.
        unusable: pictures that could not be queries.
        notices: what to know of these numbers, in sentences.
    """

    collection: str
    store: str
    encoder: str
    fingerprint: str
    label: str
    depth: int
    records: int
    classes: int
    queries: tuple[Query, ...] = field(repr=False)
    values: Mapping[str, NDArray[np.float64]] = field(repr=False)
    metrics: Mapping[str, Interval]
    exact: Mapping[str, Interval] | None
    ann_recall: Interval | None
    seconds: float
    unusable: tuple[Quarantined, ...]
    notices: tuple[str, ...]

    def recall_curve(self) -> NDArray[np.float64]:
        """float64 ``[depth]``: Recall@k (the hit rate) for k = 1 ... depth, of the queries that have a right answer."""
        ranks = np.array([query.first_right for query in self.queries if query.positives])
        counts = np.bincount(ranks, minlength=self.depth + 1)[1 : self.depth + 1]
        curve: NDArray[np.float64] = np.cumsum(counts) / max(1, len(ranks))
        return curve

    def by_label(self, metric: str) -> dict[Label, float]:
        """The mean of a metric over the queries of each label, the lowest first."""
        values: dict[Label, list[float]] = {}
        for query, value in zip(self.queries, self.values[metric].tolist(), strict=True):
            if query.positives:
                values.setdefault(query.label, []).append(value)
        means = {label: float(np.mean(each)) for label, each in values.items()}
        return dict(sorted(means.items(), key=lambda item: (item[1], str(item[0]))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two evaluations over the same queries.

    Attributes:
        first: the one.
        second: the other.
        differences: name of a metric -> first minus second: mean and 95 % interval of the paired bootstrap.
        notices: what to know of the comparison, in sentences.
    """

    first: Evaluation
    second: Evaluation
    differences: Mapping[str, Interval]
    notices: tuple[str, ...]
