"""What a store can express of a filter, when it cannot express all."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pixdex.filters.meaning import EARTH_RADIUS_KM
from pixdex.filters.nodes import (
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
    Operator,
    Or,
    Range,
    conjunction,
    disjunction,
)
from pixdex.spec import Field

__all__ = ["bounding_boxes", "operators_of", "relax"]


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
            node = conjunction(wide) if isinstance(where, And) else disjunction(wide)
            needed = Operator.AND if isinstance(where, And) else Operator.OR
            if isinstance(node, And | Or) and len(node.parts) > 1 and needed not in operators:
                return (node.parts[0] if isinstance(node, And) else TRUE), False
            return node, exact
        case Not(part):
            return (where, True) if {Operator.NOT, _operator(part)} <= operators else (TRUE, False)
    if _operator(where) in operators:
        return where, True
    if isinstance(where, Near) and _operator(Box(where.field, 0, 0, 0, 0)) in operators:
        boxes = bounding_boxes(where)
        if len(boxes) == 1 or Operator.OR in operators:
            return disjunction(boxes), False
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
_OF_LISTS: Mapping[type[Filter], Operator] = {Near: Operator.NEAR_ANY, Box: Operator.BOX_ANY}


def _operator(leaf: Filter) -> Operator:
    if isinstance(leaf, Near | Box) and isinstance(leaf.field, Field) and leaf.field.many:
        return _OF_LISTS[type(leaf)]
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
