"""The journal: one row a picture, hashes of files that look as they did, one job at a time."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pixdex.errors import ConfigError, StoreError, StoreFull, StoreLocked
from pixdex.journal import Journal, counts, journal_of, read
from pixdex.pictures import stamp_of
from pixdex.report import Entry, Stamp, Status


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def entry(record: str, status: Status = Status.ADDED, stamp: Stamp | None = None, at: float = 0.0) -> Entry:
    reason = "is no picture" if status is Status.FAILED else None
    return Entry(
        id=record, label=f"/pics/{record}", status=status, reason=reason, content=f"c-{record}", stamp=stamp, at=at
    )


def test_a_picture_has_one_row_whatever_became_of_it(file: Path) -> None:
    with Journal(file, encoder="toy") as journal:
        journal.record([entry("a"), entry("b", Status.FAILED)])
        journal.record([entry("b", Status.FAILED), entry("c")])
    with Journal(file, encoder="toy") as journal:
        journal.record([entry("a", Status.UNCHANGED), entry("b", Status.FAILED)])
        assert journal.seen(["a", "b", "c"]) == {"a", "b"}
    assert counts(file) == {Status.ADDED: 1, Status.FAILED: 1, Status.UNCHANGED: 1}
    (failed,) = read(file, Status.FAILED)
    assert (failed.id, failed.label, failed.reason, failed.attempts) == ("b", "/pics/b", "is no picture", 3)
    assert [one.id for one in read(file)] == ["a", "b", "c"]
    with Journal(file, encoder="toy") as journal:
        journal.record([entry("b")])
    assert read(file, Status.FAILED) == []
    assert read(file, Status.ADDED)[0].attempts == 1


def test_many_rows_are_read_page_by_page(file: Path) -> None:
    with Journal(file, encoder="toy") as journal:
        journal.record([entry(f"p{n:05}") for n in range(2500)])
        assert len(list(journal.entries(Status.ADDED))) == 2500
        assert journal.seen(f"p{n:05}" for n in range(3000)) == {f"p{n:05}" for n in range(2500)}


def test_a_file_that_looks_the_same_is_known(file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.jpg"
    picture.write_bytes(b"one")
    os.utime(picture, (1, 1))
    stamp = stamp_of(picture)
    later = time.time() + 10  # hashed well after it was changed
    with Journal(file, encoder="toy") as journal:
        journal.record([entry("p", stamp=stamp, at=later)])
        assert journal.known("p", stamp_of(picture)) == "c-p"
        assert journal.known("q", stamp_of(picture)) is None
        assert journal.known("p", stamp_of(tmp_path / "gone")) is None
        picture.write_bytes(b"two")  # as large, and given the old time again
        os.utime(picture, (1, 1))
        assert journal.known("p", stamp_of(picture)) is None


def test_a_file_hashed_just_after_it_was_changed_is_read_again(file: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.jpg"
    picture.write_bytes(b"one")
    with Journal(file, encoder="toy") as journal:
        journal.record([entry("p", stamp=stamp_of(picture), at=time.time())])
        assert journal.known("p", stamp_of(picture)) is None


def test_hashes_made_otherwise_are_not_known(file: Path) -> None:
    stamp = Stamp(3, 0, 0)
    with Journal(file, encoder="toy") as journal:
        journal.record([entry("p", stamp=stamp, at=1e6)])
    with Journal(file, encoder="toy", how="frame 2") as journal:
        assert journal.known("p", stamp) is None


def test_another_file_that_took_its_place_is_read_though_it_looks_the_same(file: Path, tmp_path: Path) -> None:
    stamp = Stamp(3, 10**9, 10**9, inode=5)  # as of two folders that changed names, filled at one time
    with Journal(file, encoder="toy") as journal:
        journal.record([entry("p", stamp=stamp, at=1e6)])
        assert journal.known("p", stamp) == "c-p"
        assert journal.known("p", Stamp(3, 10**9, 10**9, inode=6)) is None
    assert read(file)[0].stamp == stamp
    assert stamp_of(tmp_path) != stamp_of(tmp_path.parent)


def test_one_job_at_a_time(file: Path) -> None:
    with Journal(file, encoder="toy"), pytest.raises(StoreLocked, match=f"pid {os.getpid()}"):
        Journal(file, encoder="toy")
    Journal(file, encoder="toy").__exit__(None, None, None)


def test_what_was_recorded_survives_a_kill_and_the_lock_does_not(file: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from pixdex.journal import *; from pixdex.report import *\n"
        f"journal = Journal(Path({str(file)!r}), encoder='toy')\n"
        "journal.record([Entry(id='a', label='a', status=Status.ADDED)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Journal(file, encoder="toy") as journal:
        assert [one.id for one in journal.entries()] == ["a"]
        assert journal.run == 2


def test_a_file_that_is_no_journal_is_named_and_left_alone(file: Path) -> None:
    file.write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError, match="is not a journal that can be read"):
        Journal(file, encoder="toy")
    assert file.read_bytes() == b"x" * 5000


def test_no_room_when_it_is_opened_is_no_reason_to_remove_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for said, kind in (("database or disk is full", StoreFull), ("database is locked", StoreError)):

        def refused(*_: object, said: str = said, **__: object) -> None:
            raise sqlite3.OperationalError(said)

        monkeypatch.setattr("pixdex.journal.sqlite3.connect", refused)
        with pytest.raises(kind, match=f"cannot be written.*{said}"):
            Journal(file, encoder="toy")
    monkeypatch.undo()
    Journal(file, encoder="toy").__exit__(None, None, None)  # and nobody holds it


def test_a_journal_without_inodes_goes_on(file: Path) -> None:
    with Journal(file, encoder="toy") as journal:
        journal.record([entry("p", stamp=Stamp(3, 0, 0), at=1e6)])
    db = sqlite3.connect(file)
    db.executescript(
        "ALTER TABLE pictures DROP COLUMN inode; DROP TABLE mounts; DROP TABLE planned; PRAGMA user_version = 1"
    )
    db.close()
    with Journal(file, encoder="toy") as journal:
        assert journal.known("p", Stamp(3, 0, 0)) is None  # read once more
        journal.record([entry("p", stamp=Stamp(3, 0, 0), at=1e6)])
        assert journal.known("p", Stamp(3, 0, 0)) == "c-p"


@pytest.mark.parametrize("version", [0, 2])
def test_two_programs_may_open_an_old_journal_at_once(
    file: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version:
        with Journal(file, encoder="toy") as journal:
            journal.record([entry("a")])
        with sqlite3.connect(file) as db:
            db.executescript(f"DROP TABLE mounts; DROP TABLE planned; PRAGMA user_version = {version}")
        db.close()
    else:
        file.touch()
    real, others = sqlite3.Connection, []

    class Beside(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            found = super().execute(sql, *rest)
            if sql == "PRAGMA user_version" and not others:
                others.append(real)
                assert counts(file) == ({Status.ADDED: 1} if version else {})  # another program, in that instant
            return found

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **o: connect(*a, **o, factory=real if others else Beside))
    with Journal(file, encoder="toy") as journal:
        assert [one.id for one in journal.entries()] == ["a"] * bool(version)
        journal.keep_mounts([], [])
    assert others


def test_a_journal_that_was_damaged_is_named_and_no_pictures_fault(file: Path) -> None:
    with Journal(file, encoder="toy") as journal:
        journal.record([entry(f"p{n:05}", stamp=Stamp(3, 0, 0), at=1e6) for n in range(5000)])
    data = bytearray(file.read_bytes())
    data[4096 * 4 : -4096] = b"x" * (len(data) - 4096 * 5)
    file.write_bytes(bytes(data))
    with Journal(file, encoder="toy") as journal:
        assert journal.known("p02500", Stamp(3, 0, 0)) is None
        for use in (
            lambda: journal.record([entry("p02500")]),
            lambda: journal.seen([f"p{n:05}" for n in range(5000)]),
            lambda: list(journal.entries()),
        ):
            with pytest.raises(ConfigError, match="is not a journal that can be read .*: remove it"):
                use()
    with pytest.raises(ConfigError, match="remove it"):
        read(file)


def test_it_knows_what_it_has_met_and_where_drives_were(file: Path, tmp_path: Path) -> None:
    with Journal(file, encoder="toy") as journal:
        assert not journal.kept_before
        journal.record([entry("a"), entry("b", Status.REMOVED)])
        assert journal.met(["a", "b", "c"]) == {"a"}
        journal.plan(["a", "b", "d"])
        assert journal.planned() == ["b", "d"]
        assert journal.met(["a", "b", "c", "d"]) == {"a", "b", "d"}
        journal.record([entry("b", Status.REMOVED)])
        asked: list[str] = []
        journal._db.set_trace_callback(asked.append)
        assert journal.met(["a", "b", "c", "d"]) == {"a", "d"}
        journal._db.set_trace_callback(None)
        plans = [row[3] for sql in asked for row in journal._db.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert not [step for step in plans if step.startswith(("SCAN pictures", "SCAN planned"))], "whatever there is"
        assert any(step.startswith("SEARCH pictures") for step in plans)
        journal.keep_mounts([tmp_path], [str(tmp_path / "one"), str(tmp_path / "two")])
        journal.keep_mounts([tmp_path / "two"], [])  # another folder: only what is in it is looked at
        assert journal.mounts() == [str(tmp_path / "one")]
    with Journal(file, encoder="toy") as journal:
        assert journal.kept_before
        assert journal.seen(["a"]) == set()
        assert journal.met(["a"]) == {"a"}


def test_a_journal_of_a_newer_pixdex_is_refused(file: Path) -> None:
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(ConfigError, match="newer pixdex"):
        Journal(file, encoder="toy")


def test_no_room_for_the_journal_is_said_with_the_remedy(file: Path) -> None:
    with Journal(file, encoder="toy") as journal:
        journal.record([entry("a")])
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreFull, match="make room, or let PIXDEX_STATE"):
            journal.record([entry(f"p{n}") for n in range(5000)])
        assert [one.id for one in journal.entries()] == ["a"]  # all or none


def test_a_collection_has_one_journal_however_its_address_is_spelled(tmp_path: Path) -> None:
    one = journal_of(f"pq://{tmp_path}/photos.pix")
    assert one == journal_of(f"pq://{tmp_path}/x/../photos.pix#main")
    assert one != journal_of(f"pq://{tmp_path}/photos.pix#other")
    mirror = "mirror://?primary={}&secondary=memory://"
    assert journal_of(mirror.format(f"pq://{tmp_path}/x/../a.pix")) == journal_of(
        mirror.format(f"pq://{tmp_path}/a.pix")
    )
    assert journal_of("qdrant://host:6333/photos?key_env=A") == journal_of("qdrant://host:6333/photos")
