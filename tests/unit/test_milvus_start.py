"""How a Milvus server of tests is started, with a stand-in for what PyPI has: the real one is unpacked once, by whoever comes first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import milvus_server

STAND_IN = """
import os, shutil, time

class MilvusServerConfig:
    def set(self, key, value): ...
    def resolve(self): ...

class MilvusServer:
    def __init__(self, wait_for_started):
        self.config = MilvusServerConfig()
    def set_base_dir(self, base): ...

def _initialize_data_files(place):
    os.makedirs(os.path.join(place, "bin"), exist_ok=True)
    binary = os.path.join(place, "bin", "milvus")
    if os.path.exists(binary):
        return
    with open(os.path.dirname(place) + "/unpacked.log", "a") as log:
        log.write(place + "\\n")
    with open(binary, "wb") as file:
        os.chmod(binary, 0o755)
        with open(shutil.which("true"), "rb") as real:
            for _ in range(5):
                file.write(real.read(10_000))
                time.sleep(0.05)
            file.write(real.read())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the server runs on Linux only")
def test_several_that_start_at_once_run_what_is_whole(tmp_path: Path) -> None:
    (tmp_path / "milvus.py").write_text(STAND_IN)
    (tmp_path / "unpacked.new" / "bin").mkdir(parents=True)
    (tmp_path / "unpacked.new" / "bin" / "milvus").write_bytes(b"half")  # by one that was killed
    code = f"import sys; sys.prefix = {str(tmp_path)!r}; sys.path.insert(0, sys.prefix)\n{milvus_server._START}"
    started = []
    for number in range(4):
        base = tmp_path / f"base{number}"
        base.mkdir()
        command = [sys.executable, "-c", code, str(base), "{}"]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, said
    assert (tmp_path / "unpacked.log").read_text().split() == [str(tmp_path / "unpacked.new")]
