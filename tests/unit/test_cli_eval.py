"""``pixdex eval`` as its users type it: a table, JSON, a page; and errors in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import toys
from test_evaluating import picture, shelf
from typer.testing import CliRunner, Result

from pixdex import _plots as plots
from pixdex import cli
from pixdex.errors import ConfigError, FingerprintMismatch, PixdexError
from pixdex.evaluating import DEFAULT_METRICS

Run = Callable[..., Result]


@pytest.fixture
def run(toy_plugin: None) -> Run:
    """The command in this process; what ``main`` would explain is ``result.exception``."""
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shelf(tmp_path / "in")


@pytest.fixture
def url(run: Run, root: Path, tmp_path: Path) -> str:
    """The address of a collection of twenty pictures of four classes."""
    address = f"pq://{tmp_path / 'photos.pix'}"
    for label in range(4):
        assert not run("add", address, root / f"class{label}", "-e", "toy", "-f", f"kind=class{label}").exit_code
    return address


@pytest.fixture
def worse(run: Run, root: Path, tmp_path: Path) -> str:
    """The same by a worse encoder."""
    address = f"pq://{tmp_path / 'worse.pix'}"
    for label in range(4):
        assert not run("add", address, root / f"class{label}", "-e", "toy:6", "-f", f"kind=class{label}").exit_code
    return address


def cells(output: str, row: str) -> list[str]:
    """The numbers of a row of the table."""
    (line,) = (line for line in output.splitlines() if line.startswith(f"{row} "))
    return re.findall(r"[-+]?\d\.\d{3} \[[-+]?\d\.\d{3}, [-+]?\d\.\d{3}\]", line)


def test_the_table_says_how_well_a_collection_is_searched(run: Run, url: str) -> None:
    result = run("eval", url, "--label", "kind", "--exact")
    assert result.exit_code == 0, result.output
    head = result.stdout.splitlines()[0]
    assert head.startswith(f"{url}  toy:48, 20 records, 4 labels, 20 queries, ")
    assert cells(result.stdout, "recall@1") == ["1.000 [1.000, 1.000]"] * 2
    (own, exact) = cells(result.stdout, "map@r")
    assert own == exact
    assert f"{url}: its index finds 1.0000 of the exact first 100" in result.stdout
    assert result.stderr == ""


def test_the_same_as_json(run: Run, url: str) -> None:
    result = run("eval", url, "-l", "kind", "--json", "--metrics", "map@r, recall@2", "-k", 3, "--limit-queries", 10)
    facts = json.loads(result.stdout)
    assert {key: facts[key] for key in ("url", "store", "collection", "encoder", "label", "k", "records", "queries")} == {
        "url": url, "store": "pq", "collection": "main", "encoder": "toy:48", "label": "kind", "k": 3, "records": 20,
        "queries": 10,
    }  # fmt: skip
    assert list(facts["metrics"]) == ["map@r", "recall@2"]
    assert facts["metrics"]["recall@2"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert (facts["exact"], facts["ann_recall"]) == (None, None)
    assert len(facts["worst"]) == 10
    assert facts["worst"] == sorted(facts["worst"], key=lambda query: query["map@r"])
    assert facts["notices"] == [
        "lower bounds: map@r: 10 of 10 queries have more than k = 3 right answers; k = 4 would do"
    ]


def test_two_collections_side_by_side(run: Run, url: str, worse: str) -> None:
    result = run("eval", url, "-l", "kind", "--against", worse)
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"first: {url}  toy:48")
    assert lines[1].startswith(f"second: {worse}  toy:6")
    first, second, difference = cells(result.stdout, "map@r")
    assert float(difference.split()[0]) == pytest.approx(float(first.split()[0]) - float(second.split()[0]), abs=0.0011)
    assert re.match(r"\+0\.\d+ \[\+0", difference)
    facts = json.loads(run("eval", url, "-l", "kind", "--against", worse, "--json", "--exact").stdout)
    assert (facts["first"]["url"], facts["second"]["url"]) == (url, worse)
    assert facts["differences"]["map@r"]["low"] > 0
    assert facts["second"]["ann_recall"]["mean"] == 1


def test_pictures_as_queries_and_a_filter(run: Run, url: str, tmp_path: Path) -> None:
    asked = shelf(tmp_path / "asked", 2, start=50)
    (asked / "class1" / "broken.png").write_text("no")
    result = run("eval", url, "-l", "kind", "--queries", asked, "--where", 'kind == "class1"')
    assert "5 records, 1 labels, 2 queries" in result.stdout
    assert "note: 6 pictures have a kind that no record has and are no queries" in result.stderr
    assert "broken.png: not a picture" in result.stderr


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["-l", "knd"], ConfigError, "did you mean 'kind'?"),
        (["-l", "kind", "--metrics", "map@1,precison@3"], ConfigError, "did you mean 'precision@k'?"),
        (["-l", "kind", "--metrics", ","], ConfigError, "at least one"),
        (["-l", "kind", "--queries", "nowhere"], ConfigError, "nowhere does not exist"),
        (["-l", "kind", "-e", "toy:6"], FingerprintMismatch, "Open it with the encoder that wrote it"),
        (["-l", "kind", "--html", "no/such/folder.html"], ConfigError, "choose another file"),
        (["-l", "kind", "--against", "pq://nothing.pix"], PixdexError, "no collection"),
    ],
)
def test_errors_name_the_thing_and_the_remedy(
    run: Run, url: str, words: list[str], kind: type[Exception], message: str
) -> None:
    result = run("eval", url, *words)
    assert isinstance(result.exception, kind), result.output
    assert message in str(result.exception)


def test_the_default_metrics_are_those_of_the_library(run: Run, url: str) -> None:
    assert tuple(json.loads(run("eval", url, "-l", "kind", "--json").stdout)["metrics"]) == DEFAULT_METRICS


def test_wrong_usage(run: Run, url: str) -> None:
    for words in ([], ["-l", "kind", "-k", 0], ["-l", "kind", "--limit-queries", 0]):
        assert run("eval", url, *words).exit_code == 2


def test_ctrl_c_says_that_nothing_was_changed(url: str, tmp_path: Path) -> None:
    asked = shelf(tmp_path / "asked", 8, start=50)
    line = [sys.executable, toys.__file__, "eval", url, "-l", "kind", "--queries", str(asked)]
    slow = {**os.environ, "TOY_DELAY": "0.3"}
    with subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=slow) as running:
        time.sleep(2)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "stopped; nothing was changed"
    assert "Traceback" not in err


# --- the page ---------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Elements with their attributes, the text, and whether everything that was opened was closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_has_the_numbers_plots_and_worst_queries(run: Run, url: str, tmp_path: Path) -> None:
    result = run("eval", url, "-l", "kind", "--html", tmp_path / "one.html", "--json")
    facts = json.loads(result.stdout)
    assert result.stderr == f"page: {tmp_path / 'one.html'}\n"
    text_of = (tmp_path / "one.html").read_text(encoding="utf-8")
    page = Elements(text_of)
    assert page.open == []
    text = " ".join(page.words)
    for name, value in facts["metrics"].items():
        assert name in text
        assert f"{value['mean']:.3f}" in text
    assert len(page.all("svg")) == 2
    assert len(page.all("polyline")) == 1
    assert [bar for bar in page.all("rect") if bar.get("rx") == "2"]
    marks = [attributes.get("class") for attributes in page.all("li")]
    assert marks.count("query") == 12
    cards = re.findall(r'<li class="(right|wrong)">.*?</b> (right|wrong)<br>(class\d)', text_of, re.DOTALL)
    assert len(cards) == 12 * 8
    assert all(frame == word for frame, word, _ in cards)
    own = [query["label"] for query in facts["worst"] for _ in range(8)]
    assert [word == "right" for _, word, _ in cards[:80]] == [
        of == label for (_, _, of), label in zip(cards, own, strict=False)
    ]
    assert len(page.all("img")) == 12 * 9
    assert facts["worst"][0]["id"] in text
    for tag, attributes in page.found:
        assert tag not in {"script", "link"}
        assert (attributes.get("src") or "data:").startswith("data:")


def test_the_page_of_two_shows_where_the_first_loses(run: Run, url: str, worse: str, tmp_path: Path) -> None:
    assert run("eval", worse, "-l", "kind", "--against", url, "--exact", "--html", tmp_path / "two.html").exit_code == 0
    page = Elements((tmp_path / "two.html").read_text(encoding="utf-8"))
    text = " ".join(page.words)
    assert len(page.all("polyline")) == 2
    assert "difference" in text
    assert "exact search" in text
    assert "Where the first loses most to the second" in text
    assert text.count("the store finds 1.0000") == 2


def test_hostile_labels_do_not_leave_their_place(run: Run, tmp_path: Path) -> None:
    label = '<script>alert("x")</script>'
    address = f"pq://{tmp_path / 'bad.pix'}"
    for number in range(3):
        picture(tmp_path / "bad" / f"{number}.png", 1, number)
    assert run("add", address, tmp_path / "bad", "-e", "toy", "-f", f"kind={label}").exit_code == 0
    result = run("eval", address, "-l", "kind", "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    page = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not page.all("script")
    assert label in "".join(page.words)


def coordinates(svg: str) -> list[tuple[float, float]]:
    (points,) = re.findall(r'points="([^"]*)"', svg)
    return [tuple(map(float, pair.split(","))) for pair in points.split()]


def test_curves_rise_to_the_right() -> None:
    drawn = coordinates(plots.curves([plots.Line("a", [0.2, 0.5, 0.5, 1.0])], title="t"))
    assert [x for x, _ in drawn] == sorted({x for x, _ in drawn})
    assert [y for _, y in drawn] == sorted((y for _, y in drawn), reverse=True)
    assert drawn[1][1] == drawn[2][1]
    for values in ([0.5], [1.0] * 100, []):
        assert "nan" not in plots.curves([plots.Line("a", values)], title="t")


def test_bars_are_as_long_as_their_values() -> None:
    drawn = plots.bars([plots.Bar("a", [0.25]), plots.Bar("b", [0.75])], names=["x"], title="t")
    short, long = map(float, re.findall(r'<rect [^>]*width="([\d.]+)"', drawn))
    assert long == pytest.approx(3 * short, rel=1e-3)


def test_a_distribution_counts_every_value() -> None:
    values = np.concatenate([np.zeros(3), np.ones(6), np.full(2, 0.52)]).tolist()
    drawn = plots.distribution([plots.Line("a", values)], title="t", bins=4)
    heights = list(map(float, re.findall(r'<rect [^>]*height="([\d.]+)"', drawn)))
    assert [height / max(heights) for height in heights] == pytest.approx([3 / 6, 0, 2 / 6, 1], abs=1e-3)
