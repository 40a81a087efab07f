"""A bound filter as a mask over columns, with exactly the meaning of ``filters.matches``.

A position without a record is one whose fields are all absent: ``not`` is a plain complement, and leaving out
dead positions is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex.connectors._pq_gather import gathered
from pixdex.filters import Box, Filter, Near, Range, fold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.connectors._pq_columns import Column
    from pixdex.connectors._pq_parts import Part
    from pixdex.spec import Field

    Mask: TypeAlias = NDArray[np.bool_]
    Promise: TypeAlias = Callable[[], Mask]

__all__ = ["mask"]


def mask(
    where: Filter,
    rows: int,
    column: Callable[[Field], Column[Part]],
    positions: Callable[[Sequence[str]], NDArray[np.int64]],
) -> NDArray[np.bool_]:
    """Where a bound filter holds: bool ``[rows]``, the caller's own.

    Args:
        column: the values of a field at those positions.
        positions: where the records of some ids lie, of those that there are.

    Raises:
        Unsupported: an unknown node.
    """
    return fold(gathered(where), _Masks(rows, column, positions))()


@dataclass(frozen=True, slots=True)
class _Masks:
    """Promises of masks: a filter of thousands of leaves holds a few masks at a time. Each is an array of its own,
    so that connectives work in place.
    """

    rows: int
    column: Callable[[Field], Column[Part]]
    positions: Callable[[Sequence[str]], NDArray[np.int64]]

    def eq(self, field: Field, value: Any) -> Promise:
        return self._ask(field, lambda part: part.among((value,)))

    def is_in(self, field: Field, values: tuple[Any, ...]) -> Promise:
        return self._ask(field, lambda part: part.among(values))

    def in_range(self, field: Field, leaf: Range) -> Promise:
        return self._ask(field, lambda part: part.between(leaf.low, leaf.high))

    def exists(self, field: Field) -> Promise:
        return self._ask(field, lambda part: part.present())

    def contains(self, field: Field, values: tuple[Any, ...]) -> Promise:
        return self._ask(field, lambda part: part.among(values))

    def near(self, field: Field, leaf: Near) -> Promise:
        return self._ask(field, lambda part: part.near(leaf))

    def box(self, field: Field, leaf: Box) -> Promise:
        return self._ask(field, lambda part: part.box(leaf))

    def ids(self, ids: tuple[str, ...]) -> Promise:
        def found() -> Mask:
            selected = np.zeros(self.rows, dtype=bool)
            positions = self.positions(ids)
            selected[positions[positions < self.rows]] = True
            return selected

        return found

    def all_of(self, parts: Sequence[Promise]) -> Promise:
        return lambda: self._chained(np.logical_and, parts, np.ones)

    def any_of(self, parts: Sequence[Promise]) -> Promise:
        return lambda: self._chained(np.logical_or, parts, np.zeros)

    def negate(self, part: Promise) -> Promise:
        def complement() -> Mask:
            selected = part()
            return np.logical_not(selected, out=selected)

        return complement

    def _ask(self, field: Field, test: Callable[[Part], Mask]) -> Promise:
        return lambda: self.column(field).ask(test)

    def _chained(self, joined: np.ufunc, parts: Sequence[Promise], empty: Callable[..., Mask]) -> Mask:
        if not parts:
            return empty(self.rows, dtype=bool)
        selected = parts[0]()
        for part in parts[1:]:
            joined(selected, part(), out=selected)
        return selected
