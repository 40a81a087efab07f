"""Searches of the embedded store through its index: what is found, what never is, and who makes the index when."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pixdex
from pixdex import Batch, Collection, F, Field, Fingerprint, Kind, Metric, Spec, Tuning, Vector, Want
from pixdex.connectors import _pq_building, _pq_plan, _pq_records
from pixdex.connectors._deadline import Deadline
from pixdex.connectors.pq import PqConnector, PqOptions
from pixdex.scores import similarities

DIM, ROWS, K = 32, 4_000, 10


def clustered(rows: int, seed: int, *, shift: float = 0.0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((40, DIM)) + shift
    points = centres[random.integers(40, size=rows)] + 0.4 * random.standard_normal((rows, DIM))
    return points.astype(np.float32)


def spec(metric: Metric = Metric.COSINE) -> Spec:
    vector = Vector(dim=DIM, metric=metric, fingerprint=Fingerprint(encoder="test", digest="00000000"))
    return Spec(
        vectors=(vector,), fields=(Field(name="group", kind=Kind.INT), Field(name="tags", kind=Kind.TEXT, many=True))
    )


def batches(vectors: NDArray[np.float32], start: int = 0) -> Iterator[Batch]:
    for first in range(0, len(vectors), 1000):
        rows = range(start + first, start + min(first + 1000, len(vectors)))
        payloads = tuple({"group": row % 10, "tags": [f"t{row % 7}"]} for row in rows)
        yield Batch(tuple(f"r{row}" for row in rows), {"image": vectors[first : first + 1000]}, payloads)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes also where a scan would be as fast."""
    monkeypatch.setattr(_pq_plan, "_IN_PLACE", 0)
    monkeypatch.setattr(_pq_plan, "_IN_BATCH", 0)


def at(path: Path) -> PqConnector:
    return PqConnector(path, PqOptions(index="ivf-pq", sync=False))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PqConnector]:
    with closing(at(tmp_path / "store")) as connector:
        yield connector


def filled(connector: PqConnector, vectors: NDArray[np.float32], metric: Metric = Metric.COSINE) -> Collection:
    collection = Collection.create(connector, "main", spec(metric))
    for batch in batches(vectors):
        collection.upsert(batch)
    return collection


def recall(collection: Collection, queries: NDArray[np.float32], tuning: Tuning = Tuning(), **more: object) -> float:
    exact = collection.search(queries, k=K, tuning=Tuning(exact=True), **more)  # type: ignore[arg-type]
    found = collection.search(queries, k=K, tuning=tuning, **more)  # type: ignore[arg-type]
    both = [{hit.id for hit in a} & {hit.id for hit in b} for a, b in zip(exact, found, strict=True)]
    return float(np.mean([len(some) for some in both])) / K


def indexes(store: PqConnector) -> list[str]:
    return sorted(path.name for path in store._store.derived.glob("*.index"))


@pytest.mark.parametrize("metric", list(Metric))
def test_an_index_finds_nearly_all_and_scores_are_the_defined_ones(store: PqConnector, metric: Metric) -> None:
    vectors, queries = clustered(ROWS, 1), clustered(50, 2)
    collection = filled(store, vectors, metric)
    store.settle("main", timeout=None)
    assert indexes(store)
    efforts = [recall(collection, queries, Tuning(effort=effort)) for effort in (0.0, 0.5, 1.0)]
    assert efforts == sorted(efforts)
    assert efforts[1] > 0.9
    assert efforts[2] > 0.98
    if metric is Metric.COSINE:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    for query, hits in zip(queries, collection.search(queries, k=K), strict=True):
        truth = similarities(metric, query[None], vectors[[int(hit.id[1:]) for hit in hits]])[0]
        assert np.allclose([hit.score for hit in hits], truth, rtol=1e-5, atol=1e-5)


def test_one_query_and_many_find_the_same(store: PqConnector) -> None:
    collection = filled(store, clustered(ROWS, 1))
    store.settle("main", timeout=None)
    queries = clustered(30, 3)
    together = collection.search(queries, k=K)
    assert [[h.id for h in hits] for hits in together] == [
        [h.id for h in collection.search_one(q, k=K)] for q in queries
    ]


