"""What the embedded store says to SQLite: typed columns, and filters as WHERE clauses.

Only ordinals and integer ids stand in the text (``r1``, ``f2``, ``v3``); user names never do, and
every value is a bound parameter. Three tables a collection: ``rN`` holds one narrow row a record
(id, typed columns, where each vector lies), ``bN`` what only winners need (payload, tokens), ``mN`` the
items of list fields.
"""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from pixdex.connectors._pq_gather import gathered
from pixdex.errors import Unsupported
from pixdex.filters import Box, Filter, Near, Range, bounding_boxes, distance_km, fold, stored
from pixdex.spec import Field, Kind
from pixdex.types import Payload

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Sql", "columns", "compiled", "items", "register", "values"]

_TYPES = {Kind.TEXT: "TEXT", Kind.FLOAT: "REAL", Kind.GEO: "REAL"}
_DEEP = 10
_FEW = 500
_MOST = 32_000
"""Values in one statement: SQLite as it comes takes 32 766."""


def columns(field: Field) -> list[tuple[str, str]]:
    """The physical columns of a field with their types: a place has two, a list only its length."""
    if field.many:
        return [(field.column, "INTEGER")]
    kind = _TYPES.get(field.kind, "INTEGER")
    if field.kind is Kind.GEO:
        return [(field.column, kind), (f"{field.column}_lon", kind)]
    return [(field.column, kind)]


def values(field: Field, payload: Payload) -> list[Any]:
    """What stands in ``columns(field)`` for a record; None where absent."""
    value = stored(field, payload)
    if field.many:
        return [None if value is None else len(value)]
    if field.kind is Kind.GEO:
        return [None, None] if value is None else list(value)
    return [value]


def items(field: Field, payload: Payload) -> list[tuple[int, Any, Any]]:
    """The items of a list field as ``(ordinal, value, lon)``; ``value`` is the latitude of a place."""
    value = stored(field, payload) if field.many else None
    if field.kind is Kind.GEO:
        return [(field.ordinal, lat, lon) for lat, lon in value or ()]
    return [(field.ordinal, item, None) for item in value or ()]


def register(db: sqlite3.Connection) -> None:
    """Teach a connection the functions that filters call."""
    db.create_function("km", 4, distance_km, deterministic=True)
    db.create_function("bits", 1, _bits, deterministic=True)


@dataclass(frozen=True, slots=True)
class Sql:
    """A condition that is 1 or 0, never NULL, so that NOT is the exact complement.

    ``depth`` counts nested parentheses. ``parts`` are the operands of an ``AND`` or ``OR`` chain.
    """

    text: str
    parameters: tuple[Any, ...] = ()
    depth: int = 1
    chain: str = ""
    parts: tuple[Sql, ...] = field(default=(), repr=False)


def compiled(where: Filter | None, collection: int) -> tuple[str, Sql]:
    """A bound filter as ``(WITH clause or "", condition)`` on ``r{collection}``.

    The parameters of the condition cover both, in the order of the text.

    Raises:
        Unsupported: it has more values than SQLite takes.
    """
    if where is None:
        return "", _TRUE
    where = gathered(where)
    for few in (_FEW, 1):  # lists of one parameter each read slower: only where there are too many
        algebra = _Where(collection, few)
        condition = fold(where, algebra)
        parameters = (*(value for part in algebra.hoisted for value in part.parameters), *condition.parameters)
        if len(parameters) <= _MOST:
            break
    else:
        raise Unsupported(
            f"a filter of {len(parameters)} values, {_MOST} at most in the embedded store: say many values of one field "
            "as is_in, not_in or contains_any, which count as one, or ask several times"
        )
    if not algebra.hoisted:
        return "", condition
    named = ", ".join(f"q{n} AS MATERIALIZED ({part.text})" for n, part in enumerate(algebra.hoisted))
    return f"WITH {named} ", Sql(condition.text, parameters)


_TRUE, _FALSE = Sql("1"), Sql("0")


