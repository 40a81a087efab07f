"""The suite as ``test_mutants`` runs it, on a ``connector`` that a plugin gives. Not collected by itself."""

from __future__ import annotations

import pytest

from pixdex.connectors.port import Connector
from pixdex.testing import ConnectorConformance

from .mutants import GoesAway


class TestMutant(ConnectorConformance):
    """Some test of it has to fail."""

    @pytest.fixture
    def faults(self, connector: Connector) -> GoesAway | None:
        return connector if isinstance(connector, GoesAway) else None
