"""Whole collections measured: what is a query, what is right, what an index loses, and one collection against another."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from PIL import Image

import pixdex
from pixdex import (
    Batch,
    Collection,
    F,
    Field,
    Fingerprint,
    Kind,
    Spec,
    Vector,
    _eval_search,
    adopting,
    connect,
    evaluation,
)
from pixdex.connectors.memory import MemoryConnector
from pixdex.errors import ConfigError, FingerprintMismatch, NotFound, Unsupported
from pixdex.evaluating import compare, evaluate
from pixdex.index import ImageIndex
from pixdex.types import Hit, Search

CLASSES, EACH = 4, 5


def picture(path: Path, label: int, number: int, noise: float = 60) -> Path:
    """A picture of a class: its blocks, each a little off."""
    rng = np.random.default_rng(label)
    blocks = rng.integers(0, 256, (4, 4, 3)) + np.random.default_rng(1000 * label + number).normal(0, noise, (4, 4, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(blocks, 0, 255).astype(np.uint8)).resize((32, 24), Image.Resampling.NEAREST).save(path)
    return path


def shelf(root: Path, count: int = EACH, *, start: int = 0) -> Path:
    """A folder of class folders."""
    for label in range(CLASSES):
        for number in range(start, start + count):
            picture(root / f"class{label}" / f"{number}.png", label, number)
    return root


def filled(index: ImageIndex, root: Path) -> ImageIndex:
    """The folder in an index, the class of each picture as a field."""
    for label in range(CLASSES):
        index.add(root / f"class{label}", fields={"kind": f"class{label}", "number": label}, source=f"class{label}")
    return index


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shelf(tmp_path / "in")


@pytest.fixture
def index(photos: ImageIndex, root: Path) -> ImageIndex:
    """Twenty pictures of four classes, over each store."""
    return filled(photos, root)


def vectors_of(index: ImageIndex) -> tuple[list[str], np.ndarray, list[str]]:
    batch = index.get(sorted(toys.payloads(index)), want=pixdex.Want(vectors=("image",)))
    return list(batch.ids), batch.vectors["image"], [payload["kind"] for payload in batch.payloads]


# --- records as queries -----------------------------------------------------------------------------


def test_every_record_is_a_query_and_no_answer_to_itself(index: ImageIndex) -> None:
    found = evaluate(index, label="kind", metrics=["recall@1", "r_precision", "map@r", "map", "mrr"])
    ids, vectors, kinds = vectors_of(index)
    expected = evaluation.measure(vectors, kinds, metrics=list(found.values))
    assert (found.records, found.classes, found.depth, len(found.queries)) == (20, 4, 100, 20)
    row = {query.id: place for place, query in enumerate(found.queries)}
    for name, values in expected.items():
        np.testing.assert_allclose(found.values[name][[row[record] for record in ids]], values, atol=1e-6, err_msg=name)
        assert found.metrics[name] == evaluation.interval(found.values[name])
    for query in found.queries:
        assert query.id not in {hit.id for hit in query.hits}
        assert query.positives == EACH - 1
        assert query.right == tuple(hit.id.startswith(f"{query.label}/") for hit in query.hits)
        assert query.path is not None
        assert Path(query.path).is_file()
    assert found.notices == ()
    assert (found.exact, found.ann_recall) == (None, None)
    assert found.encoder == "toy:48"


def test_labels_may_be_numbers_and_undeclared(index: ImageIndex) -> None:
    by_text, by_number = (evaluate(index, label=name, metrics=["map"]).metrics for name in ("kind", "number"))
    assert by_text == by_number
    index.add(toys.pixels(1), ids=["one"], fields={"shelf": {"row": 3}})
    index.add(toys.pixels(2), ids=["two"], fields={"shelf": {"row": 3}})
    found = evaluate(index, label="shelf.row", metrics=["mrr"])
    assert [query.id for query in found.queries] == ["one", "two"]
    assert found.records == 22


def test_records_without_a_label_and_those_alone_are_found_but_ask_nothing(index: ImageIndex) -> None:
    index.add(toys.pixels(1), ids=["alone"], fields={"kind": "odd"})
    index.add([toys.pixels(2), toys.pixels(3)], ids=["none", "neither"])
    found = evaluate(index, label="kind")
    assert (found.records, found.classes, len(found.queries)) == (23, 5, 20)
    assert found.notices == (
        "2 records have no kind: they are found, never right, and no queries",
        "1 records share their kind with no other: they are found, and no queries",
    )


def test_a_filter_chooses_what_is_searched_and_asked(index: ImageIndex) -> None:
    found = evaluate(index, label="kind", where=F.number < 2)
    assert (found.records, found.classes, len(found.queries)) == (10, 2, 10)
    assert {hit.id.partition("/")[0] for query in found.queries for hit in query.hits} == {"class0", "class1"}


def test_fewer_queries_are_chosen_by_seed(index: ImageIndex) -> None:
    chosen = [[query.id for query in evaluate(index, label="kind", limit=7, seed=seed).queries] for seed in (0, 0, 1)]
    assert len(chosen[0]) == 7
    assert chosen[0] == chosen[1] != chosen[2]


def test_depth_is_what_metrics_ask_for_and_what_is_beyond_is_said(index: ImageIndex) -> None:
    found = evaluate(index, label="kind", k=2, metrics=["recall@3", "map@r", "map"])
    assert found.depth == 3
    assert found.notices == (
        "lower bounds: map@r: 20 of 20 queries have more than k = 3 right answers; k = 4 would do",
        "lower bounds: map: what is not among the first 3 hits counts as not found",
    )
    assert evaluate(index, label="kind", k=19, metrics=["map@r", "map"]).notices == ()
    best = evaluate(index, label="kind", metrics=["map@r"]).values["map@r"]
    assert (found.values["map@r"] <= best + 1e-9).all()
    assert found.values["map@r"].max() <= 3 / 4


def test_the_curve_and_the_labels_say_what_the_values_say(index: ImageIndex) -> None:
    found = evaluate(index, label="kind", k=19, metrics=["recall@1", "recall@4", "map@r"])
    curve = found.recall_curve()
    assert curve.shape == (19,)
    assert (curve[0], curve[3], curve[-1]) == (found.metrics["recall@1"].mean, found.metrics["recall@4"].mean, 1)
    means = found.by_label("map@r")
    assert set(means) == {f"class{label}" for label in range(CLASSES)}
    assert list(means.values()) == sorted(means.values())
    assert np.mean(list(means.values())) == pytest.approx(found.metrics["map@r"].mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "knd"}, "no record of collection 'main' has a value under 'knd' .did you mean 'kind'?"),
        ({"label": "path"}, "no two records of collection 'main' have the same path"),
        ({"label": "tags"}, "field 'tags' is a list"),
        ({"label": "taken"}, "field 'taken' is time"),
        ({"label": "weight"}, "field 'weight' is float"),
        ({"label": "kind", "where": F.number > 9}, "no records that match"),
        ({"label": "kind", "metrics": ["recal@1"]}, "no metric 'recal@1' .did you mean 'recall@k'"),
        ({"label": "kind", "metrics": []}, "at least one"),
        ({"label": "kind", "k": 0}, "k is 0"),
        ({"label": "kind", "limit": 0}, "limit is 0"),
        ({"label": "kind", "using": "text"}, "no vector 'text'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(index: ImageIndex, options: dict[str, Any], message: str) -> None:
    index.declare({"tags": "text[]", "weight": "float"})
    with pytest.raises(ConfigError, match=message):
        evaluate(index, **options)


def test_an_address_will_do_without_its_encoder(tmp_path: Path, toy: toys.ToyEncoder, root: Path) -> None:
    url = f"pq://{tmp_path / 'store.pix'}"
    with pixdex.open(url, encoder=toy) as made:
        filled(made, root)
        expected = evaluate(made, label="kind").metrics
    assert evaluate(url, label="kind").metrics == expected  # no plugin "toy" is installed here
    with pytest.raises(NotFound):
        evaluate(f"pq://{tmp_path / 'other.pix'}", label="kind")


def test_a_function_hears_how_far_it_is(index: ImageIndex) -> None:
    heard: list[tuple[int, int]] = []
    evaluate(index, label="kind", exact=True, progress=lambda done, total: heard.append((done, total)))
    assert heard.count((20, 20)) == 4  # reading the collection and the queries, searching, searching exactly


# --- what an index loses ----------------------------------------------------------------------------


class Forgetful(MemoryConnector):
    """Finds only what its index knows: every third record is not in it."""

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        found = super().search(name, replace(request, k=10_000), timeout=timeout)
        return [[hit for hit in hits if int(hit.id[1:]) % 3][: request.k] for hits in found]


def numbered(connector: MemoryConnector, count: int = 60) -> Collection:
    """Vectors of six labels."""
    fingerprint = Fingerprint(encoder="none", digest="00" * 8)
    spec = Spec(
        vectors=(Vector(name="image", dim=8, fingerprint=fingerprint),), fields=(Field(name="n", kind=Kind.INT),)
    )
    collection = Collection.create(connector, "main", spec)
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 6
    vectors = rng.standard_normal((6, 8))[labels] + 0.8 * rng.standard_normal((count, 8))
    payloads = tuple({"n": int(label)} for label in labels)
    collection.upsert(Batch(tuple(f"r{i}" for i in range(count)), {"image": vectors.astype(np.float32)}, payloads))
    return collection


@pytest.mark.parametrize("at_once", [4096, 7])
def test_what_the_index_loses_is_told_from_what_the_encoder_can_do(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(_eval_search, "_SCORED_AT_ONCE", at_once)
    monkeypatch.setattr(_eval_search, "_PAGE", 17)
    options: dict[str, Any] = {"label": "n", "k": 9, "metrics": ["map@r", "recall@1"], "exact": True}
    whole = evaluate(numbered(MemoryConnector()), **options)
    lossy = evaluate(numbered(Forgetful()), **options)
    assert whole.ann_recall is not None
    assert lossy.ann_recall is not None
    assert whole.metrics == whole.exact == lossy.exact
    assert whole.ann_recall.mean == 1
    assert lossy.metrics["map@r"].mean < lossy.exact["map@r"].mean - 0.05
    assert lossy.ann_recall.mean == pytest.approx(2 / 3, abs=0.05)


def test_scores_that_differ_by_rounding_are_equal() -> None:
    scores = np.array([[0.9, 0.5, 0.4], [0.9, 0.5, -np.inf], [-np.inf] * 3])
    of_store = np.array([[0.9, 0.5, 0.4 - 2e-6], [0.9, 0.5 - 1e-3, -np.inf], [-np.inf] * 3])
    found = _eval_search.overlap(_eval_search.Exact(np.zeros((3, 3), dtype=np.int64), scores, of_store))
    np.testing.assert_array_equal(found, [1, 1 / 2, np.nan])


def test_equal_scores_are_not_counted_as_lost() -> None:
    collection = numbered(MemoryConnector())
    same = np.ones((40, 8), dtype=np.float32)
    collection.upsert(Batch(tuple(f"s{i}" for i in range(40)), {"image": same}, tuple({"n": 7} for _ in range(40))))
    found = evaluate(collection, label="n", where=F.n == 7, k=5, exact=True, metrics=["recall@1"])
    assert found.ann_recall is not None
    assert found.ann_recall.mean == 1


# --- pictures as queries ----------------------------------------------------------------------------


def test_folders_label_the_pictures_in_them(index: ImageIndex, tmp_path: Path) -> None:
    asked = shelf(tmp_path / "asked", 3, start=50)
    picture(asked / "class9" / "0.png", 9, 0)
    (asked / "class1" / "broken.png").write_text("no")
    found = evaluate(index, label="kind", queries=asked, metrics=["recall@1", "map"])
    assert len(found.queries) == 12
    assert [query.label for query in found.queries] == sorted(query.label for query in found.queries)
    assert {query.positives for query in found.queries} == {EACH}
    assert found.metrics["recall@1"].mean > 0.9
    assert [Path(row.path).name for row in found.unusable] == ["broken.png"]
    assert found.notices == ("1 pictures have a kind that no record has and are no queries",)


@pytest.mark.parametrize("label", ["kind", "number"])
def test_a_table_labels_its_pictures(index: ImageIndex, tmp_path: Path, label: str) -> None:
    asked = shelf(tmp_path / "asked", 2, start=50)
    with (tmp_path / "asked.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "kind", "number"])
        for path in sorted(asked.rglob("*.png")):
            wrong = (int(path.parent.name[-1]) + 1) % CLASSES  # says otherwise than its folder
            rows.writerow([path, f"class{wrong}", wrong])
        rows.writerow([picture(tmp_path / "more.png", 1, 77), "", ""])
    found = evaluate(index, label=label, queries=tmp_path / "asked.csv", metrics=["recall@1"])
    assert len(found.queries) == 8
    assert found.metrics["recall@1"].mean < 0.2
    assert found.notices == (f"1 pictures have no {label} and are no queries",)


def test_folders_may_be_numbers(index: ImageIndex, tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "asked" / "2" / f"{number}.png", 2, 60 + number)
    found = evaluate(index, label="number", queries=tmp_path / "asked", metrics=["recall@1"])
    assert [query.label for query in found.queries] == [2, 2, 2]


def test_a_query_that_is_in_the_collection_does_not_find_itself(index: ImageIndex, root: Path) -> None:
    found = evaluate(index, label="kind", queries=root)
    alone = evaluate(index, label="kind")
    assert found.notices == ("20 queries are in the collection: each is left out of its own ranking",)
    assert {query.positives for query in found.queries} == {EACH - 1}
    for name, values in found.values.items():
        np.testing.assert_allclose(np.sort(values), np.sort(alone.values[name]), atol=1e-6)


def test_a_query_without_a_right_answer_says_nothing(index: ImageIndex, root: Path, tmp_path: Path) -> None:
    alone = picture(tmp_path / "class9" / "0.png", 9, 0)
    index.add(alone, fields={"kind": "class9"})
    found = evaluate(index, label="kind", queries=[root / "class1", alone], metrics=["recall@1"])
    assert [query.positives for query in found.queries] == [EACH - 1] * EACH + [0]
    assert np.isnan(found.values["recall@1"][-1])
    assert found.metrics["recall@1"].mean == found.recall_curve()[0] == 1
    assert found.by_label("recall@1") == {"class1": 1}


def test_pictures_that_cannot_be_queries_are_refused(index: ImageIndex, tmp_path: Path) -> None:
    strange = picture(tmp_path / "elsewhere" / "a.png", 1, 1)
    with pytest.raises(ConfigError, match="folders .a table may have the column 'kind'. gives 'elsewhere', the coll"):
        evaluate(index, label="kind", queries=strange)
    with pytest.raises(ConfigError, match="'path' is filled by pixdex"):
        evaluate(index, label="path", queries=strange)
    (tmp_path / "bad" / "class1").mkdir(parents=True)
    (tmp_path / "bad" / "class1" / "x.png").write_text("no")
    with pytest.raises(ConfigError, match="none of the query pictures can be used: .*x.png: not a picture"):
        evaluate(index, label="kind", queries=tmp_path / "bad")
    with pytest.raises(Unsupported, match="need an encoder"):
        evaluate(index.collection, label="kind", queries=strange)


# --- one against another ----------------------------------------------------------------------------


@pytest.fixture
def other(made: Any, root: Path) -> ImageIndex:
    """The same pictures by a worse encoder, which sees two pixels."""
    return filled(made(encoder=toys.ToyEncoder(dim=6)), root)


def test_two_encoders_over_the_same_queries(index: ImageIndex, other: ImageIndex) -> None:
    found = compare(index, other, label="kind", metrics=["map@r", "recall@1"])
    assert [q.id for q in found.first.queries] == [q.id for q in found.second.queries]
    for name, difference in found.differences.items():
        assert difference == evaluation.paired(found.first.values[name], found.second.values[name])
    assert found.differences["map@r"].low > 0
    assert found.differences["map@r"].mean == pytest.approx(
        found.first.metrics["map@r"].mean - found.second.metrics["map@r"].mean
    )
    back = compare(other, index, label="kind", metrics=["map@r"])
    assert back.differences["map@r"].mean == pytest.approx(-found.differences["map@r"].mean)
    assert found.notices == ()


def test_two_stores_of_one_encoder(index: ImageIndex, made: Any, root: Path) -> None:
    found = compare(index, filled(made(), root), label="kind", limit=9)
    assert len(found.first.queries) == 9
    assert all(difference.mean == 0 for difference in found.differences.values())
    assert found.notices == ("both hold vectors of the same encoder: what differs is the store",)


def test_another_engine(made: Any, root: Path, tmp_path: Path) -> None:
    pytest.importorskip("qdrant_edge")
    index = filled(made(), root)
    there = filled(made(f"qdrant+edge://{tmp_path / 'edge'}#main"), root)
    found = compare(index, there, label="kind", exact=True)
    for side in (found.first, found.second):
        assert side.ann_recall is not None
        assert side.ann_recall.mean == 1
        assert side.metrics == side.exact
    assert all(difference.mean == 0 for difference in found.differences.values())


def test_a_collection_of_another_tool(tmp_path: Path, toy: toys.ToyEncoder, root: Path) -> None:
    qdrant = pytest.importorskip("qdrant_client")
    place = str(tmp_path / "shop.qdrant")
    client = qdrant.QdrantClient(path=place)
    models = qdrant.models
    client.create_collection("things", models.VectorParams(size=2, distance=models.Distance.COSINE))
    points = [
        models.PointStruct(id=n, vector=[1.0, n], payload={"product kind": f"k{n % 2}", "n": n}) for n in range(10)
    ]
    client.upsert("things", points)
    client.close()
    connector, name = connect(f"qdrant+local://{place}#things")
    try:
        proposal = adopting.propose(connector, name)
        fields = (Field(name="product_kind", kind=Kind.TEXT, stored_as="product kind"),)
        collection = adopting.adopt(connector, replace(proposal, spec=replace(proposal.spec, fields=fields)))
        assert evaluate(collection, label="product kind").metrics == evaluate(collection, label="product_kind").metrics
        found = evaluate(collection, label="product kind", metrics=["mrr"], k=4)
        assert (found.records, len(found.queries), found.classes) == (10, 10, 2)
    finally:
        connector.close()


def test_only_queries_that_both_have_are_compared(index: ImageIndex, other: ImageIndex) -> None:
    other.delete(["class0/0.png", "class1/3.png"])
    other.add(toys.pixels(5), ids=["class2/new"], fields={"kind": "class2"})
    found = compare(index, other, label="kind")
    assert len(found.first.queries) == len(found.second.queries) == 18
    (notice,) = found.notices
    assert notice.startswith("the collections differ: 2 records are in the first alone, 1 in the second alone")
    other.delete(F.kind.exists())
    other.add([toys.pixels(6), toys.pixels(7)], ids=["x", "y"], fields={"kind": "class0"})
    with pytest.raises(ConfigError, match="no record of the same id and kind"):
        compare(index, other, label="kind")


def test_pictures_are_encoded_by_each(index: ImageIndex, other: ImageIndex, tmp_path: Path) -> None:
    asked = shelf(tmp_path / "asked", 3, start=50)
    (first, second) = (index.encoder.total, other.encoder.total)
    found = compare(index, other, label="kind", queries=asked, metrics=["map"], exact=True)
    assert (index.encoder.total - first, other.encoder.total - second) == (12, 12)
    assert found.differences["map"].low > 0
    for one in (index, other):
        alone = evaluate(one, label="kind", queries=asked, metrics=["map"])
        done = found.first if one is index else found.second
        assert done.metrics == alone.metrics
        assert done.exact == alone.metrics


def test_one_encoder_encodes_pictures_once(index: ImageIndex, made: Any, root: Path, tmp_path: Path) -> None:
    twin = filled(made(), root)
    before = index.encoder.total
    pictures = iter(sorted(shelf(tmp_path / "asked", 2, start=50).rglob("*.png")))
    compare(index, twin, label="kind", queries=pictures)
    assert index.encoder.total - before == 8


def test_an_encoder_that_did_not_make_the_collection_is_refused(
    tmp_path: Path, toy: toys.ToyEncoder, root: Path
) -> None:
    url = f"pq://{tmp_path / 'store.pix'}"
    with pixdex.open(url, encoder=toy) as made:
        filled(made, root)
    with pytest.raises(FingerprintMismatch), pixdex.open(url, encoder=toys.ToyEncoder(dim=6)) as wrong:
        evaluate(wrong, label="kind")
    connector, name = connect(url)
    with pytest.raises(ConfigError, match="cannot be made here"):
        compare(url, url, label="kind", queries=root)  # no plugin "toy" is installed here
    assert Collection.open(connector, name).count() == 20
    connector.close()
