"""docs/fusion.md, executed as it stands there, in order, with a tiny model of sentences."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pixdex import cli
from tests.docs.test_docs import ROOT

pytest.importorskip("transformers")

PAGE = (ROOT / "docs" / "fusion.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE, re.DOTALL)
MODEL = "hf:sentence-transformers/all-MiniLM-L6-v2"
KINDS = ("car", "boats", "dogs", "red")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``products.jsonl``: pictures of four kinds that look much alike, with captions, places and times."""
    home = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(7)
    base, lines = rng.integers(0, 256, (6, 8, 3)), []
    for kind in KINDS:
        blocks = base + rng.normal(0, 3, base.shape)
        for number in range(6):
            pixels = np.clip(blocks + rng.normal(0, 40, blocks.shape), 0, 255).astype(np.uint8)
            path = home / "in" / kind.removesuffix("s") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((80, 60)).save(path)
            place = {"lat": 52.5 + 0.1 * number, "lon": 13.4}
            row = {
                "path": str(path.relative_to(home)),
                "kind": kind,
                "caption": f"a {kind} and {kind}" if number % 3 else None,
            }
            lines.append(json.dumps({**row, "shop": place, "made": f"2026-05-{number + 1:02}T12:00:00Z"}))
    (home / "products.jsonl").write_text("\n".join(lines))
    return home


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    sys.path.insert(0, str(ROOT / "tests" / "unit" / "encoders"))
    try:
        from test_sentences import MEAN, saved
    finally:
        sys.path.pop(0)
    return str(saved(tmp_path_factory.mktemp("model") / "words", pooling=MEAN))


def shell(line: str) -> str:
    found = shlex.split(line.removeprefix("$ "))
    assert found[0] == "pixdex"
    done = CliRunner().invoke(cli.app, found[1:])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_page_runs(
    shop: Path, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.setenv("COLUMNS", "200")
    shared: dict[str, Any] = {}
    printed = ""
    for kind, code in BLOCKS:
        text = code.replace(MODEL, words)
        if kind == "python":
            exec(compile(text, "fusion.md", "exec"), shared)
        else:
            printed += "".join(map(shell, text.splitlines()))
    assert "fitted on other labels (cross-validation)" in printed
    assert "pixdex search pq://shop.pix ... " in printed
    said = capsys.readouterr().out
    assert "'image': " in said
    assert "rrf, text 1" in said
