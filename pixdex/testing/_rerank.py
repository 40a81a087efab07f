"""Reranking: the same order and the same numbers as on the oracle, whatever a store does with vectors and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.connectors.memory import MemoryConnector
from pixdex.index import ImageIndex
from pixdex.spec import Metric, TokenSpec
from pixdex.testing._support import DIM, Cases, fingerprint, plain, put, some_vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from pixdex.connectors.port import Connector
    from pixdex.encoders.port import Features
    from pixdex.spec import Spec

TOKENS = TokenSpec(count=6, dim=16, fingerprint=fingerprint("tokens"))
RECORDS = 30
BARE = 4
"""The record that has no tokens."""


class _NoEncoder:
    """Searches by id encode nothing."""

    name = reference = "toy"
    dim, batch_size = DIM, 1

    def __init__(self, spec: Spec) -> None:
        self.metric, self.token_spec, self.fingerprint = spec.vectors[0].metric, spec.tokens, fingerprint()

    def prepare(self, pixels: Any) -> Any:
        raise AssertionError(f"nothing is encoded here: {pixels}")

    def encode(self, prepared: Any, *, tokens: bool = False) -> Features:
        raise AssertionError(f"nothing is encoded here: {prepared}, {tokens}")


class RerankCases(Cases):
    """What rerankers are given comes back from every store as it was written."""

    @pytest.mark.parametrize("rerank", ["maxsim", "k-reciprocal?k1=8&k2=3", "maxsim,dba?n=5@12"])
    def test_reranking_is_the_same_as_on_the_oracle(
        self, connector: Connector, kept: Callable[..., Collection], rerank: str
    ) -> None:
        """Order, scores and traces, of the whole list and of the best of a shortlist; a record without tokens keeps its
        place.
        """
        metric = (
            Metric.COSINE if Metric.COSINE in connector.capabilities.metrics else max(connector.capabilities.metrics)
        )
        if "maxsim" in rerank and not connector.capabilities.tokens:
            return  # refused when the collection is made: see the cases about tokens
        spec = plain(metric=metric, tokens=TOKENS if connector.capabilities.tokens else None)
        oracle = Collection.create(MemoryConnector(), "oracle", spec)
        _fill(oracle)
        sides = [_index(each, spec) for each in (oracle, kept(spec, _fill))]
        for query, options in (("r07", {}), ("r21", {"candidates": 10}), ("r12", {"exclude_self": True})):
            expected, found = (side.search(query, k=RECORDS, rerank=rerank, **options) for side in sides)
            assert [hit.id for hit in found] == [hit.id for hit in expected]
            assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)
            for hit, other in zip(found, expected, strict=True):
                assert hit.trace == pytest.approx(other.trace, abs=1e-4)


def _fill(collection: Collection) -> None:
    values = np.random.default_rng(5).integers(-127, 128, (RECORDS, TOKENS.count, TOKENS.dim)).astype(np.int8)
    tokens = [None if row == BARE else values[row, : 1 + row % TOKENS.count] for row in range(RECORDS)]
    ids = [f"r{row:02}" for row in range(RECORDS)]
    put(collection, ids, some_vectors(RECORDS, seed=6), tokens=tokens if collection.spec.tokens else None)


def _index(collection: Collection, spec: Spec) -> ImageIndex:
    return ImageIndex(collection.connector, collection.name, collection=collection, encoder=_NoEncoder(spec))
