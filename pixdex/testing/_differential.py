"""Random filters on random records, against a direct evaluation in Python."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pixdex.collection import Collection
from pixdex.testing._support import IDS_ONLY, Cases, put, scanned, some_vectors
from pixdex.testing.random_data import HOSTILE_TEXT, RICH, evaluate, filters, records

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector

LONG = os.environ.get("PIXDEX_LONG", "") not in ("", "0")
EXAMPLES = 300 if LONG else 25
FILTERS = 40 if LONG else 12


class DifferentialCases(Cases):
    """What the hand-written cases did not think of."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def test_random_filters(self, connector: Connector, data: st.DataObject) -> None:
        """Random filters find in scan, count and search exactly the random records that they hold for
        by ``random_data.evaluate``, a second writing of the specification that shares no code with it.

        Troubleshooting: the failing filter is printed as text; run it with ``collection.scan(where=...)``.
        ``PIXDEX_LONG=1`` or ``--long`` draws many more.
        """
        payloads: list[dict[str, Any]] = data.draw(records(20))
        ids = [*HOSTILE_TEXT[: len(payloads)]]
        collection = Collection.create(connector, f"x{uuid4().hex[:16]}", RICH)
        try:
            put(collection, ids, some_vectors(len(ids)), payloads)
            for where in data.draw(st.lists(filters(ids), min_size=FILTERS, max_size=FILTERS)):
                expected = sorted(i for i, p in zip(ids, payloads, strict=True) if evaluate(where, i, p))
                assert sorted(scanned(collection, where=where, want=IDS_ONLY)) == expected, str(where)
                assert collection.count(where) == len(expected), str(where)
                hits = collection.search(some_vectors(1), k=len(ids), where=where, want=IDS_ONLY)[0]
                assert sorted(h.id for h in hits) == expected, str(where)
        finally:
            connector.drop(collection.name, timeout=60)
