"""The oracle keeps its own word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pixdex.connectors.memory import MemoryConnector
from pixdex.testing import ConnectorConformance


@pytest.fixture(scope="module")
def connector() -> Iterator[MemoryConnector]:
    connector = MemoryConnector()
    yield connector
    connector.close()


class TestMemory(ConnectorConformance):
    """No deviations: what the oracle does is what is meant."""
