"""Scores of positions, straight from the mapped segments, and the exact search over them.

float32 vectors are scored in place by faiss, without a copy; what that cannot do (float16, products beyond
float32) goes through ``scores.similarities``, the definition. The difference is rounding, far below what DESIGN
calls equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from pixdex.scores import similarities
from pixdex.spec import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.connectors._pq_segments import Segment

__all__ = ["scan", "scores_at", "top"]

_CHUNK_BYTES = 32 << 20
_SPARE = 16
"""More than k are kept by a scan, because BLAS in float32 may swap neighbours."""


def scores_at(
    metric: Metric, queries: NDArray[np.float32], segment: Segment, positions: NDArray[np.int64]
) -> NDArray[Any]:
    """The similarity of each query ``[q, d]`` with the vectors at its ``positions`` ``[q, m]``: float32 ``[q, m]``,
    -inf where a position is -1.

    Raises:
        StoreFormat: a checksum does not fit.
    """
    matrix = segment.verified(positions)
    if matrix.dtype == np.float32:
        scores = np.empty(positions.shape, dtype=np.float32)
        name = "fvec_L2sqr_by_idx" if metric is Metric.L2 else "fvec_inner_products_by_idx"
        product = getattr(faiss, name)  # its types leave these two out
        product(*map(faiss.swig_ptr, (scores, queries, matrix, positions)), queries.shape[1], *positions.shape)
        if metric is Metric.L2:
            np.negative(scores, out=scores)
        if _sound(scores, positions):
            return scores
    return np.array(
        [_defined(metric, query, matrix, row) for query, row in zip(queries, positions, strict=True)], dtype=np.float64
    )


def _sound(scores: NDArray[np.float32], positions: NDArray[np.int64]) -> bool:
    """Whether no product overflowed: only a missing position may be infinite."""
    finite = np.isfinite(scores)
    return bool(finite.all() or (finite | (positions < 0)).all())


def _defined(
    metric: Metric, query: NDArray[np.float32], matrix: NDArray[Any], positions: NDArray[np.int64]
) -> NDArray[np.float64]:
    scores = np.full(len(positions), -np.inf)
    there = positions >= 0
    scores[there] = similarities(metric, query[None], matrix[positions[there]])[0]
    return scores


def top(scores: NDArray[Any], positions: NDArray[np.int64], k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The best ``k`` of each row ``[q, m]``, best first."""
    if len(scores) == 1:
        order = _top(scores[0], k)
        return scores[:, order], positions[:, order]
    if scores.shape[1] > 8 * k:
        kept = np.argpartition(-scores, k, axis=1)[:, :k]
        scores, positions = np.take_along_axis(scores, kept, axis=1), np.take_along_axis(positions, kept, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)


def _top(scores: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Where the best ``k`` of ``[m]`` are, best first: by methods, since a single query feels each function of numpy."""
    count = len(scores)
    if count <= 8 * k:
        return (-scores).argsort(kind="stable")[:k]
    kept = scores.argpartition(count - k)[count - k :]
    best: NDArray[np.intp] = kept[(-scores[kept]).argsort(kind="stable")]
    return best


def scan(
    metric: Metric,
    queries: NDArray[np.float32],
    segment: Segment,
    selected: NDArray[np.bool_],
    k: int,
    *,
    between: Callable[[], None],
) -> NDArray[np.int64]:
    """For each query the positions of the best, at least k where so many are selected: int64 ``[q, m]``, unordered.

    Args:
        selected: bool ``[rows]``: the positions that may be found.
        between: called between chunks; it raises when time is up.
    """
    reach = k + k // 4 + _SPARE
    size = max(256, _CHUNK_BYTES // (4 * max(queries.shape[1], len(queries))))
    best: NDArray[Any] = np.empty((len(queries), 0), dtype=np.float32)
    found = np.empty((len(queries), 0), dtype=np.int64)
    for positions, vectors in _chunks(segment, selected, size):
        between()
        scores = _scores(metric, queries, vectors)
        best = np.concatenate([best, scores], axis=1)
        found = np.concatenate([found, np.broadcast_to(positions, scores.shape)], axis=1)
        if best.shape[1] > reach:
            kept = np.argpartition(best, best.shape[1] - reach, axis=1)[:, -reach:]
            best, found = np.take_along_axis(best, kept, axis=1), np.take_along_axis(found, kept, axis=1)
    return np.ascontiguousarray(found)


def _chunks(
    segment: Segment, selected: NDArray[np.bool_], size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """The rows that ``selected`` marks, as ``(positions, vectors)`` of at most ``size``."""
    for start in range(0, len(selected), size):
        positions = start + np.flatnonzero(selected[start : start + size])
        if len(positions):
            yield positions, segment.rows(positions)


def _scores(metric: Metric, queries: NDArray[np.float32], vectors: NDArray[Any]) -> NDArray[Any]:
    """float32 ``[q, n]`` (float64 where that overflows): scores up to a constant of the query, for choosing only."""
    narrow = vectors.dtype != np.float32
    scores = _products(metric, queries, vectors.astype(np.float32, copy=False), narrow=narrow)
    if np.isfinite(scores).all():
        return scores
    return _products(metric, queries.astype(np.float64), vectors.astype(np.float64), narrow=narrow)


def _products(metric: Metric, queries: NDArray[Any], vectors: NDArray[Any], *, narrow: bool) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):
        scores: NDArray[Any] = queries @ vectors.T
        if metric is Metric.L2:
            scores = 2 * scores - np.einsum("nd,nd->n", vectors, vectors)
        elif metric is Metric.COSINE and narrow:  # rounding to float16 left them not quite normalized
            scores = scores / np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return scores
