"""Collections that another tool made with the raw clients: surveyed, registered, read as they are, given a vector."""

from __future__ import annotations

import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_client")
pytest.importorskip("qdrant_edge")
sys.path.insert(0, str(Path(__file__).parents[2]))

import qdrant_edge as edge
from qdrant_client import QdrantClient, models
from qdrant_stand_in import StandIn

from pixdex import errors
from pixdex.adopting import adopt, propose, release
from pixdex.collection import Collection
from pixdex.connectors import qdrant, qdrant_edge
from pixdex.connectors._qdrant_ids import foreign_id
from pixdex.connectors.address import parse
from pixdex.filters import F
from pixdex.spec import Fingerprint, Kind, Metric, Vector
from pixdex.types import Batch, Search, Tuning, Want

PRINT = Fingerprint(encoder="e", digest="3fa9c1d2")
COUNT = 12
VECTORS = np.random.default_rng(3).standard_normal((COUNT, 4)).astype(np.float32)
CAPTIONS = np.random.default_rng(4).standard_normal((COUNT, 3)).astype(np.float32)


def payload(i: int) -> dict[str, Any]:
    return {
        "label": f"l{i % 3}",
        "n": i,
        "price": i / 2 if i % 2 else i // 2,
        "flag": i % 2 == 0,
        "when": f"2024-01-{i + 1:02d}T10:00:00Z",
        "spot": {"lat": float(i), "lon": 10.0},
        "tags": ["all", f"t{i % 2}"],
        "meta": {"year": 2000 + i, "none": None},
        "mixed": i if i % 2 else "text",
        "rows": [{"a": 1}],
    }


