"""A Qdrant server that fails: real connections, real kills; a stand-in answers (see ``qdrant_stand_in``)."""

from __future__ import annotations

import http.server
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_client")
sys.path.insert(0, str(Path(__file__).parents[2]))

from qdrant_client import QdrantClient, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_stand_in import StandIn, free_port

from pixdex import errors, filters
from pixdex.collection import Collection
from pixdex.connectors import qdrant
from pixdex.connectors._qdrant_filters import to_filter
from pixdex.connectors._qdrant_ids import point_id
from pixdex.connectors._qdrant_models import CLIENT, Index, params, point, search_params
from pixdex.connectors.address import parse
from pixdex.filters import F
from pixdex.policy import Policy
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, Vector
from pixdex.types import Batch, Search, Tuning, Want

PRINT = Fingerprint(encoder="e", digest="3fa9c1d2")
SPEC = Spec(
    vectors=(Vector(dim=2, metric=Metric.L2, fingerprint=PRINT),),
    fields=(
        Field(name="text", kind=Kind.TEXT),
        Field(name="n", kind=Kind.INT),
        Field(name="spot", kind=Kind.GEO),
        Field(name="spots", kind=Kind.GEO, many=True),
        Field(name="flag", kind=Kind.BOOL),
        Field(name="x", kind=Kind.FLOAT),
    ),
)
IMAGE = SPEC.vectors[0].column
SEARCH = Search(queries=np.ones((1, 2), np.float32), k=3, using=IMAGE)
ONCE = Policy(attempts=1)


def opened(url: str) -> qdrant.Qdrant:
    return qdrant.connect_server(parse(url).with_served_collection())


@pytest.fixture(scope="module")
def shared() -> Iterator[StandIn]:
    server = StandIn(key="sesame").start()
    yield server
    server.kill()


@pytest.fixture
def store(shared: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[qdrant.Qdrant]:
    monkeypatch.setenv("THE_KEY", "sesame")
    store = opened(f"{shared.url}?key_env=THE_KEY")
    for name in store.names(timeout=5):
        store.drop(name, timeout=5)
    yield store
    store.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[StandIn]:
    """A stand-in on disk."""
    server = StandIn(directory=tmp_path / "data").start()
    yield server
    server.kill()


def some(count: int) -> Batch:
    return Batch(
        tuple(f"r{i}" for i in range(count)),
        {"image": np.ones((count, 2), np.float32)},
        tuple({"text": f"{i}"} for i in range(count)),
    )


# --- addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("qdrant://h/name?grcp=1", "did you mean 'grpc'"),
        ("qdrant://h/db/name", "no databases"),
        ("qdrant://h/name?quantization=int4", "int8, binary or turbo"),
        ("qdrant://h/name?key_env=NOT_SET_HERE", "NOT_SET_HERE"),
        ("qdrant://h/name?m=many", "m='many'"),
    ],
)
def test_an_address_that_means_nothing_is_refused(url: str, match: str) -> None:
    with pytest.raises(errors.ConfigError, match=match):
        opened(url)


def test_index_options_reach_the_client() -> None:
    index = Index(m=32, ef_construct=200, quantization="int8", on_disk=True, shards=2, replicas=3)
    settings = index.settings()
    assert settings["hnsw_config"] == models.HnswConfigDiff(m=32, ef_construct=200)
    assert settings["quantization_config"].scalar.type == models.ScalarType.INT8
    assert (settings["shard_number"], settings["replication_factor"]) == (2, 3)
    assert params(SPEC.vectors[0], on_disk=True).on_disk
    assert Index().settings() == {}
    for name in ("binary", "turbo"):
        assert name in Index(quantization=name).settings()["quantization_config"].model_dump()