@pytest.mark.parametrize("matching", [F.group == 3, F.tags.contains("t5"), (F.group < 5) & ~F.tags.contains("t0")])
def test_filters_are_complete_and_right(store: PqConnector, matching: pixdex.Filter) -> None:
    collection = filled(store, clustered(ROWS, 1))
    store.settle("main", timeout=None)
    queries = clustered(20, 4)
    assert recall(collection, queries, Tuning(effort=0.8), where=matching) > 0.95
    few = (F.group == 3) & F.tags.contains("t5") & F.ids([f"r{row}" for row in range(0, ROWS, 9)])
    for hits in collection.search(queries, k=50, where=few):
        assert len(hits) == min(50, collection.count(few))


def test_what_a_filter_selected_is_kept_for_one_snapshot_only(store: PqConnector) -> None:
    vectors = clustered(ROWS, seed=1)
    collection = filled(store, vectors)

    def found(where: pixdex.Filter) -> set[str]:
        return {hit.id for hit in collection.search_one(vectors[3], k=ROWS, where=where, tuning=Tuning(exact=True))}

    third, sixth = F.group == 3, F.group == 6
    before = [found(where) for where in (third, sixth, third, sixth)]
    assert before == [{f"r{row}" for row in range(group, ROWS, 10)} for group in (3, 6, 3, 6)]
    collection.delete(["r3"])
    assert found(third) == before[0] - {"r3"}
    collection.upsert(Batch(("r6", "new"), {"image": vectors[:2]}, ({"group": 3}, {"group": 3})))
    assert found(third) == before[0] - {"r3"} | {"r6", "new"}
    assert found(sixth) == before[1] - {"r6"}
    for group in range(20):  # more than are kept
        assert len(found(F.group == group)) == (0 if group > 9 else 401 if group == 3 else 399 if group == 6 else 400)


def test_the_deleted_are_never_found_and_the_replaced_only_as_they_are(store: PqConnector) -> None:
    vectors = clustered(ROWS, 1)
    collection = filled(store, vectors)
    store.settle("main", timeout=None)
    collection.search_one(vectors[0])
    collection.delete([f"r{row}" for row in range(0, ROWS, 2)])
    collection.upsert(Batch(("r1",), {"image": -vectors[1:2]}, ({"group": 77},)))
    for query in vectors[:40]:
        assert all(int(hit.id[1:]) % 2 for hit in collection.search_one(query, k=20))
    first = collection.search_one(-vectors[1])[0]
    assert (first.id, first.payload and first.payload["group"]) == ("r1", 77)
    assert collection.search_one(vectors[1])[0].id != "r1"


def test_what_comes_after_the_index_is_found_at_once(store: PqConnector) -> None:
    collection = filled(store, clustered(ROWS, 1))
    store.settle("main", timeout=None)
    new = clustered(3_000, 9)
    for number, batch in enumerate(batches(new, start=ROWS)):
        collection.upsert(batch)
        row = number * 1000 + 500
        assert collection.search_one(new[row])[0].id == f"r{ROWS + row}"


def test_the_index_is_made_in_the_background(store: PqConnector) -> None:
    collection = filled(store, clustered(ROWS, 1))
    until = time.monotonic() + 60
    while not indexes(store) and time.monotonic() < until:
        time.sleep(0.05)
    assert indexes(store)
    assert recall(collection, clustered(20, 2)) > 0.9


def test_closing_gives_up_the_index_and_the_next_writer_makes_it(tmp_path: Path) -> None:
    with closing(at(tmp_path / "store")) as first:
        collection = filled(first, clustered(ROWS, 1))
    with closing(at(tmp_path / "store")) as second:
        collection = Collection.open(second, "main")
        assert recall(collection, clustered(20, 2)) > 0.9
        second.settle("main", timeout=None)
        assert [name.split(".")[1] for name in indexes(second)] == [f"{ROWS:012d}"]


def test_an_outgrown_index_is_trained_again(store: PqConnector) -> None:
    collection = filled(store, clustered(1_200, 1))
    store.settle("main", timeout=None)
    for batch in batches(clustered(6_000, 5), start=1_200):
        collection.upsert(batch)
    store.settle("main", timeout=None)
    (file,) = store._store.derived.glob("*.index")
    assert _pq_building.read_saved(file).fitted == 7_200


