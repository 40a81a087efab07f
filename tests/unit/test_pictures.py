"""What is taken for a picture: the walk through folders as the world has them, and what can be read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import toys

from pixdex.encoders.images import Decoding, Limits
from pixdex.errors import InvalidImage
from pixdex.pictures import Item, Readable, Refused, content_hash, from_files, is_picture, load_picture


def found(root: Path) -> list[str | None]:
    return [None if item is None else item.id for item in from_files(root, "s")]


class Member:
    """A picture that is no file here."""

    label = "archive.zip/a.png"

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    def read(self) -> bytes:
        self.reads += 1
        return self.data


# --- walking ----------------------------------------------------------------------------------------


def test_folders_nested_deeper_than_python_calls_are_walked(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):  # step by step: the whole path is longer than the system takes at once
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    toys.write(tmp_path / "a.png", 1)
    try:
        assert found(tmp_path)[0] == "s/a.png"
    finally:  # pytest could not remove it
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


def test_a_folder_that_is_called_like_a_picture_is_a_folder(tmp_path):
    toys.write(tmp_path / "x.jpg/a.png", 1)
    (tmp_path / "y.jpg").mkdir()
    assert found(tmp_path) == ["s/x.jpg/a.png"]


def test_links_in_a_circle_end(tmp_path):
    toys.write(tmp_path / "a/x.png", 1)
    (tmp_path / "a/up.jpg").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    assert found(tmp_path) == ["s/self.jpg", "s/a/x.png"]


def test_a_folder_that_vanishes_during_the_walk_is_one_row(photos, tmp_path, monkeypatch):
    toys.write(tmp_path / "in/a.png", 1)
    toys.write(tmp_path / "in/gone/b.png", 2)
    scandir = os.scandir

    def late(path):
        if Path(path).name == "gone":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)
    assert photos.add(tmp_path / "in").added == 1


def test_a_file_that_grows_without_end_is_refused(tmp_path):
    path = toys.write(tmp_path / "a.png", 1)
    with pytest.raises(InvalidImage, match="the limit is 100"):
        load_picture(path, Decoding(limits=Limits(max_bytes=100)))
    if Path("/proc/self/environ").exists():  # its size is said to be 0
        with pytest.raises(InvalidImage):
            load_picture(Path("/proc/self/environ"), Decoding(limits=Limits(max_bytes=5)))


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    real = toys.write(tmp_path / "real.png", 1)
    path = tmp_path / "swapped.png"
    os.mkfifo(path)
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: stat(real if self == path else self, **options))
    with pytest.raises(InvalidImage, match="not a regular file"):
        load_picture(path)


# --- what can be read -------------------------------------------------------------------------------


def test_a_readable_is_a_picture_like_its_bytes():
    member = Member(toys.png(1))
    assert isinstance(member, Readable)
    assert is_picture(member)
    assert content_hash(member) == content_hash(toys.png(1))
    pixels, fields = load_picture(member)
    assert (pixels == toys.pixels(1)).all()
    assert fields == {"width": 32, "height": 24}
    assert Item("x", member).label == "archive.zip/a.png"


def test_a_readable_can_be_added_and_is_read_once(photos):
    member = Member(toys.png(1))
    assert photos.add(member).added == 1
    assert member.reads == 1
    assert photos.search(toys.png(1), k=1)[0].id == content_hash(toys.png(1))


def test_what_is_refused_says_why(photos):
    report = photos.add([Refused("list.txt:7", "it is a riddle"), toys.png(1)])
    assert report.added == 1
    assert [(row.path, row.reason) for row in report.quarantined] == [("list.txt:7", "it is a riddle")]


def test_settings_reach_the_decoder(tmp_path):
    path = tmp_path / "a.jpg"
    whole = toys.encoded(toys.pixels(3, (480, 640)), "JPEG")
    path.write_bytes(whole)
    pixels, fields = load_picture(path, min_side=100)
    assert min(pixels.shape[:2]) < 480
    assert fields == {"width": 640, "height": 480}
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(InvalidImage):
        load_picture(path)
    assert load_picture(path, Decoding(truncated="accept"))[0].shape == (480, 640, 3)
