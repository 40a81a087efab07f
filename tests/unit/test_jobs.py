"""Adding as a job: what it remembers, what it removes, what it tries again, and where it stops."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import toys

import pixdex
from pixdex import _syncing
from pixdex import journal as journals
from pixdex.errors import ConfigError, InvalidImage, StoreLocked, SyncRefused
from pixdex.index import ImageIndex
from pixdex.jobs import Job
from pixdex.pictures import content_hash
from pixdex.report import Status

pytest.importorskip("faiss")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"pq://{tmp_path / 'photos.pix'}"


@pytest.fixture
def encoder() -> toys.ToyEncoder:
    return toys.ToyEncoder()


@pytest.fixture
def index(url: str, encoder: toys.ToyEncoder) -> Iterator[ImageIndex]:
    with pixdex.open(url, encoder=encoder) as index:
        yield index


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures, changed long ago."""
    folder = toys.folder(tmp_path / "pics", 5)
    for path in folder.iterdir():
        aged(path)
    return folder


def aged(path: Path) -> None:
    """Look as if it was changed a while before it is hashed: its status changes now, so the journal's clock is put on."""
    os.utime(path, (1e9, 1e9))


def statuses(url: str) -> dict[str, str]:
    return {entry.id: str(entry.status) for entry in journals.read(journals.journal_of(url))}


