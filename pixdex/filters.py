"""Filters are values: built with ``F``, bound to a Spec, folded into whatever a store speaks.

Logic is two-valued. Missing, null and the empty list are one state, absent. A comparison with absent
is false, and ``Not`` is the exact complement, so ``F.year != 2020`` is true where there is no year.

A filter lives in two stages. As written, a leaf names its field by a string. ``bind`` checks it
against a Spec and returns the canonical form that ports and stores see:

* a leaf holds the declared ``Field``, so that a store finds the column and kind without the Spec;
* values have the field's kind: int fields compare with ints, float fields with floats, times are
  microseconds since 1970 (UTC);
* every range is closed, ``low <= x <= high`` with None for open, on ints and floats alike;
* negation stands on leaves only, and constants are folded away.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from pixdex.errors import FingerprintMismatch, InvalidFilter, InvalidRecord, Unsupported
from pixdex.types import MAX_INT, Field, Kind, Payload, Spec

__all__ = [
    "FALSE",
    "TRUE",
    "Algebra",
    "And",
    "Box",
    "Contains",
    "Eq",
    "Exists",
    "F",
    "Filter",
    "Ids",
    "In",
    "Near",
    "Not",
    "Operator",
    "Or",
    "Range",
    "bind",
    "bounding_boxes",
    "check_columns",
    "fold",
    "from_json",
    "matches",
    "micros",
    "parse",
    "relax",
    "to_json",
]

MAX_DEPTH = 200
"""Levels that a filter may nest; chains of one connective are one level."""
EARTH_RADIUS_KM = 6371.0088
"""Mean radius (IUGG), used by every distance in pixdex."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Ref: TypeAlias = "str | Field"
T = TypeVar("T")


class Operator(StrEnum):
    """What a store may or may not be able to express; ``Capabilities.operators`` lists what it can."""

    EQ = "eq"
    IN = "in"
    RANGE = "range"
    EXISTS = "exists"
    CONTAINS = "contains"
    NEAR = "near"
    BOX = "box"
    IDS = "ids"
    AND = "and"
    OR = "or"
    NOT = "not"


# --- values ---------------------------------------------------------------------------------------


class Filter:
    """The base of all filters. Combine with ``&``, ``|`` and ``~``."""

    __slots__ = ()

    def __and__(self, other: Filter) -> Filter:
        return And((*_parts(self, And), *_parts(other, And)))

    def __or__(self, other: Filter) -> Filter:
        return Or((*_parts(self, Or), *_parts(other, Or)))

    def __invert__(self) -> Filter:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError("a filter has no truth value: combine filters with &, | and ~ instead of and, or, not")

    def __str__(self) -> str:
        return fold(self, _TEXT)


@dataclass(frozen=True, slots=True)
class Eq(Filter):
    """The field has this value."""

    field: Ref
    value: Any


@dataclass(frozen=True, slots=True)
class In(Filter):
    """The field has one of these values; of none, when there are none."""

    field: Ref
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Range(Filter):
    """The field lies between the bounds; None is open. Bound filters are closed on both sides."""

    field: Ref
    low: Any = None
    high: Any = None
    above: bool = False
    """The low bound itself is excluded."""
    below: bool = False
    """The high bound itself is excluded."""


@dataclass(frozen=True, slots=True)
class Exists(Filter):
    """The field is not absent."""

    field: Ref


@dataclass(frozen=True, slots=True)
class Contains(Filter):
    """The list field holds at least one of these values."""

    field: Ref
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Near(Filter):
    """The place lies within ``km`` kilometres of a point (great circle, haversine)."""

    field: Ref
    lat: float
    lon: float
    km: float


@dataclass(frozen=True, slots=True)
class Box(Filter):
    """The place lies in a box of degrees, edges included; ``west > east`` crosses the date line."""

    field: Ref
    south: float
    west: float
    north: float
    east: float


