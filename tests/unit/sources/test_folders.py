"""Folders, single files and patterns."""

from __future__ import annotations

from pathlib import Path

import pytest
import toys

from pixdex.errors import ConfigError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = toys.folder(tmp_path / "pics", 2)
    toys.write(root / "a.jpeg.png", 10)
    toys.write(root / "2019/x.png", 11)
    toys.write(root / "2020/deep/y.png", 12)
    toys.write(root / "2020/.hidden.png", 13)
    (root / "2020/notes.md").write_text("x")
    return root


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["00.png", "01.png", "a.jpeg.png"]),
        ("0?.png", ["00.png", "01.png"]),
        ("0[!0].png", ["01.png"]),
        ("**/y.png", ["2020/deep/y.png"]),
        ("**/*.png", ["00.png", "01.png", "a.jpeg.png", "2019/x.png", "2020/.hidden.png", "2020/deep/y.png"]),
        ("*/x.png", ["2019/x.png"]),
        ("20*", ["2019/x.png", "2020/.hidden.png", "2020/deep/y.png"]),
        ("20[12]9/*.png", ["2019/x.png"]),
    ],
)
def test_a_pattern_takes_what_matches_and_calls_it_as_its_folder_does(photos, root, pattern, names):
    report = photos.add(str(root / pattern))
    assert report.added == len(names)
    assert sorted(toys.revs(photos)) == sorted(f"pics/{name}" for name in names)
    assert photos.add(root).unchanged == len(names)


def test_a_pattern_may_start_below_its_folder(photos, root):
    for pattern in ("2020/**/*.png", "2020/**"):
        photos.add(str(root / pattern))
        assert set(toys.revs(photos)) == {"2020/.hidden.png", "2020/deep/y.png"}


def test_a_relative_pattern_is_looked_up_from_here(photos, root, monkeypatch):
    monkeypatch.chdir(root)
    assert photos.add("*.png").added == 3
    assert "pics/00.png" in toys.revs(photos)
    assert dict(photos.info().sources) == {"pics": str(root)}


def test_a_file_comes_before_the_pattern_that_its_name_is(photos, tmp_path):
    toys.write(tmp_path / "a[1].png", 1)
    toys.write(tmp_path / "a1.png", 2)
    photos.add(tmp_path / "a[1].png")
    assert [name.partition("/")[2] for name in toys.revs(photos)] == ["a[1].png"]


@pytest.mark.parametrize(
    ("pattern", "message"), [("*.gif", "no pictures match"), ("nowhere/*.png", "there is no folder .*nowhere")]
)
def test_a_pattern_without_pictures_is_refused_before_anything_is_made(photos, root, pattern, message):
    with pytest.raises(ConfigError, match=message):
        photos.add(str(root / pattern))
    assert not photos._connector.names(timeout=5)


def test_patterns_go_with_other_things_and_not_with_ids(photos, root):
    assert photos.add([str(root / "0*.png"), root / "2019", toys.png(50)]).added == 4
    with pytest.raises(ConfigError, match="give one id per picture, and no folders"):
        photos.add(str(root / "0*.png"), ids=["a"])


def test_patterns_of_an_iterator_are_followed_too(photos, root):
    assert photos.add(iter([str(root / "0*.png"), str(root / "none*")])).added == 2