def test_every_picture_has_one_row_with_what_became_of_it(index: ImageIndex, url: str, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(toys.png(9)[:60])
    shutil.copy(pictures / "00.png", pictures / "same.png")
    index.add(pictures, job=Job())
    assert statuses(url) == {
        **{f"pics/0{n}.png": "added" for n in range(5)},
        "pics/broken.png": "failed",
        "pics/same.png": "reused",
    }
    index.add(pictures, job=Job())
    assert statuses(url)["pics/00.png"] == "unchanged"
    (failed,) = journals.read(journals.journal_of(url), Status.FAILED)
    assert failed.attempts == 2
    assert failed.label.endswith("broken.png")
    assert failed.reason


def test_files_that_look_as_they_did_are_not_read_again(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pixdex._hashing as hashing

    later = hashing.time.time() + 100
    monkeypatch.setattr(hashing.time, "time", lambda: later)
    index.add(pictures, job=Job())
    read: list[Path] = []
    real = hashing.content_hash

    def counted(picture: Path, *rest: object) -> str:
        read.append(picture)
        return real(picture, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(hashing, "content_hash", counted)
    toys.write(pictures / "01.png", 77)
    report = index.add(pictures, job=Job())
    assert [path.name for path in read] == ["01.png"]
    assert (report.added, report.unchanged) == (1, 4)


@pytest.mark.parametrize("what", ["vanishes", "changes"])
def test_a_file_that_vanishes_or_changes_while_it_is_added_is_right_the_next_time(
    index: ImageIndex, url: str, pictures: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    import pixdex._hashing as hashing

    index.add(pictures, job=Job())
    real = hashing.content_hash
    toys.write(pictures / "01.png", 70)

    def meanwhile(picture: Path, *rest: object) -> str:
        if what == "vanishes":
            (pictures / "01.png").unlink()
        found = real(picture, *rest)  # type: ignore[arg-type]
        if what == "changes":
            toys.write(pictures / "01.png", 71)
        return found

    monkeypatch.setattr(hashing, "content_hash", lambda p, *r: (meanwhile if p.name == "01.png" else real)(p, *r))
    report = index.add(pictures, job=Job(sync=True))
    assert (report.unchanged, report.removed, len(report.quarantined)) == (4, 0, int(what == "vanishes"))
    monkeypatch.undo()
    index.add(pictures, job=Job(sync=True))
    found = toys.payloads(index)
    if what == "vanishes":
        assert "pics/01.png" not in found
        assert statuses(url)["pics/01.png"] == "removed"
    else:
        assert found["pics/01.png"]["content"] == content_hash(pictures / "01.png")
        assert index.search(pictures / "01.png", k=1)[0].id == "pics/01.png"


def test_a_file_that_is_damaged_later_keeps_its_record(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures, job=Job())
    (pictures / "01.png").write_bytes((pictures / "01.png").read_bytes()[:40])
    report = index.add(pictures, job=Job(sync=True))
    assert (report.unchanged, report.removed, len(report.quarantined)) == (4, 0, 1)
    assert index.count() == 5


def test_without_a_job_there_is_no_journal(index: ImageIndex, url: str, pictures: Path) -> None:
    index.add(pictures)
    assert not journals.journal_of(url).exists()


def test_the_collection_decides_not_the_journal(url: str, index: ImageIndex, pictures: Path) -> None:
    index.add(pictures, job=Job())
    index.delete("pics/03.png")
    report = index.add(pictures, job=Job())
    assert (report.added + report.reused, report.unchanged) == (1, 4)
    assert index.count() == 5


def test_sync_removes_what_is_gone_from_the_folder_and_nothing_else(
    index: ImageIndex, url: str, pictures: Path, tmp_path: Path
) -> None:
    other = toys.folder(tmp_path / "other", 2, start=20)
    index.add([pictures, other], job=Job())
    index.add([toys.png(40)], ids=["mine"], job=Job())
    index.add([toys.png(41)], ids=["pics/looks-like-theirs.png"])
    upload = toys.write(tmp_path / "upload", 42)
    index.add([upload], ids=["pics/uploaded.png"], job=Job())
    upload.unlink()
    (pictures / "02.png").unlink()
    (pictures / "04.png").rename(pictures / "moved.png")
    shutil.rmtree(other)
    encoded = index.encoder.total  # type: ignore[attr-defined]
    report = index.add(pictures, job=Job(sync=True))
    assert (report.removed, report.reused, report.unchanged) == (2, 1, 3)
    assert index.encoder.total == encoded  # type: ignore[attr-defined]  # a moved file is known by its content
    assert set(toys.payloads(index)) == {
        "pics/00.png", "pics/01.png", "pics/03.png", "pics/moved.png", "other/20.png", "other/21.png", "mine",
        "pics/looks-like-theirs.png", "pics/uploaded.png",
    }  # fmt: skip
    assert statuses(url)["pics/02.png"] == "removed"
    assert statuses(url)["pics/uploaded.png"] == "added"


def test_a_moved_file_is_no_duplicate_of_a_record_that_is_removed(index: ImageIndex, pictures: Path) -> None:
    job = Job(sync=True, on_duplicate="tag")
    index.add(pictures, job=job)
    (pictures / "04.png").rename(pictures / "moved.png")
    shutil.copy(pictures / "00.png", pictures / "same.png")
    assert index.add(pictures, job=job).removed == 1
    found = toys.payloads(index)
    assert "duplicate_of" not in found["pics/moved.png"]
    assert found["pics/same.png"]["duplicate_of"] == "pics/00.png"
    assert index.search(pictures / "moved.png", k=1)[0].id == "pics/moved.png"
    assert index.add(pictures, job=job).unchanged == 6


def test_a_sync_that_was_killed_while_it_removed_says_so_the_next_time(
    index: ImageIndex, url: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(pictures, job=Job())
    for name in ("02.png", "04.png"):
        (pictures / name).unlink()
    monkeypatch.setattr(
        journals.Journal, "entries", lambda *_: iter(())
    )  # killed between the collection and the journal
    assert index.add(pictures, job=Job(sync=True)).removed == 2
    monkeypatch.undo()
    assert statuses(url)["pics/02.png"] == "added"
    assert index.add(pictures, job=Job(sync=True)).removed == 0
    assert [record for record, status in statuses(url).items() if status == "removed"] == ["pics/02.png", "pics/04.png"]


def test_what_a_killed_job_had_written_and_not_noted_is_its_own(
    index: ImageIndex, url: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(pictures, job=Job())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (20, 21):
        toys.write(pictures / f"{number}.png", number)
    with monkeypatch.context() as patch:
        patch.setattr(journals.Journal, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            index.add([pictures / "20.png", pictures / "21.png"], source="pics", job=Job())
    assert {"pics/20.png", "pics/21.png"} <= toys.payloads(index).keys()
    (pictures / "20.png").unlink()
    report = index.add(pictures, job=Job(sync=True))
    assert (report.removed, report.unchanged) == (1, 6)
    assert statuses(url)["pics/20.png"] == "removed"
    with journals.Journal(journals.journal_of(url), encoder="toy") as journal:
        assert journal.planned() == []


def test_sync_keeps_what_cannot_be_looked_at(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.write(pictures / "closed" / "a.png", 30)
    index.add(pictures, job=Job())
    shutil.rmtree(pictures / "closed")

    def refused(path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", refused)
    assert index.add(pictures, job=Job(sync=True)).removed == 0
    assert index.count() == 6


def test_sync_of_an_empty_folder_removes_nothing(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures, job=Job())
    for path in pictures.iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="no pictures in"):  # as of a drive that is not mounted
        index.add(pictures, job=Job(sync=True))
    assert index.count() == 5


@pytest.fixture
def albums(tmp_path: Path) -> Path:
    """A folder of 60 pictures: 30 in ``a``, 20 in ``b/deep``, 10 beside these."""
    folder = tmp_path / "albums"
    for number in range(60):
        inner = "a" if number < 30 else "b/deep" if number < 50 else "."
        toys.write(folder / inner / f"{number:02}.png", number)
    return folder


def test_a_sync_that_would_remove_much_removes_nothing_and_says_what_is_gone(
    index: ImageIndex, url: str, albums: Path
) -> None:
    index.add(albums, job=Job())
    shutil.rmtree(albums / "a")  # as a drive that is gone with its mount point
    toys.write(albums / "new.png", 99)
    with pytest.raises(SyncRefused) as refused:
        index.add(albums, job=Job(sync=True))
    said = str(refused.value)
    assert said.startswith(
        "sync would remove 30 of the 61 records of these folders, where 20 may go; nothing was removed"
    )
    assert f"Gone from {albums / 'a'} (30), such as albums/a/00.png" in said
    assert "--remove-at-most 1 (remove_at_most=1)" in said
    assert len(refused.value.gone) == 30
    assert index.count() == 61  # and what is new is there
    assert "removed" not in statuses(url).values()
    assert index.add(albums, job=Job(sync=True, remove_at_most=0.5)).removed == 30
    assert index.count() == 31


def test_twenty_records_and_a_share_may_always_go(index: ImageIndex, albums: Path) -> None:
    index.add(albums, job=Job())
    shutil.rmtree(albums / "b")
    assert index.add(albums, job=Job(sync=True)).removed == 20


def test_what_has_moved_is_not_missed(index: ImageIndex, albums: Path) -> None:
    index.add(albums, job=Job())
    (albums / "a").rename(albums / "renamed")
    report = index.add(albums, job=Job(sync=True))
    assert (report.reused, report.removed) == (30, 30)


def test_a_folder_that_is_empty_now_is_told_whatever_share_it_is(index: ImageIndex, albums: Path) -> None:
    index.add(albums, job=Job())
    for path in (albums / "a").iterdir():
        path.unlink()
    with pytest.raises(
        SyncRefused, match=r"from a folder that is empty now, as where a drive is not mounted.*a \(30\)"
    ):
        index.add(albums, job=Job(sync=True, remove_at_most=0.9))
    assert index.add(albums, job=Job(sync=True, remove_at_most=1)).removed == 30


def test_a_drive_that_was_mounted_and_is_not_any_more_keeps_its_records(
    index: ImageIndex, albums: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drives = {albums / "b"}
    monkeypatch.setattr(_syncing, "_mounted", lambda folder: folder in drives)
    index.add(albums, job=Job(sync=True))
    shutil.rmtree(albums / "b" / "deep")
    drives.clear()
    with pytest.raises(SyncRefused, match=r"from where a drive was mounted before, and none is now.*albums/b"):
        index.add(albums, job=Job(sync=True))  # though it is few enough
    assert index.count() == 60
    drives.add(albums / "b")
    assert index.add(albums, job=Job(sync=True)).removed == 20  # it is there, and they are deleted


def test_what_another_machine_added_from_such_a_path_stays(
    index: ImageIndex, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(pictures, job=Job(sync=True))
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "other machine"))
    theirs = toys.write(pictures / "theirs.png", 50)
    index.add(pictures, job=Job())
    monkeypatch.undo()
    theirs.unlink()
    (pictures / "00.png").unlink()
    report = index.add(pictures, job=Job(sync=True))
    assert report.removed == 1
    assert "1 records of files that are not there stay, such as pics/theirs.png" in report.notices[-1]
    assert "pics/theirs.png" in toys.payloads(index)
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "no journal yet"))  # as in a container: all that is known is here
    assert index.add(pictures, job=Job(sync=True)).removed == 1


def test_an_alias_and_its_collection_are_added_to_by_one_job_at_a_time(
    index: ImageIndex, url: str, pictures: Path, encoder: toys.ToyEncoder
) -> None:
    index.add(pictures, job=Job())
    index.collection.alias("current")
    with pixdex.open(f"{url}#current", encoder=encoder) as other:
        assert other.add(pictures, job=Job()).unchanged == 5

        class Nested:
            label = "nested"

            def read(self) -> bytes:
                with pytest.raises(StoreLocked, match=rf"pid {os.getpid()}"):
                    index.add(pictures, job=Job())
                return toys.png(70)

        assert other.add(iter([Nested()]), job=Job()).added == 1  # type: ignore[list-item]


def test_sync_takes_whole_folders(index: ImageIndex, pictures: Path) -> None:
    for given in (pictures / "00.png", [pictures, pictures / "00.png"], iter([pictures]), pictures / "*.png"):
        with pytest.raises(ConfigError, match="give folders only"):
            index.add(given, job=Job(sync=True))


def test_only_what_failed_is_tried_again(index: ImageIndex, url: str, pictures: Path) -> None:
    broken = pictures / "broken.png"
    broken.write_bytes(toys.png(9)[:60])
    index.add(pictures, job=Job())
    toys.write(broken, 9)
    toys.write(pictures / "new.png", 10)
    elsewhere = index.add(pictures, source="other", job=Job(retry_failed=True))
    assert elsewhere.seen == 0
    assert re.search(r"1 pictures that failed before are not among these, such as .*broken\.png", elsewhere.notices[-1])
    report = index.add(pictures, job=Job(retry_failed=True))
    assert not report.notices
    assert (report.added, report.seen) == (1, 1)
    assert statuses(url)["pics/broken.png"] == "added"
    assert index.count() == 6
    assert index.add(pictures, job=Job(retry_failed=True)).seen == 0


def test_too_many_failures_stop_the_job_and_lose_nothing(index: ImageIndex, url: str, pictures: Path) -> None:
    for number in range(3):
        (pictures / f"broken{number}.png").write_bytes(toys.png(9)[:60])
    with pytest.raises(InvalidImage, match=r"3 pictures could not be used, 2 are allowed to"):
        index.add(pictures, job=Job(max_failures=2))
    assert index.count() == 5
    assert len(statuses(url)) == 8
    assert index.add(pictures, job=Job(max_failures=3)).unchanged == 5


def test_a_second_job_is_refused_by_name(index: ImageIndex, url: str, pictures: Path, encoder: toys.ToyEncoder) -> None:
    with (
        journals.Journal(journals.journal_of(url), encoder="toy"),
        pytest.raises(StoreLocked, match=rf"pid {os.getpid()}"),
    ):
        index.add(pictures, job=Job())
    assert index.count() == 0


def test_duplicates_are_left_out_or_tagged_when_asked(tmp_path: Path, encoder: toys.ToyEncoder) -> None:
    pictures = toys.folder(tmp_path / "pics", 3)
    shutil.copy(pictures / "00.png", pictures / "same-file.png")
    toys.write(pictures / "edited.png", 1)
    edited = toys.pixels(1).astype(int)
    (pictures / "edited.png").write_bytes(toys.encoded((edited * 0.97).astype("uint8"), "JPEG"))
    twins = {"pics/same-file.png": "pics/00.png", "pics/edited.png": "pics/01.png"}
    for action in ("skip", "tag"):
        url = f"pq://{tmp_path / action}"
        with pixdex.open(url, encoder=encoder) as index:
            job = Job(on_duplicate=action)
            report = index.add(pictures, job=job)
            tagged = {record: p["duplicate_of"] for record, p in toys.payloads(index).items() if "duplicate_of" in p}
            if action == "skip":
                assert (report.added, report.duplicate, index.count()) == (3, 2, 3)
                assert {record for record, status in statuses(url).items() if status == "duplicate"} == set(twins)
                assert index.add(pictures, job=job).duplicate == 2
            else:
                assert (report.added + report.reused, tagged) == (5, twins)
                assert index.add(pictures, job=job).unchanged == 5
    with pixdex.open(f"pq://{tmp_path / 'keep'}", encoder=encoder) as index:
        assert index.add(pictures, job=Job()).seen == index.count() == 5


@pytest.mark.parametrize("edited", [False, True])
def test_a_changed_file_replaces_its_record_even_if_it_is_a_duplicate_now(
    index: ImageIndex, pictures: Path, *, edited: bool
) -> None:
    index.add(pictures, job=Job(on_duplicate="skip"))
    if edited:
        (pictures / "01.png").write_bytes(toys.encoded((toys.pixels(0).astype(int) * 0.97).astype("uint8"), "PNG"))
    else:
        shutil.copy(pictures / "00.png", pictures / "01.png")
    report = index.add(pictures, job=Job(on_duplicate="skip"))
    assert report.duplicate == 0
    own = toys.payloads(index)["pics/01.png"]["content"]
    assert own == content_hash(pictures / "01.png")


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="one at a time"):
        Job(sync=True, retry_failed=True)
    with pytest.raises(ConfigError, match="tag duplicates instead"):
        Job(sync=True, on_duplicate="skip")
    with pytest.raises(ConfigError, match="one of keep, skip, tag"):
        Job(on_duplicate="drop")
    with pytest.raises(ConfigError, match="max_failures is -1"):
        Job(max_failures=-1)
    with pytest.raises(ConfigError, match=r"remove_at_most is 20: a share"):
        Job(sync=True, remove_at_most=20)


def test_by_the_shell(tmp_path: Path, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG nothing")
    url = f"pq://{tmp_path / 'shell.pix'}"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, toys.__file__, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert run("add", url, str(pictures), "-e", "toy").returncode == 0
    shown = run("journal", url)
    assert "broken.png" in shown.stdout
    assert "5 added, 1 failed" in shown.stderr
    (pictures / "broken.png").unlink()
    synced = run("add", url, str(pictures), "--sync", "--remove-at-most", "0.5", "--json")
    assert orjson.loads(synced.stdout)["unchanged"] == 5
    rows = orjson.loads(run("journal", url, "--which", "all", "--json").stdout)
    assert rows["counts"] == {"removed": 1, "unchanged": 5}
