"""The metrics of one ranked list, and of many at once.

Everywhere ``relevance`` is bool ``[depth]`` or ``[q, depth]``, best hit first: is that hit right? ``positives`` is how many
right answers there are in all, R: int or ``[q]``. Left out, it is how many the list holds, which is only true of a list of
the whole gallery. Values are float64, a number or ``[q]``, in [0, 1]; NaN for a query without any right answer, since it
says nothing about the ranking. What is not in the list counts as not found.

Ranks are counted from 1; P(i) is the share of right ones among the first i, rel(i) is 1 where the hit at rank i is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixdex.errors import ConfigError, nearest

__all__ = [
    "DEFINITIONS",
    "NAMES",
    "Found",
    "Measure",
    "average_precision",
    "average_precision_at_k",
    "average_precision_at_r",
    "average_precision_trapezoid",
    "named",
    "ndcg",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "recall_fraction_at_k",
    "reciprocal_rank",
]

Values: TypeAlias = NDArray[np.float64]
Relevance: TypeAlias = "ArrayLike | Found"


@dataclass(frozen=True, slots=True)
class Found:
    """Where the right answers of some rankings stand: an entry each for ``row``, the query; ``rank``; and ``order``, from 1: it
    is the order-th right one of its query. Most metrics are sums over these few instead of over whole lists, so what is
    measured several times is best looked at once, by ``of``, and given to the functions in place of ``relevance``.
    """

    row: NDArray[np.intp]
    rank: NDArray[np.intp]
    order: NDArray[np.intp]
    positives: NDArray[np.intp]
    single: bool = False

    @classmethod
    def of(cls, relevance: Relevance, positives: ArrayLike | None = None) -> Found:
        """Those of rankings.

        Raises:
            ConfigError: not rankings, or more right answers in one than there are.
        """
        if isinstance(relevance, Found):
            return relevance
        given = np.asarray(relevance, dtype=bool)
        if given.ndim not in {1, 2}:
            raise ConfigError(f"relevance is [depth] or [queries, depth], not {list(given.shape)}")
        lists = np.atleast_2d(given)
        row, column = np.nonzero(lists)
        there = np.bincount(row, minlength=len(lists))
        total = there if positives is None else np.broadcast_to(np.asarray(positives), (len(lists),))
        if (there > total).any():
            raise ConfigError("positives: a list holds more right answers than there are in all")
        starts = np.concatenate([[0], np.cumsum(there)])
        return cls(row, column + 1, np.arange(1, len(row) + 1) - starts[row], total.astype(np.intp), given.ndim == 1)

    def first(self, k: int) -> Found:
        """Those among the first ``k`` hits.

        Raises:
            ConfigError: ``k`` is less than 1.
        """
        if k < 1:
            raise ConfigError(f"a metric at k = {k}: k is 1 or more")
        kept = self.rank <= k
        return Found(self.row[kept], self.rank[kept], self.order[kept], self.positives, self.single)

    def precision(self) -> Values:
        """P(i) at each of them."""
        return self.order / self.rank

    def total(self, each: ArrayLike) -> Values:
        """The sum of a value of each, a query."""
        values = np.broadcast_to(np.asarray(each, dtype=np.float64), self.row.shape)
        return np.bincount(self.row, values, minlength=len(self.positives)).astype(np.float64)

    def per(self, sums: Values, divisor: ArrayLike) -> Values:
        """``sums / divisor``, NaN for queries without a right answer; a single number for a single list."""
        result: Values = sums / np.where(self.positives > 0, np.asarray(divisor, dtype=np.float64), np.nan)
        return result[0] if self.single else result


def recall_at_k(relevance: Relevance, positives: ArrayLike | None = None, *, k: int) -> Values:
    """1 if any of the first k hits is right, else 0: Recall@k of metric learning is the hit rate.

    Jegou, Douze, Schmid: Product Quantization for Nearest Neighbor Search (PAMI 2011); Oh Song et al.: Deep Metric Learning
    via Lifted Structured Feature Embedding (CVPR 2016). For one k it is Precision@1 at k = 1. For the share of the right
    answers that were found, see ``recall_fraction_at_k``.
    """
    found = Found.of(relevance, positives).first(k)
    return found.per(found.total(found.order == 1), 1)


def recall_fraction_at_k(relevance: Relevance, positives: ArrayLike | None = None, *, k: int) -> Values:
    """The share of all right answers that is among the first k hits: recall as information retrieval has it (Manning,
    Raghavan, Schuetze: Introduction to Information Retrieval, 8.3). It can't reach 1 where R > k.
    """
    found = Found.of(relevance, positives).first(k)
    return found.per(found.total(1), found.positives)


def precision_at_k(relevance: Relevance, positives: ArrayLike | None = None, *, k: int) -> Values:
    """The share of right ones among the first k places (Introduction to Information Retrieval, 8.4). Divided by k, also
    where the list is shorter or R < k.
    """
    found = Found.of(relevance, positives).first(k)
    return found.per(found.total(1), k)


def r_precision(relevance: Relevance, positives: ArrayLike | None = None) -> Values:
    """P(R): the share of right ones among the first R hits (Introduction to Information Retrieval, 8.4)."""
    found = Found.of(relevance, positives)
    return found.per(found.total(found.rank <= found.positives[found.row]), found.positives)


def average_precision_at_r(relevance: Relevance, positives: ArrayLike | None = None) -> Values:
    """``sum(P(i) rel(i), i = 1..R) / R``; its mean is MAP@R of Musgrave, Belongie, Lim: A Metric Learning Reality Check
    (ECCV 2020). What comes after rank R counts nothing, so 1 means that the first R hits are right.
    """
    found = Found.of(relevance, positives)
    within = found.rank <= found.positives[found.row]
    return found.per(found.total(found.precision() * within), found.positives)


def average_precision(relevance: Relevance, positives: ArrayLike | None = None) -> Values:
    """``sum(P(i) rel(i)) / R`` over the whole list: the rectangular average precision of TREC (Introduction to Information
    Retrieval, 8.4).
    """
    found = Found.of(relevance, positives)
    return found.per(found.total(found.precision()), found.positives)


def average_precision_at_k(relevance: Relevance, positives: ArrayLike | None = None, *, k: int) -> Values:
    """``sum(P(i) rel(i), i = 1..k) / min(R, k)``: 1 where the first hits are right as far as they can be.

    The mAP@100 of Weyand et al.: Google Landmarks Dataset v2 (CVPR 2020). Some libraries divide by R, which can't reach 1
    where R > k, others by how many right ones the list holds, which rewards finding few.
    """
    found = Found.of(relevance, positives).first(k)
    return found.per(found.total(found.precision()), np.minimum(found.positives, k))


def average_precision_trapezoid(relevance: Relevance, positives: ArrayLike | None = None) -> Values:
    """Average precision by trapezoids: between two right answers the mean of the precision just before and at the second.

    ``sum((p(j) + P(r_j)) / 2, j = 1..R) / R`` with the j-th right answer at rank r_j, P(r_j) = j / r_j and the precision just
    before it, p(j) = (j - 1) / (r_j - 1), or 1 at rank 1. What Philbin et al.: Object Retrieval with Large Vocabularies
    and Fast Spatial Matching (CVPR 2007) evaluate Oxford buildings with, and Radenovic et al.: Revisiting Oxford and
    Paris (CVPR 2018) after them. Below ``average_precision`` except where every right answer comes first.
    """
    found = Found.of(relevance, positives)
    before = np.where(found.rank == 1, 1.0, (found.order - 1) / np.maximum(found.rank - 1, 1))
    return found.per(found.total((before + found.precision()) / 2), found.positives)


def ndcg(relevance: Relevance, positives: ArrayLike | None = None, *, k: int | None = None) -> Values:
    """``sum(rel(i) / log2(i + 1), i = 1..k)``, divided by the same sum of the best possible list, min(R, k) right ones
    first; without ``k`` over the whole list. Jaervelin, Kekaelaeinen: Cumulated Gain-Based Evaluation of IR Techniques
    (TOIS 2002), with gains of 0 and 1 and the discount of every rank.
    """
    found = Found.of(relevance, positives)
    found = found if k is None else found.first(k)
    reachable = found.positives if k is None else np.minimum(found.positives, k)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, reachable.max(initial=0) + 2)))])
    return found.per(found.total(1 / np.log2(found.rank + 1)), ideal[np.maximum(reachable, 0)])


def reciprocal_rank(relevance: Relevance, positives: ArrayLike | None = None) -> Values:
    """One over the rank of the first right answer, 0 where none was found; its mean is MRR (Voorhees: The TREC-8 Question
    Answering Track Report, 1999).
    """
    found = Found.of(relevance, positives)
    return found.per(found.total((found.order == 1) / found.rank), 1)


_PLAIN: dict[str, Callable[..., Values]] = {
    "r_precision": r_precision,
    "map@r": average_precision_at_r,
    "map": average_precision,
    "map_trapezoid": average_precision_trapezoid,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
}
_AT_K: dict[str, Callable[..., Values]] = {
    "recall": recall_at_k,
    "recall_fraction": recall_fraction_at_k,
    "precision": precision_at_k,
    "map": average_precision_at_k,
    "ndcg": ndcg,
}
NAMES: tuple[str, ...] = (*(f"{name}@k" for name in _AT_K), *_PLAIN)
"""What ``named`` knows, with ``k`` for a number."""

DEFINITIONS: dict[str, str] = {
    "recall@k": "queries with a right one among the first k hits (the hit rate, as metric learning reports it)",
    "recall_fraction@k": "share of all R right answers that is among the first k hits",
    "precision@k": "share of right ones among the first k places",
    "map@k": "average precision over the first k hits, divided by min(R, k)",
    "ndcg@k": "discounted gain of the first k hits by that of the best list",
    "r_precision": "share of right ones among the first R hits",
    "map@r": "average precision over the first R hits, divided by R",
    "map": "average precision over the whole list, divided by R (rectangular)",
    "map_trapezoid": "average precision by trapezoids, as the Oxford and Paris protocols have it",
    "ndcg": "discounted gain of the whole list by that of the best list",
    "mrr": "one over the rank of the first right answer",
}
"""A line on each of ``NAMES``."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric by name.

    Attributes:
        name: such as ``recall@1`` or ``map@r``.
        k: how many hits it looks at; None where that follows from the number of right answers, or is the whole list.
    """

    name: str
    k: int | None
    _compute: Callable[..., Values]

    def __call__(self, relevance: Relevance, positives: ArrayLike | None = None) -> Values:
        """Of ranked lists, as the functions of this module."""
        return self._compute(relevance, positives) if self.k is None else self._compute(relevance, positives, k=self.k)

    @property
    def kind(self) -> str:
        """Its name in ``NAMES`` and ``DEFINITIONS``."""
        return self.name if self.k is None else f"{self.name.partition('@')[0]}@k"

    @property
    def whole(self) -> bool:
        """Whether it takes the whole ranking, so that a list cut at some depth gives a lower bound only."""
        return self.k is None and self.name not in {"r_precision", "map@r"}


def named(name: str) -> Measure:
    """The metric of that name: ``recall@1``, ``map@100``, ``r_precision`` ...

    Raises:
        ConfigError: there is none.
    """
    wanted = name.strip().lower()
    if wanted in _PLAIN:
        return Measure(wanted, None, _PLAIN[wanted])
    found = re.fullmatch(r"([a-z_]+)@(\d+)", wanted)
    if found is None or found[1] not in _AT_K or int(found[2]) < 1:
        raise ConfigError(f"there is no metric {name!r}{nearest(wanted, NAMES)}; k is a number of hits, 1 or more")
    return Measure(f"{found[1]}@{int(found[2])}", int(found[2]), _AT_K[found[1]])
