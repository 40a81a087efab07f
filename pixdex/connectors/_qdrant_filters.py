"""Bound filters as Qdrant conditions, for every Qdrant engine: one algebra over the condition classes of a target.

Typed columns are payload keys (``f1_3fa9c1`` ...); a place is an object with ``lat`` and ``lon``, a float one with the
``high`` and ``low`` half of its order (``split``). Qdrant matches a
condition when *any* element of a list does, so a range is never put on a list with more than one value inside:
``bind`` refuses it, and equality with one number is a range of one point.

What another tool wrote may be of any kind (``7.0`` for an integer, a list for a value), so there a condition finds at
least what the filter means, and the facade checks each record again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias

from pixdex.connectors._rows import check_depth
from pixdex.errors import Unsupported
from pixdex.filters import Box, Filter, Near, Operator, Range, fold
from pixdex.spec import Field, Kind
from pixdex.types import MAX_INT

__all__ = ["MAX_DEPTH", "OPERATORS", "PARTS", "Target", "part_key", "split", "to_filter"]

OPERATORS = frozenset(Operator) - {Operator.NEAR, Operator.NEAR_ANY}
"""Qdrant counts a radius in metres and excludes the rim, so it is left to a box and a residual check."""

MAX_DEPTH = 80
"""Nested parts of a filter. Local mode is recursive, several frames a level, and fails beyond about 150."""

_Bounds: TypeAlias = "tuple[int | None, int | None]"

_ROOM = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RIM = 1e-6
"""Degrees, a decimetre: Qdrant's own bounding box leaves its edges out."""

PARTS: Mapping[Kind, tuple[str, str]] = {Kind.GEO: ("lat", "lon"), Kind.FLOAT: ("high", "low")}
"""The kinds whose columns are objects of two numbers."""


def split(number: float) -> tuple[int, int]:
    """A float64 as two integers of 32 bits that order, pair by pair, as floats do: its bits, those of negative numbers
    counted downwards.
    """
    (bits,) = _BITS.unpack(_DOUBLE.pack(number))
    order = bits if bits >= 0 else -(bits & _MAGNITUDE)
    return order >> 32, order & 0xFFFF_FFFF


_DOUBLE, _BITS = struct.Struct(">d"), struct.Struct(">q")
_MAGNITUDE = 0x7FFF_FFFF_FFFF_FFFF


class Target(Protocol):
    """What an engine's filters are made of. ``low`` and ``high`` are inclusive, None for no bound."""

    booleans: bool
    """Whether ``truth`` finds the booleans that another tool wrote."""

    def filter(self, *, must: Sequence[Any] = (), should: Sequence[Any] = (), must_not: Sequence[Any] = ()) -> Any:
        """A nested filter; parts that are empty are left out."""
        ...

    def between(self, key: str, low: float | None, high: float | None) -> Any:
        """A number within bounds."""
        ...

    def moments(self, key: str, low: datetime | None, high: datetime | None) -> Any:
        """A date and time, kept as text, within bounds."""
        ...

    def one_of(self, key: str, values: list[Any]) -> Any:
        """A text or an integer that equals one of the values."""
        ...

    def truth(self, key: str, value: bool) -> Any:  # noqa: FBT001 - the value of a condition
        """A boolean that equals the value."""
        ...

    def empty(self, key: str) -> Any:
        """Missing, null or an empty list."""
        ...

    def within(self, key: str, box: Box) -> Any:
        """A place inside a box that does not cross the date line; its edges are outside."""
        ...

    def nested(self, key: str, inside: Any) -> Any:
        """An element of a list of objects that matches a filter."""
        ...

    def ids(self, points: list[Any]) -> Any:
        """A point with one of the ids."""
        ...


def to_filter(where: Filter | None, target: Target, point_id: Callable[[str], Any], *, native: bool = True) -> Any:
    """A bound filter for any call of the target's engine that takes one; None stays None.

    Args:
        point_id: the point id of a record; None where there can be no such point.
        native: the records are ours, so that columns hold what the Spec says.

    Raises:
        Unsupported: it is nested too deep.
    """
    if where is None:
        return None
    check_depth(where, "Qdrant", MAX_DEPTH)
    conditions = _Conditions(target, point_id) if native else _Foreign(target, point_id)
    condition = fold(where, conditions)
    return condition if isinstance(condition, type(target.filter())) else target.filter(must=[condition])


def part_key(field: Field) -> str:
    """The path to which the names of ``PARTS`` are added."""
    return f"{field.column}[]" if field.many else field.column


