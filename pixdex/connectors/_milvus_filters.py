"""Bound filters as Milvus expressions, and the physical columns that they read.

Columns are never null, because what null means differs between versions of Milvus. A bool column
``h3_…`` says whether a record has field ``f3_…``, and guards each leaf on it, so that ``not`` is an exact
complement. User names never enter an expression; values do as literals. Another tool's columns have no guard:
what is null there compares to nothing, and filters on them come without ``not``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pixdex.connectors._rows import check_depth
from pixdex.errors import Unsupported
from pixdex.filters import Box, Filter, Near, Operator, Range, fold
from pixdex.spec import Field, Foreign, Spec

__all__ = ["FALSE", "OPERATORS", "TRUE", "Key", "held", "key_of", "literal", "place", "to_expression"]

OPERATORS = frozenset(Operator) - {Operator.NEAR, Operator.NEAR_ANY, Operator.BOX_ANY}
"""There are no trigonometry and no arrays of places: those are left to a residual check."""

TRUE = 'id != ""'
FALSE = 'id == ""'

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_INT = re.compile(r"0|-?[1-9][0-9]{0,18}")


MAX_DEPTH = 80
"""Nested parts of a filter. The parser of Milvus Lite is recursive and fails at about 100."""


_FLAT = 4
"""Parts that are chained without more parentheses."""


class Key:
    """The id column of a collection that pixdex made: text."""

    column = "id"
    true = TRUE
    false = FALSE

    def stored(self, record: str) -> Any:
        """An id as the store has it; None when it can be none of its ids."""
        return record

    def among(self, ids: Sequence[str]) -> str:
        """The records with these ids."""
        stored = [value for record in ids if (value := self.stored(record)) is not None]
        return f"{self.column} in {_list(stored)}" if stored else self.false

    def after(self, record: str) -> str:
        """The records whose id sorts behind ``record``."""
        return f"{self.column} > {literal(self.stored(record))}"


class _TextKey(Key):
    """Another tool's text ids."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.true, self.false = f'{column} != ""', f'{column} == ""'
        self.true = f"({self.true} or {self.false})"  # the empty text is an id like another
        self.false = f"({column} in [])"


class _IntKey(Key):
    """Another tool's int ids, as decimal digits."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.true, self.false = f"({column} >= 0 or {column} < 0)", f"({column} > 0 and {column} < 0)"

    def stored(self, record: str) -> Any:
        if not _INT.fullmatch(record) or not -(2**63) < int(record) < 2**63:
            return None
        return int(record)


_OURS = Key()


def key_of(spec: Spec) -> Key:
    """The id column of a collection."""
    layout = spec.layout
    if not isinstance(layout, Foreign):
        return _OURS
    return _IntKey(layout.key) if layout.ids == "int" else _TextKey(layout.key)


def to_expression(where: Filter | None, spec: Spec | None = None) -> str:
    """A bound filter as an expression; None holds everywhere. Without ``spec``: on a collection that pixdex made.

    Raises:
        Unsupported: it is nested too deep.
    """
    key = _OURS if spec is None else key_of(spec)
    if where is None:
        return key.true
    check_depth(where, "Milvus", MAX_DEPTH)
    return fold(where, _Expressions(key, guards=spec is None or spec.native))


def literal(value: Any) -> str:
    """A text, number or bool in an expression. Characters without an escape stand as they are."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def held(field: Field) -> str:
    """The bool column that says whether a record has the field."""
    return f"h{field.column[1:]}"


def place(field: Field) -> tuple[str, str]:
    """The columns of latitude and longitude of a field of one place."""
    return f"{field.column}_lat", f"{field.column}_lon"


class _Expressions:
    """The algebra: text, each node in parentheses."""

    def __init__(self, key: Key, *, guards: bool) -> None:
        self._key = key
        self._guards = guards

    def eq(self, field: Field, value: Any) -> str:
        return self._guarded(field, f"{field.column} == {literal(value)}")

    def is_in(self, field: Field, values: tuple[Any, ...]) -> str:
        return self._guarded(field, f"{field.column} in {_list(values)}")

    def contains(self, field: Field, values: tuple[Any, ...]) -> str:
        return self._guarded(field, f"array_contains_any({field.column}, {_list(values)})")

    def in_range(self, field: Field, leaf: Range) -> str:
        low = [] if leaf.low is None else [f"{field.column} >= {literal(leaf.low)}"]
        high = [] if leaf.high is None else [f"{field.column} <= {literal(leaf.high)}"]
        return self._guarded(field, *low, *high)

    def exists(self, field: Field) -> str:
        return self._guarded(field)

    def near(self, field: Field, _leaf: Near) -> str:
        raise Unsupported(f"field {field.name!r}: Milvus has no radius")  # not in OPERATORS

    def box(self, field: Field, leaf: Box) -> str:
        if field.many or not self._guards:
            raise Unsupported(
                f"field {field.name!r}: Milvus has no box over it"
            )  # not in OPERATORS; they have no places
        lat, lon = place(field)
        west, east = f"{lon} >= {literal(float(leaf.west))}", f"{lon} <= {literal(float(leaf.east))}"
        across = f"({west} or {east})" if leaf.west > leaf.east else f"{west} and {east}"
        return self._guarded(
            field, f"{lat} >= {literal(float(leaf.south))}", f"{lat} <= {literal(float(leaf.north))}", across
        )

    def ids(self, ids: tuple[str, ...]) -> str:
        return f"({self._key.among(ids)})"

    def all_of(self, parts: Sequence[str]) -> str:
        return _chain(" and ", parts) if parts else f"({self._key.true})"

    def any_of(self, parts: Sequence[str]) -> str:
        return _chain(" or ", parts) if parts else f"({self._key.false})"

    def negate(self, part: str) -> str:
        return f"(not {part})"

    def _guarded(self, field: Field, *tests: str) -> str:
        if self._guards:
            return f"({' and '.join((f'{held(field)} == true', *tests))})"
        return f"({' and '.join(tests) or self._key.true})"  # what is there in truth, the facade checks


def _chain(word: str, parts: Sequence[str]) -> str:
    """The parts as a tree that is as low as can be: a server makes of a flat chain one that is as high as it is long,
    and cannot read it above some fifty.
    """
    if len(parts) <= _FLAT:
        return f"({word.join(parts)})"
    middle = len(parts) // 2
    return f"({_chain(word, parts[:middle])}{word}{_chain(word, parts[middle:])})"


def _list(values: Sequence[Any]) -> str:
    return f"[{', '.join(map(literal, values))}]"
