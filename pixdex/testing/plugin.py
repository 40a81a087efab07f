"""The pytest plugin of the kit: the ``conformance`` marker, ``--long``, asserts that explain themselves, and
at the end a line a store: ``conformance TestMyStore: 612 tests, 0 deviations``.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from pkgutil import iter_modules

import pytest

__all__ = ["CONFORMANCE", "DEVIATION", "pytest_addoption", "pytest_configure", "pytest_terminal_summary"]

CONFORMANCE = "pixdex_conformance"
"""Property of each test of the kit: its class."""
DEVIATION = "pixdex_deviation"
"""Property of each test that a declared deviation covers: the reason."""

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """For each store class: tests that ran, of them deviations that were declared; tests that were skipped."""
    ran: Counter[str] = Counter()
    deviations: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error", "xfailed", "xpassed", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            properties = dict(getattr(report, "user_properties", ()))
            if CONFORMANCE in properties and getattr(report, "when", None) != "teardown":
                kind = properties[CONFORMANCE]
                (skipped if outcome == "skipped" else ran)[kind] += 1
                deviations[kind] += DEVIATION in properties
    for kind in sorted(ran | skipped):
        rest = f", {skipped[kind]} skipped" if skipped[kind] else ""
        terminalreporter.write_line(f"conformance {kind}: {ran[kind]} tests, {deviations[kind]} deviations{rest}")
