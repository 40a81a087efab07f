"""docs/training.md, executed with a tiny network."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pixdex.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE, re.DOTALL)

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("torch", "transformers", "pytorch_metric_learning"))), reason="needs the extra train"
)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "unit" / "encoders"))
    import tiny_models

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXDEX_CACHE", str(tmp_path / "cache"))
    tiny_models.save("vit", tmp_path / "model")
    rng = np.random.default_rng(0)
    for number in range(10):
        folder = tmp_path / "products" / f"class{number}"
        folder.mkdir(parents=True)
        for copy in range(5):
            pixels = rng.integers(0, 40, (40, 40, 3)) + rng.integers(40, 200, 3)
            pixels[:, 4 * number : 4 * number + 4] = 255
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{copy}.png")
    names: dict[str, object] = {}
    for kind, code in BLOCKS:
        if kind == "python":
            exec(code, names)
            continue
        for line in code.splitlines():
            done = CliRunner().invoke(app, shlex.split(line.removeprefix("$ pixdex ")))
            assert done.exit_code == 0, done.output
            if line.startswith("$ pixdex train head "):
                assert "50 pictures of 10 classes" in done.stdout
    printed = capsys.readouterr().out
    assert "class3/0.png" in printed
    assert "map@r" in printed
    sys.modules.pop("tiny_models")
