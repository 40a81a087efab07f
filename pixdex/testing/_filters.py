"""Filters: every operator and its negation, on a small collection of telling records."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from pixdex.collection import Collection
from pixdex.errors import InvalidFilter
from pixdex.filters import FALSE, TRUE, And, Box, Eq, F, Filter, In, Not, Or, Range, from_json, parse, to_json
from pixdex.testing._support import EXACT, IDS_ONLY, Cases, put, scanned, some_vectors
from pixdex.testing.random_data import HOSTILE_TEXT, RICH
from pixdex.types import MAX_INT

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2020, 5, 1, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)

RECORDS: dict[str, dict[str, Any]] = {
    "a": {
        "label": "cat", "tags": ["red", "blue"], "year": 2020, "sizes": [1, 2, 3], "rating": 0.5, "weights": [0.1, 0.5],
        "ok": True, "flags": [True, False], "taken": NOON, "seen": [NOON, NOON + TICK],
        "place": (52.52, 13.405), "stops": [(52.52, 13.405), (0, 0)],
    },
    "b": {
        "label": "Cat", "tags": ["red"], "year": 2021, "sizes": [2], "rating": 1.0, "weights": [1.0],
        "ok": False, "flags": [False], "taken": NOON + TICK, "seen": [NOON + TICK],
        "place": (48.137, 11.575), "stops": [(0, 179.5)],
    },
    "c": {
        "label": "dog", "tags": [], "year": 0, "sizes": [], "rating": 0.0, "weights": [],
        "ok": False, "flags": [], "taken": NOON - TICK, "seen": [],
        "place": (0, 179.5), "stops": [],
    },
    "null": dict.fromkeys((f.name for f in RICH.fields), None),
    "missing": {},
    "d": {
        "label": "", "tags": [""], "year": -1, "sizes": [-1, 0], "rating": -0.5, "weights": [-0.0],
        "taken": datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), "place": (0, -179.5), "stops": [(90, 0)],
    },
    "e": {
        "label": "caT", "tags": ["Red", "red,blue"], "year": 1, "sizes": [MAX_INT], "rating": 1, "weights": [1, 2],
        "ok": True, "flags": [True], "place": (90, 0), "stops": [(-90, 10), (1, 1)],
    },
    "f": {"label": "cat ", "year": MAX_INT, "rating": 1e300, "place": (-90, 100)},
    "g": {"label": "\u00e9", "tags": ["\u00e9"], "year": -MAX_INT, "rating": 0.1, "place": (0, 180), "other": "x"},
    "h": {"label": "e\u0301", "tags": ["e\u0301"], "rating": 0.30000000000000004, "place": (0, 0)},
}  # fmt: skip

DECLARED = "a b c d e f g h"
EVERYONE = "a b c null missing d e f g h"

CASES: dict[str, tuple[Filter, str]] = {
    # text: byte-exact
    "text ==": (F.label == "cat", "a"),
    "text == empty": (F.label == "", "d"),
    "text == with a space": (F.label == "cat ", "f"),
    "text == composed": (F.label == "\u00e9", "g"),
    "text == decomposed": (F.label == "e\u0301", "h"),
    "text == unknown": (F.label == "nonesuch", ""),
    "text !=": (F.label != "cat", "b c null missing d e f g h"),
    "text in": (F.label.is_in(["cat", "dog", "bird"]), "a c"),
    "text in []": (F.label.is_in([]), ""),
    "text not in []": (F.label.not_in([]), EVERYONE),
    "text not in": (F.label.not_in(["cat", "dog"]), "b null missing d e f g h"),
    "text exists": (F.label.exists(), DECLARED),
    # ints
    "int == 0": (F.year == 0, "c"),
    "int == 1": (F.year == 1, "e"),
    "int == float": (F.year == 2020.0, "a"),
    "int == half": (F.year == 2020.5, ""),
    "int == too large a float": (F.year == 1e300, ""),
    "int == largest": (F.year == MAX_INT, "f"),
    "int == smallest": (F.year == -MAX_INT, "g"),
    "int == largest - 1": (F.year == MAX_INT - 1, ""),
    "int in": (F.year.is_in([0, 1.0, 2.5, 2021]), "b c e"),
    "int in halves": (F.year.is_in([0.5, 1.5]), ""),
    "int not in": (F.year.not_in([0, 1]), "a b null missing d f g h"),
    "int <": (F.year < 0, "d g"),
    "int <=": (F.year <= 0, "c d g"),
    "int >": (F.year > 2020, "b f"),
    "int >=": (F.year >= 2020, "a b f"),
    "int < half": (F.year < 0.5, "c d g"),
    "int > half": (F.year > 0.5, "a b e f"),
    "int >= half": (F.year >= 2020.5, "b f"),
    "int <= half": (F.year <= 2020.5, "a c d e g"),
    "int > -half": (F.year > -0.5, "a b c e f"),
    "int < beyond": (F.year < 1e300, "a b c d e f g"),
    "int > beyond": (F.year > 1e300, ""),
    "int >= largest": (F.year >= MAX_INT, "f"),
    "int > largest - 1": (F.year > MAX_INT - 1, "f"),
    "int > largest": (F.year > MAX_INT, ""),
    "int < smallest + 1": (F.year < -MAX_INT + 1, "g"),
    "int between": (F.year.between(0, 2020), "a c e"),
    "int between itself": (F.year.between(1, 1), "e"),
    "int between backwards": (F.year.between(2, 1), ""),
    "int between halves": (F.year.between(0.1, 0.9), ""),
    "int between just below the largest": (F.year.between(MAX_INT - 100, MAX_INT - 1), ""),
    "int open range": (Range("year", 0, 2020, above=True, below=True), "e"),
    "int half-open range": (Range("year", 0, 2020, above=True), "a e"),
    "int range without bounds": (Range("year"), "a b c d e f g"),
    "int exists": (F.year.exists(), "a b c d e f g"),
    # floats
    "float ==": (F.rating == 0.5, "a"),
    "float == int": (F.rating == 1, "b e"),
    "float == 0": (F.rating == 0, "c"),
    "float == -0": (F.rating == -0.0, "c"),
    "float == tenth": (F.rating == 0.1, "g"),
    "float == sum": (F.rating == 0.1 + 0.2, "h"),
    "float == not the sum": (F.rating == 0.3, ""),
    "float == huge": (F.rating == 1e300, "f"),
    "float !=": (F.rating != 1, "a c null missing d f g h"),
    "float in": (F.rating.is_in([0.1, 1, 7]), "b e g"),
    "float <": (F.rating < 0, "d"),
    "float <=": (F.rating <= 0, "c d"),
    "float >": (F.rating > 0.1, "a b e f h"),
    "float >=": (F.rating >= 0.1, "a b e f g h"),
    "float between": (F.rating.between(0.1, 0.5), "a g h"),
    "float > largest": (F.rating > 1.7976931348623157e308, ""),
    "float < -largest": (F.rating < -1.7976931348623157e308, ""),
    # bools
    "bool == true": (F.ok == True, "a e"),  # noqa: E712  # == builds a filter
    "bool == false": (F.ok == False, "b c"),  # noqa: E712
    "bool != true": (F.ok != True, "b c null missing d f g h"),  # noqa: E712
    "bool in": (F.ok.is_in([True, False]), "a b c e"),
    "bool in one": (F.ok.is_in([False]), "b c"),
    "bool exists": (F.ok.exists(), "a b c e"),
    # times
    "time ==": (F.taken == NOON, "a"),
    "time == in another zone": (F.taken == NOON.astimezone(timezone(timedelta(hours=9))), "a"),
    "time == text": (F.taken == "2020-05-01T14:00:00+02:00", "a"),
    "time <": (F.taken < NOON, "c d"),
    "time <=": (F.taken <= NOON, "a c d"),
    "time >": (F.taken > NOON, "b"),
    "time >=": (F.taken >= NOON, "a b"),
    "time between": (F.taken.between(NOON - TICK, NOON), "a c"),
    "time in": (F.taken.is_in([NOON, NOON + TICK, NOON + 2 * TICK]), "a b"),
    "time before 1970": (F.taken < datetime(1970, 1, 1, tzinfo=UTC), "d"),
    "time far away": (F.taken < datetime(9999, 1, 1, tzinfo=UTC), "a b c d"),
    "time exists": (F.taken.exists(), "a b c d"),
    # lists
    "contains text": (F.tags.contains("red"), "a b"),
    "contains text with a comma": (F.tags.contains("red,blue"), "e"),
    "contains empty text": (F.tags.contains(""), "d"),
    "contains composed": (F.tags.contains("\u00e9"), "g"),
    "contains any": (F.tags.contains_any(["blue", "Red"]), "a e"),
    "contains any of none": (F.tags.contains_any([]), ""),
    "contains all": (F.tags.contains_all(["red", "blue"]), "a"),
    "contains all of none": (F.tags.contains_all([]), "a b d e g h"),
    "list exists": (F.tags.exists(), "a b d e g h"),
    "contains int": (F.sizes.contains(2), "a b"),
    "contains int as float": (F.sizes.contains(2.0), "a b"),
    "contains half": (F.sizes.contains(2.5), ""),
    "contains largest int": (F.sizes.contains(MAX_INT), "e"),
    "contains zero": (F.sizes.contains(0), "d"),
    "contains all ints": (F.sizes.contains_all([1, 3]), "a"),
    "ints exist": (F.sizes.exists(), "a b d e"),
    "contains float": (F.weights.contains(0.1), "a"),
    "contains float as int": (F.weights.contains(1), "b e"),
    "contains zero float": (F.weights.contains(0), "d"),
    "contains true": (F.flags.contains(True), "a e"),
    "contains false": (F.flags.contains(False), "a b"),
    "contains time": (F.seen.contains(NOON + TICK), "a b"),
    "times exist": (F.seen.exists(), "a b"),
    # places
    "near Berlin": (F.place.within(52.5, 13.4, 10), "a"),
    "near Berlin and Munich": (F.place.within(50.3, 12.5, 400), "a b"),
    "radius 0": (F.place.within(52.52, 13.405, 0), "a"),
    "radius 0 beside": (F.place.within(52.5201, 13.405, 0), ""),
    "across the date line": (F.place.within(0, 180, 100), "c d g"),
    "across the date line from the west": (F.place.within(0, -179.9, 50), "d g"),
    "around the north pole": (F.place.within(89.9, 137, 50), "e"),
    "around the south pole": (F.place.within(-89.9, -20, 50), "f"),
    "the whole earth": (F.place.within(10, 10, 20_100), DECLARED),
    "half the earth": (F.place.within(0, 0, 9_000), "a b h"),
    "far and thin": (F.place.within(0, 0, 1), "h"),
    "box": (F.place.within_box(48, 11, 53, 14), "a b"),
    "box edges": (F.place.within_box(0, 0, 52.52, 13.405), "a b h"),
    "box of a point": (F.place.within_box(0, 0, 0, 0), "h"),
    "box across the date line": (F.place.within_box(-1, 179, 1, -179), "c d g"),
    "box of the whole earth": (F.place.within_box(-90, -180, 90, 180), DECLARED),
    "box upside down": (F.place.within_box(10, 0, -10, 20), ""),
    "box at the pole": (F.place.within_box(89, -180, 90, 180), "e"),
    "place exists": (F.place.exists(), DECLARED),
    "a stop near": (F.stops.within(0, 0, 50), "a"),
    "a stop near the pole": (F.stops.within(90, 0, 50), "d"),
    "a stop at either pole": (F.stops.within(-90, 0, 50), "e"),
    "a stop in a box": (F.stops.within_box(-1, 0, 2, 180), "a b e"),
    "stops exist": (F.stops.exists(), "a b d e"),
    # ids
    "ids": (F.ids(["a", "null", "nonesuch"]), "a null"),
    "ids of none": (F.ids([]), ""),
    "ids twice": (F.ids(["a", "a"]), "a"),
    "ids are case-sensitive": (F.ids(["A", "Null"]), ""),
    # logic
    "true": (TRUE, EVERYONE),
    "false": (FALSE, ""),
    "and": ((F.year > 0) & (F.ok == True), "a e"),  # noqa: E712
    "and with a negation": ((F.year > 0) & (F.ok != True), "b f"),  # noqa: E712
    "or": ((F.label == "dog") | (F.year == 1), "c e"),
    "or with a negation": ((F.label == "dog") | (F.year != 1), "a b c null missing d f g h"),
    "not and": (~((F.year > 0) & (F.ok == True)), "b c null missing d f g h"),  # noqa: E712
    "not or": (~((F.label == "dog") | (F.year == 1)), "a b null missing d f g h"),
    "not not": (~~(F.label == "dog"), "c"),
    "deep": (~((F.year >= 0) & ~((F.label == "cat") | ~F.tags.exists())), "a c null missing d f g h"),
    "absent everywhere": (~F.label.exists() & ~F.year.exists() & ~F.tags.exists() & ~F.place.exists(), "null missing"),
    "both sides": ((F.rating > 0) & (F.rating < 0.4) & (F.year != 5), "g h"),
    "excluded middle": ((F.year > 0) | ~(F.year > 0), EVERYONE),
    "contradiction": ((F.year > 0) & ~(F.year > 0), ""),
    "and of one": (And((F.label == "cat",)), "a"),
    "or of one": (Or((F.label == "cat",)), "a"),
    "constants inside": (And((TRUE, Or((FALSE, F.label == "cat")), Not(FALSE))), "a"),
    "wide or": (Or(tuple(Eq("label", word) for word in ["cat", *map(str, range(60))])), "a"),
    "wide in": (In("year", tuple(range(500))), "c e"),
    "contains and its opposite": (F.tags.contains("red") & ~F.tags.contains("blue"), "b"),
    "mixed kinds": ((F.taken >= NOON) & F.place.within(50, 12, 600) & (F.rating != 0.5), "b"),
}

REFUSED: dict[str, Filter] = {
    "undeclared": F.nonesuch == 1,
    "undeclared though in payloads": F.other == "x",
    "undeclared in a negation": ~(F.nonesuch == 1),
    "undeclared in an or": (F.label == "x") | F.nonesuch.exists(),
    "text with a number": F.label == 1,
    "text with a bool": F.label == True,  # noqa: E712
    "text with none": F.label == None,  # noqa: E711
    "text has no order": F.label < "x",
    "int with text": F.year == "2020",
    "int with a bool": F.year == True,  # noqa: E712
    "int with NaN": F.year == math.nan,
    "int with infinity": F.year < float("inf"),
    "int beyond 2^53": F.year == MAX_INT + 1,
    "float with a bool": F.rating == False,  # noqa: E712
    "float with text": F.rating > "0.5",
    "bool with a number": F.ok == 1,
    "bool with zero": F.ok == 0,
    "bool has no order": F.ok > False,
    "time with a number": F.taken > 1_600_000_000,
    "time without a zone": F.taken > datetime(2020, 1, 1),  # naive on purpose
    "time that is no time": F.taken > "yesterday",
    "a scalar never matches a list": F.tags == "red",
    "a list has no order": F.sizes > 1,
    "in is not for lists": F.tags.is_in(["red"]),
    "contains is not for scalars": F.label.contains("c"),
    "contains a wrong kind": F.sizes.contains("1"),
    "contains a bool among ints": F.sizes.contains(True),
    "== is not for places": F.place == (0, 0),
    "contains is not for places": F.stops.contains((0, 0)),
    "within is for places": F.year.within(0, 0, 1),
    "latitude out of range": F.place.within(91, 0, 1),
    "longitude out of range": F.place.within_box(0, -181, 1, 0),
    "negative radius": F.place.within(0, 0, -1),
    "ids that are no text": F.ids([1]),  # type: ignore[list-item]
    "one wrong among many": F.year.is_in([1, 2, "3"]),
    "box with NaN": Box("place", float("nan"), 0, 1, 1),
}


RICH_HOSTILE = replace(RICH, encoder="hostile")  # another key for ``kept``


def _fill(collection: Collection) -> None:
    put(collection, list(RECORDS), some_vectors(len(RECORDS)), list(RECORDS.values()))


def _fill_hostile(collection: Collection) -> None:
    payloads = [{"label": text, "tags": [text, "x"]} for text in HOSTILE_TEXT]
    put(collection, [str(i) for i in range(len(payloads))], payloads=payloads)


class FilterCases(Cases):
    """Two-valued logic, the same everywhere."""

    @pytest.fixture
    def records(self, kept: Callable[..., Collection]) -> Collection:
        """The records above, which tests only read."""
        return kept(RICH, _fill)

    @pytest.mark.parametrize("case", CASES)
    def test_filter(self, records: Collection, case: str) -> None:
        """Each filter holds for exactly these records, in count, scan and search, and its negation for
        exactly the others: absent (missing, null, empty list) compares false, and ``not`` is a complement.
        """
        where, expected = CASES[case]
        ids = sorted(expected.split())
        complement = sorted(set(RECORDS) - set(ids))
        assert sorted(scanned(records, where=where)) == ids
        assert sorted(scanned(records, where=~where, want=IDS_ONLY)) == complement
        assert records.count(where) == len(ids)
        assert records.count(~where) == len(complement)
        assert sorted(h.id for h in records.search(some_vectors(1), k=50, where=where)[0]) == ids
        assert sorted(h.id for h in records.search(some_vectors(1), k=50, where=~where, want=IDS_ONLY)[0]) == complement

    @pytest.mark.parametrize("case", ["text ==", "int <= half", "contains any", "near Berlin", "deep", "ids"])
    def test_filter_in_its_other_forms(self, records: Collection, case: str) -> None:
        """A filter written as text or JSON is the same filter, and exact search obeys it too."""
        where, expected = CASES[case]
        for form in (parse(str(where)), from_json(to_json(where))):
            assert sorted(scanned(records, where=form)) == sorted(expected.split())
        hits = records.search(some_vectors(1), k=50, where=where, tuning=EXACT)[0]
        assert sorted(h.id for h in hits) == sorted(expected.split())

    @pytest.mark.parametrize("case", REFUSED)
    def test_filter_that_is_refused(self, records: Collection, case: str) -> None:
        """An undeclared field or a value of another kind is InvalidFilter, before any I/O."""
        where = REFUSED[case]
        with pytest.raises(InvalidFilter):
            records.count(where)
        with pytest.raises(InvalidFilter):
            scanned(records, where=where)
        with pytest.raises(InvalidFilter):
            records.search(some_vectors(1), where=where)
        with pytest.raises(InvalidFilter):
            records.delete_where(where)
        assert records.count() == len(RECORDS)

    @pytest.mark.parametrize("number", range(len(HOSTILE_TEXT)))
    def test_hostile_text_in_a_filter(self, kept: Callable[..., Collection], number: int) -> None:
        """Quotes, backslashes, expression fragments: values are bound or escaped, never spliced."""
        collection = kept(RICH_HOSTILE, _fill_hostile)
        text = HOSTILE_TEXT[number]
        everyone = {str(i) for i in range(len(HOSTILE_TEXT))}
        assert scanned(collection, where=F.label == text) == [str(number)]
        assert set(scanned(collection, where=F.label != text)) == everyone - {str(number)}
        assert scanned(collection, where=F.label.is_in([text, "nonesuch"])) == [str(number)]
        assert scanned(collection, where=F.tags.contains(text)) == [str(number)]
        assert scanned(collection, where=F.tags.contains_all([text, "x"])) == [str(number)]
        assert [h.id for h in collection.search(some_vectors(1), where=F.label == text)[0]] == [str(number)]
        assert collection.count((F.label == text) & ~(F.label == text + "x")) == 1
        assert scanned(collection, where=parse(str(F.label == text))) == [str(number)]
        assert collection.count(F.ids([text])) == (1 if text in everyone else 0)
