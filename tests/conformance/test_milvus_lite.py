"""Milvus Lite: a re-implementation in Python, not the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pixdex.connectors.address import parse
from pixdex.connectors.port import Connector
from pixdex.testing import ConnectorConformance

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")


@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connector]:
    from pixdex.connectors.milvus import connect

    connector = connect(parse(f"milvus+lite://{tmp_path_factory.mktemp('milvus') / 'store'}"))
    yield connector
    connector.close()


class TestMilvusLite(ConnectorConformance):
    """No deviations."""

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Connector]:
        from pixdex.connectors.milvus import connect

        return lambda: connect(parse(f"milvus+lite://{tmp_path / 'store'}"))
