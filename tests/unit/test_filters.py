"""Filters as values: building, binding, relaxing, and their text and JSON forms."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import operator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pixdex.errors import FingerprintMismatch, InvalidFilter, InvalidRecord, Unsupported
from pixdex.filters import (
    FALSE,
    MAX_DEPTH,
    TRUE,
    And,
    Box,
    Contains,
    Eq,
    Exists,
    F,
    Filter,
    Ids,
    In,
    Near,
    Not,
    Operator,
    Or,
    Range,
    bind,
    bounding_boxes,
    check_columns,
    distance_km,
    fold,
    from_json,
    matches,
    micros,
    operators_of,
    parse,
    relax,
    stored,
    to_json,
)
from pixdex.spec import REV, Field, Kind, Spec
from pixdex.testing.random_data import RICH, filters
from pixdex.testing.random_data import _kilometres as other_distance
from pixdex.types import MAX_INT

FIELDS: dict[str, Field] = {f.name: f for f in RICH.fields}
LABEL, TAGS, YEAR, RATING, OK, TAKEN, PLACE = (
    FIELDS[n] for n in ("label", "tags", "year", "rating", "ok", "taken", "place")
)
NOON = datetime(2020, 5, 1, 12, tzinfo=UTC)


def bound(where: Filter) -> Filter:
    return bind(where, RICH)


# --- building -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("built", "value"),
    [
        (F.year == 1, Eq("year", 1)),
        (F["ids"] == 1, Eq("ids", 1)),
        (F.year != 1, Not(Eq("year", 1))),
        (F.year < 1, Range("year", high=1, below=True)),
        (F.year <= 1, Range("year", high=1)),
        (F.year > 1, Range("year", low=1, above=True)),
        (F.year >= 1, Range("year", low=1)),
        (F.year.between(1, 2), Range("year", 1, 2)),
        (F.year.is_in([1, 2]), In("year", (1, 2))),
        (F.year.not_in([1]), Not(In("year", (1,)))),
        (F.year.exists(), Exists("year")),
        (F.tags.contains("a"), Contains("tags", ("a",))),
        (F.tags.contains_any(["a", "b"]), Contains("tags", ("a", "b"))),
        (F.tags.contains_all(["a", "b"]), And((Exists("tags"), Contains("tags", ("a",)), Contains("tags", ("b",))))),
        (F.place.within(1, 2, 3), Near("place", 1, 2, 3)),
        (F.place.within_box(1, 2, 3, 4), Box("place", 1, 2, 3, 4)),
        (F.ids(["a"]), Ids(("a",))),
        ((F.a == 1) & (F.b == 2), And((Eq("a", 1), Eq("b", 2)))),
        ((F.a == 1) | (F.b == 2), Or((Eq("a", 1), Eq("b", 2)))),
        (~(F.a == 1), Not(Eq("a", 1))),
    ],
)
def test_f_builds(built: Filter, value: Filter) -> None:
    assert built == value
    assert hash(built) == hash(value)


def test_a_filter_has_no_truth_value() -> None:
    with pytest.raises(TypeError, match=r"&, | and ~"):
        bool(F.year == 1)
    with pytest.raises(TypeError):
        _ = 1 < F.year < 3
    with pytest.raises(TypeError, match="unhashable"):
        hash(F.year)


# --- bind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (F.year == 2020.0, Eq(YEAR, 2020)),
        (F.year == 2020.5, FALSE),
        (F.year == 1e300, FALSE),
        (F.year != 2020.5, TRUE),
        (F.year.is_in([1, 1.0, 1.5, 2]), In(YEAR, (1, 2))),
        (F.year.is_in([1]), Eq(YEAR, 1)),
        (F.year.is_in([]), FALSE),
        (F.year.not_in([]), TRUE),
        (F.year < 3, Range(YEAR, None, 2)),
        (F.year <= 2.5, Range(YEAR, None, 2)),
        (F.year > 2.5, Range(YEAR, 3, None)),
        (F.year > 2, Range(YEAR, 3, None)),
        (F.year >= -2.5, Range(YEAR, -2, None)),
        (F.year < 1e300, Range(YEAR, None, MAX_INT)),
        (F.year >= -1e300, Range(YEAR, -MAX_INT, None)),
        (F.year > 1e300, FALSE),
        (F.year < -1e300, FALSE),
        (F.year > MAX_INT, FALSE),
        (F.year.between(2, 1), FALSE),
        (F.year.between(0.2, 0.8), FALSE),
        (Range("year"), Exists(YEAR)),
        (F.rating == 1, Eq(RATING, 1.0)),
        (F.rating > 1, Range(RATING, math.nextafter(1.0, 2.0), None)),
        (F.rating < 1, Range(RATING, None, math.nextafter(1.0, 0.0))),
        (F.rating > 1.7976931348623157e308, FALSE),
        (F.rating < -1.7976931348623157e308, FALSE),
        (F.ok == True, Eq(OK, True)),  # noqa: E712
        (F.taken == NOON, Eq(TAKEN, micros(NOON))),
        (F.taken == "2020-05-01T14:00:00+02:00", Eq(TAKEN, micros(NOON))),
        (F.taken > NOON, Range(TAKEN, micros(NOON) + 1, None)),
        (F.taken < NOON, Range(TAKEN, None, micros(NOON) - 1)),
        (F.tags.contains_any([]), FALSE),
        (F.tags.contains_any(["a", "a"]), Contains(TAGS, ("a",))),
        (F.tags.contains_all([]), Exists(TAGS)),
        (F.place.within_box(2, 0, 1, 0), FALSE),
        (F.place.within(1, 2, 3), Near(PLACE, 1.0, 2.0, 3.0)),
        (F.ids([]), FALSE),
        (F.ids(["b", "a", "b"]), Ids(("b", "a"))),
        (Eq(YEAR, 1), Eq(YEAR, 1)),
        (F["_rev"] > 5, Range(REV, 6, None)),
        (~((F.year == 1) & (F.label == "a")), Or((Not(Eq(YEAR, 1)), Not(Eq(LABEL, "a"))))),
        (~((F.year == 1) | ~(F.label == "a")), And((Not(Eq(YEAR, 1)), Eq(LABEL, "a")))),
        (~~(F.year == 1), Eq(YEAR, 1)),
        (TRUE & (F.year == 1), Eq(YEAR, 1)),
        (FALSE | (F.year == 1), Eq(YEAR, 1)),
        (FALSE & (F.year == 1), FALSE),
        (TRUE | (F.year == 1), TRUE),
        (~TRUE, FALSE),
        (And(((F.year == 1) | (F.year == 2.5),)), Eq(YEAR, 1)),
    ],
)
def test_bind(where: Filter, expected: Filter) -> None:
    assert bound(where) == expected


def test_bound_minus_zero_is_zero() -> None:
    for where in (F.rating == -0.0, F.rating >= -0.0, F.rating <= -0.0):
        leaf: Any = bound(where)
        value = leaf.value if isinstance(leaf, Eq) else leaf.low if leaf.low is not None else leaf.high
        assert math.copysign(1.0, value) == 1.0


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (F.nonesuch == 1, "'nonesuch' is not declared.*declared: label, tags"),
        (F.year == "1", "'year' is int, so it cannot be compared with '1'"),
        (F.year == True, "'year' is int.*True"),  # noqa: E712
        (F.year == MAX_INT + 1, r"beyond 2\^53 - 1"),
        (F.year == math.inf, "'year' is int"),
        (F.rating == "x", "'rating' is float"),
        (F.ok == 1, "'ok' is bool.*1"),
        (F.label == 1, "'label' is text"),
        (F.label == "\ud800", "not valid Unicode"),
        (F.label > "a", "'label' is text, which has no order: use =="),
        (F.taken == 5, "'taken' is time"),
        (F.taken == "soon", "'soon' is no ISO 8601 time such as"),
        (F.taken == datetime(2020, 1, 1), "no time zone: add one"),  # naive on purpose
        (F.tags == "a", "'tags' is a list, which == never matches: use contains"),
        (F.tags.is_in(["a"]), "which in never matches"),
        (F.sizes < 1, "which a range never matches"),
        (F.place == "a", "'place' is a place, which == never matches: use within"),
        (F.label.contains("a"), "'label' is no list of values: use =="),
        (F.stops.contains("a"), "'stops' is no list of values"),
        (F.year.within(1, 1, 1), "'year' is int, not a place"),
        (F.place.within(1, 1, -1), "radius of 'place' is -1"),
        (F.place.within(91, 1, 1), r"no latitude in \[-90, 90\]"),
        (F.place.within_box(0, 0, 0, 181), "no latitude"),
        (F.place.within(True, 1, 1), "no latitude"),
        (F.ids([1]), "ids are .*text, not 1"),  # type: ignore[list-item]
    ],
)
def test_bind_refuses(where: Filter, message: str) -> None:
    for form in (where, ~where, (F.year == 1) | where):
        with pytest.raises(InvalidFilter, match=message):
            bound(form)


def test_bind_without_declared_fields_says_so() -> None:
    with pytest.raises(InvalidFilter, match="declared: none"):
        bind(F.x == 1, Spec(vectors=RICH.vectors))


def test_unknown_nodes_are_unsupported() -> None:
    class Regex(Filter):
        pass

    for call in (
        lambda: bound(Regex()),
        lambda: bound(~Regex() & TRUE),
        lambda: to_json(Regex()),
        lambda: str(Regex() | TRUE),
    ):
        with pytest.raises(Unsupported, match="Regex"):
            call()


def _negations_stand_on_leaves(where: Filter) -> bool:
    match where:
        case And(parts) | Or(parts):
            inner = all(map(_negations_stand_on_leaves, parts))
            return (
                inner and (len(parts) != 1) and (where in (TRUE, FALSE) or (TRUE not in parts and FALSE not in parts))
            )
        case Not(part):
            return not isinstance(part, And | Or | Not)
    return True


@given(filters(["a", "b"]))
def test_bound_filters_are_canonical(where: Filter) -> None:
    """Negation stands on leaves only, constants are folded away, binding again changes nothing that
    matters, and the negation of a filter holds where it does not."""
    canonical = bound(where)
    assert _negations_stand_on_leaves(canonical)
    payload = {"label": "a", "year": 1, "rating": 0.5, "ok": True, "tags": ["a"], "taken": NOON.isoformat(), "_rev": 1}
    for record in ("a", "c"):
        for some in (payload, {}):
            assert matches(canonical, record, some) != matches(bound(~where), record, some)


# --- stored values and distances ------------------------------------------------------------------


def test_stored_values() -> None:
    assert stored(YEAR, {}) is None
    assert stored(YEAR, {"year": None}) is None
    assert stored(TAGS, {"tags": []}) is None
    assert stored(TAGS, {"tags": ["a"]}) == ["a"]
    assert stored(TAKEN, {"taken": "2020-05-01T12:00:00.000000+00:00"}) == micros(NOON)
    assert stored(PLACE, {"place": {"lat": 1, "lon": 2}}) == (1.0, 2.0)
    assert stored(PLACE, {"place": [1, 2]}) == (1.0, 2.0)
    assert stored(FIELDS["stops"], {"stops": [{"lat": 1, "lon": 2}]}) == [(1.0, 2.0)]
    assert type(stored(RATING, {"rating": 1})) is float
    assert math.copysign(1.0, stored(RATING, {"rating": -0.0})) == 1.0


@pytest.mark.parametrize(
    ("one", "two", "km"),
    [
        ((52.5200, 13.4050), (48.1372, 11.5756), 504.3),
        ((0, 179.5), (0, -179.5), 111.195),
        ((90, 0), (-90, 123), 20015.1),
        ((0, 0), (0, 180), 20015.1),
        ((10, 20), (10, 20), 0.0),
    ],
)
def test_distance(one: tuple[float, float], two: tuple[float, float], km: float) -> None:
    assert distance_km(*one, *two) == pytest.approx(km, abs=0.06)
    assert distance_km(*one, *two) == pytest.approx(other_distance(one, two), abs=1e-6)


LATITUDES = st.one_of(st.sampled_from([-90.0, 0.0, 90.0]), st.floats(-90, 90))
LONGITUDES = st.one_of(st.sampled_from([-180.0, 0.0, 180.0]), st.floats(-180, 180))


@settings(max_examples=500)
@given(LATITUDES, LONGITUDES, st.floats(0, 20_100), LATITUDES, LONGITUDES)
@example(89.99, 10.0, 5.0, 90.0, -170.0)
@example(0.0, 179.9, 50.0, 0.0, -179.9)
@example(60.0, 0.0, 5000.0, 80.0, 150.0)
def test_bounding_boxes_lose_nothing(lat: float, lon: float, km: float, there_lat: float, there_lon: float) -> None:
    """What lies within a radius lies within its boxes, also at its very edge, at poles and the date line."""
    for radius in (km, distance_km(there_lat, there_lon, lat, lon)):
        near = Near(PLACE, lat, lon, radius)
        payload = {"place": {"lat": there_lat, "lon": there_lon}}
        boxes = bounding_boxes(near)
        assert all(
            -90 <= b.south <= b.north <= 90 and -180 <= b.west <= 180 and -180 <= b.east <= 180
            for b in boxes
            if isinstance(b, Box)
        )
        if matches(near, "r", payload):
            assert any(matches(box, "r", payload) for box in boxes)


# --- relax ----------------------------------------------------------------------------------------

PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        "label": st.sampled_from(["", "a", "cat", None]),
        "tags": st.lists(st.sampled_from(["", "a", "cat"]), max_size=2),
        "year": st.integers(-2, 3),
        "sizes": st.lists(st.integers(-2, 3), max_size=2),
        "rating": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "ok": st.booleans(),
        "taken": st.sampled_from([NOON.isoformat(), (NOON + timedelta(microseconds=1)).isoformat()]),
        "place": st.sampled_from([{"lat": a, "lon": o} for a in (-90.0, 0.0, 0.5, 90.0) for o in (-179.5, 0.0, 179.5)]),
    },
)


def _used(where: Filter) -> set[Operator]:
    match where:
        case And(parts) | Or(parts):
            joint = {Operator.AND if isinstance(where, And) else Operator.OR} if len(parts) > 1 else set()
            return joint.union(*map(_used, parts))
        case Not(part):
            return {Operator.NOT} | _used(part)
    among = " any" if isinstance(where, Near | Box) and where.field.many else ""
    return {Operator(type(where).__name__.lower() + among)}


@settings(max_examples=600)
@given(
    filters(["a", "b"], max_leaves=8),
    st.sets(st.sampled_from(list(Operator))),
    st.lists(PAYLOADS, min_size=1, max_size=6),
)
def test_relaxed_is_never_narrower(where: Filter, able: set[Operator], payloads: list[dict[str, Any]]) -> None:
    """The relaxed filter holds wherever the filter holds, uses only what the store has, and when it
    says that it is exact it is the filter."""
    canonical = bound(where)
    relaxed, exact = relax(canonical, frozenset(able))
    assert _used(relaxed) <= able
    for record in ("a", "c"):
        for payload in payloads:
            holds, widely = matches(canonical, record, payload), matches(relaxed, record, payload)
            assert widely or not holds
            assert holds == widely or not exact


def test_with_every_operator_nothing_is_relaxed() -> None:
    canonical = bound(~((F.year == 1) & F.place.within(1, 2, 3)) | F.ids(["a"]))
    assert relax(canonical, frozenset(Operator)) == (canonical, True)


@pytest.mark.parametrize(
    ("where", "able", "expected"),
    [
        (F.year == 1, set(), (TRUE, False)),
        (F.year != 1, {Operator.EQ}, (TRUE, False)),
        ((F.year == 1) & (F.ok == True), {Operator.EQ}, (Eq(YEAR, 1), False)),  # noqa: E712
        ((F.year == 1) | (F.ok == True), {Operator.EQ}, (TRUE, False)),  # noqa: E712
        ((F.year == 1) & (F.year < 5), {Operator.EQ, Operator.AND}, (Eq(YEAR, 1), False)),
        ((F.year == 1) | (F.year < 5), {Operator.EQ, Operator.OR}, (TRUE, False)),
        (TRUE, set(), (TRUE, True)),
        (FALSE, set(), (FALSE, True)),
    ],
)
def test_relax(where: Filter, able: set[Operator], expected: tuple[Filter, bool]) -> None:
    assert relax(bound(where), frozenset(able)) == expected


def test_a_radius_becomes_a_box() -> None:
    plain, across = (bound(F.place.within(0, lon, 100)) for lon in (0, 180))
    box, exact = relax(plain, frozenset({Operator.BOX}))
    assert isinstance(box, Box)
    assert not exact
    assert relax(across, frozenset({Operator.BOX})) == (TRUE, False)
    both, exact = relax(across, frozenset({Operator.BOX, Operator.OR}))
    assert isinstance(both, Or)
    assert not exact


# --- text and JSON --------------------------------------------------------------------------------


def _comparable(where: Filter) -> Any:
    """A filter with times as text and numbers typed, so that 1, 1.0 and true are three."""
    return json.dumps(to_json(where))


@settings(max_examples=400)
@given(filters(["a", 'it"s', "back\\slash", "nul\0"], max_leaves=8))
def test_text_round_trip(where: Filter) -> None:
    """``parse(str(where))`` binds to what ``where`` binds to; text has no range of two bounds."""
    assert bound(parse(str(where))) == bound(_one_bound_each(where))


def _one_bound_each(where: Filter) -> Filter:
    match where:
        case And(parts):
            return And(tuple(map(_one_bound_each, parts)))
        case Or(parts):
            return Or(tuple(map(_one_bound_each, parts)))
        case Not(part):
            return Not(_one_bound_each(part))
        case Range(_, low, high) if low is not None and high is not None:
            return And((replace(where, high=None, below=False), replace(where, low=None, above=False)))
    return where


@given(filters(["a"], max_leaves=8))
def test_json_round_trip(where: Filter) -> None:
    """So does the JSON form, through real JSON text."""
    document = json.loads(json.dumps(to_json(where)))
    assert bound(from_json(document)) == bound(where)
    assert _comparable(from_json(document)) == _comparable(where)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year == 1", F.year == 1),
        ("year==1.0", Eq("year", 1.0)),
        ("year != -1", F.year != -1),
        ("year < 1", F.year < 1),
        ("year <= 1e3", Range("year", high=1000.0)),
        ("year > .5", F.year > 0.5),
        ("year >= +2.", F.year >= 2.0),
        ("1 < year", F.year > 1),
        ("1 == year", F.year == 1),
        ("1 != year", F.year != 1),
        ("2000 <= year < 2010", And((F.year >= 2000, F.year < 2010))),
        ("2000 >= year", F.year <= 2000),
        ("ok == true", F.ok == True),  # noqa: E712
        ("ok == false", F.ok == False),  # noqa: E712
        ("label == 'it\\'s'", F.label == "it's"),
        ("label == 'say \"x\"'", F.label == 'say "x"'),
        ('label == "a\\"b\\\\c\\n\\u00e9"', F.label == 'a"b\\c\né'),
        ('label == "line\nbreak"', F.label == "line\nbreak"),
        ("label in ['a', \"b\"]", F.label.is_in(["a", "b"])),
        ("year in []", F.year.is_in([])),
        ("year not in [1, 2]", F.year.not_in([1, 2])),
        ('tags contains "sea"', F.tags.contains("sea")),
        ('contains(tags, "a", "b")', F.tags.contains_any(["a", "b"])),
        ("contains(tags)", F.tags.contains_any([])),
        ("exists(year)", F.year.exists()),
        ("within(place, 1, -2.5, 3)", F.place.within(1, -2.5, 3)),
        ("box(place, 1, 2, 3, 4)", F.place.within_box(1, 2, 3, 4)),
        ('id == "a"', F.ids(["a"])),
        ('id != "a"', ~F.ids(["a"])),
        ('id in ["a", "b"]', F.ids(["a", "b"])),
        ('id not in ["a"]', ~F.ids(["a"])),
        ("true", TRUE),
        (" ( false ) ", FALSE),
        ("a == 1 and b == 2 or c == 3", Or((And((F.a == 1, F.b == 2)), F.c == 3))),
        ("a == 1 and (b == 2 or c == 3)", And((F.a == 1, Or((F.b == 2, F.c == 3))))),
        ("not a == 1 and b == 2", And((~(F.a == 1), F.b == 2))),
        ("not not (a == 1)", ~~(F.a == 1)),
        ('label == "and"', F.label == "and"),
        ('label == "(" and label == "]"', And((F.label == "(", F.label == "]"))),
    ],
)
def test_parse(text: str, expected: Filter) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message", "at"),
    [
        ("", "a field name expected here", 0),
        ("year", r"a comparison \(== .*between.* expected here", 4),
        ("year = 1", r"did you mean ==", 5),
        ("year == ", "a number, true, false or quoted text expected", 7),
        ("year == x", "a number, true, false or quoted text expected", 8),
        ("year == 1 or", "a field name expected", 12),
        ("year == 1 year == 2", "'and', 'or' or the end expected", 10),
        ("(year == 1", r"'\)' expected", 10),
        ("year in 1", r"'\[' expected", 8),
        ("year in [1", r"'\]' expected", 10),
        ("year in [1,]", "a number", 11),
        ("year not 1", "'in' expected", 9),
        ("and == 1", "a field name expected", 0),
        ('label == "open', "is a quote missing", 9),
        ("label == 'open", "is a quote missing", 9),
        ('label == "\\x41"', "unknown escape", 9),
        ("5", "a comparison", 1),
        ("5 < 6", "a field name expected", 4),
        ('year "==" 1', "a comparison", 5),
        ("year == 1; drop", "cannot be read", 9),
        ("exists(year", r"'\)' expected", 11),
        ("exists(5)", "a field name expected", 7),
    ],
)
def test_parse_points_at_the_mistake(text: str, message: str, at: int) -> None:
    with pytest.raises(InvalidFilter, match=message) as caught:
        parse(text)
    assert str(caught.value).splitlines()[-1] == "  " + " " * at + "^"


@pytest.mark.parametrize("text", ["nonesuch(year)", "exists(year, 1)", "within(place, 1)", "box(place, 1, 2, 3)"])
def test_parse_knows_its_functions(text: str) -> None:
    with pytest.raises(InvalidFilter, match=r"known are exists\(field\)"):
        parse(text)


@pytest.mark.parametrize("operator_", ["<", "<=", ">", ">="])
def test_ids_have_no_order(operator_: str) -> None:
    with pytest.raises(InvalidFilter, match="ids have no order"):
        parse(f'id {operator_} "a"')


@pytest.mark.parametrize(
    "text",
    ["(" * 5000 + "true", "not " * 5000 + "true", "(" * 99 + "true" + ")" * 99 + " and " + "not " * 101 + "true"],
)
def test_parse_has_a_floor(text: str) -> None:
    with pytest.raises(InvalidFilter, match="deeper than 100"):
        parse(text)


@given(st.text(max_size=40))
def test_parse_never_fails_otherwise(text: str) -> None:
    """Any text is a filter or an InvalidFilter, and no field of it is invented."""
    with contextlib.suppress(InvalidFilter):
        parse(text)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        "year == 1",
        {"eq": ["year"]},
        {"eq": [1, 2]},
        {"eq": ["year", 1], "extra": 1},
        {"and": {"eq": ["year", 1]}},
        {"or": 1},
        {"not": None},
        {"in": ["year", 1]},
        {"contains": ["tags", "a"]},
        {"exists": []},
        {"near": ["place", 1, 2]},
        {"box": ["place", 1, 2, 3]},
        {"ids": "a"},
        {"range": ["year", {"gt": 1, "ge": 1}]},
        {"range": ["year", {"lt": 1, "le": 1}]},
        {"range": ["year", {"between": 1}]},
        {"range": ["year", 1]},
        {"regex": ["label", "x"]},
    ],
)
def test_json_that_is_no_filter(document: Any) -> None:
    with pytest.raises(InvalidFilter):
        from_json(document)


@pytest.mark.parametrize("bounds", [{}, {"gt": 1}, {"ge": 1, "lt": 2}, {"gt": 1, "le": 2}])
def test_json_ranges(bounds: dict[str, int]) -> None:
    where = from_json({"range": ["year", bounds]})
    assert to_json(where) == {"range": ["year", bounds]}


def test_times_in_text_and_json() -> None:
    where = F.taken.is_in([NOON]) & (F.seen.contains(NOON) | (F.taken > NOON) | (F.taken == NOON))
    assert bound(parse(str(where))) == bound(from_json(to_json(where))) == bound(where)


def test_text_of_a_range() -> None:
    assert str(F.year.between(1, 2)) == "(year >= 1 and year <= 2)"
    assert str(Range("year")) == "exists(year)"
    assert str(~(F.year == 1)) == "not (year == 1)"
    assert str(~(TRUE & FALSE)) == "not (true and false)"
    assert str(bound(F.year == 1)) == "year == 1"


def test_fold_reaches_every_node() -> None:
    """An algebra sees each leaf once, in order."""

    class Names:
        def eq(self, field: Any, value: Any) -> list[str]:
            return ["eq"]

        def is_in(self, field: Any, values: tuple[Any, ...]) -> list[str]:
            return ["in"]

        def in_range(self, field: Any, leaf: Range) -> list[str]:
            return ["range"]

        def exists(self, field: Any) -> list[str]:
            return ["exists"]

        def contains(self, field: Any, values: tuple[Any, ...]) -> list[str]:
            return ["contains"]

        def near(self, field: Any, leaf: Near) -> list[str]:
            return ["near"]

        def box(self, field: Any, leaf: Box) -> list[str]:
            return ["box"]

        def ids(self, ids: tuple[str, ...]) -> list[str]:
            return ["ids"]

        def all_of(self, parts: Any) -> list[str]:
            return ["and", *functools.reduce(operator.iadd, parts, [])]

        def any_of(self, parts: Any) -> list[str]:
            return ["or", *functools.reduce(operator.iadd, parts, [])]

        def negate(self, part: list[str]) -> list[str]:
            return ["not", *part]

    leaves = (
        F.a == 1, F.a.is_in([]), F.a < 1, F.a.exists(), F.a.contains(1), F.a.within(1, 1, 1), F.a.within_box(1, 1, 1, 1), F.ids([]),
    )  # fmt: skip
    names = ["eq", "in", "range", "exists", "contains", "near", "box", "ids"]
    assert fold(Not(And((Or(leaves), *leaves))), Names()) == ["not", "and", "or", *names, *names]
    assert {o.value for o in Operator} == {*names, "near any", "box any", "and", "or", "not"}


def test_a_place_among_several_is_an_operator_of_its_own() -> None:
    """Many stores have two numbers for a place, and none for a list of places."""
    near = Near(FIELDS["stops"], 1.0, 2.0, 3.0)
    assert operators_of(near) == {Operator.NEAR_ANY}
    assert operators_of(Box(FIELDS["stops"], 1, 1, 2, 2)) == {Operator.BOX_ANY}
    assert relax(near, frozenset({Operator.BOX, Operator.OR, Operator.NEAR})) == (TRUE, False)
    boxes, exact = relax(near, frozenset({Operator.BOX_ANY, Operator.OR}))
    assert (operators_of(boxes), exact) == ({Operator.BOX_ANY}, False)


def test_what_another_tool_wrote_is_absent_where_it_is_of_another_kind() -> None:
    field = Field(name="colour", kind=Kind.TEXT, stored_as="meta.colour")
    taken = Field(name="taken", kind=Kind.TIME, stored_as="taken")
    assert stored(field, {"meta": {"colour": "red"}}) == "red"
    assert stored(field, {"meta.colour": "flat"}) == "flat"
    for odd in ({"meta": {"colour": ["red"]}}, {"meta": {"colour": 1}}, {"meta": "red"}, {"colour": "red"}, {}):
        assert stored(field, odd) is None
    assert stored(taken, {"taken": "1970-01-01T00:00:01"}) == 1_000_000  # without a zone, as Qdrant reads it
    assert stored(taken, {"taken": 12}) is None


# --- what nobody should have to find out ----------------------------------------------------------


def test_chains_of_one_connective_stay_flat() -> None:
    leaves = [F.year == year for year in range(3000)]
    assert functools.reduce(operator.or_, leaves) == Or(tuple(leaves))
    assert functools.reduce(operator.and_, leaves) == And(tuple(leaves))
    assert str(functools.reduce(operator.or_, leaves)).count(" or ") == 2999
    assert (F.year == 1) & TRUE == And((F.year == 1, TRUE))


@pytest.mark.parametrize("build", [F.label.is_in, F.label.not_in, F.tags.contains_any, F.tags.contains_all, F.ids])
def test_one_text_is_not_several_values(build: Any) -> None:
    with pytest.raises(InvalidFilter, match="'abc' is one value where several are meant"):
        build("abc")


def nested(depth: int) -> Filter:
    where: Filter = F.year == 1
    for level in range(depth):
        where = Or((where, F.year == level)) if level % 2 else And((where, F.ok == True))  # noqa: E712
    return where


def test_nesting_has_an_end() -> None:
    assert bound(nested(MAX_DEPTH)) != FALSE
    with pytest.raises(InvalidFilter, match=f"nests deeper than {MAX_DEPTH} levels"):
        bound(nested(MAX_DEPTH + 1))
    document: Any = {"eq": ["year", 1]}
    for _ in range(MAX_DEPTH + 1):
        document = {"not": document}
    with pytest.raises(InvalidFilter, match="nests deeper"):
        from_json(document)


@pytest.mark.parametrize("wrong", ["year == 1", None, True])
def test_what_is_no_filter_is_told_so(wrong: Any) -> None:
    with pytest.raises(
        InvalidFilter, match=r"is no filter: build one with F, or read text with pixdex\.filters\.parse"
    ):
        bound(wrong)


def test_scalars_of_numpy_are_values() -> None:
    assert bound(F.year == np.int64(2020)) == Eq(YEAR, 2020)
    assert bound(F.rating >= np.float32(0.5)) == Range(RATING, 0.5)
    assert bound(F.ok == np.bool_(True)) == Eq(OK, True)
    assert bound(F.place.within(np.float32(1.5), np.float32(2), np.float64(3))) == Near(PLACE, 1.5, 2.0, 3.0)


def test_a_filter_of_another_collections_columns_is_refused() -> None:
    where = bound((F.year == 1) & ~(F.label == "a") & F.ids(["x"]))
    check_columns(where, RICH)
    moved = replace(RICH, fields=tuple(replace(f, ordinal=0) for f in reversed(RICH.fields)))
    with pytest.raises(FingerprintMismatch, match="the collection changed"):
        check_columns(where, moved)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (YEAR, "2020"),
        (YEAR, True),
        (LABEL, 1),
        (OK, 1),
        (RATING, "x"),
        (TAGS, "x"),
        (TAKEN, "soon"),
        (PLACE, {"lat": 1}),
    ],
)
def test_a_payload_that_an_older_handle_let_through_is_named(field: Field, value: Any) -> None:
    with pytest.raises(
        InvalidRecord, match=f"field '{field.name}' is declared {field.kind}.*open the collection again"
    ):
        stored(field, {field.name: value})


def test_the_operators_that_a_filter_needs() -> None:
    where = bound(((F.year == 1) | (F.rating > 2)) & ~F.place.exists())
    assert operators_of(where) == {
        Operator.AND,
        Operator.OR,
        Operator.EQ,
        Operator.RANGE,
        Operator.NOT,
        Operator.EXISTS,
    }
    assert operators_of(TRUE) == operators_of(FALSE) == frozenset()
