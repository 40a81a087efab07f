"""Vectors: stored as checked, several a record, some left out; and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.errors import InvalidRecord, Unsupported
from pixdex.filters import F
from pixdex.spec import Field, Kind, Metric, Spec
from pixdex.testing._support import (
    DIM,
    EXACT,
    Cases,
    plain,
    put,
    scanned,
    similarity,
    some_vectors,
    vector,
)
from pixdex.types import Batch, Want

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector


class VectorCases(Cases):
    """One vector or several a record, each with its own width and metric."""

    # --- vectors ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("metric", list(Metric))
    def test_stored_vector_equals_the_checked_one(self, connector: Connector, name: str, metric: Metric) -> None:
        """To 1e-6: as given, or of unit length under cosine; never as a store would like it."""
        if metric not in connector.capabilities.metrics:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, plain(metric=metric))
            return
        collection = Collection.create(connector, name, plain(metric=metric))
        matrix = some_vectors(6) * np.array([[1], [1e-3], [0.3], [1], [7], [1]], np.float32)
        ids = [f"r{i}" for i in range(6)]
        put(collection, ids, matrix)
        expected = matrix / np.linalg.norm(matrix, axis=1, keepdims=True) if metric is Metric.COSINE else matrix
        got = collection.fetch(ids, want=Want(vectors=("image",))).vectors["image"]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)

    def test_float16_vectors(self, connector: Connector, name: str) -> None:
        """A vector declared float16 comes back as its rounding, in float32."""
        metric = max(connector.capabilities.metrics)
        collection = Collection.create(connector, name, plain(metric=metric, dtype="float16"))
        matrix = some_vectors(3)
        put(collection, ["a", "b", "c"], matrix)
        got = collection.fetch(["a", "b", "c"], want=Want(vectors=("image",))).vectors["image"]
        assert got.dtype == np.float32
        if metric is Metric.COSINE:
            matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        np.testing.assert_allclose(got, matrix.astype(np.float16).astype(np.float32), rtol=1e-3, atol=1e-6)

    def test_float16_overflow_is_refused(self, connector: Connector, name: str) -> None:
        """A number that float16 cannot hold is refused, not made infinite."""
        metric = next((m for m in (Metric.L2, Metric.DOT) if m in connector.capabilities.metrics), None)
        if metric is None:  # under cosine everything is of unit length
            return
        collection = Collection.create(connector, name, plain(metric=metric, dtype="float16"))
        with pytest.raises(InvalidRecord, match="float16"):
            put(collection, ["a"], np.full((1, DIM), 1e6, np.float32))

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param(np.full((2, DIM), np.nan), id="NaN"),
            pytest.param(np.array([[0.0] * (DIM - 1) + [np.inf]] * 2), id="infinity"),
            pytest.param(np.full((2, DIM), 1e300), id="infinite as float32"),
            pytest.param(np.ones((2, DIM + 1)), id="too wide"),
            pytest.param(np.ones((2, DIM - 1)), id="too narrow"),
            pytest.param(np.ones((3, DIM)), id="too many rows"),
            pytest.param(np.ones((2, 1, DIM)), id="three axes"),
            pytest.param([[1.0] * DIM, [1.0]], id="ragged"),
            pytest.param([["x"] * DIM] * 2, id="text"),
        ],
    )
    def test_bad_vectors_are_refused(self, untouched: Collection, wrong: Any) -> None:
        """NaN, infinity and wrong shapes are refused before anything is written, good rows included."""
        good = some_vectors(2)
        mixed = np.concatenate([good[:1], wrong[1:]]) if getattr(wrong, "shape", None) == good.shape else wrong
        with pytest.raises(InvalidRecord):
            untouched.upsert(Batch(("a", "b"), {"image": mixed}))

    def test_a_zero_vector_has_no_cosine(self, connector: Connector, name: str) -> None:
        """Zero is refused under cosine, as a record and as a query, and is fine elsewhere."""
        for metric in sorted(connector.capabilities.metrics):
            collection = Collection.create(connector, name, plain(metric=metric))
            matrix = some_vectors(2)
            matrix[1] = 0
            if metric is Metric.COSINE:
                with pytest.raises(InvalidRecord, match="zero"):
                    put(collection, ["a", "b"], matrix)
                with pytest.raises(InvalidRecord, match="zero"):
                    collection.search(matrix)
                collection.flush()
                assert collection.count() == 0
            else:
                put(collection, ["a", "b"], matrix)
                assert {h.id for h in collection.search(matrix)[1]} == {"a", "b"}
            collection.drop()

    # --- named vectors ------------------------------------------------------------------------------

    @pytest.fixture
    def pair(self, connector: Connector, name: str) -> Collection | None:
        """A collection of two vectors that differ in width and metric, or None."""
        metrics = sorted(connector.capabilities.metrics)
        spec = Spec(
            vectors=(vector(metric=metrics[-1]), vector("text", dim=4, metric=metrics[0], encoder="words")),
            fields=(Field(name="n", kind=Kind.INT),),
        )
        if connector.capabilities.max_vectors < 2:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, spec)
            return None
        return Collection.create(connector, name, spec)

    def test_two_vectors(self, pair: Collection | None) -> None:
        """Each vector is searched by its own width and metric."""
        if pair is None:
            return
        image, text = some_vectors(3), some_vectors(3, dim=4, seed=1)
        pair.upsert(Batch(("a", "b", "c"), {"image": image, "text": text[[2, 0, 1]]}))
        pair.flush()
        assert [row[0].id for row in pair.search(image, k=1, using="image")] == _best(pair, "image", image, image)
        assert [row[0].id for row in pair.search(text, k=1, using="text")] == _best(pair, "text", text, text[[2, 0, 1]])
        both = pair.fetch(["b"], want=Want(vectors=("image", "text")))
        assert both.vectors["image"].shape == (1, DIM)
        assert both.vectors["text"].shape == (1, 4)
        only = pair.fetch(["b"], want=Want(vectors=("text",)))
        assert set(only.vectors) == {"text"}

    def test_using_must_be_said_when_there_are_two(self, pair: Collection | None) -> None:
        """There is no hidden default among several vectors."""
        if pair is None:
            return
        with pytest.raises(ValueError, match="image, text"):
            pair.search(some_vectors(1))

    def test_a_record_may_lack_a_vector(self, pair: Collection | None) -> None:
        """Searches by that vector do not find it, everything else does; reads say that it is absent."""
        if pair is None:
            return
        pair.upsert(
            Batch(
                ("both", "image", "text", "neither"),
                {"image": some_vectors(4), "text": some_vectors(4, dim=4)},
                tuple({"n": i} for i in range(4)),
                absent={"image": np.array([False, False, True, True]), "text": np.array([False, True, False, True])},
            )
        )
        pair.flush()
        assert pair.count() == 4
        assert sorted(scanned(pair)) == ["both", "image", "neither", "text"]
        for tuning in (EXACT, None):
            options: dict[str, Any] = {} if tuning is None else {"tuning": tuning}
            assert {h.id for h in pair.search(some_vectors(1), using="image", **options)[0]} == {"both", "image"}
            assert {h.id for h in pair.search(some_vectors(1, dim=4), using="text", **options)[0]} == {"both", "text"}
            assert pair.search(some_vectors(1), using="image", where=F.n >= 2, **options) == [[]]
        assert pair.count(F.n == 3) == 1
        batch = pair.fetch(["neither", "both", "image", "text"], want=Want(vectors=("image", "text")))
        assert batch.ids == ("neither", "both", "image", "text")
        assert batch.present("image").tolist() == [False, True, True, False]
        assert batch.present("text").tolist() == [False, True, False, True]
        hit = pair.search(some_vectors(1), using="image", where=F.ids(["image"]), want=Want(vectors=("image", "text")))[
            0
        ][0]
        assert set(hit.vectors or {}) == {"image"}
        page = next(iter(pair.scan(want=Want(vectors=("image",)))))
        assert {i for i, there in zip(page.batch.ids, page.batch.present("image"), strict=True) if there} == {
            "both",
            "image",
        }

    def test_absent_rows_mean_nothing(self, pair: Collection | None) -> None:
        """A row under ``absent`` may hold anything, NaN too."""
        if pair is None:
            return
        matrix = some_vectors(2)
        matrix[1] = np.nan
        pair.upsert(Batch(("a", "b"), {"image": matrix}, absent={"image": np.array([False, True])}))
        pair.flush()
        assert [h.id for h in pair.search(some_vectors(1), using="image")[0]] == ["a"]

    def test_upsert_drops_a_vector_that_is_left_out(self, pair: Collection | None) -> None:
        """A record is replaced as a whole, its vectors too."""
        if pair is None:
            return
        pair.upsert(Batch(("a",), {"image": some_vectors(1), "text": some_vectors(1, dim=4)}))
        pair.upsert(Batch(("a",), {"text": some_vectors(1, dim=4)}))
        pair.flush()
        assert pair.search(some_vectors(1), using="image") == [[]]
        assert [h.id for h in pair.search(some_vectors(1, dim=4), using="text")[0]] == ["a"]
        batch = pair.fetch(["a"], want=Want(vectors=("image", "text")))
        assert not batch.present("image")[0]
        assert batch.present("text")[0]

    def test_a_record_without_its_only_vector(self, collection: Collection) -> None:
        """A record without any vector is kept, counted and filtered, and not found by search."""
        collection.upsert(
            Batch(
                ("a", "b"), {"image": some_vectors(2)}, ({"n": 1}, {"n": 1}), absent={"image": np.array([True, False])}
            )
        )
        collection.upsert(Batch(("c",), {}, ({"n": 1},)))
        collection.flush()
        assert collection.count() == collection.count(F.n == 1) == 3
        assert [h.id for h in collection.search(some_vectors(1))[0]] == ["b"]
        assert [h.id for h in collection.search(some_vectors(1), tuning=EXACT, where=F.n == 1)[0]] == ["b"]


def _best(collection: Collection, name: str, queries: Any, stored: Any) -> list[str]:
    metric = collection.spec.vector(name).metric
    rows = [max(range(3), key=lambda i: similarity(metric, q, stored[i])) for q in queries]
    return ["abc"[row] for row in rows]
