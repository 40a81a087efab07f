"""The conformance suite on real Milvus servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pixdex.connectors import connect
from pixdex.connectors.port import Connector
from pixdex.testing import ConnectorConformance

pytest.importorskip("pymilvus")

import servers

if servers.refusal() is not None:
    pytest.skip(f"no servers in containers: {servers.refusal()}", allow_module_level=True)

pytestmark = pytest.mark.timeout(1800)  # the image may have to be fetched


@pytest.fixture(scope="module", params=servers.MILVUS)
def server(request: pytest.FixtureRequest) -> Iterator[servers.Running]:
    yield from servers.milvus(request.param)


@pytest.fixture(scope="module")
def url(server: servers.Running) -> str:
    return f"milvus://{servers.HOST}:{server.ports[19530]}/main"


@pytest.fixture(scope="module")
def connector(url: str) -> Iterator[Connector]:
    connector, _ = connect(url)
    yield connector
    connector.close()


class TestMilvusServer(ConnectorConformance):
    """No deviations."""

    @pytest.fixture
    def faults(self, server: servers.Running) -> servers.Running:
        return server

    @pytest.fixture
    def reopen(self, url: str) -> Callable[[], Connector]:
        return lambda: connect(url)[0]