@dataclass(frozen=True, slots=True)
class Ids(Filter):
    """The record's id is one of these."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class And(Filter):
    """All parts hold; of no parts, true."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or(Filter):
    """At least one part holds; of no parts, false."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """The exact complement."""

    part: Filter


def _parts(where: Filter, node: type[And | Or]) -> tuple[Filter, ...]:
    """The parts of a chain of one connective, else the filter itself: long chains stay flat."""
    return where.parts if isinstance(where, node) and where.parts else (where,)


TRUE = And(())
FALSE = Or(())


# --- F --------------------------------------------------------------------------------------------


class _Reference:
    """``F.name``: comparisons on it make filters."""

    __slots__ = ("_name",)
    __hash__ = None  # type: ignore[assignment]  # == builds a filter, so a hash would lie

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        return Eq(self._name, value)

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return Not(Eq(self._name, value))

    def __lt__(self, value: Any) -> Filter:
        return Range(self._name, high=value, below=True)

    def __le__(self, value: Any) -> Filter:
        return Range(self._name, high=value)

    def __gt__(self, value: Any) -> Filter:
        return Range(self._name, low=value, above=True)

    def __ge__(self, value: Any) -> Filter:
        return Range(self._name, low=value)

    def between(self, low: Any, high: Any) -> Filter:
        """``low <= field <= high``."""
        return Range(self._name, low=low, high=high)

    def is_in(self, values: Sequence[Any]) -> Filter:
        """The field has one of ``values``; false for none."""
        return In(self._name, _several(values))

    def not_in(self, values: Sequence[Any]) -> Filter:
        """The exact complement of ``is_in``."""
        return Not(In(self._name, _several(values)))

    def exists(self) -> Filter:
        """The field is not absent."""
        return Exists(self._name)

    def contains(self, value: Any) -> Filter:
        """The list field holds ``value``."""
        return Contains(self._name, (value,))

    def contains_any(self, values: Sequence[Any]) -> Filter:
        """The list field holds at least one of ``values``; false for none."""
        return Contains(self._name, _several(values))

    def contains_all(self, values: Sequence[Any]) -> Filter:
        """The list field holds every one of ``values``; for none, it must exist."""
        return And((Exists(self._name), *(Contains(self._name, (value,)) for value in _several(values))))

    def within(self, lat: float, lon: float, km: float) -> Filter:
        """The place lies within ``km`` kilometres of a point."""
        return Near(self._name, lat, lon, km)

    def within_box(self, south: float, west: float, north: float, east: float) -> Filter:
        """The place lies in a box of degrees; ``west > east`` crosses the date line."""
        return Box(self._name, south, west, north, east)


class _Builder:
    """``F.year >= 2020``; ``F["year"]`` when the name is in a variable; ``F.ids([...])`` by id."""

    __slots__ = ()

    def __getattr__(self, name: str) -> _Reference:
        return _Reference(name)

    def __getitem__(self, name: str) -> _Reference:
        return _Reference(name)

    @staticmethod
    def ids(ids: Sequence[str]) -> Filter:
        """Records with one of these ids. A field called ``ids`` is ``F["ids"]``."""
        return Ids(_several(ids))


def _several(values: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(values, str | bytes):
        raise InvalidFilter(f"{values!r} is one value where several are meant: put it into a list")
    return tuple(values)


F = _Builder()


# --- fold -----------------------------------------------------------------------------------------


class Algebra(Protocol[T]):
    """What a filter means in some language, leaf by leaf. ``fold`` does the walking.

    ``field`` is the declared Field in a bound filter, else its name.
    """

    def eq(self, field: Any, value: Any) -> T: ...
    def is_in(self, field: Any, values: tuple[Any, ...]) -> T: ...
    def in_range(self, field: Any, leaf: Range) -> T: ...
    def exists(self, field: Any) -> T: ...
    def contains(self, field: Any, values: tuple[Any, ...]) -> T: ...
    def near(self, field: Any, leaf: Near) -> T: ...
    def box(self, field: Any, leaf: Box) -> T: ...
    def ids(self, ids: tuple[str, ...]) -> T: ...
    def all_of(self, parts: Sequence[T]) -> T: ...
    def any_of(self, parts: Sequence[T]) -> T: ...
    def negate(self, part: T) -> T: ...


def fold(where: Filter, algebra: Algebra[T]) -> T:
    """The meaning of ``where`` in ``algebra``.

    Raises:
        Unsupported: a node that is not one of this module's.
    """
    match where:
        case Eq(field, value):
            return algebra.eq(field, value)
        case In(field, values):
            return algebra.is_in(field, values)
        case Range(field):
            return algebra.in_range(field, where)
        case Exists(field):
            return algebra.exists(field)
        case Contains(field, values):
            return algebra.contains(field, values)
        case Near(field):
            return algebra.near(field, where)
        case Box(field):
            return algebra.box(field, where)
        case Ids(ids):
            return algebra.ids(ids)
        case And(parts):
            return algebra.all_of([fold(part, algebra) for part in parts])
        case Or(parts):
            return algebra.any_of([fold(part, algebra) for part in parts])
        case Not(part):
            return algebra.negate(fold(part, algebra))
    raise Unsupported(f"unknown filter node {type(where).__name__}")


# --- bind: check against a Spec, canonical form ----------------------------------------------------


def bind(where: Filter, spec: Spec) -> Filter:
    """``where`` checked against ``spec``, in the canonical form that the module describes.

    Raises:
        InvalidFilter: an undeclared field, a value of the wrong kind, or an operator that the
            field's kind does not have.
        Unsupported: an unknown node.
    """
    return _bind(where, spec, negated=False, depth=0)


def _bind(where: Filter, spec: Spec, *, negated: bool, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidFilter(f"the filter nests deeper than {MAX_DEPTH} levels")
    if not isinstance(where, Filter):
        raise InvalidFilter(f"{where!r:.60} is no filter: build one with F, or read text with pixdex.filters.parse")
    match where:
        case Not(part):
            return _bind(part, spec, negated=not negated, depth=depth + 1)
        case And(parts) | Or(parts):
            bound = [_bind(part, spec, negated=negated, depth=depth + 1) for part in parts]
            return _all(bound) if isinstance(where, And) != negated else _any(bound)
    leaf = _bind_leaf(where, spec)
    if not negated:
        return leaf
    if leaf in (TRUE, FALSE):
        return FALSE if leaf == TRUE else TRUE
    return Not(leaf)


def _all(parts: Sequence[Filter]) -> Filter:
    if FALSE in parts:
        return FALSE
    kept = tuple(leaf for part in parts if part != TRUE for leaf in _parts(part, And))
    return kept[0] if len(kept) == 1 else And(kept)


def _any(parts: Sequence[Filter]) -> Filter:
    if TRUE in parts:
        return TRUE
    kept = tuple(leaf for part in parts if part != FALSE for leaf in _parts(part, Or))
    return kept[0] if len(kept) == 1 else Or(kept)


def _bind_leaf(leaf: Filter, spec: Spec) -> Filter:  # noqa: PLR0912 - one case a leaf
    match leaf:
        case Ids(ids):
            for record in ids:
                if not isinstance(record, str) or not _encodable(record):
                    raise InvalidFilter(f"ids are valid Unicode text, not {record!r}")
            return Ids(_distinct(ids)) if ids else FALSE
        case Exists(ref):
            return Exists(_field(ref, spec))
        case Eq(ref, value):
            field = _scalar(ref, spec, "==")
            return _equals(field, [value])
        case In(ref, values):
            field = _scalar(ref, spec, "in")
            return _equals(field, values)
        case Contains(ref, values):
            field = _field(ref, spec)
            if not field.many or field.kind is Kind.GEO:
                raise InvalidFilter(f"field {field.name!r} is no list of values: use ==, or declare it with many=True")
            wanted = _values(field, values)
            return Contains(field, wanted) if wanted else FALSE
        case Range(ref):
            return _bind_range(_scalar(ref, spec, "a range"), leaf)
        case Near(ref, lat, lon, km):
            field = _place(ref, spec)
            if not _finite(km) or km < 0:
                raise InvalidFilter(f"the radius of {field.name!r} is {km!r}: give kilometres, 0 or more")
            _check_place(field, lat, lon)
            return Near(field, float(lat), float(lon), float(km))
        case Box(ref, south, west, north, east):
            field = _place(ref, spec)
            _check_place(field, south, west)
            _check_place(field, north, east)
            if south > north:
                return FALSE
            return Box(field, float(south), float(west), float(north), float(east))
    raise Unsupported(f"unknown filter node {type(leaf).__name__}")


def _field(ref: Ref, spec: Spec) -> Field:
    name = ref.name if isinstance(ref, Field) else ref
    field = spec.field(name)
    if field is None:
        declared = ", ".join(f.name for f in spec.fields) or "none"
        raise InvalidFilter(f"field {name!r} is not declared, so it cannot be filtered on (declared: {declared})")
    return field


def _scalar(ref: Ref, spec: Spec, operator: str) -> Field:
    field = _field(ref, spec)
    if field.many:
        raise InvalidFilter(f"field {field.name!r} is a list, which {operator} never matches: use contains")
    if field.kind is Kind.GEO:
        raise InvalidFilter(f"field {field.name!r} is a place, which {operator} never matches: use within")
    return field


def _place(ref: Ref, spec: Spec) -> Field:
    field = _field(ref, spec)
    if field.kind is not Kind.GEO:
        raise InvalidFilter(f"field {field.name!r} is {field.kind}, not a place")
    return field


def _check_place(field: Field, lat: Any, lon: Any) -> None:
    if not (_finite(lat) and _finite(lon) and -90 <= lat <= 90 and -180 <= lon <= 180):
        raise InvalidFilter(
            f"{field.name!r}: ({lat!r}, {lon!r}) is no latitude in [-90, 90] and longitude in [-180, 180]"
        )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _equals(field: Field, values: Sequence[Any]) -> Filter:
    wanted = _values(field, values)
    if not wanted:
        return FALSE
    return Eq(field, wanted[0]) if len(wanted) == 1 else In(field, wanted)


def _values(field: Field, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values in the field's kind, distinct; those that no record can have are left out."""
    return _distinct([v for v in (_value(field, value) for value in values) if v is not None])


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _value(field: Field, value: Any) -> Any:
    """One value in the field's kind, numpy's scalars included; None when no value of that kind equals it (``year == 2020.5``)."""
    value = value.item() if isinstance(value, np.generic) else value
    match field.kind:
        case Kind.TEXT if isinstance(value, str):
            if not _encodable(value):
                raise InvalidFilter(f"{field.name!r}: {value!r} is not valid Unicode")
            return value
        case Kind.BOOL if isinstance(value, bool):
            return value
        case Kind.INT:
            number = _number(field, value)
            return int(number) if number == int(number) and abs(number) <= MAX_INT else None
        case Kind.FLOAT:
            return float(_number(field, value)) + 0.0  # -0.0 becomes 0.0: they are equal, but not to every store
        case Kind.TIME:
            return _time(field, value)
    raise _wrong_kind(field, value)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong_kind(field: Field, value: Any) -> InvalidFilter:
    return InvalidFilter(f"field {field.name!r} is {field.kind}, so it cannot be compared with {value!r}")


