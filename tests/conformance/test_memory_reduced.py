"""A store that can do little: what it lacks the facade makes up for, or refuses.

The oracle raises Unsupported for everything that it is told not to have, so nothing passes by luck.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pixdex.connectors.memory import MemoryConnector
from pixdex.connectors.port import Capabilities
from pixdex.filters import Operator
from pixdex.spec import Metric
from pixdex.testing import ConnectorConformance

POOR = Capabilities(
    delete_where=False,
    exact=False,
    alias=False,
    alter=False,
    durable=False,
    tokens=False,
    max_vectors=1,
    max_batch=7,
    max_k=5,
)


class _Reduced(ConnectorConformance):
    capabilities = POOR

    @pytest.fixture(scope="class")
    @classmethod
    def connector(cls) -> MemoryConnector:
        return MemoryConnector(cls.capabilities)


class TestNoOperators(_Reduced):
    """Every filter is completed by the facade."""

    capabilities = replace(POOR, operators=frozenset())


class TestEqualityOnly(_Reduced):
    """Conjunctions of equality: what the simplest stores have."""

    capabilities = replace(POOR, operators=frozenset({Operator.EQ, Operator.AND}), max_k=100)


class TestNoNegation(_Reduced):
    """Everything but not, near and or: boxes stand in for radii."""

    capabilities = replace(
        POOR,
        operators=frozenset(Operator) - {Operator.NOT, Operator.NEAR, Operator.NEAR_ANY, Operator.OR},
        max_vectors=2,
    )


class TestNegationOfFew(_Reduced):
    """Not, but only of what is there; boxes and or, for radii across the date line."""

    capabilities = replace(
        POOR,
        operators=frozenset({Operator.NOT, Operator.OR, Operator.BOX, Operator.IDS, Operator.RANGE}),
        complete=False,
        metrics=frozenset({Metric.L2, Metric.COSINE}),
        max_batch_bytes=50_000,
        tokens=True,
        alter=True,
    )
