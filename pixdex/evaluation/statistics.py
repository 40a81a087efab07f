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


def paired(a: ArrayLike, b: ArrayLike, *, rounds: int = 1000, seed: int = 0) -> Interval:
    """Mean and 95 % percentile interval of ``a - b`` over the same queries, ``[q]`` both. A query that either has no value
    for is left out.

    Raises:
        ConfigError: not as many values here as there, or fewer than one round.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ConfigError(f"a paired comparison is of the same queries: {first.size} and {second.size} values")
    return _drawn(_measured(first - second), rounds, seed)


def _measured(values: ArrayLike) -> NDArray[np.float64]:
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1:
        raise ConfigError(f"one value a query, [q], not {list(given.shape)}")
    return given[~np.isnan(given)]


def _drawn(values: NDArray[np.float64], rounds: int, seed: int) -> Interval:
    if rounds < 1:
        raise ConfigError(f"rounds: 1 or more, not {rounds}")
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // len(values))
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (min(at_once, rounds - start), len(values)))].mean(axis=1)
            for start in range(0, rounds, at_once)
        ]
    )
    low, high = np.quantile(means, [(1 - _SHARE) / 2, (1 + _SHARE) / 2])
    return Interval(float(values.mean()), float(low), float(high))
