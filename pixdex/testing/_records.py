"""Records: ids, vectors, payloads, tokens, revisions; what is refused and what comes back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.errors import InvalidRecord, Unsupported
from pixdex.filters import F
from pixdex.testing._support import (
    DIM,
    EXACT,
    IDS_ONLY,
    STANDARD,
    Cases,
    fingerprint,
    payload_of,
    plain,
    put,
    scanned,
    similarity,
    some_vectors,
    vector,
)
from pixdex.types import MAX_INT, Batch, Field, Kind, Metric, Spec, TokenSpec, Want

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector

IDS = {
    "digit": "1",
    "leading zero": "01",
    "decimal": "1.0",
    "negative": "-1",
    "uuid": "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    "UUID": "F47AC10B-58CC-4372-A567-0E02B2C3D479",
    "true": "true",
    "null": "null",
    "path": "photos/2020/räksmörgås.jpg",
    "dots": "../../etc/passwd",
    "space": " ",
    "spaces": " a  b ",
    "tab and newline": "a\tb\nc\r",
    "quote": "it's",
    "double quote": 'say "hi"',
    "backslash": "C:\\new\\table",
    "backslash at the end": "end\\",
    "NUL": "a\0b",
    "percent": "100%_[a-z]*",
    "template": "{x} $y %s",
    "expression": '" or id != "',
    "sql": "'; DROP TABLE records; --",
    "composed": "\u00e9",
    "decomposed": "e\u0301",
    "capital": "\u00c9",
    "emoji": "👩\u200d👩\u200d👧.png",
    "right to left": "\u202eصورة",
    "byte order mark": "\ufeffa",
    "dotless i": "ı",  # on purpose
    "sharp s": "straße",
    "SHARP S": "STRASSE",
    "last code point": "\U0010ffff",
}

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


class RecordCases(Cases):
    """What goes in and what comes out."""

    # --- ids ----------------------------------------------------------------------------------------

    def test_ids_of_every_shape(self, collection: Collection) -> None:
        """Ids are opaque and case-sensitive: all of these are different records, each found by its own
        id by fetch, by filter, by search and by scan.
        """
        ids = list(IDS.values())
        matrix = some_vectors(len(ids))
        put(collection, ids, matrix, [{"own": record} for record in ids])
        assert collection.count() == len(ids)
        assert sorted(scanned(collection)) == sorted(ids)
        assert collection.fetch(ids).ids == tuple(ids)
        assert collection.fetch(ids).payloads == tuple({"own": record} for record in ids)
        hits = [row[0] for row in collection.search(matrix, k=1, tuning=EXACT)]
        assert [hit.id for hit in hits] == ids
        assert [hit.payload for hit in hits] == [{"own": record} for record in ids]

    @pytest.mark.parametrize("shape", IDS)
    def test_each_id_in_a_filter_and_a_deletion(self, kept: Any, shape: str) -> None:
        """An id is bound, never spliced: filters and deletions hit that record and no other."""
        collection = kept(replace(STANDARD, encoder="ids"))
        record = IDS[shape]
        others = [i for i in IDS.values() if i != record]
        put(collection, [record, *others])
        assert scanned(collection, where=F.ids([record])) == [record]
        assert sorted(scanned(collection, where=~F.ids([record]))) == sorted(others)
        assert [h.id for h in collection.search(some_vectors(1), where=F.ids([record]))[0]] == [record]
        assert collection.count(F.ids([record, "nonesuch"])) == 1
        collection.delete([record])
        collection.flush()
        assert sorted(scanned(collection)) == sorted(others)
        assert collection.fetch([record]).ids == ()

    def test_long_ids(self, collection: Collection) -> None:
        """512 UTF-8 bytes are kept to the last; ids that differ only there are two."""
        ids = ["x" * 511 + "a", "x" * 511 + "b", "é" * 255 + "aa", "é" * 255 + "ab", "x" * 256, "x" * 255]
        put(collection, ids, payloads=[{"n": i} for i in range(len(ids))])
        assert sorted(scanned(collection)) == sorted(ids)
        batch = collection.fetch(ids)
        assert batch.ids == tuple(ids)
        assert [p["n"] for p in batch.payloads or ()] == list(range(len(ids)))
        assert scanned(collection, where=F.ids([ids[1]])) == [ids[1]]

    @pytest.mark.parametrize(
        "wrong", ["", "x" * 513, "é" * 257, "\ud800", 1, None, b"a"], ids=["empty", "513 bytes", "514 bytes", "surrogate", "int", "none", "bytes"]
    )  # fmt: skip
    def test_what_is_no_id_is_refused(self, untouched: Collection, wrong: Any) -> None:
        """Nothing is written, and delete and fetch refuse it too."""
        with pytest.raises(InvalidRecord):
            untouched.upsert(Batch(("good", wrong), {"image": some_vectors(2)}))
        with pytest.raises(InvalidRecord):
            untouched.delete([wrong])
        with pytest.raises(InvalidRecord):
            untouched.fetch([wrong])

    def test_an_id_twice_in_a_call_is_refused(self, collection: Collection) -> None:
        """An id may stand once in a call: which one should win? Nothing is written."""
        with pytest.raises(InvalidRecord, match="twice"):
            collection.upsert(Batch(("a", "b", "a"), {"image": some_vectors(3)}))
        collection.flush()
        assert collection.count() == 0

    # --- upsert, fetch, delete ----------------------------------------------------------------------

    def test_upsert_replaces_the_whole_record(self, collection: Collection) -> None:
        """Payload keys that are left out disappear, from payloads and from filters."""
        put(collection, ["a"], payloads=[{"label": "old", "n": 1, "extra": {"deep": 1}}])
        put(collection, ["a"], some_vectors(1, seed=5), [{"n": 2}])
        assert payload_of(collection, "a") == {"n": 2}
        assert collection.count() == 1
        assert collection.count(F.label == "old") == 0
        assert collection.count(F.label.exists()) == 0
        assert collection.count(F.n == 1) == 0
        assert collection.count(F.n == 2) == 1
        np.testing.assert_allclose(
            collection.fetch(["a"], want=Want(vectors=("image",))).vectors["image"], some_vectors(1, seed=5), atol=1e-6
        )
        assert [h.score for h in collection.search(some_vectors(1, seed=5))[0]] == pytest.approx([0.0], abs=1e-4)

    def test_upsert_without_payloads(self, collection: Collection) -> None:
        """Payloads are optional; a record without is one with an empty payload."""
        put(collection, ["a"], payloads=[{"n": 1}])
        put(collection, ["a"])
        assert payload_of(collection, "a") == {}
        assert collection.count(F.n.exists()) == 0

    def test_upsert_is_idempotent(self, collection: Collection) -> None:
        """The same batch three times is the same collection."""
        for _ in range(3):
            put(collection, ["a", "b"], payloads=[{"n": 1}, {"n": 2}])
        assert collection.count() == 2
        assert sorted(scanned(collection)) == ["a", "b"]
        assert sorted(h.id for h in collection.search(some_vectors(1), k=10)[0]) == ["a", "b"]
        assert collection.count(F.n == 1) == 1

    def test_the_last_write_wins(self, collection: Collection) -> None:
        """Across calls, without a flush between, also after a deletion."""
        for turn in range(5):
            collection.upsert(Batch(("a",), {"image": some_vectors(1, seed=turn)}, ({"n": turn},)))
        collection.upsert(Batch(("b",), {"image": some_vectors(1)}, ({"n": 9},)))
        collection.delete(["b"])
        collection.upsert(Batch(("b",), {"image": some_vectors(1)}, ({"n": 10},)))
        collection.flush()
        assert payload_of(collection, "a") == {"n": 4}
        assert payload_of(collection, "b") == {"n": 10}
        assert collection.count() == 2

    def test_an_empty_batch_writes_nothing(self, collection: Collection) -> None:
        """No records are no error anywhere."""
        collection.upsert(Batch((), {"image": np.zeros((0, DIM), np.float32)}))
        collection.upsert(Batch(()))
        collection.delete([])
        collection.flush()
        assert collection.count() == 0
        assert collection.fetch([]).ids == ()
        assert collection.search(np.zeros((0, DIM), np.float32)) == []

    def test_what_was_given_may_change_later(self, collection: Collection) -> None:
        """A store copies: arrays and payloads belong to the caller again after the call."""
        matrix = some_vectors(1)
        payload = {"l": [1, {"m": 2}]}
        put(collection, ["a"], matrix, [payload])
        expected = matrix.copy()
        matrix[:] = 99
        payload["l"].append("changed")
        payload["l"][1]["m"] = "changed"  # type: ignore[index]
        batch = collection.fetch(["a"], want=Want(vectors=("image",)))
        assert batch.payloads == ({"l": [1, {"m": 2}]},)
        np.testing.assert_allclose(batch.vectors["image"], expected, atol=1e-6)

    def test_what_comes_back_may_be_changed(self, collection: Collection) -> None:
        """What a read returns is the caller's: changing it does not change the store."""
        put(collection, ["a"], payloads=[{"l": [1, {"m": 2}]}])
        got: Any = payload_of(collection, "a")
        got["l"][1]["m"] = "changed"
        got["l"].clear()
        batch = collection.fetch(["a"], want=Want(vectors=("image",)))
        assert batch.payloads == ({"l": [1, {"m": 2}]},)
        hit = collection.search(some_vectors(1))[0][0]
        assert hit.payload == {"l": [1, {"m": 2}]}

    def test_delete_ignores_unknown_ids(self, collection: Collection) -> None:
        """Deleting what is not there is no error, mixed with what is, twice, and given twice."""
        put(collection, ["a", "b"])
        collection.delete(["nonesuch"])
        collection.delete(["a", "nonesuch", "a"])
        collection.delete(["a"])
        collection.flush()
        assert scanned(collection) == ["b"]
        assert [h.id for h in collection.search(some_vectors(1))[0]] == ["b"]

    def test_fetch_ignores_unknown_ids(self, collection: Collection) -> None:
        """What does not exist is left out; of nothing known, nothing comes."""
        put(collection, ["a", "b"])
        assert collection.fetch(["x", "b", "y", "a", "z"]).ids == ("b", "a")
        assert collection.fetch(["x"]).ids == ()
        assert collection.fetch(["x"], want=Want(vectors=("image",))).ids == ()

    def test_fetch_keeps_the_order_asked_for(self, collection: Collection) -> None:
        """Rows of ids, payloads and vectors follow the request; an id asked for twice comes once."""
        ids = [f"r{i}" for i in range(9)]
        matrix = some_vectors(9)
        put(collection, ids, matrix, [{"n": i} for i in range(9)])
        order = [4, 0, 8, 3, 5]
        batch = collection.fetch([ids[i] for i in [*order, 4]], want=Want(vectors=("image",)))
        assert batch.ids == tuple(ids[i] for i in order)
        assert [p["n"] for p in batch.payloads or ()] == order
        np.testing.assert_allclose(batch.vectors["image"], matrix[order], atol=1e-6)

    def test_want_names_what_comes_back(self, collection: Collection) -> None:
        """Payload and vectors come when asked for and are left out when not."""
        put(collection, ["a"], payloads=[{"n": 1}])
        everything, nothing = Want(vectors=("image",)), IDS_ONLY
        assert collection.fetch(["a"], want=everything).payloads == ({"n": 1},)
        assert collection.fetch(["a"], want=nothing).payloads is None
        assert "image" in collection.fetch(["a"], want=everything).vectors
        assert "image" not in collection.fetch(["a"]).vectors
        full, bare = (collection.search(some_vectors(1), want=w)[0][0] for w in (everything, nothing))
        assert full.payload == {"n": 1}
        assert full.vectors is not None
        np.testing.assert_allclose(full.vectors["image"], some_vectors(1)[0], atol=1e-6)
        assert bare.payload is None
        assert not bare.vectors
        full_page, bare_page = (next(iter(collection.scan(want=w))).batch for w in (everything, nothing))
        assert full_page.payloads == ({"n": 1},)
        np.testing.assert_allclose(full_page.vectors["image"], some_vectors(1), atol=1e-6)
        assert bare_page.payloads is None
        assert "image" not in bare_page.vectors

    def test_writes_beyond_the_batch_limit(self, collection: Collection) -> None:
        """A call may hold more records than the store takes at once: writes, reads and deletions."""
        count = min(2 * collection.capabilities.max_batch + 1, 2500)
        ids = [f"r{i}" for i in range(count)]
        put(collection, ids, some_vectors(count), [{"n": i} for i in range(count)])
        assert collection.count() == count
        assert collection.fetch(ids, want=Want(vectors=("image",))).ids == tuple(ids)
        assert len(scanned(collection, size=count + 10)) == count
        collection.delete(ids[1:])
        collection.flush()
        assert scanned(collection) == ["r0"]

    def test_writes_beyond_the_byte_limit(self, collection: Collection) -> None:
        """Large payloads in one call are cut by bytes."""
        size = min(collection.capabilities.max_payload_bytes // 2, 200_000)
        count = min(collection.capabilities.max_batch_bytes // size + 3, 120)
        put(collection, [f"r{i}" for i in range(count)], payloads=[{"s": "x" * size} for _ in range(count)])
        assert collection.count() == count
        assert payload_of(collection, f"r{count - 1}") == {"s": "x" * size}

    def test_payload_up_to_the_limit(self, collection: Collection) -> None:
        """A payload near the store's limit round-trips; one beyond is refused, and nothing is written."""
        limit = collection.capabilities.max_payload_bytes
        size = min(limit, 1 << 20) - 64
        put(collection, ["a"], payloads=[{"s": "x" * size}])
        assert payload_of(collection, "a") == {"s": "x" * size}
        if limit <= 64 << 20:
            with pytest.raises(InvalidRecord, match="payload"):
                collection.upsert(Batch(("b", "c"), {"image": some_vectors(2)}, ({}, {"s": "x" * limit})))
            collection.flush()
            assert collection.count() == 1

    # --- vectors ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("metric", list(Metric))
    def test_stored_vector_equals_the_checked_one(self, connector: Connector, name: str, metric: Metric) -> None:
        """To 1e-6: as given, or of unit length under cosine; never as a store would like it."""
        if metric not in connector.capabilities.metrics:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, plain(metric=metric))
            return
        collection = Collection.create(connector, name, plain(metric=metric))
        matrix = some_vectors(6) * np.array([[1], [1e-3], [0.3], [1], [7], [1]], np.float32)
        ids = [f"r{i}" for i in range(6)]
        put(collection, ids, matrix)
        expected = matrix / np.linalg.norm(matrix, axis=1, keepdims=True) if metric is Metric.COSINE else matrix
        got = collection.fetch(ids, want=Want(vectors=("image",))).vectors["image"]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)

    def test_float16_vectors(self, connector: Connector, name: str) -> None:
        """A vector declared float16 comes back as its rounding, in float32."""
        metric = max(connector.capabilities.metrics)
        collection = Collection.create(connector, name, plain(metric=metric, dtype="float16"))
        matrix = some_vectors(3)
        put(collection, ["a", "b", "c"], matrix)
        got = collection.fetch(["a", "b", "c"], want=Want(vectors=("image",))).vectors["image"]
        assert got.dtype == np.float32
        if metric is Metric.COSINE:
            matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        np.testing.assert_allclose(got, matrix.astype(np.float16).astype(np.float32), rtol=1e-3, atol=1e-6)

    def test_float16_overflow_is_refused(self, connector: Connector, name: str) -> None:
        """A number that float16 cannot hold is refused, not made infinite."""
        metric = next((m for m in (Metric.L2, Metric.DOT) if m in connector.capabilities.metrics), None)
        if metric is None:  # under cosine everything is of unit length
            return
        collection = Collection.create(connector, name, plain(metric=metric, dtype="float16"))
        with pytest.raises(InvalidRecord, match="float16"):
            put(collection, ["a"], np.full((1, DIM), 1e6, np.float32))

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param(np.full((2, DIM), np.nan), id="NaN"),
            pytest.param(np.array([[0.0] * (DIM - 1) + [np.inf]] * 2), id="infinity"),
            pytest.param(np.full((2, DIM), 1e300), id="infinite as float32"),
            pytest.param(np.ones((2, DIM + 1)), id="too wide"),
            pytest.param(np.ones((2, DIM - 1)), id="too narrow"),
            pytest.param(np.ones((3, DIM)), id="too many rows"),
            pytest.param(np.ones((2, 1, DIM)), id="three axes"),
            pytest.param([[1.0] * DIM, [1.0]], id="ragged"),
            pytest.param([["x"] * DIM] * 2, id="text"),
        ],
    )
    def test_bad_vectors_are_refused(self, untouched: Collection, wrong: Any) -> None:
        """NaN, infinity and wrong shapes are refused before anything is written, good rows included."""
        good = some_vectors(2)
        mixed = np.concatenate([good[:1], wrong[1:]]) if getattr(wrong, "shape", None) == good.shape else wrong
        with pytest.raises(InvalidRecord):
            untouched.upsert(Batch(("a", "b"), {"image": mixed}))

    def test_a_zero_vector_has_no_cosine(self, connector: Connector, name: str) -> None:
        """Zero is refused under cosine, as a record and as a query, and is fine elsewhere."""
        for metric in sorted(connector.capabilities.metrics):
            collection = Collection.create(connector, name, plain(metric=metric))
            matrix = some_vectors(2)
            matrix[1] = 0
            if metric is Metric.COSINE:
                with pytest.raises(InvalidRecord, match="zero"):
                    put(collection, ["a", "b"], matrix)
                with pytest.raises(InvalidRecord, match="zero"):
                    collection.search(matrix)
                collection.flush()
                assert collection.count() == 0
            else:
                put(collection, ["a", "b"], matrix)
                assert {h.id for h in collection.search(matrix)[1]} == {"a", "b"}
            collection.drop()

    # --- payloads -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("shape", PAYLOADS)
    def test_payload_comes_back_as_it_was(self, kept: Any, shape: str) -> None:
        """By fetch, search and scan, value for value and type for type: 1 is not 1.0 is not true."""
        collection = kept(replace(STANDARD, encoder="payloads"))
        payload = PAYLOADS[shape]
        put(collection, ["a"], payloads=[payload])
        found = [payload_of(collection, "a"), collection.search(some_vectors(1))[0][0].payload]
        found += [got for page in collection.scan() for got in page.batch.payloads or ()]
        assert [_typed(got) for got in found] == [_typed(payload)] * 3

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

    # --- named vectors ------------------------------------------------------------------------------

    @pytest.fixture
    def pair(self, connector: Connector, name: str) -> Collection | None:
        """A collection of two vectors that differ in width and metric, or None."""
        metrics = sorted(connector.capabilities.metrics)
        spec = Spec(
            vectors=(vector(metric=metrics[-1]), vector("text", dim=4, metric=metrics[0], encoder="words")),
            fields=(Field(name="n", kind=Kind.INT),),
        )
        if connector.capabilities.max_vectors < 2:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, spec)
            return None
        return Collection.create(connector, name, spec)

    def test_two_vectors(self, pair: Collection | None) -> None:
        """Each vector is searched by its own width and metric."""
        if pair is None:
            return
        image, text = some_vectors(3), some_vectors(3, dim=4, seed=1)
        pair.upsert(Batch(("a", "b", "c"), {"image": image, "text": text[[2, 0, 1]]}))
        pair.flush()
        assert [row[0].id for row in pair.search(image, k=1, using="image")] == _best(pair, "image", image, image)
        assert [row[0].id for row in pair.search(text, k=1, using="text")] == _best(pair, "text", text, text[[2, 0, 1]])
        both = pair.fetch(["b"], want=Want(vectors=("image", "text")))
        assert both.vectors["image"].shape == (1, DIM)
        assert both.vectors["text"].shape == (1, 4)
        only = pair.fetch(["b"], want=Want(vectors=("text",)))
        assert set(only.vectors) == {"text"}

    def test_using_must_be_said_when_there_are_two(self, pair: Collection | None) -> None:
        """There is no hidden default among several vectors."""
        if pair is None:
            return
        with pytest.raises(ValueError, match="image, text"):
            pair.search(some_vectors(1))

    def test_a_record_may_lack_a_vector(self, pair: Collection | None) -> None:
        """Searches by that vector do not find it, everything else does; reads say that it is absent."""
        if pair is None:
            return
        pair.upsert(
            Batch(
                ("both", "image", "text", "neither"),
                {"image": some_vectors(4), "text": some_vectors(4, dim=4)},
                tuple({"n": i} for i in range(4)),
                absent={"image": np.array([False, False, True, True]), "text": np.array([False, True, False, True])},
            )
        )
        pair.flush()
        assert pair.count() == 4
        assert sorted(scanned(pair)) == ["both", "image", "neither", "text"]
        for tuning in (EXACT, None):
            options: dict[str, Any] = {} if tuning is None else {"tuning": tuning}
            assert {h.id for h in pair.search(some_vectors(1), using="image", **options)[0]} == {"both", "image"}
            assert {h.id for h in pair.search(some_vectors(1, dim=4), using="text", **options)[0]} == {"both", "text"}
            assert pair.search(some_vectors(1), using="image", where=F.n >= 2, **options) == [[]]
        assert pair.count(F.n == 3) == 1
        batch = pair.fetch(["neither", "both", "image", "text"], want=Want(vectors=("image", "text")))
        assert batch.ids == ("neither", "both", "image", "text")
        assert batch.present("image").tolist() == [False, True, True, False]
        assert batch.present("text").tolist() == [False, True, False, True]
        hit = pair.search(some_vectors(1), using="image", where=F.ids(["image"]), want=Want(vectors=("image", "text")))[
            0
        ][0]
        assert set(hit.vectors or {}) == {"image"}
        page = next(iter(pair.scan(want=Want(vectors=("image",)))))
        assert {i for i, there in zip(page.batch.ids, page.batch.present("image"), strict=True) if there} == {
            "both",
            "image",
        }

    def test_absent_rows_mean_nothing(self, pair: Collection | None) -> None:
        """A row under ``absent`` may hold anything, NaN too."""
        if pair is None:
            return
        matrix = some_vectors(2)
        matrix[1] = np.nan
        pair.upsert(Batch(("a", "b"), {"image": matrix}, absent={"image": np.array([False, True])}))
        pair.flush()
        assert [h.id for h in pair.search(some_vectors(1), using="image")[0]] == ["a"]

    def test_upsert_drops_a_vector_that_is_left_out(self, pair: Collection | None) -> None:
        """A record is replaced as a whole, its vectors too."""
        if pair is None:
            return
        pair.upsert(Batch(("a",), {"image": some_vectors(1), "text": some_vectors(1, dim=4)}))
        pair.upsert(Batch(("a",), {"text": some_vectors(1, dim=4)}))
        pair.flush()
        assert pair.search(some_vectors(1), using="image") == [[]]
        assert [h.id for h in pair.search(some_vectors(1, dim=4), using="text")[0]] == ["a"]
        batch = pair.fetch(["a"], want=Want(vectors=("image", "text")))
        assert not batch.present("image")[0]
        assert batch.present("text")[0]

    def test_a_record_without_its_only_vector(self, collection: Collection) -> None:
        """A record without any vector is kept, counted and filtered, and not found by search."""
        collection.upsert(
            Batch(
                ("a", "b"), {"image": some_vectors(2)}, ({"n": 1}, {"n": 1}), absent={"image": np.array([True, False])}
            )
        )
        collection.upsert(Batch(("c",), {}, ({"n": 1},)))
        collection.flush()
        assert collection.count() == collection.count(F.n == 1) == 3
        assert [h.id for h in collection.search(some_vectors(1))[0]] == ["b"]
        assert [h.id for h in collection.search(some_vectors(1), tuning=EXACT, where=F.n == 1)[0]] == ["b"]

    # --- tokens -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
    def test_tokens_come_back_when_asked_for(self, connector: Connector, name: str, dtype: Any) -> None:
        """Exactly as given, by fetch, search and scan; records without have None; unasked there are none."""
        spec = plain(tokens=TokenSpec(count=5, dim=6, dtype=dtype, fingerprint=fingerprint("tokens")))
        if not connector.capabilities.tokens:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, spec)
            return
        collection = Collection.create(connector, name, spec)
        values = np.random.default_rng(0).integers(-128, 128, size=(5, 6))
        full = values.astype(dtype) if dtype == "int8" else (values / 7).astype(dtype)
        given = {"full": full, "short": full[:1], "none": None}
        put(collection, list(given), tokens=list(given.values()))
        asked = Want(tokens=True)
        batch = collection.fetch(list(given), want=asked)
        assert batch.tokens is not None
        hits = {h.id: h.tokens for h in collection.search(some_vectors(1), want=asked)[0]}
        page = next(iter(collection.scan(want=asked))).batch
        assert page.tokens is not None
        for got in (
            dict(zip(batch.ids, batch.tokens, strict=True)),
            hits,
            dict(zip(page.ids, page.tokens, strict=True)),
        ):
            assert got["none"] is None
            for record in ("full", "short"):
                matrix = got[record]
                assert matrix is not None
                assert matrix.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(matrix, given[record])
        assert collection.fetch(list(given)).tokens is None
        assert all(h.tokens is None for h in collection.search(some_vectors(1))[0])
        assert next(iter(collection.scan())).batch.tokens is None
        assert collection.fetch(["full"]).payloads == ({},)

    def test_upsert_drops_tokens_that_are_left_out(self, connector: Connector, name: str) -> None:
        """A record is replaced as a whole, its tokens too."""
        spec = plain(tokens=TokenSpec(count=5, dim=6, fingerprint=fingerprint("tokens")))
        if not connector.capabilities.tokens:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, spec)
            return
        collection = Collection.create(connector, name, spec)
        put(collection, ["a"], tokens=[np.ones((5, 6), np.int8)])
        put(collection, ["a"])
        assert collection.fetch(["a"], want=Want(tokens=True)).tokens in (None, (None,))

    def test_wrong_tokens_are_refused(self, connector: Connector, name: str) -> None:
        """Wrong width, too many, none, another dtype: refused before anything is written."""
        spec = plain(tokens=TokenSpec(count=5, dim=6, dtype="float16", fingerprint=fingerprint("tokens")))
        if not connector.capabilities.tokens:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, spec)
            return
        collection = Collection.create(connector, name, spec)
        nan = np.full((1, 6), np.nan, np.float16)
        ones = np.ones((6, 7), np.float16)
        for wrong in (ones[:5], ones[:, :6], ones[:0, :6], ones[0], ones[:5, :6].astype(np.float32), nan):
            with pytest.raises(InvalidRecord, match="bad"):
                put(collection, ["good", "bad"], tokens=[None, wrong])
        collection.flush()
        assert collection.count() == 0

    def test_tokens_without_a_token_spec_are_refused(self, collection: Collection) -> None:
        """There is no place for tokens that the Spec does not speak of; asking for them brings none."""
        with pytest.raises(InvalidRecord, match="TokenSpec"):
            put(collection, ["a"], tokens=[np.ones((1, 1), np.int8)])
        put(collection, ["a"])
        assert collection.fetch(["a"], want=Want(tokens=True)).ids == ("a",)

    # --- revisions ----------------------------------------------------------------------------------

    def test_revisions_rise(self, collection: Collection) -> None:
        """Every record carries a revision that rises with each write; payloads do not show it."""
        before = int(datetime.now(UTC).timestamp() * 1e6) - 60_000_000
        put(collection, ["a", "b"], payloads=[{"n": 1}, {}])
        put(collection, ["c"])
        first = _revs(collection)
        assert before < first["a"] < first["b"] < first["c"] <= MAX_INT
        put(collection, ["a"])
        second = _revs(collection)
        assert second["a"] > first["c"]
        assert second["b"] == first["b"]
        for payload in (payload_of(collection, "b"), collection.search(some_vectors(1))[0][0].payload):
            assert not any(key.startswith("_") for key in payload or {})

    def test_catching_up_from_a_mark(self, collection: Collection) -> None:
        """A scan since a revision holds what was written after it and nothing else."""
        put(collection, ["a", "b"])
        mark = max(_revs(collection).values())
        assert list(collection.scan(since=mark))[-1].batch.ids == ()
        put(collection, ["c"], payloads=[{"n": 3}])
        put(collection, ["a"], payloads=[{"n": 1}])
        assert sorted(scanned(collection, since=mark)) == ["a", "c"]
        assert scanned(collection, since=mark, where=F.n == 3) == ["c"]
        assert scanned(collection, since=max(_revs(collection).values())) == []


def _revs(collection: Collection) -> dict[str, int]:
    found: dict[str, int] = {}
    for page in collection.scan():
        assert page.batch.revs is not None
        found.update(zip(page.batch.ids, page.batch.revs, strict=True))
    return found


def _best(collection: Collection, name: str, queries: Any, stored: Any) -> list[str]:
    metric = collection.spec.vector(name).metric
    rows = [max(range(3), key=lambda i: similarity(metric, q, stored[i])) for q in queries]
    return ["abc"[row] for row in rows]


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
