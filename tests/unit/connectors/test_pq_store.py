"""The embedded store at the port: answers compared with the oracle, wounds, locks and named errors."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixdex.connectors import _pq_records, connect
from pixdex.connectors._pq_lock import WriterLock
from pixdex.connectors._pq_store import Deadline
from pixdex.connectors.memory import MemoryConnector
from pixdex.connectors.pq import PqConnector, PqOptions
from pixdex.errors import (
    AccessDenied,  # noqa: F401 - for the children
    AlreadyExists,
    ConfigError,
    FingerprintMismatch,
    InvalidRecord,
    NotFound,
    PixdexError,
    StoreError,
    StoreFormat,
    StoreFull,
    StoreLocked,
    StoreTimeout,
    Unsupported,
)
from pixdex.filters import And, F, Filter, Ids, Not, Or, bind, matches
from pixdex.spec import Field, Fingerprint, Foreign, Kind, Metric, Spec, Vector
from pixdex.types import Batch, Scan, Search, Want

PRINT = Fingerprint(encoder="e", digest="3fa9c1d2aa")
OTHER = Fingerprint(encoder="e", digest="aaaaaaaabb")
IMAGE = Vector(dim=8, metric=Metric.L2, fingerprint=PRINT)
TEXT = Vector(name="text", dim=4, metric=Metric.COSINE, dtype="float16", fingerprint=PRINT)
FIELDS = tuple(Field(name=f"{kind}{'s' * many}", kind=kind, many=many) for kind in Kind for many in (False, True))
SPEC = Spec(vectors=(IMAGE, TEXT), fields=FIELDS)
ALL = Want(vectors=(IMAGE.column, TEXT.column), tokens=True)
WORDS = ("sea", "Sea", "sea ", "", "a\0b", "a\0c", "it's", '"', "\\", "%", "1", "é", "e\u0301", "true", "x" * 5000)
NUMBERS = (0.1 + 0.2, 0.3, -0.5, 0.0, 1e300, 5e-324, 1.0)
INTS = (0, 1, -1, 2**53 - 1, 2**53 - 2, -(2**53 - 1))
TIMES = ("1969-12-31T23:59:59.999999+00:00", "2020-05-01T12:00:00+00:00", "2020-05-01T12:00:00.000001+00:00")
PLACES = tuple(
    {"lat": lat, "lon": lon} for lat, lon in ((52.5, 13.4), (52.6, 13.4), (0.0, 179.9), (0.0, -179.9), (89.9, 5.0))
)
VALUES: dict[Kind, Sequence[Any]] = {
    Kind.TEXT: WORDS,
    Kind.INT: INTS,
    Kind.FLOAT: NUMBERS,
    Kind.BOOL: (True, False),
    Kind.TIME: TIMES,
    Kind.GEO: PLACES,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photos.pix"


@pytest.fixture
def store(path: Path) -> Iterator[PqConnector]:
    with_one = PqConnector(path)
    with_one.create("x", SPEC, timeout=None)
    yield with_one
    with_one.close()


def make_batch(ids: Sequence[str], seed: int = 0) -> Batch:
    """Records with every kind of value, some without vectors, some with tokens."""
    rng, dice = np.random.default_rng(seed), random.Random(seed)
    text = rng.normal(size=(len(ids), 4)).astype(np.float32)
    return Batch(
        tuple(ids),
        {
            IMAGE.column: rng.normal(size=(len(ids), 8)).astype(np.float32),
            TEXT.column: text / np.linalg.norm(text, axis=1, keepdims=True),
        },
        tuple({"_rev": i, "note": {"n": [1, None]}, **make_values(dice)} for i in range(len(ids))),
        tuple(rng.integers(-9, 9, size=(3, 2)).astype(np.int8) if dice.random() < 0.5 else None for _ in ids),
        {TEXT.column: rng.random(len(ids)) < 0.3},
    )


def make_values(dice: random.Random) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in FIELDS:
        chance = dice.random()
        if chance < 0.2:
            continue
        some = VALUES[field.kind]
        if chance < 0.3:
            values[field.name] = None
        elif field.many:
            values[field.name] = [dice.choice(some) for _ in range(dice.randrange(4))]
        else:
            values[field.name] = dice.choice(some)
    return values


def make_filter(dice: random.Random, depth: int = 3) -> Filter:
    if depth and dice.random() < 0.6:
        parts = tuple(make_filter(dice, depth - 1) for _ in range(dice.randrange(1, 4)))
        return dice.choice([And(parts), Or(parts), Not(parts[0])])
    field = dice.choice(FIELDS)
    name, some = F[field.name], VALUES[field.kind]
    if dice.random() < 0.15:
        return name.exists()
    if field.kind is Kind.GEO:
        place = dice.choice(PLACES)
        if dice.random() < 0.5:
            return name.within(place["lat"], place["lon"], dice.choice([0.0, 12.0, 50.0, 5000.0, 30000.0]))
        return name.within_box(
            -1.0, dice.choice([170.0, -180.0]), dice.choice([1.0, 60.0]), dice.choice([-170.0, 20.0])
        )
    picked = [dice.choice(some) for _ in range(dice.randrange(4))]
    if field.many:
        return dice.choice([name.contains_any(picked), name.contains_all(picked)])
    if field.kind in (Kind.TEXT, Kind.BOOL) or dice.random() < 0.4:
        return dice.choice(
            [name == dice.choice(some), name != dice.choice(some), name.is_in(picked), name.not_in(picked)]
        )
    low, high = dice.choice(some), dice.choice(some)
    return dice.choice([name < low, name <= low, name > low, name >= low, name.between(low, high)])


def segment_of(path: Path, collection: str = "x") -> Path:
    """The segment file of the vector ``image``."""
    db = sqlite3.connect(path / "pixdex.sqlite")
    query = "SELECT v.id FROM vectors v JOIN collections c ON c.id = v.collection WHERE c.name = ? AND v.name = ?"
    number = db.execute(query, (collection, IMAGE.column)).fetchone()[0]
    db.close()
    return path / "segments" / f"{number:016x}.seg"


def found(store: PqConnector, where: Filter | None) -> list[str]:
    ids: list[str] = []
    after = None
    while True:
        page = store.scan("x", Scan(size=37, where=where, after=after, want=Want(payload=False)), timeout=None)
        ids += page.batch.ids
        after = page.after
        if after is None:
            return ids


# --- answers --------------------------------------------------------------------------------------


def test_filters_mean_what_they_mean_in_python(store: PqConnector) -> None:
    batch = make_batch([f"r{i}" for i in range(150)])
    store.upsert("x", batch, timeout=None)
    dice = random.Random(7)
    for _ in range(400):
        where = bind(make_filter(dice), SPEC)
        expected = {r for r, payload in zip(batch.ids, batch.payloads or (), strict=True) if matches(where, r, payload)}
        assert sorted(found(store, where)) == sorted(expected), str(where)
        assert store.count("x", where, timeout=None) == len(expected), str(where)


@pytest.mark.parametrize("size", [3, 700, 40_000])
def test_long_lists_are_exact(store: PqConnector, size: int) -> None:
    ids = ["a", "a\0b", "A", "é"]
    store.upsert(
        "x",
        Batch(
            tuple(ids),
            {},
            tuple(
                {
                    "_rev": 1,
                    "text": text,
                    "float": number,
                    "int": i,
                    "bool": bool(i % 2),
                    "texts": [text],
                    "floats": [number],
                }
                for i, (text, number) in enumerate(zip(ids, (0.1 + 0.2, 5e-324, 1e300, -0.5), strict=True))
            ),
        ),
        timeout=None,
    )
    words = ["a\0b", *(f"w{i}" for i in range(size))]
    numbers = [0.1 + 0.2, *(i + 0.1 for i in range(size))]
    for where, expected in [
        (F.text.is_in(words), ["a\0b"]),
        (F.texts.contains_any(words), ["a\0b"]),
        (F.text.is_in([*words[1:], "a"]), ["a"]),
        (F.float.is_in(numbers), ["a"]),
        (F.float.is_in([0.3, *numbers[1:]]), []),
        (F.floats.contains_any(numbers), ["a"]),
        (F.int.is_in([2**53 - 1, *range(1, size)]), ["a\0b", "A", "é"][: size - 1]),
        (F.bool.is_in([True]), ["a\0b", "é"]),
        (Ids(tuple(words)), ["a\0b"]),
        (Not(Ids(tuple(words))), ["a", "A", "é"]),
    ]:
        assert found(store, bind(where, SPEC)) == expected, str(where)[:60]


def test_deep_and_wide_trees_are_answered(store: PqConnector) -> None:
    store.upsert("x", make_batch([f"r{i}" for i in range(20)]), timeout=None)
    leaves = [F.int == i for i in range(190)]
    nested = reduce(
        lambda left, leaf: (left | leaf[0]) & leaf[1], zip(leaves[::2], leaves[1::2], strict=True), F.bool.is_in([True])
    )
    for where in (
        Or(tuple(F.int == i for i in range(5000))),
        reduce(lambda a, b: a & b, [~leaf for leaf in leaves]),
        nested,
    ):
        bound = bind(where, SPEC)
        payloads = make_batch([f"r{i}" for i in range(20)]).payloads or ()
        assert found(store, bound) == [f"r{i}" for i, p in enumerate(payloads) if matches(bound, f"r{i}", p)]


def test_thousands_of_leaves_are_answered_or_refused_by_name(store: PqConnector) -> None:
    store.upsert("x", Batch(("a", "b"), {}, ({"_rev": 1, "int": 7, "texts": ["w1"]}, {"_rev": 1})), timeout=None)
    numbers = range(70_000)
    for where, expected in [
        (Or(tuple(F.int == i for i in range(260_000))), ["a"]),
        (And(tuple(F.int != i for i in numbers)), ["b"]),
        (Not(Or(tuple(F.int == i for i in numbers))), ["b"]),
        (And((F.int.exists(), Or((F.bool == True, *(F.int == i for i in numbers))))), ["a"]),  # noqa: E712
        (Or(tuple(F.texts.contains(f"w{i}") for i in numbers)), ["a"]),
        (Or(tuple(F.ids([f"r{i}", "b"]) for i in range(40_000))), ["b"]),
        (Or(tuple(F.float.between(i, i + 0.5) for i in range(3_000))), []),
        (Or(tuple((F.bool == False) | F.int.is_in(range(i, i + 400)) & (F["_rev"] == 1) for i in range(100))), ["a"]),  # noqa: E712
    ]:
        assert found(store, bind(where, SPEC)) == expected, str(where)[:60]
    where = bind(Or(tuple(F.float.between(i, i + 0.5) for i in range(20_000))), SPEC)
    with pytest.raises(Unsupported, match="40000 values.*is_in"):
        store.count("x", where, timeout=None)
    with pytest.raises(Unsupported):
        store.delete_where("x", where, timeout=None)


def test_a_hit_without_the_wanted_vectors_has_none(store: PqConnector) -> None:
    batch = make_batch(["a", "b"])
    absent = {TEXT.column: np.array([False, True])}
    store.upsert("x", replace(batch, absent=absent), timeout=None)
    request = Search(
        queries=batch.vectors[IMAGE.column][:1], k=2, using=IMAGE.column, want=Want(vectors=(TEXT.column,))
    )
    first, second = store.search("x", request, timeout=None)[0]
    assert (first.id, list(first.vectors or {})) == ("a", [TEXT.column])
    assert (second.id, second.vectors) == ("b", None)


@pytest.mark.parametrize("using", [IMAGE, TEXT], ids=["l2", "cosine16"])
def test_searches_agree_with_the_oracle(store: PqConnector, using: Vector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixdex.connectors._pq_scan._CHUNK_BYTES", 4096)  # several chunks
    oracle = MemoryConnector()
    oracle.create("x", SPEC, timeout=None)
    first = make_batch([f"r{i}" for i in range(600)])
    again = make_batch([f"r{i}" for i in range(0, 600, 7)], seed=1)
    for each in (store, oracle):
        each.upsert("x", first, timeout=None)
        each.upsert("x", again, timeout=None)
        each.delete("x", ["r5", "r6", "unknown"], timeout=None)
    queries = first.vectors[using.column][:9]
    for where in (None, bind(F.int.exists(), SPEC), bind(F.text == "sea", SPEC)):
        request = Search(queries=queries, k=12, using=using.column, where=where, want=ALL)
        for mine, theirs in zip(
            store.search("x", request, timeout=None), oracle.search("x", request, timeout=None), strict=True
        ):
            assert [hit.id for hit in mine] == [hit.id for hit in theirs]
            np.testing.assert_allclose([h.score for h in mine], [h.score for h in theirs], rtol=1e-6, atol=1e-6)
            for hit, other in zip(mine, theirs, strict=True):
                assert hit.payload == other.payload
                assert (hit.vectors or {}).keys() == (other.vectors or {}).keys()
                assert (hit.tokens is None and other.tokens is None) or np.array_equal(hit.tokens, other.tokens)


def test_a_far_away_origin_costs_no_accuracy(store: PqConnector) -> None:
    near = np.full((3, 8), 1000.0, dtype=np.float32)
    near[:, 0] += [0.0, 0.25, 0.5]
    huge = np.full((1, 8), 1e30, dtype=np.float32)
    store.upsert(
        "x", Batch(("a", "b", "c", "h"), {IMAGE.column: np.concatenate([near, huge])}, ({"_rev": 1},) * 4), timeout=None
    )
    hits = store.search("x", Search(queries=near[:1], k=4, using=IMAGE.column), timeout=None)[0]
    assert [(h.id, h.score) for h in hits[:3]] == [("a", 0.0), ("b", -0.0625), ("c", -0.25)]
    assert hits[3].score == pytest.approx(-8e60)


def test_what_was_stored_comes_back(path: Path, store: PqConnector) -> None:
    batch = make_batch([f"r{i}" for i in range(50)])
    store.upsert("x", batch, timeout=None)
    store.close()
    again = PqConnector(path)
    back = again.fetch("x", [*batch.ids[::-1], "unknown"], want=ALL, timeout=None)
    assert back.ids == batch.ids
    assert back.payloads == batch.payloads
    np.testing.assert_array_equal(back.vectors[IMAGE.column], batch.vectors[IMAGE.column])
    np.testing.assert_array_equal(back.absent[TEXT.column], batch.absent[TEXT.column])
    there = batch.present(TEXT.column)
    np.testing.assert_array_equal(
        back.vectors[TEXT.column][there], batch.vectors[TEXT.column][there].astype(np.float16)
    )
    for mine, given in zip(back.tokens or (), batch.tokens or (), strict=True):
        assert (mine is None) == (given is None)
        if mine is not None and given is not None:
            assert mine.dtype == given.dtype
            np.testing.assert_array_equal(mine, given)
    again.close()


def test_scan_visits_each_record_once_while_records_are_replaced(store: PqConnector) -> None:
    store.upsert("x", make_batch([f"r{i}" for i in range(100)]), timeout=None)
    page = store.scan("x", Scan(size=40), timeout=None)
    store.upsert("x", make_batch([f"r{i}" for i in range(10, 60)], seed=2), timeout=None)
    seen = list(page.batch.ids)
    while page.after is not None:
        page = store.scan("x", Scan(size=40, after=page.after), timeout=None)
        seen += page.batch.ids
    assert sorted(seen) == sorted(f"r{i}" for i in range(100))
    with pytest.raises(ConfigError, match="cursor"):
        store.scan("x", Scan(size=4, after="r1"), timeout=None)


def test_deleted_records_are_gone_and_may_come_back(store: PqConnector) -> None:
    batch = make_batch([f"r{i}" for i in range(30)])
    store.upsert("x", batch, timeout=None)
    store.delete_where("x", bind(Ids(batch.ids[:10]), SPEC), timeout=None)
    store.delete("x", batch.ids[10:20], timeout=None)
    query = batch.vectors[IMAGE.column][:1]
    hits = store.search("x", Search(queries=query, k=100, using=IMAGE.column), timeout=None)[0]
    assert {hit.id for hit in hits} == set(batch.ids[20:])
    store.upsert("x", batch.take([0]), timeout=None)
    assert store.search("x", Search(queries=query, k=1, using=IMAGE.column), timeout=None)[0][0].id == "r0"
    assert store.count("x", None, timeout=None) == 11


# --- collections ----------------------------------------------------------------------------------


def test_collections_and_aliases(store: PqConnector) -> None:
    with pytest.raises(AlreadyExists):
        store.create("x", SPEC, timeout=None)
    store.create("y", SPEC, timeout=None)
    assert store.names(timeout=None) == ["x", "y"]
    store.alias("now", "x", timeout=None)
    store.upsert("now", make_batch(["a"]), timeout=None)
    assert store.count("x", None, timeout=None) == 1
    store.alias("now", "y", timeout=None)
    assert store.count("now", None, timeout=None) == 0
    assert store.aliases(timeout=None) == {"now": "y"}
    with pytest.raises(AlreadyExists):
        store.alias("x", "y", timeout=None)
    with pytest.raises(AlreadyExists):
        store.create("now", SPEC, timeout=None)
    with pytest.raises(NotFound):
        store.alias("other", "nothing", timeout=None)
    store.drop("nothing", timeout=None)
    store.drop("y", timeout=None)
    assert store.aliases(timeout=None) == {}
    with pytest.raises(NotFound):
        store.flush("now", timeout=None)
    with pytest.raises(Unsupported):
        store.create("f", replace(SPEC, layout=Foreign(ids="text", key="id")), timeout=None)


def test_drop_removes_the_files(path: Path, store: PqConnector) -> None:
    store.upsert("x", make_batch(["a", "b"]), timeout=None)
    assert len(list(path.glob("segments/*"))) == 2
    store.drop("x", timeout=None)
    assert not list(path.glob("segments/*"))
    store.create("x", SPEC, timeout=None)
    assert store.count("x", None, timeout=None) == 0


def test_alter_adds_fields_and_vectors_and_fills_them(store: PqConnector) -> None:
    batch = make_batch([f"r{i}" for i in range(25)])
    payloads = tuple(
        {**p, "later": i, "words": [f"w{i}"], "when": TIMES[1] if i < 2 else None}
        for i, p in enumerate(batch.payloads or ())
    )
    store.upsert("x", replace(batch, payloads=payloads), timeout=None)
    more = Vector(name="more", dim=2, metric=Metric.DOT, fingerprint=OTHER)
    fields = (
        *SPEC.fields,
        Field(name="later", kind=Kind.INT),
        Field(name="words", kind=Kind.TEXT, many=True),
        Field(name="when", kind=Kind.TIME),
    )
    spec = replace(SPEC, fields=fields, vectors=(*SPEC.vectors, more))
    store.alter("x", spec, timeout=None)
    assert store.describe("x", timeout=None) == spec
    assert found(store, bind(F.later > 20, spec)) == ["r21", "r22", "r23", "r24"]
    assert found(store, bind(F.words.contains("w3"), spec)) == ["r3"]
    assert found(store, bind(F.when.exists(), spec)) == ["r0", "r1"]
    request = Search(queries=np.ones((1, 2), dtype=np.float32), k=3, using=more.column)
    assert store.search("x", request, timeout=None) == [[]]
    matrix = np.ones((1, 2), dtype=np.float32)
    store.upsert("x", Batch(("new",), {more.column: matrix}, ({"_rev": 1, "later": 99},)), timeout=None)
    assert [(h.id, h.score) for h in store.search("x", request, timeout=None)[0]] == [("new", 2.0)]
    with pytest.raises(Unsupported):
        store.alter("x", SPEC, timeout=None)


def test_an_alter_that_cannot_fill_changes_nothing(path: Path, store: PqConnector) -> None:
    batch = make_batch([f"r{i}" for i in range(1500)])  # more than a page, the wrong one in the second
    payloads = tuple({"_rev": 1, "later": i, "words": [f"w{i}"]} for i in range(1499))
    store.upsert("x", replace(batch, payloads=(*payloads, {"_rev": 1, "later": "?"})), timeout=None)
    fields = (
        *SPEC.fields,
        Field(name="later", kind=Kind.INT),
        Field(name="words", kind=Kind.TEXT, many=True),
    )
    db = sqlite3.connect(path / "pixdex.sqlite")
    before = list(db.iterdump())
    with pytest.raises(InvalidRecord, match=r"record 'r1499': field 'later'.* no field was added"):
        store.alter("x", replace(SPEC, fields=fields), timeout=None)
    assert store.describe("x", timeout=None) == SPEC
    assert list(db.iterdump()) == before
    db.close()


def test_a_value_of_the_wrong_kind_leaves_nothing_written(path: Path, store: PqConnector) -> None:
    """A stale writer does not know what was declared after it was opened."""
    first = make_batch(["a"])
    store.upsert("x", first, timeout=None)
    batch = make_batch(["a", "b"], seed=3)
    payloads = batch.payloads or ()
    for wrong in ({"int": "?"}, {"ints": [1, "?"]}, {"ints": 1}, {"time": "?"}, {"geo": 5}):
        with pytest.raises(InvalidRecord, match="open the collection again"):
            store.upsert("x", replace(batch, payloads=(payloads[0], {**payloads[1], **wrong})), timeout=None)
    assert found(store, None) == ["a"]
    store.upsert("x", make_batch(["c"], seed=4), timeout=None)
    assert segment_of(path).stat().st_size == 64 + 2 * 32  # the rows that were refused are written over
    back = store.fetch("x", ["a", "c"], want=ALL, timeout=None)
    expected = [first.vectors[IMAGE.column][0], make_batch(["c"], seed=4).vectors[IMAGE.column][0]]
    np.testing.assert_array_equal(back.vectors[IMAGE.column], expected)
    assert (back.payloads or ())[0] == (first.payloads or ())[0]


def test_a_filter_of_a_stale_handle_is_refused(store: PqConnector) -> None:
    store.upsert("x", make_batch(["a", "b"]), timeout=None)
    other = Spec(vectors=SPEC.vectors, fields=(Field(name="album", kind=Kind.TEXT), *FIELDS[1:]))
    for where in (F.album == "sea", ~(F.album == "sea"), F.album.exists() | F.ids(["a"])):  # its column is "text" here
        stale = bind(where, other)
        request = Search(queries=np.ones((1, 8), dtype=np.float32), k=1, using=IMAGE.column, where=stale)
        for use in (
            lambda r=request: store.search("x", r, timeout=None),
            lambda w=stale: store.scan("x", Scan(size=5, where=w), timeout=None),
            lambda w=stale: store.count("x", w, timeout=None),
            lambda w=stale: store.delete_where("x", w, timeout=None),
        ):
            with pytest.raises(FingerprintMismatch, match="album"):
                use()
    assert store.count("x", None, timeout=None) == 2


def test_a_vector_of_another_encoder_is_refused(store: PqConnector) -> None:
    stale = replace(IMAGE, fingerprint=OTHER).column
    vectors = {stale: np.ones((1, 8), dtype=np.float32)}
    with pytest.raises(FingerprintMismatch):
        store.search("x", Search(queries=vectors[stale], k=1, using=stale), timeout=None)
    with pytest.raises(FingerprintMismatch):
        store.upsert("x", Batch(("a",), vectors, ({},)), timeout=None)
    with pytest.raises(FingerprintMismatch):
        store.fetch("x", ["a"], want=Want(vectors=(stale,)), timeout=None)


# --- threads and processes ------------------------------------------------------------------------


def test_threads_see_whole_writes(store: PqConnector) -> None:
    """Each write replaces every record by one generation; a search must never see two, or miss any."""
    ids = [f"r{i}" for i in range(40)]
    failures: list[object] = []
    stop = threading.Event()

    def write(generation: int) -> Batch:
        matrix = np.full((len(ids), 8), generation, dtype=np.float32)
        return Batch(tuple(ids), {IMAGE.column: matrix}, ({"_rev": generation, "int": generation},) * len(ids))

    def read() -> None:
        try:
            query = np.zeros((1, 8), dtype=np.float32)
            while not stop.is_set():
                for where in (None, bind(F.int.exists(), SPEC)):
                    request = Search(queries=query, k=100, using=IMAGE.column, where=where)
                    hits = store.search("x", request, timeout=None)[0]
                    seen = {(hit.payload or {})["int"] for hit in hits} | {
                        round((-hit.score / 8) ** 0.5) for hit in hits
                    }
                    if len(hits) != len(ids) or len(seen) != 1:
                        failures.append((len(hits), seen))
        except PixdexError as error:
            failures.append(error)

    store.upsert("x", write(1), timeout=None)
    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for generation in range(2, 40):
        store.upsert("x", write(generation), timeout=None)
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures


def test_threads_may_all_write(store: PqConnector) -> None:
    def write(worker: int) -> None:
        for i in range(5):
            store.upsert("x", make_batch([f"{worker}-{i}-{j}" for j in range(10)], seed=worker), timeout=None)

    workers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert store.count("x", None, timeout=None) == 400
    batch = store.fetch("x", ["3-2-4"], want=ALL, timeout=None)
    expected = make_batch([f"x{j}" for j in range(10)], seed=3).vectors[IMAGE.column][4]
    np.testing.assert_array_equal(batch.vectors[IMAGE.column][0], expected)


def child(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A process that runs ``code`` with the names of this module at hand."""
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_pq_store import *\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options)


