"""The code in the README runs, as it stands there, in order, in an empty folder with a few pictures."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVER = os.environ.get("PIXDEX_MILVUS_SERVER")
"""The URL of a Milvus server, where these tests run beside one: see ``tests.milvus_server``."""
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", README, re.DOTALL)
PROGRAM = "\n".join(code for kind, code in BLOCKS if kind == "python")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a folder of pictures, one broken file among them, and a picture to search with."""
    return furnished(tmp_path)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the README's program prints as it stands there."""
    return ran(PROGRAM, furnished(tmp_path_factory.mktemp("home")))


def furnished(home: Path) -> Path:
    """``home``, with the pictures in it."""
    pictures = home / "Pictures"
    pictures.mkdir()
    rng = np.random.default_rng(7)
    for number in range(12):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((160, 120)).save(pictures / f"{number:02}.jpg")
    (pictures / "broken.jpg").write_bytes(b"not a picture")
    shutil.copy(pictures / "03.jpg", home / "query.jpg")
    rows = [f"Pictures/{number:02}.jpg,{('fern', 'moss')[number % 2]}" for number in range(12)]
    (home / "labels.csv").write_text("\n".join(["path,species", *rows]))
    return home


def run(command: list[str], home: Path) -> str:
    environment = {**os.environ, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran(program: str, home: Path) -> str:
    """What a program prints in ``home``, which is written as ~."""
    return run([sys.executable, "-W", "error", "-c", program], home).replace(str(home), "~")


def test_python_blocks_run_as_one_program(printed: str) -> None:
    assert "broken.jpg" in printed
    assert "+1.000  Pictures/03.jpg" in printed


STORES = {
    "memory": "memory://{0}#{0}",
    "qdrant+local": "qdrant+local://{0}.qdrant#{0}",
    "qdrant+edge": "qdrant+edge://{0}.edge#{0}",
    "milvus+lite": "milvus+lite://{0}.db#{0}",
    **({"milvus_server": f"{SERVER}/{{0}}"} if SERVER else {}),
}
"""Engines that the README's program runs on, by changing nothing but the addresses."""


@pytest.mark.parametrize("store", STORES)
def test_another_store_is_another_url(home: Path, printed: str, store: str) -> None:
    elsewhere = re.sub(r"pq://(\w+)\.pix(#\w+)?", lambda found: STORES[store].format(found[1]), PROGRAM)
    assert "pq://" not in elsewhere
    there = ran(elsewhere, home)
    numbers = r"[-+]?\d+\.\d+(?:e-?\d+)?"
    assert re.sub(numbers, "#", there) == re.sub(numbers, "#", printed)
    for one, other in zip(re.findall(numbers, printed), re.findall(numbers, there), strict=True):
        assert float(one) == pytest.approx(float(other), abs=1e-3)


def test_shell_lines_run(home: Path) -> None:
    lines = [
        line[2:] for kind, code in BLOCKS if kind == "console" for line in code.splitlines() if line.startswith("$ ")
    ]
    assert lines
    printed = "".join(run(["bash", "-c", line], home) for line in lines)
    assert '"id": "Pictures/03.jpg"' in printed
    assert (home / "hits.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_every_store_and_encoder_is_in_the_readme() -> None:
    from pixdex import connectors, encoders

    for name in [f"`{scheme}://" for scheme in connectors.available()] + [f"`{name}" for name in encoders.available()]:
        assert name in README


def test_the_store_of_contributing_passes_the_suite(tmp_path: Path) -> None:
    """A stranger's store in under 200 lines, with nothing but what CONTRIBUTING shows."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = re.findall(r"```python\n# file: (\S+)\n(.*?)```", text, re.DOTALL)
    assert len(files) == 2
    for name, code in files:
        (tmp_path / name).write_text(code, encoding="utf-8")
        assert len(code.splitlines()) < 200
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["pixdex.testing.plugin"]\n', encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d{3,} passed", done.stdout)
