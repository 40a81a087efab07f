"""Exact search over a segment: score what a mask selects, keep the best k.

It scores in float32 with BLAS, chunk by chunk, and keeps some more than k; the connector scores those
again by ``scores.similarities``. An index may take the place of the scan: it proposes positions, the
second scoring stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.types import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.connectors._pq_segments import Segment

__all__ = ["scan"]

_CHUNK_BYTES = 32 << 20


def scan(
    segment: Segment,
    selected: NDArray[np.bool_],
    queries: NDArray[np.float32],
    metric: Metric,
    k: int,
    *,
    between: Callable[[], None],
) -> NDArray[np.intp]:
    """For each query the positions of the best, at least k where so many are selected: intp ``[q, m]``, unordered.

    Args:
        selected: bool ``[rows]``: the positions that may be found.
        between: called between chunks; it raises when time is up.
    """
    reach = k + k // 4 + 16  # spare ones, because float32 may swap neighbours
    size = max(256, _CHUNK_BYTES // (4 * max(queries.shape[1], len(queries))))
    best: NDArray[Any] = np.empty((len(queries), 0), dtype=np.float32)
    found = np.empty((len(queries), 0), dtype=np.intp)
    for positions, vectors in segment.chunks(selected, size):
        between()
        scores = _scores(metric, queries, vectors)
        best = np.concatenate([best, scores], axis=1)
        found = np.concatenate([found, np.broadcast_to(positions, scores.shape)], axis=1)
        if best.shape[1] > reach:
            kept = np.argpartition(best, best.shape[1] - reach, axis=1)[:, -reach:]
            best, found = np.take_along_axis(best, kept, axis=1), np.take_along_axis(found, kept, axis=1)
    return found


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
