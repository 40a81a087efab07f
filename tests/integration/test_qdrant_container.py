"""The conformance suite on real Qdrant servers, over REST and over gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pixdex.testing import ServerConformance

pytest.importorskip("qdrant_client")

import servers

if servers.refusal() is not None:
    pytest.skip(f"no servers in containers: {servers.refusal()}", allow_module_level=True)

pytestmark = pytest.mark.timeout(1800)  # the image may have to be fetched


@pytest.fixture(scope="module", params=servers.QDRANT)
def server(request: pytest.FixtureRequest) -> Iterator[servers.Running]:
    yield from servers.qdrant(request.param)


@pytest.fixture(scope="module", params=["rest", "grpc"])
def url(request: pytest.FixtureRequest, server: servers.Running) -> str:
    address = f"qdrant://{servers.HOST}:{server.ports[6333]}/main"
    return address if request.param == "rest" else f"{address}?grpc=1&grpc_port={server.ports[6334]}"


class TestQdrantServer(ServerConformance):
    """No deviations."""

    @pytest.fixture
    def faults(self, server: servers.Running) -> servers.Running:
        return server