def test_a_change_of_the_pictures_has_it_trained_again(store: PqConnector) -> None:
    collection = filled(store, clustered(ROWS, 1))
    store.settle("main", timeout=None)
    for batch in batches(clustered(3_000, 5, shift=3.0), start=ROWS):
        collection.upsert(batch)
    store.settle("main", timeout=None)
    (file,) = store._store.derived.glob("*.index")
    assert _pq_building.read_saved(file).fitted == ROWS + 3_000


@pytest.mark.parametrize("kind", ["index", "columns"])
def test_a_damaged_derived_file_is_noticed_and_made_again(tmp_path: Path, kind: str) -> None:
    vectors = clustered(ROWS, 1)
    with closing(at(tmp_path / "store")) as store:
        filled(store, vectors)
        store.settle("main", timeout=None)
    (file,) = (tmp_path / "store" / "derived").glob(f"*.{kind}")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with closing(at(tmp_path / "store")) as store:
        collection = Collection.open(store, "main")
        assert collection.search_one(vectors[7])[0].id == "r7"
        assert recall(collection, vectors[:20]) > 0.9
        store.settle("main", timeout=None)
        assert not collection.verify()
        collection.upsert(Batch(("more",), {"image": vectors[:1]}, ({},)))
        store.settle("main", timeout=None)
    with closing(at(tmp_path / "store")) as store:
        assert _pq_building.read_saved(*(tmp_path / "store" / "derived").glob("*.index")).covers == ROWS + 1


def test_another_handle_takes_up_the_index_and_the_news(store: PqConnector, tmp_path: Path) -> None:
    vectors = clustered(ROWS, 1)
    collection = filled(store, vectors)
    with closing(at(tmp_path / "store")) as other:
        reader = Collection.open(other, "main")
        assert reader.search_one(vectors[3])[0].id == "r3"
        store.settle("main", timeout=None)
        collection.delete(["r3"])
        assert reader.search_one(vectors[3])[0].id != "r3"
        (view,) = other._views._known.values()
        assert view.index is not None


def test_readers_and_a_writer_at_once(store: PqConnector) -> None:
    vectors = clustered(ROWS, 1)
    collection = filled(store, vectors)
    store.settle("main", timeout=None)
    wrong: list[str] = []
    stop = threading.Event()

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not stop.is_set():
            row = int(random.integers(0, 1000))
            hit = collection.search_one(vectors[row], want=Want(payload=True))[0]
            if hit.id != f"r{row}" or hit.payload is None or hit.payload["group"] % 10 != row % 10:
                wrong.append(f"{row}: {hit}")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for batch in batches(clustered(3_000, 6), start=ROWS):
            collection.upsert(batch)
            collection.delete([f"r{row}" for row in range(2_000, 3_000, 7)])
            collection.upsert(Batch(("r5",), {"image": vectors[5:6]}, ({"group": 15},)))
        store.settle("main", timeout=None)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_an_index_of_a_later_snapshot_is_left_to_that(store: PqConnector, tmp_path: Path) -> None:
    """As when a reader looks for one just when a writer has saved what covers more than the reader's snapshot."""
    vectors = clustered(ROWS, 1)
    collection = filled(store, vectors)
    with closing(at(tmp_path / "store")) as other:
        with other._store.reading(Deadline.after(None)) as db:
            target = _pq_records.resolve(db, "main")
            (vector,) = target.vectors.values()
            for batch in batches(clustered(2_000, 5), start=ROWS):
                collection.upsert(batch)
            store.settle("main", timeout=None)
            view = other._views.at(db, target, vector)
            assert view is not None
            assert view.index is None or view.index.covers <= ROWS
        assert recall(Collection.open(other, "main"), vectors[:20]) > 0.9
        (view,) = other._views._known.values()
        assert view.index is not None
        assert view.index.covers == ROWS + 2_000


def test_a_damaged_index_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vectors = clustered(ROWS, 1)
    with closing(at(tmp_path / "store")) as store:
        filled(store, vectors)
        store.settle("main", timeout=None)
    (file,) = (tmp_path / "store" / "derived").glob("*.index")
    file.write_bytes(file.read_bytes()[:-1])
    with closing(at(tmp_path / "store")) as store:
        collection = Collection.open(store, "main")
        for number in range(3):
            collection.delete([f"r{number}"])
            collection.search_one(vectors[7])
    assert len([record for record in caplog.records if record.name == "pixdex.connectors.pq"]) == 1
