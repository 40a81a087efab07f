"""What every index of the embedded store is, and what they share."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import faiss as _faiss
import numpy as np

from pixdex.spec import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Curve",
    "Engined",
    "Index",
    "Kind",
    "Source",
    "Stopped",
    "faiss",
    "faiss_metric",
    "neighbours",
    "reread",
    "selector",
]

faiss: Any = _faiss
"""Untyped, because its type stubs lack names and arguments that it has."""


class Kind(StrEnum):
    """How a vector is indexed; the values are those of the option ``index=``."""

    AUTO = "auto"
    """``flat`` while that is fast, ``ivf-pq`` above."""
    FLAT = "flat"
    """No index: every search compares with every vector. Exact."""
    IVF = "ivf"
    """Inverted lists of vectors, a byte a dimension."""
    PQ = "pq"
    """Product quantization without lists: every code is compared, each in a few instructions."""
    IVF_PQ = "ivf-pq"
    """Inverted lists of product-quantized residuals: half a byte for each four dimensions."""
    OPQ = "opq"
    """``ivf-pq`` after a rotation learned to quantize well (Ge et al. 2013)."""
    RABITQ = "rabitq"
    """Inverted lists of one bit a dimension, with an unbiased estimate (Gao and Long 2024)."""
    HNSW = "hnsw"
    """A navigable graph (Malkov and Yashunin 2016) over vectors of a byte a dimension."""
    LSH = "lsh"
    """Signs of random projections, compared by Hamming distance (Charikar 2002)."""
    KDTREE = "kdtree"
    """Exact, for few dimensions."""
    BALLTREE = "balltree"
    """Exact, for few dimensions."""


class Stopped(Exception):
    """Training was told to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index(ABC):
    """Proposes positions for a query; the caller scores them exactly. It never changes: any thread may search it.

    Attributes:
        kind: what it is; neither ``auto`` nor ``flat``.
        metric: how vectors are compared. Under cosine they are of length one.
        dim: width of a vector.
        covers: positions ``[0, covers)`` are in it.
        fitted: how many positions there were when it was trained.
        error: ``strain`` of the vectors that it was trained on.
    """

    kind: Kind
    metric: Metric
    dim: int
    covers: int
    fitted: int
    error: float

    @property
    @abstractmethod
    def resident(self) -> int:
        """Bytes of memory that it holds."""

    @abstractmethod
    def propose(
        self,
        queries: NDArray[np.float32],
        count: int,
        *,
        effort: float,
        among: NDArray[np.uint8] | None = None,
        share: float = 1.0,
    ) -> NDArray[np.int64]:
        """Candidates for the ``count`` best of each query ``[q, d]``: int64 ``[q, m]``, -1 where there is none.

        Args:
            effort: in [0, 1]; more candidates and better ones as it grows.
            among: bits of the positions that may be proposed, position 0 the lowest of byte 0
                (``np.packbits(mask, bitorder="little")``); positions beyond them may not.
            share: the fraction of positions that ``among`` lets through.
        """

    @abstractmethod
    def extended(self, rows: NDArray[np.float32]) -> Index:
        """One that covers ``rows`` ``[n, d]`` too, at positions ``covers`` and on; this one stays as it is."""

    @abstractmethod
    def payload(self) -> NDArray[np.uint8]:
        """What ``to_bytes`` saves beyond the attributes."""

    def strain(self, rows: NDArray[np.float32]) -> float:
        """How badly the index fits vectors ``[n, d]``: a mean squared error, 1 for kinds that do not learn."""
        return 1.0

    @property
    def own_facts(self) -> Mapping[str, Any]:
        """Attributes of this kind alone, for JSON."""
        return {}

    @property
    def facts(self) -> Mapping[str, Any]:
        """The attributes, for JSON."""
        return {
            "kind": self.kind.value,
            "metric": self.metric.value,
            "dim": self.dim,
            "covers": self.covers,
            "fitted": self.fitted,
            "error": self.error,
            **self.own_facts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Engined(Index):
    """An index of faiss.

    Attributes:
        engine: faiss's own object, which is never changed.
    """

    engine: Any

    def extended(self, rows: NDArray[np.float32]) -> Self:
        engine = faiss.clone_index(self.engine)
        engine.add(self._taken(rows))
        return replace(self, engine=engine, covers=self.covers + len(rows))

    def payload(self) -> NDArray[np.uint8]:
        packed: NDArray[np.uint8] = faiss.serialize_index(self.engine)
        return packed

    def _taken(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors as the engine takes them."""
        return np.ascontiguousarray(rows, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What an index is built from.

    Attributes:
        vectors: float32 or float16 ``[n, d]``, mapped.
        metric: how they are compared.
        stop: training raises ``Stopped`` soon after it is set.
        progress: called with the number of positions that are in the index so far.
        seed: of the sample and of what is random in training.
    """

    vectors: NDArray[Any]
    metric: Metric
    stop: threading.Event | None
    progress: Callable[[int], None] | None
    seed: int

    @property
    def rows(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def check(self) -> None:
        """Raises ``Stopped`` when told to stop."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped

    def facts(self, kind: Kind, *, error: float = 1.0) -> dict[str, Any]:
        """The attributes of an index over all of it."""
        return {
            "kind": kind,
            "metric": self.metric,
            "dim": self.dim,
            "covers": self.rows,
            "fitted": self.rows,
            "error": error,
        }

    def sample(self, most: int) -> NDArray[np.float32]:
        """At most ``most`` of the vectors, drawn evenly."""
        if self.rows <= most:
            return np.ascontiguousarray(self.vectors, dtype=np.float32)
        drawn = np.random.default_rng(self.seed).choice(self.rows, most, replace=False)
        return np.ascontiguousarray(self.vectors[np.sort(drawn)], dtype=np.float32)

    def chunks(self, size: int) -> Iterator[NDArray[np.float32]]:
        """All vectors in turn, ``size`` at a time; between them it reports and may stop."""
        for start in range(0, self.rows, size):
            self.check()
            yield np.ascontiguousarray(self.vectors[start : start + size], dtype=np.float32)
            if self.progress is not None:
                self.progress(min(start + size, self.rows))


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity that grows with effort, geometrically between the points where it was measured.

    Attributes:
        values: at efforts 0, .25, .5, .8 and 1.
    """

    values: tuple[float, float, float, float, float]

    def at(self, effort: float) -> float:
        efforts = (0.0, 0.25, 0.5, 0.8, 1.0)
        return math.exp(float(np.interp(effort, efforts, [math.log(value) for value in self.values])))


def faiss_metric(metric: Metric) -> int:
    """The metric as faiss numbers them; cosine is the product of unit vectors."""
    return int(faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT)


def neighbours(engine: Any, queries: NDArray[np.float32], count: int, params: Any) -> NDArray[np.int64]:
    """``engine.search`` without its checks, which cost a tenth of a search: int64 ``[q, count]``."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    shape = (len(queries), count)
    scores, found = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
    pointer = faiss.swig_ptr
    engine.search_c(len(queries), pointer(queries), count, pointer(scores), pointer(found), params)
    return found


def selector(among: NDArray[np.uint8]) -> Any:
    """A selector of faiss over bits; ``among`` has to outlive it. Its size is in bytes."""
    return faiss.IDSelectorBitmap(len(among), faiss.swig_ptr(among))


def reread(engine: Any) -> Any:
    """The same index without the slack of its growing."""
    return faiss.deserialize_index(faiss.serialize_index(engine))
