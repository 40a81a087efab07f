"""The suite has teeth: every planted fault is caught, and the oracle without one is not accused."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from pixdex.connectors.memory import MemoryConnector

from .mutants import MUTANTS, GoesAway

SUITE = Path(__file__).with_name("mutant_suite.py")
QUIET = ["-q", "-x", "--capture=no", "--no-header", "--tb=no", "-W", "ignore"]
WITHOUT = [
    f"-pno:{plugin}"
    for plugin in (
        "randomly",
        "cacheprovider",
        "faulthandler",
        "logging",
        "threadexception",  # this and the next collect garbage, of the whole run that this one is inside of
        "unraisableexception",
    )
]


class _Plugin:
    """Gives the suite its connector and remembers which tests failed."""

    def __init__(self, connector: MemoryConnector) -> None:
        self._connector = connector
        self.failed: list[str] = []

    @pytest.fixture
    def connector(self) -> MemoryConnector:
        return self._connector

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid.rpartition("::")[2])


def _run(connector: MemoryConnector, tests: Sequence[str]) -> tuple[int, list[str]]:
    """pytest's exit code and the tests that failed; the whole suite when ``tests`` is empty."""
    plugin = _Plugin(connector)
    targets = [f"{SUITE}::TestMutant::{test}" for test in tests] or [str(SUITE)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main([*targets, *QUIET, *WITHOUT], plugins=[plugin])
    return int(code), plugin.failed


@pytest.mark.conformance
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str, record_property: pytest.RecordProperty) -> None:
    """By the test that is expected to, else by any other."""
    mutant, expected = MUTANTS[name]
    code, failed = _run(mutant(), [expected])
    assert code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), f"{expected} could not be run"
    if not failed:
        _, failed = _run(mutant(), [])
    assert failed, f"no test catches {name}"
    record_property("mutant_caught_by", failed[0])


@pytest.mark.conformance
@pytest.mark.parametrize("oracle", [MemoryConnector, GoesAway])
def test_oracle_is_not_accused(oracle: type[MemoryConnector]) -> None:
    """The tests that catch mutants pass on the oracle itself when run in the same way."""
    tests = sorted({test for _, test in MUTANTS.values()})
    assert _run(oracle(), tests) == (pytest.ExitCode.OK, [])
