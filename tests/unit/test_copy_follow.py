"""A copy that keeps up with a source under a running product, until it is told to stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pixdex import Batch, Collection, F, Field, Fingerprint, Kind, Spec, Vector, _cli_copy, cli, connect
from pixdex._copy_job import Job
from pixdex.copying import Moving, Until, check, copy
from pixdex.errors import ConfigError

SPEC = Spec(
    vectors=(Vector(dim=4, fingerprint=Fingerprint(encoder="toy", digest="ab" * 8)),),
    fields=(Field(name="stock", kind=Kind.INT),),
)


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "state"))


@pytest.fixture
def place(tmp_path: Path) -> Callable[[str], str]:
    """The address of an empty place, by the kind of its store."""
    return lambda kind: f"{kind}://{tmp_path}/{kind}" + ("#c" if kind == "memory" else ".pix")


def records(start: int, count: int, stock: int = 0) -> Batch:
    vectors = np.random.default_rng(start).standard_normal((count, 4)).astype(np.float32)
    ids = tuple(f"r{n:05}" for n in range(start, start + count))
    return Batch(ids, {"image": vectors}, tuple({"stock": stock + n} for n in range(count)))


def filled(url: str) -> Collection:
    collection = Collection.create(*connect(url), SPEC)
    collection.upsert(records(0, 50))
    return collection


def come(true: Callable[[], bool]) -> None:
    """Wait until something is true; it is seconds, not minutes."""
    late = time.monotonic() + 20
    while not true():
        assert time.monotonic() < late
        time.sleep(0.01)


@pytest.mark.parametrize(("one", "other"), [("memory", "pq"), ("pq", "memory")])
def test_what_is_written_and_deleted_is_there_while_it_follows_and_proven_when_it_stops(place, one, other):
    source, until, seen = filled(place(one)), Until(every=0.01, ids_every=0.01), []

    def product() -> None:
        try:
            come(lambda: until.begun)
            there = Collection.open(*connect(place(other)))
            for n in range(10):
                source.upsert(records(1000 + n, 1))
                source.upsert(records(n, 1, stock=777))
            source.delete(["r00020", "r01000"])
            come(lambda: there.count() == 50 + 10 - 2 and there.count(F.stock == 777) == 10)
            seen.append(there.count())
            source.upsert(records(2000, 3))  # between the last look and the end
            there.connector.close()
        finally:
            until.stop()

    writer = threading.Thread(target=product, daemon=True)
    writer.start()
    report = copy(place(one), place(other), overlap=1.0, follow=until)
    writer.join()
    assert seen == [58]
    assert report.signed_off, report.checks
    assert report.target.count == 61
    assert report.caught_up >= 20
    assert report.deleted >= 1
    assert check(place(one), place(other)).signed_off
    source.connector.close()


def at_last(until: Until) -> Until:
    """The same, which ends at last where a test would wait for ever."""
    timer = threading.Timer(20.0, until.stop)
    timer.daemon = True
    timer.start()
    return until


def test_it_ends_by_itself_at_a_time(place):
    filled(place("memory")).connector.close()
    began = time.monotonic()
    until = at_last(Until(datetime.now(UTC) + timedelta(seconds=0.3), every=60.0))
    report = copy(place("memory"), place("pq"), follow=until)
    assert report.signed_off, report.checks
    assert 0.3 <= time.monotonic() - began < 20  # not a pass later


def test_a_clock_that_is_set_back_meanwhile_loses_no_write(place, monkeypatch):
    source = filled(place("memory"))
    real, passes = time.time_ns, []

    def set_back(now: Moving) -> None:
        passes.append(now.phase)
        if passes == ["copying"]:
            monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600_000_000_000)
            Collection.open(source.connector, source.name).upsert(records(1, 1, stock=777))

    report = copy(place("memory"), place("pq"), overlap=1.0, progress=set_back)
    assert report.signed_off, report.checks
    # Found by its revision: of a large collection the proof compares some, and may not come across it.
    assert passes.index("catching up") < passes.index("checking")
    source.connector.close()


def test_a_vector_declared_meanwhile_ends_it_and_is_told(place):
    source = filled(place("memory"))
    late = Vector(name="late", dim=2, fingerprint=Fingerprint(encoder="w", digest="cd" * 16))

    def declare(now: Moving) -> None:
        if now.phase == "keeping up" and len(source.spec.vectors) == 1:
            source.alter(vectors=(late,))

    report = copy(place("memory"), place("pq"), follow=at_last(Until(every=0.0, ids_every=0.0)), progress=declare)
    assert not report.signed_off
    assert "it has no vector 'late'" in report.checks[-1].said
    source.connector.close()


def test_it_may_be_stopped_by_a_signal_at_any_instant_of_its_wait():
    """Its handler runs between two steps of the thread that waits, whatever that holds."""
    until, heard = Until(), []

    def handler(*_: Any) -> Any:
        heard.append(until.stop())
        return handler

    def waiting() -> None:
        sys.settrace(handler)
        until.wait(0.5)

    thread = threading.Thread(target=waiting, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert heard
    assert until.over


def test_what_is_written_again_and_again_takes_room_in_what_is_remembered_once(tmp_path):
    with Job(tmp_path / "job") as job:
        for phase in ("main", "catch", "catch", "done"):
            job.remember(phase=phase)
            job.intend([f"r{n}" for n in range(1000)])
            job.acknowledge(["r0"], seen=1)
        assert job._db.execute("SELECT count(*) FROM written").fetchone() == (1000,)
        job.intend(["new"])
        assert job.wrote(["r999", "new", "none"]) == {"r999", "new"}


@pytest.mark.parametrize("follow", [False, True])
def test_a_source_whose_alias_was_switched_meanwhile_is_not_signed_off(place, follow):
    source = filled(place("memory"))
    source.alias("live")
    other = Collection.create(source.connector, "other", SPEC)
    live = place("memory").replace("#c", "#live")
    assert copy(live, place("pq"), follow=at_last(Until(datetime.now(UTC))) if follow else None).signed_off

    def switch(now: Moving) -> None:
        if now.phase == "comparing ids":
            other.alias("live")

    until = at_last(Until(every=0.0, ids_every=0.0)) if follow else None
    report = copy(live, place("pq"), follow=until, switch_alias="shop", progress=switch)
    assert not report.signed_off
    assert report.alias is None
    assert "'live' names another collection than 'c' by now" in report.checks[-1].said
    source.connector.close()


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"at": datetime(2030, 1, 1)}, "of which time zone"), ({"every": -1.0}, "seconds, from 0")],
)
def test_what_is_no_time_is_told(asked, said):
    with pytest.raises(ConfigError, match=said):
        Until(**asked)


# --- the command -------------------------------------------------------------------------------------------------------


def ran(monkeypatch: pytest.MonkeyPatch, progress: Callable[[Moving], None], *words: str) -> Any:
    @contextmanager
    def following() -> Iterator[Any]:
        yield progress

    monkeypatch.setattr(_cli_copy, "following", following)
    return CliRunner().invoke(cli.app, ["copy", *words])


def pressed() -> None:
    """Ctrl-C, by what hears it."""
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    handler(signal.SIGINT, None)


def test_ctrl_c_ends_following_with_a_last_pass_and_the_proof(place, monkeypatch):
    source, before = filled(place("memory")), signal.getsignal(signal.SIGINT)

    def once(now: Moving) -> None:
        if now.phase == "keeping up":
            source.upsert(records(100, 1))
            pressed()

    done = ran(monkeypatch, once, place("memory"), place("pq"), "--follow", "--switch-alias", "live")
    assert done.exit_code == 0, done.output
    assert "signed off" in done.stdout
    assert "51 in the target" in done.stdout
    assert "alias live names the target now" in done.stderr
    assert signal.getsignal(signal.SIGINT) is before
    source.connector.close()


@pytest.mark.parametrize("phase", ["copying", "checking"])
def test_ctrl_c_while_it_copies_and_a_second_one_stop_at_once(place, monkeypatch, phase):
    filled(place("memory")).connector.close()

    def again(now: Moving) -> None:
        if now.phase in ("keeping up", phase):
            pressed()

    done = ran(monkeypatch, again, place("memory"), place("pq"), "--follow")
    assert done.exit_code == 130
    assert "what was copied stays, and the same command goes on from there" in done.stderr
    assert copy(place("memory"), place("pq")).signed_off


def test_until_is_a_time_to_come():
    now = datetime(2026, 8, 1, 22, 0, tzinfo=timezone(timedelta(hours=2)))
    assert _cli_copy.moment("23:15", now) == now + timedelta(hours=1, minutes=15)
    assert _cli_copy.moment("06:30", now) == now + timedelta(hours=8, minutes=30)
    assert _cli_copy.moment("2026-08-02T06:30+02:00", now) == now + timedelta(hours=8, minutes=30)
    for text, said in (("2026-07-01T06:30+02:00", "over"), ("soon", "give a time"), ("2026-13-01", "give a time")):
        with pytest.raises(ConfigError, match=said):
            _cli_copy.moment(text, now)


def test_until_goes_with_follow(place, monkeypatch):
    assert ran(monkeypatch, lambda _: None, place("memory"), place("pq"), "--until", "06:30").exit_code == 2
    assert ran(monkeypatch, lambda _: None, place("memory"), place("pq"), "--check", "--follow").exit_code == 2
