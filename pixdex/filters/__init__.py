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

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pixdex.filters.binding import bind, check_columns
from pixdex.filters.builder import F
from pixdex.filters.meaning import EARTH_RADIUS_KM, distance_km, matches, micros, stored, stored_column
from pixdex.filters.nodes import (
    FALSE,
    MAX_DEPTH,
    TRUE,
    Algebra,
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
    fold,
)
from pixdex.filters.relaxing import bounding_boxes, operators_of, relax

if TYPE_CHECKING:
    from pixdex.filters.json_form import from_json, to_json
    from pixdex.filters.text_form import parse

__all__ = [
    "EARTH_RADIUS_KM",
    "FALSE",
    "MAX_DEPTH",
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
    "distance_km",
    "fold",
    "from_json",
    "matches",
    "micros",
    "operators_of",
    "parse",
    "relax",
    "stored",
    "stored_column",
    "to_json",
]

_FORMS = {"from_json": "json_form", "to_json": "json_form", "parse": "text_form"}
"""Few programs need them, and the import of pixdex.Collection has a budget."""


def __getattr__(name: str) -> Any:
    if name not in _FORMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FORMS[name]}"), name)
