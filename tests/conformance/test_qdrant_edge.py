"""Qdrant Edge: Qdrant's engine, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pixdex.connectors.address import parse
from pixdex.connectors.port import Connector
from pixdex.testing import ConnectorConformance

pytest.importorskip("qdrant_edge")


@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connector]:
    from pixdex.connectors.qdrant_edge import connect

    connector = connect(parse(f"qdrant+edge://{tmp_path_factory.mktemp('edge') / 'store'}"))
    yield connector
    connector.close()


class TestQdrantEdge(ConnectorConformance):
    """No deviations."""

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Connector]:
        from pixdex.connectors.qdrant_edge import connect

        return lambda: connect(parse(f"qdrant+edge://{tmp_path / 'store'}"))
