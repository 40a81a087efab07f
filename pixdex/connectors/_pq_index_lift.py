"""Inner products as distances, for indexes that know distances only.

A vector x of length at most L gets one number more, ``sqrt(L^2 - |x|^2)``, and a query a zero: then
``|q - x|^2 = |q|^2 + L^2 - 2 q.x``, so the nearest has the largest product (Bachrach et al. 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pixdex.spec import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.connectors._pq_index_base import Source

__all__ = ["Lift"]

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Lift:
    """Maps vectors to where the nearest is the best.

    Attributes:
        longest: the largest length, 0 where distances order as the metric does and nothing is added.
    """

    longest: float = 0.0

    @classmethod
    def of(cls, source: Source) -> Lift:
        """What the metric of ``source`` needs."""
        if source.metric is not Metric.DOT:
            return cls()
        starts = range(0, source.rows, _CHUNK)
        squares = (_squares(source.vectors[start : start + _CHUNK].astype(np.float32)).max() for start in starts)
        return cls(max(float(max(squares)) ** 0.5, 1e-30))

    def rows(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors ``[n, d]``, lifted. One that is longer than the longest so far is taken as if it were as long."""
        rest = np.sqrt(np.maximum(self.longest**2 - _squares(rows), 0)) if self.longest else None
        return self._joined(rows, rest)

    def queries(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries ``[q, d]``, lifted."""
        return self._joined(queries, np.zeros(len(queries)) if self.longest else None)

    def _joined(self, rows: NDArray[np.float32], rest: NDArray[np.float64] | None) -> NDArray[np.float32]:
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rest is None:
            return rows
        return np.concatenate([rows, rest[:, None].astype(np.float32)], axis=1)


def _squares(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    return squares
