"""Two stores as one keep every promise of a store, and the second answers as the first does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pixdex.connectors.address import parse
from pixdex.connectors.memory import MemoryConnector
from pixdex.connectors.mirror import Mirror
from pixdex.testing import ConnectorConformance

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    from pixdex.connectors.pq import connect

    store = connect(parse(f"pq://{tmp_path_factory.mktemp('mirrored') / 'store'}"))
    connector = Mirror(MemoryConnector(), store)
    yield connector
    found = connector.comparison()
    connector.close()
    assert found.reads > 50  # much of what the tests asked, whose collections go as they end
    assert found.differing == 0, found.examples
    assert found.unwritten == 0


class TestMirror(ConnectorConformance):
    """No deviations."""
