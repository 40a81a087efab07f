"""Indexes of inverted lists: ``ivf``, ``pq`` (one list), ``ivf-pq``, ``opq`` and ``rabitq``, all by faiss.

A vector's code is that of its residual, its difference from the centre of its list; a search compares the query
with the codes of the nearest ``probes`` lists and keeps ``reach`` candidates.
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
from pixdex.spec import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KINDS", "Lists", "train"]

KINDS = frozenset({Kind.IVF, Kind.PQ, Kind.IVF_PQ, Kind.OPQ, Kind.RABITQ})
_CHUNK = 8192
_ROUNDS = 10
_MOST_SAMPLES = 100_000
_SAMPLES_PER_LIST = 50
_ROTATION_SAMPLES = 20_000
_LEAST_SAMPLES = 16
"""A codebook of four bits has so many entries, and wants as many vectors."""
_LEARNABLE = 10
"""Vectors for each dimension that a rotation is learned from; from fewer than dimensions, faiss 1.15 writes beyond its
buffers."""
_BLOCK = 32
"""Fast-scan codes lie in blocks of so many vectors."""
_PROBES = Curve((2, 4, 6, 12, 48))
"""Lists to look into, of ``_LISTS`` with ``_LENGTH`` vectors each: more where there are more of them or shorter ones."""
_LISTS, _LENGTH = 512, 390
_QUANTIZED = Curve((2, 3, 6, 15, 30))
_REACH = {
    Kind.IVF: Curve((1.2, 1.5, 2, 3, 4)),
    Kind.PQ: Curve((3, 10, 30, 45, 60)),  # it looks at all codes, so that few more candidates find nearly all
    Kind.IVF_PQ: _QUANTIZED,
    Kind.OPQ: _QUANTIZED,
    Kind.RABITQ: Curve((2, 2.5, 3, 5, 10)),
}
"""Candidates for each hit that is asked for, as good as the codes are coarse."""
_LEAST_REACH, _LEAST_FILTERED = 48, 96
"""Candidates at least; under a filter more of them are cheaper than more lists."""
_DEEPER = 0.4
"""Lists to look into grow with the hits asked for beyond ten, to this power."""
_SPREAD = 0.85
"""Lists to look into grow as the share of what may be found shrinks, to this power: its nearest are further apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists(Engined):
    """Inverted lists: an ``IndexIVF``, perhaps behind a transform."""

    @property
    def lists(self) -> int:
        return int(_inner(self.engine).nlist)

    @property
    def resident(self) -> int:
        inner = _inner(self.engine)
        slots = self.covers
        if isinstance(inner, faiss.IndexIVFFastScan):
            slots += inner.nlist * _BLOCK // 2
        table = inner.precomputed_table.size() * 4 if self._tabled else 0
        return int(slots * inner.code_size + self.covers * 8 + inner.nlist * inner.d * 4 + table)

    @property
    def _tabled(self) -> bool:
        return self.metric is Metric.L2 and self.kind in {Kind.PQ, Kind.IVF_PQ, Kind.OPQ}

    def propose(
        self,
        queries: NDArray[np.float32],
        count: int,
        *,
        effort: float,
        among: NDArray[np.uint8] | None = None,
        share: float = 1.0,
    ) -> NDArray[np.int64]:
        probes, reach = _plan(self.kind, self.lists, self.covers, count, effort, share)
        behind = isinstance(self.engine, faiss.IndexPreTransform)
        params = _probing(probes, behind=behind) if among is None else _selecting(probes, among, behind=behind)
        return neighbours(self.engine, queries, reach, params)

    def strain(self, rows: NDArray[np.float32]) -> float:
        """The mean squared distance of vectors from the centre of their list."""
        inner = _inner(self.engine)
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if inner is not self.engine:
            rows = faiss.downcast_VectorTransform(self.engine.chain.at(0)).apply(rows)
        return _spread(faiss.downcast_index(inner.quantizer), rows)


def train(kind: Kind, source: Source) -> Lists:
    """Trains on a sample of at most 100,000 vectors, then adds all of them in chunks.

    Raises:
        Stopped: told to stop.
    """
    lists = 1 if kind is Kind.PQ else _count(source.rows)
    sample = source.sample(min(_MOST_SAMPLES, max(20_000, _SAMPLES_PER_LIST * lists)))
    sample = np.resize(sample, (max(_LEAST_SAMPLES, len(sample)), source.dim))  # it repeats rows
    transform = _transform(kind, source.dim, sample)
    fitting = sample if transform is None else transform.apply(sample)
    source.check()
    quantizer = _centres(source, fitting, min(lists, len(fitting)))
    inner = _inverted(kind, quantizer, source)
    source.check()
    inner.train(fitting)
    engine = inner if transform is None else faiss.IndexPreTransform(transform, inner)
    for rows in source.chunks(_CHUNK):
        engine.add(rows)
    return Lists(**source.facts(kind, error=_spread(quantizer, fitting)), engine=reread(engine))