def _number(field: Field, value: Any) -> int | float:
    value = value.item() if isinstance(value, np.generic) else value
    if not _finite(value):
        raise _wrong_kind(field, value)
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise InvalidFilter(f"{field.name!r}: {value} is beyond 2^53 - 1, where not every store counts exactly")
    number: int | float = value
    return number


def _time(field: Field, value: Any) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidFilter(f"{field.name!r}: {value!r} is no ISO 8601 time such as 2020-05-01T12:00:00Z") from None
    if not isinstance(value, datetime):
        raise _wrong_kind(field, value)
    if value.tzinfo is None:
        raise InvalidFilter(f"{field.name!r}: {value.isoformat()} has no time zone: add one, such as Z for UTC")
    return micros(value)


def micros(moment: datetime) -> int:
    """An aware datetime as microseconds since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def _bind_range(field: Field, leaf: Range) -> Filter:
    """The closed range that holds the same values of the field's kind."""
    if leaf.low is None and leaf.high is None:
        return Exists(field)
    low: float | None
    high: float | None
    match field.kind:
        case Kind.INT:
            low = None if leaf.low is None else _first_int(_number(field, leaf.low), excluded=leaf.above)
            high = None if leaf.high is None else -_first_int(-_number(field, leaf.high), excluded=leaf.below)
        case Kind.TIME:
            low = None if leaf.low is None else _time(field, leaf.low) + leaf.above
            high = None if leaf.high is None else _time(field, leaf.high) - leaf.below
        case Kind.FLOAT:
            low = None if leaf.low is None else _first_float(_number(field, leaf.low), excluded=leaf.above)
            high = None if leaf.high is None else 0.0 - _first_float(-_number(field, leaf.high), excluded=leaf.below)
        case _:
            raise InvalidFilter(f"field {field.name!r} is {field.kind}, which has no order: use ==, != or in")
    # Within what values can be: a bound such as 1e300 on ints is no number that every store can read.
    limit = _LARGEST.get(field.kind, math.inf)
    low = None if low is None else max(low, -limit)
    high = None if high is None else min(high, limit)
    if (-limit if low is None else low) > (limit if high is None else high):
        return FALSE
    return Range(field, low, high)


