"""The values: leaves, connectives, constants, and the walk over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar

from pixdex.errors import Unsupported
from pixdex.spec import Field

__all__ = [
    "FALSE",
    "MAX_DEPTH",
    "TRUE",
    "Algebra",
    "And",
    "Box",
    "Contains",
    "Eq",
    "Exists",
    "Filter",
    "Ids",
    "In",
    "Near",
    "Not",
    "Operator",
    "Or",
    "Range",
    "Ref",
    "conjunction",
    "disjunction",
    "field_name",
    "fold",
]

MAX_DEPTH = 200
"""Levels that a filter may nest; chains of one connective are one level."""

Ref: TypeAlias = "str | Field"
"""How a leaf names its field: by a string as written, by the declared Field once bound."""
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
    NEAR_ANY = "near any"
    """A radius on a list of places: any of them lies within."""
    BOX_ANY = "box any"
    IDS = "ids"
    AND = "and"
    OR = "or"
    NOT = "not"


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
        from pixdex.filters.text_form import spelled  # which builds on this module

        return spelled(self)


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


def conjunction(parts: Sequence[Filter]) -> Filter:
    """All of ``parts``, constants folded away and chains kept flat."""
    if FALSE in parts:
        return FALSE
    kept = tuple(leaf for part in parts if part != TRUE for leaf in _parts(part, And))
    return kept[0] if len(kept) == 1 else And(kept)


def disjunction(parts: Sequence[Filter]) -> Filter:
    """At least one of ``parts``, constants folded away and chains kept flat."""
    if TRUE in parts:
        return TRUE
    kept = tuple(leaf for part in parts if part != FALSE for leaf in _parts(part, Or))
    return kept[0] if len(kept) == 1 else Or(kept)


def field_name(field: Ref) -> str:
    """The name of a field, bound or not."""
    return field.name if isinstance(field, Field) else field


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