def _count(rows: int) -> int:
    """How many lists: finding the nearest of them then costs about what looking into them does."""
    return max(1, min(4096, 1 << round(math.log2(max(1, rows)) / 2), rows // 40))


def parts(dim: int) -> int:
    """Sub-vectors of a product quantizer: of four dimensions, of fewer where vectors are short."""
    return math.ceil(dim / (4 if dim >= 128 else 2 if dim >= 48 else 1))


def _transform(kind: Kind, dim: int, sample: NDArray[np.float32]) -> Any:
    """What is applied to a vector first: the rotation of ``opq`` where there is enough to learn it from, or
    zeros behind a width that does not divide.
    """
    if kind not in {Kind.PQ, Kind.IVF_PQ, Kind.OPQ}:
        return None
    count = parts(dim)
    width = count * math.ceil(dim / count)
    if kind is Kind.OPQ and len(sample) >= _LEARNABLE * dim:
        rotation = faiss.OPQMatrix(dim, count, width)
        codebook = faiss.ProductQuantizer(width, count, 4)
        codebook.cp.min_points_per_centroid = 1
        rotation.pq, rotation.niter = codebook, 10
        rotation.train(np.ascontiguousarray(sample[:: math.ceil(len(sample) / _ROTATION_SAMPLES)]))
        rotation.pq = None  # it is borrowed, and goes away
        return rotation
    return None if width == dim else faiss.RemapDimensionsTransform(dim, width, False)


def _centres(source: Source, sample: NDArray[np.float32], lists: int) -> Any:
    """A trained coarse quantizer: k-means, one round at a time so that it can stop."""
    width = sample.shape[1]
    quantizer = faiss.IndexFlat(width, faiss_metric(source.metric))
    means = faiss.Clustering(width, lists)
    means.niter, means.seed = 1, source.seed + 1
    means.spherical = source.metric is not Metric.L2
    means.min_points_per_centroid, means.max_points_per_centroid = 1, len(sample)
    for _ in range(_ROUNDS):
        source.check()
        means.train(sample, quantizer)
    return quantizer


def _inverted(kind: Kind, quantizer: Any, source: Source) -> Any:
    """An empty index over those centres."""
    lists, width, metric = quantizer.ntotal, quantizer.d, faiss_metric(source.metric)
    if kind is Kind.IVF:
        eight = faiss.ScalarQuantizer.QT_8bit
        return faiss.IndexIVFScalarQuantizer(quantizer, width, lists, eight, metric)
    if kind is Kind.RABITQ:
        return faiss.IndexIVFRaBitQFastScan(quantizer, width, lists, metric)
    inner = faiss.IndexIVFPQFastScan(quantizer, width, lists, parts(source.dim), 4, metric)
    inner.pq.cp.seed, inner.pq.cp.min_points_per_centroid = source.seed + 1, 1
    return inner


def _inner(engine: Any) -> Any:
    """The inverted lists, behind a transform or not."""
    return faiss.downcast_index(engine.index) if isinstance(engine, faiss.IndexPreTransform) else engine


def _spread(quantizer: Any, rows: NDArray[np.float32]) -> float:
    """The mean squared distance of vectors from their centres."""
    _, nearest = quantizer.search(rows, 1)
    centres = np.empty((quantizer.ntotal, quantizer.d), dtype=np.float32)
    quantizer.reconstruct_n(0, quantizer.ntotal, centres)  # told where to: faiss.contrib.torch_utils gives tensors else
    spans = [slice(start, start + _CHUNK) for start in range(0, len(rows), _CHUNK)]
    squares = (np.square(rows[span] - centres[nearest[span, 0]]).sum(dtype=np.float64) for span in spans)
    return float(sum(squares) / len(rows))


@lru_cache(maxsize=4096)
def _plan(kind: Kind, lists: int, covers: int, count: int, effort: float, share: float) -> tuple[int, int]:
    """``(probes, reach)``: how many lists to look into and how many candidates to keep."""
    least = _LEAST_REACH if share >= 1 else _LEAST_FILTERED
    reach = max(least, math.ceil(count * _REACH[kind].at(effort)))
    share, length = max(share, 1e-9), max(1, covers) / lists
    probes = _PROBES.at(effort) * max(1, lists / _LISTS) ** 0.5 * max(1, _LENGTH / length)
    probes *= max(1, count / 10) ** _DEEPER / share**_SPREAD
    enough = 2 * count / (length * share)
    return max(1, min(lists, math.ceil(max(probes, enough)))), max(1, min(covers, reach))


@lru_cache(maxsize=1024)
def _probing(probes: int, *, behind: bool) -> Any:
    params = faiss.SearchParametersIVF(nprobe=probes)
    return faiss.SearchParametersPreTransform(index_params=params) if behind else params


def _selecting(probes: int, among: NDArray[np.uint8], *, behind: bool) -> Any:
    params = faiss.SearchParametersIVF(nprobe=probes, sel=selector(among))
    return faiss.SearchParametersPreTransform(index_params=params) if behind else params