def output(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_process_writes_and_many_read(path: Path, store: PqConnector) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)
    process = child(
        """
        other = PqConnector(Path(sys.argv[1]))
        print(other.count("x", None, timeout=None), flush=True)
        try:
            other.upsert("x", make_batch(["b"]), timeout=0.1)
        except StoreLocked as error:
            print(error, flush=True)
        input()
        other.upsert("x", make_batch(["b"]), timeout=None)
        print("written", flush=True)
        input()
        """,
        path,
    )
    assert output(process) == "1"
    assert f"pid {os.getpid()} on " in output(process)
    store.close()
    store = PqConnector(path)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert output(process) == "written"
    assert store.count("x", None, timeout=None) == 2  # reads what the other wrote
    with pytest.raises(StoreLocked, match=f"pid {process.pid} on"):
        store.upsert("x", make_batch(["c"]), timeout=0.1)
    process.kill()  # a dead owner blocks nobody
    process.communicate()
    store.upsert("x", make_batch(["c"]), timeout=None)
    assert sorted(found(store, None)) == ["a", "b", "c"]
    store.close()


def test_handles_of_one_process_share_the_lock(path: Path, store: PqConnector) -> None:
    other = PqConnector(path)
    store.upsert("x", make_batch(["a"]), timeout=None)
    other.upsert("x", make_batch(["b"]), timeout=None)
    other.close()
    store.upsert("x", make_batch(["c"]), timeout=None)
    assert store.count("x", None, timeout=None) == 3


