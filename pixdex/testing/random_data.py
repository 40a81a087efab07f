"""Random records and filters over one rich Spec, and what a filter means, written down a second time.

``evaluate`` is the specification of filters on the values that a user hands in. It shares no code with
``pixdex.filters``: where the two differ, one of them is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from pixdex.filters import And, Box, Contains, Eq, Exists, Filter, Ids, In, Near, Not, Or, Range
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, Vector
from pixdex.types import MAX_ID_BYTES, MAX_INT

__all__ = ["HOSTILE_TEXT", "RICH", "evaluate", "filters", "record_ids", "records"]

FIELDS = (
    Field(name="label", kind=Kind.TEXT),
    Field(name="tags", kind=Kind.TEXT, many=True),
    Field(name="year", kind=Kind.INT),
    Field(name="sizes", kind=Kind.INT, many=True),
    Field(name="rating", kind=Kind.FLOAT),
    Field(name="weights", kind=Kind.FLOAT, many=True),
    Field(name="ok", kind=Kind.BOOL),
    Field(name="flags", kind=Kind.BOOL, many=True),
    Field(name="taken", kind=Kind.TIME),
    Field(name="seen", kind=Kind.TIME, many=True),
    Field(name="place", kind=Kind.GEO),
    Field(name="stops", kind=Kind.GEO, many=True),
)
RICH = Spec(
    vectors=(Vector(dim=8, metric=Metric.L2, fingerprint=Fingerprint(encoder="toy", digest="00112233445566778899")),),
    fields=FIELDS,
)
"""Every kind, one and many."""

HOSTILE_TEXT = (
    "'",
    '"',
    "\\",
    "\\\\",
    '\\"',
    "\\'",
    "it's",
    'a"b',
    "end\\",
    '" or true or "" == "',
    "' OR '1'='1",
    '"] or label in ["',
    "'; DROP TABLE records; --",
    "true",
    "null",
    "None",
    "1",
    "01",
    "1.0",
    "NaN",
    "%",
    "_",
    "*",
    "c%t",
    "{label}",
    "$meta",
    "%s %(x)s",
    "a\0b",
    "a\nb",
    "a\r\nb",
    "\t",
    " ",
    " a",
    "a ",
    "A",
    "a",
    "\u00e9",
    "e\u0301",
    "👩\u200d🚀",
    "\u202eabc",
    "\ufeff",
    "\\u0041",
    "\\x41",
    "\U0010ffff",
    "ſ",  # on purpose
    "s",
    "ß",
    "ss",
    "\\ud800",
    "\\uD83D\\uDE00",
    "صورة \u200f\u2067",
    "Z\u0351\u036b\u0343" * 20,
    "\u1100\u1161\u11a8",
    "각",
    "${jndi:x}",
    "a' and f1 > 0 or id != 'b",
    "/* */ --",
    "\0",
    "x" * 3000,
    "\\'" * 4096,  # 8 KiB, the longest text of a declared field
    "é" * 4095 + "ab",
)


# --- values ---------------------------------------------------------------------------------------

_ZONES = st.sampled_from([UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-3, minutes=-30))])
_NOON = datetime(2020, 5, 1, 12, tzinfo=UTC)


def _times() -> st.SearchStrategy[datetime]:
    near = st.builds(lambda n, zone: (_NOON + timedelta(microseconds=n)).astimezone(zone), st.integers(-2, 2), _ZONES)
    anywhere = st.datetimes(
        datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)
    )  # hypothesis takes naive bounds
    return st.one_of(near, anywhere)


def _places() -> st.SearchStrategy[tuple[float, float]]:
    latitudes = st.sampled_from([-90.0, -89.5, -10.0, 0.0, 0.5, 1.0, 52.52, 89.5, 90.0])
    longitudes = st.sampled_from([-179.5, -90.0, -1.0, 0.0, 0.5, 1.0, 13.405, 90.0, 179.5])
    return st.tuples(latitudes, longitudes)


VALUES: Mapping[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: st.one_of(st.sampled_from(["", "a", "A", "cat"]), st.sampled_from(HOSTILE_TEXT), st.text(max_size=8)),
    Kind.INT: st.one_of(st.integers(-2, 3), st.sampled_from([2020, MAX_INT, -MAX_INT]), st.integers(-MAX_INT, MAX_INT)),
    Kind.FLOAT: st.one_of(
        st.sampled_from([0.0, -0.0, 0.1, 0.5, 1.0, 1, -1, 2.5, 1e300]), st.floats(allow_nan=False, allow_infinity=False)
    ),
    Kind.BOOL: st.booleans(),
    Kind.TIME: _times(),
    Kind.GEO: _places(),
}
"""Values of a kind: a few that often meet, a few that hurt, a few from anywhere."""

_UNDECLARED: st.SearchStrategy[Any] = st.sampled_from([None, [], {}, "x", 1, {"deep": [1, None, "'"]}])


def _field_values(field: Field) -> st.SearchStrategy[Any]:
    values = VALUES[field.kind]
    return st.one_of(st.none(), st.lists(values, max_size=3) if field.many else values)


_HOSTILE_IDS = [text for text in HOSTILE_TEXT if text and len(text.encode()) <= MAX_ID_BYTES]
_HOSTILE_KEYS = [text for text in HOSTILE_TEXT if not text.startswith("_") and len(text.encode()) <= 3000]


def record_ids(count: int) -> st.SearchStrategy[list[str]]:
    """``count`` distinct ids, most of them hostile."""
    drawn = st.text(min_size=1, max_size=12)
    return st.lists(st.one_of(st.sampled_from(_HOSTILE_IDS), drawn), min_size=count, max_size=count, unique=True)


def records(max_size: int = 20) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Payloads in which each field is missing, null, an empty list or a value."""
    declared = st.fixed_dictionaries({}, optional={field.name: _field_values(field) for field in FIELDS})
    undeclared = st.dictionaries(st.sampled_from(["undeclared", *_HOSTILE_KEYS]), _UNDECLARED, max_size=2)
    payload = st.builds(lambda known, others: {**others, **known}, declared, undeclared)
    return st.lists(payload, min_size=1, max_size=max_size)


