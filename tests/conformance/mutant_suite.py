"""The suite as ``test_mutants`` runs it, on a ``connector`` that a plugin gives. Not collected by itself."""

from __future__ import annotations

from pixdex.testing import ConnectorConformance


class TestMutant(ConnectorConformance):
    """Some test of it has to fail."""
