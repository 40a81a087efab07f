"""The embedded store with each kind of index, made after every write and used however small a collection is."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pixdex import Collection
from pixdex.connectors import _pq_building, _pq_plan
from pixdex.connectors._pq_index import Kind
from pixdex.connectors.port import Connector
from pixdex.connectors.pq import PqConnector, PqOptions
from pixdex.errors import Unsupported
from pixdex.spec import Spec
from pixdex.testing import ConnectorConformance
from pixdex.testing._search import SearchCases
from pixdex.testing._support import vector
from pixdex.types import Batch

# Of these every test runs each time; of the others the searches, and all by `make test-long`.
WHOLE = frozenset({Kind.IVF_PQ})
TREES = frozenset({Kind.KDTREE, Kind.BALLTREE})
NARROW = TREES | {Kind.OPQ}
KINDS = [kind for kind in Kind if kind not in {Kind.AUTO, Kind.FLAT}]


class Indexed(PqConnector):
    """A store whose index always covers everything."""

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        super().upsert(name, batch, timeout=timeout)
        self.settle(name, timeout=timeout)


@pytest.fixture(scope="module", autouse=True)
def _always() -> Iterator[None]:
    """An index from the first vector on, and no scan in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pq_building, "LEAST", 1)
        for name in ("_IN_PLACE", "_IN_BATCH", "_DEEP"):
            patch.setattr(_pq_plan, name, 0)
        yield


def _refuses_wide_vectors(self: SearchCases, connector: Connector, name: str) -> None:
    """Where a scan would be faster, or training take hours; before anything is written."""
    with pytest.raises(Unsupported, match="index="):
        Collection.create(connector, name, Spec(vectors=(vector(dim=2048),)))
    assert name not in connector.names(timeout=None)


def _suite(kind: Kind) -> type:
    cases = ConnectorConformance if kind in WHOLE or os.environ.get("PIXDEX_LONG") else SearchCases

    @pytest.mark.conformance
    class Suite(cases):  # type: ignore[valid-type, misc]
        @pytest.fixture(scope="class")
        @classmethod
        def connector(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connector]:
            if kind in TREES:
                pytest.importorskip("sklearn")
            connector = Indexed(tmp_path_factory.mktemp(kind.name.lower()) / "store", PqOptions(index=kind.value))
            yield connector
            connector.close()

    if kind in NARROW:
        Suite.test_wide_vectors = _refuses_wide_vectors
    Suite.__name__ = Suite.__qualname__ = f"Test{kind.name.title().replace('_', '')}"
    return Suite


for _kind in KINDS:
    globals()[f"Test{_kind.name.title().replace('_', '')}"] = _suite(_kind)
