"""Alter: fields, vectors and sources declared while a collection is in use."""

from __future__ import annotations

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.errors import (
    ConfigError,
    InvalidRecord,
    Unsupported,
)
from pixdex.filters import F
from pixdex.spec import Field, Kind, Source
from pixdex.testing._support import (
    EXACT,
    Cases,
    plain,
    put,
    scanned,
    some_vectors,
    vector,
)
from pixdex.types import Batch, Want


class AlterCases(Cases):
    """What is there keeps its meaning; what cannot be done is refused with nothing changed."""

    def test_alter_adds_a_source(self, collection: Collection) -> None:
        """Sources are only remembered, so every store takes more of them."""
        put(collection, ["a"])
        collection.alter(sources=[Source(name="b", root="/b")])
        assert Collection.open(collection.connector, collection.name).spec.sources == (Source(name="b", root="/b"),)
        assert collection.count() == 1

    def test_alter_adds_a_field_filled_from_payloads(self, collection: Collection) -> None:
        """A field declared later filters old records by what their payload holds, and new ones."""
        later = Field(name="year", kind=Kind.INT)
        put(collection, ["a", "b", "c"], payloads=[{"year": 2020}, {"n": 1}, {"year": None}])
        if not collection.capabilities.alter:
            with pytest.raises(Unsupported):
                collection.alter(fields=[later])
            return
        collection.alter(fields=[later])
        collection.flush()
        assert Collection.open(collection.connector, collection.name).spec == collection.spec
        assert collection.spec.field("year") is not None
        put(collection, ["d"], some_vectors(1, seed=9), [{"year": 2021}])
        assert sorted(scanned(collection, where=F.year >= 2020)) == ["a", "d"]
        assert sorted(scanned(collection, where=F.year != 2020)) == ["b", "c", "d"]
        assert collection.count(F.n == 1) == 1
        assert collection.fetch(["a"]).payloads == ({"year": 2020},)

    def test_alter_takes_fields_of_another_collection(self, collection: Collection) -> None:
        """Columns are the collection's own business: a field brings its name and kind, not its column."""
        put(collection, ["a"], payloads=[{"n": 1, "year": 2}])
        declared = plain(Field(name="year", kind=Kind.INT)).fields
        if not collection.capabilities.alter:
            with pytest.raises(Unsupported):
                collection.alter(fields=declared)
            return
        collection.alter(fields=declared)
        assert (collection.count(F.n == 1), collection.count(F.year == 2), collection.count(F.year == 1)) == (1, 1, 0)

    def test_alter_refuses_a_field_that_payloads_contradict(self, collection: Collection) -> None:
        """When a stored value is of another kind nothing is changed."""
        put(collection, ["a"], payloads=[{"year": "twenty"}])
        with pytest.raises((InvalidRecord, Unsupported)):
            collection.alter(fields=[Field(name="year", kind=Kind.INT)])
        assert Collection.open(collection.connector, collection.name).spec.field("year") is None
        assert collection.fetch(["a"]).payloads == ({"year": "twenty"},)

    def test_alter_adds_times_and_places(self, collection: Collection) -> None:
        """Later fields of every shape: values are made canonical on the way."""
        put(
            collection,
            ["a", "b"],
            payloads=[{"at": "2020-05-01T12:00:00+02:00", "spot": [10.0, 20.0]}, {"at": None, "tags": ["x", "y"]}],
        )
        later = [
            Field(name="at", kind=Kind.TIME),
            Field(name="spot", kind=Kind.GEO),
            Field(name="tags", kind=Kind.TEXT, many=True),
        ]
        if not collection.capabilities.alter:
            with pytest.raises(Unsupported):
                collection.alter(fields=later)
            return
        collection.alter(fields=later)
        collection.flush()
        assert scanned(collection, where=F.at == "2020-05-01T10:00:00Z") == ["a"]
        assert scanned(collection, where=F.spot.within(10, 20, 1)) == ["a"]
        assert scanned(collection, where=F.tags.contains("y")) == ["b"]
        assert scanned(collection, where=~F.tags.contains("y")) == ["a"]

    def test_alter_adds_a_vector(self, collection: Collection) -> None:
        """A second vector: old records lack it, new ones may have it, the first works as before."""
        second = vector("text", dim=4, metric=min(collection.capabilities.metrics), encoder="words")
        put(collection, ["a"])
        able = collection.capabilities
        if not able.alter or able.max_vectors < 2:
            with pytest.raises(Unsupported):
                collection.alter(vectors=[second])
            return
        collection.alter(vectors=[second])
        collection.flush()
        assert collection.search(some_vectors(1, dim=4), using="text") == [[]]
        collection.upsert(Batch(("b",), {"image": some_vectors(1, seed=1), "text": some_vectors(1, dim=4)}))
        collection.flush()
        assert [h.id for h in collection.search(some_vectors(1, dim=4), using="text")[0]] == ["b"]
        assert {h.id for h in collection.search(some_vectors(1), using="image", tuning=EXACT)[0]} == {"a", "b"}
        np.testing.assert_allclose(
            collection.fetch(["a"], want=Want(vectors=("image",))).vectors["image"], some_vectors(1), atol=1e-6
        )

    def test_alter_refuses_a_name_declared_already(self, collection: Collection) -> None:
        """A field cannot change its kind by being declared again."""
        with pytest.raises((ConfigError, Unsupported)):
            collection.alter(fields=[Field(name="n", kind=Kind.TEXT)])
        assert Collection.open(collection.connector, collection.name).spec == collection.spec
