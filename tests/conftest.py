"""What all tests share: the read-only material, hypothesis profiles, the kit's plugin, where coverage is measured."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from coverage import Coverage

pytest_plugins = ["pixdex.testing.plugin", "tests.milvus_runs"]

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# One runtime for all, since tests compare vectors; nothing is measured, and nothing kept of a run.
os.environ["PIXDEX_RUNTIME"] = "torch"
# Jobs remember things in a folder that goes with the tests.
os.environ["PIXDEX_STATE"] = tempfile.mkdtemp(prefix="pixdex-state-")
atexit.register(shutil.rmtree, os.environ["PIXDEX_STATE"], ignore_errors=True)

ROOT = Path(__file__).resolve().parents[1]
COVERS_THE_SPINE = (
    "tests/conformance/test_memory.py",
    "tests/conformance/test_memory_reduced.py::TestNoOperators",
    "tests/unit/test_",
)
"""How the ids of tests begin that cover the spine, see [tool.coverage] in pyproject.toml."""


def pytest_configure(config: pytest.Config) -> None:
    """Workers that share the cores: threads of one that wait by spinning would take the time of the others."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Import what coverage is measured of while it is: some of it loads late, be it in a test that is not measured."""
    coverage = _coverage()
    for pattern in () if coverage is None else coverage.get_option("run:include") or ():
        for path in sorted(ROOT.glob(pattern)):
            import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measures coverage only in tests that are there to cover the spine, as it more than doubles what a test costs."""
    coverage = None if item.nodeid.startswith(COVERS_THE_SPINE) else _coverage()
    if coverage is None:
        return (yield)
    coverage.stop()
    try:
        return (yield)
    finally:
        coverage.start()


def _coverage() -> Coverage | None:
    """The measurement under way."""
    loaded = sys.modules.get("coverage")
    return None if loaded is None else loaded.Coverage.current()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many planted faults the suite caught."""
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    ran = [r for r in reports if r.when == "call" and "::test_mutant_is_caught[" in r.nodeid]
    if ran:
        caught = sum(1 for r in ran if any(name == "mutant_caught_by" for name, _ in r.user_properties))
        terminalreporter.write_line(f"mutants caught: {caught} of {len(ran)}")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PIXDEX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the repository: pictures, models, evidence. Skips where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the repository")
    return folder
