"""The pytest plugin of the kit: the ``conformance`` marker, ``--long``, and asserts that explain themselves."""

from __future__ import annotations

import os
from pathlib import Path
from pkgutil import iter_modules

import pytest

__all__ = ["pytest_addoption", "pytest_configure"]

pytest.register_assert_rewrite(
    *(
        f"{__package__}.{module.name}"
        for module in iter_modules([str(Path(__file__).parent)])
        if module.name != "plugin"
    )
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long``: many more random examples; the same as PIXDEX_LONG=1."""
    parser.addoption("--long", action="store_true", help="pixdex: many more random examples in differential tests")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker; hand ``--long`` on before test modules are imported."""
    config.addinivalue_line("markers", "conformance: a promise that every pixdex connector keeps")
    if config.getoption("--long"):
        os.environ["PIXDEX_LONG"] = "1"
