"""From a filter as written to the canonical form that ports and stores see: checked against a Spec."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pixdex.errors import FingerprintMismatch, InvalidFilter, Unsupported
from pixdex.filters.meaning import micros
from pixdex.filters.nodes import (
    FALSE,
    MAX_DEPTH,
    TRUE,
    And,
    Box,
    Contains,
    Eq,
    Exists,
    Filter,
    Ids,
    In,
    Near,
    Not,
    Or,
    Range,
    Ref,
    conjunction,
    disjunction,
    field_name,
)
from pixdex.spec import Field, Kind, Spec
from pixdex.types import MAX_INT, python_scalar

__all__ = ["bind", "check_columns"]


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
            return conjunction(bound) if isinstance(where, And) != negated else disjunction(bound)
    leaf = _bind_leaf(where, spec)
    if not negated:
        return leaf
    if leaf in (TRUE, FALSE):
        return FALSE if leaf == TRUE else TRUE
    return Not(leaf)


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
    value = python_scalar(value)
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
    """One value in the field's kind; None when no value of that kind equals it (``year == 2020.5``)."""
    value = python_scalar(value)
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
    value = python_scalar(value)
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
                raise FingerprintMismatch(f"field {field_name(field)!r} is not what it was: the collection changed")
