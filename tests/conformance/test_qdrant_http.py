"""The connector of a Qdrant server over real HTTP, against a stand-in for the server: see ``qdrant_stand_in``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixdex.testing import ServerConformance

pytest.importorskip("qdrant_client")
sys.path.insert(0, str(Path(__file__).parents[1]))

from qdrant_stand_in import StandIn


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    server = StandIn().start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def url(server: StandIn) -> str:
    return server.url


class TestQdrantHttp(ServerConformance):
    """No deviations."""

    @pytest.fixture
    def faults(self, server: StandIn) -> StandIn:
        return server
