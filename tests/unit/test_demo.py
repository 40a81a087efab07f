"""``pixdex demo``: real photographs find their edited copies."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from pixdex import cli, demo
from pixdex.errors import MissingDependency

pytest.importorskip("skimage", reason="the photographs ship inside scikit-image")


@pytest.fixture
def few(monkeypatch):
    """Four photographs instead of all."""
    monkeypatch.setattr(
        demo, "PHOTOGRAPHS", tuple(p for p in demo.PHOTOGRAPHS if p[2][:5] in ("astro", "brick", "coffe", "rocke"))
    )


def test_edited_copies_find_their_photograph(few, tmp_path, toy_plugin):
    outcomes = demo.run(tmp_path, encoder="toy")
    assert len(outcomes) == 4 * len(demo.EDITS)
    assert {o.edit for o in outcomes} == set(demo.EDITS)
    assert all(o.query.is_file() and len(o.hits) == 5 for o in outcomes)
    assert all(o.query.name not in {hit.payload["path"].rpartition("/")[2] for hit in o.hits} for o in outcomes), (
        "itself"
    )
    assert sum(o.right for o in outcomes) >= 0.8 * len(outcomes)


def test_running_again_adds_nothing(few, tmp_path, toy_plugin):
    first, again = (demo.run(tmp_path, encoder="toy") for _ in range(2))
    assert [o.hits for o in again] == [o.hits for o in first]


def test_the_command_says_how_well_and_writes_the_page(few, tmp_path, toy_plugin):
    result = CliRunner().invoke(cli.app, ["demo", "--folder", str(tmp_path), "--encoder", "toy"])
    assert result.exit_code == 0, result.output
    assert "top hit right: " in result.stdout
    for edit in demo.EDITS:
        assert edit in result.stdout
    page = (tmp_path / "hits.html").read_text("utf-8")
    assert page.count("data:image/jpeg") == 4 * len(demo.EDITS) * 6
    assert "http" not in re.sub("base64,[A-Za-z0-9+/=]*", "", page)


def test_without_the_photographs_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "find_spec", lambda package: None)
    with pytest.raises(MissingDependency, match=r'scikit-image is not installed: pip install "pixdex\[demo\]"'):
        demo.run(tmp_path)
