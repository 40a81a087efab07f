"""A real Milvus server (2.3.5, the last that PyPI has) for tests, in a network namespace of its own.

The server listens on every interface, so it is started only where loopback is the only one: ``refusal`` says why
there is no such place here, ``command`` wraps a command so that it runs in one, and ``Server`` starts the server there::

    python -m tests.milvus_server pytest tests/conformance/milvus_server_faults.py
    python -m tests.milvus_server shards 6 tests/conformance/milvus_server_suite.py

The server has an environment of its own, ``.venv-milvus`` beside the repository's, or the interpreter that
``PIXDEX_MILVUS_PYTHON`` names.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

__all__ = ["INSIDE", "PORT", "Server", "command", "die_with_parent", "refusal"]

ROOT = Path(__file__).resolve().parents[1]
PORT = 19530
INSIDE = "PIXDEX_IN_NAMESPACE"
"""Set in the environment of what runs in the namespace."""

_START_LIMIT = 180  # seconds; about 7 are usual, 30 after a kill under load
_STARTS = 3
_COMPONENTS = ["rootCoord", "proxy", "queryCoord", "queryNode", "indexCoord", "indexNode", "dataCoord", "dataNode"]

# Runs under the server's own interpreter, and becomes the server: killing it leaves nothing behind.
_START = """
import fcntl, json, os, shutil, socket, sys
import milvus

def bound(self, port):  # as the server binds: a port of one that was killed a moment ago is free
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
        taken.listen()
    except OSError:
        return None
    return taken

milvus.MilvusServerConfig.try_bind_port = bound
base, settings = sys.argv[1], json.loads(sys.argv[2])
server = milvus.MilvusServer(wait_for_started=False)
server.set_base_dir(base)
for key, value in settings.items():
    server.config.set(key, value)
server.config.resolve()
store, new = os.path.join(sys.prefix, "unpacked"), os.path.join(sys.prefix, "unpacked.new")
with open(store + ".lock", "a") as lock:  # several start at once, and what one of them runs no other may write
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not os.path.isdir(store):
        shutil.rmtree(new, ignore_errors=True)  # of one that was killed
        milvus._initialize_data_files(new)
        os.rename(new, store)
    milvus._initialize_data_files(store)  # which looks whether all is there
binaries = os.path.join(store, "bin")
os.chdir(base)
place = {"DEPLOY_MODE": "STANDALONE", "METRICS_PORT": "9091", "MILVUS_RUN_DIR": os.path.join(base, "run")}
os.makedirs(os.path.join(base, "bin"), exist_ok=True)
server_binary = os.path.join(binaries, "milvus")
os.execve(server_binary, [server_binary, "run", "standalone"],
          {**os.environ, **place, "LD_LIBRARY_PATH": binaries})
"""


def interpreter() -> Path:
    """The interpreter that has the package ``milvus``."""
    named = os.environ.get("PIXDEX_MILVUS_PYTHON")
    return Path(named) if named else ROOT / ".venv-milvus" / "bin" / "python"


@cache
def refusal() -> str | None:
    """Why the server cannot run here, and the remedy; None where it can."""
    if not sys.platform.startswith("linux"):
        return "the Milvus server of PyPI is run in a network namespace, which only Linux has"
    if not interpreter().exists():
        return (
            f"no Milvus server: {interpreter()} does not exist; make it with `python3 -m venv .venv-milvus && "
            ".venv-milvus/bin/pip install milvus==2.3.5`, or let PIXDEX_MILVUS_PYTHON name an interpreter that has it"
        )
    if _unshare() is None:
        return (
            "no network namespace can be made here (unshare -n and unshare -rn both fail), and outside of one the "
            "Milvus server would listen on every interface"
        )
    return None


@cache
def _unshare() -> tuple[str, ...] | None:
    """How to make a namespace: as root, or as a user who is root in it."""
    if shutil.which("unshare") is None:
        return None
    for options in ("-n", "-rn"):
        if subprocess.run(["unshare", options, "true"], capture_output=True, check=False).returncode == 0:
            return ("unshare", options)
    return None


def command(arguments: Sequence[str]) -> list[str]:
    """``arguments`` so that they run in a fresh namespace, loopback up."""
    return [*(_unshare() or ()), sys.executable, "-m", "tests.milvus_server", *arguments]


def _raise_loopback() -> None:
    """What ``ip link set lo up`` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running