def ids_of(kind: str) -> list[Any]:
    if kind == "int":
        return [2**63 + i for i in range(COUNT)]
    return [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{i}")) for i in range(COUNT)]


INDEXED = {"label": "keyword", "n": "integer", "when": "datetime", "spot": "geo"}


@dataclass
class Theirs:
    """A collection ``theirs`` on an engine."""

    ids: list[Any]
    connect: Callable[[], Any]
    dump: Callable[[], list[Any]]
    """Everything in it, as the raw client reads it."""


def fill(client: QdrantClient, ids: list[Any]) -> None:
    client.create_collection(
        "theirs",
        vectors_config={
            "photo": models.VectorParams(size=4, distance=models.Distance.EUCLID),
            "words": models.VectorParams(size=3, distance=models.Distance.COSINE),
            "city": models.VectorParams(size=2, distance=models.Distance.MANHATTAN),
            "late": models.VectorParams(
                size=2,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            ),
        },
    )
    for key, kind in INDEXED.items():
        client.create_payload_index("theirs", key, models.PayloadSchemaType(kind))
    points = [
        models.PointStruct(
            id=found, vector={"photo": VECTORS[i].tolist(), "words": CAPTIONS[i].tolist()}, payload=payload(i)
        )
        for i, found in enumerate(ids)
    ]
    client.upsert("theirs", points)


def fill_edge(path: Path, ids: list[Any]) -> None:
    path.mkdir()
    config = edge.EdgeConfig(
        vectors={
            "photo": edge.EdgeVectorParams(4, edge.Distance.Euclid),
            "words": edge.EdgeVectorParams(3, edge.Distance.Cosine),
            "city": edge.EdgeVectorParams(2, edge.Distance.Manhattan),
            "late": edge.EdgeVectorParams(
                2, edge.Distance.Dot, multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
            ),
        }
    )
    shard = edge.EdgeShard.create(str(path), config)
    for key, kind in INDEXED.items():
        shard.update(edge.UpdateOperation.create_field_index(key, getattr(edge.PayloadSchemaType, kind.capitalize())))
    points = [
        edge.Point(id=found, vector={"photo": VECTORS[i].tolist(), "words": CAPTIONS[i].tolist()}, payload=payload(i))
        for i, found in enumerate(ids)
    ]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.close()


def dumped(points: list[Any]) -> list[Any]:
    return sorted(
        (str(p.id), p.payload, {n: np.round(v, 5).tolist() for n, v in p.vector.items() if n in ("photo", "words")})
        for p in points
    )


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    server = StandIn().start()
    yield server
    server.kill()


@pytest.fixture(params=["int", "uuid"])
def ids(request: pytest.FixtureRequest) -> list[Any]:
    return ids_of(request.param)


@pytest.fixture(params=["local", "http", "edge"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path, ids: list[Any], server: StandIn) -> Iterator[Theirs]:
    path, registry = tmp_path / "store", tmp_path / "registry.json"
    if request.param == "edge":
        fill_edge(path, ids)

        def dump() -> list[Any]:
            shard = edge.EdgeShard.load(str(path))
            found, _ = shard.scroll(edge.ScrollRequest(limit=100, with_payload=True, with_vector=True))
            shard.close()
            return dumped(found)

        url = f"qdrant+edge://{path}?registry={registry}"
        yield Theirs(ids, lambda: qdrant_edge.connect(parse(url)), dump)
        return
    if request.param == "local":
        client = QdrantClient(path=str(path))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Payload indexes have no effect in the local")
            fill(client, ids)
        client.close()

        def dump() -> list[Any]:
            raw = QdrantClient(path=str(path))
            found, _ = raw.scroll("theirs", limit=100, with_vectors=True)
            raw.close()
            return dumped(found)

        yield Theirs(ids, lambda: qdrant.connect(parse(f"qdrant+local://{path}")), dump)
        return
    raw = QdrantClient(port=server.port, check_compatibility=False)
    raw.delete_collection("theirs")
    fill(raw, ids)

    def dump() -> list[Any]:
        found, _ = raw.scroll("theirs", limit=100, with_vectors=True)
        return dumped(found)

    address = parse(server.url).with_served_collection()
    yield Theirs(ids, lambda: qdrant.connect_server(address), dump)
    raw.close()


@pytest.fixture
def store(theirs: Theirs) -> Iterator[Any]:
    store = theirs.connect()
    yield store
    store.close()


def test_it_says_how_to_adopt(store: Any) -> None:
    with pytest.raises(errors.StoreFormat, match="pixdex adopt"):
        store.describe("theirs", timeout=5)


def test_survey(store: Any, theirs: Theirs) -> None:
    survey = store.survey("theirs", timeout=5)
    assert (survey.count, survey.ids) == (COUNT, "int" if isinstance(theirs.ids[0], int) else "uuid")
    vectors = {v.name: (v.dim, v.metric, v.searchable) for v in survey.vectors}
    assert vectors["photo"] == (4, Metric.L2, True)
    assert vectors["words"] == (3, Metric.COSINE, True)
    assert vectors["city"][1] is None
    assert not vectors["late"][2]
    fields = {f.name: f for f in survey.fields}
    assert {name: (f.kind, f.many) for name, f in fields.items()} | {"when": None} == {
        "label": (Kind.TEXT, False),
        "n": (Kind.INT, False),
        "price": (Kind.FLOAT, False),
        "flag": (Kind.BOOL, False),
        "when": None,
        "spot": (Kind.GEO, False),
        "tags": (Kind.TEXT, True),
        "meta.year": (Kind.INT, False),
        "mixed": (None, False),
        "rows": (None, True),
    }
    if not store.scheme.endswith("local"):  # local mode keeps no indexes
        assert {name for name, f in fields.items() if f.indexed} == set(INDEXED)
        assert fields["when"].kind is Kind.TIME


def adopted(store: Any) -> Collection:
    return adopt(store, propose(store, "theirs"))


def test_reading_equals_the_raw_client_and_changes_nothing(store: Any, theirs: Theirs) -> None:
    collection = adopted(store)
    assert not collection.spec.native
    query = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    distances = ((VECTORS - query) ** 2).sum(axis=1)
    hits = collection.search(query, using="photo", k=5, tuning=Tuning(exact=True), want=Want(vectors=("words",)))[0]
    assert [hit.id for hit in hits] == [str(theirs.ids[i]) for i in np.argsort(distances)[:5]]
    np.testing.assert_allclose([hit.score for hit in hits], -np.sort(distances)[:5], rtol=1e-5)
    row = int(np.argmin(distances))
    assert hits[0].payload is not None
    assert hits[0].payload["label"] == f"l{row % 3}"
    unit = CAPTIONS[row] / np.linalg.norm(CAPTIONS[row])
    assert hits[0].vectors is not None
    got = hits[0].vectors["words"]  # local mode normalizes only what was written in this process
    np.testing.assert_allclose(got / np.linalg.norm(got), unit, atol=1e-6)
    store.close()
    before = theirs.dump()
    assert len(before) == COUNT
    again = theirs.connect()
    assert Collection.open(again, "theirs").count() == COUNT
    again.close()
    assert theirs.dump() == before


def test_filters_on_what_they_wrote(store: Any, theirs: Theirs) -> None:
    collection = adopted(store)
    expected: list[tuple[Any, Callable[[int], bool]]] = [
        (F.label == "l1", lambda i: i % 3 == 1),
        (F.label != "l1", lambda i: i % 3 != 1),
        (F.n >= 5, lambda i: i >= 5),
        (F.n == 5, lambda i: i == 5),
        (F.price == 1.5, lambda i: i == 3),
        (F.price == 2, lambda i: i == 4),
        (F.flag == True, lambda i: i % 2 == 0),  # noqa: E712 - builds a filter
        (~(F.flag == True), lambda i: i % 2 == 1),  # noqa: E712 - builds a filter
        (F.tags.contains("t1"), lambda i: i % 2 == 1),
        (F.meta_year.between(2003, 2005), lambda i: 3 <= i <= 5),
        (F.spot.within_box(2, 9, 4, 10), lambda i: 2 <= i <= 4),
        (F.spot.within_box(2, 9, 4, -170), lambda i: 2 <= i <= 4),
        (F.spot.within(3, 10, 150), lambda i: 2 <= i <= 4),
        ((F.n > 3) & ~(F.label == "l0"), lambda i: i > 3 and i % 3 != 0),
    ]
    if collection.spec.field("when").kind is Kind.TIME:
        expected += [
            (F.when >= "2024-01-05T10:00:00Z", lambda i: i >= 4),
            (F.when == "2024-01-05T12:00:00+02:00", lambda i: i == 4),
        ]
    for where, holds in expected:
        ids = {str(theirs.ids[i]) for i in range(COUNT) if holds(i)}
        found = {record for page in collection.scan(where=where, size=5) for record in page.batch.ids}
        assert found == ids, where
        assert collection.count(where) == len(ids), where
        hits = collection.search(VECTORS[:1], using="photo", k=COUNT, where=where)[0]
        assert {hit.id for hit in hits} == ids, where


def test_strict_mode_leaves_out_what_is_not_indexed(server: StandIn) -> None:
    raw = QdrantClient(port=server.port, check_compatibility=False)
    raw.delete_collection("strict")
    strict = models.StrictModeConfig(enabled=True, unindexed_filtering_retrieve=False)
    config = models.VectorParams(size=4, distance=models.Distance.DOT)
    raw.create_collection("strict", vectors_config=config, strict_mode_config=strict)
    raw.create_payload_index("strict", "n", models.PayloadSchemaType.INTEGER)
    raw.upsert("strict", [models.PointStruct(id=1, vector=VECTORS[0].tolist(), payload={"n": 1, "label": "x"})])
    raw.close()
    store = qdrant.connect_server(parse(server.url).with_served_collection())
    collection = adopt(store, propose(store, "strict"))
    assert [field.name for field in collection.spec.fields] == ["n"]
    assert collection.count(F.n == 1) == 1
    store.close()


def test_ids(store: Any, theirs: Theirs) -> None:
    collection = adopted(store)
    first = str(theirs.ids[0])
    asked = [first, "007", "no such", str(uuid.uuid4()), "1", first.upper() + "x"]
    assert collection.fetch(asked).ids == (first,)
    assert collection.fetch(["no such"]).ids == ()
    seen, after = [], None
    while True:
        page = next(iter(collection.scan(size=5, after=after)))
        seen += page.batch.ids
        after = page.after
        if after is None:
            break
    assert sorted(seen) == sorted(map(str, theirs.ids))


def test_a_vector_is_added_and_filled_beside_theirs(store: Any, theirs: Theirs) -> None:
    collection = adopted(store)
    vector = Vector(name="image", dim=2, metric=Metric.DOT, fingerprint=PRINT)
    spec = replace(collection.spec, vectors=(*collection.spec.vectors, vector))
    store.alter("theirs", spec, timeout=5)
    store.alter("theirs", spec, timeout=5)  # a call that is repeated
    some = [str(found) for found in theirs.ids[:3]]
    given = np.array([[1, 0], [2, 0], [3, 0], [9, 9], [9, 9]], np.float32)
    store.attach("theirs", Batch((*some, "nobody", str(2**40)), {vector.column: given}), timeout=5)
    opened = Collection.open(store, "theirs")
    hits = opened.search(np.array([[1.0, 0.0]]), using="image", k=9, want=Want(vectors=("photo",)))[0]
    assert [(hit.id, hit.score) for hit in hits] == [(some[2], 3.0), (some[1], 2.0), (some[0], 1.0)]
    np.testing.assert_allclose(hits[0].vectors["photo"], VECTORS[2], atol=1e-6)
    assert opened.count() == COUNT
    store.close()
    after = theirs.dump()
    assert [entry[1] for entry in after] == [
        entry[1] for entry in sorted((str(found), payload(i)) for i, found in enumerate(theirs.ids))
    ]


def test_release(store: Any, theirs: Theirs) -> None:
    adopted(store)
    release(store, "theirs")
    with pytest.raises(errors.StoreFormat, match="pixdex adopt"):
        store.describe("theirs", timeout=5)


def test_a_shard_without_a_registry_names_the_option(tmp_path: Path) -> None:
    fill_edge(tmp_path / "store", ids_of("int"))
    store = qdrant_edge.connect(parse(f"qdrant+edge://{tmp_path / 'store'}"))
    with pytest.raises(errors.Unsupported, match=r"\?registry="):
        adopted(store)
    with pytest.raises(errors.Unsupported, match="another directory"):
        Collection.create(store, "mine", replace(propose(store, "theirs").spec))
    with pytest.raises(errors.Unsupported, match="only reads"):
        store.alias("live", None, timeout=None)
    assert not (tmp_path / "store" / "qdrant-edge.json").exists()
    store.close()


def test_a_server_address_may_name_a_registry(server: StandIn, tmp_path: Path) -> None:
    raw = QdrantClient(port=server.port, check_compatibility=False)
    raw.delete_collection("theirs")
    fill(raw, ids_of("int"))
    url = f"{server.url}?registry={tmp_path}/specs.json"
    store = qdrant.connect_server(parse(url).with_served_collection())
    assert adopted(store).count() == COUNT
    assert not raw.get_collection("theirs").config.metadata
    raw.close()
    store.close()


def test_a_key_that_may_only_read_is_told_of_the_registry(server: StandIn) -> None:
    raw = QdrantClient(port=server.port, check_compatibility=False)
    raw.delete_collection("theirs")
    fill(raw, ids_of("int"))
    raw.close()
    store = qdrant.connect_server(parse(server.url).with_served_collection())
    server.fault(method="PATCH", status=403, error="Forbidden: Global manage access is required")
    with pytest.raises(errors.AccessDenied, match=r"\?registry="):
        adopted(store)
    store.close()


def test_the_unnamed_vector(tmp_path: Path, server: StandIn) -> None:
    raw = QdrantClient(port=server.port, check_compatibility=False)
    raw.delete_collection("plain")
    raw.create_collection("plain", vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    raw.upsert("plain", [models.PointStruct(id=i, vector=VECTORS[i].tolist(), payload={"n": i}) for i in range(3)])
    store = qdrant.connect_server(parse(server.url).with_served_collection())
    collection = adopt(store, propose(store, "plain"))
    vector = collection.spec.vectors[0]
    assert vector.stored_as == ""
    hit = collection.search(VECTORS[:1], k=1, want=Want(vectors=(vector.name,)))[0][0]
    assert (hit.id, hit.payload) == ("0", {"n": 0})
    assert hit.score == pytest.approx(1.0)
    assert hit.vectors is not None
    np.testing.assert_allclose(hit.vectors[vector.name], VECTORS[0] / np.linalg.norm(VECTORS[0]), atol=1e-6)
    raw.close()
    store.close()


@pytest.mark.parametrize(
    ("record", "point"),
    [
        ("0", 0),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", None),
        ("01", None),
        ("-1", None),
        ("٣", None),
        ("9" * 30, None),
        ("", None),
        ("a", None),
        ("6f0e4b57-0d0c-5f43-9a57-1f3f7c9a2d11", "6f0e4b57-0d0c-5f43-9a57-1f3f7c9a2d11"),
        ("6F0E4B57-0D0C-5F43-9A57-1F3F7C9A2D11", None),
        ("6f0e4b570d0c5f439a571f3f7c9a2d11", None),
    ],
)
def test_ids_that_points_can_have(record: str, point: int | str | None) -> None:
    assert foreign_id(record) == point


def test_search_by_the_port_leaves_other_vectors_out(store: Any) -> None:
    spec = adopted(store).spec
    request = Search(queries=VECTORS[:1], k=1, using="photo", want=Want(vectors=("photo",)))
    hit = store.search("theirs", request, timeout=5)[0][0]
    assert list(hit.vectors) == ["photo"]
    assert spec.vector("photo").column == "photo"