def test_effort_widens_the_search_and_scores_stay_exact() -> None:
    assert [search_params(Tuning(effort=e), 10).hnsw_ef for e in (0.0, 0.5, 1.0)] == [16, 128, 1024]
    assert search_params(Tuning(effort=0.0), 100).hnsw_ef == 100
    quantization = search_params(Tuning(), 10).quantization
    assert quantization is not None
    assert quantization.rescore
    assert search_params(Tuning(exact=True), 10).exact


# --- what is sent -----------------------------------------------------------------------------------


def test_a_search_is_one_request(store: qdrant.Qdrant) -> None:
    store.create("main", SPEC, timeout=5)
    store.search("main", SEARCH, timeout=5)
    sent: list[Any] = []

    def record(request: Any, send: Callable[[Any], Any]) -> Any:
        sent.append(request)
        return send(request)

    store._share.lease().resource.client.http.client.add_middleware(record)
    where = filters.bind(F.text == "x", SPEC)
    store.search("main", replace(SEARCH, where=where), timeout=5)
    store.count("main", where, timeout=5)
    store.fetch("main", ["a"], want=Want(), timeout=5)
    assert [request.url.path for request in sent] == [
        "/collections/main/points/query",
        "/collections/main/points/count",
        "/collections/main/points",
    ]
    assert b'"hnsw_ef":128' in sent[0].content


FILTERS = [
    F.text == "x",
    F.text != "x",
    F.n.between(1, 7) & ~(F.n == 3),
    F.x == 1.5,
    F.flag == True,  # noqa: E712 - builds a filter
    F.spot.within_box(5, 179, 10, -170),
    F.spots.within_box(5, 17, 10, 20),
    F.spot.exists() | F.spots.exists(),
    filters.Ids(("a", "b")),
]


def without_empty(found: Any) -> Any:
    """gRPC has no difference between an empty list and none."""
    if isinstance(found, dict):
        return {key: without_empty(value) for key, value in found.items() if value != []}
    return [without_empty(item) for item in found] if isinstance(found, list) else found


@pytest.mark.parametrize("where", FILTERS)
def test_a_filter_survives_the_way_over_grpc(where: filters.Filter) -> None:
    made = to_filter(filters.bind(where, SPEC), CLIENT, point_id)
    back = GrpcToRest.convert_filter(RestToGrpc.convert_filter(made))
    validated = models.Filter.model_validate(made.model_dump(exclude_unset=True))
    assert without_empty(back.model_dump(exclude_none=True)) == without_empty(validated.model_dump(exclude_none=True))


def test_points_survive_the_way_over_grpc() -> None:
    made = point(id=point_id("a"), vector={IMAGE: [1.0, 2.0]}, payload={"_id": "a", "payload": {"k": [1, None, "x"]}})
    sent = RestToGrpc.convert_point_struct(made)
    assert GrpcToRest.convert_payload(sent.payload) == made.payload


# --- refusals ---------------------------------------------------------------------------------------


def test_the_key_is_taken_from_the_environment(store: qdrant.Qdrant) -> None:
    assert list(store.names(timeout=5)) == []


def test_a_wrong_key(shared: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "open-barley")
    store = opened(f"{shared.url}?key_env=THE_KEY")
    with pytest.raises(errors.AccessDenied, match=rf"127.0.0.1:{shared.port}.*key_env") as caught:
        store.names(timeout=5)
    assert "barley" not in f"{caught.value} {caught.value.__cause__!r} {store!r}"
    assert not caught.value.retryable
    store.close()