_LARGEST: Mapping[Kind, float] = {Kind.INT: MAX_INT, Kind.FLOAT: sys.float_info.max}


def _first_int(bound: int | float, *, excluded: bool) -> int:
    """The smallest int at or (excluded) above ``bound``."""
    first = math.ceil(bound)
    return first + 1 if excluded and first == bound else first


def _first_float(bound: int | float, *, excluded: bool) -> float:
    """The smallest float64 at or (excluded) above ``bound``."""
    return (math.nextafter(bound, math.inf) if excluded else float(bound)) + 0.0


def check_columns(where: Filter, spec: Spec) -> None:
    """Refuse a bound filter whose fields are not, column by column, those of ``spec``.

    A store that compiles filters by column calls this with the Spec it holds: the filter may come from
    a handle that was opened on another collection of the same encoder, before an alias was switched.

    Raises:
        FingerprintMismatch: the collection changed since the handle was opened.
    """
    match where:
        case And(parts) | Or(parts):
            for part in parts:
                check_columns(part, spec)
        case Not(part):
            check_columns(part, spec)
        case Ids():
            pass
        case Eq(field) | In(field) | Range(field) | Exists(field) | Contains(field) | Near(field) | Box(field):
            if field not in spec.columns:
                raise FingerprintMismatch(f"field {_name(field)!r} is not what it was: the collection changed")