class _Where:
    """The algebra of conditions on one collection."""

    def __init__(self, collection: int, few: int) -> None:
        self.collection = collection
        self.few = few
        self.hoisted: list[Sql] = []

    def eq(self, field: Field, value: Any) -> Sql:
        return Sql(f"{field.column} IS ?", (value,))

    def is_in(self, field: Field, values: tuple[Any, ...]) -> Sql:
        among = _among(field.column, field.kind, values, self.few)
        return Sql(f"({field.column} IS NOT NULL AND {among.text})", among.parameters, 2)

    def in_range(self, field: Field, leaf: Range) -> Sql:
        bounds = [(">=", leaf.low), ("<=", leaf.high)]
        tests = "".join(f" AND {field.column} {sign} ?" for sign, bound in bounds if bound is not None)
        return Sql(f"({field.column} IS NOT NULL{tests})", tuple(b for _, b in bounds if b is not None), 2)

    def exists(self, field: Field) -> Sql:
        return Sql(f"{field.column} IS NOT NULL")

    def contains(self, field: Field, values: tuple[Any, ...]) -> Sql:
        return self._some_item(field, _among("value", field.kind, values, self.few))

    def near(self, field: Field, leaf: Near) -> Sql:
        return self._place(field, lambda lat, lon: _within(lat, lon, leaf))

    def box(self, field: Field, leaf: Box) -> Sql:
        return self._place(field, lambda lat, lon: _inside(lat, lon, leaf))

    def ids(self, ids: tuple[str, ...]) -> Sql:
        return _among("id", Kind.TEXT, ids, self.few)

    def all_of(self, parts: Sequence[Sql]) -> Sql:
        return self._joined("AND", parts, _TRUE)

    def any_of(self, parts: Sequence[Sql]) -> Sql:
        return self._joined("OR", parts, _FALSE)

    def negate(self, part: Sql) -> Sql:
        return Sql(f"NOT ({part.text})", part.parameters, part.depth + 1)

    def _place(self, field: Field, test: Callable[[str, str], Sql]) -> Sql:
        if field.many:
            return self._some_item(field, test("value", "lon"))
        inner = test(field.column, f"{field.column}_lon")
        return Sql(f"({field.column} IS NOT NULL AND {inner.text})", inner.parameters, inner.depth + 1)

    def _some_item(self, field: Field, test: Sql) -> Sql:
        text = f"row IN (SELECT row FROM m{self.collection} WHERE field = ? AND {test.text})"
        return Sql(text, (field.ordinal, *test.parameters), test.depth + 1)

    def _joined(self, word: str, parts: Sequence[Sql], empty: Sql) -> Sql:
        """A chain of the same word is one list, balanced: SQLite limits the depth of an expression."""
        flat = [inner for part in parts for inner in (part.parts if part.chain == word else (part,))]
        if not flat:
            return empty
        flat = [self._shallow(part) for part in flat]
        joined = _balanced(word, flat)
        return Sql(joined.text, joined.parameters, joined.depth, word, tuple(flat))

    def _shallow(self, part: Sql) -> Sql:
        """A deep part becomes a named subquery: SQLite's parser stops at some 30 parentheses."""
        if part.depth < _DEEP:
            return part
        self.hoisted.append(Sql(f"SELECT row FROM r{self.collection} WHERE {part.text}", part.parameters))
        return Sql(f"row IN q{len(self.hoisted) - 1}")


def _balanced(word: str, parts: Sequence[Sql]) -> Sql:
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    left, right = _balanced(word, parts[:middle]), _balanced(word, parts[middle:])
    text = f"({left.text} {word} {right.text})"
    return Sql(text, left.parameters + right.parameters, max(left.depth, right.depth) + 1)


def _within(lat: str, lon: str, leaf: Near) -> Sql:
    """The boxes around a circle first: they cost nothing, the distance is a call into Python."""
    boxes = _balanced("OR", [_inside(lat, lon, box) for box in bounding_boxes(leaf) if isinstance(box, Box)])
    text = f"({boxes.text} AND km({lat}, {lon}, ?, ?) <= ?)"
    return Sql(text, (*boxes.parameters, leaf.lat, leaf.lon, leaf.km), boxes.depth + 1)


def _inside(lat: str, lon: str, box: Box) -> Sql:
    word = "AND" if box.west <= box.east else "OR"
    text = f"({lat} >= ? AND {lat} <= ? AND ({lon} >= ? {word} {lon} <= ?))"
    return Sql(text, (box.south, box.north, box.west, box.east), 3)


def _among(column: str, kind: Kind, wanted: Sequence[Any], few: int) -> Sql:
    """``column IN wanted``: up to ``few`` as parameters, many as one JSON parameter, exact to the last bit.

    JSON in SQLite ends text at NUL and rounds floats its own way, so those travel as hex and as bits.
    """
    if len(wanted) <= few:
        return Sql(f"{column} IN ({', '.join('?' * len(wanted))})", tuple(wanted))
    match kind:
        case Kind.TEXT if any("\0" in text for text in wanted):
            column, coded = f"hex({column})", [text.encode().hex().upper() for text in wanted]
        case Kind.FLOAT:
            column, coded = f"bits({column})", [_bits(number) for number in wanted]
        case Kind.BOOL:
            coded = [int(flag) for flag in wanted]
        case _:
            coded = list(wanted)
    return Sql(f"{column} IN (SELECT value FROM json_each(?))", (orjson.dumps(coded).decode(),))


def _bits(number: float | None) -> int | None:
    found: int | None = None if number is None else struct.unpack("<q", struct.pack("<d", number))[0]
    return found
