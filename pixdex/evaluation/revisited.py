"""The protocol of revisited Oxford and Paris: easy, medium and hard, with junk removed.

Radenovic, Iscen, Tolias, Avrithis, Chum: Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking (CVPR 2018).
A query has answers that are easy, hard, or junk. What a setup doesn't look for but isn't wrong either is junk to it: it is taken
out of the ranking before anything is counted. A query that a setup leaves without answers is skipped.

========  ==============  =======================
setup     right           taken out
========  ==============  =======================
easy      easy            junk, hard
medium    easy and hard   junk
hard      hard            junk, easy
========  ==============  =======================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixdex.errors import ConfigError
from pixdex.evaluation.metrics import average_precision_trapezoid

__all__ = ["SETUPS", "Answers", "answers_of", "evaluate", "precision_in_reach"]

SETUPS = ("easy", "medium", "hard")
_RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known of one query: rows of the gallery that show it clearly, poorly, or hardly at all."""

    easy: tuple[int, ...] = ()
    hard: tuple[int, ...] = ()
    junk: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        every = (*self.easy, *self.hard, *self.junk)
        if len(set(every)) < len(every):
            raise ConfigError("a picture is easy, hard or junk to a query, one of them")

    def of(self, setup: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What is right and what is taken out."""
        match setup:
            case "easy":
                return self.easy, (*self.junk, *self.hard)
            case "medium":
                return (*self.easy, *self.hard), self.junk
            case "hard":
                return self.hard, (*self.junk, *self.easy)
        raise ConfigError(f"there is no setup {setup!r}: {', '.join(SETUPS)}")


def answers_of(truth: Sequence[Mapping[str, Any]]) -> list[Answers]:
    """The answers of the data sets' own ground truth (``gnd``): ``easy``, ``hard`` and ``junk`` of each query.

    The files it comes in are pickles; pixdex unpickles nothing, so that reading them is up to the caller.
    """
    return [Answers(*(tuple(map(int, each.get(key, ()))) for key in ("easy", "hard", "junk"))) for each in truth]


def evaluate(
    rankings: Sequence[ArrayLike],
    answers: Sequence[Answers],
    *,
    setup: str = "medium",
    ranks: Sequence[int] = _RANKS,
) -> dict[str, NDArray[np.float64]]:
    """Average precision by trapezoids (``map``) and precision at ``ranks`` (``mp@1`` ...) of each query.

    Args:
        rankings: for each query the rows of the gallery, best first; all of them, or as many as there are.
        answers: one a query.
        setup: ``easy``, ``medium`` or ``hard``.
        ranks: of the precision.

    Returns:
        float64 ``[q]`` each, NaN for a query that is skipped. ``mean`` and ``interval`` leave those out.

    Raises:
        ConfigError: no such setup, not as many rankings as answers, or a picture ranked twice.
    """
    if len(rankings) != len(answers):
        raise ConfigError(f"{len(rankings)} rankings for {len(answers)} queries with answers")
    measured = [
        _query(np.asarray(ranking), known, setup, ranks) for ranking, known in zip(rankings, answers, strict=True)
    ]
    names = ["map", *(f"mp@{rank}" for rank in ranks)]
    table = np.array(measured, dtype=np.float64).reshape(len(measured), len(names))
    return {name: table[:, column].copy() for column, name in enumerate(names)}


def _query(ranking: NDArray[Any], known: Answers, setup: str, ranks: Sequence[int]) -> list[float]:
    right, removed = known.of(setup)
    if not right:
        return [float("nan")] * (1 + len(ranks))
    if len(np.unique(ranking)) < len(ranking):
        raise ConfigError("a ranking names a picture twice")
    relevance = np.isin(ranking[~np.isin(ranking, removed)], right)
    precision = average_precision_trapezoid(relevance, len(right))
    return [float(precision), *(precision_in_reach(relevance, rank) for rank in ranks)]


def precision_in_reach(relevance: NDArray[np.bool_], k: int) -> float:
    """The share of right ones among the first k hits, but no further than the last right one of the list: what this protocol
    calls mP@k. A query with three answers, all first, has a precision at 10 of 1, not .3. 0 where none was found.
    """
    if k < 1:
        raise ConfigError(f"precision at k = {k}: k is 1 or more")
    found = np.flatnonzero(relevance)
    if not len(found):
        return 0.0
    reach = min(int(found[-1]) + 1, k)
    return float(relevance[:reach].sum()) / reach
