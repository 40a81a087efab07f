"""Fits what makes probabilities of scores, on lists of which it is known what matches.

The first stage's order is always among the choices, and stays unless another is better beyond chance on lists that it was not
fitted on: reranking by what this chooses should make no search worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.errors import ConfigError
from pixdex.evaluation.metrics import Found, average_precision, recall_at_k
from pixdex.evaluation.statistics import Interval, paired
from pixdex.rerankers.calibration import Calibration, last_of, sigmoid

__all__ = ["Choice", "Fit", "Lists", "fit", "folds"]

_FOLDS = 5
_LEAST = 10
"""Queries that a choice takes."""
_WORTH = 0.005
"""mAP that another order must gain for sure."""
_RIDGE = 1.0
_SHARES = tuple(step / 20 for step in range(19, 0, -1))
"""Of the first stage in a blend of both, each divided by how far it spreads within a list: the larger first, among equals."""
_LEAST_WEIGHT = 1e-3
"""Of the first stage where nothing else orders: its order must not get lost."""
_STEPS, _HALVINGS, _ENOUGH = 50, 30, 1e-9


class Choice(StrEnum):
    """What orders the candidates."""

    FIRST = "first stage"
    RERANKER = "reranker"
    BOTH = "both"


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Shortlists of q queries, n candidates each or fewer, of which it is known what matches.

    Attributes:
        first: float ``[q, n]``, the first stage's scores, best first; NaN behind the last.
        scores: float ``[q, n]``, the reranker's; NaN where it has none.
        match: bool ``[q, n]``.
        positives: int ``[q]``, how many match in all, in the list or not.
        groups: int ``[q]``: queries of one number are alike (of the same class), and say less than as many others.

    Raises:
        ConfigError: shapes that don't fit together.
    """

    first: NDArray[np.float64]
    scores: NDArray[np.float64]
    match: NDArray[np.bool_]
    positives: NDArray[np.int64]
    groups: NDArray[np.int64]

    def __post_init__(self) -> None:
        shapes = [list(each.shape) for each in (self.first, self.scores, self.match)]
        count = [len(self.first)]
        if (
            self.first.ndim != 2
            or shapes[1:] != shapes[:1] * 2
            or any(list(each.shape) != count for each in self._rows)
        ):
            raise ConfigError(
                f"first, scores and match are [q, n], not {shapes}; positives and groups [q], not "
                f"{[list(each.shape) for each in self._rows]}"
            )

    @property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.positives, self.groups

    def __len__(self) -> int:
        return len(self.first)

    def take(self, queries: NDArray[Any]) -> Lists:
        """Some of the queries, by rows or by a mask."""
        return Lists(*(getattr(self, name)[queries] for name in Lists.__slots__))

    def pairs(self, calibration: Calibration) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """P(match) of every pair that has one, ``[m]``, and which match: what ``pixdex.evaluation.reliability`` takes."""
        log_odds = calibration.log_odds(self.first, self.scores)
        there = ~np.isnan(log_odds)
        return sigmoid(log_odds[there]), self.match[there]

    def figures(self, calibration: Calibration | None = None) -> dict[str, NDArray[np.float64]]:
        """``recall@1`` and ``map`` of each query, ``[q]``: of the first stage's order, or of a calibration's, by which
        candidates without a score keep their places, and the others are ordered around them.
        """
        match = self.match & ~np.isnan(self.first)
        if calibration is not None and calibration.reranks:
            log_odds = calibration.log_odds(self.first, self.scores)
            unknown = np.isnan(log_odds)
            places = np.argsort(unknown, axis=1, kind="stable")
            order = np.argsort(-np.where(unknown, -np.inf, log_odds), axis=1, kind="stable")
            moved = np.empty_like(match)
            np.put_along_axis(moved, places, np.take_along_axis(match, order, axis=1), axis=1)
            match = moved
        found = Found.of(match, self.positives)
        return {"recall@1": recall_at_k(found, k=1), "map": average_precision(found)}


@dataclass(frozen=True, slots=True)
class Fit:
    """What a fit chose.

    Attributes:
        calibration: fitted on all lists.
        choice: what orders.
        over: of the other choices, mAP over the first stage's by lists that they were not fitted on: mean and 95 %
            interval, groups drawn whole.
    """

    calibration: Calibration
    choice: Choice
    over: Mapping[Choice, Interval]


def fit(lists: Lists, *, by_list: bool = True, seed: int = 0) -> Fit:
    """Fit each choice, and choose: the first stage, unless another's mAP is higher on groups that it was not fitted on,
    with the lower end of the paired bootstrap's interval above 0.005: less is not worth what a reranker costs, and is lost
    where the pictures to come are a little different.

    Without ``by_list`` a probability depends on the pair alone, and not on the end of its list, so that it holds for
    lists of any length, and less well for those at hand.

    Raises:
        ConfigError: fewer than 10 queries, of one group, all pairs match or none does.
    """
    groups = np.unique(lists.groups)
    valid = ~np.isnan(lists.first)
    if len(lists) < _LEAST or len(groups) < 2:
        raise ConfigError(
            f"a fit takes {_LEAST} queries of two groups at least, not {len(lists)} of {len(groups)}: give more"
        )
    if lists.match[valid].all() or not lists.match[valid].any():
        raise ConfigError("a calibration takes pairs that match and pairs that don't: here it is all or none")
    base = lists.figures()["map"]
    parts = folds(lists.groups, seed=seed)
    over = {}
    for choice in (Choice.RERANKER, Choice.BOTH):
        values = np.full(len(lists), np.nan)
        for held in parts:
            fitted = _fitted(lists.take(~held), choice, by_list=by_list)
            if fitted is None:
                break
            values[held] = lists.take(held).figures(fitted)["map"]
        else:
            over[choice] = paired(values, base, groups=lists.groups, seed=seed)
    better = [choice for choice, each in over.items() if each.low > _WORTH]
    for choice in sorted(better, key=lambda each: -over[each].mean):
        calibration = _fitted(lists, choice, by_list=by_list)
        if calibration is not None:
            return Fit(calibration, choice, over)
    return Fit(_fitted_first(lists, by_list=by_list), Choice.FIRST, over)


