"""Identity: which encoder, which collection a name stands for, and handles that went stale."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pixdex.collection import Collection
from pixdex.errors import (
    AlreadyExists,
    ConfigError,
    FingerprintMismatch,
    InvalidRecord,
    NotFound,
    Unsupported,
)
from pixdex.filters import F, Filter
from pixdex.spec import Field, Kind, Spec
from pixdex.testing._support import (
    Cases,
    fingerprint,
    plain,
    put,
    scanned,
    some_vectors,
    vector,
)
from pixdex.types import Batch, Search, Want

if TYPE_CHECKING:
    from collections.abc import Callable

    from pixdex.connectors.port import Connector as AnyConnector


class IdentityCases(Cases):
    """Nothing is ever taken for something else."""

    # --- identity -----------------------------------------------------------------------------------

    def test_open_refuses_another_encoder_at_equal_width(self, connector: AnyConnector, name: str) -> None:
        """A fingerprint that differs is refused even when the dimension is equal, also while empty."""
        Collection.create(connector, name, plain())
        with pytest.raises(FingerprintMismatch, match="toy"):
            Collection.open(connector, name, expect={"image": fingerprint("another")})
        Collection.open(connector, name, expect={"image": fingerprint("toy")})

    def test_stale_handle_is_a_fingerprint_mismatch(self, collection: Collection) -> None:
        """The physical vector name carries the fingerprint: a handle of the old encoder fails on search
        and on upsert, and opening again heals it.
        """
        put(collection, ["a"])
        collection.connector.drop(collection.name, timeout=60)
        renewed = Collection.create(collection.connector, collection.name, Spec(vectors=(vector(encoder="new"),)))
        put(renewed, ["b"])
        with pytest.raises(FingerprintMismatch):
            collection.search(some_vectors(1))
        with pytest.raises(FingerprintMismatch):
            collection.upsert(Batch(("c",), {"image": some_vectors(1)}, ({},)))
        renewed.flush()
        assert scanned(renewed) == ["b"]
        assert Collection.open(collection.connector, collection.name).search(some_vectors(1))[0][0].id == "b"

    def test_a_stale_handle_after_another_was_made(self, collection: Collection) -> None:
        """Dropped and made again for the same encoder with other fields: filters and writes of the old handle are
        refused, or right; never are the fields of one taken for those of the other.
        """
        put(collection, ["a"], payloads=[{"label": "x", "n": 1}])
        collection.connector.drop(collection.name, timeout=60)
        label, number = Field(name="n", kind=Kind.TEXT), Field(name="size", kind=Kind.INT)
        renewed = Collection.create(collection.connector, collection.name, plain(number, label))
        put(renewed, ["b"], payloads=[{"n": "one", "size": 7}])
        verbs: list[Callable[[Filter], object]] = [
            collection.count,
            collection.delete_where,
            lambda where: scanned(collection, where=where),
            lambda where: collection.search(some_vectors(1), where=where),
        ]
        for where in (F.n == 7, F.n != 1):  # n was a number, and 7 stands where it stood
            for verb in verbs:
                with pytest.raises((FingerprintMismatch, InvalidRecord)):
                    verb(where)
        for verb in verbs:  # nobody has a label now
            with contextlib.suppress(FingerprintMismatch):
                assert verb(F.label == "one") in (0, None, [], [[]])
        with contextlib.suppress(FingerprintMismatch, InvalidRecord):  # a store may know that n is text now
            collection.upsert(Batch(("c",), {"image": some_vectors(1)}, ({"size": 9},)))
        renewed.flush()
        assert renewed.fetch(["b"]).payloads == ({"n": "one", "size": 7},)
        assert scanned(renewed, where=F.size == 7) == scanned(renewed, where=F.n == "one") == ["b"]
        written = "c" in scanned(renewed)
        assert scanned(renewed, where=F.size == 9) == (["c"] if written else [])

    def test_unknown_physical_vector_is_a_fingerprint_mismatch(self, collection: Collection) -> None:
        """At the port too: search, upsert and reads of a vector that is not there."""
        put(collection, ["a"])
        connector, name, wrong = collection.connector, collection.name, "image_00000000"
        with pytest.raises(FingerprintMismatch):
            connector.search(name, Search(queries=some_vectors(1), k=1, using=wrong), timeout=60)
        with pytest.raises(FingerprintMismatch):
            connector.upsert(name, Batch(("b",), {wrong: some_vectors(1)}, ({"_rev": 1},)), timeout=60)
        collection.flush()
        assert scanned(collection) == ["a"]

    def test_unknown_vector_name_is_a_config_error(self, collection: Collection) -> None:
        """A logical name that the Spec lacks is refused by the facade, naming those that exist."""
        with pytest.raises(ConfigError, match="image"):
            collection.search(some_vectors(1), using="nonesuch")
        with pytest.raises(ConfigError):
            collection.upsert(Batch(("a",), {"nonesuch": some_vectors(1)}))
        with pytest.raises(ConfigError):
            collection.fetch(["a"], want=Want(vectors=("nonesuch",)))

    # --- aliases ------------------------------------------------------------------------------------

    def test_alias_opens_its_collection(self, connector: AnyConnector, name: str, other: str) -> None:
        """Every verb works through an alias; names does not list it, aliases does."""
        if not connector.capabilities.alias:
            with pytest.raises(Unsupported):
                connector.alias(other, name, timeout=60)
            return
        put(Collection.create(connector, name, plain(Field(name="n", kind=Kind.INT))), ["a"], payloads=[{"n": 1}])
        connector.alias(other, name, timeout=60)
        try:
            assert connector.aliases(timeout=60)[other] == name
            assert other not in connector.names(timeout=60)
            through = Collection.open(connector, other)
            put(through, ["b"], some_vectors(1, seed=1), [{"n": 2}])
            through.delete(["a"])
            through.flush()
            assert through.fetch(["b"]).ids == ("b",)
            assert [hit.id for hit in through.search(some_vectors(1))[0]] == ["b"]
            assert scanned(through) == scanned(Collection.open(connector, name)) == ["b"]
            assert through.count(F.n == 2) == 1
            through.delete_where(F.n == 2)
            through.flush()
            assert through.count() == 0
        finally:
            connector.alias(other, None, timeout=60)

    def test_alias_switches(self, connector: AnyConnector, name: str, other: str) -> None:
        """An alias points at the collection named last; the old one stays."""
        if not connector.capabilities.alias:
            with pytest.raises(Unsupported):
                connector.alias("switch", name, timeout=60)
            return
        alias = name + "x"
        put(Collection.create(connector, name, plain()), ["old"])
        put(Collection.create(connector, other, Spec(vectors=(vector(encoder="new"),))), ["new"])
        connector.alias(alias, name, timeout=60)
        handle = Collection.open(connector, alias)
        assert scanned(handle) == ["old"]
        connector.alias(alias, other, timeout=60)
        try:
            assert connector.aliases(timeout=60)[alias] == other
            assert scanned(Collection.open(connector, alias)) == ["new"]
            with pytest.raises(FingerprintMismatch):
                handle.search(some_vectors(1))
            assert scanned(Collection.open(connector, name)) == ["old"]
        finally:
            connector.alias(alias, None, timeout=60)

    def test_a_stale_handle_never_takes_one_field_for_another(
        self, connector: AnyConnector, name: str, other: str
    ) -> None:
        """An alias moved to a collection of the same encoder with other fields: the old handle is right or refused."""
        if not connector.capabilities.alias:
            with pytest.raises(Unsupported):
                connector.alias("stale", name, timeout=60)
            return
        alias = name + "x"
        year, number = Field(name="year", kind=Kind.INT), Field(name="n", kind=Kind.INT)
        Collection.create(connector, name, plain(year, number))
        moved = Collection.create(connector, other, plain(number, year))
        put(moved, ["a"], payloads=[{"year": 2020, "n": 1}])
        connector.alias(alias, name, timeout=60)
        handle = Collection.open(connector, alias)
        connector.alias(alias, other, timeout=60)
        try:
            with contextlib.suppress(FingerprintMismatch):
                assert handle.count(F.year == 2020) == 1
            with contextlib.suppress(FingerprintMismatch):
                handle.delete_where(F.year != 2020)
            moved.flush()
            assert moved.count() == 1
        finally:
            connector.alias(alias, None, timeout=60)

    def test_alias_is_removed(self, connector: AnyConnector, name: str, other: str) -> None:
        """Removing an alias leaves the collection; removing one that is not there is no error."""
        if not connector.capabilities.alias:
            with pytest.raises(Unsupported):
                connector.alias(other, None, timeout=60)
            return
        put(Collection.create(connector, name, plain()), ["a"])
        connector.alias(other, name, timeout=60)
        connector.alias(other, None, timeout=60)
        connector.alias(other, None, timeout=60)
        assert other not in connector.aliases(timeout=60)
        assert Collection.open(connector, name).count() == 1
        with pytest.raises(NotFound):
            Collection.open(connector, other)

    def test_alias_clashes(self, connector: AnyConnector, name: str, other: str) -> None:
        """An alias never hides a collection, and a collection never an alias; nothing points at nothing."""
        if not connector.capabilities.alias:
            with pytest.raises(Unsupported):
                connector.alias(name, name, timeout=60)
            return
        Collection.create(connector, name, plain())
        with pytest.raises(AlreadyExists):
            connector.alias(name, name, timeout=60)
        with pytest.raises(NotFound):
            connector.alias(other, other + "x", timeout=60)
        connector.alias(other, name, timeout=60)
        try:
            with pytest.raises(AlreadyExists):
                Collection.create(connector, other, plain())
        finally:
            connector.alias(other, None, timeout=60)

    def test_drop_takes_its_aliases_along(self, connector: AnyConnector, name: str, other: str) -> None:
        """Dropping by the alias' name is ignored; dropping the collection removes its aliases."""
        if not connector.capabilities.alias:
            assert connector.aliases(timeout=60) == {}
            return
        Collection.create(connector, name, plain())
        connector.alias(other, name, timeout=60)
        connector.drop(other, timeout=60)
        assert name in connector.names(timeout=60)
        connector.drop(name, timeout=60)
        assert other not in connector.aliases(timeout=60)
        with pytest.raises(NotFound):
            Collection.open(connector, other)