def test_a_fork_reads_and_does_not_write(store: PqConnector) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)
    pid = os.fork()
    if pid == 0:
        try:
            assert store.count("x", None, timeout=None) == 1
            store.upsert("x", make_batch(["b"]), timeout=0.1)
        except StoreLocked:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    store.upsert("x", make_batch(["c"]), timeout=None)
    assert store.count("x", None, timeout=None) == 2


def test_time_runs_out_between_steps(store: PqConnector) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)
    request = Search(queries=np.ones((1, 8), dtype=np.float32), k=1, using=IMAGE.column)
    with pytest.raises(StoreTimeout):
        store.search("x", request, timeout=0.0)
    with pytest.raises(StoreTimeout):
        store.upsert("x", make_batch(["b"]), timeout=0.0)
    assert found(store, None) == ["a"]


def test_a_read_that_races_a_drop_says_so(path: Path, store: PqConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)
    other, resolve = PqConnector(path), _pq_records.resolve

    def slow(db: sqlite3.Connection, name: str) -> Any:
        target = resolve(db, name)
        monkeypatch.setattr(_pq_records, "resolve", resolve)
        other.drop("x", timeout=None)
        return target

    request = Search(queries=np.ones((1, 8), dtype=np.float32), k=1, using=IMAGE.column)
    for read in (
        lambda: store.search("x", request, timeout=None),
        lambda: store.fetch("x", ["a"], want=ALL, timeout=None),
        lambda: store.scan("x", Scan(size=1, want=ALL), timeout=None),
    ):
        monkeypatch.setattr(_pq_records, "resolve", slow)
        with pytest.raises(NotFound, match="dropped"):
            read()
        monkeypatch.setattr(_pq_records, "resolve", resolve)
        store.create("x", SPEC, timeout=None)
        store.upsert("x", make_batch(["a"]), timeout=None)
    other.close()


