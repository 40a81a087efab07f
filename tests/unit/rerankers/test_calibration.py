"""Scores as probabilities, and the choice of what orders."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pixdex.errors import ConfigError
from pixdex.evaluation.metrics import average_precision
from pixdex.rerankers.calibration import Calibration, last_of, sigmoid
from pixdex.rerankers.choosing import Choice, Lists, _logistic, fit, folds


def lists(*, good: float = 2.0, queries: int = 60, n: int = 20, seed: int = 0, groups: int | None = None) -> Lists:
    """Lists whose reranker says ``good`` standard deviations more of what matches; the first stage one."""
    rng = np.random.default_rng(seed)
    match = rng.random((queries, n)) < 0.2
    match[:, 0] = True
    first = 0.5 + 0.1 * (match + rng.standard_normal((queries, n)))
    order = np.argsort(-first, axis=1)
    first, match = np.take_along_axis(first, order, 1), np.take_along_axis(match, order, 1)
    scores = 3 * (good * match + rng.standard_normal((queries, n)))
    of = np.arange(queries) % (groups or queries)
    return Lists(first, scores, match, match.sum(axis=1), of)


def test_a_probability_is_the_sigmoid_of_what_was_said() -> None:
    calibration = Calibration(2.0, 0.5, -1.0)
    assert calibration.probabilities([0.9, 0.1], [4.0, -2.0]) == pytest.approx(
        [1 / (1 + math.exp(-(1.8 + 2 - 1))), 1 / (1 + math.exp(-(0.2 - 1 - 1)))]
    )
    assert (calibration.blend, calibration.temperature) == (pytest.approx(0.8), pytest.approx(0.4))
    assert Calibration.from_json(calibration.to_json()) == calibration
    by_list = Calibration(2.0, 0.0, 0.0, weight_last=-1.0, depth=2)
    assert by_list.log_odds([0.3, 0.9, 0.5]) == pytest.approx([0.6 - 0.5, 1.8 - 0.5, 1.0 - 0.5])
    assert last_of(np.array([[0.9, 0.5, np.nan], [0.4, 0.3, 0.2]]), 3).tolist() == [0.5, 0.2]
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0, 0.5, 1]


def test_where_float32_can_tell_no_more_the_order_stays() -> None:
    log_odds = np.array([40.0, 90.0, 41.0, np.nan, 3.0, 41.0, -200.0])
    said = Calibration(0.0, 1.0, 0.0).probabilities(np.zeros(7), log_odds)
    assert said.dtype == np.float32
    assert said[1] > said[2] > said[0] > said[4] > said[6] >= 0
    assert said[2] == said[5]
    assert np.isnan(said[3])
    assert said[1] <= 1
    assert said[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "values", [(0.0, 0.0, 0.0), (-1.0, 1.0, 0.0), (1.0, -1.0, 0.0), (1.0, 1.0, float("nan")), (1.0, 0.0, 0.0, 0.0, 0)]
)
def test_what_is_no_calibration_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        Calibration(*values)


def test_what_was_no_calibration_is_named() -> None:
    with pytest.raises(ConfigError, match="not a calibration"):
        Calibration.from_json({"weight_first": 1})
    with pytest.raises(ConfigError, match="reranker's scores too"):
        Calibration(1.0, 1.0, 0.0).log_odds([0.5])


def test_the_regression_is_the_one_that_others_fit() -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((400, 2)) * [0.1, 5] + [0.5, 2]
    match = rng.random(400) < sigmoid(8 * (features[:, 0] - 0.5) + 0.4 * features[:, 1] - 1)
    weights, bias = _logistic(features, match)
    spread = features.std(axis=0)
    other = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit((features - features.mean(axis=0)) / spread, match)
    assert weights * spread == pytest.approx(other.coef_[0], rel=1e-4)
    assert bias + weights @ features.mean(axis=0) == pytest.approx(other.intercept_[0], rel=1e-3)


def test_pairs_that_can_be_told_apart_entirely_have_finite_weights() -> None:
    weights, bias = _logistic(np.array([[0.0], [0.1], [0.9], [1.0]]), np.array([False, False, True, True]))
    assert np.isfinite([*weights, bias]).all()
    assert weights[0] > 0


def test_a_good_reranker_orders_and_a_bad_one_does_not() -> None:
    good = fit(lists(good=2.0))
    assert good.choice is not Choice.FIRST
    assert good.over[good.choice].low > 0
    held = lists(good=2.0, seed=5)
    assert held.figures(good.calibration)["map"].mean() > held.figures()["map"].mean() + 0.1
    for useless in (0.0, -1.0):
        chosen = fit(lists(good=useless))
        assert chosen.choice is Choice.FIRST
        assert not chosen.calibration.reranks
        same = held.figures(chosen.calibration)
        assert all((same[name] == values).all() for name, values in held.figures().items())


def test_what_helps_few_groups_alone_does_not_order() -> None:
    """Two of ten classes gain a lot: forty queries of two hundred, but two witnesses that stand against eight."""
    mixed = lists(queries=200, seed=3, groups=10)
    noise = 0.6 * np.random.default_rng(3).standard_normal(mixed.first.shape)
    mixed.scores[:] = 10 * mixed.first + noise + 5 * mixed.match * (mixed.groups < 2)[:, None]
    found = fit(mixed)
    assert found.over[Choice.BOTH].mean > 0.05
    assert found.choice is Choice.FIRST


def test_the_probabilities_are_true() -> None:
    said, true = lists(seed=9, queries=300).pairs(fit(lists(queries=300)).calibration)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        part = (said >= low) & (said < low + 0.2)
        assert true[part].mean() == pytest.approx(said[part].mean(), abs=0.08)


def test_a_list_among_pictures_that_look_alike_says_less() -> None:
    crowded = lists(good=0.0, queries=400, n=20)
    crowded.first[::2] += 0.3  # around every other query all pictures are that much nearer
    by_list = fit(crowded).calibration
    assert by_list.weight_last < 0
    alone = fit(crowded, by_list=False).calibration
    assert alone.weight_last == 0

    def error(calibration: Calibration) -> float:
        said, true = crowded.pairs(calibration)
        return float(np.square(said - true).mean())

    assert error(by_list) < error(alone) - 0.005


def test_those_without_a_score_keep_their_places() -> None:
    first = np.array([[0.9, 0.8, 0.7, 0.6, np.nan]])
    scores = np.array([[1.0, np.nan, 5.0, 3.0, np.nan]])
    match = np.array([[False, True, True, False, True]])
    one = Lists(first, scores, match, np.array([2]), np.array([0]))
    found = one.figures(Calibration(0.0, 1.0, 0.0))
    assert found["map"] == pytest.approx(average_precision([True, True, False, False], 2))
    assert found["recall@1"] == 1
    said, true = one.pairs(Calibration(0.0, 1.0, 0.0))
    assert said == pytest.approx(sigmoid(np.array([1.0, 5.0, 3.0])))
    assert true.tolist() == [False, True, False]


def test_groups_are_held_back_whole_and_each_once() -> None:
    groups = np.array([7, 7, 3, 3, 3, 9, 1, 1])
    parts = folds(groups)
    assert len(parts) == 4
    assert np.sum(parts, axis=0).tolist() == [1] * 8
    assert all(len(np.unique(groups[part])) == 1 for part in parts)


def test_too_little_is_refused() -> None:
    with pytest.raises(ConfigError, match="10 queries of two groups"):
        fit(lists(queries=9))
    with pytest.raises(ConfigError, match="10 queries of two groups at least, not 30 of 1"):
        fit(lists(queries=30, groups=1))
    nothing = lists()
    nothing.match[:] = False
    with pytest.raises(ConfigError, match="all or none"):
        fit(nothing)
    with pytest.raises(ConfigError, match="are \\[q, n\\]"):
        Lists(nothing.first, nothing.scores[:5], nothing.match, nothing.positives, nothing.groups)
