"""Pictures in archives, whole ones and such as people and attackers make."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import toys

from pixdex.errors import ConfigError
from pixdex.report import Report
from pixdex.sources.archives import Archive
from pixdex.sources.port import Options

TARS = {"tar": "w", "tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def reasons(report: Report) -> dict[str, str]:
    return {Path(row.path).name: row.reason for row in report.quarantined}


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """An archive, by its suffix."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, TARS[path.name.partition(".")[2]]) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("suffix", ["zip", *TARS])
def test_pictures_are_found_by_name_or_first_bytes(photos, tmp_path, suffix):
    path = packed(
        tmp_path / f"trip.{suffix}",
        {
            "a.png": toys.png(1),
            "b/c/d.PNG": toys.png(2),
            "b/unnamed": toys.png(3),
            "notes.txt": b"x" * 99,
            "e.jpg": b"no",
        },
    )
    report = photos.add(path)
    assert (report.added, report.ignored) == (3, 1)
    assert reasons(report) == {"e.jpg": "not a picture"}
    assert set(toys.revs(photos)) == {f"trip.{suffix}/{name}" for name in ("a.png", "b/c/d.PNG", "b/unnamed")}
    assert photos.search(toys.png(2), k=1)[0].payload["path"] == f"{path}/b/c/d.PNG"
    assert dict(photos.info().sources) == {f"trip.{suffix}": str(path)}
    assert photos.add(path).unchanged == 3
    assert photos.add(path, source="holiday", fields={"year": 2020}).reused == 3
    assert toys.payloads(photos)["holiday/a.png"]["year"] == 2020


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_many_members_are_read_in_one_go(photos, toy, tmp_path, suffix):
    members = {f"{number:04}.png": toys.png(number) for number in range(300)}
    assert photos.add(packed(tmp_path / f"many.{suffix}", members)).added == 300
    assert toy.total == 300


def large(count: int) -> dict[str, bytes]:
    """Members that no buffer holds several of, and that do not shrink."""
    rng = random.Random(1)
    return {f"{number:04}.png": toys.png(number) + rng.randbytes(30_000) for number in range(count)}


