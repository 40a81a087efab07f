"""Bound filters as Milvus expressions, and the physical columns that they read.

Columns are never null, because what null means differs between versions of Milvus. A bool column
``h3`` says whether a record has field ``f3``, and guards each leaf on it, so that ``not`` is an exact
complement. User names never enter an expression; values do as literals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pixdex.connectors._rows import check_depth
from pixdex.errors import Unsupported
from pixdex.filters import Box, Filter, Near, Operator, Range, fold
from pixdex.types import Field

__all__ = ["FALSE", "OPERATORS", "TRUE", "after", "held", "ids_in", "literal", "to_expression"]

OPERATORS = frozenset(Operator) - {Operator.NEAR, Operator.NEAR_ANY, Operator.BOX, Operator.BOX_ANY}
"""There are no trigonometry and no arrays of places: places are left to a residual check."""

TRUE = 'id != ""'
FALSE = 'id == ""'

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


MAX_DEPTH = 80
"""Nested parts of a filter. The parser of Milvus Lite is recursive and fails at about 100."""


def to_expression(where: Filter | None) -> str:
    """A bound filter as an expression; None holds everywhere.

    Raises:
        Unsupported: it is nested too deep.
    """
    if where is None:
        return TRUE
    check_depth(where, "Milvus", MAX_DEPTH)
    return fold(where, _Expressions())


def literal(value: Any) -> str:
    """A text, number or bool in an expression. Characters without an escape stand as they are."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def held(field: Field) -> str:
    """The bool column that says whether a record has the field."""
    return f"h{field.ordinal}"


def ids_in(ids: Sequence[str]) -> str:
    """The records with these ids."""
    return f"id in {_list(ids)}"


def after(record: str) -> str:
    """The records whose id sorts behind ``record``."""
    return f"id > {literal(record)}"


class _Expressions:
    """The algebra: text, each node in parentheses."""

    def eq(self, field: Field, value: Any) -> str:
        return _guarded(field, f"{field.column} == {literal(value)}")

    def is_in(self, field: Field, values: tuple[Any, ...]) -> str:
        return _guarded(field, f"{field.column} in {_list(values)}")

    def contains(self, field: Field, values: tuple[Any, ...]) -> str:
        return _guarded(field, f"array_contains_any({field.column}, {_list(values)})")

    def in_range(self, field: Field, leaf: Range) -> str:
        low = [] if leaf.low is None else [f"{field.column} >= {literal(leaf.low)}"]
        high = [] if leaf.high is None else [f"{field.column} <= {literal(leaf.high)}"]
        return _guarded(field, *low, *high)

    def exists(self, field: Field) -> str:
        return _guarded(field)

    def near(self, field: Field, _leaf: Near) -> str:
        raise Unsupported(f"field {field.name!r}: Milvus has no radius")  # not in OPERATORS

    def box(self, field: Field, _leaf: Box) -> str:
        raise Unsupported(f"field {field.name!r}: Milvus has no box")  # not in OPERATORS

    def ids(self, ids: tuple[str, ...]) -> str:
        return f"({ids_in(ids)})"

    def all_of(self, parts: Sequence[str]) -> str:
        return f"({' and '.join(parts)})" if parts else f"({TRUE})"

    def any_of(self, parts: Sequence[str]) -> str:
        return f"({' or '.join(parts)})" if parts else f"({FALSE})"

    def negate(self, part: str) -> str:
        return f"(not {part})"


def _guarded(field: Field, *tests: str) -> str:
    return f"({' and '.join((f'{held(field)} == true', *tests))})"


def _list(values: Sequence[Any]) -> str:
    return f"[{', '.join(map(literal, values))}]"
