"""The tests on a Milvus server run beside all others, since most of their time is waiting.

As a plugin it starts, when a session has collected tests of ``conformance/test_milvus_server.py``, what these ask for,
in a process of its own, and puts them last; ``output`` then gives what their run printed. With pytest-xdist the
controller starts it, once, and the workers find the results in the folder that all of a session share.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.milvus_server import ROOT, command, die_with_parent, refusal

__all__ = ["output"]

MODULE = "tests/conformance/test_milvus_server.py"
QUIET = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider")
PROCESSES = 6
DOCUMENTS = ("tests/docs/test_docs.py", "tests/docs/test_adopting_page.py", "-k", "milvus_server")

RUNS: dict[str, Sequence[str]] = {
    "test_the_suite": ("shards", str(PROCESSES), "tests/conformance/milvus_server_suite.py"),
    "test_faults": ("pytest", *QUIET, "tests/conformance/milvus_server_faults.py"),
    "test_the_documents": ("shards", "1", *DOCUMENTS),
}
"""Test -> what ``tests.milvus_server`` runs for it, each on a server of its own."""

_STARTED = pytest.StashKey[subprocess.Popen[bytes]]()


def output(config: pytest.Config, test: str) -> str:
    """What the run of a test printed, when it has ended; the run has to succeed. Waits as long as the test may."""
    folder = _folder(config)
    code = folder / f"{test}.code"
    while not code.exists():
        time.sleep(0.1)
    printed = (folder / f"{test}.log").read_text(errors="replace")
    assert code.read_text() == "0", printed[-8000:]
    return printed


def _folder(config: pytest.Config) -> Path:
    base: Path = config._tmp_path_factory.getbasetemp()
    return (base.parent if hasattr(config, "workerinput") else base) / "milvus-runs"


def _start(config: pytest.Config, ids: Iterable[str]) -> None:
    """Start the runs of those tests, unless they are under way."""
    selected = {test.rpartition("::")[2] for test in ids if test.startswith(f"{MODULE}::")}
    names = [name for name in RUNS if name in selected]
    if not names or _STARTED in config.stash or config.option.collectonly or refusal() is not None:
        return
    folder = _folder(config)
    folder.mkdir()
    config.stash[_STARTED] = subprocess.Popen(
        [sys.executable, "-m", "tests.milvus_runs", str(folder), *names],
        cwd=ROOT,
        start_new_session=True,  # so that all of it can be stopped
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that wait come last."""
    items.sort(key=lambda item: item.nodeid.startswith(f"{MODULE}::"))


def pytest_collection_finish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        _start(session.config, [item.nodeid for item in session.items])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: object, ids: Sequence[str]) -> None:
    _start(node.config, ids)  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave nothing behind, be the session complete or not."""
    running = session.config.stash.get(_STARTED, None)
    if running is not None and running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def main(folder: Path, names: Sequence[str]) -> None:
    """Run them, two at a time; each leaves what it printed, then its exit status."""
    die_with_parent()

    def run(name: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            done = subprocess.run(
                command(RUNS[name]),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        draft = folder / f"{name}.draft"
        draft.write_text(str(done.returncode))
        draft.rename(folder / f"{name}.code")  # whole, once it is there

    with ThreadPoolExecutor(2) as lanes:
        list(lanes.map(run, names))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
