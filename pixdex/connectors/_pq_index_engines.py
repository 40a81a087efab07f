"""``hnsw`` and ``lsh``, by faiss.

A graph takes products as they are: lifted vectors of unlike lengths made it miss half of the best. Hash codes know
directions only, so they are of lifted vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.connectors._pq_index_base import (
    Curve,
    Engined,
    Kind,
    Source,
    faiss,
    faiss_metric,
    neighbours,
    reread,
    selector,
)
from pixdex.connectors._pq_index_lift import Lift

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Codes", "Graph", "train_codes", "train_graph"]

_LINKS = 16
_CONSTRUCTION = 100
_CHUNK = 4096
_SAMPLES = 50_000
_WIDTHS = Curve((12, 16, 32, 96, 384))
"""Nodes that a search of the graph keeps open."""
_MOST_OPEN = 4096
_REACH = Curve((4, 8, 20, 60, 200))
"""Candidates for each hit from hash codes, whose order is coarse."""
_LEAST_REACH = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph(Engined):
    """A navigable graph over vectors of a byte a dimension."""

    @property
    def resident(self) -> int:
        links = self.engine.hnsw.neighbors.size() * 4
        return int(self.covers * (self.engine.d + 8 + 4) + links)

    def propose(
        self,
        queries: NDArray[np.float32],
        count: int,
        *,
        effort: float,
        among: NDArray[np.uint8] | None = None,
        share: float = 1.0,
    ) -> NDArray[np.int64]:
        reach = max(1, min(self.covers, max(_LEAST_REACH, math.ceil(1.5 * count))))
        width = min(_MOST_OPEN, math.ceil(max(_WIDTHS.at(effort), reach) / max(share, 1e-9)))
        params = _opening(width) if among is None else faiss.SearchParametersHNSW(efSearch=width, sel=selector(among))
        return neighbours(self.engine, queries, reach, params)


@lru_cache(maxsize=1024)
def _opening(width: int) -> Any:
    return faiss.SearchParametersHNSW(efSearch=width)


def train_graph(source: Source) -> Graph:
    """Builds the graph, a chunk at a time: some 400 us of one core a vector of 384 dimensions.

    Raises:
        Stopped: told to stop.
    """
    eight = faiss.ScalarQuantizer.QT_8bit
    engine = faiss.IndexHNSWSQ(source.dim, eight, _LINKS, faiss_metric(source.metric))
    engine.hnsw.efConstruction = _CONSTRUCTION
    engine.train(source.sample(_SAMPLES))
    for rows in source.chunks(_CHUNK):
        engine.add(rows)
    return Graph(**source.facts(Kind.HNSW), engine=reread(engine))


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes(Engined):
    """Hash codes: the signs of random projections, each against its median.

    Attributes:
        longest: of the ``Lift`` of its vectors.
    """

    longest: float

    @property
    def resident(self) -> int:
        return int(self.covers * self.engine.code_size + self.engine.d * self.engine.nbits * 4)

    def propose(
        self,
        queries: NDArray[np.float32],
        count: int,
        *,
        effort: float,
        among: NDArray[np.uint8] | None = None,
        share: float = 1.0,
    ) -> NDArray[np.int64]:
        reach = max(1, min(self.covers, max(_LEAST_REACH, math.ceil(count * _REACH.at(effort)))))
        lifted = Lift(self.longest).queries(queries)
        if among is None:
            return neighbours(self.engine, lifted, reach, None)
        return self._survivors(lifted, reach, among)

    def _survivors(self, queries: NDArray[np.float32], reach: int, among: NDArray[np.uint8]) -> NDArray[np.int64]:
        """As faiss takes no selector here, the codes of the survivors are compared."""
        positions = np.flatnonzero(np.unpackbits(among, count=min(self.covers, 8 * len(among)), bitorder="little"))
        if not len(positions):
            return np.full((len(queries), 0), -1, dtype=np.int64)
        size = self.engine.code_size
        codes = faiss.rev_swig_ptr(self.engine.codes.data(), self.covers * size).reshape(-1, size)
        _, nearest = faiss.knn_hamming(self.engine.sa_encode(queries), codes[positions], min(reach, len(positions)))
        found: NDArray[np.int64] = positions[nearest]
        return found

    @property
    def own_facts(self) -> Mapping[str, Any]:
        return {"longest": self.longest}

    def _taken(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return Lift(self.longest).rows(rows)


def train_codes(source: Source) -> Codes:
    """Draws the projections, finds their medians in a sample, and encodes.

    Raises:
        Stopped: told to stop.
    """
    lift = Lift.of(source)
    sample = lift.rows(source.sample(_SAMPLES))
    engine = faiss.IndexLSH(sample.shape[1], _bits(source.dim), True, True)
    engine.train(sample)
    for rows in source.chunks(_CHUNK):
        engine.add(lift.rows(rows))
    return Codes(**source.facts(Kind.LSH), engine=reread(engine), longest=lift.longest)


def _bits(dim: int) -> int:
    return max(256, 64 * math.ceil(2 * dim / 64))
