"""The small text language of the shell: written by ``str(filter)``, read by ``parse``.

A tokenizer and a recursive-descent parser. Nothing is evaluated: text becomes filter values or an InvalidFilter that
points at the place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pixdex.errors import InvalidFilter
from pixdex.filters.json_form import plain
from pixdex.filters.nodes import (
    FALSE,
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
    field_name,
    fold,
)

__all__ = ["parse", "spelled"]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?))
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    )""",
    re.VERBOSE | re.DOTALL,
)
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_KEYWORDS = frozenset({"and", "or", "not", "in", "true", "false"})
_MAX_DEPTH = 100
"""Fewer than a filter may nest: the parser is recursive, several frames a level."""


def parse(text: str) -> Filter:
    """A filter from the shell: ``year >= 2020 and not (album == "x" or tags contains "sea")``.

    Comparisons ``== != < <= > >= in [..] not in [..]``, ``low <= name <= high``, ``between(name, low, high)``,
    ``exists(name)``, ``contains(name, value, ...)`` (any of them), ``name contains value``,
    ``within(name, lat, lon, km)``, ``box(name, south, west, north, east)``, ``id in [..]``, ``true``, ``false``,
    and/or/not, parentheses.
    Values are numbers, true, false and quoted text; times are ISO 8601 text.

    Raises:
        InvalidFilter: the text does not parse; the message points at the place.
    """
    return _Parser(text).filter()


class _Text:
    """The text that ``parse`` reads."""

    def eq(self, field: Ref, value: Any) -> str:
        return f"{field_name(field)} == {_literal(value)}"

    def is_in(self, field: Ref, values: tuple[Any, ...]) -> str:
        return f"{field_name(field)} in [{', '.join(map(_literal, values))}]"

    def in_range(self, field: Ref, leaf: Range) -> str:
        name = field_name(field)
        bounds = []
        if leaf.low is not None:
            bounds.append(f"{name} {'>' if leaf.above else '>='} {_literal(leaf.low)}")
        if leaf.high is not None:
            bounds.append(f"{name} {'<' if leaf.below else '<='} {_literal(leaf.high)}")
        if not bounds:
            return f"exists({name})"
        return bounds[0] if len(bounds) == 1 else f"({' and '.join(bounds)})"

    def exists(self, field: Ref) -> str:
        return f"exists({field_name(field)})"

    def contains(self, field: Ref, values: tuple[Any, ...]) -> str:
        return f"contains({', '.join([field_name(field), *map(_literal, values)])})"

    def near(self, field: Ref, leaf: Near) -> str:
        return f"within({field_name(field)}, {leaf.lat!r}, {leaf.lon!r}, {leaf.km!r})"

    def box(self, field: Ref, leaf: Box) -> str:
        return f"box({field_name(field)}, {leaf.south!r}, {leaf.west!r}, {leaf.north!r}, {leaf.east!r})"

    def ids(self, ids: tuple[str, ...]) -> str:
        return f"id in [{', '.join(map(_literal, ids))}]"

    def all_of(self, parts: Sequence[str]) -> str:
        return f"({' and '.join(parts)})" if parts else "true"

    def any_of(self, parts: Sequence[str]) -> str:
        return f"({' or '.join(parts)})" if parts else "false"

    def negate(self, part: str) -> str:
        return f"not {part}" if part.startswith("(") else f"not ({part})"


