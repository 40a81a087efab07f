"""Bound filters as Qdrant conditions. Serves every Qdrant engine: it is plain data, without a client.

Typed columns are payload keys (``f0``, ``f1`` ...); a place is an object with ``lat`` and ``lon``.
Qdrant matches a condition when *any* element of a list does, so a range is never put on a list with
more than one value inside: ``bind`` refuses it, and equality with one number is a range of one point.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, TypeAlias

from qdrant_client import models

from pixdex.connectors._rows import check_depth
from pixdex.errors import Unsupported
from pixdex.filters import Box, Filter, Near, Operator, Range, fold
from pixdex.types import MAX_INT, Field, Kind

__all__ = ["MAX_DEPTH", "OPERATORS", "point_id", "to_filter"]

OPERATORS = frozenset(Operator) - {Operator.NEAR, Operator.NEAR_ANY}
"""Qdrant counts a radius in metres and excludes the rim, so it is left to a box and a residual check."""

MAX_DEPTH = 80
"""Nested parts of a filter. Local mode is recursive, several frames a level, and fails beyond about 150."""

Condition: TypeAlias = models.Condition

_NAMESPACE = uuid.UUID("6f0e4b57-0d0c-5f43-9a57-1f3f7c9a2d11")
_ROOM = 32
_NOTHING = models.HasIdCondition(has_id=[])


def point_id(record: str) -> str:
    """The point id of a record: a UUID made of its id."""
    return str(uuid.uuid5(_NAMESPACE, record))


def to_filter(where: Filter | None) -> models.Filter | None:
    """A bound filter for any call that takes one; None stays None.

    Raises:
        Unsupported: it is nested too deep.
    """
    if where is None:
        return None
    check_depth(where, "Qdrant", MAX_DEPTH)
    condition = fold(where, _Conditions())
    return condition if isinstance(condition, models.Filter) else models.Filter(must=[condition])


class _Conditions:
    """The algebra: each leaf is one condition, each node a nested filter."""

    def eq(self, field: Field, value: Any) -> Condition:
        return self._one_of(field, (value,))

    def is_in(self, field: Field, values: tuple[Any, ...]) -> Condition:
        return self._one_of(field, values)

    def contains(self, field: Field, values: tuple[Any, ...]) -> Condition:
        return self._one_of(field, values)  # a list matches when an element does

    def in_range(self, field: Field, leaf: Range) -> Condition:
        if field.kind is Kind.TIME:
            return _at_times(field.column, leaf.low, leaf.high)
        return _between(field.column, leaf.low, leaf.high)

    def exists(self, field: Field) -> Condition:
        empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=field.column))
        return models.Filter(must_not=[empty])

    def near(self, field: Field, _leaf: Near) -> Condition:
        raise Unsupported(f"field {field.name!r}: Qdrant has no exact radius")  # not in OPERATORS

    def box(self, field: Field, leaf: Box) -> Condition:
        # Ranges on the coordinates: Qdrant's own bounding box leaves its edges out.
        path = "" if field.many else f"{field.column}."
        meridians = [(leaf.west, leaf.east)]
        if leaf.west > leaf.east:
            meridians = [(leaf.west, 180.0), (-180.0, leaf.east)]
        inside = models.Filter(
            must=[_between(f"{path}lat", leaf.south, leaf.north)],
            should=[_between(f"{path}lon", west, east) for west, east in meridians],
        )
        if not field.many:
            return inside
        return models.NestedCondition(nested=models.Nested(key=field.column, filter=inside))

    def ids(self, ids: tuple[str, ...]) -> Condition:
        return models.HasIdCondition(has_id=[point_id(record) for record in ids])

    def all_of(self, parts: Sequence[Condition]) -> Condition:
        return models.Filter(must=list(parts))

    def any_of(self, parts: Sequence[Condition]) -> Condition:
        return models.Filter(should=list(parts)) if parts else _NOTHING  # an empty should holds everywhere

    def negate(self, part: Condition) -> Condition:
        return models.Filter(must_not=[part])

    @staticmethod
    def _one_of(field: Field, values: tuple[Any, ...]) -> Condition:
        if field.kind is Kind.FLOAT:  # a match never finds a float
            return models.Filter(should=[_between(field.column, value, value) for value in values])
        if field.kind is Kind.BOOL:  # MatchAny takes no booleans
            matches: list[Condition] = [
                models.FieldCondition(key=field.column, match=models.MatchValue(value=v)) for v in values
            ]
            return models.Filter(should=matches)
        return models.FieldCondition(key=field.column, match=models.MatchAny(any=list(values)))


def _between(key: str, low: float | None, high: float | None) -> Condition:
    return models.FieldCondition(key=key, range=models.Range(gte=low, lte=high))


def _at_times(key: str, low: int | None, high: int | None) -> Condition:
    """A range of microseconds. Bounds are float64, which is exact from 1684 to 2255. Beyond, a float64
    is 16 microseconds away at most: the bound is moved outwards, and what that adds is taken away.
    """
    first, last = low, high
    added: list[int] = []
    if low is not None and abs(low) > MAX_INT:
        first = low - _ROOM
        added += range(low - 2 * _ROOM, low)
    if high is not None and abs(high) > MAX_INT:
        last = high + _ROOM
        added += range(high + 1, high + 2 * _ROOM + 1)
    within = _between(key, first, last)
    if not added:
        return within
    taken = models.FieldCondition(key=key, match=models.MatchAny(any=added))
    return models.Filter(must=[within], must_not=[taken])
