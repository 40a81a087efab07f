"""How far a mean over queries carries: bootstrap intervals, of one and of the difference of two.

Queries are drawn with replacement (Efron, Tibshirani: An Introduction to the Bootstrap, 1993, chapters 13 and 16; for
retrieval, Sakai: Evaluating Evaluation Metrics Based on the Bootstrap, SIGIR 2006). Of two encoders the same queries
are compared one by one, since how hard a query is moves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixdex.errors import ConfigError

__all__ = ["Interval", "interval", "mean", "paired"]

_SHARE = 0.95
_DRAWN_AT_ONCE = 2_000_000
"""Rows that are drawn at once: 16 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it would lie for other queries of the kind, in 95 of 100 cases. NaN where there was no query."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def excludes_zero(self) -> bool:
        """Of a difference: whether it is more than the choice of queries explains."""
        return self.low > 0 or self.high < 0


def mean(values: ArrayLike) -> float:
    """The mean of the queries that have a value; NaN where none has."""
    given = _measured(values)
    return float(given.mean()) if len(given) else float("nan")


def interval(values: ArrayLike, *, rounds: int = 1000, seed: int = 0) -> Interval:
    """Mean and 95 % percentile interval of per-query values ``[q]``; queries without a value (NaN) are left out.

    Raises:
        ConfigError: not a value a query, or fewer than one round.
    """
    return _drawn(_measured(values), rounds, seed)


def paired(
    a: ArrayLike, b: ArrayLike, *, groups: ArrayLike | None = None, rounds: int = 1000, seed: int = 0
) -> Interval:
    """Mean and 95 % percentile interval of ``a - b`` over the same queries, ``[q]`` both. A query that either has no value
    for is left out.

    With ``groups``, whole numbers ``[q]``, queries of one number are drawn together: those of a class have their answers in
    common, so that the interval is one for other classes, and wider.

    Raises:
        ConfigError: not as many values here as there, or fewer than one round.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ConfigError(f"a paired comparison is of the same queries: {first.size} and {second.size} values")
    if groups is None:
        return _drawn(_measured(first - second), rounds, seed)
    of = np.asarray(groups)
    if of.shape != first.shape:
        raise ConfigError(f"one group a query: {of.size} for {first.size}")
    known = ~np.isnan(first - second)
    _, codes = np.unique(of[known], return_inverse=True)
    return _drawn(_measured(first - second), rounds, seed, codes)


def _measured(values: ArrayLike) -> NDArray[np.float64]:
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1:
        raise ConfigError(f"one value a query, [q], not {list(given.shape)}")
    return given[~np.isnan(given)]


def _drawn(values: NDArray[np.float64], rounds: int, seed: int, groups: NDArray[np.intp] | None = None) -> Interval:
    if rounds < 1:
        raise ConfigError(f"rounds: 1 or more, not {rounds}")
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    sums, counts = (values, None) if groups is None else (np.bincount(groups, values), np.bincount(groups))
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // len(sums))
    drawn = (
        rng.integers(0, len(sums), (min(at_once, rounds - start), len(sums))) for start in range(0, rounds, at_once)
    )
    means = np.concatenate(
        [
            sums[rows].mean(axis=1) if counts is None else sums[rows].sum(axis=1) / counts[rows].sum(axis=1)
            for rows in drawn
        ]
    )
    low, high = np.quantile(means, [(1 - _SHARE) / 2, (1 + _SHARE) / 2])
    return Interval(float(values.mean()), float(low), float(high))