def spelled(where: Filter) -> str:
    """A filter as the text that ``parse`` reads."""
    return fold(where, _Text())


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(plain(value), ensure_ascii=False) if isinstance(value, str | datetime) else repr(value)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Parser:
    """One text, read once, left to right."""

    def __init__(self, text: str) -> None:
        self._source = text
        self._tokens = self._tokenize(text)
        self._next = 0
        self._depth = 0

    def filter(self) -> Filter:
        """The whole text as one filter."""
        where = self._any()
        if self._peek().kind != "end":
            raise self._error("'and', 'or' or the end")
        return where

    def _tokenize(self, text: str) -> list[_Token]:
        tokens, at, end = [], 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                at += len(text[at:]) - len(text[at:].lstrip())
                hint = "did you mean ==?" if text[at] == "=" else "is a quote missing?"
                raise InvalidFilter(_pointing(text, at, f"this cannot be read ({hint})"))
            kind = found.lastgroup
            tokens.append(_Token(kind, found.group(kind), found.start(kind)))
            at = found.end()
        return [*tokens, _Token("end", "", end)]

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek()
        self._next += 1
        return token

    def _skip(self, text: str) -> bool:
        if self._peek().text != text or self._peek().kind == "text":
            return False
        self._next += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._skip(text):
            raise self._error(f"'{text}'")

    def _error(self, expected: str) -> InvalidFilter:
        return InvalidFilter(_pointing(self._source, self._peek().at, f"{expected} expected here"))

    def _any(self) -> Filter:
        parts = [self._all()]
        while self._skip("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Filter:
        parts = [self._negated()]
        while self._skip("and"):
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negated(self) -> Filter:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise InvalidFilter(f"the filter nests deeper than {_MAX_DEPTH} levels")
        try:
            return Not(self._negated()) if self._skip("not") else self._leaf()
        finally:
            self._depth -= 1

    def _leaf(self) -> Filter:
        if self._skip("("):
            inside = self._any()
            self._expect(")")
            return inside
        if self._skip("true"):
            return TRUE
        if self._skip("false"):
            return FALSE
        if self._peek().kind in ("number", "text"):
            return self._mirrored()
        name = self._name()
        if self._skip("("):
            return self._function(name)
        return self._comparison(name)

    def _name(self) -> str:
        token = self._peek()
        if token.kind != "name" or token.text in _KEYWORDS:
            raise self._error("a field name")
        return self._take().text

    def _mirrored(self) -> Filter:
        """``2000 <= year``, and ``2000 <= year <= 2010``."""
        low = self._value()
        operator = self._operator()
        name = self._name()
        first = _compare(name, _MIRRORED.get(operator, operator), low)
        if operator in ("<", "<=") and self._peek().text in ("<", "<="):
            return And((first, _compare(name, self._operator(), self._value())))
        return first

    def _operator(self) -> str:
        if self._peek().text not in _COMPARISONS or self._peek().kind != "mark":
            raise self._error(
                "a comparison (== != < <= > >=, in, not in, contains, or a function: between(name, low, high))"
            )
        return self._take().text

    def _comparison(self, name: str) -> Filter:
        if self._skip("not"):
            self._expect("in")
            return Not(_is_in(name, self._list()))
        if self._skip("in"):
            return _is_in(name, self._list())
        if self._skip("contains"):
            return Contains(name, (self._value(),))
        return _compare(name, self._operator(), self._value())

    def _function(self, function: str) -> Filter:
        name = self._name()
        arguments = []
        while self._skip(","):
            arguments.append(self._value())
        self._expect(")")
        match function, arguments:
            case "exists", []:
                return Exists(name)
            case "contains", _:
                return Contains(name, tuple(arguments))
            case "between", [low, high]:
                return Range(name, low=low, high=high)
            case "within", [lat, lon, km]:
                return Near(name, lat, lon, km)
            case "box", [south, west, north, east]:
                return Box(name, south, west, north, east)
        raise InvalidFilter(
            f"{function}(...): known are exists(field), contains(field, value, ...), "
            "between(field, low, high), within(field, lat, lon, km), box(field, south, west, north, east)"
        )

    def _list(self) -> tuple[Any, ...]:
        self._expect("[")
        values: list[Any] = []
        if not self._skip("]"):
            values.append(self._value())
            while self._skip(","):
                values.append(self._value())
            self._expect("]")
        return tuple(values)

    def _value(self) -> Any:
        token = self._peek()
        if token.kind == "number":
            self._next += 1
            return int(token.text) if re.fullmatch(r"[+-]?\d+", token.text) else float(token.text)
        if token.kind == "text":
            self._next += 1
            return self._unquoted(token)
        if token.text in ("true", "false"):
            return self._take().text == "true"
        raise self._error("a number, true, false or quoted text")

    def _unquoted(self, token: _Token) -> str:
        inside = token.text[1:-1]
        if token.text[0] == "'":
            inside = inside.replace("\\'", "'").replace('"', '\\"')
        try:
            return str(json.loads(f'"{inside}"', strict=False))
        except ValueError:
            raise InvalidFilter(
                _pointing(self._source, token.at, "an unknown escape; use \\\\ for a backslash")
            ) from None


def _compare(name: str, operator: str, value: Any) -> Filter:
    if name == "id":
        return _compare_id(operator, value)
    match operator:
        case "==":
            return Eq(name, value)
        case "!=":
            return Not(Eq(name, value))
        case "<":
            return Range(name, high=value, below=True)
        case "<=":
            return Range(name, high=value)
        case ">":
            return Range(name, low=value, above=True)
    return Range(name, low=value)


def _compare_id(operator: str, value: Any) -> Filter:
    if operator == "==":
        return Ids((value,))
    if operator == "!=":
        return Not(Ids((value,)))
    raise InvalidFilter("ids have no order: use id == or id in [...]")


def _is_in(name: str, values: tuple[Any, ...]) -> Filter:
    return Ids(values) if name == "id" else In(name, values)


def _pointing(text: str, at: int, message: str) -> str:
    return f"at character {at + 1} of the filter: {message}\n  {text}\n  {' ' * at}^"
