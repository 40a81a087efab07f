"""What the doctor asks a collection's index, within the time there is for it, and what the answers are held against."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from pixdex.policy import Call
from pixdex.types import Search, Tuning, Want

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.spec import Vector
    from pixdex.types import Hit

__all__ = ["ENOUGH", "K", "Late", "by_index", "exactly", "found_itself", "share_found"]

ENOUGH = 0.95
"""The share of the exact hits that an index is expected to find."""
K = 10
_ROUNDING = 0.02
"""How far a score of a vector with itself may be off, in proportion above 1: stores may keep vectors narrowly."""
_SCANNED = 50_000
"""Collections up to that many records are read for an exact search, where the store has none."""
_PATIENCE = 30.0
"""Seconds after which a check begins nothing more."""
_PROBES = 2
"""By the index and exactly: the check of recall does both."""
_AT_ONCE = 10
"""Queries that are searched exactly at once."""


class Late:
    """Whether the time of a check is over; of one of its ``parts``."""

    def __init__(self, parts: int = 1) -> None:
        self._end = time.monotonic() + _PATIENCE / parts

    @property
    def is_now(self) -> bool:
        return time.monotonic() >= self._end


def by_index(
    collection: Collection, queries: NDArray[np.float32], vector: Vector
) -> tuple[list[Sequence[Hit]], list[float]]:
    """What the store's own search finds, query by query, and the seconds each took. The facade would read through the whole
    collection where that finds too little.
    """
    found: list[Sequence[Hit]] = []
    seconds: list[float] = []
    late, call = Late(_PROBES), Call("search", collection.name)
    for row in range(len(queries)):
        asked = Search(queries=queries[row : row + 1], k=K, using=vector.column, want=Want(payload=False))
        began = time.perf_counter()
        found += collection.policy.run(call, partial(_search, collection, asked))
        seconds.append(time.perf_counter() - began)
        if late.is_now:
            break
    return found, seconds


def _search(collection: Collection, asked: Search, timeout: float) -> Sequence[Sequence[Hit]]:
    return collection.connector.search(collection.name, asked, timeout=timeout)


def exactly(collection: Collection, queries: NDArray[np.float32], vector: Vector, count: int) -> list[list[Hit]] | None:
    """What an exact search finds, of as many queries as there is time for; None where only reading all of a large collection, of
    ``count`` records, would tell.
    """
    able = collection.capabilities.exact and collection.spec.native
    if not able and count > _SCANNED:
        return None
    found: list[list[Hit]] = []
    late = Late(_PROBES)
    at_once = _AT_ONCE if able else len(queries)  # all are compared while it is read once
    while len(found) < len(queries):
        if found and late.is_now:
            break
        piece = queries[len(found) : len(found) + at_once]
        exact = Tuning(exact=True)
        found += collection.search(piece, k=K, using=vector.name, tuning=exact, want=Want(payload=False))
    return found


def found_itself(record: str, own: float, exact: Sequence[Hit]) -> bool:
    """Whether the hits by a record's own vector have it, with the score that it has with itself, or as many that score as much."""
    bar = own - _ROUNDING * max(1.0, abs(own))
    mine = next((hit for hit in exact if hit.id == record), None)
    if mine is not None:
        return bool(abs(mine.score - own) <= own - bar)
    return len(exact) == K and bool(exact[-1].score >= bar)


def share_found(found: Sequence[Hit], exact: Sequence[Hit]) -> float:
    """The share of the exact hits that were found; one that scores as much as the last of them counts too."""
    if not exact:
        return 1.0
    bar = exact[-1].score - 1e-5 * max(1.0, abs(exact[-1].score))
    return min(1.0, sum(bool(hit.score >= bar) for hit in found) / len(exact))
