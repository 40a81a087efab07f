"""The definition of a score: a similarity, higher is better (DESIGN: Scores)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.spec import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["similarities"]


def similarities(metric: Metric, queries: NDArray[Any], vectors: NDArray[Any]) -> NDArray[np.float64]:
    """float64 ``[q, n]``: the similarity of each query ``[q, d]`` with each vector ``[n, d]``.

    Cosine divides by the lengths although the facade has normalized: rounding to float16 leaves vectors not
    quite of length one. l2 subtracts before it squares, so that a vector is at 0 from itself.
    """
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    scores: NDArray[np.float64]
    match metric:
        case Metric.DOT:
            scores = q @ x.T
        case Metric.L2:
            scores = np.array([-np.square(x - query).sum(axis=1) for query in q]).reshape(len(q), len(x))
        case Metric.COSINE:
            scores = (q @ x.T) / np.outer(np.linalg.norm(q, axis=1), np.linalg.norm(x, axis=1))
    return scores
