"""Scores as probabilities: what the first stage and a reranker say of a pair, made into the chance that it matches.

A logistic function of both (Platt: Probabilistic Outputs for Support Vector Machines, 1999), which
``pixdex.rerankers.choosing`` fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixdex.errors import ConfigError

__all__ = ["Calibration", "last_of", "sigmoid"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """``P(match) = sigmoid(weight_first * first + weight_rerank * score + weight_last * last + bias)``.

    The same in other words: ``sigmoid((blend * first + (1 - blend) * score) / temperature + weight_last * last + bias)``.
    ``last`` is the first stage's score at place ``depth`` of the list, or of its last candidate: how much alike pictures
    are around the query anyway, as speaker verification normalizes scores by a cohort. It moves all of a list alike.

    Attributes:
        weight_first: of the first stage's score; 0 or more.
        weight_rerank: of the reranker's; 0 or more, and 0 where the first stage's order stays.
        bias: what is added.
        weight_last: of the score at the end of the list, mostly negative; 0 where that says nothing.
        depth: how long the lists are that it was fitted to.

    Raises:
        ConfigError: the first two weights are negative or both 0, a number is not finite, or depth is below 1.
    """

    weight_first: float
    weight_rerank: float
    bias: float
    weight_last: float = 0.0
    depth: int = 100

    def __post_init__(self) -> None:
        if not np.isfinite([self.weight_first, self.weight_rerank, self.bias, self.weight_last]).all():
            raise ConfigError("a calibration consists of finite numbers")
        if min(self.weight_first, self.weight_rerank) < 0 or self.weight_first + self.weight_rerank <= 0:
            raise ConfigError("the weights of a calibration are 0 or more, and one is more")
        if self.depth < 1:
            raise ConfigError(f"depth is {self.depth}: 1 at least")

    @property
    def blend(self) -> float:
        """The share of the first stage, in [0, 1]; at 1 the reranker is not asked."""
        return self.weight_first * self.temperature

    @property
    def temperature(self) -> float:
        """What the blended score is divided by."""
        return 1 / (self.weight_first + self.weight_rerank)

    @property
    def reranks(self) -> bool:
        """Whether it takes the reranker's scores."""
        return self.weight_rerank > 0

    def log_odds(self, first: ArrayLike, scores: ArrayLike | None = None) -> NDArray[np.float64]:
        """Of lists, float64 ``[..., n]``; NaN where a score it takes is NaN.

        Raises:
            ConfigError: it takes the reranker's scores, and there are none.
        """
        given = np.asarray(first, dtype=np.float64)
        total: NDArray[np.float64] = self.weight_first * given + self.bias
        if self.reranks:
            if scores is None:
                raise ConfigError("this calibration takes a reranker's scores too")
            total = total + self.weight_rerank * np.asarray(scores, dtype=np.float64)
        if self.weight_last and given.size:
            total = total + self.weight_last * last_of(given, self.depth)[..., None]
        return total

    def probabilities(self, first: ArrayLike, scores: ArrayLike | None = None) -> NDArray[np.float32]:
        """P(match) of the candidates of one query, float32 ``[n]``; NaN where a score it takes is NaN.

        Where float32 can't tell neighbours apart, as near 1, the less likely one gets the next number below, so that
        the order of the log-odds stays.
        """
        log_odds = self.log_odds(first, scores)
        said = sigmoid(log_odds).astype(np.float32)
        order = np.argsort(-log_odds, kind="stable")[: np.count_nonzero(~np.isnan(log_odds))]
        falls = np.diff(log_odds[order]) < 0
        if (np.diff(said[order])[falls] < 0).all():
            return said
        highest = said[order[0]]
        for row, fell in zip(order[1:].tolist(), falls.tolist(), strict=True):
            highest = min(said[row], np.nextafter(highest, np.float32(0))) if fell else highest
            said[row] = highest
        return said

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """What ``to_json`` gave.

        Raises:
            ConfigError: it is something else.
        """
        try:
            weights = {name: float(values[name]) for name in ("weight_first", "weight_rerank", "bias", "weight_last")}
            return cls(**weights, depth=int(values["depth"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not a calibration: {error!r}") from error


def last_of(first: NDArray[np.float64], depth: int) -> NDArray[np.float64]:
    """The score at place ``depth`` of lists ``[..., n]``, or of their last candidate, NaN for none: ``[...]``."""
    falling = -np.sort(-first, axis=-1)  # those that are NaN come last
    places = np.clip((~np.isnan(first)).sum(axis=-1), 1, depth) - 1
    return np.take_along_axis(falling, places[..., None], axis=-1)[..., 0]


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``1 / (1 + exp(-x))`` without overflow."""
    smaller = np.exp(-np.abs(values))
    result: NDArray[np.float64] = np.where(values >= 0, 1 / (1 + smaller), smaller / (1 + smaller))
    return result