# --- closing --------------------------------------------------------------------------------------


def test_a_closed_store_is_closed(path: Path, store: PqConnector) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)
    store.close()
    store.close()
    request = Search(queries=np.ones((1, 8), dtype=np.float32), k=1, using=IMAGE.column)
    for use in (
        lambda: store.create("y", SPEC, timeout=None),
        lambda: store.describe("x", timeout=None),
        lambda: store.alter("x", SPEC, timeout=None),
        lambda: store.drop("x", timeout=None),
        lambda: store.names(timeout=None),
        lambda: store.alias("z", "x", timeout=None),
        lambda: store.aliases(timeout=None),
        lambda: store.upsert("x", make_batch(["b"]), timeout=None),
        lambda: store.delete("x", ["a"], timeout=None),
        lambda: store.delete_where("x", Ids(("a",)), timeout=None),
        lambda: store.flush("x", timeout=None),
        lambda: store.fetch("x", ["a"], want=Want(), timeout=None),
        lambda: store.scan("x", Scan(size=1), timeout=None),
        lambda: store.count("x", None, timeout=None),
        lambda: store.search("x", request, timeout=None),
    ):
        with pytest.raises(StoreError, match=f"pq://{path} is closed"):
            use()
    process = child(
        """
        PqConnector(Path(sys.argv[1])).upsert("x", make_batch(["b"]), timeout=None)
        print("written", flush=True)
        """,
        path,
    )
    assert process.communicate()[0].strip() == "written"  # the lock was given back, and not taken again


