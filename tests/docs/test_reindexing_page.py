"""docs/reindexing.md, executed: its commands and programs in the order of the page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.docs.test_docs import ROOT, home, run

__all__ = ["home"]

PAGE = (ROOT / "docs" / "reindexing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXDEX_STATE", str(home / "state"))
    (home / "Pictures" / "broken.jpg").unlink()
    printed: list[str] = []
    program = ""
    for kind, block in BLOCKS:
        if kind == "console":
            printed += [run(["bash", "-c", line.removeprefix("$ ")], home) for line in block.splitlines()]
        else:
            program += block
            if "import pixdex\n" in program and "FingerprintMismatch:" in program:
                printed.append(run([sys.executable, "-W", "error", "-c", program], home))
    said = "\n".join(printed)
    assert re.search(r"photos names photos_[0-9a-f]{8} now, photos_v1 is kept", said)
    assert re.search(r"photos_[0-9a-f]{8} photos_v3 12 \(\) None\nclassic Pictures/03.jpg\nPictures/03.jpg\n", said)
    assert "photos names photos_v3 again" in said
    assert re.search(r"photos names photos_[0-9a-f]{8} again, photos_v3 is kept", said)