@pytest.fixture
def rewinds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows when a compressed file is read from its beginning again."""
    seen: list[int] = []
    rewind = gzip._GzipReader._rewind
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: seen.append(1) or rewind(self))
    return seen


def test_a_compressed_archive_is_not_read_from_the_start_for_each_member(photos, tmp_path, rewinds):
    assert photos.add(packed(tmp_path / "many.tar.gz", large(200))).added == 200
    assert not rewinds


def test_members_read_out_of_order_are_not_searched_for_again(tmp_path, rewinds):
    members = large(6)
    items = list(Archive(packed(tmp_path / "x.tar.gz", members), Options()).items(None))
    for number in (2, 0, 1, 5, 3, 4):
        assert items[number].picture.read() == members[f"{number:04}.png"]
    assert not rewinds


def test_names_that_climb_are_ids_and_nothing_is_written(photos, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    folder = tmp_path / "deep/er"
    folder.mkdir(parents=True)
    for suffix in ("zip", "tar"):
        path = packed(folder / f"x.{suffix}", {"../../evil.png": toys.png(1), "/abs.png": toys.png(2)})
        assert photos.add(path).seen == 2
    assert {"x.zip/../../evil.png", "x.tar/../../evil.png", "x.zip//abs.png"} <= set(toys.revs(photos))
    after = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "deep")}
    assert {path.name for path in after} - {path.name for path in before} <= {
        "store.pix", *(p.name for p in (tmp_path / "store.pix").rglob("*"))
    }  # fmt: skip


def test_links_and_devices_in_a_tar_are_passed_over(photos, tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        pipe = tarfile.TarInfo("pipe.png")
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(pipe)
        data = toys.png(1)
        member = tarfile.TarInfo("a.png")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    report = photos.add(path)
    assert (report.added, report.seen) == (1, 1)


def test_encrypted_members_are_set_aside(photos, tmp_path):
    path = packed(tmp_path / "x.zip", {"a.png": toys.png(1), "b.png": toys.png(2)})
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[6] |= 1  # as the local header says it
    data[central + 8] |= 1  # and the directory
    path.write_bytes(data)
    report = photos.add(path)
    assert report.added == 1
    assert reasons(report) == {"a.png": "it is encrypted"}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_without_a_bound_are_not_read(photos, tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", toys.png(1), method)
        archive.writestr("b.png", toys.png(2))
    report = photos.add(tmp_path / "x.zip")
    assert report.added == 1
    assert reasons(report) == {"a.png": "packed by a method that is not read: store or deflate it"}


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_bombs_are_not_unpacked(photos, tmp_path, suffix):
    path = packed(
        tmp_path / f"x.{suffix}", {"a.png": toys.png(1), "bomb.bmp": b"BM" + bytes(40 << 20), "big.png": bytes(1)}
    )
    report = photos.add(path)
    assert report.added == 1
    assert any("more than 200 times" in reason for reason in reasons(report).values())


def test_an_archive_that_unpacks_without_end_is_left(photos, tmp_path):
    path = packed(tmp_path / "x.tar.gz", {"a.png": toys.png(1), "zeros.bin": bytes(60 << 20), "b.png": toys.png(2)})
    report = photos.add(path)
    assert report.added == 1
    assert reasons(report) == {
        "x.tar.gz": "the archive cannot be read further: it unpacks to more than 200 times its size"
    }


def test_a_member_larger_than_any_picture_is_not_read(photos, tmp_path):
    path = tmp_path / "x.tar"
    member = tarfile.TarInfo("huge.png")
    member.size = 1 << 40
    path.write_bytes(member.tobuf() + b"x" * 2000)
    report = photos.add(path)
    assert "the limit is" in reasons(report)["huge.png"]
    assert "cannot be read further" in reasons(report)["x.tar"]


def test_a_zip_that_lies_about_its_sizes_gives_no_more_than_it_says(photos, tmp_path):
    path = packed(tmp_path / "x.zip", {"a.bmp": b"BM" + bytes(8 << 20)})
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", 1000)
    path.write_bytes(data)
    report = photos.add(path)
    assert len(report.quarantined) == 1


def test_headers_that_want_gigabytes_are_refused(photos, tmp_path):
    path = tmp_path / "x.tar.gz"
    good = packed(tmp_path / "good.tar", {"a.png": toys.png(1)}).read_bytes()[: 512 + 512 * 10]
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    with gzip.open(path, "wb") as file:
        size = tarfile.TarInfo.frombuf(good[:512], "utf-8", "surrogateescape").size
        file.write(good[: 512 + -(-size // 512) * 512] + long_name.tobuf() + bytes(1 << 20))
    report = photos.add(path)
    assert report.added == 1
    assert reasons(report) == {"x.tar.gz": "the archive cannot be read further: a header of more than a megabyte"}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_of_an_archive_that_ends_early_what_is_there_is_added(photos, tmp_path, suffix):
    rng = random.Random(1)
    members = {f"{number:03}.png": toys.png(number) + rng.randbytes(3000) for number in range(50)}
    path = packed(tmp_path / f"x.{suffix}", members)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    report = photos.add(path)
    assert 10 < report.added < 40
    assert "cannot be read further" in reasons(report)[f"x.{suffix}"]


def test_a_header_that_is_damaged_is_no_end(photos, tmp_path):
    path = packed(tmp_path / "x.tar", {f"{number}.png": toys.png(number) for number in range(9)})
    data = bytearray(path.read_bytes())
    third = next(i for i in range(0, len(data), 512) if data[i : i + 512].startswith(b"2.png"))
    data[third + 148 : third + 156] = b"xxxxxxxx"
    path.write_bytes(data)
    report = photos.add(path)
    assert report.added == 2
    assert reasons(report) == {"x.tar": "the archive cannot be read further: damaged"}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz"])
@pytest.mark.parametrize("data", [b"", b"no archive at all", b"PK\x05\x06", b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_one_row(photos, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    report = photos.add([tmp_path / name, toys.png(1)])
    assert report.added == 1
    assert [Path(row.path).name for row in report.quarantined] == [name]


def test_a_damaged_member_does_not_stop_the_others(photos, tmp_path):
    path = packed(tmp_path / "x.zip", {f"{number}.png": toys.png(number) for number in range(5)})
    data = bytearray(path.read_bytes())
    place = data.index(b"2.png") + len("2.png") + 20
    data[place : place + 30] = bytes(30)
    path.write_bytes(data)
    report = photos.add(path)
    assert report.added == 4
    assert reasons(report)["2.png"].startswith("cannot be unpacked: ")


def test_what_macos_puts_beside_each_file_is_passed_over(photos, tmp_path):
    report = photos.add(packed(tmp_path / "x.zip", {"a.png": toys.png(1), "__MACOSX/._a.png": b"\0\5\x16\7"}))
    assert (report.added, report.ignored, report.seen) == (1, 1, 1)


def test_an_archive_without_pictures_is_refused_before_anything_is_made(photos, tmp_path):
    with pytest.raises(ConfigError, match=r"no pictures in .*x\.zip"):
        photos.add(packed(tmp_path / "x.zip", {"notes.txt": b"x"}))
    assert not photos._connector.names(timeout=5)


def test_a_picture_called_like_an_archive_is_a_picture(photos, tmp_path):
    (tmp_path / "x.zip").write_bytes(toys.png(1))
    assert photos.add(tmp_path / "x.zip").added == 1