def test_a_read_that_ends_after_close_leaves_no_connection(store: PqConnector) -> None:
    with store._store.reading(Deadline(None)) as db:
        store.close()
        assert db.execute("SELECT count(*) FROM collections").fetchone() == (1,)
    assert store._store._idle == []
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        db.execute("SELECT 1")


def test_a_writer_that_waited_while_the_store_was_closed_does_not_write(path: Path, store: PqConnector) -> None:
    other, errors = PqConnector(path), []
    held = store._store._lock()

    def write() -> None:
        try:
            store.upsert("x", make_batch(["late"]), timeout=None)
        except StoreError as error:
            errors.append(str(error))

    writer = threading.Thread(target=write)
    with other._store.writing(Deadline(None)):
        writer.start()
        while held.handles < 2 or not writer.is_alive():
            threading.Event().wait(0.01)
        threading.Event().wait(0.1)  # by now it waits for its turn
        store.close()
    writer.join()
    assert errors == [f"pq://{path} is closed"]
    assert other.names(timeout=None) == ["x"]
    assert held.handles == 1
    other.close()
    assert held.file is None


@pytest.mark.parametrize("daemon", [True, False])
def test_the_interpreter_exits_quietly(path: Path, store: PqConnector, daemon: bool) -> None:
    """A store that nobody closed, busy or not, says nothing when its process ends."""
    store.upsert("x", make_batch([f"r{i}" for i in range(500)]), timeout=None)
    store.close()
    process = child(
        """
        store = PqConnector(Path(sys.argv[1]))
        store.upsert("x", make_batch(["b"]), timeout=None)
        suspended = store._store.reading(Deadline(None))
        suspended.__enter__()
        cycle = [PqConnector(Path(sys.argv[1]))]
        cycle[0].names(timeout=None)
        cycle.append(cycle)
        broken = PqConnector(Path(sys.argv[1]))
        broken._store._idle.append(((0, 0), None))  # whatever may go wrong then

        def read():
            while True:  # no numpy: Python ends daemon threads in a way that its C++ answers with abort()
                store.count("x", None, timeout=None)

        if sys.argv[2] == "True":
            for _ in range(4):
                threading.Thread(target=read, daemon=True).start()
            threading.Event().wait(0.1)
        """,
        path,
        daemon,
        stderr=subprocess.PIPE,
    )
    said, complaint = process.communicate()
    assert (process.returncode, said, complaint) == (0, "", "")


