"""The connector of a Qdrant server over real HTTP, against a stand-in for the server: see ``qdrant_stand_in``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pixdex.connectors.address import parse
from pixdex.connectors.port import Connector
from pixdex.testing import ConnectorConformance

pytest.importorskip("qdrant_client")
sys.path.insert(0, str(Path(__file__).parents[1]))

from qdrant_stand_in import StandIn


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    server = StandIn().start()
    yield server
    server.kill()


def opened(server: StandIn) -> Connector:
    from pixdex.connectors.qdrant import connect_server

    return connect_server(parse(server.url).with_served_collection())


@pytest.fixture(scope="module")
def connector(server: StandIn) -> Iterator[Connector]:
    connector = opened(server)
    yield connector
    connector.close()


class TestQdrantHttp(ConnectorConformance):
    """No deviations."""

    @pytest.fixture
    def faults(self, server: StandIn) -> StandIn:
        return server

    @pytest.fixture
    def second(self, server: StandIn) -> Iterator[Connector]:
        connector = opened(server)
        yield connector
        connector.close()

    @pytest.fixture
    def reopen(self, server: StandIn) -> Callable[[], Connector]:
        return lambda: opened(server)
