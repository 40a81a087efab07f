"""What happens when the store is away. Runs where the author gives a fixture ``faults``."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import pytest

from pixdex.collection import Collection
from pixdex.errors import StoreError
from pixdex.filters import F
from pixdex.policy import Policy
from pixdex.testing._support import Cases, put, scanned, some_vectors
from pixdex.types import Batch

SHORT = Policy(attempts=3, attempt_timeout=0.4, deadline=1.2, base=0.01, cap=0.1)
GRACE = 2.0
"""Seconds that a client may need to notice that its time is up."""

VERBS: dict[str, Callable[[Collection], object]] = {
    "upsert": lambda c: c.upsert(Batch(("lost",), {"image": some_vectors(1)})),
    "delete": lambda c: c.delete(["a"]),
    "delete_where": lambda c: c.delete_where(F.n == 1),
    "fetch": lambda c: c.fetch(["a"]),
    "search": lambda c: c.search(some_vectors(1)),
    "scan": scanned,
    "count": lambda c: c.count(),
    "flush": lambda c: c.flush(),
    "refresh": lambda c: c.refresh(),
}


class Faults(Protocol):
    """How the kit breaks the store under test, which ``connector`` is open on."""

    def broken(self) -> AbstractContextManager[object]:
        """Inside, the store does not answer, or refuses connections; afterwards it is back with its records."""
        ...


class FaultCases(Cases):
    """An absent store is an error that says whether again may help, in time; nothing acknowledged is lost."""

    @pytest.fixture
    def faults(self) -> Faults | None:
        """Override for stores that can be away: an object with ``broken()``, see ``Faults``."""
        return None

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_store_that_is_away(self, collection: Collection, faults: Faults | None, verb: str) -> None:
        """A retryable StoreError within the deadline; afterwards the same handle works and every record is there."""
        if faults is None:
            pytest.skip("give a fixture `faults` to have a store tested that is away")
        put(collection, ["a", "b"], payloads=[{"n": 1}, {"n": 2}])
        handle = Collection(collection.connector, collection.name, collection.spec, policy=SHORT)
        with faults.broken():
            started = time.monotonic()
            with pytest.raises(StoreError) as met:
                VERBS[verb](handle)
            assert time.monotonic() - started < SHORT.deadline + GRACE, "the deadline was not kept"
            assert met.value.retryable, f"{met.value!r} says that again cannot help"
        put(collection, ["a", "c"], payloads=[{"n": 1}, {"n": 3}])
        # What was asked for meanwhile may have reached the store: b alone was never touched.
        assert {"a", "b", "c"} <= set(scanned(collection)) <= {"a", "b", "c", "lost"}
        assert collection.fetch(["b"]).payloads == ({"n": 2},)
        assert {hit.id for hit in collection.search(some_vectors(1))[0]} >= {"a", "b", "c"}
