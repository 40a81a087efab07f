"""The definition of a score: a similarity, higher is better (DESIGN: Scores)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pixdex.types import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["similarities"]


def similarities(metric: Metric, queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 ``[q, n]``: the similarity of each query ``[q, d]`` with each vector ``[n, d]``.

    cosine expects both normalized and is then the inner product; l2 is minus the squared distance.
    """
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    products: NDArray[np.float64] = q @ x.T
    if metric is not Metric.L2:
        return products
    distances = np.square(q).sum(axis=1)[:, None] + np.square(x).sum(axis=1)[None, :] - 2.0 * products
    scores: NDArray[np.float64] = -np.maximum(distances, 0.0)
    return scores
