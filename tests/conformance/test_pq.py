"""The embedded store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pixdex.connectors.address import parse
from pixdex.connectors.port import Connector
from pixdex.testing import ConnectorConformance

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connector]:
    from pixdex.connectors.pq import connect

    connector = connect(parse(f"pq://{tmp_path_factory.mktemp('pq') / 'store'}"))
    yield connector
    connector.close()


class TestPq(ConnectorConformance):
    """No deviations."""

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Connector]:
        from pixdex.connectors.pq import connect

        return lambda: connect(parse(f"pq://{tmp_path / 'store'}"))
