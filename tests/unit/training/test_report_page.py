"""The page of a training: curves of any number and length, whatever names hold, and in a browser no wider than the window."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import tuning_toys

from pixdex.training.report import compared, page, sheets

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


def made(curves: Mapping[str, Mapping[str, Sequence[float]]], *, rounds: bool = False, name: str = "one") -> str:
    data = tuning_toys.coloured(classes=4, each=4)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((16, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    values = {metric: rng.random(16) for metric in ("map@r", "recall@1", "r_precision", "map")}
    shown = sheets(rows, rows[:, :4], data.labels, rng.standard_normal(16), 0)
    candidates = [(name, dict.fromkeys(values, 0.5), True)]
    classes = [f"{name} {label}" for label in data.labels]
    metrics = compared(values, values, list(values))
    return page(name, [name], metrics, curves, candidates, shown, data.items, classes, rounds=rounds)


def test_each_of_many_losses_has_its_line() -> None:
    text = made({"loss": {f"loss {number}": [3.0, 2.0, 1.0] for number in range(7)}})
    assert text.count("<polyline") == 7
    assert "loss 6" in text
    assert "epoch 2" in text


def test_a_single_round_is_a_dot() -> None:
    text = made({"map@r": {"trained": [0.7], "frozen": [0.6]}}, rounds=True)
    dots = [tuple(map(float, place)) for place in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)]
    assert len(dots) == 2
    assert dots[0][1] < dots[1][1]  # the better one is higher
    assert "round 1" in text
    assert "epoch" not in text


def test_names_are_only_text() -> None:
    text = made({"<script>": {"<script>": [1.0, 2.0]}}, name="<script>alert(1)</script>")
    assert "<script" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed")
def test_a_narrow_window_has_the_whole_page(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    file = tmp_path / "page.html"
    text = made({"loss": {"one": [1.0, 2.0]}, "map@r": {"two": [1.0, 2.0]}}, name="Arla-Ecological-Sour-Cream")
    script = "<script>document.title = `${document.documentElement.scrollWidth} of ${innerWidth}`</script>"
    file.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    line = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*line, "--window-size=500,900", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= 500
