"""Fitting kernels as feature maps, by scikit-learn; ``pixdex.encoders.kernelmaps`` applies them without it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders.kernelmaps import ChiSquare, FeatureMap, Kernel, Landmarks, Sketch, Waves, kernel_of
from pixdex.errors import ConfigError, MissingDependency

__all__ = ["WIDTH", "fit_map"]

WIDTH = 512
"""How many values a map gives, where nobody says."""
_SAMPLE = 500
_METRICS = {Kernel.LINEAR: "linear", Kernel.POLYNOMIAL: "polynomial", Kernel.GAUSSIAN: "rbf", Kernel.CHI2: "chi2"}
"""What scikit-learn calls them."""

Method = Literal["landmarks", "random"]


def fit_map(
    kernel: Kernel | str,
    rows: NDArray[np.float32],
    *,
    method: Method = "landmarks",
    width: int = WIDTH,
    gamma: float | None = None,
    degree: int = 3,
    offset: float = 1.0,
    seed: int = 0,
) -> FeatureMap:
    """A map whose dot products stand for ``kernel`` among vectors like ``rows``, float32 ``[n, d]``.

    Args:
        kernel: ``linear``, ``polynomial``, ``gaussian`` or ``chi2``.
        rows: what it is fitted to: ``landmarks`` takes points from there.
        method: ``landmarks`` (Nystroem; any kernel) or ``random``: random waves for the Gaussian kernel, a count sketch
            for the polynomial one, samples of the spectrum for the additive chi2 one, three for each value.
        width: how many values the map gives; of landmarks no more than there are rows.
        gamma: scale of the kernel; default 1 for the polynomial one, else such that the kernel of two rows is 1/e in
            the middle.
        degree, offset: of the polynomial kernel.
        seed: of what is drawn.

    Raises:
        ConfigError: no such kernel, a linear one by ``random``, or chi2 of negative values.
        MissingDependency: scikit-learn is not installed.
    """
    try:
        from sklearn import kernel_approximation
    except ImportError as error:
        raise MissingDependency("scikit-learn", "train") from error
    chosen = Kernel.named(kernel)
    if chosen is Kernel.CHI2 and (rows < 0).any():
        raise ConfigError("chi2 compares values of zero or more, such as histograms: these vectors hold negative ones")
    if method == "random" and chosen is Kernel.LINEAR:
        raise ConfigError("a linear kernel is its own feature map: method=landmarks only makes it narrower")
    if method == "random" and chosen is Kernel.CHI2:
        sampler = kernel_approximation.AdditiveChi2Sampler(sample_steps=2).fit(rows)
        return ChiSquare(width=rows.shape[1], steps=2, interval=float(getattr(sampler, "sample_interval_", 0.5)))
    scale = _scale(chosen, rows, seed) if gamma is None else gamma
    if method == "random" and chosen is Kernel.GAUSSIAN:
        waves = kernel_approximation.RBFSampler(gamma=scale, n_components=width, random_state=seed).fit(rows)
        return Waves(weight=waves.random_weights_.astype(np.float32), phase=waves.random_offset_.astype(np.float32))
    if method == "random":
        sketch = kernel_approximation.PolynomialCountSketch(
            gamma=scale, degree=degree, coef0=offset, n_components=width, random_state=seed
        ).fit(rows)
        places, signs = sketch.indexHash_.astype(np.int32), sketch.bitHash_.astype(np.int8)
        return Sketch(places=places, signs=signs, width=width, gamma=scale, offset=offset)
    options = {
        Kernel.LINEAR: {},
        Kernel.POLYNOMIAL: {"gamma": scale, "degree": degree, "coef0": offset},
    }.get(chosen, {"gamma": scale})
    # More points than values are linearly dependent, and the linear kernel among them has no inverse.
    most = min(width, len(rows), rows.shape[1] if chosen is Kernel.LINEAR else width)
    points = kernel_approximation.Nystroem(
        kernel=_METRICS[chosen], n_components=most, random_state=seed, **options
    ).fit(rows)
    return Landmarks(
        kernel=chosen,
        points=points.components_.astype(np.float32),
        mixing=points.normalization_.astype(np.float32),
        gamma=scale,
        degree=degree,
        offset=offset,
    )


def _scale(kernel: Kernel, rows: NDArray[np.float32], seed: int) -> float:
    """One over the median of what the kernel's exponential is of, over pairs of some rows."""
    if kernel in (Kernel.LINEAR, Kernel.POLYNOMIAL):
        return 1.0
    some = np.random.default_rng(seed).permutation(len(rows))[:_SAMPLE]
    distances = -np.log(np.maximum(kernel_of(kernel, rows[some], rows[some]), 1e-300))
    middle = float(np.median(distances[~np.eye(len(some), dtype=bool)]))
    return 1 / middle if middle > 0 else 1.0
