"""What the conformance suite cannot provoke in the facade: stores that fail half-way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.connectors.memory import CAPABILITIES, MemoryConnector
from pixdex.errors import FingerprintMismatch, PartialWrite, RateLimited, StoreError, StoreFull, StoreUnavailable
from pixdex.policy import Policy
from pixdex.spec import Field, Fingerprint, Kind, Source, Spec, Vector
from pixdex.types import Batch, Hit, Search, Want

PRINT = Fingerprint(encoder="toy", digest="0123456789abcdef")
SPEC = Spec(vectors=(Vector(dim=2, fingerprint=PRINT),), fields=(Field(name="n", kind=Kind.INT),))
PATIENT = Policy(sleep=lambda _: None)


class Failing(MemoryConnector):
    """Raises what it is given, one error a write, then works."""

    def __init__(self, *errors: Exception | None) -> None:
        from dataclasses import replace

        super().__init__(replace(CAPABILITIES, max_batch=2))
        self.errors = list(errors)

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        super().upsert(name, batch, timeout=timeout)


def _collection(*errors: Exception | None) -> Collection:
    return Collection.create(Failing(*errors), "a", SPEC, policy=PATIENT)


def _batch(count: int) -> Batch:
    return Batch(tuple(f"r{i}" for i in range(count)), {"image": np.ones((count, 2), np.float32)})


def test_retryable_errors_are_tried_again() -> None:
    collection = _collection(StoreUnavailable("down"), None, RateLimited("slow", retry_after=1), RateLimited("slow"))
    collection.upsert(_batch(5))
    assert collection.count() == 5


def test_a_write_that_stops_half_way_says_what_was_written() -> None:
    collection = _collection(None, StoreFull("no space"))
    with pytest.raises(PartialWrite, match="2 of 5 records were written, then: no space") as caught:
        collection.upsert(_batch(5))
    assert caught.value.done == ("r0", "r1")
    assert isinstance(caught.value.__cause__, StoreFull)


def test_what_a_store_says_it_wrote_is_counted() -> None:
    collection = _collection(None, PartialWrite("half", done=["r2"]))
    with pytest.raises(PartialWrite) as caught:
        collection.upsert(_batch(5))
    assert caught.value.done == ("r0", "r1", "r2")


def test_a_write_that_did_not_start_is_the_error_itself() -> None:
    collection = _collection(StoreFull("no space"))
    with pytest.raises(StoreFull):
        collection.upsert(_batch(5))


def test_threads_that_declare_at_once_lose_nothing_of_each_other() -> None:
    class Slow(MemoryConnector):
        def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
            time.sleep(0.005)  # between what was read and what is written
            super().alter(name, spec, timeout=timeout)

    collection = Collection.create(Slow(), "a", SPEC)
    handles = [Collection.open(collection.connector, "a") for _ in range(8)]

    def declare(number: int) -> None:
        if number % 2:
            handles[number].alter(sources=[Source(name=f"s{number}", root="/")])
        else:
            handles[number].alter(fields=[Field(name=f"f{number}", kind=Kind.INT)])

    with ThreadPoolExecutor() as pool:
        list(pool.map(declare, range(8)))
    collection.refresh()
    assert {source.name for source in collection.spec.sources} == {"s1", "s3", "s5", "s7"}
    assert {field.name for field in collection.spec.fields} == {"n", "f0", "f2", "f4", "f6"}


@pytest.mark.parametrize("times", [1, 9])
def test_what_another_program_replaces_at_once_is_declared_again(times: int) -> None:
    class Shared(MemoryConnector):
        left = times

        def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
            before = self.describe(name, timeout=timeout)
            super().alter(name, spec, timeout=timeout)
            if self.left:
                self.left -= 1
                super().alter(name, before, timeout=timeout)

    collection = Collection.create(Shared(), "a", SPEC)
    if times > 3:
        with pytest.raises(StoreError, match="others keep changing the Spec of collection 'a'"):
            collection.alter(sources=[Source(name="b", root="/b")])
        return
    collection.alter(sources=[Source(name="b", root="/b")])
    collection.refresh()
    assert [source.name for source in collection.spec.sources] == ["b"]


def test_a_mismatch_that_spec_does_not_explain() -> None:
    class Odd(MemoryConnector):
        def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
            raise FingerprintMismatch("something differs")

    collection = Collection.create(Odd(), "a", SPEC)
    with pytest.raises(FingerprintMismatch, match="something differs: collection .* changed"):
        collection.search(np.ones((1, 2)))


def test_fetch_of_nothing_has_columns() -> None:
    """The same shape as a fetch that finds nothing."""
    collection = _collection()
    asked = Want(vectors=("image",))
    for ids in ([], ["nonesuch"]):
        batch = collection.fetch(ids, want=asked)
        assert batch.ids == ()
        assert batch.payloads == ()
        assert batch.vectors["image"].shape == (0, 2)