# --- wounds ---------------------------------------------------------------------------------------


def test_a_failed_write_leaves_nothing(path: Path, store: PqConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)

    def crash(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(_pq_records, "insert", crash)  # the vectors are in the file by then
    with pytest.raises(StoreError, match="the disk is gone"):
        store.upsert("x", make_batch([f"b{i}" for i in range(50)]), timeout=None)
    monkeypatch.undo()
    with segment_of(path).open("ab") as file:
        file.write(b"half a row")
    store.upsert("x", make_batch(["c"], seed=3), timeout=None)
    batch = PqConnector(path).fetch("x", ["a", "c"], want=ALL, timeout=None)
    expected = [make_batch(["a"]).vectors[IMAGE.column][0], make_batch(["c"], seed=3).vectors[IMAGE.column][0]]
    np.testing.assert_array_equal(batch.vectors[IMAGE.column], expected)


def test_nothing_is_acknowledged_that_is_not_on_the_disk(
    path: Path, store: PqConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreFull):
        store.upsert("x", make_batch(["b"]), timeout=None)
    assert found(store, None) == ["a"]
    assert segment_of(path).stat().st_size == 64 + 32
    store.close()
    unforced = PqConnector(path, PqOptions(sync=False))
    unforced.upsert("x", make_batch(["c"]), timeout=None)
    assert found(unforced, None) == ["a", "c"]
    unforced.close()


def test_killed_while_writing_it_opens_with_what_was_acknowledged(path: Path) -> None:
    PqConnector(path).create("x", SPEC, timeout=None)
    dice, acknowledged = random.Random(1), []
    for round_ in range(4):
        process = child(
            """
            store, n = PqConnector(Path(sys.argv[1])), 0
            while True:
                store.upsert("x", make_batch([f"{sys.argv[2]}-{n}-{i}" for i in range(20)], seed=n), timeout=None)
                print(n, flush=True)
                n += 1
            """,
            path,
            round_,
        )
        output(process)
        acknowledged.append(f"{round_}-0")
        threading.Event().wait(dice.random() * 0.2)
        process.kill()
        acknowledged += [f"{round_}-{line}" for line in process.communicate()[0].split()]
        store = PqConnector(path)
        batch = store.fetch("x", [f"{name}-7" for name in acknowledged], want=ALL, timeout=None)
        assert len(batch) == len(acknowledged)
        for record, vector in zip(batch.ids, batch.vectors[IMAGE.column], strict=True):
            expected = make_batch([str(i) for i in range(20)], seed=int(record.split("-")[1]))
            np.testing.assert_array_equal(vector, expected.vectors[IMAGE.column][7])
        store.upsert("x", make_batch([f"after {round_}"]), timeout=None)
        store.close()


def test_a_flipped_byte_is_never_served(path: Path, store: PqConnector) -> None:
    store.create("y", SPEC, timeout=None)
    for name in "xy":
        store.upsert(name, make_batch([f"r{i}" for i in range(50)]), timeout=None)
    store.close()
    segment = segment_of(path)
    data = bytearray(segment.read_bytes())
    data[64 + 20 * 32] ^= 1
    segment.write_bytes(data)
    again = PqConnector(path)
    request = Search(queries=np.ones((1, 8), dtype=np.float32), k=1, using=IMAGE.column)
    with pytest.raises(StoreFormat, match=rf"{segment.name}: the bytes at offset 64 "):
        again.search("x", request, timeout=None)
    with pytest.raises(StoreFormat):
        again.fetch("x", ["r3"], want=ALL, timeout=None)
    assert len(again.search("y", request, timeout=None)[0]) == 1
    assert len(again.fetch("x", ["r3"], want=Want(), timeout=None)) == 1


def test_blocks_that_grow_are_checked_where_they_grew(path: Path, store: PqConnector) -> None:
    request = Search(queries=np.ones((1, 8), dtype=np.float32), k=100, using=IMAGE.column)
    for i in range(30):
        store.upsert("x", make_batch([f"r{i}"], seed=i), timeout=None)
        assert len(store.search("x", request, timeout=None)[0]) == i + 1
    blocks = sqlite3.connect(path / "pixdex.sqlite").execute("SELECT count(*) FROM blocks").fetchone()
    assert blocks == (2,)  # one for each vector


@pytest.mark.parametrize("wound", ["cut", "header", "gone"])
def test_a_wounded_segment_is_named(path: Path, store: PqConnector, wound: str) -> None:
    store.upsert("x", make_batch(["a", "b"]), timeout=None)
    store.close()
    segment = segment_of(path)
    data = segment.read_bytes()
    if wound == "gone":
        segment.unlink()
    else:
        segment.write_bytes(data[:100] if wound == "cut" else b"?" + data[1:])
    again = PqConnector(path)
    with pytest.raises(StoreFormat, match=segment.name):
        again.fetch("x", ["a"], want=ALL, timeout=None)
    if wound != "header":
        with pytest.raises(StoreFormat, match=segment.name):
            again.upsert("x", make_batch(["c"]), timeout=None)
    assert found(again, None) == ["a", "b"]
    again.close()


def test_the_segment_of_another_collection_is_not_taken_for_ours(path: Path, store: PqConnector) -> None:
    store.create("y", SPEC, timeout=None)
    for name in "xy":
        store.upsert(name, make_batch(["a", "b"]), timeout=None)
    store.close()
    segment_of(path).write_bytes(segment_of(path, "y").read_bytes())
    with pytest.raises(StoreFormat, match="header"):
        PqConnector(path).fetch("x", ["a"], want=ALL, timeout=None)


@pytest.mark.parametrize("idle", [True, False])
def test_a_store_that_was_made_anew_shows_nothing_old(path: Path, store: PqConnector, idle: bool) -> None:
    older, want = PqConnector(path), Want(vectors=(IMAGE.column,))
    store.upsert("x", make_batch(["a", "b"]), timeout=None)
    assert len(older.fetch("x", ["a"], want=want, timeout=None)) == 1
    store.close()
    if not idle:
        older._store.release()  # as if its connection were busy: the next one sees the new database
    shutil.rmtree(path)
    newer = PqConnector(path)
    newer.create("x", SPEC, timeout=None)
    newer.upsert("x", make_batch(["a"], seed=5), timeout=None)
    batch = older.fetch("x", ["a", "b"], want=want, timeout=None)
    np.testing.assert_array_equal(batch.vectors[IMAGE.column], make_batch(["a"], seed=5).vectors[IMAGE.column])
    assert not idle or len(older._vectors._segments) == 1  # the old mapping is let go
    older.close()
    newer.close()


def test_what_is_written_to_a_store_that_was_made_anew_is_there(path: Path, store: PqConnector) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)
    shutil.rmtree(path)
    newer = PqConnector(path)
    newer.create("x", SPEC, timeout=None)
    store.upsert("x", make_batch(["b"]), timeout=None)
    newer.upsert("x", make_batch(["c"]), timeout=None)
    for handle in (store, newer, PqConnector(path)):
        assert sorted(found(handle, None)) == ["b", "c"]
        handle.close()


