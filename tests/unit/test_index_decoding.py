"""How pictures are read is chosen by the call, for what is added and for what is searched with."""

from __future__ import annotations

import tarfile
import zipfile

import numpy as np
import pytest
import toys

from pixdex import Want
from pixdex.encoders.images import Decoding, Limits
from pixdex.errors import ConfigError, InvalidImage, NotFound


@pytest.mark.parametrize("form", ["GIF", "TIFF"])  # one is decoded here, the other in a process of its own
def test_a_frame_is_a_picture_of_its_own(photos, toy, tmp_path, form):
    path = tmp_path / "in" / f"film.{form.lower()}"
    path.parent.mkdir()
    frames = [toys.pixels(seed) for seed in (1, 2, 3)]
    path.write_bytes(toys.film(*frames, form=form))
    second = Decoding(frame=1)
    assert photos.add(path).added == 1
    assert photos.add(path, source="second", decoding=second).added == 1, "not the vector of the first frame"
    for query in (path, path.read_bytes()):
        assert photos.search(query, k=1)[0].id == f"in/{path.name}"
        assert photos.search(query, k=1, decoding=second)[0].id == f"second/{path.name}"
        left = photos.search(query, k=5, decoding=second, exclude_self=True)
        assert [hit.id for hit in left] == [f"in/{path.name}"]
    assert photos.search(frames[1], k=1)[0].score == pytest.approx(1, abs=1e-3)
    assert photos.add(path, source="second", decoding=second).unchanged == 1
    assert photos.add(path, source="second", decoding=Decoding(frame=2)).added == 1, "another picture under that id"
    assert photos.search(frames[2], k=1)[0].id == f"second/{path.name}"
    report = photos.add([path, toys.png(5)], decoding=Decoding(frame=3))
    assert [row.reason for row in report.quarantined] == ["there is no frame 3, counted from 0"] * 2


def test_what_decides_only_whether_a_file_is_used_does_not_encode_again(photos, tmp_path):
    root = toys.folder(tmp_path / "in", 2)
    whole = toys.encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "JPEG")
    (root / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    assert (photos.add(root).added, photos.add(root).unchanged) == (2, 2)
    report = photos.add(root, decoding=Decoding(truncated="accept"))
    assert (report.added, report.unchanged, report.quarantined) == (1, 2, ())
    with pytest.raises(InvalidImage, match=r"cut\.jpg"):
        photos.search(root / "cut.jpg")
    query = photos.search(root / "cut.jpg", k=1, decoding=Decoding(truncated="accept"))
    assert query[0].id == "in/cut.jpg"
    assert photos.add(root).unchanged == 3
    limits = Limits(max_pixels=500, max_bytes=10_000)
    assert (
        photos.add(toys.png(9), decoding=Decoding(limits=limits)).quarantined[0].reason.endswith("the limit is 0.0005")
    )


def test_the_background_shows_through_files_arrays_and_queries(photos):
    clear = np.dstack([toys.pixels(1), np.zeros((24, 32), np.uint8)])
    black = Decoding(background=(0, 0, 0))
    assert photos.add([toys.encoded(clear), clear], ids=["file", "array"], decoding=black).added == 2
    batch = photos.get(["file", "array"], want=Want(vectors=("image",)))
    assert (batch.vectors["image"] < 0).all()
    assert [hit.id for hit in photos.search(clear, k=2, threshold=0.999, decoding=black)] == ["array", "file"]
    assert photos.search(clear, threshold=0) == []


def test_the_limit_of_bytes_holds_wherever_a_picture_lies(photos, tmp_path):
    large, root = toys.encoded(toys.pixels(1, (400, 400)), "BMP"), tmp_path / "in"
    root.mkdir()
    (root / "a.bmp").write_bytes(large)
    for name, opened in (("a.zip", zipfile.ZipFile), ("a.tar", tarfile.open)):
        with opened(root / name, "w") as archive:
            (archive.write if name == "a.zip" else archive.add)(root / "a.bmp", "a.bmp")
    given = [root / "a.bmp", large, root / "a.zip", root / "a.tar"]
    small = Decoding(limits=Limits(max_bytes=400_000))
    report = photos.add(given, decoding=small)
    assert (report.added, len(report.quarantined)) == (0, 4)
    assert sum("the limit is" in row.reason for row in report.quarantined) == 4
    assert photos.add(given, decoding=Decoding(limits=Limits(max_bytes=500_000))).quarantined == ()


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"patience": 0}, {"patience": float("nan")}])
def test_nobody_to_decode_and_no_time_are_refused_before_anything_is_made(photos, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        photos.add(toys.png(1), **wrong)
    with pytest.raises(NotFound):
        photos.info()
