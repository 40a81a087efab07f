"""docs/moving.md, executed: its commands in order, then its programs."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.docs.test_docs import ROOT, home, run

__all__ = ["home"]

PAGE = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
LINES = [line[2:] for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SHOWN = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setenv("PIXDEX_STATE", str(home / "state"))
    printed = [run(["bash", "-c", _soon(line)], home) for line in LINES]
    assert SHOWN is not None
    lines = [line.rstrip() for line in printed[1].splitlines()]
    assert re.sub(r"\d+ filters", "# filters", "\n".join(lines)) == re.sub(
        r"\d+ filters", "# filters", SHOWN[1].strip()
    )
    assert all("signed off" in text and "not signed" not in text for text in printed[1:])
    assert "signed off" in (home / "moved.html").read_text(encoding="utf-8")
    one, following, other = (run([sys.executable, "-W", "error", "-c", program], home) for program in PROGRAMS)
    assert one.endswith("True 12\n")
    assert following == "True None\n"
    assert re.fullmatch(r"12 \(\d+,\)\n", other)


def _soon(line: str) -> str:
    """A command that ends at a time, at one that is near."""
    return line.replace("--until 06:30", f"--until {(datetime.now(UTC) + timedelta(seconds=2)).isoformat()}")
