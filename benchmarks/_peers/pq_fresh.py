"""pixdex's embedded store, asked by a filter that it has not seen before: it remembers what the last ones selected."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._peers import K, Where, pq
from pixdex.filters import F, Filter


class Engine(pq.Engine):
    """``pq://`` as in ``pq``, where every query spells its filter anew, with the same meaning."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = count(1)

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        matching = None if where is None else _spelled(where, next(self._asked))
        return self._collection.search_one(query, k=K, where=matching, tuning=self._tuning)


def _spelled(where: Where, time: int) -> Filter:
    """Values are 0 or more, so that what is below lets nothing more through."""
    field = F[where.field]
    if where.low == where.high:
        return field.is_in([where.low, -time])
    return field.between(where.low or -time, where.high)
