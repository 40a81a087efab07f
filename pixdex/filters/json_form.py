"""Filters as JSON values, for what crosses a process boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pixdex.errors import InvalidFilter
from pixdex.filters.nodes import (
    MAX_DEPTH,
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
    field_name,
    fold,
)

__all__ = ["from_json", "plain", "to_json"]


def plain(value: Any) -> Any:
    """A value as written in JSON or text: times as ISO 8601."""
    return value.isoformat() if isinstance(value, datetime) else value


class _Json:
    """``{"eq": ["year", 2020]}``; ``{"and": [...]}``; times as ISO 8601 text."""

    def eq(self, field: Ref, value: Any) -> Any:
        return {"eq": [field_name(field), plain(value)]}

    def is_in(self, field: Ref, values: tuple[Any, ...]) -> Any:
        return {"in": [field_name(field), [plain(v) for v in values]]}

    def in_range(self, field: Ref, leaf: Range) -> Any:
        bounds = {
            ("gt" if leaf.above else "ge"): plain(leaf.low),
            ("lt" if leaf.below else "le"): plain(leaf.high),
        }
        return {"range": [field_name(field), {k: v for k, v in bounds.items() if v is not None}]}

    def exists(self, field: Ref) -> Any:
        return {"exists": [field_name(field)]}

    def contains(self, field: Ref, values: tuple[Any, ...]) -> Any:
        return {"contains": [field_name(field), [plain(v) for v in values]]}

    def near(self, field: Ref, leaf: Near) -> Any:
        return {"near": [field_name(field), leaf.lat, leaf.lon, leaf.km]}

    def box(self, field: Ref, leaf: Box) -> Any:
        return {"box": [field_name(field), leaf.south, leaf.west, leaf.north, leaf.east]}

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