# --- matches: the meaning, in Python --------------------------------------------------------------


def matches(where: Filter, record: str, payload: Payload) -> bool:
    """Whether a bound filter holds for a record, by its id and its payload at the port.

    This is what the memory store runs on every record and what completes a filter that a store
    cannot express.
    """
    return fold(where, _Truth(record, payload))


@dataclass(frozen=True, slots=True)
class _Truth:
    record: str
    payload: Payload

    def eq(self, field: Field, value: Any) -> bool:
        return bool(stored(field, self.payload) == value)

    def is_in(self, field: Field, values: tuple[Any, ...]) -> bool:
        return stored(field, self.payload) in values

    def in_range(self, field: Field, leaf: Range) -> bool:
        value = stored(field, self.payload)
        return (
            value is not None and (leaf.low is None or value >= leaf.low) and (leaf.high is None or value <= leaf.high)
        )

    def exists(self, field: Field) -> bool:
        return stored(field, self.payload) is not None

    def contains(self, field: Field, values: tuple[Any, ...]) -> bool:
        return any(value in values for value in stored(field, self.payload) or ())

    def near(self, field: Field, leaf: Near) -> bool:
        return any(distance_km(lat, lon, leaf.lat, leaf.lon) <= leaf.km for lat, lon in _places(field, self.payload))

    def box(self, field: Field, leaf: Box) -> bool:
        return any(_inside(lat, lon, leaf) for lat, lon in _places(field, self.payload))

    def ids(self, ids: tuple[str, ...]) -> bool:
        return self.record in ids

    def all_of(self, parts: Sequence[bool]) -> bool:
        return all(parts)

    def any_of(self, parts: Sequence[bool]) -> bool:
        return any(parts)

    def negate(self, part: bool) -> bool:  # noqa: FBT001 - the algebra of truth values
        return not part


def stored(field: Field, payload: Payload) -> Any:
    """The value that filters see in a payload at the port: times as microseconds, places as
    ``(lat, lon)``, lists as lists of those, None where absent.

    Stores fill their typed columns with it.
    """
    value = payload.get(field.name)
    if value is None or value == []:
        return None
    read = _READERS.get(field.kind) or partial(_plain_value, field)
    if field.many and not isinstance(value, list | tuple):
        raise _stale(field, value)
    try:
        return [read(item) for item in value] if field.many else read(value)
    except (TypeError, ValueError, KeyError) as error:
        raise _stale(field, value) from error


