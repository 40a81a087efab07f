"""Payloads: JSON as it was given, declared fields of their kind, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.errors import InvalidRecord
from pixdex.filters import F
from pixdex.spec import Field, Kind
from pixdex.testing._support import (
    STANDARD,
    Cases,
    payload_of,
    plain,
    put,
    scanned,
    some_vectors,
)
from pixdex.types import MAX_INT, Batch

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector

PAYLOADS: dict[str, Mapping[str, Any]] = {
    "empty": {},
    "null": {"a": None},
    "booleans": {"t": True, "f": False},
    "numbers": {"i": 1, "f": 1.0, "neg": -7, "half": 0.5, "tenth": 0.1, "tiny": 5e-324, "huge": 1.7976931348623157e308},
    "int and float and bool in a list": {"l": [1, 1.0, True, 0, 0.0, False]},
    "largest ints": {"i": MAX_INT, "j": -MAX_INT, "l": [MAX_INT]},
    "empty list": {"l": [], "ll": [[], [[]]]},
    "empty mapping": {"m": {}, "l": [{}]},
    "nested": {"a": {"b": {"c": [1, {"d": [None, "x", [True]]}]}}},
    "mixed list": {"l": [1, "1", None, True, 1.5, {"a": 1}, [2]]},
    "unicode": {"schlüssel": "wért", "雪": "👩\u200d🚀", "rtl": "\u202eعربى", "nul": "a\0b"},
    "odd keys": {"": 1, "a.b": 2, "a[0]": 3, "$x": 4, "a b": 5, '"': 6, "\\": 7, "id": 8, "vector": 9, "payload": 10},
    "keys of engines": {"pk": 1, "meta": 2, "document": 3, "f0": 4, "f1": 5, "label_": 6, "score": 7, "distance": 8},
    "quotes": {"s": 'it\'s "quoted" \\ and \\" \\\' `back` {brace} $1 %s'},
    "looks like other things": {"a": "1", "b": "true", "c": "null", "d": "2020-01-01T00:00:00Z", "e": "[1]", "f": "{}"},
    "control characters": {"s": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u2029\ufeff"},
    "undeclared long text": {"s": "x" * 20_000},
    "many keys": {f"k{i}": i for i in range(200)},
    "declared too": {"label": "", "n": 0},
    "declared null": {"label": None, "n": None},
}

KINDS: dict[str, tuple[Field, list[Any], list[Any]]] = {
    "text": (Field(name="x", kind=Kind.TEXT), ["", "a", "é" * 4096], [1, True, ["a"], {"a": 1}, "x" * 8193, "é" * 4097, b"a"]),
    "int": (Field(name="x", kind=Kind.INT), [0, -1, MAX_INT, -MAX_INT], [1.0, True, "1", [1], MAX_INT + 1, -MAX_INT - 1, math.nan]),
    "float": (Field(name="x", kind=Kind.FLOAT), [0.0, 1, -2.5, 1e308, 5e-324], [True, "1.0", [1.0], math.nan, math.inf, -math.inf]),
    "bool": (Field(name="x", kind=Kind.BOOL), [True, False], [0, 1, "true", [True], 1.0]),
    "time": (
        Field(name="x", kind=Kind.TIME),
        [datetime(2020, 1, 1, tzinfo=UTC)],
        [datetime(2020, 1, 1), "2020-01-01T00:00:00", "yesterday", 1_600_000_000, True, ["2020-01-01T00:00:00Z"]],  # naive on purpose
    ),
    "geo": (
        Field(name="x", kind=Kind.GEO),
        [{"lat": 90.0, "lon": 180.0}, {"lat": -90.0, "lon": -180.0}],
        [{"lat": 90.5, "lon": 0}, {"lat": 0, "lon": -180.5}, {"lat": 1}, [1], "1,2", {"lat": math.nan, "lon": 0}, {"lat": True, "lon": 0}],
    ),
    "texts": (Field(name="x", kind=Kind.TEXT, many=True), [[], ["a"], ["a", "a", ""]], ["a", [1], ["a", None], ["x" * 8193], {"a": 1}]),
    "ints": (Field(name="x", kind=Kind.INT, many=True), [[], [1, -1, MAX_INT]], [1, ["1"], [True], [1.5], [MAX_INT + 1]]),
    "floats": (Field(name="x", kind=Kind.FLOAT, many=True), [[], [1, 2.5]], [1.5, ["1"], [False], [math.inf]]),
    "bools": (Field(name="x", kind=Kind.BOOL, many=True), [[], [True, False]], [True, [1], ["true"]]),
}  # fmt: skip


def _wrong_values() -> Iterator[Any]:
    for kind, (field, _, wrong) in KINDS.items():
        for i, value in enumerate(wrong):
            yield pytest.param(field, value, id=f"{kind}-{i}")


def _right_values() -> Iterator[Any]:
    for kind, (field, right, _) in KINDS.items():
        yield pytest.param(field, right, id=kind)


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


REFUSED: dict[str, Any] = {
    "NaN": {"x": math.nan},
    "infinity": {"x": math.inf},
    "NaN deep inside": {"x": {"y": [1, {"z": -math.nan}]}},
    "int beyond 2^53": {"x": MAX_INT + 1},
    "int below -2^53": {"x": [-MAX_INT - 1]},
    "int beyond int64": {"x": {"y": 2**70}},
    "key that is no text": {1: "x"},
    "inner key that is no text": {"x": {None: 1}},
    "reserved key": {"_rev": 1},
    "leading underscore": {"_mine": 1},
    "bytes": {"x": b"x"},
    "undeclared datetime": {"x": datetime(2020, 1, 1, tzinfo=UTC)},
    "set": {"x": {1, 2}},
    "object": {"x": object()},
    "lone surrogate": {"x": "\ud800"},
    "lone surrogate in a key": {"\ud800": 1},
    "too deep": {"x": _deep(200)},
    "no mapping": ["x"],
    "none": None,
}


class PayloadCases(Cases):
    """Values come back as they went in, or are refused before anything is written."""

    @pytest.mark.parametrize("shape", PAYLOADS)
    def test_payload_comes_back_as_it_was(self, kept: Any, shape: str) -> None:
        """By fetch, search and scan, value for value and type for type: 1 is not 1.0 is not true."""
        collection = kept(replace(STANDARD, encoder="payloads"))
        payload = PAYLOADS[shape]
        put(collection, ["a"], payloads=[payload])
        found = [payload_of(collection, "a"), collection.search(some_vectors(1))[0][0].payload]
        found += [got for page in collection.scan() for got in page.batch.payloads or ()]
        assert [_typed(got) for got in found] == [_typed(payload)] * 3

    def test_what_is_read_is_the_readers_own(self, kept: Any) -> None:
        """Who changes a payload that was read, or one that was written, changes no record."""
        collection = kept(replace(STANDARD, encoder="payloads"))
        written: dict[str, Any] = {"a": 1, "inner": {"b": [1]}}
        put(collection, ["a"], payloads=[written])
        read = [payload_of(collection, "a"), collection.search(some_vectors(1))[0][0].payload]
        read += [got for page in collection.scan() for got in page.batch.payloads or ()]
        for payload in [written, *read]:
            payload["a"] = 2
            payload["inner"]["b"].append(2)
        assert payload_of(collection, "a") == {"a": 1, "inner": {"b": [1]}}
        assert collection.search(some_vectors(1))[0][0].payload == {"a": 1, "inner": {"b": [1]}}

    @pytest.mark.parametrize("why", REFUSED)
    def test_payloads_that_are_refused(self, untouched: Collection, why: str) -> None:
        """What is no JSON of finite numbers and whole Unicode is refused, naming the record."""
        with pytest.raises(InvalidRecord, match="bad"):
            untouched.upsert(Batch(("good", "bad"), {"image": some_vectors(2)}, ({}, REFUSED[why])))

    @pytest.mark.parametrize(("field", "wrong"), list(_wrong_values()))
    def test_a_value_of_another_kind_is_refused(self, kept: Any, field: Field, wrong: Any) -> None:
        """A declared field takes its kind only; the message names the field."""
        collection = kept(plain(field))
        with pytest.raises(InvalidRecord, match="x"):
            collection.upsert(Batch(("good", "bad"), {"image": some_vectors(2)}, ({}, {"x": wrong})))
        assert collection.fetch(["good", "bad"]).ids == ()

    @pytest.mark.parametrize(("field", "right"), list(_right_values()))
    def test_values_of_the_declared_kind(self, kept: Any, field: Field, right: list[Any]) -> None:
        """Each comes back equal, null and missing too."""
        collection = kept(plain(field))
        payloads = [{"x": value} for value in right] + [{"x": None}, {}]
        ids = [f"r{i}" for i in range(len(payloads))]
        put(collection, ids, payloads=payloads)
        got = collection.fetch(ids).payloads
        assert got is not None
        assert [_typed(p) for p in got] == [_typed(p) for p in payloads]

    def test_a_list_field_takes_tuples(self, connector: Connector, name: str) -> None:
        """Lists come back as lists."""
        collection = Collection.create(connector, name, plain(Field(name="x", kind=Kind.INT, many=True)))
        put(collection, ["a"], payloads=[{"x": (1, 2), "undeclared": (3, (4,))}])
        assert payload_of(collection, "a") == {"x": [1, 2], "undeclared": [3, [4]]}

    def test_numpy_scalars_are_numbers(self, connector: Connector, name: str) -> None:
        """A payload from an array holds plain numbers afterwards."""
        fields = (Field(name="i", kind=Kind.INT), Field(name="f", kind=Kind.FLOAT), Field(name="b", kind=Kind.BOOL))
        collection = Collection.create(connector, name, plain(*fields))
        put(
            collection, ["a"], payloads=[{"i": np.int64(1), "f": np.float32(0.5), "b": np.bool_(True), "u": np.int8(3)}]
        )
        assert _typed(payload_of(collection, "a")) == _typed({"i": 1, "f": 0.5, "b": True, "u": 3})

    def test_times_are_instants(self, connector: Connector, name: str) -> None:
        """Aware, to the microsecond, from any zone; they come back in UTC and equal."""
        fields = (Field(name="at", kind=Kind.TIME), Field(name="all", kind=Kind.TIME, many=True))
        collection = Collection.create(connector, name, plain(*fields))
        tokyo = timezone(timedelta(hours=9))
        moments = [
            datetime(2020, 5, 1, 12, 0, 0, 123456, tzinfo=UTC),
            datetime(2020, 5, 1, 12, 0, 0, 123457, tzinfo=tokyo),
            datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(1700, 1, 1, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
            datetime(2250, 12, 31, 23, 59, 59, tzinfo=UTC),
        ]
        ids = [f"r{i}" for i in range(len(moments))]
        put(collection, ids, payloads=[{"at": moment, "all": [moment, moments[0]]} for moment in moments])
        for record, moment in zip(ids, moments, strict=True):
            payload = payload_of(collection, record)
            assert payload == {"at": moment, "all": [moment, moments[0]]}
            assert payload["at"].utcoffset() == payload["all"][0].utcoffset() == timedelta(0)
            assert scanned(collection, where=F.at == moment) == [record]
        put(collection, ["text"], payloads=[{"at": "2020-05-01T12:00:00.5+02:00"}])
        assert payload_of(collection, "text") == {"at": datetime(2020, 5, 1, 10, 0, 0, 500_000, tzinfo=UTC)}

    @pytest.mark.parametrize("year", [1, 1500, 2300, 9999])
    def test_times_far_away(self, kept: Any, year: int) -> None:
        """Any time of the calendar is kept, found to the microsecond and ordered."""
        collection = kept(plain(Field(name="at", kind=Kind.TIME)))
        moment = datetime(year, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
        tick = timedelta(microseconds=1)
        put(collection, ["before", "at", "after"], payloads=[{"at": m} for m in (moment - tick, moment, moment + tick)])
        assert payload_of(collection, "at") == {"at": moment}
        assert scanned(collection, where=F.at == moment) == ["at"]
        assert scanned(collection, where=F.at < moment) == ["before"]
        assert scanned(collection, where=F.at > moment) == ["after"]

    def test_places(self, connector: Connector, name: str) -> None:
        """A place is given as (lat, lon) or as a mapping and comes back as a mapping."""
        fields = (Field(name="place", kind=Kind.GEO), Field(name="stops", kind=Kind.GEO, many=True))
        collection = Collection.create(connector, name, plain(*fields))
        put(collection, ["a"], payloads=[{"place": (1.5, -2), "stops": [[3, 4], {"lat": 5.25, "lon": 6}]}])
        expected = {"place": {"lat": 1.5, "lon": -2.0}, "stops": [{"lat": 3.0, "lon": 4.0}, {"lat": 5.25, "lon": 6.0}]}
        assert payload_of(collection, "a") == expected


def _typed(value: Any) -> Any:
    """A value that equals another only when its types do too."""
    match value:
        case dict():
            return {key: _typed(item) for key, item in value.items()}
        case list():
            return [_typed(item) for item in value]
        case datetime():
            return ("time", value)
        case float() if value == 0:
            return ("float", math.copysign(1.0, value))
    return (type(value).__name__, value)
