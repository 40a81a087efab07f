"""Collections that were made with the raw clients: adopted, given image vectors, searched."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image

import pixdex
from pixdex import encoders
from pixdex.adopting import adopt, attach, propose, release
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.connectors.port import Connector
from pixdex.errors import (
    AlreadyExists,
    ConfigError,
    FingerprintMismatch,
    InvalidFilter,
    NotFound,
    StoreFormat,
    Unsupported,
)
from pixdex.filters import F
from pixdex.spec import Field, Kind
from pixdex.types import Batch, Tuning, Want

COUNT = 40
DIM = 8
VECTORS = np.random.default_rng(1).standard_normal((COUNT, DIM)).astype(np.float32)
COLOURS = ("red", "blue", 'gr"een')
Row = dict[str, Any]


def payload(number: int) -> Row:
    """What the other tool stored of a record."""
    return {
        "n": number,
        "colour": COLOURS[number % 3],
        "price": number / 4,
        "sold": number % 2 == 0,
        "tags": ["all", f"tag{number % 4}"],
        "file": f"{number:02}.png",
        "_hidden": number,
    }


@dataclass(frozen=True)
class Theirs:
    """A collection ``things`` made with a raw client: its address, its ids as pixdex shows them, and what the raw
    client itself finds: ids and scores of the ten nearest to a vector.
    """

    url: str
    ids: Sequence[str]
    nearest: Callable[[np.ndarray], list[tuple[str, float]]]
    everything: Callable[[], Any]


def qdrant_local(folder: Path, ids: Sequence[int | str], stored: Callable[[int], Row] = payload) -> Theirs:
    client_module = pytest.importorskip("qdrant_client")
    models = client_module.models
    path = str(folder / "qdrant")
    params = models.VectorParams(size=DIM, distance=models.Distance.DOT)

    def using(work: Callable[[Any], Any]) -> Any:
        client = client_module.QdrantClient(path=path)
        try:
            return work(client)
        finally:
            client.close()

    def make(client: Any) -> None:
        client.create_collection("things", vectors_config={"text": params})
        points = [
            models.PointStruct(id=key, vector={"text": VECTORS[row % COUNT].tolist()}, payload=stored(row))
            for row, key in enumerate(ids)
        ]
        client.upsert("things", points)

    def nearest(query: np.ndarray) -> list[tuple[str, float]]:
        found = using(lambda c: c.query_points("things", query=query.tolist(), using="text", limit=10).points)
        return [(str(point.id), point.score) for point in found]

    def everything() -> Any:
        found, _ = using(lambda c: c.scroll("things", limit=1000, with_vectors=["text"]))
        return [(point.id, point.payload, point.vector["text"]) for point in found]

    using(make)
    return Theirs(f"qdrant+local://{path}#things", [str(key) for key in ids], nearest, everything)


def milvus_lite(folder: Path, ids: Sequence[int | str]) -> Theirs:
    pytest.importorskip("milvus_lite")
    from pymilvus import DataType, MilvusClient

    path = str(folder / "milvus.db")

    def using(work: Callable[[Any], Any]) -> Any:
        client = MilvusClient(path)
        try:
            return work(client)
        finally:
            client.close()
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_all()

    def make(client: Any) -> None:
        schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
        text = isinstance(ids[0], str)
        schema.add_field("pk", DataType.VARCHAR if text else DataType.INT64, is_primary=True, max_length=512)
        schema.add_field("emb", DataType.FLOAT_VECTOR, dim=DIM)
        schema.add_field("n", DataType.INT32)
        schema.add_field("colour", DataType.VARCHAR, max_length=100)
        schema.add_field("price", DataType.FLOAT, nullable=True)
        schema.add_field("sold", DataType.BOOL)
        schema.add_field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=8, max_length=20)
        indexes = client.prepare_index_params()
        indexes.add_index("emb", index_type="FLAT", metric_type="IP")
        client.create_collection("things", schema=schema, index_params=indexes)
        client.insert("things", [{"pk": key, "emb": VECTORS[row], **payload(row)} for row, key in enumerate(ids)])

    def nearest(query: np.ndarray) -> list[tuple[str, float]]:
        found = using(lambda c: _loaded(c).search("things", data=[query.tolist()], anns_field="emb", limit=10))
        return [(str(hit["pk"]), hit["distance"]) for hit in found[0]]

    def everything() -> Any:
        rows = using(lambda c: _loaded(c).query("things", filter="n >= 0", output_fields=["*"]))
        return sorted(str(sorted((key, str(value)) for key, value in row.items())) for row in rows)

    using(make)
    return Theirs(f"milvus+lite://{path}#things", [str(key) for key in ids], nearest, everything)


def _loaded(client: Any) -> Any:
    client.load_collection("things")
    return client


UUIDS = [str(UUID(int=7 + row)) for row in range(COUNT)]
NUMBERS = [2 * row for row in range(COUNT)]
TEXTS = [f"thing {row}" for row in range(COUNT - 5)] + ["'", '"', "\\", "a\\", "é"]
KINDS = {
    "qdrant+local, uint64": (qdrant_local, NUMBERS),
    "qdrant+local, uuid": (qdrant_local, UUIDS),
    "milvus+lite, int64": (milvus_lite, NUMBERS),
    "milvus+lite, text": (milvus_lite, TEXTS),
}


@pytest.fixture(params=KINDS)
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Theirs:
    make, ids = KINDS[request.param]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(tmp_path, ids)


@pytest.fixture
def connector(theirs: Theirs) -> Iterator[Connector]:
    connector, _ = connect(theirs.url)
    yield connector
    connector.close()


@pytest.fixture
def adopted(connector: Connector) -> Collection:
    return adopt(connector, propose(connector, "things"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A picture for every record but the last two: one is missing, one broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(COUNT - 2):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((80, 60)).save(folder / f"{number:02}.png")
    (folder / f"{COUNT - 1:02}.png").write_bytes(b"broken")
    return folder


def test_refused_until_it_is_adopted(theirs: Theirs) -> None:
    with pytest.raises(StoreFormat, match="pixdex adopt"):
        pixdex.open(theirs.url)


def test_the_proposal_says_what_is_there(connector: Connector) -> None:
    proposal = propose(connector, "things")
    assert proposal.survey.count == COUNT
    assert [(v.dim, v.metric) for v in proposal.spec.vectors] == [(DIM, "dot")]
    kinds = {field.name: (field.kind, field.many) for field in proposal.spec.fields}
    assert kinds["n"] == (Kind.INT, False)
    assert kinds["colour"] == (Kind.TEXT, False)
    assert kinds["price"] == (Kind.FLOAT, False)
    assert kinds["sold"] == (Kind.BOOL, False)
    assert kinds["tags"] == (Kind.TEXT, True)


def test_nothing_of_theirs_is_touched(theirs: Theirs, pictures: Path) -> None:
    before = theirs.everything()
    connector, _ = connect(theirs.url)
    adopt(connector, propose(connector, "things"))
    attach(connector, "things", encoders.load("classic"), images="file", root=pictures)
    release(connector, "things")
    connector.close()
    assert theirs.everything() == before


def test_search_is_the_raw_clients_own(theirs: Theirs) -> None:
    raw = theirs.nearest(VECTORS[3])
    connector, _ = connect(theirs.url)
    collection = adopt(connector, propose(connector, "things"))
    hits = collection.search_one(VECTORS[3], k=10)
    connector.close()
    assert [hit.id for hit in hits] == [record for record, _ in raw]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in raw], rel=1e-5)
    for hit in hits:
        stored = payload(theirs.ids.index(hit.id))
        assert {key: hit.payload[key] for key in stored} == stored  # as it is, whatever the keys are called


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        (F.n < 5, lambda p: p["n"] < 5),
        (F.colour == 'gr"een', lambda p: p["colour"] == 'gr"een'),
        (F.colour != "red", lambda p: p["colour"] != "red"),
        (~(F.tags.contains("tag1") | (F.price > 4)), lambda p: not ("tag1" in p["tags"] or p["price"] > 4)),
        (F.price.between(1, 2.5), lambda p: 1 <= p["price"] <= 2.5),
        (F.sold.exists() & (F.sold == True), lambda p: p["sold"]),  # noqa: E712
        (F.n.is_in([1, 2, 99]), lambda p: p["n"] in (1, 2)),
        (~F.price.exists(), lambda p: False),
    ],
    ids=lambda given: None if callable(given) else str(given),
)
def test_filters_mean_what_they_always_mean(adopted: Collection, theirs: Theirs, where: Any, holds: Any) -> None:
    expected = {record for row, record in enumerate(theirs.ids) if holds(payload(row))}
    assert {record for page in adopted.scan(where=where) for record in page.batch.ids} == expected
    assert adopted.count(where) == len(expected)
    assert {hit.id for hit in adopted.search_one(VECTORS[0], k=COUNT, where=where)} == expected
    exact = adopted.search_one(VECTORS[0], k=3, where=where, tuning=Tuning(exact=True))
    assert [h.id for h in exact] == [h.id for h in adopted.search_one(VECTORS[0], k=3, where=where)]


def test_records_by_their_own_ids(adopted: Collection, theirs: Theirs) -> None:
    name = adopted.spec.vectors[0].name
    some = [theirs.ids[5], "no such id", theirs.ids[-1], "00", "no\\u0000thing", "-1", "9" * 30, "x" * 512]
    batch = adopted.fetch(list(dict.fromkeys(some)), want=Want(vectors=(name,)))
    assert batch.ids == (theirs.ids[5], theirs.ids[-1])
    assert np.allclose(batch.vectors[name], VECTORS[[5, -1]], atol=1e-6)
    assert adopted.count(F.ids([theirs.ids[0], "no such id"])) == 1
    assert adopted.count(~F.ids([theirs.ids[0]])) == COUNT - 1
    seen = [record for page in adopted.scan(size=7) for record in page.batch.ids]
    assert sorted(seen) == sorted(theirs.ids)


def test_pixdex_only_reads_it(adopted: Collection) -> None:
    name = adopted.spec.vectors[0].name
    for change in (
        lambda: adopted.upsert(Batch(("1",), {name: VECTORS[:1]})),
        lambda: adopted.delete(["1"]),
        lambda: adopted.delete_where(F.n == 1),
        lambda: adopted.alter(fields=(Field(name="x", kind=Kind.INT),)),
        adopted.drop,
        lambda: list(adopted.scan(since=1)),
    ):
        with pytest.raises(Unsupported, match="made by another tool"):
            change()
    assert adopted.count() == COUNT


def test_undeclared_fields_are_refused(adopted: Collection) -> None:
    with pytest.raises(InvalidFilter, match="not declared"):
        adopted.count(F.nothing == 1)


def test_adopting_twice_and_what_is_not_there(adopted: Collection) -> None:
    with pytest.raises(AlreadyExists, match="needs no adopting"):
        propose(adopted.connector, "things")
    with pytest.raises(NotFound):
        propose(adopted.connector, "nothing")
    release(adopted.connector, "things")
    propose(adopted.connector, "things")


def test_attached_pictures_are_searched(theirs: Theirs, pictures: Path) -> None:
    connector, _ = connect(theirs.url)
    adopt(connector, propose(connector, "things"))
    encoder = encoders.load("classic")
    report = attach(connector, "things", encoder, images="file", root=pictures)
    assert report.added == COUNT - 2
    assert len(report.quarantined) == 2
    again = attach(connector, "things", encoder, images="file", root=pictures)
    assert (again.added, again.unchanged) == (0, COUNT - 2)
    connector.close()

    with pixdex.open(theirs.url) as index:
        hits = index.search(pictures / "07.png", k=3)
        assert hits[0].id == theirs.ids[7]
        assert hits[0].score == pytest.approx(1.0, abs=1e-5)
        assert hits[0].payload["colour"] == payload(7)["colour"]
        where = (F.colour != payload(7)["colour"]) & (F.n < 20)
        filtered = index.search(pictures / "07.png", k=5, where=where)
        assert len(filtered) == 5
        assert all(h.payload["colour"] != payload(7)["colour"] and h.payload["n"] < 20 for h in filtered)
        few = index.search(pictures / "07.png", k=10, where=F.n.is_in([1, 2, COUNT - 1]))
        assert {hit.id for hit in few} == {theirs.ids[1], theirs.ids[2]}  # the last has no vector
        by_id = index.search(theirs.ids[7], k=1, exclude_self=True)
        assert by_id[0].id != theirs.ids[7]
        with pytest.raises(Unsupported, match="another tool"):
            index.add(pictures)
        with pytest.raises(Unsupported, match="search by id"):
            index.search(pictures / "07.png", exclude_self=True)


def test_another_encoder_is_refused(connector: Connector, adopted: Collection, pictures: Path) -> None:
    from tests.unit.toys import ToyEncoder

    attach(connector, "things", encoders.load("classic"), images="file", root=pictures)
    with pytest.raises(FingerprintMismatch):
        attach(connector, "things", ToyEncoder(), images="file", root=pictures)


def test_a_field_that_names_no_picture(connector: Connector, adopted: Collection, pictures: Path) -> None:
    with pytest.raises(ConfigError, match=r"'photo'.*colour.*file"):
        attach(connector, "things", encoders.load("classic"), images="photo", root=pictures)
    with pytest.raises(NotFound):
        attach(connector, "nothing", encoders.load("classic"), images="file")


def test_records_without_a_picture_stop_nothing(tmp_path: Path, pictures: Path) -> None:
    """Be it a whole page of them."""
    theirs = qdrant_local(tmp_path, range(130), lambda row: {"file": "07.png" if row == 129 else ""})
    connector, _ = connect(theirs.url)
    adopt(connector, propose(connector, "things"))
    report = attach(connector, "things", encoders.load("classic"), images="file", root=pictures)
    assert (report.added, len(report.quarantined)) == (1, 129)
    connector.close()


def test_an_encoder_that_did_not_make_the_vector(connector: Connector) -> None:
    with pytest.raises(ConfigError, match="did not make these"):
        propose(connector, "things", encoder=encoders.load("classic"))
    with pytest.raises(ConfigError, match="no vector 'nothing'"):
        propose(connector, "things", encoder=encoders.load("classic"), vector="nothing")
