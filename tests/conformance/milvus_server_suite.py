"""The suite on a Milvus server, run in a network namespace by ``test_milvus_server``: see ``tests.milvus_server``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("pymilvus")

from pixdex.connectors.address import parse
from pixdex.connectors.port import Connector
from pixdex.testing import ConnectorConformance
from tests.milvus_server import INSIDE, Server

if INSIDE not in os.environ:
    pytest.skip("run by `python -m tests.milvus_server pytest ...`", allow_module_level=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server: the one that runs in this namespace, else a fresh one."""
    running = os.environ.get("PIXDEX_MILVUS_SERVER")
    if running:
        yield running
        return
    server = Server(Path(tmp_path_factory.mktemp("milvus-server"))).start()
    yield server.url
    server.kill()


@pytest.fixture(scope="module")
def connector(server: str) -> Iterator[Connector]:
    from pixdex.connectors.milvus import connect_server

    connector = connect_server(parse(f"{server}/main").with_served_collection())
    yield connector
    connector.close()


class TestMilvusServer(ConnectorConformance):
    """No deviations."""

    @pytest.fixture
    def reopen(self, server: str) -> Callable[[], Connector]:
        from pixdex.connectors.milvus import connect_server

        return lambda: connect_server(parse(f"{server}/main").with_served_collection())

    @pytest.fixture
    def second(self, reopen: Callable[[], Connector]) -> Iterator[Connector]:
        connector = reopen()
        yield connector
        connector.close()