def _alone() -> bool:
    """Whether loopback is the only interface."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def die_with_parent() -> None:
    """For this process: an aborted run leaves nothing behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Server:
    """The server over a data directory. ``start`` and ``kill`` may alternate; what was acknowledged stays.

    ``settings`` are configuration values by dotted name.
    """

    def __init__(self, directory: Path, settings: Mapping[str, object] | None = None) -> None:
        self.directory = directory
        self.settings = {f"{component}.ip": "127.0.0.1" for component in _COMPONENTS} | dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"milvus://127.0.0.1:{PORT}"

    def start(self, *, wait: bool = True) -> Server:
        """Start it and return when it answers."""
        import json

        if os.environ.get(INSIDE) is None or not _alone():
            raise RuntimeError(
                "the server would listen on every interface: run this by `python -m tests.milvus_server`"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(interpreter()), "-c", _START, str(self.directory), json.dumps(self.settings)],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - only this one call, and no lock is taken in it
            )
        if wait:
            self.wait()
        return self

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self) -> None:
        """Return when it answers. One that ends while it starts, as it does now and then under load, is started again."""
        deadline = time.monotonic() + _START_LIMIT
        starts = 1
        while time.monotonic() < deadline:
            if not self.running:
                if starts == _STARTS:
                    raise RuntimeError(f"the Milvus server ended: {self.log()}")
                starts += 1
                self.start(wait=False)
            if _healthy():
                return
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"the Milvus server does not answer after {_START_LIMIT} s: {self.log()}")

    def log(self) -> str:
        """The end of what it printed."""
        return (self.directory / "output.log").read_text(errors="replace")[-2000:]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP."""
        if self._process is not None:
            self._process.send_signal(number)
            if number == signal.SIGSTOP:  # on busy cores it answers a little longer
                os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def kill(self) -> None:
        """Stop it at once: asked to stop, a loaded one takes minutes."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _healthy() -> bool:
    try:
        socket.create_connection(("127.0.0.1", PORT), timeout=5).close()
        with urllib.request.urlopen("http://127.0.0.1:9091/healthz", timeout=5) as answer:
            return b"OK" in answer.read()
    except (urllib.error.URLError, OSError):
        return False


def run_shards(count: int, tests: Sequence[str]) -> int:
    """Run tests against one server in ``count`` processes, since most of their time is waiting: a server takes three
    seconds to load a collection. Prints what each printed and a closing line.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="milvus") as place:
        server = Server(Path(place) / "server").start()
        try:
            runs = []
            for number in range(count):
                log = (Path(place) / f"{number}.log").open("w+")
                known = {"PIXDEX_SHARD": f"{number}/{count}", "PIXDEX_MILVUS_SERVER": server.url}
                base = f"--basetemp={place}/tests{number}"
                arguments = [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-q",
                    "-p",
                    "no:randomly",
                    "-p",
                    "no:cacheprovider",
                    base,
                    *tests,
                ]
                process = subprocess.Popen(
                    arguments,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **known},
                    preexec_fn=die_with_parent,  # noqa: PLW1509 - this process has one thread
                )
                runs.append((log, process))
            codes = [run.wait() for _, run in runs]
        finally:
            server.kill()
        passed = failed = skipped = 0
        for log, _ in runs:
            log.seek(0)
            text = log.read()
            sys.stdout.write(text)
            ends = re.findall(r"(\d+) (passed|failed|errors?|skipped)", text.strip().rpartition("\n")[2])
            passed += sum(int(number) for number, what in ends if what == "passed")
            failed += sum(int(number) for number, what in ends if what[0] in "fe")
            skipped += sum(int(number) for number, what in ends if what == "skipped")
    taken = time.monotonic() - started
    sys.stdout.write(f"milvus server 2.3.5: {passed} passed, {failed} failed, {skipped} skipped in {taken:.0f} s\n")
    return max(codes)


def main(arguments: Sequence[str]) -> int:
    """Run a command in a namespace: this one, when it is private, else a fresh one."""
    if os.environ.get(INSIDE) is None and not _alone():
        reason = refusal()
        if reason is not None:
            sys.stderr.write(f"{reason}\n")
            return 77
        os.execvp("unshare", command(arguments))
    die_with_parent()
    _raise_loopback()
    os.environ[INSIDE] = "1"
    started = list(arguments)
    if started[0] == "shards":
        return run_shards(int(started[1]), started[2:])
    if started[0] == "pytest":
        started[:1] = [sys.executable, "-m", "pytest"]
    return os.execvp(started[0], started)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