@pytest.mark.parametrize(
    ("fault", "kind", "retryable"),
    [
        ({"status": 429, "error": "slow down"}, errors.RateLimited, True),
        ({"status": 408, "error": "Timeout"}, errors.StoreTimeout, True),
        ({"status": 503, "error": "starting"}, errors.StoreUnavailable, True),
        ({"status": 502}, errors.StoreUnavailable, True),
        ({"status": 500, "error": "Service internal error: No space left on device"}, errors.StoreFull, False),
        ({"status": 403, "error": "Forbidden"}, errors.AccessDenied, False),
        ({"status": 400, "error": "Wrong input: Vector dimension error"}, errors.StoreError, False),
        ({"status": 400, "error": "Wrong input: Not existing vector name error: x"}, errors.FingerprintMismatch, None),
    ],
)
def test_an_answer_that_is_an_error(
    store: qdrant.Qdrant, shared: StandIn, fault: dict[str, Any], kind: type[Exception], retryable: bool | None
) -> None:
    store.create("main", SPEC, timeout=5)
    shared.fault(path="/points/count", **fault)
    with pytest.raises(errors.PixdexError) as caught:
        store.count("main", None, timeout=5)
    assert type(caught.value) is kind
    assert getattr(caught.value, "retryable", None) is retryable
    assert f"127.0.0.1:{shared.port}" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_server_that_asks_for_patience_is_given_it(store: qdrant.Qdrant, shared: StandIn) -> None:
    waits: list[float] = []
    collection = Collection.create(store, "main", SPEC, policy=Policy(sleep=waits.append))
    shared.fault(path="/points/count", status=429, error="slow down", headers={"Retry-After": "7"})
    assert collection.count() == 0
    assert waits == [7.0]


def test_a_collection_dropped_behind_our_back(store: qdrant.Qdrant, shared: StandIn) -> None:
    collection = Collection.create(store, "main", SPEC)
    collection.upsert(some(3))
    with pytest.warns(UserWarning, match="insecure"):
        other = QdrantClient(port=shared.port, api_key="sesame", https=False, check_compatibility=False)
    other.delete_collection("main")
    for call in (
        lambda: collection.search(np.ones((1, 2))),
        lambda: collection.count(F.text == "1"),
        lambda: collection.fetch(["r1"]),
        lambda: collection.upsert(some(1)),
        lambda: collection.delete(["r1"]),
        collection.flush,
    ):
        with pytest.raises(errors.NotFound, match="main"):
            call()
    other.close()


def test_a_stale_filter_fails_in_the_store(store: qdrant.Qdrant, shared: StandIn) -> None:
    """Another process replaced the collection by one that has other fields."""
    collection = Collection.create(store, "main", SPEC)
    collection.count(F.n == 1)
    other = opened(f"{shared.url}?key_env=THE_KEY")
    other.drop("main", timeout=5)
    other.create("main", Spec(vectors=SPEC.vectors, fields=(Field(name="n", kind=Kind.TEXT),)), timeout=5)
    other.close()
    with pytest.raises(errors.FingerprintMismatch, match="open it again"):
        collection.count(F.n == 1)
    with pytest.raises(errors.FingerprintMismatch):
        collection.delete_where(F.n == 1)


def test_a_collection_whose_making_broke_off_gets_its_indexes(store: qdrant.Qdrant, shared: StandIn) -> None:
    shared.fault(path="/index", method="PUT", skip=2, status=503)
    with pytest.raises(errors.StoreUnavailable):
        store.create("main", SPEC, timeout=5)
    collection = Collection.open(store, "main")
    with pytest.raises(errors.FingerprintMismatch):
        collection.count(F.x == 1.5)
    collection.upsert(some(2))
    assert collection.count(F.x == 1.5) == 0


# --- versions ---------------------------------------------------------------------------------------


