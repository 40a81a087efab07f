"""Collections: made, described, listed, dropped, aliased, altered, reopened."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pixdex.collection import Collection
from pixdex.connectors.port import Capabilities, Connector
from pixdex.errors import (
    AlreadyExists,
    InvalidFilter,
    NotFound,
    Unsupported,
)
from pixdex.filters import F, Filter
from pixdex.spec import Field, Fingerprint, Kind, Metric, Source, Spec, TokenSpec
from pixdex.testing._support import (
    IDS_ONLY,
    STANDARD,
    Cases,
    fingerprint,
    plain,
    put,
    scanned,
    some_vectors,
    vector,
)
from pixdex.types import Batch, Scan

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector as AnyConnector

VERBS: dict[str, Callable[[Collection], object]] = {
    "upsert": lambda c: c.upsert(Batch(("a",), {"image": some_vectors(1)})),
    "delete": lambda c: c.delete(["a"]),
    "delete_where": lambda c: c.delete_where(F.n == 1),
    "fetch": lambda c: c.fetch(["a"]),
    "search": lambda c: c.search(some_vectors(1)),
    "scan": scanned,
    "count": lambda c: c.count(),
    "flush": lambda c: c.flush(),
    "alter": lambda c: c.alter(sources=[Source(name="a", root="/a")]),
}


def _rich(connector: AnyConnector) -> Spec:
    """As much of a Spec as the store can hold."""
    able = connector.capabilities
    second = (vector("text", dim=5, metric=max(able.metrics), encoder="words"),) if able.max_vectors > 1 else ()
    parts = {"config": "0123456789abcdef", "weights": "fedcba9876543210"}
    first = replace(
        vector(metric=min(able.metrics), dtype="float16"),
        fingerprint=Fingerprint(encoder='odd "name" \\ / 雪', digest="abcdef0123456789", parts=parts),
    )
    return Spec(
        vectors=(first, *second),
        fields=(
            *(Field(name=f"one_{kind}", kind=kind) for kind in Kind),
            *(Field(name=f"many_{kind}", kind=kind, many=True) for kind in Kind),
        ),
        tokens=TokenSpec(count=4, dim=6, dtype="int8", fingerprint=fingerprint("tokens")) if able.tokens else None,
        encoder='hf:model?revision=main#"quoted" \\ 雪',
        sources=(Source(name="Bilder", root="/home/böll/Bilder 2020"), Source(name="b", root="C:\\b")),
    )


class CollectionCases(Cases):
    """What lies around the records."""

    def test_connector_has_every_verb_of_the_port(self, connector: AnyConnector) -> None:
        """A connector has the verbs of the port, with their parameters, and says what it can do."""
        assert isinstance(connector, Connector)
        assert isinstance(connector.capabilities, Capabilities)
        for verb, declared in inspect.getmembers(Connector, inspect.isfunction):
            if not verb.startswith("_"):
                expected = inspect.signature(declared).parameters
                found = inspect.signature(getattr(connector, verb)).parameters
                shape = [(p.name, p.kind, p.default) for p in expected.values() if p.name != "self"]
                assert [(p.name, p.kind, p.default) for p in found.values()] == shape, verb

    def test_limits_make_sense(self, connector: AnyConnector) -> None:
        """Limits are positive, and ids and text fit as the laws say."""
        able = connector.capabilities
        assert able.metrics
        assert able.staleness >= 0
        limits = (
            "max_vectors",
            "max_batch",
            "max_batch_bytes",
            "max_k",
            "max_dim",
            "max_id_bytes",
            "max_payload_bytes",
        )
        for limit in limits:
            assert getattr(able, limit) >= 1, limit
        assert able.max_id_bytes == 512, "ids have up to 512 bytes on every store: map them"

    def test_describe_gives_the_spec_while_empty(self, connector: AnyConnector, name: str) -> None:
        """The Spec lies with the collection, not with its records: an empty one knows it."""
        spec = plain(Field(name="year", kind=Kind.INT))
        Collection.create(connector, name, spec)
        assert connector.describe(name, timeout=60) == spec
        assert Collection.open(connector, name).spec == spec

    def test_describe_gives_the_whole_spec(self, connector: AnyConnector, name: str) -> None:
        """Every part of a Spec survives: kinds, lists, tokens, encoder, sources, parts of fingerprints."""
        spec = _rich(connector)
        collection = Collection.create(connector, name, spec)
        assert connector.describe(name, timeout=60) == spec
        collection.upsert(Batch(("a",), {"image": some_vectors(1)}))
        collection.flush()
        assert connector.describe(name, timeout=60) == spec

    def test_fields_named_like_keywords(self, connector: AnyConnector, name: str) -> None:
        """Field names never reach an expression: words that engines reserve work like any other."""
        words = (
            *("like", "in", "not", "and", "or", "true", "null", "exists", "select", "order", "from", "rowid"),
            *("id", "vector", "payload", "tokens", "count", "array_contains", "json_contains", "f1", "f2", "x" * 63),
        )
        fields = [Field(name=word, kind=Kind.INT) for word in words]
        collection = Collection.create(connector, name, plain(*fields))
        put(collection, ["a", "b"], payloads=[dict.fromkeys(words, 1), {word: i for i, word in enumerate(words)}])
        for i, word in enumerate(words):
            assert sorted(scanned(collection, where=F[word] == i)) == (["a", "b"] if i == 1 else ["b"]), word

    def test_create_twice_is_already_exists(self, connector: AnyConnector, name: str) -> None:
        """A collection is never replaced by accident, not even by an equal one."""
        collection = Collection.create(connector, name, plain())
        put(collection, ["a"])
        with pytest.raises(AlreadyExists):
            Collection.create(connector, name, plain())
        assert collection.count() == 1

    def test_open_unknown_is_not_found(self, connector: AnyConnector, name: str) -> None:
        """There is nothing to open under a fresh name, and opening makes nothing."""
        with pytest.raises(NotFound):
            Collection.open(connector, name)
        assert name not in connector.names(timeout=60)

    @pytest.mark.parametrize("verb", VERBS)
    def test_unknown_collection_is_not_found(self, connector: AnyConnector, name: str, verb: str) -> None:
        """Every verb on a collection that never was says NotFound, and makes none."""
        with pytest.raises(NotFound):
            VERBS[verb](Collection(connector, name, STANDARD))
        assert name not in connector.names(timeout=60)

    def test_dropped_collection_is_not_found(self, collection: Collection) -> None:
        """So it is after a drop by somebody else while a handle is open."""
        put(collection, ["a"])
        collection.connector.drop(collection.name, timeout=60)
        for verb in VERBS.values():
            with pytest.raises(NotFound):
                verb(collection)

    def test_drop_unknown_is_ignored(self, connector: AnyConnector, name: str) -> None:
        """Dropping what is not there is no error."""
        connector.drop(name, timeout=60)
        connector.drop(name, timeout=60)

    def test_drop_removes_the_name(self, connector: AnyConnector, name: str) -> None:
        """A dropped collection is gone from names and cannot be opened."""
        Collection.create(connector, name, plain()).drop()
        assert name not in connector.names(timeout=60)
        with pytest.raises(NotFound):
            Collection.open(connector, name)

    def test_drop_and_create_is_empty(self, collection: Collection) -> None:
        """Nothing of the old records comes back under the same name."""
        put(collection, ["a", "b"], payloads=[{"n": 1}, {"n": 2}])
        collection.drop()
        again = Collection.create(collection.connector, collection.name, collection.spec)
        again.flush()
        assert again.count() == 0
        assert scanned(again) == []
        assert again.fetch(["a", "b"]).ids == ()
        assert again.search(some_vectors(1)) == [[]]
        assert again.count(F.n == 1) == 0

    def test_drop_and_create_with_another_spec(self, collection: Collection) -> None:
        """A name may be used again for vectors of another width and other fields."""
        put(collection, ["a"], payloads=[{"n": 1}])
        collection.drop()
        spec = Spec(vectors=(vector(dim=3, encoder="other"),), fields=(Field(name="n", kind=Kind.TEXT),))
        again = Collection.create(collection.connector, collection.name, spec)
        put(again, ["a"], some_vectors(1, dim=3), [{"n": "one"}])
        assert again.count(F.n == "one") == 1
        assert again.search(some_vectors(1, dim=3))[0][0].id == "a"

    def test_names_lists_collections(self, connector: AnyConnector, name: str, other: str) -> None:
        """Names is sorted and holds what exists."""
        Collection.create(connector, name, plain())
        Collection.create(connector, other, plain())
        names = list(connector.names(timeout=60))
        assert {name, other} <= set(names)
        assert names == sorted(names)

    @pytest.mark.parametrize("suffix", [".dot.ted...", "-dash-ed", "UPPER_9", "long" * 24])
    def test_collection_names_are_kept(self, connector: AnyConnector, name: str, suffix: str) -> None:
        """Every name that addresses allow names a collection, and is listed as it was given."""
        odd = name + suffix
        collection = Collection.create(connector, odd, plain())
        try:
            put(collection, ["a"])
            assert odd in connector.names(timeout=60)
            assert Collection.open(connector, odd).count() == 1
        finally:
            connector.drop(odd, timeout=60)

    def test_collection_names_that_look_alike_are_two(self, connector: AnyConnector, name: str) -> None:
        """Names are not folded or cleaned: A is not a, a-b is not a_b is not a.b."""
        alike = [name + "a-b", name + "a_b", name + "a.b", name + "A_B"]
        try:
            for i, each in enumerate(alike):
                put(Collection.create(connector, each, plain()), [f"r{n}" for n in range(i + 1)])
            assert [Collection.open(connector, each).count() for each in alike] == [1, 2, 3, 4]
        finally:
            for each in alike:
                connector.drop(each, timeout=60)

    def test_collections_do_not_mix(self, connector: AnyConnector, name: str, other: str) -> None:
        """The same id in two collections is two records."""
        first = Collection.create(connector, name, plain())
        second = Collection.create(connector, other, plain())
        put(first, ["a"], payloads=[{"of": "first"}])
        put(second, ["a", "b"], payloads=[{"of": "second"}, {}])
        second.delete(["b"])
        first.delete(["b"])
        assert first.fetch(["a"]).payloads == ({"of": "first"},)
        assert second.fetch(["a"]).payloads == ({"of": "second"},)
        first.drop()
        second.flush()
        assert second.count() == 1

    def test_metric_that_the_store_lacks_is_unsupported(self, connector: AnyConnector, name: str) -> None:
        """What a store cannot score is refused at creation; what it can is taken."""
        for metric in Metric:
            if metric in connector.capabilities.metrics:
                Collection.create(connector, name, plain(metric=metric)).drop()
            else:
                with pytest.raises(Unsupported):
                    Collection.create(connector, name, plain(metric=metric))

    def test_too_wide_a_vector_is_unsupported(self, connector: AnyConnector, name: str) -> None:
        """max_dim is checked before anything is made."""
        spec = Spec(vectors=(vector(dim=connector.capabilities.max_dim + 1),))
        with pytest.raises(Unsupported):
            Collection.create(connector, name, spec)
        assert name not in connector.names(timeout=60)

    def test_too_many_vectors_are_unsupported(self, connector: AnyConnector, name: str) -> None:
        """max_vectors is checked before anything is made."""
        count = connector.capabilities.max_vectors + 1
        with pytest.raises(Unsupported):
            Collection.create(connector, name, Spec(vectors=tuple(vector(f"v{i}") for i in range(count))))
        assert name not in connector.names(timeout=60)

    def test_tokens_that_the_store_has_no_place_for(self, connector: AnyConnector, name: str) -> None:
        """A TokenSpec beyond the store is refused at creation."""
        able = connector.capabilities
        count = able.max_token_bytes + 1 if able.tokens else 4
        spec = plain(tokens=TokenSpec(count=count, dim=1, fingerprint=fingerprint()))
        with pytest.raises(Unsupported):
            Collection.create(connector, name, spec)

    # --- processes and threads ----------------------------------------------------------------------

    @pytest.fixture
    def reopen(self) -> Callable[[], AnyConnector] | None:
        """Override for durable stores: each call opens the same place (an empty one for each test)
        again, after the connector of the call before was closed.
        """
        return None

    def test_reopened_store_has_everything(
        self, connector: AnyConnector, reopen: Callable[[], AnyConnector] | None, name: str, other: str
    ) -> None:
        """What was acknowledged outlives the connector: Spec, vectors, payloads, aliases, deletions."""
        if reopen is None:
            if connector.capabilities.durable:
                pytest.skip("a durable store: give a fixture `reopen` to have this tested")
            return
        first = reopen()
        spec = plain(Field(name="n", kind=Kind.INT), metric=max(connector.capabilities.metrics))
        try:
            collection = Collection.create(first, name, spec)
            put(collection, ["a", "b", "c"], payloads=[{"n": 1}, {"n": 2, "deep": {"er": [1, None]}}, {}])
            collection.delete(["a"])
            if not first.capabilities.reads_own_writes:
                collection.flush()
            if first.capabilities.alias:
                first.alias(other, name, timeout=60)
            before = [(h.id, round(h.score, 4)) for h in collection.search(some_vectors(1))[0]]
        finally:
            first.close()
            first.close()
        second = reopen()
        try:
            again = Collection.open(second, other if second.capabilities.alias else name)
            assert again.spec == spec
            if second.capabilities.staleness:
                again.flush()  # what another handle wrote is seen after it, too
            assert sorted(scanned(again)) == ["b", "c"]
            assert again.fetch(["b"]).payloads == ({"n": 2, "deep": {"er": [1, None]}},)
            assert scanned(again, where=F.n == 2) == ["b"]
            assert [(h.id, round(h.score, 4)) for h in again.search(some_vectors(1))[0]] == before
            put(again, ["d"])
            assert again.count() == 3
        finally:
            second.close()

    def test_many_threads(self, collection: Collection) -> None:
        """Eight threads write and search one collection: nothing is lost, nothing raises."""
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(4):
                    ids = tuple(f"{number}-{turn}-{i}" for i in range(5))
                    payloads = tuple({"n": number} for _ in ids)
                    collection.upsert(Batch(ids, {"image": some_vectors(5, seed=number * 10 + turn)}, payloads))
                    hits = collection.search(some_vectors(2), k=3, where=F.n == number)
                    assert all(h.payload == {"n": number} for row in hits for h in row)
                    collection.fetch(ids[:2])
                collection.delete([f"{number}-0-0"])
            except BaseException as error:  # a thread hands on whatever it met
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]
        collection.flush()
        assert collection.count() == 8 * 19
        assert sorted(scanned(collection)) == sorted(set(scanned(collection)))
        assert collection.count(F.n == 3) == 19

    def test_flush_makes_everything_visible(self, collection: Collection) -> None:
        """After flush search, count and scan see each write and each deletion, every time."""
        for turn in range(3):
            put(collection, [f"a{turn}", f"b{turn}"], some_vectors(2, seed=turn), [{"n": turn}, {"n": turn}])
            collection.delete([f"b{turn}"])
            collection.flush()
            expected = sorted(f"a{i}" for i in range(turn + 1))
            assert collection.count() == turn + 1
            assert sorted(scanned(collection, want=IDS_ONLY)) == expected
            assert sorted(h.id for h in collection.search(some_vectors(1))[0]) == expected
            assert collection.count(F.n == turn) == 1

    def test_own_writes_are_read_without_flush(self, collection: Collection) -> None:
        """With the capability reads_own_writes this handle needs no flush."""
        if not collection.capabilities.reads_own_writes:
            collection.flush()
        collection.upsert(Batch(("a", "b"), {"image": some_vectors(2)}, ({"n": 1}, {"n": 2})))
        collection.delete(["a"])
        if not collection.capabilities.reads_own_writes:
            collection.flush()
        assert scanned(collection) == ["b"]
        assert collection.count() == collection.count(F.n == 2) == 1
        assert [h.id for h in collection.search(some_vectors(1))[0]] == ["b"]

    def test_unknown_filter_node_is_unsupported(self, untouched: Collection) -> None:
        """A clause is never dropped: what nobody knows is refused, alone and inside others."""

        class Regex(Filter):
            pass

        for where in (Regex(), ~Regex(), (F.n == 1) & Regex(), (F.n == 1) | ~Regex()):
            for verb in _filtering(where).values():
                with pytest.raises(Unsupported):
                    verb(untouched)

    @pytest.mark.parametrize("verb", ["search", "scan", "count", "delete_where"])
    def test_undeclared_field_is_refused(self, untouched: Collection, verb: str) -> None:
        """Filters act on declared fields; the message names the field and those that are declared."""
        with pytest.raises(InvalidFilter, match=r"undeclared.*label, n"):
            _filtering(F.undeclared == 1)[verb](untouched)

    def test_scan_request_at_the_port_is_repeatable(self, collection: Collection) -> None:
        """A page may be asked for again with the same cursor and is the same page."""
        put(collection, [f"r{i}" for i in range(7)])
        connector, name = collection.connector, collection.name
        request = Scan(size=3, want=IDS_ONLY)
        visited: list[str] = []
        while True:
            page = connector.scan(name, request, timeout=60)
            again = connector.scan(name, request, timeout=60)
            assert (page.batch.ids, page.after) == (again.batch.ids, again.after)
            assert len(page.batch) <= 3
            visited.extend(page.batch.ids)
            if page.after is None:
                break
            request = replace(request, after=page.after)
        assert sorted(visited) == [f"r{i}" for i in range(7)]


def _filtering(where: Filter) -> dict[str, Callable[[Collection], Any]]:
    """Every verb that takes a filter."""
    return {
        "search": lambda c: c.search(some_vectors(1), where=where),
        "scan": lambda c: scanned(c, where=where),
        "count": lambda c: c.count(where),
        "delete_where": lambda c: c.delete_where(where),
    }