class _Conditions:
    """The algebra: each leaf is one condition, each node a nested filter."""

    def __init__(self, target: Target, point_id: Callable[[str], Any]) -> None:
        self.target = target
        self.point_id = point_id

    def eq(self, field: Field, value: Any) -> Any:
        return self._one_of(field, (value,))

    def is_in(self, field: Field, values: tuple[Any, ...]) -> Any:
        return self._one_of(field, values)

    def contains(self, field: Field, values: tuple[Any, ...]) -> Any:
        return self._one_of(field, values)  # a list matches when an element does

    def in_range(self, field: Field, leaf: Range) -> Any:
        if field.kind is Kind.TIME:
            return self._at_times(field.column, leaf.low, leaf.high)
        if field.kind is Kind.FLOAT:
            return self._floats_between(field.column, leaf.low, leaf.high)
        return self.target.between(field.column, leaf.low, leaf.high)

    def exists(self, field: Field) -> Any:
        # Of an object, the parts are indexed, and strict mode asks for an index here, too.
        key = f"{part_key(field)}.{PARTS[field.kind][0]}" if field.kind in PARTS else field.column
        return self.target.filter(must_not=[self.target.empty(key)])

    def near(self, field: Field, _leaf: Near) -> Any:
        raise Unsupported(f"field {field.name!r}: Qdrant has no exact radius")  # not in OPERATORS

    def box(self, field: Field, leaf: Box) -> Any:
        # Ranges on the coordinates: Qdrant's own bounding box leaves its edges out.
        target = self.target
        path = "" if field.many else f"{field.column}."
        meridians = [(leaf.west, leaf.east)]
        if leaf.west > leaf.east:
            meridians = [(leaf.west, 180.0), (-180.0, leaf.east)]
        inside = target.filter(
            must=[target.between(f"{path}lat", leaf.south, leaf.north)],
            should=[target.between(f"{path}lon", west, east) for west, east in meridians],
        )
        return target.nested(field.column, inside) if field.many else inside

    def ids(self, ids: tuple[str, ...]) -> Any:
        points = [self.point_id(record) for record in ids]
        return self.target.ids([point for point in points if point is not None])

    def all_of(self, parts: Sequence[Any]) -> Any:
        return self.target.filter(must=parts)

    def any_of(self, parts: Sequence[Any]) -> Any:
        return self.target.filter(should=parts) if parts else self.target.ids([])  # an empty should holds everywhere

    def negate(self, part: Any) -> Any:
        return self.target.filter(must_not=[part])

    def _one_of(self, field: Field, values: tuple[Any, ...]) -> Any:
        key = field.column
        if field.kind is Kind.FLOAT:
            return self.any_of([self._float(field, value) for value in values])
        if field.kind is Kind.BOOL:  # a match of several takes no booleans
            return self.any_of([self.target.truth(key, value) for value in values])
        return self.target.one_of(key, list(values)) if values else self.any_of(())

    def _float(self, field: Field, value: float) -> Any:
        path = "" if field.many else f"{field.column}."
        pairs = zip(PARTS[Kind.FLOAT], split(value), strict=True)
        halves = [self.target.one_of(f"{path}{part}", [half]) for part, half in pairs]
        both = self.target.filter(must=halves)
        return self.target.nested(field.column, both) if field.many else both

    def _floats_between(self, column: str, low: float | None, high: float | None) -> Any:
        """Pairs in order: the high half decides, the low one where that is equal."""
        tests = []
        if low is not None:
            upper, lower = split(low)
            tests.append(self._beyond(column, upper, (upper + 1, None), (lower, None)))
        if high is not None:
            upper, lower = split(high)
            tests.append(self._beyond(column, upper, (None, upper - 1), (None, lower)))
        return self.all_of(tests)

    def _beyond(self, column: str, upper: int, past: _Bounds, rest: _Bounds) -> Any:
        high, low = (f"{column}.{part}" for part in PARTS[Kind.FLOAT])
        equal = self.target.filter(must=[self.target.one_of(high, [upper]), self.target.between(low, *rest)])
        return self.target.filter(should=[self.target.between(high, *past), equal])

    def _at_times(self, key: str, low: int | None, high: int | None) -> Any:
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
        within = self.target.between(key, first, last)
        if not added:
            return within
        return self.target.filter(must=[within], must_not=[self.target.one_of(key, added)])


class _Foreign(_Conditions):
    """Conditions on what another tool wrote: times are text, numbers and places are as they come."""

    def in_range(self, field: Field, leaf: Range) -> Any:
        if field.kind is Kind.FLOAT:
            return self.target.between(field.column, leaf.low, leaf.high)
        return super().in_range(field, leaf)

    def exists(self, field: Field) -> Any:
        return self.target.filter(must_not=[self.target.empty(field.column)])

    def box(self, field: Field, leaf: Box) -> Any:
        south, north = max(leaf.south - _RIM, -90.0), min(leaf.north + _RIM, 90.0)
        west, east = max(leaf.west - _RIM, -180.0), min(leaf.east + _RIM, 180.0)
        meridians = [(west, east)] if leaf.west <= leaf.east else [(west, 180.0), (-180.0, east)]
        if north == 90.0 or south == -90.0 or {180.0, -180.0} & {m for pair in meridians for m in pair}:
            # A place on the rim of the map cannot be taken in by widening the box.
            return self.exists(field)
        return self.any_of(
            [self.target.within(field.column, Box(leaf.field, south, w, north, e)) for w, e in meridians]
        )

    def _one_of(self, field: Field, values: tuple[Any, ...]) -> Any:
        if field.kind in (Kind.INT, Kind.FLOAT):
            return self.any_of([self.target.between(field.column, value, value) for value in values])
        if field.kind is Kind.BOOL and not self.target.booleans:
            return self.exists(field)
        if field.kind is Kind.TIME:
            return self.any_of([self._at_times(field.column, value, value) for value in values])
        return super()._one_of(field, values)

    def _at_times(self, key: str, low: int | None, high: int | None) -> Any:
        return self.target.moments(key, _moment(low), _moment(high))


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
