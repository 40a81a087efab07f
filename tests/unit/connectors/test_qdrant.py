"""What is Qdrant's own: opening, the layout, exact conditions, translated errors."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import sqlite3
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_client")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from pixdex import errors, filters
from pixdex.connectors import connect, qdrant
from pixdex.connectors._qdrant_errors import translated
from pixdex.connectors._qdrant_filters import MAX_DEPTH
from pixdex.connectors._qdrant_filters import to_filter as compiled
from pixdex.connectors._qdrant_ids import point_id
from pixdex.connectors._qdrant_models import CLIENT
from pixdex.connectors._shared import Shared
from pixdex.filters import F
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, Vector
from pixdex.types import Batch, Scan, Search, Want

PRINT = Fingerprint(encoder="e", digest="3fa9c1d2")
SPEC = Spec(
    vectors=(Vector(dim=2, metric=Metric.L2, fingerprint=PRINT),),
    fields=(
        Field(name="text", kind=Kind.TEXT),
        Field(name="at", kind=Kind.TIME),
        Field(name="spot", kind=Kind.GEO),
        Field(name="spots", kind=Kind.GEO, many=True),
    ),
)

IMAGE = SPEC.vectors[0].column


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"qdrant+local://{tmp_path}/store"


@pytest.fixture
def store(url: str) -> Iterator[qdrant.Qdrant]:
    connector, name = connect(url)
    assert isinstance(connector, qdrant.Qdrant)
    connector.create(name, SPEC, timeout=None)
    yield connector
    connector.close()


def put(store: qdrant.Qdrant, **payloads: dict[str, object]) -> None:
    vectors = {IMAGE: np.ones((len(payloads), 2), np.float32)}
    store.upsert("main", Batch(tuple(payloads), vectors, tuple(payloads.values())), timeout=None)


def to_filter(where: filters.Filter | None) -> Any:
    return compiled(where, CLIENT, point_id)


def found(store: qdrant.Qdrant, where: filters.Filter) -> set[str]:
    page = store.scan("main", Scan(size=1000, where=filters.bind(where, SPEC)), timeout=None)
    return set(page.batch.ids)


# --- opening ---


def test_an_unknown_option_is_refused(url: str) -> None:
    with pytest.raises(errors.ConfigError, match="grcp"):
        connect(f"{url}?grcp=1")


def test_a_path_is_needed() -> None:
    with pytest.raises(errors.ConfigError, match="needs a path"):
        connect("qdrant+local://")


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("hello")
    with pytest.raises(errors.StoreFormat, match="no Qdrant directory"):
        connect(f"qdrant+local://{tmp_path}/store")


def test_another_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(errors.StoreFormat, match="no Qdrant directory"):
        connect(f"qdrant+local://{tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"collections": {"a": 1}, "aliases": {}}'])
def test_a_corrupt_directory_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(errors.StoreFormat):
        connect(f"qdrant+local://{tmp_path}")


OPEN = """
import sys
from pixdex.connectors import connect
from pixdex.errors import StoreLocked
try:
    store, name = connect(sys.argv[1])
    print(store.count(name, None, timeout=None))
except StoreLocked as error:
    print("locked", error.__cause__ is not None)
