"""What only a server does: it goes away, hangs, refuses; other tools and other processes write to it.

Run in a network namespace by ``test_milvus_server``: see ``tests.milvus_server``.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("pymilvus")

from pixdex import errors
from pixdex.collection import Collection
from pixdex.connectors.address import parse
from pixdex.connectors.milvus import MAX_COLUMNS, Milvus, connect_server
from pixdex.policy import Policy
from pixdex.spec import Field, Kind
from pixdex.testing._faults import FaultCases
from pixdex.testing._support import STANDARD, plain, put, some_vectors
from pixdex.types import Batch, Tuning
from tests import milvus_foreign
from tests.milvus_server import INSIDE, Server

if INSIDE not in os.environ:
    pytest.skip("run by `python -m tests.milvus_server pytest ...`", allow_module_level=True)


def opened(url: str) -> Milvus:
    return connect_server(parse(url).with_served_collection())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(Path(tmp_path_factory.mktemp("milvus-server"))).start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def connector(server: Server) -> Iterator[Milvus]:
    connector = opened(server.url)
    yield connector
    connector.close()


@pytest.fixture(autouse=True)
def _alive(server: Server) -> None:
    """A server that was paused for long ends itself later: its session has expired."""
    if not server.running:
        server.start()


# --- visibility ---


def test_flushed_is_visible_to_every_verb(connector: Milvus, server: Server) -> None:
    collection = Collection.create(connector, "hammered", STANDARD)
    other = opened(server.url)
    theirs = Collection.open(other, "hammered")
    vectors = some_vectors(60)
    for i in range(60):
        writer = theirs if i % 3 == 2 else collection  # what another handle was told is done counts as well
        writer.upsert(Batch((f"r{i}",), {"image": vectors[i : i + 1]}, ({"n": i},)))
        collection.flush()
        assert collection.count() == i + 1
        assert collection.search(vectors[i : i + 1], k=1)[0][0].id == f"r{i}"
        assert {record for page in collection.scan() for record in page.batch.ids} == {f"r{j}" for j in range(i + 1)}
    other.close()


def test_a_search_does_not_wait(connector: Milvus) -> None:
    """After a flush, which waits until all is visible, searches need not: strong consistency would, at every one."""
    collection = Collection.create(connector, "fast", STANDARD)
    put(collection, [f"r{i}" for i in range(500)])
    query = some_vectors(1)
    client = connector._share.lease().resource.client
    strong = {"anns_field": STANDARD.vectors[0].column, "limit": 10, "consistency_level": "Strong"}
    ours, waiting = [], []
    for _ in range(20):
        ours.append(_seconds(lambda: collection.search(query, k=10)))
        waiting.append(_seconds(lambda: client.search("fast", data=list(query), **strong)))
    assert sorted(ours)[10] < sorted(waiting)[10] / 4


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# --- limits ---


def test_too_many_columns_are_refused_before_any_call(connector: Milvus) -> None:
    spec = plain(*(Field(name=f"f{i}", kind=Kind.GEO) for i in range(21)))
    with pytest.raises(errors.Unsupported, match=rf"needs \d+ columns.*{MAX_COLUMNS}"):
        connector.create("wide", spec, timeout=9)
    assert "wide" not in connector.names(timeout=9)


def test_scores_of_shortened_vectors_say_so(server: Server) -> None:
    connector = opened(f"{server.url}?index=IVF_SQ8&nlist=16")
    collection = Collection.create(connector, "shortened", STANDARD)
    put(collection, ["a", "b"])
    hits = collection.search(some_vectors(1), k=2)[0]
    assert [hit.trace.get("approximate") for hit in hits] == [1.0, 1.0]
    exact = collection.search(some_vectors(1), k=2, tuning=Tuning(exact=True))[0]
    assert exact[0].score == pytest.approx(0.0, abs=1e-5)
    connector.close()


@pytest.mark.parametrize("index", ["FLAT", "IVF_FLAT", "HNSW", "AUTOINDEX"])
def test_every_index_answers(server: Server, index: str) -> None:
    connector = opened(f"{server.url}?index={index}")
    collection = Collection.create(connector, f"by_{index}", STANDARD)
    put(collection, [f"r{i}" for i in range(30)])
    vectors = some_vectors(30)
    assert [hits[0].id for hits in collection.search(vectors, k=30)] == [f"r{i}" for i in range(30)]
    assert all(len(hits) == 30 for hits in collection.search(vectors, k=30))
    connector.drop(f"by_{index}", timeout=60)
    connector.close()


# --- other tools ---


@pytest.mark.parametrize("text_ids", [True, False])
def test_adopted(connector: Milvus, text_ids: bool) -> None:
    with connector._calling() as held:
        milvus_foreign.check(connector, held.client, f"theirs{text_ids}", text_ids=text_ids)


# --- faults ---


def test_nobody_listens() -> None:
    with pytest.raises(errors.StoreUnavailable, match=r"milvus://127\.0\.0\.1:1\b.*is the server running") as caught:
        opened("milvus://127.0.0.1:1/main")
    assert caught.value.retryable


def test_a_port_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises((errors.StoreUnavailable, errors.StoreTimeout)) as caught:
            opened(f"milvus://127.0.0.1:{silent.getsockname()[1]}/main")
        assert time.monotonic() - started < 15
        assert caught.value.retryable


def test_dropped_behind_our_back(connector: Milvus) -> None:
    collection = Collection.create(connector, "dropped", STANDARD)
    put(collection, ["a"])
    with connector._calling() as held:
        held.client.drop_collection("dropped")
    with pytest.raises(errors.NotFound, match="dropped"):
        collection.search(some_vectors(1))
    with pytest.raises(errors.NotFound):
        put(collection, ["b"])


def test_made_again_with_other_columns(connector: Milvus, server: Server) -> None:
    put(Collection.create(connector, "again", STANDARD), ["a"])
    stale = Collection.open(connector, "again")
    other = opened(server.url)
    other.drop("again", timeout=60)
    other.create("again", plain(Field(name="label", kind=Kind.INT)), timeout=60)
    from pixdex.filters import F

    with pytest.raises(errors.FingerprintMismatch):
        stale.count(F.label == "x")
    other.close()


def test_killed_while_it_is_written_to(connector: Milvus, server: Server) -> None:
    """What was acknowledged stays; what is named as done in PartialWrite is there."""
    collection = Collection.create(
        connector, "killed", STANDARD, policy=Policy(attempts=2, attempt_timeout=2.0, deadline=4.0)
    )
    acknowledged: list[str] = []
    ended: list[BaseException] = []

    def write() -> None:
        for batch in range(10_000):
            ids = tuple(f"r{batch}_{i}" for i in range(50))
            try:
                collection.upsert(Batch(ids, {"image": some_vectors(50)}))
            except errors.StoreError as error:
                acknowledged.extend(getattr(error, "done", ()))
                ended.append(error)
                return
            acknowledged.extend(ids)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(1.0)
    server.kill()
    writer.join(timeout=30)
    assert not writer.is_alive()
    assert ended
    assert len(acknowledged) >= 50
    server.start()
    deadline = time.monotonic() + 120
    patient = Collection.open(connector, "killed", policy=Policy(attempts=50, attempt_timeout=30.0, deadline=120.0))
    while True:
        with suppress(errors.StoreError):
            patient.flush()
            break
        assert time.monotonic() < deadline
        time.sleep(0.5)
    there = {record for page in patient.scan() for record in page.batch.ids}
    assert set(acknowledged) <= there
    with pytest.raises(errors.NotFound):
        Collection.open(connector, "never")


def test_a_wrong_token(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.kill()
    guarded = Server(tmp_path / "guarded", {"authorization_enabled": True}).start()
    try:
        monkeypatch.setenv("TOKEN", "root:wrong-secret")
        with pytest.raises(errors.AccessDenied, match="key_env") as caught:
            opened(f"{guarded.url}?key_env=TOKEN").names(timeout=9)
        assert "wrong-secret" not in str(caught.value)
        monkeypatch.setenv("TOKEN", "root:Milvus")
        assert opened(f"{guarded.url}?key_env=TOKEN").names(timeout=9) == []
    finally:
        guarded.kill()


# --- last, as the server may not survive it ---


class _Paused:
    def __init__(self, server: Server) -> None:
        self._server = server

    @contextmanager
    def broken(self) -> Iterator[None]:
        self._server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.signal(signal.SIGCONT)


class TestPaused(FaultCases):
    @pytest.fixture
    def faults(self, server: Server) -> _Paused:
        return _Paused(server)