def _stale(field: Field, value: Any) -> InvalidRecord:
    return InvalidRecord(
        f"field {field.name!r} is declared {field.kind}{' (a list)' if field.many else ''}, got {value!r:.80}. "
        "If it was declared after this handle was opened, open the collection again"
    )


_PYTHON: Mapping[Kind, type | tuple[type, ...]] = {
    Kind.TEXT: str,
    Kind.INT: int,
    Kind.FLOAT: (int, float),
    Kind.BOOL: bool,
}


def _plain_value(field: Field, value: Any) -> Any:
    """``value``, when it is of the field's kind: a handle that is older than the field may have let another through."""
    if not isinstance(value, _PYTHON[field.kind]) or (isinstance(value, bool) and field.kind is not Kind.BOOL):
        raise TypeError(value)
    return value + 0.0 if isinstance(value, int | float) and field.kind is Kind.FLOAT else value


_READERS: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.TIME: lambda text: micros(datetime.fromisoformat(text)),
    Kind.GEO: lambda place: _degrees(place),  # noqa: PLW0108 - defined below
}


def _degrees(place: Any) -> tuple[float, float]:
    # A pair stands in payloads that were written before the field was declared.
    lat, lon = (place["lat"], place["lon"]) if isinstance(place, Mapping) else place
    return float(lat), float(lon)


def _places(field: Field, payload: Payload) -> Sequence[tuple[float, float]]:
    value = stored(field, payload)
    if value is None:
        return ()
    return value if field.many else (value,)


def _inside(lat: float, lon: float, box: Box) -> bool:
    if not box.south <= lat <= box.north:
        return False
    if box.west <= box.east:
        return box.west <= lon <= box.east
    return lon >= box.west or lon <= box.east


