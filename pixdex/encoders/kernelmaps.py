"""Kernels as explicit feature maps: dot products of mapped vectors are, or come near, the kernel of the vectors.

So any store serves a kernel: what it holds are mapped vectors. scikit-learn fits the maps
(``pixdex.training.kernels``); here they are applied with numpy alone. On vectors of length one, a Gaussian kernel and a
polynomial one with positive coefficients grow with the cosine and rank as it does: they change something for vectors
that have a length, such as histograms, and as the input of something that is learned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders._named import Named
from pixdex.errors import ConfigError

__all__ = ["ChiSquare", "FeatureMap", "Kernel", "Landmarks", "RowMap", "Sketch", "Waves", "kernel_of"]

Rows = NDArray[np.float32]
_BLOCK = 1024


class Kernel(Named, what="kernel"):
    """How alike two vectors are."""

    LINEAR = "linear"
    """``x . y``"""
    POLYNOMIAL = "polynomial"
    """``(gamma x . y + offset) ** degree``"""
    GAUSSIAN = "gaussian"
    """``exp(-gamma |x - y|^2)``"""
    CHI2 = "chi2"
    """``exp(-gamma sum (x - y)^2 / (x + y))``, for values of zero or more, such as those of histograms"""


def kernel_of(
    kernel: Kernel, x: Rows, y: Rows, *, gamma: float = 1.0, degree: int = 3, offset: float = 1.0
) -> NDArray[np.float64]:
    """The kernel itself, float64 ``[n, m]`` of ``[n, d]`` and ``[m, d]``."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    if kernel is Kernel.CHI2:
        return np.asarray(np.exp(-gamma * _chi2(np.maximum(a, 0), np.maximum(b, 0))))
    products: NDArray[np.float64] = a @ b.T
    if kernel is Kernel.LINEAR:
        return products
    if kernel is Kernel.POLYNOMIAL:
        return np.asarray((gamma * products + offset) ** degree)
    squares = np.square(a).sum(axis=1)[:, None] - 2 * products + np.square(b).sum(axis=1)
    return np.asarray(np.exp(-gamma * np.maximum(squares, 0)))


class RowMap(ABC):
    """What makes rows of one width rows of another, by arrays of its own."""

    @property
    @abstractmethod
    def in_dim(self) -> int:
        """Width of what it takes."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of what it gives."""

    @abstractmethod
    def apply(self, rows: Rows) -> Rows:
        """float32 ``[n, dim]`` of ``[n, in_dim]``."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name."""


