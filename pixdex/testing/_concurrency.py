"""Many at once: writers and readers of one collection, an alias that moves under a reader, what flush promises."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.errors import AlreadyExists, ConfigError, NotFound, Unsupported
from pixdex.filters import F
from pixdex.testing._support import DIM, IDS_ONLY, STANDARD, Cases, put, scanned, some_vectors
from pixdex.types import Batch, Want

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector
    from pixdex.types import Payload

WHOLE = Want(vectors=("image",))


def together(*works: Callable[[], None]) -> None:
    """Run each in a thread of its own; raise the first thing that any of them met."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # a thread hands on whatever it met
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def version(ids: Sequence[str], number: int) -> Batch:
    """Records of which every part says the same number: whoever reads two numbers reads a torn one."""
    payloads = tuple({"n": number, "label": str(number), "again": [number] * 20} for _ in ids)
    return Batch(tuple(ids), {"image": np.full((len(ids), DIM), number, np.float32)}, payloads)


def check_whole(payload: Payload | None, vector: object) -> None:
    """The record is one that ``version`` made."""
    assert payload is not None
    number = payload["n"]
    assert payload == {"n": number, "label": str(number), "again": [number] * 20}, "a payload of two writes"
    np.testing.assert_array_equal(vector, np.full(DIM, number, np.float32), "vector and payload of two writes")


