"""Whether probabilities mean what they say: of ten pairs that are said to match with 0.8, eight should.

Everywhere ``probabilities`` is float ``[n]`` in [0, 1], ``matches`` bool ``[n]``: what was said of each pair, and what is true.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixdex.errors import ConfigError

__all__ = ["Bin", "Binning", "brier", "calibration_error", "reliability"]

BINS = 15
"""What most papers take."""


class Binning(StrEnum):
    """How [0, 1] is divided."""

    WIDTH = "width"
    """Into parts of equal width, most of them nearly empty where most pairs don't match."""
    MASS = "mass"
    """Into parts that hold equally many pairs."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of which about the same is said.

    Attributes:
        low: the probabilities lie above it, at it in the first.
        high: and not above this.
        count: how many pairs.
        said: their mean probability.
        true: the share that matches.
    """

    low: float
    high: float
    count: int
    said: float
    true: float


def reliability(
    probabilities: ArrayLike, matches: ArrayLike, *, bins: int = BINS, binning: Binning = Binning.WIDTH
) -> list[Bin]:
    """The pairs in ``bins`` parts of [0, 1], the empty ones left out: what a reliability diagram shows (DeGroot, Fienberg: The
    Comparison and Evaluation of Forecasters, The Statistician 1983).

    Raises:
        ConfigError: not a truth for each probability, a probability outside [0, 1], no part.
    """
    said, true = _checked(probabilities, matches)
    if bins < 1:
        raise ConfigError(f"bins: 1 or more, not {bins}")
    if not len(said):
        return []
    if binning is Binning.WIDTH:
        edges = np.linspace(0, 1, bins + 1)
        places = np.maximum(np.ceil(said * bins).astype(np.intp) - 1, 0)
        parts = [(edges[at], edges[at + 1], np.flatnonzero(places == at)) for at in range(bins)]
    else:
        order = np.argsort(said, kind="stable")
        parts = [(said[rows[0]], said[rows[-1]], rows) for rows in np.array_split(order, bins) if len(rows)]
    return [
        Bin(float(low), float(high), len(rows), float(said[rows].mean()), float(true[rows].mean()))
        for low, high, rows in parts
        if len(rows)
    ]


def calibration_error(
    probabilities: ArrayLike, matches: ArrayLike, *, bins: int = BINS, binning: Binning = Binning.WIDTH
) -> float:
    """ECE: ``sum(n_b / n |true_b - said_b|)`` over the parts of ``reliability``; NaN without pairs.

    Naeini, Cooper, Hauskrecht: Obtaining Well Calibrated Probabilities Using Bayesian Binning (AAAI 2015), as Guo, Pleiss,
    Sun, Weinberger: On Calibration of Modern Neural Networks (ICML 2017) have it, of what is said of the match instead of
    what is said of the likelier class. With parts of equal mass it is the ACE of Nixon et al.: Measuring Calibration in Deep
    Learning (CVPR Workshops 2019), of one class.
    """
    parts = reliability(probabilities, matches, bins=bins, binning=binning)
    total = sum(part.count for part in parts)
    return sum(part.count * abs(part.true - part.said) for part in parts) / total if total else float("nan")


def brier(probabilities: ArrayLike, matches: ArrayLike) -> float:
    """The mean of ``(probability - match)^2`` (Brier: Verification of Forecasts Expressed in Terms of Probability, Monthly
    Weather Review 1950); NaN without pairs.

    Raises:
        ConfigError: not a truth for each probability, or a probability outside [0, 1].
    """
    said, true = _checked(probabilities, matches)
    return float(np.square(said - true).mean()) if len(said) else float("nan")


def _checked(probabilities: ArrayLike, matches: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    said, true = np.asarray(probabilities, dtype=np.float64), np.asarray(matches, dtype=bool)
    if said.ndim != 1 or said.shape != true.shape:
        raise ConfigError(f"a probability and a truth a pair, [n] both, not {list(said.shape)} and {list(true.shape)}")
    if not ((said >= 0) & (said <= 1)).all():
        raise ConfigError("probabilities are numbers from 0 to 1")
    return said, true
