"""Calibration error and its kin, by cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from pixdex.errors import ConfigError
from pixdex.evaluation import paired
from pixdex.evaluation.reliability import Bin, Binning, brier, calibration_error, reliability

SAID = [0.1, 0.2, 0.5, 0.9, 1.0]
TRUE = [False, True, True, True, True]


def test_the_error_by_hand() -> None:
    # Two parts, (0, 0.5] and (0.5, 1]: 0.8/3 said and 2/3 true of three; 0.95 said and 1 true of two.
    assert calibration_error(SAID, TRUE, bins=2) == pytest.approx(3 / 5 * (2 / 3 - 0.8 / 3) + 2 / 5 * 0.05)
    # Of equal mass: three and two again, as 5 are divided by 2; one each for five parts.
    assert calibration_error(SAID, TRUE, bins=2, binning=Binning.MASS) == pytest.approx(3 / 5 * 0.4 + 2 / 5 * 0.05)
    assert calibration_error(SAID, TRUE, bins=5, binning=Binning.MASS) == pytest.approx((0.1 + 0.8 + 0.5 + 0.1) / 5)
    assert brier(SAID, TRUE) == pytest.approx((0.01 + 0.64 + 0.25 + 0.01) / 5)


def test_the_parts_by_hand() -> None:
    low, high = reliability(SAID, TRUE, bins=2)
    assert low == Bin(0.0, 0.5, 3, pytest.approx(0.8 / 3), pytest.approx(2 / 3))
    assert high == Bin(0.5, 1.0, 2, pytest.approx(0.95), 1.0)
    assert [part.count for part in reliability([0.0, 0.05], [True, False], bins=10)] == [2]
    mass = reliability(SAID, TRUE, bins=2, binning=Binning.MASS)
    assert [(part.low, part.high, part.count) for part in mass] == [(0.1, 0.5, 3), (0.9, 1.0, 2)]


def test_as_others_have_it() -> None:
    rng = np.random.default_rng(0)
    said = rng.random(2000)
    true = rng.random(2000) < said**2
    ours = reliability(said, true, bins=10)
    share, mean = calibration_curve(true, said, n_bins=10)
    assert [part.true for part in ours] == pytest.approx(share)
    assert [part.said for part in ours] == pytest.approx(mean)
    assert brier(said, true) == pytest.approx(brier_score_loss(true, said))
    assert calibration_error(said, rng.random(2000) < said) < 0.04 < calibration_error(said, true)


def test_nothing_and_what_is_no_probability() -> None:
    assert reliability([], []) == []
    assert np.isnan(calibration_error([], []))
    assert np.isnan(brier([], []))
    for said, true in (([0.5], []), ([1.5], [True]), ([float("nan")], [True]), ([[0.5]], [[True]])):
        with pytest.raises(ConfigError):
            calibration_error(said, true)
    with pytest.raises(ConfigError, match="bins"):
        reliability([0.5], [True], bins=0)


def test_queries_of_a_group_are_drawn_together() -> None:
    """A hundred queries of two classes are two witnesses, not a hundred."""
    values, groups = np.repeat([0.0, 1.0], 50), np.repeat([4, 9], 50)
    alone, together = paired(values, np.zeros(100)), paired(values, np.zeros(100), groups=groups)
    assert together.mean == alone.mean == 0.5
    assert (together.low, together.high) == (0.0, 1.0)
    assert alone.low > 0.35
    each = paired(values, np.zeros(100), groups=np.arange(100))
    assert (each.low, each.high) == (alone.low, alone.high)
    assert paired([1, np.nan, 3], [0, 0, 0], groups=[1, 1, 2]).mean == 2
    large = paired([1.0] * 90 + [0.0] * 9, np.zeros(99), groups=[0] * 90 + [*range(1, 10)])
    assert large.low == 0
    assert large.high > 0.95  # where the large one is drawn, its queries are nearly all there are
    with pytest.raises(ConfigError, match="one group a query"):
        paired([1.0], [0.0], groups=[1, 2])