# --- filters --------------------------------------------------------------------------------------


def _compared(field: Field) -> st.SearchStrategy[Any]:
    """Values that a filter may compare the field with: ints with floats and the other way round."""
    if field.kind is Kind.INT:
        return st.one_of(VALUES[Kind.INT], st.sampled_from([0.5, 1.0, -1.5, 2020.5, 1e300, -1e300, 0.0]))
    return VALUES[field.kind]


def _ranges(field: Field) -> st.SearchStrategy[Filter]:
    bound = st.one_of(st.none(), _compared(field))
    return st.builds(Range, st.just(field.name), bound, bound, st.booleans(), st.booleans())


def _leaves(field: Field) -> st.SearchStrategy[Filter]:
    name, values = st.just(field.name), _compared(field)
    some = st.lists(values, max_size=3).map(tuple)
    choices: list[st.SearchStrategy[Filter]] = [st.builds(Exists, name)]
    if field.kind is Kind.GEO:
        radii = st.sampled_from([0.25, 60.0, 123.4, 1234.5, 9876.5, 19950.3, 20100.0])
        box = st.tuples(_places(), _places())
        choices.append(st.builds(lambda at, km: Near(field.name, at[0], at[1], km), _places(), radii))
        choices.append(box.map(lambda corners: Box(field.name, *corners[0], *corners[1])))
    elif field.many:
        choices.append(st.builds(Contains, name, some))
    else:
        choices += [st.builds(Eq, name, values), st.builds(In, name, some)]
        if field.kind in (Kind.INT, Kind.FLOAT, Kind.TIME):
            choices.append(_ranges(field))
    return st.one_of(choices)


def filters(ids: Sequence[str] = (), *, max_leaves: int = 6) -> st.SearchStrategy[Filter]:
    """Filters that fit ``RICH``, as a user writes them: nested, negated, constants and ``ids`` among them."""
    chosen = st.lists(st.sampled_from([*ids, "nonesuch"]), max_size=3).map(lambda some: Ids(tuple(some)))
    leaf = st.one_of(*(_leaves(field) for field in FIELDS), chosen)
    return st.recursive(leaf, _nested, max_leaves=max_leaves)


def _nested(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    parts = st.lists(inner, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, inner), st.builds(And, parts), st.builds(Or, parts))


# --- the meaning, a second time -------------------------------------------------------------------


def evaluate(where: Filter, record: str, payload: Mapping[str, Any]) -> bool:
    """Whether a filter as written holds for a record as handed in (DESIGN section 3, Filters)."""
    if isinstance(where, Not):
        return not evaluate(where.part, record, payload)
    if isinstance(where, And):
        return all(evaluate(part, record, payload) for part in where.parts)
    if isinstance(where, Or):
        return any(evaluate(part, record, payload) for part in where.parts)
    if isinstance(where, Ids):
        return record in where.ids
    assert isinstance(where, Eq | In | Range | Exists | Contains | Near | Box), where
    value = payload.get(str(where.field))
    if value is None or value == []:
        return False  # absent: every comparison is false
    values = value if isinstance(value, list) else [value]
    match where:
        case Eq(_, wanted):
            return bool(value == wanted)
        case In(_, wanted):
            return any(value == one for one in wanted)
        case Contains(_, wanted):
            return any(item == one for item in values for one in wanted)
        case Range(_, low, high, above, below):
            over = low is None or (value > low if above else value >= low)
            under = high is None or (value < high if below else value <= high)
            return bool(over and under)
        case Near(_, lat, lon, km):
            return any(_kilometres(place, (lat, lon)) <= km for place in values)
        case Box(_, south, west, north, east):
            return any(_in_box(place, south, west, north, east) for place in values)
    return True  # Exists


def _kilometres(one: tuple[float, float], two: tuple[float, float]) -> float:
    """Great-circle distance by the arctangent form: another way than the haversine of the library."""
    phi1, phi2 = math.radians(one[0]), math.radians(two[0])
    across = math.radians(two[1] - one[1])
    x = math.cos(phi2) * math.sin(across)
    y = math.cos(phi1) * math.sin(phi2) - math.sin(phi1) * math.cos(phi2) * math.cos(across)
    z = math.sin(phi1) * math.sin(phi2) + math.cos(phi1) * math.cos(phi2) * math.cos(across)
    return 6371.0088 * math.atan2(math.hypot(x, y), z)


def _in_box(place: tuple[float, float], south: float, west: float, north: float, east: float) -> bool:
    lat, lon = place
    if west > east:  # across the date line
        return south <= lat <= north and not east < lon < west
    return south <= lat <= north and west <= lon <= east