def distance_km(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Great-circle distance in kilometres, by the haversine formula (Sinnott, 1984)."""
    phi1, phi2 = math.radians(lat1), math.radians(lat2)
    half = math.sin((phi2 - phi1) / 2) ** 2
    half += math.cos(phi1) * math.cos(phi2) * math.sin(math.radians(lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(half)))


# --- relax: what a store can express --------------------------------------------------------------


def relax(where: Filter, operators: frozenset[Operator]) -> tuple[Filter, bool]:
    """The tightest superset of a bound filter that ``operators`` can express, and whether it is exact.

    A leaf that is missing becomes a wider one (a radius becomes its bounding box) or true. When the
    result is not exact, what comes back must be checked with ``matches``.
    """
    match where:
        case And(parts) | Or(parts):
            relaxed = [relax(part, operators) for part in parts]
            exact = all(flag for _, flag in relaxed)
            wide = [part for part, _ in relaxed]
            node = _all(wide) if isinstance(where, And) else _any(wide)
            needed = Operator.AND if isinstance(where, And) else Operator.OR
            if isinstance(node, And | Or) and len(node.parts) > 1 and needed not in operators:
                return (node.parts[0] if isinstance(node, And) else TRUE), False
            return node, exact
        case Not(part):
            return (where, True) if {Operator.NOT, _operator(part)} <= operators else (TRUE, False)
    if _operator(where) in operators:
        return where, True
    if isinstance(where, Near) and Operator.BOX in operators:
        boxes = bounding_boxes(where)
        if len(boxes) == 1 or Operator.OR in operators:
            return _any(boxes), False
    return TRUE, False


_OPERATORS: Mapping[type[Filter], Operator] = {
    Eq: Operator.EQ,
    In: Operator.IN,
    Range: Operator.RANGE,
    Exists: Operator.EXISTS,
    Contains: Operator.CONTAINS,
    Near: Operator.NEAR,
    Box: Operator.BOX,
    Ids: Operator.IDS,
}


def _operator(leaf: Filter) -> Operator:
    return _OPERATORS[type(leaf)]


def operators_of(where: Filter) -> frozenset[Operator]:
    """The operators that a bound filter needs of a store; a chain of one part needs none of its own."""
    match where:
        case And(parts) | Or(parts):
            joint = {Operator.AND if isinstance(where, And) else Operator.OR} if len(parts) > 1 else set[Operator]()
            return frozenset(joint).union(*map(operators_of, parts))
        case Not(part):
            return operators_of(part) | {Operator.NOT}
    return frozenset({_operator(where)})


def bounding_boxes(leaf: Near) -> list[Filter]:
    """Boxes that hold every point within the radius; a hair wider, so that rounding loses none."""
    reach = math.degrees(leaf.km / EARTH_RADIUS_KM) * (1 + 1e-9) + 1e-9
    south, north = leaf.lat - reach, leaf.lat + reach
    if south <= -90 or north >= 90 or reach >= 90:  # a pole lies inside: every longitude does
        return [Box(leaf.field, max(south, -90.0), -180.0, min(north, 90.0), 180.0)]
    # Widest extent of a spherical cap: sin(dlon) = sin(reach) / cos(lat).
    across = math.degrees(math.asin(min(1.0, math.sin(math.radians(reach)) / math.cos(math.radians(leaf.lat)))))
    across = across * (1 + 1e-9) + 1e-9
    west, east = leaf.lon - across, leaf.lon + across
    if west < -180:
        return [Box(leaf.field, south, west + 360, north, 180.0), Box(leaf.field, south, -180.0, north, east)]
    if east > 180:
        return [Box(leaf.field, south, west, north, 180.0), Box(leaf.field, south, -180.0, north, east - 360)]
    return [Box(leaf.field, south, west, north, east)]


# --- JSON form ------------------------------------------------------------------------------------


def _name(field: Ref) -> str:
    return field.name if isinstance(field, Field) else field


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


class _Json:
    """``{"eq": ["year", 2020]}``; ``{"and": [...]}``; times as ISO 8601 text."""

    def eq(self, field: Ref, value: Any) -> Any:
        return {"eq": [_name(field), _plain(value)]}

    def is_in(self, field: Ref, values: tuple[Any, ...]) -> Any:
        return {"in": [_name(field), [_plain(v) for v in values]]}

    def in_range(self, field: Ref, leaf: Range) -> Any:
        bounds = {
            ("gt" if leaf.above else "ge"): _plain(leaf.low),
            ("lt" if leaf.below else "le"): _plain(leaf.high),
        }
        return {"range": [_name(field), {k: v for k, v in bounds.items() if v is not None}]}

    def exists(self, field: Ref) -> Any:
        return {"exists": [_name(field)]}

    def contains(self, field: Ref, values: tuple[Any, ...]) -> Any:
        return {"contains": [_name(field), [_plain(v) for v in values]]}

    def near(self, field: Ref, leaf: Near) -> Any:
        return {"near": [_name(field), leaf.lat, leaf.lon, leaf.km]}

    def box(self, field: Ref, leaf: Box) -> Any:
        return {"box": [_name(field), leaf.south, leaf.west, leaf.north, leaf.east]}

    def ids(self, ids: tuple[str, ...]) -> Any:
        return {"ids": list(ids)}

    def all_of(self, parts: Sequence[Any]) -> Any:
        return {"and": list(parts)}

    def any_of(self, parts: Sequence[Any]) -> Any:
        return {"or": list(parts)}

    def negate(self, part: Any) -> Any:
        return {"not": part}


def to_json(where: Filter) -> Any:
    """``where`` (as written, not bound) as JSON values; ``from_json`` gives it back."""
    return fold(where, _Json())


def from_json(document: Any) -> Filter:
    """The filter of ``to_json``.

    Raises:
        InvalidFilter: not such a document; the message quotes the part.
    """
    return _from_json(document, 0)


def _from_json(document: Any, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidFilter(f"the filter nests deeper than {MAX_DEPTH} levels")
    match document:
        case {"and": [*parts], **rest} if not rest:
            return And(tuple(_from_json(part, depth + 1) for part in parts))
        case {"or": [*parts], **rest} if not rest:
            return Or(tuple(_from_json(part, depth + 1) for part in parts))
        case {"not": part, **rest} if not rest:
            return Not(_from_json(part, depth + 1))
        case {"eq": [str(name), value], **rest} if not rest:
            return Eq(name, value)
        case {"in": [str(name), [*values]], **rest} if not rest:
            return In(name, tuple(values))
        case {"contains": [str(name), [*values]], **rest} if not rest:
            return Contains(name, tuple(values))
        case {"exists": [str(name)], **rest} if not rest:
            return Exists(name)
        case {"near": [str(name), lat, lon, km], **rest} if not rest:
            return Near(name, lat, lon, km)
        case {"box": [str(name), south, west, north, east], **rest} if not rest:
            return Box(name, south, west, north, east)
        case {"ids": [*ids], **rest} if not rest:
            return Ids(tuple(ids))
        case {"range": [str(name), {**bounds}], **rest} if not rest:
            return _range_from_json(name, bounds)
    raise InvalidFilter(f"not a filter: {document!r:.200}")


def _range_from_json(name: str, bounds: Mapping[Any, Any]) -> Filter:
    if not bounds.keys() <= {"gt", "ge", "lt", "le"} or {"gt", "ge"} <= bounds.keys() or {"lt", "le"} <= bounds.keys():
        raise InvalidFilter(f"a range has one of gt, ge and one of lt, le, not {sorted(bounds)}")
    return Range(
        name,
        bounds.get("gt", bounds.get("ge")),
        bounds.get("lt", bounds.get("le")),
        above="gt" in bounds,
        below="lt" in bounds,
    )


# --- text form ------------------------------------------------------------------------------------


class _Text:
    """The text that ``parse`` reads."""

    def eq(self, field: Ref, value: Any) -> str:
        return f"{_name(field)} == {_literal(value)}"

    def is_in(self, field: Ref, values: tuple[Any, ...]) -> str:
        return f"{_name(field)} in [{', '.join(map(_literal, values))}]"

    def in_range(self, field: Ref, leaf: Range) -> str:
        name = _name(field)
        bounds = []
        if leaf.low is not None:
            bounds.append(f"{name} {'>' if leaf.above else '>='} {_literal(leaf.low)}")
        if leaf.high is not None:
            bounds.append(f"{name} {'<' if leaf.below else '<='} {_literal(leaf.high)}")
        if not bounds:
            return f"exists({name})"
        return bounds[0] if len(bounds) == 1 else f"({' and '.join(bounds)})"

    def exists(self, field: Ref) -> str:
        return f"exists({_name(field)})"

    def contains(self, field: Ref, values: tuple[Any, ...]) -> str:
        return f"contains({', '.join([_name(field), *map(_literal, values)])})"

    def near(self, field: Ref, leaf: Near) -> str:
        return f"within({_name(field)}, {leaf.lat!r}, {leaf.lon!r}, {leaf.km!r})"

    def box(self, field: Ref, leaf: Box) -> str:
        return f"box({_name(field)}, {leaf.south!r}, {leaf.west!r}, {leaf.north!r}, {leaf.east!r})"

    def ids(self, ids: tuple[str, ...]) -> str:
        return f"id in [{', '.join(map(_literal, ids))}]"

    def all_of(self, parts: Sequence[str]) -> str:
        return f"({' and '.join(parts)})" if parts else "true"

    def any_of(self, parts: Sequence[str]) -> str:
        return f"({' or '.join(parts)})" if parts else "false"

    def negate(self, part: str) -> str:
        return f"not {part}" if part.startswith("(") else f"not ({part})"


_TEXT = _Text()


def _literal(value: Any) -> str:
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, str | datetime) else repr(value)


def parse(text: str) -> Filter:
    """A filter from the shell: ``year >= 2020 and not (album == "x" or tags contains "sea")``.

    Comparisons ``== != < <= > >= in [..] not in [..]``, ``low <= name <= high``, ``exists(name)``,
    ``between(name, low, high)``,
    ``contains(name, value, ...)`` (any of them), ``name contains value``, ``within(name, lat, lon, km)``,
    ``box(name, south, west, north, east)``, ``id in [..]``, ``true``, ``false``, and/or/not, parentheses.
    Values are numbers, true, false and quoted text; times are ISO 8601 text.

    Raises:
        InvalidFilter: the text does not parse; the message points at the place.
    """
    from pixdex._filter_text import Parser

    return Parser(text).filter()
