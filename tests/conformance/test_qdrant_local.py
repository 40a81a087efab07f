"""Qdrant in local mode: the client's own re-implementation in Python, not the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pixdex.connectors.address import parse
from pixdex.connectors.port import Connector
from pixdex.testing import ConnectorConformance

pytest.importorskip("qdrant_client")


@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connector]:
    from pixdex.connectors.qdrant import connect

    connector = connect(parse(f"qdrant+local://{tmp_path_factory.mktemp('qdrant') / 'store'}"))
    yield connector
    connector.close()


class TestQdrantLocal(ConnectorConformance):
    """No deviations."""

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Connector]:
        from pixdex.connectors.qdrant import connect

        return lambda: connect(parse(f"qdrant+local://{tmp_path / 'store'}"))