class ConcurrencyCases(Cases):
    """Eight threads at most; every store is used so, be it by a web server."""

    @pytest.fixture
    def second(self, connector: Connector) -> Connector:
        """Override for stores that take several connections: another connector to the place of ``connector``."""
        return connector

    def test_threads_with_records_of_their_own(self, collection: Collection) -> None:
        """Four write, replace and delete what is theirs, four read: nothing is lost, nothing comes back."""
        done = threading.Event()
        writing = [4]
        lock = threading.Lock()

        def write(number: int) -> None:
            ids = [f"{number}-{i}" for i in range(4)]
            try:
                for turn in range(3):
                    collection.upsert(version(ids, 10 * number + turn))
                collection.delete(ids[:1])
            finally:
                with lock:
                    writing[0] -= 1
                    if not writing[0]:
                        done.set()

        def read() -> None:
            while not done.is_set():
                for hit in collection.search(some_vectors(1), k=5, where=F.n >= 0, want=WHOLE)[0]:
                    check_whole(hit.payload, (hit.vectors or {})["image"])
                collection.count(F.n >= 10)

        together(*(lambda n=n: write(n) for n in range(4)), *([read] * 4))
        collection.flush()
        expected = sorted(f"{n}-{i}" for n in range(4) for i in range(1, 4))
        assert sorted(scanned(collection)) == expected
        batch = collection.fetch(expected)
        assert [p["n"] for p in batch.payloads or ()] == [10 * int(i[0]) + 2 for i in expected]

    def test_threads_with_the_same_records(self, collection: Collection) -> None:
        """Four write the same ids, four read them: each record that is read was written so, whole, by one of them."""
        ids = ["a", "b", "c"]
        collection.upsert(version(ids, 0))
        collection.flush()
        done = threading.Event()
        writing = [4]
        lock = threading.Lock()

        def write(number: int) -> None:
            try:
                for turn in range(4):
                    collection.upsert(version(ids, 10 * number + turn))
            finally:
                with lock:
                    writing[0] -= 1
                    if not writing[0]:
                        done.set()

        def read() -> None:
            while not done.is_set():
                batch = collection.fetch(ids, want=WHOLE)
                assert batch.ids == tuple(ids), "a record was missing while it was replaced"
                for payload, vector in zip(batch.payloads or (), batch.vectors["image"], strict=True):
                    check_whole(payload, vector)
                for hit in collection.search(some_vectors(1), want=WHOLE)[0]:
                    check_whole(hit.payload, (hit.vectors or {})["image"])
                for page in collection.scan(want=WHOLE):
                    for payload, vector in zip(page.batch.payloads or (), page.batch.vectors["image"], strict=True):
                        check_whole(payload, vector)

        together(*(lambda n=n: write(n) for n in range(1, 5)), *([read] * 4))
        collection.flush()
        assert sorted(scanned(collection)) == ids
        assert collection.count() == len(collection.search(some_vectors(1))[0]) == 3

    def test_an_alias_moves_under_a_reader(self, connector: Connector, name: str, other: str) -> None:
        """While it is moved to and fro, a reader meets one collection or the other, never none and never both."""
        if not connector.capabilities.alias:
            with pytest.raises(Unsupported):
                Collection(connector, name, STANDARD).alias(other)
            return
        sides = [Collection.create(connector, each, STANDARD) for each in (name, other)]
        for letter, side in zip("ab", sides, strict=True):
            put(side, [f"{letter}{i}" for i in range(4)])
        alias = name + "x"
        sides[0].alias(alias)
        done = threading.Event()

        def move() -> None:
            try:
                for turn in range(20):
                    sides[(turn + 1) % 2].alias(alias)
                    time.sleep(0.002)  # a switch, then some reads
            finally:
                done.set()

        def read() -> None:
            reader = Collection.open(connector, alias)
            while not done.is_set():
                found = sorted(hit.id for hit in reader.search(some_vectors(1), want=IDS_ONLY)[0])
                assert found in (["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"])
                assert reader.count() == 4
                assert len(reader.fetch(["a0", "b0"])) == 1

        try:
            together(move, read, read)
        finally:
            sides[0].unalias(alias)

    def test_aliases_of_a_collection(self, connector: Connector, name: str, other: str) -> None:
        """A collection says which aliases it has, takes one from another, and lets one go."""
        first = Collection.create(connector, name, STANDARD)
        assert first.aliases() == []
        if not connector.capabilities.alias:
            for verb in (first.alias, first.unalias):
                with pytest.raises(Unsupported):
                    verb(name + "x")
            return
        second = Collection.create(connector, other, STANDARD)
        try:
            first.alias(name + "y")
            first.alias(name + "x")
            assert (first.aliases(), second.aliases()) == ([name + "x", name + "y"], [])
            second.alias(name + "x")
            assert (first.aliases(), second.aliases()) == ([name + "y"], [name + "x"])
            with pytest.raises(AlreadyExists):
                first.alias(other)
            with pytest.raises(ConfigError):
                first.alias("a/b")
        finally:
            for alias in (name + "x", name + "y"):
                first.unalias(alias)
                first.unalias(alias)
        assert first.aliases() == second.aliases() == []
        with pytest.raises(NotFound):
            Collection.open(connector, name + "x")

    def test_flush_and_at_once_read(self, collection: Collection, second: Connector) -> None:
        """Write, replace, delete, flush, read, many times without a pause; another handle sees it in its time."""
        beside = Collection.open(second, collection.name)
        for turn in range(12):
            ids = [f"{turn}-{i}" for i in range(3)]
            collection.upsert(version([*ids, "always"], turn + 1))
            collection.delete(ids[:1])
            collection.flush()
            assert collection.count() == 2 * (turn + 1) + 1, f"in round {turn}"
            assert collection.count(F.n == turn + 1) == 3, f"in round {turn}"
            assert sorted(scanned(collection, where=F.n == turn + 1, want=IDS_ONLY)) == [*ids[1:], "always"]
            near = np.full((1, DIM), turn + 1, np.float32)
            assert sorted(hit.id for hit in collection.search(near, k=3, want=IDS_ONLY)[0]) == [*ids[1:], "always"]
            end = time.monotonic() + collection.capabilities.staleness
            while beside.count(F.n == turn + 1) != 3:
                assert time.monotonic() < end, f"another handle still waits in round {turn}"
                time.sleep(0.02)
