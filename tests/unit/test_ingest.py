"""Pictures to records: what is found, what is recognised, what is set aside, what is written."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import hostile
import numpy as np
import pytest
import toys
from PIL import Image

import pixdex
from pixdex import F, _encoding
from pixdex._hashing import CHUNK
from pixdex.connectors.memory import MemoryConnector
from pixdex.encoders.decoding import Decoding
from pixdex.errors import ConfigError, InvalidImage, InvalidRecord, PartialWrite, StoreUnavailable
from pixdex.fields import AUTOMATIC, check_user_fields, infer
from pixdex.index import ImageIndex
from pixdex.ingest import ingest
from pixdex.pictures import Item, content_hash, from_files, load_picture
from pixdex.policy import Policy
from pixdex.report import Report
from pixdex.spec import Kind

PATIENT = Policy(base=0.0)
"""Repeats, without waiting."""


def found(root: Path, source: str = "s") -> list[str | None]:
    return [None if item is None else item.id for item in from_files(root, source)]


def reasons(report: Report) -> dict[str, str]:
    return {Path(row.path).name: row.reason for row in report.quarantined}


@pytest.fixture
def pipe() -> Iterator[Callable[[Path], None]]:
    """Makes named pipes; whoever reads one is let go after a few seconds, so that the test fails and ends."""
    timers: list[threading.Timer] = []

    def let_go(path: Path) -> None:
        with suppress(OSError):  # nobody reads it
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    def make(path: Path) -> None:
        os.mkfifo(path)
        timers.extend(threading.Timer(seconds, let_go, [path]) for seconds in (3, 6, 9))
        for timer in timers[-3:]:
            timer.start()

    yield make
    for timer in timers:
        timer.cancel()


# --- finding ----------------------------------------------------------------------------------------


def test_a_folder_is_walked_in_the_order_of_its_paths(tmp_path):
    names = ["a.png", "b.png", *(f"{n}/x.png" for n in range(9)), "sub/z.png", "sub/deep/c.png"]
    for name in reversed(names):
        toys.write(tmp_path / name, 0)
    assert found(tmp_path) == [f"s/{name}" for name in names]


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPG", "a.jpeg", "a.jfif", "a.webp", "a.gif", "a.bmp", "a.tif", "a.tiff", "a.avif"]
)
def test_pictures_are_known_by_their_names(tmp_path, name):
    (tmp_path / name).write_bytes(b"whatever it holds")
    assert found(tmp_path) == [f"s/{name}"]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_pictures_without_a_name_are_known_by_their_first_bytes(tmp_path, form):
    (tmp_path / "download").write_bytes(toys.encoded(toys.pixels(1), form))
    assert found(tmp_path) == ["s/download"]


def test_other_files_are_counted_and_passed_over(tmp_path, pipe):
    (tmp_path / "notes.txt").write_text("holiday")
    (tmp_path / "empty").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    pipe(tmp_path / "pipe")
    assert found(tmp_path) == [None] * 4


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path):
    toys.write(tmp_path / "real/a.png", 1)
    (tmp_path / "link.png").symlink_to("real/a.png")
    (tmp_path / "real/loop").symlink_to(tmp_path)
    assert found(tmp_path) == ["s/link.png", "s/real/a.png"]


def test_a_folder_may_be_reached_by_a_link(tmp_path):
    toys.write(tmp_path / "real/a.png", 1)
    (tmp_path / "link").symlink_to("real")
    assert found(tmp_path / "link") == ["s/a.png"]


def test_one_file_is_called_as_in_its_folder(tmp_path):
    path = toys.write(tmp_path / "a.png", 1)
    assert found(path) == found(tmp_path) == ["s/a.png"]


def test_a_name_that_is_not_utf_8_gives_an_id_by_its_bytes(tmp_path):
    name = b"caf\xe9.png"
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(toys.png(1))
    except OSError:
        pytest.skip("this file system takes no such name")
    assert found(tmp_path) == [hashlib.blake2b(b"s/" + name, digest_size=16).hexdigest()]


def test_a_path_longer_than_an_id_gives_an_id_by_its_bytes(tmp_path):
    relative = "/".join(["d" * 200] * 3) + "/a.png"
    toys.write(tmp_path / relative, 1)
    assert found(tmp_path) == [hashlib.blake2b(f"s/{relative}".encode(), digest_size=16).hexdigest()]
    assert found(tmp_path, "s" * 600) != found(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, photos):
    toys.write(tmp_path / "in/a.png", 1)
    toys.write(tmp_path / "in/closed/b.png", 2)
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    report = photos.add(tmp_path / "in")
    assert report.added == 1
    assert reasons(report) == {"closed": "a folder, which cannot be read as a picture or walked"}


# --- one picture ------------------------------------------------------------------------------------


def test_the_content_hash_is_blake2b_of_the_file(tmp_path):
    data = toys.png(1)
    path = toys.write(tmp_path / "a.png", 1)
    expected = hashlib.blake2b(data, digest_size=16).hexdigest()
    assert [content_hash(p) for p in (path, data, bytearray(data), memoryview(data))] == [expected] * 4


def test_a_file_on_another_background_is_another_picture():
    """On black too, which is zeros."""
    backgrounds = [(255, 255, 255), (0, 0, 0), (0, 0, 1), (1, 0, 0)]
    assert len({content_hash(toys.png(1), Decoding(background=colour)) for colour in backgrounds}) == len(backgrounds)
    assert content_hash(toys.png(1)) != content_hash(toys.png(1), Decoding(frame=1))


def test_arrays_and_pil_images_hash_by_their_pixels():
    array = toys.pixels(1)
    assert content_hash(array) == content_hash(Image.fromarray(array)) == content_hash(array.copy(order="F"))
    assert content_hash(array) != content_hash(array.reshape(32, 24, 3)), "the shape counts"
    assert content_hash(array) != content_hash(toys.pixels(2))


@pytest.mark.parametrize("as_picture", [bytes, bytearray, memoryview])
def test_a_picture_brings_its_size(as_picture):
    pixels, fields = load_picture(as_picture(toys.png(1)))
    assert (pixels == toys.pixels(1)).all()
    assert fields == {"width": 32, "height": 24}


@pytest.mark.parametrize("wrong", [7, None, 2.5, object(), [1, 2]])
def test_what_is_no_picture_by_its_type_is_told_so(wrong):
    message = f"a picture is a path, bytes, a uint8 array or a PIL image, not {type(wrong).__name__}"
    for look in (content_hash, load_picture):
        with pytest.raises(InvalidImage, match=message):
            look(wrong)


def test_a_path_with_a_null_byte_is_a_reason_too():
    with pytest.raises(InvalidImage, match="not a path"):
        content_hash(Path("a\0b"))


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    for look in (content_hash, load_picture):
        with pytest.raises(InvalidImage, match="1099511627776 bytes, the limit is"):
            look(path)


def test_reports_call_a_picture_by_its_path_else_its_id():
    assert Item("x", Path("a/b.png")).label == "a/b.png"
    assert Item("x", b"..").label == "x"
    assert Item(None, b"..").label == "<bytes>"


# --- what fields suggest ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "many"),
    [
        ("summer", Kind.TEXT, False),
        (3, Kind.INT, False),
        (True, Kind.BOOL, False),
        (2.5, Kind.FLOAT, False),
        (np.int64(3), Kind.INT, False),
        (np.float32(3), Kind.FLOAT, False),
        (datetime(2020, 5, 1, tzinfo=UTC), Kind.TIME, False),
        ((47.0, 8.5), Kind.GEO, False),
        ({"lat": 47.0, "lon": 8.5}, Kind.GEO, False),
        (["a", "b"], Kind.TEXT, True),
        (("a", "b"), Kind.TEXT, True),
        ((1, 2, 3), Kind.INT, True),
        ({5}, Kind.INT, True),
        ([(47.0, 8.5)], Kind.GEO, True),
        ([47.0, 8.5], Kind.FLOAT, True),
    ],
)
def test_a_value_suggests_a_field(value, kind, many):
    field = infer("name", value)
    assert (field.kind, field.many) == (kind, many)


@pytest.mark.parametrize("value", [None, [], {"a": 1}, b"x"])
def test_some_values_suggest_none(value):
    assert infer("name", value) is None


@pytest.mark.parametrize("name", [f.name for f in AUTOMATIC])
def test_what_pixdex_fills_itself_cannot_be_given(name, photos, tmp_path):
    toys.write(tmp_path / "in/a.png", 1)
    message = f"field {name!r} is filled by pixdex: use another name"
    with pytest.raises(ConfigError, match=message):
        check_user_fields({name: 1})
    with pytest.raises(ConfigError, match=message):
        photos.add(tmp_path / "in", fields={name: "x"})
    assert photos.count() == 0


# --- adding again -----------------------------------------------------------------------------------


def test_the_same_folder_again_encodes_and_writes_nothing(photos, toy, tmp_path):
    toys.folder(tmp_path / "in", 20)
    first = photos.add(tmp_path / "in", fields={"album": "summer", "year": 2020})
    assert (first.added, first.seen) == (20, 20)
    before, total = toys.revs(photos), toy.total
    again = photos.add(tmp_path / "in", fields={"album": "summer", "year": 2020})
    assert (again.added, again.reused, again.unchanged) == (0, 0, 20)
    assert toy.total == total == 20
    assert toys.revs(photos) == before


@pytest.mark.parametrize(
    "fields",
    [
        {"when": datetime(2020, 5, 1, 12, tzinfo=UTC)},
        {"where": (47.0, 8.5)},
        {"tags": ("sea", "sand")},
        {"tags": ["sea"], "note": None, "exif": {"iso": (100, 200)}},
        {"score": np.float64(0.5)},
    ],
)
def test_every_kind_of_field_is_recognised_as_unchanged(photos, tmp_path, fields):
    toys.folder(tmp_path / "in", 3)
    photos.add(tmp_path / "in", fields=fields)
    before = toys.revs(photos)
    assert photos.add(tmp_path / "in", fields=fields).unchanged == 3
    assert toys.revs(photos) == before


def test_undeclared_fields_are_recognised_as_unchanged_too(photos, tmp_path):
    toys.folder(tmp_path / "in", 3)
    photos.add(tmp_path / "in")
    photos.add(tmp_path / "in", fields={"tags": ("sea", "sand"), "n": np.int64(3)})
    before = toys.revs(photos)
    report = photos.add(tmp_path / "in", fields={"tags": ("sea", "sand"), "n": np.int64(3)})
    assert report.unchanged == 3
    assert toys.revs(photos) == before


def test_a_changed_file_is_encoded_again_and_keeps_its_fields(photos, toy, tmp_path):
    toys.folder(tmp_path / "in", 5)
    photos.add(tmp_path / "in", fields={"album": "summer"})
    before = toys.revs(photos)
    toys.write(tmp_path / "in/03.png", 99)
    report = photos.add(tmp_path / "in")
    assert (report.added, report.unchanged) == (1, 4)
    assert toy.total == 6
    changed = {record for record, rev in toys.revs(photos).items() if rev != before[record]}
    assert changed == {"in/03.png"}
    assert toys.payloads(photos)["in/03.png"]["album"] == "summer"
    assert photos.search(toys.png(99), k=1)[0].id == "in/03.png"
    assert photos.search(toys.png(3), k=1)[0].score < 0.999


def test_a_moved_file_is_recognised_without_being_encoded(photos, toy, tmp_path):
    toys.folder(tmp_path / "in", 5)
    photos.add(tmp_path / "in")
    (tmp_path / "in/sorted").mkdir()
    (tmp_path / "in/02.png").rename(tmp_path / "in/sorted/beach.png")
    report = photos.add(tmp_path / "in")
    assert (report.added, report.reused, report.unchanged) == (0, 1, 4)
    assert toy.total == 5
    moved = toys.payloads(photos)["in/sorted/beach.png"]
    assert moved["path"] == str(tmp_path / "in/sorted/beach.png")
    assert (moved["width"], moved["height"]) == (32, 24)
    hits = photos.search(tmp_path / "in/sorted/beach.png", k=2)
    assert {hit.id for hit in hits} == {"in/02.png", "in/sorted/beach.png"}
    assert hits[0].score == pytest.approx(hits[1].score) == pytest.approx(1)


def test_a_folder_that_moved_as_a_whole_gets_its_new_paths(photos, toy, tmp_path):
    toys.folder(tmp_path / "in", 3)
    photos.add(tmp_path / "in", source="album")
    (tmp_path / "in").rename(tmp_path / "other")
    report = photos.add(tmp_path / "other", source="album2")
    assert (report.reused, toy.total) == (3, 3)


def test_new_fields_are_written_without_encoding(photos, toy, tmp_path):
    toys.folder(tmp_path / "in", 5)
    photos.add(tmp_path / "in", fields={"album": "summer", "rating": 3})
    report = photos.add(tmp_path / "in", fields={"rating": 5})
    assert (report.added, report.reused, report.unchanged) == (0, 5, 0)
    assert toy.total == 5
    assert all((p["album"], p["rating"]) == ("summer", 5) for p in toys.payloads(photos).values())
    assert photos.count(F.rating == 5) == 5


def test_a_field_of_a_moved_file_does_not_follow_it(photos, tmp_path):
    toys.write(tmp_path / "in/a.png", 1)
    photos.add(tmp_path / "in", fields={"owner": "ada"})
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    photos.add(tmp_path / "copy")
    assert "owner" not in toys.payloads(photos)["copy/a.png"]


def test_one_content_under_two_ids_is_encoded_once_and_found_twice(photos, toy, tmp_path):
    for name in ("a", "b", "c"):
        toys.write(tmp_path / f"in/{name}.png", 7)
    report = photos.add(tmp_path / "in")
    assert (report.added, report.reused) == (1, 2)
    assert toy.total == 1
    assert {hit.id for hit in photos.search(toys.png(7))} == {"in/a.png", "in/b.png", "in/c.png"}
    assert photos.add(tmp_path / "in").unchanged == 3


def test_a_broken_picture_that_stands_twice_is_reported_twice(photos, tmp_path):
    for name in ("a", "b"):
        toys.write(tmp_path / f"in/{name}.png", 0).write_bytes(b"no picture")
    report = photos.add(tmp_path / "in")
    assert reasons(report) == {"a.png": "not a picture", "b.png": "not a picture"}


def test_the_same_picture_twice_in_one_call_is_one_record(photos, toy):
    report = photos.add([toys.png(1), toys.png(2), toys.png(1), toys.png(1)])
    assert (report.added, report.unchanged, report.seen) == (2, 2, 4)
    assert photos.count() == 2
    assert toy.total == 2


def test_records_that_are_rewritten_keep_vectors_and_tokens_of_their_own(made, toy, tmp_path):
    toys.folder(tmp_path / "in", 3)
    photos = made(tokens=True)
    photos.add(tmp_path / "in")
    caption = pixdex.Vector(name="text", dim=2, metric="dot", fingerprint=toy.fingerprint)
    photos.collection.alter(vectors=[caption])
    batch = photos.get("in/01.png", want=pixdex.Want(vectors=("image",), tokens=True))
    photos.collection.upsert(
        pixdex.Batch(batch.ids, {**batch.vectors, "text": np.array([[1.0, 2.0]])}, batch.payloads, batch.tokens)
    )
    report = photos.add(tmp_path / "in", fields={"rating": 5}, tokens=False)
    assert report.reused == 3
    after = photos.get(["in/00.png", "in/01.png"], want=pixdex.Want(vectors=("image", "text"), tokens=True))
    assert after.present("text").tolist() == [False, True]
    assert after.vectors["text"][1].tolist() == [1, 2]
    assert (after.tokens[1] == batch.tokens[0]).all()
    (tmp_path / "in/01.png").rename(tmp_path / "in/moved.png")
    assert photos.add(tmp_path / "in").reused == 1
    moved = photos.get("in/moved.png", want=pixdex.Want(vectors=("image", "text"), tokens=True))
    assert moved.present("text").tolist() == [False], "a caption is of the record, not of the picture"
    assert (moved.tokens[0] == batch.tokens[0]).all()


# --- what cannot be used ----------------------------------------------------------------------------


def test_what_cannot_be_used_is_set_aside_with_a_reason_and_the_rest_is_added(photos, tmp_path, pipe):
    root = toys.folder(tmp_path / "in", 3)
    (root / "text.jpg").write_text("not a picture at all")
    (root / "empty.png").touch()
    (root / "cut.png").write_bytes(toys.png(5)[:-20])
    (root / "cut.jpg").write_bytes(toys.encoded(toys.pixels(5, (96, 96)), "JPEG")[:-200])
    (root / "bomb.png").write_bytes(toys.bomb())
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    pipe(root / "pipe.jpg")
    (root / "notes.txt").write_text("a note")
    report = photos.add(root)
    assert reasons(report) == {
        "text.jpg": "not a picture",
        "empty.png": "empty file",
        "cut.png": "truncated PNG",
        "cut.jpg": "truncated JPEG",
        "bomb.png": "10000 megapixels, the limit is 200",
        "gone.jpg": "cannot be read: no such file or directory",
        "loop.jpg": "cannot be read: too many levels of symbolic links",
        "pipe.jpg": "not a regular file",
    }
    assert (report.added, report.ignored, report.seen) == (3, 1, 11)
    assert all(Path(row.path).parent == root for row in report.quarantined)
    assert photos.count() == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_set_aside(photos, tmp_path):
    root = toys.folder(tmp_path / "in", 2)
    (root / "01.png").chmod(0)
    assert reasons(photos.add(root)) == {"01.png": "cannot be read: permission denied"}


def test_a_file_that_vanishes_meanwhile_is_set_aside(photos, tmp_path):
    root = toys.folder(tmp_path / "in", 2)

    def pictures():
        yield root / "00.png"
        yield root / "02.png"

    assert reasons(photos.add(pictures())) == {"02.png": "cannot be read: no such file or directory"}
    assert photos.count() == 1


def test_one_pipe_does_not_hang(photos, tmp_path, pipe):
    pipe(tmp_path / "pipe.jpg")
    assert reasons(photos.add(tmp_path / "pipe.jpg")) == {"pipe.jpg": "not a regular file"}
    pipe(tmp_path / "pipe")
    assert reasons(photos.add(tmp_path / "pipe")) == {"pipe": "not a regular file"}


def test_a_device_without_end_is_not_read(photos):
    assert reasons(photos.add("/dev/zero")) == {"zero": "not a regular file"}


def test_arrays_that_are_no_pictures_are_set_aside(photos):
    report = photos.add([toys.pixels(1), np.zeros((4, 4), np.float64), np.zeros((0, 4, 3), np.uint8)])
    assert report.added == 1
    assert [row.path for row in report.quarantined] == ["<ndarray>", "<ndarray>"]
    assert "pixels are uint8" in report.quarantined[0].reason


def test_a_record_is_not_lost_when_its_file_breaks(photos, tmp_path):
    root = toys.folder(tmp_path / "in", 2)
    photos.add(root)
    (root / "00.png").write_bytes(b"")
    assert len(photos.add(root).quarantined) == 1
    assert photos.count() == 2


# --- automatic fields -------------------------------------------------------------------------------


def test_exif_brings_moment_and_place(photos, tmp_path):
    (tmp_path / "a.jpg").write_bytes(toys.with_exif(toys.pixels(1)))
    photos.add([tmp_path / "a.jpg", toys.png(2)])
    payload = photos.search(tmp_path / "a.jpg", k=1)[0].payload
    assert payload["taken"] == datetime(2020, 5, 17, 16, 30, 5, tzinfo=UTC)
    assert payload["place"] == {"lat": pytest.approx(47.375), "lon": pytest.approx(8.54)}
    assert photos.count(F.place.within(47.37, 8.55, km=5)) == 1
    assert photos.count(F.taken >= datetime(2020, 1, 1, tzinfo=UTC)) == 1
    assert photos.count(~F.taken.exists()) == 1


def test_exif_of_real_photographs(photos, shared):
    root = shared / "data/geo_exif/images"
    if not root.is_dir():
        pytest.skip("no shared/data/geo_exif")
    assert photos.add(root).added == 10
    assert photos.count(F.place.within(43.4674, 11.8851, km=2)) == 9, "Arezzo"
    assert photos.count(F.place.within(39.115, -108.401, km=1)) == 1
    day = photos.count(F.taken.between(datetime(2008, 10, 22, tzinfo=UTC), datetime(2008, 10, 23, tzinfo=UTC)))
    assert day == 9


def test_paths_and_sizes_are_fields(photos, tmp_path, monkeypatch):
    toys.write(tmp_path / "in/a.png", 1)
    monkeypatch.chdir(tmp_path)
    photos.add("in")
    assert photos.count(F.path == str(tmp_path / "in/a.png")) == 1
    assert photos.count((F.width == 32) & (F.height == 24)) == 1
    assert photos.count(F.content == content_hash(toys.png(1))) == 1


def test_a_path_that_is_not_utf_8_is_shown_with_escapes(photos, tmp_path):
    root = os.fsencode(toys.folder(tmp_path / "in", 1))
    try:
        Path(os.fsdecode(root + b"/caf\xe9.png")).write_bytes(toys.png(5))
        Path(os.fsdecode(root + b"/b\xe9.png")).write_bytes(b"no")
    except OSError:
        pytest.skip("this file system takes no such name")
    report = photos.add(tmp_path / "in")
    assert [row.path for row in report.quarantined] == [f"{tmp_path}/in/b\\xe9.png"]
    assert photos.count(F.path == f"{tmp_path}/in/caf\\xe9.png") == 1
    assert photos.add(tmp_path / "in").unchanged == 2


# --- stores that fail, users that stop --------------------------------------------------------------


def failing(writes: int, toy: toys.ToyEncoder) -> ImageIndex:
    store = toys.Failing(writes)
    return ImageIndex(store, "main", collection=None, encoder=toy, policy=PATIENT)


def test_what_was_written_before_the_store_failed_stays(toy, tmp_path):
    root = toys.folder(tmp_path / "in", 300)
    photos = failing(1, toy)
    with pytest.raises(StoreUnavailable, match="connection refused"):
        photos.add(root)
    assert photos.count() == CHUNK
    photos._connector.writes_left = 99
    total = toy.total
    report = photos.add(root)
    assert (report.added, report.unchanged) == (300 - CHUNK, CHUNK)
    assert toy.total - total == 300 - CHUNK
    assert photos.count() == 300


def test_a_batch_that_stopped_half_way_says_what_is_there(toy, tmp_path):
    from dataclasses import replace

    root = toys.folder(tmp_path / "in", 40)
    photos = failing(2, toy)
    photos._connector.capabilities = replace(photos._connector.capabilities, max_batch=10)
    with pytest.raises(PartialWrite, match="20 of 40 records were written, then: connection refused") as caught:
        photos.add(root)
    assert len(caught.value.done) == photos.count() == 20
    photos._connector.writes_left = 99
    assert photos.add(root).added == 20


def test_ctrl_c_leaves_a_valid_store_and_adding_again_goes_on(photos, toy, tmp_path):
    root = toys.folder(tmp_path / "in", 300)

    def stop(report: Report) -> None:
        assert report.added == CHUNK
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        photos.add(root, progress=stop)
    assert photos.count() == CHUNK
    total = toy.total
    report = photos.add(root)
    assert (report.added, report.unchanged) == (300 - CHUNK, CHUNK)
    assert toy.total - total == 300 - CHUNK, "what was written is not encoded again"


def test_a_generator_is_read_as_the_work_goes(photos):
    made: list[int] = []
    behind: list[int] = []

    def pictures():
        for number in range(1000):
            made.append(number)
            yield toys.pixels(number, (8, 8))

    photos.add(pictures(), progress=lambda report: behind.append(len(made) - report.seen))
    assert photos.count() == len(made) == 1000
    assert len(behind) >= 7
    assert max(behind) <= 2 * CHUNK, "two chunks at most are held"


def test_a_generator_that_breaks_does_not_lose_what_was_written(photos):
    def pictures():
        for number in range(300):
            yield toys.pixels(number, (8, 8))
        raise RuntimeError("the camera fell into the sea")

    with pytest.raises(RuntimeError, match="the sea"):
        photos.add(pictures())
    assert photos.count() >= CHUNK


def test_progress_grows_and_ends_with_the_report(photos, tmp_path):
    root = toys.folder(tmp_path / "in", 300)
    seen: list[Report] = []
    report = photos.add(root, progress=seen.append)
    assert [r.seen for r in seen] == sorted(r.seen for r in seen)
    assert seen[-1] == report
    assert len(seen) > 2
    assert report.seconds > 0


# --- fields that do not fit -------------------------------------------------------------------------


def test_a_field_that_cannot_be_kept_is_refused_before_anything_is_made(made, toy, tmp_path):
    root = toys.folder(tmp_path / "in", 2)
    photos = made(fields={"year": "int"})
    with pytest.raises(InvalidRecord, match=r"^field 'year' is declared int, got str 'MMXX'"):
        photos.add(root, fields={"year": "MMXX"})
    assert toy.total == 0
    assert list(photos._connector.names(timeout=5)) == []
    photos.add(root, fields={"year": 2020})
    with pytest.raises(InvalidRecord, match=r"^field 'year' is declared int"):
        photos.add(root, fields={"year": 2020.5})
    with pytest.raises(InvalidRecord, match="payload 'x' is object, which is not JSON"):
        photos.add(root, fields={"x": object()})


# --- one picture stops nothing ------------------------------------------------------------------------


class _Fragile(toys.ToyEncoder):
    """Breaks on white, and makes no vector of black."""

    def prepare(self, pixels):
        if pixels.min() == 255:
            raise RuntimeError("white")
        return super().prepare(pixels)

    def encode(self, prepared, *, tokens=False):
        features = super().encode(prepared, tokens=tokens)
        for row, cells in zip(features.vectors, prepared, strict=True):
            if np.max(cells) == 0:
                row[:] = np.nan
        return features


def test_what_an_encoder_cannot_do_is_set_aside(made):
    photos = made(encoder=_Fragile())
    shades = [np.full((8, 8, 3), value, np.uint8) for value in (0, 60, 120, 255)]
    report = photos.add(shades, ids=["black", "dark", "grey", "white"], progress=False)
    assert report.added == photos.count() == 2
    assert {row.path: row.reason for row in report.quarantined} == {
        "black": "encoder 'toy' makes no usable vector of it",
        "white": "encoder 'toy' cannot prepare it: RuntimeError('white')",
    }


def test_a_path_whose_escapes_are_longer_than_a_field_is_left_out(photos, tmp_path):
    folder = tmp_path.joinpath(*[os.fsdecode(b"\xff" * 200)] * 12)
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    assert photos.add(tmp_path, progress=False).added == 1
    (page,) = photos.collection.scan()
    assert "path" not in page.batch.payloads[0]


def test_thousands_of_copies_cost_a_page_each_time(made, monkeypatch):
    photos = made()
    same = np.full((8, 8, 3), 90, np.uint8)
    photos.add([same] * 400, ids=[f"a{i}" for i in range(400)], progress=False)
    read: list[int] = []
    scan = photos.collection.connector.scan

    def counted(name, request, *, timeout):
        page = scan(name, request, timeout=timeout)
        read.append(len(page.batch))
        return page

    monkeypatch.setattr(photos.collection.connector, "scan", counted)
    report = photos.add([same] * 256, ids=[f"b{i}" for i in range(256)], progress=False)
    assert report.reused == 256
    assert sum(read) <= 4 * CHUNK, "not all of the copies that are there"


# --- everything at once -------------------------------------------------------------------------------


def over(store: MemoryConnector, toy: toys.ToyEncoder) -> ImageIndex:
    return ImageIndex(store, "main", collection=None, encoder=toy, policy=PATIENT)


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """Those that the test starts have ended."""
    before = set(threading.enumerate())
    yield
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


class _Watched(MemoryConnector):
    """Says what is written, before it is."""

    def __init__(self, written: Callable[[Sequence[str]], None]) -> None:
        super().__init__()
        self._written = written

    def upsert(self, name, batch, *, timeout):
        self._written(batch.ids)
        super().upsert(name, batch, timeout=timeout)


class _Uneven(toys.ToyEncoder):
    """Takes longer for some pictures than for others."""

    def prepare(self, pixels):
        time.sleep(float(pixels[0, 0, 0]) / 255 * 0.02)
        return super().prepare(pixels)


def test_pictures_are_encoded_while_others_are_written():
    ahead = threading.Event()

    class Noticing(toys.ToyEncoder):
        def encode(self, prepared, *, tokens=False):
            features = super().encode(prepared, tokens=tokens)
            if self.total > CHUNK:
                ahead.set()
            return features

    photos = over(_Watched(lambda _: outcome.append(ahead.wait(20))), Noticing())
    outcome: list[bool] = []
    photos.add([toys.pixels(n, (8, 8)) for n in range(256)], ids=[str(n) for n in range(256)], progress=False)
    assert outcome[0], "the next chunk is encoded while the first is being written"


@pytest.mark.usefixtures("no_threads_left")
def test_records_are_written_in_the_order_found():
    written: list[str] = []
    photos = over(_Watched(written.extend), _Uneven())
    ids = [f"{n:03}" for n in range(400)]
    pictures = [b"broken" if n % 50 == 7 else toys.encoded(toys.pixels(n, (8, 8))) for n in range(400)]
    report = photos.add(pictures, ids=ids, progress=False)
    assert written == [name for n, name in enumerate(ids) if n % 50 != 7]
    assert [row.path for row in report.quarantined] == ids[7::50]


def test_a_slow_store_holds_everything_back(toy):
    made: list[str] = []
    written: list[str] = []
    behind: list[int] = []

    def write(ids: Sequence[str]) -> None:
        time.sleep(0.1)
        behind.append(len(made) - len(written))
        written.extend(ids)

    def pictures() -> Iterator[np.ndarray]:
        for number in range(1500):
            made.append(str(number))
            yield toys.pixels(number, (8, 8))

    over(_Watched(write), toy).add(pictures(), progress=False)
    assert len(written) == 1500
    assert max(behind) <= 3 * CHUNK, "a chunk that is written, one that is encoded, one that is read"


@dataclass
class _Remote:
    """A picture that is read from elsewhere, and is large."""

    label: str
    seed: int
    size: int = 0
    reads: int = 0

    def read(self) -> bytes:
        self.reads += 1
        return toys.encoded(toys.pixels(self.seed, (8, 8))) + bytes(self.size)


def test_a_readable_is_read_once_and_reports_call_it_by_its_label(photos):
    class Broken(_Remote):
        def read(self) -> bytes:
            return b"no picture"

    class Rude(_Remote):
        def read(self) -> bytes:
            raise KeyError("nothing there")

    given = [_Remote("zip:a.png", 1), Broken("zip:b.png", 2), _Remote("zip:c.png", 3), Rude("zip:d.png", 4)]
    report = ingest_into(photos, [Item(one.label[4:], one) for one in given])
    assert {row.path: row.reason for row in report.quarantined} == {
        "zip:b.png": "not a picture",
        "zip:d.png": "cannot be read: KeyError('nothing there')",
    }
    assert [one.reads for one in given] == [1, 0, 1, 0]
    assert toys.payloads(photos)["c.png"]["content"] == content_hash(toys.encoded(toys.pixels(3, (8, 8))))


def ingest_into(photos: ImageIndex, items: Iterable[Item | None], **options: float) -> Report:
    """``ingest`` into a collection that ``add`` made."""
    photos.add([], progress=False)
    return ingest(iter(items), photos.collection, photos.encoder, vector="image", **options)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_pictures_are_held_by_bytes_too(made, as_bytes):
    photos = made()
    photos.add(toys.pixels(0), progress=False)

    def items() -> Iterator[Item]:
        for number in range(150):
            remote = _Remote(f"r{number}", number, 4 << 20)
            yield Item(remote.label, remote.read() if as_bytes else remote)

    tracemalloc.start()
    try:
        report = ingest(items(), photos.collection, photos.encoder, vector="image")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.added == 150
    assert peak < 250 << 20, "of 600 MiB that went through"


def test_large_prepared_pictures_do_not_pile_up(made):
    class Greedy(toys.ToyEncoder):
        def prepare(self, pixels):
            return np.full(4 << 20, pixels[0, 0, 0])

        def encode(self, prepared, *, tokens=False):
            time.sleep(0.3)
            return super().encode([one[: 4 * 4 * 3].reshape(4, 4, 3) for one in prepared], tokens=tokens)

    greedy = Greedy()
    greedy.batch_size = 32
    photos = made(encoder=greedy)
    tracemalloc.start()
    try:
        photos.add([toys.pixels(n, (8, 8)) for n in range(128)], progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 260 << 20, "a batch of 128 MiB, and those that wait"


def test_pictures_are_decoded_as_small_as_the_encoder_allows(made):
    class Modest(toys.ToyEncoder):
        min_side = 100
        shapes: ClassVar[list[tuple[int, ...]]] = []

        def prepare(self, pixels):
            self.shapes.append(pixels.shape)
            return super().prepare(pixels)

    photos = made(encoder=Modest())
    picture = toys.encoded(toys.pixels(1, (600, 800)), "JPEG")
    photos.add([picture], ids=["a"], progress=False)
    (shape,) = Modest.shapes
    assert 100 <= shape[0] <= 200
    payload = toys.payloads(photos)["a"]
    assert (payload["width"], payload["height"]) == (800, 600)


# --- the same wherever chunks begin and end -----------------------------------------------------------


def test_copies_in_the_next_chunk_are_not_encoded_again(photos, toy):
    pictures = [toys.pixels(n, (8, 8)) for n in range(CHUNK)]
    report = photos.add(pictures + pictures, ids=[f"{n:03}" for n in range(2 * CHUNK)], progress=False)
    assert (report.added, report.reused) == (CHUNK, CHUNK)
    assert toy.total == CHUNK
    assert photos.count() == 2 * CHUNK


@pytest.mark.parametrize("seed", range(3))
def test_of_the_same_id_the_last_stands_and_contents_are_right(made, toy, seed):
    """Against a dictionary: few ids and contents, so that chunks that are under way touch one another."""
    chance = random.Random(seed)
    items: list[Item] = []
    for _ in range(900):
        number = chance.randrange(150)
        picture = b"broken" if number % 25 == 0 else toys.encoded(toys.pixels(number, (8, 8)))
        items.append(Item(f"id{chance.randrange(300)}", picture, {"n": number, f"f{number % 3}": 1}))
    photos = made()
    photos.add(toys.pixels(0), ids=["first"], progress=False)
    report = ingest(iter(items), photos.collection, toy, vector="image")
    assert report.seen == 900
    last: dict[str, Item] = {}
    payloads: dict[str, dict[str, int]] = {}
    for start in range(0, 900, CHUNK):
        chunk = {item.id: item for item in items[start : start + CHUNK]}
        for record, item in chunk.items():
            if item.picture != b"broken":
                last[record], payloads[record] = item, {**payloads.get(record, {}), **item.payload}
    stored = toys.payloads(photos)
    del stored["first"]
    assert {r: {k: v for k, v in p.items() if k in ("n", "f0", "f1", "f2")} for r, p in stored.items()} == payloads
    assert all(stored[record]["content"] == content_hash(item.picture) for record, item in last.items())
    vectors = photos.get(list(last), want=pixdex.Want(vectors=("image",)))
    expected = toy.encode([toy.prepare(load_picture(last[record].picture)[0]) for record in vectors.ids]).vectors
    np.testing.assert_allclose(
        vectors.vectors["image"], expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6
    )


# --- pictures that kill -------------------------------------------------------------------------------


def test_decoders_that_die_cost_one_picture_each(photos, monkeypatch):
    monkeypatch.setattr(_encoding, "load_picture", hostile.load)
    orders = {20: b"segfault", 60: b"out of memory", 90: b"bug", 130: b"lie", 199: b"segfault"}
    pictures = [orders.get(n) or toys.encoded(toys.pixels(n, (8, 8))) for n in range(200)]
    ids = [f"{n:03}" for n in range(200)]
    report = photos.add(pictures, ids=ids, progress=False)
    assert {row.path: row.reason for row in report.quarantined} == {
        "020": "its decoder died of SIGSEGV",
        "060": "its decoder died of SIGKILL, perhaps for want of memory",
        "090": "cannot be decoded: KeyError('bug')",
        "130": "its decoder ended, exit code 0",
        "199": "its decoder died of SIGSEGV",
    }
    assert report.added == photos.count() == 195


@pytest.mark.parametrize(
    ("order", "reason", "places"),
    [
        (b"sleep", "not decoded after 1 seconds", {"3", "4", "40"}),
        (b"stop", "not done after 6 seconds", {"3"}),  # no alarm rings for who is stopped
    ],
)
def test_a_decoder_that_hangs_costs_one_picture(made, monkeypatch, order, reason, places):
    monkeypatch.setattr(_encoding, "load_picture", hostile.load)
    photos = made()
    items = [Item(str(n), order if str(n) in places else toys.png(n)) for n in range(80)]
    started = time.monotonic()
    report = ingest_into(photos, items, patience=1.0)
    assert {row.path: row.reason for row in report.quarantined} == dict.fromkeys(places, reason)
    assert report.added == 80 - len(places)
    assert time.monotonic() - started < 30


def test_an_encoder_that_hangs_over_a_picture_costs_that_picture(made):
    go_on = threading.Event()

    class Sleepy(toys.ToyEncoder):
        def prepare(self, pixels):
            if pixels.shape == (9, 9, 3):
                go_on.wait(60)
            return super().prepare(pixels)

    photos = made(encoder=Sleepy())
    items = [Item(str(n), toys.pixels(n, (9, 9) if n in (3, 4) else (8, 8))) for n in range(60)]
    started = time.monotonic()
    report = ingest_into(photos, items, patience=0.5)
    go_on.set()
    assert [row.path for row in report.quarantined] == ["3", "4"]
    assert {row.reason for row in report.quarantined} == {"not done after 5.5 seconds"}
    assert report.added == 58
    assert time.monotonic() - started < 30


def test_a_source_that_hangs_costs_that_picture(made):
    go_on = threading.Event()

    class Silent(_Remote):
        def read(self) -> bytes:
            go_on.wait(60)
            return b""

    photos = made()
    items = [Item(str(n), (Silent if n == 2 else _Remote)(str(n), n)) for n in range(20)]
    report = ingest_into(photos, items, patience=2.0)
    go_on.set()
    assert [(row.path, row.reason) for row in report.quarantined] == [("2", "not done after 2 seconds")]
    assert report.added == 19


def test_what_is_read_too_late_holds_nothing_up(made):
    too_late, over = threading.Event(), threading.Event()

    class Late(_Remote):
        def read(self) -> bytes:
            too_late.wait(60)
            return bytes(64 << 20)

    def items() -> Iterator[Item]:
        yield Item("late", Late("late", 0))
        for number in range(400):
            if number == 300:  # by then it was given up
                too_late.set()
                time.sleep(0.5)
            yield Item(str(number), _Remote(str(number), number))

    def work() -> None:
        report = ingest_into(photos, items(), patience=2.0)
        assert (report.added, len(report.quarantined)) == (400, 1)
        over.set()

    photos = made()
    threading.Thread(target=work, daemon=True).start()
    assert over.wait(30)


# --- stopping -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_threads_left")
def test_an_encoder_that_breaks_stops_the_job_and_leaves_nothing_running(photos, toy):
    class Breaking(toys.ToyEncoder):
        def encode(self, prepared, *, tokens=False):
            if self.total >= 200:
                raise RuntimeError("the weights are gone")
            return super().encode(prepared, tokens=tokens)

    pictures = [toys.pixels(n, (8, 8)) for n in range(600)]
    photos._holding.encoder = Breaking()
    with pytest.raises(RuntimeError, match="the weights are gone"):
        photos.add(pictures, progress=False)
    assert photos.count() == 200 // CHUNK * CHUNK
    photos._holding.encoder = toy
    assert photos.add(pictures, progress=False).added == 600 - 200 // CHUNK * CHUNK


SCRIPT = """
import sys
import pixdex, toys
with pixdex.open(sys.argv[1], encoder=toys.ToyEncoder()) as photos:
    def tell(report):
        print(report.seen, flush=True)
    photos.add(sys.argv[2], progress=tell)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_job_that_is_stopped_leaves_no_process_and_adding_again_goes_on(toy, tmp_path, sent):
    root = tmp_path / "in"
    root.mkdir()
    for number in range(600):
        (root / f"{number:03}.jpg").write_bytes(toys.encoded(toys.pixels(number, (200, 200)), "JPEG"))
    url = f"pq://{tmp_path / 'store.pix'}"
    job = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, url, root],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout.readline() == f"{CHUNK}\n"
    decoders = children(job.pid)
    assert decoders, "some pictures are decoded in other processes"
    job.send_signal(sent)
    started = time.monotonic()
    rest, errors = job.communicate(timeout=30)
    while any(Path(f"/proc/{pid}").exists() for pid in decoders):
        assert time.monotonic() - started < 10
        time.sleep(0.05)
    assert "600" not in rest
    if sent == signal.SIGINT:
        assert errors.strip().endswith("KeyboardInterrupt")
    with pixdex.open(url, encoder=toy) as photos:
        there = photos.count()
        assert there >= CHUNK
        report = photos.add(root, progress=False)
        assert (report.added, report.unchanged, report.quarantined) == (600 - there, there, ())
        assert photos.count() == 600


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


MEMORY = """
import os, sys
import pixdex, toys
from test_ingest import children, peak_kib
count, peaks = int(sys.argv[2]), {}

def pictures():
    for number in range(count):
        yield toys.encoded(toys.pixels(number, (64, 64)), "JPEG")

def look(report):
    for pid in (os.getpid(), *children(os.getpid())):
        peaks[pid] = peak_kib(pid)

with pixdex.open(sys.argv[1], encoder=toys.ToyEncoder()) as photos:
    assert photos.add(pictures(), progress=look).added == count
print(sum(peaks.values()))
"""


def peak_kib(pid: int) -> int:
    """Of a process that runs. Not ``getrusage``: what that says begins with the peak of the parent."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see memory")
def test_ten_times_the_pictures_take_no_more_memory(tmp_path):
    peaks = []
    for count in (200, 2000):
        line = [sys.executable, "-c", MEMORY, f"pq://{tmp_path / str(count)}", str(count)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0]
