"""Says at the end how many planted faults the suite caught."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    ran = [r for r in reports if r.when == "call" and "::test_mutant_is_caught[" in r.nodeid]
    if ran:
        caught = sum(1 for r in ran if any(name == "mutant_caught_by" for name, _ in r.user_properties))
        terminalreporter.write_line(f"mutants caught: {caught} of {len(ran)}")
