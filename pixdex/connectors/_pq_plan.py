"""How a search is answered: by the index, by the index with a selector, or by an exact scan of what matches.

The crossovers are measured (``benchmarks.filtered``). Whatever proposes positions, they are scored again exactly, and
an answer that comes out short is searched again by a scan: a search returns k hits whenever k records match.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.connectors._pq_scan import scan, scores_at, top
from pixdex.spec import Metric
from pixdex.types import Tuning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.connectors._pq_index import Index
    from pixdex.connectors._pq_selection import Selection
    from pixdex.connectors._pq_view import View

__all__ = ["Found", "find"]

_IN_PLACE = 1_200_000
"""Numbers (vectors x dim) up to which scoring every survivor in place beats an index: about .3 ms."""
_IN_BATCH = 4_000_000
"""The same for one of many queries, whose survivors are gathered once and scored by one matrix product."""
_FEW = 4
"""Queries, up to which survivors are scored in place."""
_LARGEST_IN_PLACE = 20_000_000
"""Numbers, up to which; beyond, a scan by chunks looks at the clock."""
_DEEP = 4
"""An index is not asked for a quarter of what there is."""
_FEW_DEAD = 0.05
"""Share of tombstones that an index may propose in vain: it is asked for several times k anyway."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best of each query, best first: ``positions`` int64 ``[q, k]``, -1 for none, and their ``scores``."""

    positions: NDArray[np.int64]
    scores: NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A search as the planner sees it: ``allowed`` are the positions that may be found, None for all; ``survivors`` is how
    many those are.
    """

    metric: Metric
    queries: NDArray[np.float32]
    k: int
    effort: float
    allowed: Selection | None
    survivors: int
    between: Callable[[], None]

    @property
    def most(self) -> int:
        """How many hits an answer has."""
        return min(self.k, self.survivors)

    def of(self, rows: NDArray[np.intp]) -> _Asked:
        """The same for some of the queries."""
        return replace(self, queries=np.ascontiguousarray(self.queries[rows]))


def find(
    view: View,
    metric: Metric,
    queries: NDArray[np.float32],
    k: int,
    tuning: Tuning,
    allowed: Selection | None,
    *,
    between: Callable[[], None],
) -> Found:
    """The best ``k`` of the positions ``allowed`` (None: of all), for each query ``[q, d]``.

    ``between`` is called between steps; it raises when time is up.
    """
    survivors = view.rows if allowed is None else allowed.count
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    asked = _Asked(metric, queries, k, tuning.effort, allowed, survivors, between)
    if not survivors:
        return Found(np.full((len(queries), 0), -1), np.zeros((len(queries), 0), np.float32))
    index = view.index
    if index is None or tuning.exact or _scan_wins(asked, index):
        return _scanned(view, asked)
    return _completed(view, asked, _proposed(view, index, asked))


def _scan_wins(asked: _Asked, index: Index) -> bool:
    """Whether scoring all survivors is no slower than what the index would do, or the index would look at most of them
    anyway.
    """
    numbers = asked.survivors * index.dim
    few = len(asked.queries) <= _FEW
    return numbers <= (_IN_PLACE if few else _IN_BATCH) or _DEEP * asked.k > asked.survivors


def _scanned(view: View, asked: _Asked) -> Found:
    if len(asked.queries) <= _FEW and asked.survivors * view.dim <= _LARGEST_IN_PLACE:
        positions = np.arange(view.rows) if asked.allowed is None else asked.allowed.positions
        found = np.repeat(positions[None], len(asked.queries), axis=0)
    else:
        allowed = np.ones(view.rows, dtype=bool) if asked.allowed is None else asked.allowed.mask
        found = scan(asked.metric, asked.queries, view.segment, allowed, asked.k, between=asked.between)
    return _best(view, asked, found)


def _proposed(view: View, index: Index, asked: _Asked) -> Found:
    """What the index finds, and the positions behind it."""
    allowed = None if asked.allowed is None else asked.allowed.mask
    # So few dead cost less as candidates in vain; what a filter leaves out is never few.
    few_dead = asked.allowed is view.living and view.dead <= _FEW_DEAD * view.rows
    among = None if asked.allowed is None or few_dead else asked.allowed.bits(index.covers)
    share = 1.0 if few_dead else asked.survivors / view.rows
    found = index.propose(asked.queries, asked.k, effort=asked.effort, among=among, share=share)
    if allowed is not None and among is None:
        found = np.where(allowed[found], found, -1)
    asked.between()
    if index.covers < view.rows:
        behind = np.arange(index.covers, view.rows)
        if allowed is not None:
            behind = behind[allowed[index.covers :]]
        found = np.concatenate([found, np.repeat(behind[None], len(found), axis=0)], axis=1)
    return _best(view, asked, found)


def _best(view: View, asked: _Asked, positions: NDArray[np.int64]) -> Found:
    scores = scores_at(asked.metric, asked.queries, view.segment, positions)
    scores, positions = top(scores, positions, asked.k)
    if not _whole(scores, asked.most):
        positions = np.where(scores == -np.inf, -1, positions)
    return Found(positions, scores)


def _whole(scores: NDArray[Any], most: int) -> bool:
    """Whether each row, best first, has ``most`` scores: the last one tells."""
    if scores.shape[1] != most:
        return False
    return scores.item(most - 1) > -np.inf if len(scores) == 1 else bool(scores[:, -1].min() > -np.inf)


def _completed(view: View, asked: _Asked, found: Found) -> Found:
    """``found``, with the answers that came out short replaced by exact ones."""
    if _whole(found.scores, asked.most):
        return found
    there = np.count_nonzero(found.positions >= 0, axis=1)
    short = np.flatnonzero(there < asked.most)
    if not len(short):
        return found
    again = _scanned(view, asked.of(short))
    positions = np.full((len(there), asked.most), -1)
    scores = np.full((len(there), asked.most), -np.inf)
    width = min(asked.most, found.positions.shape[1])
    positions[:, :width], scores[:, :width] = found.positions[:, :width], found.scores[:, :width]
    positions[short], scores[short] = again.positions, again.scores
    return Found(positions, scores)
