"""Random filters on random records, against the oracle and against a direct evaluation in Python."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pixdex.collection import Collection
from pixdex.connectors.memory import MemoryConnector
from pixdex.testing._support import IDS_ONLY, Cases, allowed, put, scanned, similarity, some_vectors
from pixdex.testing.random_data import RICH, evaluate, filters, record_ids, records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pixdex.connectors.port import Connector
    from pixdex.spec import Metric, Spec
    from pixdex.types import Hit

LONG = os.environ.get("PIXDEX_LONG", "") not in ("", "0")
EXAMPLES = 250 if LONG else 20
FILTERS = 40 if LONG else 25
"""Filters a collection: 500 in the ordinary run of each store, 10,000 in the long one."""

PHASES = [Phase.generate, *([Phase.shrink] if LONG else [])]
"""Each step of shrinking makes a collection, which takes slow stores minutes: only in the long run."""


def _spec(metric: Metric) -> Spec:
    return replace(RICH, vectors=(replace(RICH.vectors[0], metric=metric),))


def _check_hits(
    hits: Sequence[Hit], truth: Sequence[Hit], k: int, query: Any, stored: Mapping[str, Any], metric: Metric
) -> None:
    """As many as the oracle finds, each with the defined score; at the last place equal scores may change places."""
    found = [hit.id for hit in hits]
    assert len(set(found)) == len(found) == min(k, len(truth))
    for hit in hits:
        slack = allowed(metric, query, stored[hit.id])
        assert abs(hit.score - similarity(metric, query, stored[hit.id])) <= slack, f"score of {hit.id!r}"
    scores = {hit.id: hit.score for hit in truth}
    assert set(found) <= scores.keys(), "a record that the oracle does not find"
    for hit in truth[:k]:
        if hit.id not in found:
            slack = 2 * max(allowed(metric, query, vector) for vector in stored.values())
            assert hit.score <= hits[-1].score + slack, f"{hit.id!r} was missed"


class DifferentialCases(Cases):
    """What the hand-written cases did not think of."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=not LONG,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def test_random_filters(self, connector: Connector, data: st.DataObject) -> None:
        """Random filters find in scan, count and search exactly the random records that they hold for: those of the
        oracle, and those of ``random_data.evaluate``, a second writing of the specification that shares no code with
        it. Ids, texts and payload keys are hostile.

        Troubleshooting: the failing filter is printed as text; run it with ``collection.scan(where=...)``.
        ``PIXDEX_LONG=1`` or ``--long`` draws many more.
        """
        payloads: list[dict[str, Any]] = data.draw(records(20))
        ids = data.draw(record_ids(len(payloads)))
        metric = data.draw(st.sampled_from(sorted(connector.capabilities.metrics)))
        vectors = some_vectors(len(ids), seed=len(ids))
        stored = dict(zip(ids, vectors, strict=True))
        oracle = Collection.create(MemoryConnector(), "oracle", _spec(metric))
        put(oracle, ids, vectors, payloads)
        collection = Collection.create(connector, f"x{uuid4().hex[:16]}", _spec(metric))
        try:
            put(collection, ids, vectors, payloads)
            assert collection.fetch(ids).payloads == oracle.fetch(ids).payloads
            wheres = data.draw(st.lists(filters(ids), min_size=FILTERS, max_size=FILTERS))
            for number, where in enumerate(wheres):
                expected = sorted(i for i, p in zip(ids, payloads, strict=True) if evaluate(where, i, p))
                assert sorted(scanned(oracle, where=where, want=IDS_ONLY)) == expected, f"the oracle errs: {where}"
                assert sorted(scanned(collection, where=where, want=IDS_ONLY)) == expected, str(where)
                assert collection.count(where) == len(expected), str(where)
                query = some_vectors(1, seed=number)[0]
                k = len(ids) if number % 2 else 3
                hits = collection.search_one(query, k=k, where=where, want=IDS_ONLY)
                truth = oracle.search_one(query, k=len(ids), where=where, want=IDS_ONLY)
                try:
                    _check_hits(hits, truth, k, query, stored, metric)
                except AssertionError as error:
                    error.add_note(f"filter: {where}")
                    raise
        finally:
            connector.drop(collection.name, timeout=60)
