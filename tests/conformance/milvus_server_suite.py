"""The suite on a Milvus server, run in a network namespace by ``test_milvus_server``: see ``tests.milvus_server``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pymilvus")

from pixdex.testing import ServerConformance
from tests.milvus_server import INSIDE, Server

if INSIDE not in os.environ:
    pytest.skip("run by `python -m tests.milvus_server pytest ...`", allow_module_level=True)


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server that runs in this namespace, else a fresh one."""
    running = os.environ.get("PIXDEX_MILVUS_SERVER")
    if running:
        yield running
        return
    server = Server(Path(tmp_path_factory.mktemp("milvus-server"))).start()
    yield server.url
    server.kill()


class TestMilvusServer(ServerConformance):
    """No deviations."""
