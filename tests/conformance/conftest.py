"""Says at the end how many planted faults the suite caught; runs one share of the tests where several processes do."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With PIXDEX_SHARD=2/4 every fourth test, from the third on: see ``tests.milvus_server``."""
    share = os.environ.get("PIXDEX_SHARD")
    if share:
        number, count = map(int, share.split("/"))
        config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % count != number])
        items[:] = items[number::count]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    ran = [r for r in reports if r.when == "call" and "::test_mutant_is_caught[" in r.nodeid]
    if ran:
        caught = sum(1 for r in ran if any(name == "mutant_caught_by" for name, _ in r.user_properties))
        terminalreporter.write_line(f"mutants caught: {caught} of {len(ran)}")
