"""Records: ids, whole writes, reading back, limits, revisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.errors import InvalidRecord
from pixdex.filters import F
from pixdex.policy import Attempt, Policy
from pixdex.testing._support import (
    DIM,
    EXACT,
    IDS_ONLY,
    STANDARD,
    Cases,
    payload_of,
    put,
    scanned,
    some_vectors,
)
from pixdex.types import MAX_INT, Batch, Want

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


class RecordCases(Cases):
    """What goes in and what comes out, whatever it is."""

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
        most = collection.capabilities.max_batch
        count = min(2 * most + 1, 2500)
        ids = [f"r{i}" for i in range(count)]
        sizes: list[int] = []
        watched = _watched(collection, "upsert", sizes)
        put(watched, ids, some_vectors(count), [{"n": i} for i in range(count)])
        assert sizes == [min(most, count - start) for start in range(0, count, most)], "full batches, then the rest"
        assert collection.count() == count
        assert collection.fetch(ids, want=Want(vectors=("image",))).ids == tuple(ids)
        assert len(scanned(collection, size=count + 10)) == count
        collection.delete(ids[1:])
        collection.flush()
        assert scanned(collection) == ["r0"]

    def test_writes_beyond_the_byte_limit(self, collection: Collection) -> None:
        """Large payloads in one call are cut by bytes."""
        size = min(collection.capabilities.max_payload_bytes // 2, 200_000)
        limits = collection.capabilities
        count = min(limits.max_batch_bytes // size + 3, 120)
        sizes: list[int] = []
        watched = _watched(collection, "upsert", sizes)
        put(watched, [f"r{i}" for i in range(count)], payloads=[{"s": "x" * size} for _ in range(count)])
        assert sum(sizes) == count
        assert max(sizes) * size <= limits.max_batch_bytes or max(sizes) == 1
        assert collection.count() == count
        assert payload_of(collection, f"r{count - 1}") == {"s": "x" * size}

    def test_payload_up_to_the_limit(self, collection: Collection) -> None:
        """A payload of exactly the store's limit round-trips; one beyond is refused, and nothing is written."""
        limit = collection.capabilities.max_payload_bytes
        size = min(limit, 1 << 20) - len('{"s":""}')
        put(collection, ["a"], payloads=[{"s": "x" * size}])
        assert payload_of(collection, "a") == {"s": "x" * size}
        if limit <= 64 << 20:
            with pytest.raises(InvalidRecord, match="payload"):
                collection.upsert(Batch(("b", "c"), {"image": some_vectors(2)}, ({}, {"s": "x" * (limit - 7)})))
            collection.flush()
            assert collection.count() == 1

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


def _watched(collection: Collection, verb: str, sizes: list[int]) -> Collection:
    """Another handle, which notes how many records each try of a verb had."""

    def note(attempt: Attempt) -> None:
        if attempt.call.verb == verb:
            sizes.append(attempt.call.size)

    return Collection(collection.connector, collection.name, collection.spec, policy=Policy(observe=note))


def _revs(collection: Collection) -> dict[str, int]:
    found: dict[str, int] = {}
    for page in collection.scan():
        assert page.batch.revs is not None
        found.update(zip(page.batch.ids, page.batch.revs, strict=True))
    return found
