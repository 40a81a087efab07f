"""Tokens: local descriptors chosen, projected and packed for rerankers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders._digest import tensors_digest
from pixdex.encoders._named import Named
from pixdex.errors import ConfigError, MissingDependency

__all__ = ["Choice", "Coding", "Projection", "chosen", "fit_projection", "pack_signs", "quantize", "select", "unit"]


class Choice(Named, what="tokens by"):
    """Which local descriptors of a picture are kept."""

    DIVERSE = "diverse"
    """Those that differ from one another."""
    CLS = "cls"
    """Those most like the picture's class token, or like its vector where there is none."""
    NORM = "norm"
    """The longest, which the network makes most of."""


class Coding(Named, what="tokens as"):
    """How the values of a token are kept; what a ``TokenSpec`` calls its dtype."""

    INT8 = "int8"
    """A byte each."""
    BITS = "bits"
    """The sign of each, eight to a byte."""

    def bytes_of(self, dim: int) -> int:
        """Bytes of one token of ``dim`` values."""
        return -(-dim // 8) if self is Coding.BITS else dim

    def pack(self, tokens: NDArray[np.float32]) -> NDArray[np.int8] | NDArray[np.uint8]:
        """Tokens ``[..., d]`` as they are stored: int8 ``[..., d]``, or uint8 ``[..., d / 8]``."""
        return pack_signs(tokens) if self is Coding.BITS else quantize(tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A linear map of descriptors to fewer values: ``(unit(x) - mean) @ basis``.

    Attributes:
        mean: float32 ``[d]``.
        basis: float32 ``[d, k]``; of a PCA, components by falling variance.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.basis.ndim != 2 or self.mean.shape != self.basis.shape[:1]:
            raise ConfigError(f"a projection is mean [d] and basis [d, k], not {self.mean.shape}, {self.basis.shape}")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.basis).all()):
            raise ConfigError("a projection holds NaN or infinity")

    @classmethod
    def load(cls, file: Path) -> Projection:
        """Read a safetensors file with the tensors ``basis`` and, unless it is zero, ``mean``.

        Raises:
            ConfigError: not such a file.
            MissingDependency: safetensors is not installed.
        """
        try:
            from safetensors.numpy import load_file
        except ImportError as error:
            raise MissingDependency("safetensors", "torch") from error
        try:
            tensors = load_file(file)
            basis = tensors["basis"].astype(np.float32)
            mean = tensors.get("mean", np.zeros(len(basis))).astype(np.float32)
        except Exception as error:  # safetensors raises its own kinds
            raise ConfigError(f"{file} is not a projection: {error}") from error
        return cls(mean, basis)

    def save(self, file: Path) -> None:
        """Write what ``load`` reads.

        Raises:
            MissingDependency: safetensors is not installed.
        """
        try:
            from safetensors.numpy import save_file
        except ImportError as error:
            raise MissingDependency("safetensors", "torch") from error
        save_file({"mean": self.mean, "basis": self.basis}, file)

    @property
    def width(self) -> int:
        """How many values it leaves."""
        return int(self.basis.shape[1])

    def first(self, dim: int) -> Projection:
        """The same with the first ``dim`` components only.

        Raises:
            ConfigError: it has not so many.
        """
        if not 1 <= dim <= self.width:
            raise ConfigError(f"token_dim: 1 to {self.width} for this projection, not {dim}")
        return Projection(self.mean, np.ascontiguousarray(self.basis[:, :dim]))

    def apply(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 ``[..., k]`` of ``[..., d]``."""
        centred: NDArray[np.float32] = np.subtract(unit(tokens), self.mean, dtype=np.float32)
        projected: NDArray[np.float32] = centred @ self.basis
        return projected

    def digest(self) -> str:
        """32 hexadecimal characters over its values."""
        return tensors_digest({"mean": self.mean, "basis": self.basis})


def fit_projection(cells: NDArray[np.float32], dim: int) -> Projection:
    """Principal components of descriptors, scaled to unit length first since only directions count later.

    ``cells`` is ``[..., d]``, such as ``Trunk.forward(...).cells`` of some hundred pictures.

    Raises:
        ConfigError: ``dim`` is more than the width, or there are fewer descriptors than that.
    """
    rows = unit(cells.reshape(-1, cells.shape[-1])).astype(np.float64)
    if not 1 <= dim <= min(rows.shape):
        raise ConfigError(f"a projection to {dim} values needs as many descriptors, as wide: not {rows.shape}")
    mean: NDArray[np.float64] = rows.mean(axis=0)
    _, components = np.linalg.eigh(np.cov(rows, rowvar=False, bias=True))
    basis = components[:, ::-1][:, :dim]
    # An eigenvector's sign is arbitrary: the largest entry is positive, so that two fits agree.
    signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(dim)])
    return Projection(mean.astype(np.float32), np.ascontiguousarray(basis * signs, dtype=np.float32))


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The last axis scaled to length one; zeros stay zeros."""
    lengths = np.sqrt(np.square(rows).sum(axis=-1, keepdims=True))
    return np.divide(rows, np.where(lengths > 0, lengths, 1), dtype=np.float32)


def select(
    cells: NDArray[np.float32], guide: NDArray[np.float32], count: int, choice: Choice = Choice.DIVERSE
) -> NDArray[np.float32]:
    """``count`` descriptors of each picture, in their spatial order.

    ``cells`` float32 ``[n, t, d]`` and ``guide`` ``[n, d]``, a vector of each picture in the space of its
    descriptors, give ``[n, min(count, t), d]``.
    """
    if count >= cells.shape[1]:
        return cells
    return np.take_along_axis(cells, chosen(cells, guide, count, choice)[:, :, None], axis=1)


def chosen(
    cells: NDArray[np.float32], guide: NDArray[np.float32], count: int, choice: Choice = Choice.DIVERSE
) -> NDArray[np.intp]:
    """Which descriptors ``select`` takes: their numbers ``[n, min(count, t)]``, rising."""
    if count >= cells.shape[1]:
        return np.broadcast_to(np.arange(cells.shape[1]), cells.shape[:2])
    if choice is Choice.DIVERSE:
        taken = _farthest(unit(cells), guide, count)
    else:
        worth = np.einsum("ntd,nd->nt", unit(cells), guide) if choice is Choice.CLS else np.square(cells).sum(axis=2)
        taken = np.argsort(-worth, axis=1, kind="stable")[:, :count]
    return np.sort(taken, axis=1)


def _farthest(units: NDArray[np.float32], guide: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Farthest-point sampling by cosine: the descriptor nearest to the guide first, then always the one least like those
    chosen. Sky and walls fill many cells with nearly the same descriptor; left in, they drown the rest in MaxSim.
    """
    pictures, total = units.shape[:2]
    every = np.arange(pictures)
    chosen: NDArray[np.intp] = np.einsum("ntd,nd->nt", units, guide).argmax(axis=1)[:, None]
    nearest = np.full((pictures, total), -np.inf, dtype=np.float32)
    for _ in range(count - 1):
        likeness = np.matmul(units, units[every, chosen[:, -1]][:, :, None])[:, :, 0]
        nearest = np.maximum(nearest, likeness)
        nearest[every, chosen[:, -1]] = np.inf  # never twice, not even among equals
        chosen = np.concatenate([chosen, nearest.argmin(axis=1)[:, None]], axis=1)
    return chosen


def quantize(tokens: NDArray[np.float32]) -> NDArray[np.int8]:
    """int8 of the same shape that keeps each token's direction: its largest value becomes 127.

    Of a unit token with hundreds of values, ``x * 127`` would use a dozen levels; a reader scales to length one anyway.
    """
    largest = np.abs(tokens).max(axis=-1, keepdims=True)
    return np.rint(tokens * (127 / np.where(largest > 0, largest, 1))).astype(np.int8)


def pack_signs(tokens: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 ``[..., d / 8]`` of ``[..., d]``, d a multiple of 8: a bit each, 1 for what is positive, the first the highest.

    Between vectors of random signs the share of equal ones tells the angle (Charikar: Similarity Estimation Techniques
    from Rounding Algorithms, STOC 2002). Descriptors aren't random, and still it holds well enough to rank by; best
    where a projection has centred them.
    """
    return np.packbits(tokens > 0, axis=-1)