def folds(groups: NDArray[np.int64], *, seed: int = 0) -> list[NDArray[np.bool_]]:
    """Which queries are held back in turn, bool ``[q]`` each: whole groups, five times or as often as there are groups."""
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    return [np.isin(groups, part) for part in np.array_split(order, min(_FOLDS, len(order)))]


def _fitted(lists: Lists, choice: Choice, *, by_list: bool) -> Calibration | None:
    """The calibration of a choice that takes the reranker's scores: the blend by what orders best, then temperature and bias
    by what is likeliest. (All three by what is likeliest would weigh what tells one query from another, which orders
    nothing.) None where nothing can be learned, or where more of it would be said to match less.
    """
    there = ~np.isnan(lists.scores) & ~np.isnan(lists.first)
    match = lists.match[there]
    if match.all() or not match.any():
        return None
    spreads = [_spread(np.where(there, each, np.nan)) for each in (lists.first, lists.scores)]
    if min(spreads) <= 0:
        return None
    tried = [
        Calibration(share / spreads[0], (1 - share) / spreads[1], 0.0)
        for share in (_SHARES if choice is Choice.BOTH else (0.0,))
    ]
    blend = max(tried, key=lambda each: lists.figures(each)["map"].mean())
    return _likely(lists, blend, there, by_list=by_list)


def _spread(scores: NDArray[np.float64]) -> float:
    """The standard deviation within a list, of all lists."""
    counts = (~np.isnan(scores)).sum(axis=1)
    apart = scores - np.divide(np.nansum(scores, axis=1), np.maximum(counts, 1))[:, None]
    return float(np.sqrt(np.nansum(np.square(apart)) / max(1, counts.sum())))


def _fitted_first(lists: Lists, *, by_list: bool) -> Calibration:
    there = ~np.isnan(lists.first)
    fitted = _likely(lists, Calibration(1.0, 0.0, 0.0), there, by_list=by_list)
    if fitted is not None and fitted.weight_first >= _LEAST_WEIGHT:
        return fitted
    share = lists.match[there].mean()
    return Calibration(
        _LEAST_WEIGHT, 0.0, float(np.log(share / (1 - share)) - _LEAST_WEIGHT * lists.first[there].mean())
    )


def _likely(lists: Lists, blend: Calibration, there: NDArray[np.bool_], *, by_list: bool) -> Calibration | None:
    """The blend with the temperature and bias by which the pairs that are ``there`` are likeliest; None where more of it
    would be said to match less.
    """
    depth = lists.first.shape[1]
    columns = [blend.log_odds(lists.first, lists.scores)[there]]
    if by_list:
        columns.append(np.broadcast_to(last_of(lists.first, depth)[:, None], there.shape)[there])
    weights, bias = _logistic(np.stack(columns, axis=1), lists.match[there])
    by = float(weights[0])
    if by <= 0:
        return None
    return Calibration(
        blend.weight_first * by, blend.weight_rerank * by, bias, float(weights[1]) if by_list else 0.0, depth
    )


def _logistic(features: NDArray[np.float64], match: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Weights ``[f]`` and bias of a logistic regression of ``[m, f]``, by Newton's method with a little ridge, without which
    pairs that can be told apart entirely would have weights without end.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    inputs = np.column_stack([(features - mean) / spread, np.ones(len(features))])
    ridge = np.diag([_RIDGE] * features.shape[1] + [0.0])
    share = match.mean()
    weights = np.zeros(inputs.shape[1])
    weights[-1] = np.log(share / (1 - share))
    loss = _loss(inputs, match, weights, ridge)
    for _ in range(_STEPS):
        said = sigmoid(inputs @ weights)
        gradient = inputs.T @ (said - match) + ridge @ weights
        step = np.linalg.solve((inputs * (said * (1 - said))[:, None]).T @ inputs + ridge, gradient)
        for halved in range(_HALVINGS):
            tried = weights - step / 2**halved
            reached = _loss(inputs, match, tried, ridge)
            if reached <= loss:
                break
        done = loss - reached < _ENOUGH * max(1.0, loss)
        if reached <= loss:
            weights, loss = tried, reached
        if done:
            break
    scaled: NDArray[np.float64] = weights[:-1] / spread
    return scaled, float(weights[-1] - scaled @ mean)


def _loss(
    inputs: NDArray[np.float64], match: NDArray[np.bool_], weights: NDArray[np.float64], ridge: NDArray[np.float64]
) -> float:
    log_odds = inputs @ weights
    return float(np.logaddexp(0, np.where(match, -log_odds, log_odds)).sum() + weights @ ridge @ weights / 2)
