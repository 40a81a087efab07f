"""Kernels as feature maps: near the kernel itself, the same as scikit-learn's, and where they rank otherwise at all."""

from __future__ import annotations

import numpy as np
import pytest

from pixdex.encoders.kernelmaps import ChiSquare, Kernel, Sketch, Waves, kernel_of
from pixdex.errors import ConfigError
from pixdex.evaluation import measure
from pixdex.training.kernels import fit_map

RNG = np.random.default_rng(4)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


ROWS = unit(RNG.random((120, 16)))
SIGNED = unit(RNG.standard_normal((120, 16)))


@pytest.mark.parametrize("kernel", Kernel)
def test_landmarks_give_the_kernel(kernel: Kernel) -> None:
    fitted = fit_map(kernel, ROWS, width=120, gamma=0.7)
    mapped = fitted.apply(ROWS).astype(np.float64)
    assert mapped @ mapped.T == pytest.approx(kernel_of(kernel, ROWS, ROWS, gamma=0.7), abs=2e-3)
    assert fitted.dim == (16 if kernel is Kernel.LINEAR else 120)


@pytest.mark.parametrize("kernel", [Kernel.POLYNOMIAL, Kernel.GAUSSIAN, Kernel.CHI2])
def test_maps_are_those_of_scikit_learn(kernel: Kernel) -> None:
    from sklearn import kernel_approximation as theirs

    fitted = fit_map(kernel, ROWS, method="random", width=64, gamma=0.7, degree=2, seed=5)
    reference = {
        Kernel.POLYNOMIAL: theirs.PolynomialCountSketch(gamma=0.7, degree=2, coef0=1, n_components=64, random_state=5),
        Kernel.GAUSSIAN: theirs.RBFSampler(gamma=0.7, n_components=64, random_state=5),
        Kernel.CHI2: theirs.AdditiveChi2Sampler(sample_steps=2),
    }[kernel]
    assert isinstance(fitted, Sketch | Waves | ChiSquare)
    assert fitted.apply(ROWS) == pytest.approx(reference.fit(ROWS).transform(ROWS), abs=1e-5)
    assert fitted.apply(ROWS).shape == (120, fitted.dim)


@pytest.mark.parametrize(("kernel", "degree"), [(Kernel.GAUSSIAN, 0), (Kernel.POLYNOMIAL, 1), (Kernel.POLYNOMIAL, 3)])
def test_on_unit_vectors_a_gaussian_and_a_positive_polynomial_rank_like_cosine(kernel: Kernel, degree: int) -> None:
    """The seed of the project asked for them as metrics: they order neighbours as the cosine does, so no store needs them."""
    cosines = SIGNED.astype(np.float64) @ SIGNED.T.astype(np.float64)
    values = kernel_of(kernel, SIGNED, SIGNED, gamma=2.0, degree=degree)
    assert np.array_equal(np.argsort(-values, axis=1), np.argsort(-cosines, axis=1))


def test_an_even_polynomial_without_an_offset_does_not() -> None:
    cosines = SIGNED.astype(np.float64) @ SIGNED.T.astype(np.float64)
    values = kernel_of(Kernel.POLYNOMIAL, SIGNED, SIGNED, degree=2, offset=0.0)
    assert not np.array_equal(np.argsort(-values, axis=1), np.argsort(-cosines, axis=1))


def test_chi2_finds_histograms_that_the_cosine_misses() -> None:
    """Classes that differ in rare colours, under a few frequent ones that vary: the cosine sees only the latter."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 12)
    rare = rng.gamma(0.6, 1.0, (8, 24))[labels] * rng.gamma(30, 1 / 30, (96, 24))
    frequent = rng.gamma(4.0, 5.0, (96, 4))
    histograms = np.hstack([rare, frequent]).astype(np.float32)
    mapped = fit_map("chi2", histograms, method="random").apply(histograms)
    cosine, chi2 = (float(np.nanmean(measure(x, labels)["map@r"])) for x in (histograms, mapped))
    assert cosine < 0.5
    assert chi2 > cosine + 0.2


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match="chi2"):
        fit_map("chi2", SIGNED)
    with pytest.raises(ConfigError, match="linear"):
        fit_map("linear", ROWS, method="random")
    with pytest.raises(ConfigError, match="gaussian"):
        fit_map("gausian", ROWS)
