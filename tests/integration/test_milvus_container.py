"""The conformance suite on real Milvus servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pixdex.testing import ServerConformance

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


class TestMilvusServer(ServerConformance):
    """No deviations."""

    @pytest.fixture
    def faults(self, server: servers.Running) -> servers.Running:
        return server
