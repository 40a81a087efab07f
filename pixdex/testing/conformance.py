"""``ConnectorConformance``: the port's promises and the laws, as tests that a connector's author runs.

A test selects itself by ``connector.capabilities``; where a capability is absent it asserts that the
facade refuses or makes up for it. Gaps are declared, with a reason, in the store's own test class::

    class TestMyStore(ConnectorConformance):
        deviations = {
            "test_long_ids": Deviation("keys have 255 bytes, see issue 12", raises=AssertionError),
            "test_filter[radius 0]": Deviation("the engine's radius excludes its centre"),
        }

A deviation is a strict xfail: when the store heals, the test says so. A test cannot be overridden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest

from pixdex.connectors import connect
from pixdex.connectors.port import Connector
from pixdex.testing._alter import AlterCases
from pixdex.testing._collections import CollectionCases
from pixdex.testing._concurrency import ConcurrencyCases
from pixdex.testing._differential import DifferentialCases
from pixdex.testing._faults import FaultCases
from pixdex.testing._filters import FilterCases
from pixdex.testing._identity import IdentityCases
from pixdex.testing._payloads import PayloadCases
from pixdex.testing._records import RecordCases
from pixdex.testing._rerank import RerankCases
from pixdex.testing._scan import ScanCases
from pixdex.testing._search import SearchCases
from pixdex.testing._tokens import TokenCases
from pixdex.testing._vectors import VectorCases
from pixdex.testing.plugin import CONFORMANCE, DEVIATION

__all__ = ["ConnectorConformance", "Deviation", "ServerConformance"]


@dataclass(frozen=True, slots=True)
class Deviation:
    """A promise that a store does not keep.

    Attributes:
        reason: why, for those who choose a store; an issue to watch, if there is one.
        raises: what the test then raises.
    """

    reason: str
    raises: type[BaseException] | tuple[type[BaseException], ...] = AssertionError

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("a deviation needs a reason")


@pytest.mark.conformance
class ConnectorConformance(
    CollectionCases,
    IdentityCases,
    AlterCases,
    RecordCases,
    VectorCases,
    PayloadCases,
    TokenCases,
    SearchCases,
    RerankCases,
    FilterCases,
    ScanCases,
    ConcurrencyCases,
    FaultCases,
    DifferentialCases,
):
    """Subclass it; give a fixture ``connector`` beside it. Optional fixtures in it have more tested: ``reopen``
    (durable stores: opens the same place again), ``second`` (another connection to the place of ``connector``),
    ``faults`` (an object with a context manager ``broken()``, inside which the store is away).

    ``connector`` may have any scope: each test uses a fresh collection name. Scope it to the module
    where opening the store is slow. ``deviations`` maps names of tests, or ``name[parameter]``, to
    what is known not to work.

    Raises:
        TypeError: at class creation, when a test is overridden or a deviation names none.
    """

    deviations: ClassVar[Mapping[str, Deviation]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in vars(cls):
            if name.startswith("test_") and hasattr(ConnectorConformance, name):
                raise TypeError(f"{cls.__name__} overrides {name}: declare a deviation with a reason instead")
        for name in cls.deviations:
            if not hasattr(ConnectorConformance, name.partition("[")[0]):
                raise TypeError(f"{cls.__name__} deviates from {name}, which is no test")

    @pytest.fixture(autouse=True)
    def _deviation(self, request: pytest.FixtureRequest) -> None:
        """Turns a declared deviation into a strict xfail."""
        names = (request.node.name, getattr(request.node, "originalname", request.node.name))
        deviation = next((self.deviations[name] for name in names if name in self.deviations), None)
        properties = request.node.user_properties
        properties.append((CONFORMANCE, type(self).__name__))
        if deviation is not None:
            properties.append((DEVIATION, deviation.reason))
            request.applymarker(pytest.mark.xfail(reason=deviation.reason, raises=deviation.raises, strict=True))


class ServerConformance(ConnectorConformance):
    """For stores that run apart from the program: give a fixture ``url`` beside it, of any scope, instead of
    ``connector``; connections, a second one among them, are opened by that. ``faults`` is still yours to give.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def connector(cls, url: str) -> Iterator[Connector]:
        """A connection that the tests of a class share."""
        yield from _connected(url)

    @pytest.fixture
    def second(self, url: str) -> Iterator[Connector]:
        """Another one."""
        yield from _connected(url)

    @pytest.fixture
    def reopen(self, url: str) -> Callable[[], Connector]:
        """Opens one more, which the test closes."""
        return lambda: connect(url)[0]


def _connected(url: str) -> Iterator[Connector]:
    connector, _ = connect(url)
    yield connector
    connector.close()
