"""docs/reranking.md, executed as it stands there, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pixdex import rerankers
from tests.docs.test_docs import ROOT, furnished, ran, run

PAGE = (ROOT / "docs" / "reranking.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnished(tmp_path_factory.mktemp("home"))


def test_the_page_runs(home: Path) -> None:
    printed = ran("\n".join(code for kind, code in BLOCKS if kind == "python"), home)
    assert re.search(r"^\+1\.000  Pictures/03\.jpg  first \+1\.000$", printed, re.MULTILINE)
    assert "Pictures/03.jpg computed" in printed
    assert "~/Pictures/03.jpg" in printed
    assert "'median': " in printed
    lines = [line[2:] for kind, code in BLOCKS if kind == "console" for line in code.splitlines() if line[:2] == "$ "]
    for line in lines:
        assert '"transport"' in run(["bash", "-c", line], home)


def test_every_reranker_is_on_the_page() -> None:
    for name in rerankers.available():
        assert f"| `{name}" in PAGE