class FeatureMap(RowMap):
    """A map whose dot products stand for a kernel; deterministic once fitted."""

    form: ClassVar[str]

    @abstractmethod
    def values(self) -> dict[str, Any]:
        """Its numbers, as a JSON object; ``made`` reads them."""

    @staticmethod
    def made(values: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> FeatureMap:
        """The inverse of ``values`` and ``tensors``.

        Raises:
            ConfigError: no such map.
        """
        form, kept = values.get("form"), {name: value for name, value in values.items() if name != "form"}
        if form == Landmarks.form:
            kept["kernel"] = Kernel.named(kept["kernel"])
            return Landmarks(points=tensors["points"], mixing=tensors["mixing"], **kept)
        if form == Waves.form:
            return Waves(weight=tensors["weight"], phase=tensors["phase"])
        if form == Sketch.form:
            return Sketch(places=tensors["places"], signs=tensors["signs"], **kept)
        if form == ChiSquare.form:
            return ChiSquare(**kept)
        raise ConfigError(f"a feature map of the form {form!r} is not known: pip install -U pixdex")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Landmarks(FeatureMap):
    """Any kernel, by its values at some points: ``k(x, points) @ mixing.T``.

    Williams, Seeger: Using the Nystroem Method to Speed Up Kernel Machines, NIPS 2000.

    Attributes:
        kernel: which.
        points: float32 ``[m, d]``.
        mixing: float32 ``[m, m]``, the inverse square root of the kernel among the points.
        gamma: scale of the polynomial, Gaussian and chi2 kernels.
        degree: of the polynomial kernel.
        offset: of the polynomial kernel.
    """

    form: ClassVar[str] = "landmarks"
    kernel: Kernel
    points: Rows
    mixing: Rows
    gamma: float = 1.0
    degree: int = 3
    offset: float = 1.0

    @property
    def in_dim(self) -> int:
        return int(self.points.shape[1])

    @property
    def dim(self) -> int:
        return len(self.mixing)

    def apply(self, rows: Rows) -> Rows:
        mapped = np.empty((len(rows), self.dim), dtype=np.float32)
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            near = kernel_of(self.kernel, part, self.points, gamma=self.gamma, degree=self.degree, offset=self.offset)
            mapped[start : start + _BLOCK] = near @ self.mixing.T
        return mapped

    def values(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "kernel": self.kernel.value,
            "gamma": self.gamma,
            "degree": self.degree,
            "offset": self.offset,
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"points": self.points, "mixing": self.mixing}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Waves(FeatureMap):
    """The Gaussian kernel by random waves: ``sqrt(2 / m) cos(x @ weight + phase)``.

    Rahimi, Recht: Random Features for Large-Scale Kernel Machines, NIPS 2007.

    Attributes:
        weight: float32 ``[d, m]``.
        phase: float32 ``[m]``, radians.
    """

    form: ClassVar[str] = "waves"
    weight: Rows
    phase: Rows

    @property
    def in_dim(self) -> int:
        return len(self.weight)

    @property
    def dim(self) -> int:
        return len(self.phase)

    def apply(self, rows: Rows) -> Rows:
        waves: Rows = np.cos(rows @ self.weight + self.phase) * np.float32(np.sqrt(2 / self.dim))
        return waves

    def values(self) -> dict[str, Any]:
        return {"form": self.form}

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"weight": self.weight, "phase": self.phase}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sketch(FeatureMap):
    """The polynomial kernel by count sketches, multiplied as their Fourier transforms.

    Pham, Pagh: Fast and Scalable Polynomial Kernels via Explicit Feature Maps, KDD 2013.

    Attributes:
        places: int32 ``[degree, d]``, which of the ``width`` sums a value is added to; with an offset ``[degree, d + 1]``.
        signs: int8, of the same shape, 1 or -1.
        width: how many values it gives.
        gamma: scale of the kernel.
        offset: of the kernel.
    """

    form: ClassVar[str] = "sketch"
    places: NDArray[np.int32]
    signs: NDArray[np.int8]
    width: int
    gamma: float = 1.0
    offset: float = 0.0

    @property
    def in_dim(self) -> int:
        return int(self.places.shape[1]) - (self.offset != 0)

    @property
    def dim(self) -> int:
        return self.width

    def apply(self, rows: Rows) -> Rows:
        scaled = rows.astype(np.float64) * np.sqrt(self.gamma)
        if self.offset != 0:
            scaled = np.hstack([scaled, np.full((len(rows), 1), np.sqrt(self.offset))])
        product = np.ones((len(rows), self.width // 2 + 1), dtype=np.complex128)
        for places, signs in zip(self.places, self.signs, strict=True):
            sums = np.zeros((len(rows), self.width))
            for column, (place, sign) in enumerate(zip(places, signs, strict=True)):
                sums[:, place] += sign * scaled[:, column]
            product *= np.fft.rfft(sums)
        return np.asarray(np.fft.irfft(product, n=self.width), dtype=np.float32)

    def values(self) -> dict[str, Any]:
        return {"form": self.form, "width": self.width, "gamma": self.gamma, "offset": self.offset}

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"places": self.places, "signs": self.signs}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChiSquare(FeatureMap):
    """The additive chi2 kernel ``sum 2 x y / (x + y)``, value by value; what is below zero counts as zero.

    Vedaldi, Zisserman: Efficient Additive Kernels via Explicit Feature Maps, TPAMI 2012.

    Attributes:
        width: values of a vector.
        steps: samples of the spectrum; each value becomes ``2 steps - 1``.
        interval: between them.
    """

    form: ClassVar[str] = "chi-square"
    width: int
    steps: int = 2
    interval: float = 0.5

    @property
    def in_dim(self) -> int:
        return self.width

    @property
    def dim(self) -> int:
        return self.width * (2 * self.steps - 1)

    def apply(self, rows: Rows) -> Rows:
        x = np.maximum(rows, 0).astype(np.float64)
        logs = self.interval * np.log(np.where(x > 0, x, 1))
        parts = [np.sqrt(x * self.interval)]
        for step in range(1, self.steps):
            size = np.sqrt(2 * x * self.interval / np.cosh(np.pi * step * self.interval))
            parts += [size * np.cos(step * logs), size * np.sin(step * logs)]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")

    def values(self) -> dict[str, Any]:
        return {"form": self.form, "width": self.width, "steps": self.steps, "interval": self.interval}

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {}


def _chi2(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances ``[n, m]``; a value that both lack adds nothing."""
    distances = np.zeros((len(x), len(y)))
    for row, values in enumerate(x):
        sums = values + y
        distances[row] = (np.square(values - y) / np.where(sums > 0, sums, 1)).sum(axis=1)
    return distances
