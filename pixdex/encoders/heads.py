"""Heads: small learned maps that follow a frozen network, so that distances mean what they were trained to mean.

A head takes the unit vectors of an encoder and gives others, which are scaled to length one again. It is applied with
numpy alone, is part of the encoder's fingerprint, and is saved beside it. ``pixdex train head`` makes one.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex.encoders._digest import digest_of, tensors_digest
from pixdex.encoders.kernelmaps import FeatureMap, RowMap
from pixdex.errors import ConfigError, MissingDependency

__all__ = ["HEAD_FILE", "Head", "KernelHead", "LinearHead", "MLPHead"]

Rows = NDArray[np.float32]

HEAD_FILE = "head.safetensors"
"""Its arrays, and in the header of the file what else it is."""
_KEY = "pixdex.head"


class Head(RowMap):
    """A learned map of vectors.

    Attributes:
        prefixes: the widths that it was trained to be cut to, rising; none where only the whole of it means something.
    """

    kind: ClassVar[str]
    prefixes: tuple[int, ...]

    @abstractmethod
    def apply(self, vectors: Rows) -> Rows:
        """float32 ``[n, dim]``, of any length, of unit vectors float32 ``[n, in_dim]``."""

    @abstractmethod
    def _cut(self, dim: int) -> Head: ...

    def values(self) -> dict[str, Any]:
        """What else it is, as a JSON object."""
        return {"kind": self.kind, "prefixes": list(self.prefixes)}

    def first(self, dim: int) -> Head:
        """The head that gives the first ``dim`` values only.

        Raises:
            ConfigError: it was not trained to be cut there.
        """
        if dim == self.dim:
            return self
        if dim not in self.prefixes:
            widths = ", ".join(map(str, sorted({*self.prefixes, self.dim})))
            raise ConfigError(f"dim={dim}: this head was trained to give {widths} values: choose one of these")
        return self._cut(dim)

    def digest(self) -> str:
        """32 hexadecimal characters over all that shapes a vector: what it may be cut to does not."""
        shaping = {name: value for name, value in self.values().items() if name != "prefixes"}
        return digest_of({**shaping, "tensors": tensors_digest(self.tensors())})

    def save(self, folder: Path) -> None:
        """Write ``HEAD_FILE``, which ``load`` reads.

        Raises:
            MissingDependency: safetensors is not installed.
        """
        try:
            from safetensors.numpy import save
        except ImportError as error:
            raise MissingDependency("safetensors", "torch") from error
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors().items()}
        values = {_KEY: orjson.dumps(self.values()).decode()}
        # Not save_file, whose files nobody else may read.
        (folder / HEAD_FILE).write_bytes(save(tensors, metadata=values))

    @staticmethod
    def load(folder: Path) -> Head:
        """The head in a folder.

        Raises:
            ConfigError: there is none, or it is damaged or from a newer pixdex.
            MissingDependency: safetensors is not installed.
        """
        try:
            from safetensors import safe_open
        except ImportError as error:
            raise MissingDependency("safetensors", "torch") from error
        file = folder / HEAD_FILE
        try:
            with safe_open(file, "numpy") as opened:
                values = orjson.loads(opened.metadata()[_KEY])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            return _made(values, tensors)
        except ConfigError:
            raise
        except Exception as error:  # safetensors raises its own kinds
            raise ConfigError(f"{file} is not a head: {error!r}") from error


class _Weighted(Head):
    """A head whose ``weight`` is ``[in_dim, dim]``."""

    weight: Rows

    @property
    def in_dim(self) -> int:
        return int(self.weight.shape[0])

    @property
    def dim(self) -> int:
        return int(self.weight.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead(_Weighted):
    """``x @ weight + bias``.

    Attributes:
        weight: float32 ``[in_dim, dim]``.
        bias: float32 ``[dim]``.
        prefixes: see ``Head``.
    """

    kind: ClassVar[str] = "linear"
    weight: Rows
    bias: Rows
    prefixes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(self.tensors(), {"weight": ("in", "out"), "bias": ("out",)})

    def apply(self, vectors: Rows) -> Rows:
        mapped: Rows = np.add(vectors @ self.weight, self.bias, dtype=np.float32)
        return mapped

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"weight": self.weight, "bias": self.bias}

    def _cut(self, dim: int) -> LinearHead:
        return LinearHead(np.ascontiguousarray(self.weight[:, :dim]), self.bias[:dim].copy(), _below(self, dim))


@dataclass(frozen=True, slots=True, eq=False)
class MLPHead(_Weighted):
    """A linear map with a correction that is none: ``x @ weight + bias + gelu(x @ inner + inner_bias) @ outer``.

    Training starts with ``outer`` at zero, as the linear map alone. GELU is its usual tanh approximation (Hendrycks,
    Gimpel: Gaussian Error Linear Units, 2016).

    Attributes:
        weight: float32 ``[in_dim, dim]``.
        bias: float32 ``[dim]``.
        inner: float32 ``[in_dim, h]``.
        inner_bias: float32 ``[h]``.
        outer: float32 ``[h, dim]``.
        prefixes: see ``Head``.
    """

    kind: ClassVar[str] = "mlp"
    weight: Rows
    bias: Rows
    inner: Rows
    inner_bias: Rows
    outer: Rows
    prefixes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shapes = {"weight": ("in", "out"), "bias": ("out",), "inner": ("in", "h"), "inner_bias": ("h",)}
        _check(self.tensors(), {**shapes, "outer": ("h", "out")})

    def apply(self, vectors: Rows) -> Rows:
        hidden = vectors @ self.inner + self.inner_bias
        hidden *= 0.5 + 0.5 * np.tanh(np.float32(np.sqrt(2 / np.pi)) * (hidden + np.float32(0.044715) * hidden**3))
        mapped: Rows = np.add(vectors @ self.weight + self.bias, hidden @ self.outer, dtype=np.float32)
        return mapped

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {
            "weight": self.weight,
            "bias": self.bias,
            "inner": self.inner,
            "inner_bias": self.inner_bias,
            "outer": self.outer,
        }

    def _cut(self, dim: int) -> MLPHead:
        return replace(
            self,
            weight=np.ascontiguousarray(self.weight[:, :dim]),
            bias=self.bias[:dim].copy(),
            outer=np.ascontiguousarray(self.outer[:, :dim]),
            prefixes=_below(self, dim),
        )


@dataclass(frozen=True, slots=True, eq=False)
class KernelHead(Head):
    """A kernel's feature map and, where something was learned on it, a linear map of its values.

    Attributes:
        map: the feature map.
        linear: what follows, or None.
    """

    kind: ClassVar[str] = "kernel"
    map: FeatureMap
    linear: LinearHead | None = None

    def __post_init__(self) -> None:
        if self.linear is not None and self.linear.in_dim != self.map.dim:
            raise ConfigError(f"the feature map gives {self.map.dim} values, the linear map takes {self.linear.in_dim}")

    @property
    def prefixes(self) -> tuple[int, ...]:  # type: ignore[override]  # what follows the map knows
        return () if self.linear is None else self.linear.prefixes

    @property
    def in_dim(self) -> int:
        return self.map.in_dim

    @property
    def dim(self) -> int:
        return self.map.dim if self.linear is None else self.linear.dim

    def apply(self, vectors: Rows) -> Rows:
        mapped = self.map.apply(vectors)
        return mapped if self.linear is None else self.linear.apply(mapped)

    def values(self) -> dict[str, Any]:
        return {**Head.values(self), "map": self.map.values()}

    def tensors(self) -> dict[str, NDArray[Any]]:
        mapped = {f"map.{name}": tensor for name, tensor in self.map.tensors().items()}
        return mapped | ({} if self.linear is None else self.linear.tensors())

    def _cut(self, dim: int) -> KernelHead:
        return self if self.linear is None else KernelHead(self.map, self.linear._cut(dim))  # noqa: SLF001 - its own kind


def _made(values: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Head:
    kind, prefixes = values["kind"], tuple(values["prefixes"])
    if kind == LinearHead.kind:
        return LinearHead(tensors["weight"], tensors["bias"], prefixes)
    if kind == MLPHead.kind:
        return MLPHead(**tensors, prefixes=prefixes)
    if kind == KernelHead.kind:
        inside = {name.removeprefix("map."): tensor for name, tensor in tensors.items() if name.startswith("map.")}
        linear = LinearHead(tensors["weight"], tensors["bias"], prefixes) if "weight" in tensors else None
        return KernelHead(FeatureMap.made(values["map"], inside), linear)
    raise ConfigError(f"a head of the kind {kind!r} is not known: pip install -U pixdex")


def _below(head: Head, dim: int) -> tuple[int, ...]:
    return tuple(width for width in head.prefixes if width < dim)


def _check(tensors: dict[str, NDArray[Any]], shapes: dict[str, tuple[str, ...]]) -> None:
    """Raises ConfigError where arrays don't fit one another, or hold what is no number."""
    sizes: dict[str, int] = {}
    for name, axes in shapes.items():
        tensor = tensors[name]
        if tensor.ndim != len(axes) or any(
            sizes.setdefault(axis, size) != size for axis, size in zip(axes, tensor.shape, strict=True)
        ):
            given = ", ".join(f"{n} {list(tensors[n].shape)}" for n in shapes)
            raise ConfigError(f"the arrays of a head do not fit one another: {given}")
        if not np.isfinite(tensor).all():
            raise ConfigError(f"a head holds NaN or infinity in {name}")
