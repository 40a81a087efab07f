"""``pixdex label`` as its users type it, and what then goes by the labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import toys
from typer.testing import CliRunner, Result

from pixdex import cli
from pixdex.errors import ConfigError

Run = Callable[..., Result]


@pytest.fixture
def run(toy_plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "state"))
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture
def url(run: Run, tmp_path: Path) -> str:
    address = f"pq://{tmp_path / 'photos.pix'}"
    assert run("add", address, toys.folder(tmp_path / "in", 4), "-e", "toy").exit_code == 0
    return address


def test_labels_are_put_on_and_gone_by(run: Run, url: str, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(
        "path,kind\nin/00.png,cat\nin/01.png,cat\nin/02.png,dog\nin/09.png,dog\nin/02.png,cow\nin/03.png,\n"
    )
    dry = run("label", url, table, "--label", "kind", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "would be: 2 labelled, 0 changed, 0 unchanged" in dry.stderr
    assert not json.loads(run("info", url, "--json").stdout)["fields"].get("kind")
    done = run("label", url, table, "--label", "kind")
    lines = done.stderr.splitlines()
    assert f"not in the collection line 5: {tmp_path}/in/09.png" in lines
    assert "contradictory in/02.png: 'dog' (line 4), 'cow' (line 6)" in lines
    assert lines[-1] == (
        "2 labelled, 0 changed, 0 unchanged, 1 without a label, 1 not in the collection, 1 contradictory, left as they were; "
        "2 of 4 records have kind:text"
    )
    facts = json.loads(run("label", url, table, "-l", "kind", "--json").stdout)
    assert (facts["unchanged"], facts["unlabelled"]) == (2, {"count": 1, "examples": ["line 7: in/03.png"]})
    assert "0.0" not in run("eval", url, "--label", "kind", "--metrics", "recall@1").stdout.splitlines()[0]
    assert "in/00.png" in run("search", url, tmp_path / "in" / "00.png", "--where", 'kind == "cat"').stdout


def test_nothing_that_fits_is_an_error_of_the_shell(run: Run, url: str, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,label\n00.png,cat\n")
    done = run("label", url, table)
    assert done.exit_code == 1
    assert "note: the collection has none of these pictures, it has such as" in done.stderr
    assert run("label", url, table, "--by", "name").exit_code == 0


def test_options_of_coco(run: Run, url: str, tmp_path: Path) -> None:
    coco = tmp_path / "instances.json"
    boxes = [{"image_id": 5, "category_id": c, "bbox": [0, 0, c, c]} for c in (1, 2)]
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    coco.write_text(
        json.dumps({"images": [{"id": 5, "file_name": "00.png"}], "annotations": boxes, "categories": names})
    )
    refused = run("label", url, coco, "--root", tmp_path / "in")
    assert isinstance(refused.exception, ConfigError)
    assert "several categories" in str(refused.exception)
    assert run("label", url, coco, "--root", tmp_path / "in", "--kind", "text[]", "--field", "seen").exit_code == 0
    assert run("label", url, coco, "--root", tmp_path / "in", "--largest", "--no-declare").exit_code == 0
    found = run("search", url, "in/00.png", "-k", 1, "--where", 'seen contains "cat"', "--json").stdout
    assert json.loads(found)[0]["payload"]["label"] == "dog"