"""


def in_another_process(url: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", OPEN, url], capture_output=True, text=True, check=True)
    assert done.stderr == ""  # also when nobody closes it
    return done.stdout.strip()


def test_one_process_holds_it(store: qdrant.Qdrant, url: str) -> None:
    put(store, a={"_rev": 1})
    assert in_another_process(url) == "locked True"
    store.close()
    assert in_another_process(url) == "1"


def test_connectors_of_a_process_share_it(store: qdrant.Qdrant, url: str) -> None:
    put(store, a={"_rev": 1})
    other, _ = connect(url)
    assert other.count("main", None, timeout=None) == 1
    store.close()
    store.close()
    with pytest.raises(errors.StoreError, match="closed"):
        store.names(timeout=None)
    assert other.count("main", None, timeout=None) == 1
    other.close()


def test_a_missing_client_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['qdrant_client'] = None\n"
        "from pixdex.connectors import connect\n"
        "try: connect('qdrant+local://x')\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'MissingDependency qdrant-client is not installed: pip install "pixdex[qdrant]"'


def test_reading_makes_nothing(tmp_path: Path) -> None:
    store, name = connect(f"qdrant+local://{tmp_path}/typo")
    where = filters.bind(F.text == "x", SPEC)
    search = Search(queries=np.ones((1, 2), np.float32), k=1, using=IMAGE)
    for call in (
        lambda: store.describe(name, timeout=None),
        lambda: store.count(name, None, timeout=None),
        lambda: store.scan(name, Scan(size=1), timeout=None),
        lambda: store.search(name, search, timeout=None),
        lambda: store.fetch(name, ["a"], want=Want(), timeout=None),
        lambda: store.delete(name, ["a"], timeout=None),
        lambda: store.delete_where(name, where, timeout=None),
        lambda: store.upsert(name, Batch(("a",), {}, ({},)), timeout=None),
        lambda: store.alter(name, SPEC, timeout=None),
        lambda: store.flush(name, timeout=None),
        lambda: store.alias("live", name, timeout=None),
    ):
        with pytest.raises(errors.NotFound):
            call()
    store.drop(name, timeout=None)
    store.alias("live", None, timeout=None)
    assert list(store.names(timeout=None)) == []
    assert store.aliases(timeout=None) == {}
    assert list(tmp_path.iterdir()) == []
    store.close()
    with pytest.raises(errors.StoreError, match="closed"):
        store.names(timeout=None)


def test_a_store_is_seen_once_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()  # as good as none
    (early, name), (maker, _) = (connect(f"qdrant+local://{tmp_path}/store") for _ in range(2))
    assert list((tmp_path / "store").iterdir()) == []
    maker.create(name, SPEC, timeout=None)
    assert list(early.names(timeout=None)) == [name]
    maker.close()
    assert early.count(name, None, timeout=None) == 0
    early.close()


# --- sharing ---


class Forgotten:
    """What a garbage collection finalizes: it takes part in a cycle."""

    def __init__(self) -> None:
        self.me = self


@pytest.mark.timeout(20)  # a deadlock is a failure
def test_a_connector_may_be_finalized_while_another_opens(tmp_path: Path) -> None:
    closed: list[str] = []

    def opener(path: str) -> str:
        gc.collect()
        return path

    shared = Shared(opener, closed.append)
    forgotten = Forgotten()
    weakref.finalize(forgotten, shared.lease("/a").release)
    del forgotten
    shared.lease("/b").release()
    assert closed == ["/a", "/b"]


class Disturbed(dict[str, Any]):
    """Runs ``between`` once, behind a look-up: where a garbage collection may."""

    between: Callable[[], None] = staticmethod(lambda: None)

    def get(self, *key: Any) -> Any:
        entry = super().get(*key)
        between, self.between = self.between, lambda: None
        between()
        return entry


@pytest.mark.timeout(20)
def test_a_store_whose_last_user_goes_meanwhile_is_opened_again() -> None:
    opened = itertools.count()
    closed: list[int] = []
    shared: Shared[int] = Shared(lambda _path: next(opened), closed.append)
    shared._entries = entries = Disturbed()
    first = shared.lease("/a")
    entries.between = first.release
    second = shared.lease("/a")
    assert (first.resource, second.resource, closed) == (0, 1, [0])
    second.release()
    assert closed == [0, 1]


# --- handles that went stale ---


def moved(*fields: Field) -> Spec:
    return Spec(vectors=SPEC.vectors, fields=fields)


def test_a_filter_of_another_collection_is_refused(store: qdrant.Qdrant) -> None:
    old = moved(Field(name="year", kind=Kind.INT), Field(name="n", kind=Kind.INT))
    new = moved(Field(name="n", kind=Kind.INT), Field(name="year", kind=Kind.INT))
    for name, spec in (("old", old), ("new", new)):
        store.drop(name, timeout=None)
        store.create(name, spec, timeout=None)
    store.upsert("new", Batch(("a",), {}, ({"_rev": 1, "n": 7, "year": 2020},)), timeout=None)
    where = filters.bind(F.year == 7, old)
    queries = np.ones((1, 2), np.float32)
    store.alias("live", "new", timeout=None)
    for call in (
        lambda: store.count("live", where, timeout=None),
        lambda: store.scan("live", Scan(size=9, where=where), timeout=None),
        lambda: store.search("live", Search(queries=queries, k=1, using=IMAGE, where=where), timeout=None),
        lambda: store.delete_where("live", where, timeout=None),
    ):
        with pytest.raises(errors.FingerprintMismatch, match="year"):
            call()
    assert store.count("live", filters.bind(F.year == 2020, new), timeout=None) == 1


def test_a_value_of_the_wrong_kind_leaves_the_batch_unwritten(store: qdrant.Qdrant) -> None:
    with pytest.raises(errors.InvalidRecord, match="'text'"):
        put(store, a={"text": "fine"}, b={"text": 1})
    assert store.count("main", None, timeout=None) == 0


# --- what others made ---


def test_a_collection_of_another_tool(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path / "store"))
    client.create_collection("main", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    client.close()
    store, name = connect(f"qdrant+local://{tmp_path}/store")
    assert list(store.names(timeout=None)) == ["main"]
    with pytest.raises(errors.StoreFormat, match="not made by pixdex"):
        store.describe(name, timeout=None)
    store.close()


def test_a_point_of_another_tool(store: qdrant.Qdrant) -> None:
    with store._calling(None) as opened:
        opened.client.upsert("main", [models.PointStruct(id=7, vector={IMAGE: [1.0, 2.0]}, payload={})])
    with pytest.raises(errors.StoreFormat, match="point 7"):
        store.scan("main", Scan(size=9), timeout=None)


def test_ids_that_share_a_point_are_told_apart(store: qdrant.Qdrant) -> None:
    put(store, a={"_rev": 1})
    payload = {"_id": "b", "payload": "{}"}
    with store._calling(None) as opened:
        opened.client.upsert("main", [models.PointStruct(id=point_id("a"), vector={}, payload=payload)])
    with pytest.raises(errors.StoreError, match="share point"):
        store.fetch("main", ["a"], want=Want(), timeout=None)


# --- the layout ---


def test_a_field_is_filled_for_writers_that_had_read_the_old_spec(
    store: qdrant.Qdrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes a record without the new column just before the new Spec is there."""
    opened = store._share.lease().resource
    keep = opened.keep

    def late(name: str, spec: Spec, timeout: float | None) -> None:
        put(store, late={"_rev": time.time_ns() // 1000, "n": 7})
        keep(name, spec, timeout)

    put(store, early={"_rev": 1, "n": 7})
    monkeypatch.setattr(opened, "keep", late)
    more = Spec(vectors=SPEC.vectors, fields=(*SPEC.fields, Field(name="n", kind=Kind.INT)))
    store.alter("main", more, timeout=None)
    page = store.scan("main", Scan(size=9, where=filters.bind(F.n == 7, more)), timeout=None)
    assert set(page.batch.ids) == {"early", "late"}


def test_tokens_are_read_only_when_wanted(store: qdrant.Qdrant) -> None:
    tokens = np.arange(6, dtype=np.int8).reshape(3, 2)
    store.upsert("main", Batch(("a",), {}, ({"_rev": 1},), (tokens,)), timeout=None)
    plain = store.fetch("main", ["a"], want=Want(), timeout=None)
    assert plain.tokens is None
    full = store.fetch("main", ["a"], want=Want(payload=False, tokens=True), timeout=None)
    assert full.payloads is None
    assert full.tokens is not None
    np.testing.assert_array_equal(full.tokens[0], tokens)


def test_l2_is_squared_and_negative(store: qdrant.Qdrant) -> None:
    put(store, a={"_rev": 1})
    request = Search(queries=np.array([[4.0, 5.0]], np.float32), k=1, using=IMAGE)
    assert store.search("main", request, timeout=None)[0][0].score == pytest.approx(-25.0)


def test_vectors_that_a_record_lacks_are_none(store: qdrant.Qdrant) -> None:
    more = Vector(name="words", dim=2, fingerprint=PRINT)
    store.alter("main", Spec(vectors=(*SPEC.vectors, more), fields=SPEC.fields), timeout=None)
    put(store, a={"_rev": 1})
    request = Search(queries=np.ones((1, 2), np.float32), k=1, using=IMAGE, want=Want(vectors=(more.column,)))
    assert store.search("main", request, timeout=None)[0][0].vectors is None


# --- conditions ---


@pytest.mark.parametrize("node", [filters.Or, filters.And])
def test_a_filter_may_be_wide(store: qdrant.Qdrant, node: type[filters.Filter]) -> None:
    put(store, a={"text": "7"}, b={"text": "9999"}, c={})
    wide = node(tuple(F.text == f"{i}" for i in range(2000)))
    assert found(store, wide) == ({"a"} if node is filters.Or else set())
    assert found(store, ~wide) == ({"b", "c"} if node is filters.Or else {"a", "b", "c"})


def test_nesting_is_limited_before_the_store(store: qdrant.Qdrant) -> None:
    put(store, a={"text": "x"})
    where: filters.Filter = F.text != "x"
    for level in range(MAX_DEPTH - 1):
        where = where | (F.text != "x") if level % 2 else where & (F.text != "x")
    assert store.count("main", filters.bind(where, SPEC), timeout=None) == 0
    with pytest.raises(errors.Unsupported, match="flatter"):
        store.count("main", filters.bind((where & (F.text != "x")) | (F.text != "x"), SPEC), timeout=None)


EDGES = ["9999-12-31T23:59:59.999999+00:00", "9999-12-31T23:59:59.999983+00:00", "0001-01-01T00:00:00.000001+00:00"]


@pytest.mark.parametrize("edge", EDGES)
def test_times_beyond_float64_keep_their_microseconds(store: qdrant.Qdrant, edge: str) -> None:
    payloads: dict[str, dict[str, object]] = {}
    head, tail = edge[:20], edge[26:]
    for i in range(100):
        fraction = int(edge[20:26]) + i - 50
        if 0 <= fraction < 10**6:
            payloads[f"r{i}"] = {"_rev": 1, "at": f"{head}{fraction:06d}{tail}"}
    put(store, **payloads)
    for where in (F.at < edge, F.at <= edge, F.at > edge, F.at >= edge, F.at == edge, F.at != edge):
        bound = filters.bind(where, SPEC)
        assert found(store, where) == {r for r, p in payloads.items() if filters.matches(bound, r, p)}, where


def test_edges_of_a_box_are_inside(store: qdrant.Qdrant) -> None:
    north, west, far = {"lat": 10.0, "lon": 179.0}, {"lat": 5.0, "lon": -170.0}, {"lat": 5.0, "lon": 0.0}
    put(store, a={"spot": north}, b={"spot": west}, c={"spot": far}, d={"spots": [far, west]}, e={"spots": [far]})
    assert found(store, F.spot.within_box(5, 179, 10, -170)) == {"a", "b"}
    assert found(store, ~F.spot.within_box(5, 179, 10, -170)) == {"c", "d", "e"}
    assert found(store, F.spots.within_box(5, 179, 10, -170)) == {"d"}


def test_a_box_needs_both_coordinates_of_one_place(store: qdrant.Qdrant) -> None:
    put(store, a={"spots": [{"lat": 1.0, "lon": 9.0}, {"lat": 9.0, "lon": 1.0}]})
    assert found(store, F.spots.within_box(0, 0, 2, 2)) == set()


def test_constants() -> None:
    assert to_filter(None) is None
    everything, nothing = to_filter(filters.TRUE), to_filter(filters.FALSE)
    assert everything == models.Filter()
    assert nothing == models.Filter(must=[models.HasIdCondition(has_id=[])])


def test_a_radius_is_left_to_the_facade() -> None:
    with pytest.raises(errors.Unsupported, match="spot"):
        to_filter(filters.bind(F.spot.within(1, 2, 3), SPEC))


HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", "\x00", "'", '"', "\\", "a\\", "\n", "null", "' or 1 == 1", "e\u0301", "é", "😀", "%", "[]", "f1"]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(HOSTILE, min_size=1, max_size=8))
def test_a_text_equals_itself_only(store: qdrant.Qdrant, texts: set[str]) -> None:
    store.delete_where("main", filters.TRUE, timeout=None)
    put(store, **{f"{i}": {"text": text} for i, text in enumerate(texts)})
    for i, text in enumerate(texts):
        assert found(store, F.text == text) == {f"{i}"}


# --- errors ---


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ValueError("Collection x not found"), errors.NotFound),
        (ValueError("Collection x already exists"), errors.AlreadyExists),
        (ValueError("Alias x already exists"), errors.AlreadyExists),
        (ValueError("Wrong input: Not existing vector name error: x"), errors.FingerprintMismatch),
        (ValueError("Dense vector x is not found in the collection"), errors.FingerprintMismatch),
        (RuntimeError("Storage folder x is already accessed by another instance"), errors.StoreLocked),
        (sqlite3.OperationalError("database or disk is full"), errors.StoreFull),
        (OSError(errno.ENOSPC, "No space left on device"), errors.StoreFull),
        (PermissionError(errno.EACCES, "Permission denied"), errors.AccessDenied),
        (sqlite3.DatabaseError("file is not a database"), errors.StoreFormat),
        (json.JSONDecodeError("bad", "x", 0), errors.StoreFormat),
        (ValueError("something else"), errors.StoreError),
    ],
)
def test_translation(raised: Exception, kind: type[errors.PixdexError]) -> None:
    with pytest.raises(errors.PixdexError) as caught, translated("/dir"):
        raise raised
    assert type(caught.value) is kind
    assert caught.value.__cause__ is raised
