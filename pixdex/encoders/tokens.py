"""Tokens: local descriptors chosen and packed for rerankers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["quantize", "select", "unit"]


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The last axis scaled to length one; zeros stay zeros."""
    lengths = np.sqrt(np.square(rows).sum(axis=-1, keepdims=True))
    return np.divide(rows, np.where(lengths > 0, lengths, 1), dtype=np.float32)


def select(cells: NDArray[np.float32], pooled: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """``count`` descriptors of each picture that differ from one another, in their spatial order.

    Farthest-point sampling by cosine: the descriptor nearest to the picture's vector first, then always the one least like
    those chosen. Sky and walls fill many cells with nearly the same descriptor; left in, they drown the rest in MaxSim.

    ``cells`` float32 ``[n, t, d]`` and ``pooled`` ``[n, d]`` give ``[n, min(count, t), d]``.
    """
    pictures, total = cells.shape[:2]
    if count >= total:
        return cells
    units, every = unit(cells), np.arange(pictures)
    chosen = np.einsum("ntd,nd->nt", units, pooled).argmax(axis=1)[:, None]
    nearest = np.full((pictures, total), -np.inf, dtype=np.float32)
    for _ in range(count - 1):
        likeness = np.matmul(units, units[every, chosen[:, -1]][:, :, None])[:, :, 0]
        nearest = np.maximum(nearest, likeness)
        nearest[every, chosen[:, -1]] = np.inf  # never twice, not even among equals
        chosen = np.concatenate([chosen, nearest.argmin(axis=1)[:, None]], axis=1)
    return np.take_along_axis(cells, np.sort(chosen, axis=1)[:, :, None], axis=1)


def quantize(tokens: NDArray[np.float32]) -> NDArray[np.int8]:
    """int8 of the same shape that keeps each token's direction: its largest value becomes 127.

    Of a unit token with hundreds of values, ``x * 127`` would use a dozen levels; a reader scales to length one anyway.
    """
    largest = np.abs(tokens).max(axis=-1, keepdims=True)
    return np.rint(tokens * (127 / np.where(largest > 0, largest, 1))).astype(np.int8)
