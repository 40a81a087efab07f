"""docs/evaluation.md, executed as it stands there, in order."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pixdex import cli
from pixdex.evaluation import DEFINITIONS
from tests.docs.test_docs import ROOT, run

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``products.csv`` with pictures of four kinds, and two more of each in ``holdout``; ``instances.json`` of some of them."""
    home = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(7)
    lines = ["path,kind"]
    for kind in ("apple", "bread", "cheese", "dill"):
        blocks = rng.integers(0, 256, (6, 8, 3))
        for number in range(8):
            pixels = np.clip(blocks + rng.normal(0, 40, blocks.shape), 0, 255).astype(np.uint8)
            path = home / ("holdout" if number > 5 else "in") / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((160, 120)).save(path)
            if number <= 5:
                lines.append(f"{path.relative_to(home)},{kind}")
    (home / "products.csv").write_text("\n".join(lines))
    images = [{"id": number, "file_name": line.partition(",")[0]} for number, line in enumerate(lines[1:])]
    annotations = [
        {"image_id": image["id"], "category_id": n} for image in images for n in (1, 2)[: 1 + image["id"] % 2]
    ]
    categories = [{"id": 1, "name": "stalk"}, {"id": 2, "name": "leaf"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (home / "instances.json").write_text(json.dumps(coco))
    return home


def shell(line: str) -> str:
    """What a line for the shell prints on standard output; in this process, as nine of their own would take their time."""
    words = shlex.split(line.removeprefix("$ "))
    assert words[0] == "pixdex"
    done = CliRunner().invoke(cli.app, words[1:])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_page_runs(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.setenv("PIXDEX_STATE", str(shop / "state"))
    printed, of_labels = [], []
    for kind, code in BLOCKS:
        said = of_labels if "shelf.pix" in code else printed
        if kind == "python":
            said.append(run([sys.executable, "-W", "error", "-c", code], shop))
        else:
            said += map(shell, code.splitlines())
    assert re.match(r"pq://shop.pix  \w+, 24 records, 4 labels, 24 queries, \d+ searches/s\n", printed[1])
    assert re.search(r"^recall@1 +\d\.\d{3} \[.*\] +\d\.\d{3} \[", printed[2], re.MULTILINE)
    assert (shop / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert '"differences"' in printed[4]
    assert "easy   mAP 0.708  mP@10 0.833" in printed[7]
    assert "holds  vectors of 'main': made by this encoder" in printed[-1]
    coco = json.loads(of_labels[3])
    assert (coco["labelled"], coco["fields"], coco["declared"]) == (24, ["seen:text[]"], ["seen"])
    assert of_labels[4].startswith("pq://shelf.pix  mini, 24 records, 4 labels, 24 queries")
    assert of_labels[5] == "24 0 ()\n"


def test_every_metric_stands_on_the_page() -> None:
    for name in DEFINITIONS:
        assert f"`{name}`" in PAGE
