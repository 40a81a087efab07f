"""What is Qdrant's own: opening, the layout, exact conditions, translated errors."""

from __future__ import annotations

import errno
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("qdrant_client")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from pixdex import errors, filters
from pixdex.connectors import connect, qdrant
from pixdex.connectors._qdrant_errors import translated
from pixdex.connectors._qdrant_filters import point_id, to_filter
from pixdex.filters import F
from pixdex.types import Batch, Field, Fingerprint, Kind, Metric, Scan, Search, Spec, Vector, Want

PRINT = Fingerprint(encoder="e", digest="3fa9c1d2")
IMAGE = "image_3fa9c1d2"
SPEC = Spec(
    vectors=(Vector(dim=2, metric=Metric.L2, fingerprint=PRINT),),
    fields=(
        Field(name="text", kind=Kind.TEXT),
        Field(name="at", kind=Kind.TIME),
        Field(name="spot", kind=Kind.GEO),
        Field(name="spots", kind=Kind.GEO, many=True),
    ),
)


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
    store._client.upsert("main", [models.PointStruct(id=7, vector={IMAGE: [1.0, 2.0]}, payload={})])
    with pytest.raises(errors.StoreFormat, match="point 7"):
        store.scan("main", Scan(size=9), timeout=None)


def test_ids_that_share_a_point_are_told_apart(store: qdrant.Qdrant) -> None:
    put(store, a={"_rev": 1})
    payload = {"_id": "b", "payload": {}}
    store._client.upsert("main", [models.PointStruct(id=point_id("a"), vector={}, payload=payload)])
    with pytest.raises(errors.StoreError, match="share point"):
        store.fetch("main", ["a"], want=Want(), timeout=None)


# --- the layout ---


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


# --- conditions ---


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
    assert everything == models.Filter(must=[])
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
    with pytest.raises(errors.PixdexError) as caught, translated():
        raise raised
    assert type(caught.value) is kind
    assert caught.value.__cause__ is raised
