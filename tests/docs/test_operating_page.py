"""docs/operating.md, executed as it stands there, in order; and ``pixdex doctor`` on every engine."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pixdex import cli
from tests.docs.test_docs import ROOT, STORES, furnished, run

pytest.importorskip("opentelemetry")

PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "state"))
    home = furnished(tmp_path)
    monkeypatch.chdir(home)
    logger = logging.getLogger("pixdex")
    before, level = list(logger.handlers), logger.level
    yield home
    for handler in [one for one in logger.handlers if one not in before]:  # of --log, in this process
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)


def shell(line: str) -> str:
    words = shlex.split(line.removeprefix("$ "))
    assert words[0] == "pixdex"
    done = CliRunner().invoke(cli.app, words[1:])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_page_runs(home: Path) -> None:
    printed = []
    for kind, code in BLOCKS:
        if kind == "python":
            printed.append(run([sys.executable, "-W", "error", "-c", code], home))
        else:
            printed += map(shell, code.splitlines())
    said = "\n".join(printed)
    assert "12 added" in said
    assert "broken.jpg" in said
    assert "12 0 1" in said
    assert re.search(r"well +recall +recall@10 1\.000", said)
    assert '"verb": "describe"' in (home / "calls.jsonl").read_text()
    assert (home / "duplicates.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("store", [name for name in STORES if name != "memory"])
def test_doctor_on_every_engine(home: Path, store: str) -> None:
    url = STORES[store].format("photos")
    shell(f"$ pixdex add {url} Pictures -e classic")
    assert re.search(r"well +records +12, counted and read", shell(f"$ pixdex doctor {url}"))
