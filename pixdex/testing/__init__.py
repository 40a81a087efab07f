"""The conformance kit: run pixdex's specification on your own connector.

In ``conftest.py``::

    pytest_plugins = ["pixdex.testing.plugin"]

and in a test module::

    from pixdex.testing import ConnectorConformance

    @pytest.fixture(scope="module")
    def connector():
        connector = MyConnector(...)
        yield connector
        connector.close()

    class TestMyStore(ConnectorConformance):
        pass

Nothing else is needed (for a server ``ServerConformance`` asks for its URL instead): tests choose themselves by ``connector.capabilities``. Needs pytest and hypothesis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixdex.testing.conformance import ConnectorConformance, Deviation, ServerConformance

__all__ = ["ConnectorConformance", "Deviation", "ServerConformance"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pixdex.testing import conformance  # late: pytest must rewrite its asserts first (see plugin)

    return getattr(conformance, name)
