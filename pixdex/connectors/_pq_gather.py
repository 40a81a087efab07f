"""Filters with thousands of like leaves, made short: what an OR or AND asks of one field becomes one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from pixdex.filters import And, Contains, Eq, Filter, Ids, In, Not, Or
from pixdex.spec import Field

__all__ = ["gathered"]

_Group: TypeAlias = tuple[type[Filter], Field | None]


def gathered(where: Filter) -> Filter:
    """An equal filter: ``a == 1 or a == 2`` as ``a in [1, 2]``, ``a != 1 and a != 2`` as ``a not in [1, 2]``.

    SQLite limits the values of a statement, and a list counts as one.
    """
    match where:
        case Or(parts):
            return Or(_joined(parts, negated=False))
        case And(parts):
            return And(_joined(parts, negated=True))
    return where


def _joined(parts: Sequence[Filter], *, negated: bool) -> tuple[Filter, ...]:
    groups: dict[_Group, dict[Any, None]] = {}
    rest = []
    for part in map(gathered, parts):
        found = _values(part, negated=negated)
        if found is None:
            rest.append(part)
        else:
            groups.setdefault(found[0], {}).update(dict.fromkeys(found[1]))
    lists = (_list(group, tuple(values)) for group, values in groups.items())
    return (*(Not(leaf) if negated else leaf for leaf in lists), *rest)


def _values(part: Filter, *, negated: bool) -> tuple[_Group, Sequence[Any]] | None:
    """What a leaf contributes to a list; None where it cannot."""
    if negated:
        return _values(part.part, negated=False) if isinstance(part, Not) else None
    match part:
        case Eq(Field() as field, value):
            return (In, field), (value,)
        case In(Field() as field, values):
            return (In, field), values
        case Contains(Field() as field, values):
            return (Contains, field), values
        case Ids(ids):
            return (Ids, None), ids
    return None


def _list(group: _Group, values: tuple[Any, ...]) -> Filter:
    match group:
        case (_, None):
            return Ids(values)
        case (kind, Field() as field) if kind is Contains:
            return Contains(field, values)
        case (_, Field() as field):
            return Eq(field, values[0]) if len(values) == 1 else In(field, values)
    raise AssertionError(group)
