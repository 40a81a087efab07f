"""Pictures on file systems that fsspec knows, by the one in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import toys

from pixdex.errors import ConfigError, MissingDependency

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket() -> Iterator[Any]:
    """A bucket of three pictures and a note."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    for path, number in {"a.png": 1, "q/b.jpg": 2, "q/deep/c.png": 3}.items():
        system.pipe(f"/bucket/photos/{path}", toys.png(number))
    system.pipe("/bucket/photos/q/notes.txt", b"x")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_a_folder_is_walked(photos, bucket):
    report = photos.add("memory://bucket/photos")
    assert (report.added, report.ignored) == (3, 1)
    assert set(toys.revs(photos)) == {"photos/a.png", "photos/q/b.jpg", "photos/q/deep/c.png"}
    assert dict(photos.info().sources) == {"photos": "memory://bucket/photos"}
    assert toys.payloads(photos)["photos/a.png"]["path"] == "memory:///bucket/photos/a.png"
    assert photos.add("memory://bucket/photos/").unchanged == 3


def test_one_file_is_called_as_in_its_folder(photos, bucket):
    photos.add("memory://bucket/photos/q/b.jpg", source="photos")
    assert set(toys.revs(photos)) == {"photos/b.jpg"}
    assert photos.add(["memory://bucket/photos/a.png"], ids=["mine"], source="other").added == 1


def test_a_file_that_cannot_be_read_is_one_row(photos, bucket, monkeypatch):
    cat = type(bucket).cat_file

    def failing(self, path, **options):
        if path.endswith("b.jpg"):
            raise PermissionError("no key")
        if path.endswith("c.png"):
            raise FileNotFoundError(path)
        return cat(self, path, **options)

    monkeypatch.setattr(type(bucket), "cat_file", failing)
    report = photos.add("memory://bucket/photos")
    assert report.added == 1
    assert {row.path: row.reason for row in report.quarantined} == {
        "memory:///bucket/photos/q/b.jpg": "cannot be read: no key",
        "memory:///bucket/photos/q/deep/c.png": "cannot be read: no such file or directory",
    }


def test_a_folder_that_cannot_be_listed_is_one_row(photos, bucket, monkeypatch):
    listing = type(bucket).ls

    def failing(self, path, **options):
        if path.endswith("deep"):
            raise PermissionError("access denied")
        return listing(self, path, **options)

    monkeypatch.setattr(type(bucket), "ls", failing)
    report = photos.add("memory://bucket/photos")
    assert report.added == 2
    assert [row.reason for row in report.quarantined] == ["cannot be listed: access denied"]


def test_a_huge_file_is_not_read(photos, bucket, monkeypatch):
    info = type(bucket).ls

    def huge(self, path, **options):
        return [
            {**entry, "size": 1 << 40} if entry["name"].endswith("a.png") else entry
            for entry in info(self, path, **options)
        ]

    monkeypatch.setattr(type(bucket), "ls", huge)
    report = photos.add("memory://bucket/photos")
    assert report.added == 2
    assert "the limit is" in report.quarantined[0].reason


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://bucket/none", "does not exist"),
        ("nosuch://bucket/x", "nosuch"),
        ("simplecache::memory://bucket/photos", "does not exist"),
        ("memory://bucket/x::memory://bucket/photos", "one address within another is not followed"),
    ],
)
def test_what_cannot_be_there_is_refused_before_anything_is_made(photos, bucket, address, message):
    with pytest.raises(ConfigError, match=message):
        photos.add(address)
    assert not photos._connector.names(timeout=5)


def test_the_package_behind_a_scheme_is_named(photos):
    if pytest.importorskip("importlib.util").find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(ConfigError, match="s3fs"):
        photos.add("s3://bucket/photos")


def test_without_fsspec_the_extra_is_named(photos, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "fsspec"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r'fsspec is not installed: pip install "pixdex\[fsspec\]"'):
        photos.add("memory://bucket/photos")


def test_a_table_names_such_files_when_that_is_allowed(photos, bucket, tmp_path):
    (tmp_path / "t.txt").write_text("memory://bucket/photos/a.png\nmemory://bucket/photos/none.png\n")
    report = photos.add(tmp_path / "t.txt", allow_remote=True)
    assert [row.reason for row in report.quarantined] == [
        "memory:// may lead anywhere, and is read with allow_private only"
    ] * 2
    report = photos.add(tmp_path / "t.txt", allow_remote=True, allow_private=True)
    assert report.added == 1
    assert set(toys.revs(photos)) == {"memory://bucket/photos/a.png"}
    assert report.quarantined[0].reason == "cannot be read: no such file or directory"


def test_an_address_of_a_file_here_is_its_path(photos, tmp_path):
    toys.write(tmp_path / "my pics/a.png", 1)
    assert photos.add((tmp_path / "my pics").as_uri()).added == 1
    assert set(toys.revs(photos)) == {"my pics/a.png"}
