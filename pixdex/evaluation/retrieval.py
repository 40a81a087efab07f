"""Vectors ranked exactly, and measured: every query against a whole gallery, in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixdex.errors import ConfigError, InvalidRecord
from pixdex.evaluation.metrics import Found, named

__all__ = ["DEFAULT_METRICS", "measure"]

DEFAULT_METRICS = ("recall@1", "r_precision", "map@r", "map")
_CELLS = 1_500_000
"""Similarities that are ranked at once: 12 MB of keys."""


def measure(
    vectors: ArrayLike,
    labels: ArrayLike,
    *,
    queries: ArrayLike | None = None,
    query_labels: ArrayLike | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, NDArray[np.float64]]:
    """Rank a gallery for each query by cosine, exactly, and measure each ranking.

    A hit is right when its label is the query's. Equal similarities are ordered by row. A negative number or
    None as a label means that there is none: such rows are in the way of every query, and as queries they have no value.

    Args:
        vectors: float ``[n, d]``, the gallery; rows are normalized here.
        labels: ``[n]``, whole numbers or texts.
        queries: float ``[q, d]``; None: every row of the gallery is a query, and is left out of its own ranking.
        query_labels: ``[q]``, with ``queries``.
        metrics: names, see ``pixdex.evaluation.NAMES``.

    Returns:
        A value a query for each metric, float64 ``[q]``; NaN for a query without a right answer in the gallery.

    Raises:
        ConfigError: an unknown metric, labels that don't go with the vectors, widths that differ.
        InvalidRecord: a vector is zero, NaN or infinite.
    """
    measures = [named(name) for name in metrics]
    gallery = _unit(vectors, "vectors")
    if (queries is None) != (query_labels is None):
        raise ConfigError("queries and query_labels go together: give both, or neither for leave-one-out")
    asked = gallery if queries is None else _unit(queries, "queries")
    if asked.shape[1] != gallery.shape[1]:
        raise ConfigError(f"queries have {asked.shape[1]} values, the vectors {gallery.shape[1]}")
    codes, query_codes = _codes(labels, len(gallery), query_labels, len(asked))
    values = {m.name: np.full(len(asked), np.nan) for m in measures}
    for block in _ranked(gallery, codes, asked, query_codes, itself=queries is None):
        found = Found.of(block.relevance, block.positives)
        for m in measures:
            values[m.name][block.rows] = m(found)
    return values


@dataclass(frozen=True, slots=True)
class _Block:
    """Some queries' rankings: ``relevance`` bool ``[b, n]``, best first, and how many right answers each has."""

    rows: slice
    relevance: NDArray[np.bool_]
    positives: NDArray[np.intp]


def _ranked(
    gallery: NDArray[np.float32],
    codes: NDArray[np.int64],
    asked: NDArray[np.float32],
    query_codes: NDArray[np.int64],
    *,
    itself: bool,
) -> Iterator[_Block]:
    """One sort of whole numbers does it: how far apart in the high bits, then the row, then whether it is right. The bits of
    a positive float, read as a number, are ordered as the float is. Counted from 2, similarities that differ by no more
    than the rounding of a product are equal.
    """
    places = np.arange(len(gallery), dtype=np.uint64) << np.uint64(1)
    step = max(1, _CELLS // max(1, len(gallery)))
    for start in range(0, len(asked), step):
        rows = slice(start, min(start + step, len(asked)))
        right = (codes == query_codes[rows, None]) & (query_codes[rows, None] >= 0)
        apart = np.subtract(2, asked[rows] @ gallery.T, dtype=np.float32)
        keys = apart.view(np.uint32).astype(np.uint64)
        keys <<= np.uint64(32)
        keys |= places
        keys |= right
        if itself:
            own = np.arange(rows.start, rows.stop)
            right[own - start, own] = False
            keys[own - start, own] = np.iinfo(np.uint64).max  # the last, and cut off
        keys.sort(axis=1)
        relevance = (keys[:, : len(gallery) - itself] & np.uint64(1)).astype(bool)
        yield _Block(rows, relevance, right.sum(axis=1))


def _unit(rows: ArrayLike, what: str) -> NDArray[np.float32]:
    given = np.asarray(rows, dtype=np.float32)
    if given.ndim != 2:
        raise ConfigError(f"{what} are [n, d], not {list(given.shape)}")
    lengths = np.linalg.norm(given, axis=1)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        row = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
        raise InvalidRecord(f"{what}: row {row} is zero, NaN or infinite, and has no direction to compare")
    unit: NDArray[np.float32] = given / lengths[:, None]
    return unit


def _codes(
    labels: ArrayLike, count: int, query_labels: ArrayLike | None, queries: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels as whole numbers, of the gallery and of the queries; negative where there is none."""
    first = _labels(labels, count, "labels")
    second = first if query_labels is None else _labels(query_labels, queries, "query_labels")
    if first.dtype.kind == "i" and second.dtype.kind == "i":
        return first.astype(np.int64), second.astype(np.int64)
    if first.dtype.kind == "i" or second.dtype.kind == "i":
        raise ConfigError(f"labels are {first.dtype}, query_labels {second.dtype}: both are numbers, or both texts")
    numbers: dict[str, int] = {}
    return tuple(  # type: ignore[return-value]
        np.array([-1 if x is None else numbers.setdefault(x, len(numbers)) for x in given.tolist()], dtype=np.int64)
        for given in (first, second)
    )


def _labels(labels: ArrayLike, count: int, what: str) -> NDArray[np.generic]:
    """Whole numbers, or texts and None."""
    given = np.asarray(labels)
    if given.shape != (count,):
        raise ConfigError(f"{what}: one for each of the {count} vectors, not {list(given.shape)}")
    if given.dtype.kind in "iub":
        return given.astype(np.int64)
    if given.dtype.kind not in "UO" or not all(x is None or isinstance(x, str) for x in given.tolist()):
        raise ConfigError(f"{what} are whole numbers, or texts and None, not {given.dtype}")
    return given