def test_a_server_that_is_too_old_is_named() -> None:
    server = StandIn(version="1.15.4").start()
    store = opened(server.url)
    for call in (
        lambda: store.create("main", SPEC, timeout=5),
        lambda: store.describe("theirs", timeout=5),
    ):
        if not store.names(timeout=5):
            raw = QdrantClient(port=server.port, check_compatibility=False)
            raw.create_collection("theirs", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
            raw.close()
        with pytest.raises(errors.Unsupported, match=r"Qdrant 1\.15\.4.*needs 1\.16"):
            call()
    store.close()
    server.kill()


def test_a_vector_is_added_by_newer_servers_only() -> None:
    server = StandIn(version="1.17.1").start()
    store = opened(server.url)
    store.create("main", SPEC, timeout=5)
    more = replace(SPEC, vectors=(*SPEC.vectors, Vector(name="words", dim=2, fingerprint=PRINT)))
    with pytest.raises(errors.Unsupported, match=r"1\.17\.1.*1\.18"):
        store.alter("main", more, timeout=5)
    assert store.describe("main", timeout=5) == SPEC
    store.close()
    server.kill()


# --- no answer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "?grpc=1&grpc_port=PORT"])
def test_nobody_listens(options: str) -> None:
    port = free_port()
    store = opened(f"qdrant://127.0.0.1:{port}" + options.replace("PORT", f"{port}"))
    with pytest.raises(errors.StoreUnavailable, match=rf"127.0.0.1:{port}.*running") as caught:
        store.names(timeout=2)
    assert caught.value.retryable
    store.close()


@pytest.mark.parametrize(("options", "most"), [("", 1.5), ("?grpc=1&grpc_port=PORT", 3.0)])
def test_a_port_that_accepts_and_never_answers(options: str, most: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        store = opened(f"qdrant://127.0.0.1:{port}" + options.replace("PORT", f"{port}"))
        started = time.monotonic()
        with pytest.raises(errors.StoreTimeout if not options else errors.StoreError) as caught:
            store.describe("main", timeout=0.4)
        assert caught.value.retryable
        assert time.monotonic() - started < most
        store.close()


class _Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *_: Any) -> None:
        pass


def test_another_server_at_the_port() -> None:
    web = http.server.HTTPServer(("127.0.0.1", 0), _Web)
    threading.Thread(target=web.handle_request, daemon=True).start()
    store = opened(f"qdrant://127.0.0.1:{web.server_port}")
    with pytest.raises(errors.StoreError, match="not an answer of a Qdrant server"):
        store.names(timeout=2)
    store.close()
    web.server_close()


def test_a_server_that_was_stopped_and_goes_on(own: StandIn) -> None:
    store = opened(own.url)
    collection = Collection.create(store, "main", SPEC)
    collection.upsert(some(2))
    own.signal(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(errors.StoreTimeout):
        store.search("main", SEARCH, timeout=0.4)
    with pytest.raises(errors.StoreTimeout):
        store.upsert("main", Batch(("z",), {}, ({"_rev": 1},)), timeout=0.4)
    assert time.monotonic() - started < 3
    own.signal(signal.SIGCONT)
    assert collection.count() >= 2
    store.close()


# --- killed -----------------------------------------------------------------------------------------


def small_batches(url: str, policy: Policy) -> Collection:
    store = opened(url)
    store.capabilities = replace(store.capabilities, max_batch=8)
    return Collection.create(store, "main", SPEC, policy=policy)


def test_killed_in_the_middle_of_a_write(own: StandIn) -> None:
    collection = small_batches(own.url, ONCE)
    own.fault(path="/points", method="PUT", skip=2, sleep=30)
    killer = threading.Timer(1.5, own.kill)
    killer.start()
    with pytest.raises(errors.PartialWrite) as caught:
        collection.upsert(some(40))
    killer.join()
    assert set(some(16).ids) == set(caught.value.done)  # two batches were acknowledged
    own.start()
    assert set(collection.fetch(caught.value.done).ids) == set(caught.value.done)
    collection.upsert(some(40))
    assert collection.count() == 40
    collection.connector.close()


def test_a_write_goes_on_when_the_server_is_back(own: StandIn) -> None:
    collection = small_batches(own.url, Policy(attempts=30, base=0.2, cap=0.3))
    own.fault(path="/points", method="PUT", skip=1, sleep=30)

    def restart() -> None:
        own.kill()
        own.start()

    restarter = threading.Timer(1.0, restart)
    restarter.start()
    collection.upsert(some(24))
    restarter.join()
    assert collection.count() == 24
    collection.connector.close()