def test_a_connection_that_was_busy_while_the_store_was_made_anew_is_not_used_again(
    path: Path, store: PqConnector
) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)
    with store._store.reading(Deadline(None)):
        shutil.rmtree(path)
        newer = PqConnector(path)
        newer.create("x", SPEC, timeout=None)
        assert found(store, None) == []
    assert found(store, None) == []
    newer.close()


def test_a_store_that_is_removed_while_a_writer_waits_is_not_written(
    path: Path, store: PqConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the lock the directory goes."""
    taken = WriterLock.take

    def take(lock: WriterLock, wait: float) -> bool:
        shutil.rmtree(path)
        path.mkdir()
        return taken(lock, wait)

    store.upsert("x", make_batch(["a"]), timeout=None)
    monkeypatch.setattr(WriterLock, "take", take)
    with pytest.raises(NotFound):
        store.upsert("x", make_batch(["b"]), timeout=None)


def test_the_files_of_a_drop_that_crashed_are_swept(path: Path, store: PqConnector) -> None:
    store.upsert("x", make_batch(["a"]), timeout=None)
    store.close()
    orphan = path / "segments" / "77.seg"
    orphan.write_bytes(b"left over")
    again = PqConnector(path)
    again.upsert("x", make_batch(["b"]), timeout=None)
    assert not orphan.exists()
    again.close()


# --- not a store ----------------------------------------------------------------------------------


def test_a_store_that_is_not_there_is_not_made_by_looking(path: Path) -> None:
    store = PqConnector(path)
    with pytest.raises(NotFound, match="no store"):
        store.describe("x", timeout=None)
    with pytest.raises(NotFound):
        store.upsert("x", make_batch(["a"]), timeout=None)
    assert (store.names(timeout=None), store.aliases(timeout=None)) == ([], {})
    store.drop("x", timeout=None)
    store.close()
    store.close()
    assert not path.exists()


def test_a_directory_of_something_else_is_not_touched(path: Path) -> None:
    path.mkdir()
    (path / "holiday.jpg").write_bytes(b"...")
    with pytest.raises(StoreFormat, match="not a store"):
        PqConnector(path).create("x", SPEC, timeout=None)
    assert [entry.name for entry in path.iterdir()] == ["holiday.jpg"]


def test_a_file_is_no_store(path: Path) -> None:
    path.write_bytes(b"...")
    for store in (PqConnector(path), PqConnector(path / "below")):
        with pytest.raises(StoreFormat):
            store.create("x", SPEC, timeout=None)
    with pytest.raises(StoreFormat):
        PqConnector(path).names(timeout=None)


@pytest.mark.parametrize("pragma", ["user_version = 99", "application_id = 7"])
def test_a_newer_or_foreign_database_is_refused(path: Path, store: PqConnector, pragma: str) -> None:
    store.close()
    db = sqlite3.connect(path / "pixdex.sqlite")
    db.execute(f"PRAGMA {pragma}")
    db.close()
    with pytest.raises(StoreFormat, match="newer pixdex" if "99" in pragma else "another program"):
        PqConnector(path).describe("x", timeout=None)
    with pytest.raises(StoreFormat):
        PqConnector(path).create("y", SPEC, timeout=None)


def test_a_corrupt_database_is_named(path: Path, store: PqConnector) -> None:
    store.close()
    database = path / "pixdex.sqlite"
    database.write_bytes(b"garbage " * 1000)
    with pytest.raises(StoreFormat, match=r"pixdex\.sqlite"):
        PqConnector(path).describe("x", timeout=None)


def test_a_creation_that_crashed_is_finished_by_the_next(path: Path) -> None:
    path.mkdir()
    db = sqlite3.connect(path / "pixdex.sqlite")
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    store = PqConnector(path)
    with pytest.raises(NotFound):
        store.describe("x", timeout=None)
    store.create("x", SPEC, timeout=None)
    assert store.names(timeout=None) == ["x"]
    store.close()


# --- the system says no ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [40_000, 120_000, 400_000])
def test_a_full_disk_loses_nothing(path: Path, limit: int) -> None:
    """A file size limit stands in for a full disk: it stops SQLite and segments at the same kind of write."""
    PqConnector(path).create("x", SPEC, timeout=None)
    process = child(
        """
        import resource
        store, n = PqConnector(Path(sys.argv[1])), 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
        try:
            while True:
                store.upsert("x", make_batch([f"{n}-{i}" for i in range(100)], seed=n), timeout=None)
                n += 1
        except StoreFull:
            pass
        print(n, store.count("x", None, timeout=None), flush=True)
        os._exit(0)
        """,
        path,
        limit,
    )
    written, counted = map(int, process.communicate()[0].split())
    assert counted == written * 100
    store = PqConnector(path)
    assert store.count("x", None, timeout=None) == counted
    for n in range(written):
        batch = store.fetch("x", [f"{n}-{i}" for i in range(100)], want=ALL, timeout=None)
        expected = make_batch([str(i) for i in range(100)], seed=n).vectors[IMAGE.column]
        np.testing.assert_array_equal(batch.vectors[IMAGE.column], expected)
    store.upsert("x", make_batch(["after"]), timeout=None)
    assert store.count("x", None, timeout=None) == counted + 1
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small disk needs privileges")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(store: PqConnector) -> None:
    for n in itertools.count():
        store.upsert("x", make_batch([f"{n}-{i}" for i in range(50)], seed=n), timeout=None)


def test_a_really_full_disk_loses_nothing(small_disk: Path) -> None:
    store = PqConnector(small_disk / "s.pix")
    store.create("x", SPEC, timeout=None)
    with pytest.raises(StoreFull, match="free some space"):
        fill(store)
    n = store.count("x", None, timeout=None) // 50
    assert n
    for reader in (store, PqConnector(small_disk / "s.pix")):
        assert reader.count("x", None, timeout=None) == n * 50
        assert len(reader.fetch("x", [f"{n - 1}-3"], want=ALL, timeout=None)) == 1
        reader.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user to be denied")
@pytest.mark.parametrize("closed", [True, False])
def test_a_read_only_directory_can_be_read(closed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest closes its own to others
        Path(folder).chmod(0o755)
        _check_read_only(Path(folder) / "photos.pix", closed)


def _check_read_only(path: Path, closed: bool) -> None:
    store = PqConnector(path)
    store.create("x", SPEC, timeout=None)
    store.upsert("x", make_batch(["a"]), timeout=None)
    if closed:
        store.close()
    for entry in [path, *path.rglob("*")]:
        entry.chmod(0o555 if entry.is_dir() else 0o444)
    process = child(
        """
        store = PqConnector(Path(sys.argv[1]))
        assert Spec.from_json(SPEC.to_json()) == SPEC  # imports what the other user may not read
        os.setuid(65534)
        print(len(store.fetch("x", ["a"], want=ALL, timeout=None)), flush=True)
        try:
            store.upsert("x", make_batch(["b"]), timeout=None)
        except AccessDenied:
            print("denied", flush=True)
        """,
        path,
    )
    assert process.communicate()[0].split() == ["1", "denied"]
    store.close()


def test_addresses(tmp_path: Path) -> None:
    connector, name = connect(f"pq://{tmp_path}/s.pix?sync=0#holidays")
    assert (connector.scheme, name) == ("pq", "holidays")
    assert isinstance(connector, PqConnector)
    connector.create(name, SPEC, timeout=None)
    connector.upsert(name, make_batch(["a"]), timeout=None)
    assert connector.count(name, None, timeout=None) == 1
    connector.close()
    with pytest.raises(ConfigError, match="did you mean 'sync'"):
        connect("pq://s.pix?snyc=0")
    with pytest.raises(ConfigError, match="needs a path"):
        connect("pq://")


# --- older formats --------------------------------------------------------------------------------


def make_older(path: Path) -> None:
    """Turn a store into what format 1 was: no ``seq``, ``indexing``, ``file`` and checksums; files named by the
    vector.
    """
    db = sqlite3.connect(path / "pixdex.sqlite", isolation_level=None)
    assert db.execute("SELECT count(*) FROM vectors WHERE file != id").fetchone() == (0,)
    added = {"collections": ("seq", "indexing", "crc"), "vectors": ("file",), "b1": ("crc", "tokens_crc")}
    for table, column in ((table, column) for table, columns in added.items() for column in columns):
        db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    db.execute("PRAGMA user_version = 1")
    db.close()
    (path / "derived").rmdir()


@pytest.mark.parametrize("first", ["read", "write"])
def test_a_store_of_format_1_is_upgraded(path: Path, store: PqConnector, first: str) -> None:
    batch = make_batch([f"r{i}" for i in range(30)])
    store.upsert("x", batch, timeout=None)
    store.delete("x", ["r3"], timeout=None)
    store.close()
    make_older(path)
    again = PqConnector(path)
    if first == "write":
        again.upsert("x", make_batch(["new"]), timeout=None)
    back = again.fetch("x", ["r3", "r7"], want=ALL, timeout=None)
    np.testing.assert_array_equal(back.vectors[IMAGE.column], batch.vectors[IMAGE.column][7:8])
    assert again.describe("x", timeout=None) == SPEC
    assert again.count("x", None, timeout=None) == 29 + (first == "write")
    other = PqConnector(path)  # whoever upgraded without writing gave the lock back, or it is this process's
    other.upsert("x", make_batch(["r3"]), timeout=None)
    assert again.count("x", None, timeout=None) == 30 + (first == "write")
    assert (path / "derived").is_dir()
    assert sqlite3.connect(path / "pixdex.sqlite").execute("PRAGMA user_version").fetchone() == (2,)
    again.close()
    other.close()


def test_a_store_of_format_1_that_another_writes_is_named(path: Path, store: PqConnector) -> None:
    store.close()
    make_older(path)
    process = child(
        """
        lock = WriterLock.join(Path(sys.argv[1]) / "pixdex.lock")
        lock.take(0)
        print("held", flush=True)
        input()
        """,
        path,
    )
    assert output(process) == "held"
    with pytest.raises(StoreFormat, match="older pixdex.*open it once where it may be written"):
        PqConnector(path).describe("x", timeout=None)
    process.communicate("\n")
    assert PqConnector(path).describe("x", timeout=None) == SPEC


# --- what a snapshot knows ------------------------------------------------------------------------


def test_the_snapshot_is_the_same_until_something_changes(path: Path, store: PqConnector) -> None:
    other = PqConnector(path)

    def look(handle: PqConnector, name: str = "x") -> _pq_records.Snapshot:
        with handle._store.reading(Deadline(None)) as db:
            return _pq_records.resolve(db, name)

    other.alias("now", "x", timeout=None)
    store.create("y", SPEC, timeout=None)
    before = look(store)
    for change in (
        lambda: store.upsert("x", make_batch(["a", "b"]), timeout=None),
        lambda: other.upsert("now", make_batch(["a"]), timeout=None),
        lambda: store.delete("x", ["a"], timeout=None),
        lambda: store.delete_where("x", bind(Ids(("b",)), SPEC), timeout=None),
        lambda: store.alter("x", replace(SPEC, fields=(*FIELDS, Field(name="more", kind=Kind.INT))), timeout=None),
    ):
        change()
        assert look(store).seq == before.seq + 1
        before = look(store)
        assert look(store) is look(store, "now") is before
    store.delete("x", ["unknown"], timeout=None)
    store.upsert("y", make_batch(["a"]), timeout=None)
    assert look(store) is before
    other.close()


def test_what_was_rolled_back_is_not_known(store: PqConnector) -> None:
    """A transaction that fails after it looked must not leave its view of the collection behind."""

    def fail() -> None:
        with store._store.writing(Deadline(None)) as db:
            db.execute("UPDATE collections SET next_row = 77")
            _pq_records.changed(db, 1)
            assert _pq_records.resolve(db, "x").next_row == 77
            raise ConfigError("no")

    with pytest.raises(ConfigError):
        fail()
    store.upsert("x", make_batch(["a"]), timeout=None)  # the same seq again
    with store._store.reading(Deadline(None)) as db:
        assert _pq_records.resolve(db, "x").next_row == 2
