"""Another encoder for a collection that is searched and written meanwhile: nothing lost, no answer of two encoders, and back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from typer.testing import CliRunner

import pixdex
from pixdex import Batch, Collection, F, Want, _plugins, _reindex_moving, _reindex_running, cli, connect, encoders
from pixdex._state import job_file, locked, normal
from pixdex.encoders.port import Features
from pixdex.errors import AlreadyExists, ConfigError, FingerprintMismatch, InvalidImage, NotFound, StoreLocked
from pixdex.reindexing import Options, drop_old, kept, name_alias, reindex, rollback

PLACES = {
    "memory": "memory://{name}",
    "pq": "pq://{folder}/store.pix",
    "qdrant+edge": "qdrant+edge://{folder}/edge",
    "milvus+lite": "milvus+lite://{folder}/lite.db",
}
NEEDS = {"pq": "faiss", "qdrant+edge": "qdrant_edge", "milvus+lite": "milvus_lite"}
PAGE = 16
QUICK = Options(sample=20, overlap=5.0)


class Turned(toys.ToyEncoder):
    """Another encoder of the same width: what one says of a picture means nothing to the other. ``delay`` seconds a picture."""

    def __init__(self, delay: float = 0.0, log: Path | None = None) -> None:
        super().__init__("turned")
        self.delay, self.log = delay, log

    def encode(self, prepared: Any, *, tokens: bool = False) -> Features:
        time.sleep(self.delay * len(prepared))
        if self.log is not None:
            with self.log.open("a") as file:
                file.write("." * len(prepared))
        made = super().encode(prepared, tokens=tokens)
        return Features(np.roll(made.vectors, 17, axis=1) * np.where(np.arange(48) % 2, 1, -1), made.tokens)


def load_turned(rest: str) -> Turned:
    """``turned:48``."""
    del rest
    log = os.environ.get("TURNED_LOG")
    return Turned(float(os.environ.get("TURNED_DELAY", "0")), None if log is None else Path(log))


def _with_both(installed: Callable[[str], dict[str, EntryPoint]]) -> Callable[[str], dict[str, EntryPoint]]:
    turned = {"turned": EntryPoint("turned", "test_reindexing:load_turned", encoders.GROUP)}
    known = toys.with_toy(installed)
    return lambda group: {**known(group), **(turned if group == encoders.GROUP else {})}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_plugins, "installed", _with_both(_plugins.installed))
    monkeypatch.setattr(_reindex_running, "_GRACE", 0.05)
    monkeypatch.setattr(_reindex_moving, "PAGE_RECORDS", PAGE)
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "state"))


@pytest.fixture(params=PLACES)
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return PLACES[request.param].format(folder=tmp_path, name=tmp_path.name)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return toys.folder(tmp_path / "pics", 12)


def made(store: str, pictures: Path, **options: Any) -> str:
    """A collection ``v1`` of the pictures, and its alias ``live``; the address of that."""
    with pixdex.open(f"{store}#v1", encoder="toy:48", **options) as index:
        index.add(pictures, progress=False)
    name_alias(f"{store}#v1", "live")
    return f"{store}#live"


@pytest.fixture
def live(store: str, pictures: Path) -> Iterator[str]:
    keeping, _ = connect(store)
    yield made(store, pictures)
    keeping.close()


def contents(url: str) -> dict[str, Any]:
    """id -> payload."""
    connector, name = connect(url)
    try:
        found: dict[str, Any] = {}
        for page in Collection.open(connector, name).scan():
            found |= dict(zip(page.batch.ids, page.batch.payloads or (), strict=True))
        return found
    finally:
        connector.close()


def spec_of(url: str) -> pixdex.Spec:
    connector, name = connect(url)
    try:
        return Collection.open(connector, name).spec
    finally:
        connector.close()


def encoder_of(url: str) -> str | None:
    return spec_of(url).encoder


def fed_from(url: str) -> str | None:
    return spec_of(url).fed_from


# --- meanwhile --------------------------------------------------------------------------------------------------------


class Beside(threading.Thread):
    """Calls something again and again until it is told to stop; what it raised is kept."""

    def __init__(self, work: Callable[[int], None], pause: float) -> None:
        super().__init__(daemon=True)
        self._work, self._pause = work, pause
        self._stop_it = threading.Event()
        self.count = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        while not self._stop_it.wait(self._pause):
            try:
                self._work(self.count)
            except BaseException as error:  # noqa: BLE001 - the test says what may be raised
                self.errors.append(error)
            self.count += 1

    def end(self) -> None:
        self._stop_it.set()
        self.join(30)


def test_who_reads_and_writes_notices_nothing(any_store: str, pictures: Path, tmp_path: Path) -> None:
    live = made(any_store, pictures, tokens=True)
    more = toys.folder(tmp_path / "more", 60, start=100)
    acknowledged: dict[str, bool] = {}
    old_ones = [f"pics/{n:02}.png" for n in range(8, 12)]
    wrong: list[str] = []
    with pixdex.open(live) as reader, pixdex.open(live) as writer:

        def search(count: int) -> None:
            name = f"{count % 8:02}.png"
            (hit,) = reader.search(str(pictures / name), k=1)
            if hit.id != f"pics/{name}" or hit.score < 0.999:
                wrong.append(f"{name}: {hit}")

        def write(count: int) -> None:
            if count % 7 == 6 and old_ones:
                acknowledged[old_ones[0]] = False
                writer.delete(old_ones.pop(0))
            elif count < 60:
                writer.add(more / f"{100 + count}.png", source="more", progress=False)
                acknowledged[f"more/{100 + count}.png"] = True

        reading, writing = Beside(search, 0.03), Beside(write, 0.03)
        reading.start()
        writing.start()
        report = reindex(live, encoder=Turned(0.03), options=QUICK)
        time.sleep(0.2)
        reading.end()
        writing.end()
        assert (reading.errors, writing.errors, wrong) == ([], [], [])
        assert reading.count > 5
        assert reader.encoder.reference == "turned:48"
    assert report.alias == "live"
    assert report.missing == ()
    assert report.compared is not None
    assert report.compared.found == report.compared.looked_for > 0
    there = contents(live)
    assert {record for record, present in acknowledged.items() if present is not (record in there)} == set()
    assert {f"pics/{n:02}.png" for n in range(8)} | set(old_ones) <= there.keys()
    old = contents(f"{any_store}#v1")
    assert {record: there[record] for record in old if record in there} == {r: old[r] for r in old if r in there}

    back = rollback(live)
    assert (back.left, back.back) == (report.new, "v1")
    assert encoder_of(live) == "toy:48"
    assert back.lacking == len(there.keys() - old.keys())
    forth = rollback(live, to=report.new)
    assert forth.back == report.new
    again = rollback(live, catch_up=True)
    assert (again.lacking, again.again) == (0, 0)
    assert contents(live) == there
    with pixdex.open(live) as reader:
        assert [hit.id for hit in reader.search(str(pictures / "05.png"), k=1)] == ["pics/05.png"]


def test_what_is_written_in_the_instant_of_the_switch_is_brought_along(
    live: str, store: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, meanwhile = toys.write(tmp_path / "late.png", 70), toys.write(tmp_path / "new.png", 71)
    real = Collection.alias

    def switched(self: Collection, alias: str) -> None:
        with pixdex.open(f"{store}#v1", encoder="toy:48") as old:
            old.add(late, source="x", progress=False)
            toys.write(pictures / "07.png", 77)
            old.add(pictures / "07.png", source="pics", progress=False)
            old.add(pictures / "08.png", source="pics", fields={"note": "old"}, progress=False)
            old.delete(["pics/03.png", "pics/09.png"])
        real(self, alias)
        with pixdex.open(live) as new:  # its users, from the first moment on
            new.add(meanwhile, source="x", progress=False)
            new.add(pictures / "08.png", source="pics", fields={"note": "new"}, progress=False)
            new.add(pictures / "09.png", source="pics", fields={"note": "new"}, progress=False)
            new.delete("pics/05.png")

    monkeypatch.setattr(Collection, "alias", switched)
    report = reindex(live, encoder=Turned(), options=QUICK)
    there = contents(live)
    assert there.keys() == {f"pics/{n:02}.png" for n in range(12) if n not in (3, 5)} | {"x/late.png", "x/new.png"}
    assert there["pics/08.png"]["note"] == "new"
    assert there["pics/07.png"]["content"] == contents(f"{store}#v1")["pics/07.png"]["content"]
    assert report.alias == "live"
    with pixdex.open(live) as index:
        assert index.search(str(pictures / "07.png"), k=1)[0].id == "pics/07.png"


def test_what_is_undone_in_the_instant_of_the_switch_stays_undone(
    any_store: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record written before it and deleted after it does not come back; one deleted before it and added again after it stays."""
    live = made(any_store, pictures)
    late = [toys.write(tmp_path / f"{name}.png", 70 + n) for n, name in enumerate(("stale", "fresh", "found"))]
    real, reports = Collection.alias, []

    def switched(self: Collection, alias: str) -> None:
        monkeypatch.setattr(Collection, "alias", real)
        with pixdex.open(live, encoder="toy:48") as stale:
            stale.add(late, source="x", fields={"note": "late"}, progress=False)
            stale.delete(["pics/03.png", "pics/04.png"])
            real(self, alias)
            stale.delete("x/stale.png")
        with pixdex.open(live) as fresh:
            fresh.delete("x/fresh.png")
            fresh.delete(F.ids(["x/found.png"]) | (F.content == "none"))
            reports.append(fresh.add(pictures / "03.png", source="pics", progress=False))

    monkeypatch.setattr(Collection, "alias", switched)
    report = reindex(live, encoder=Turned(), options=QUICK)
    assert report.alias == "live"
    assert (reports[0].reused, reports[0].added) == (1, 0)
    pics = {f"pics/{n:02}.png" for n in range(12)}
    assert contents(live).keys() == pics - {"pics/04.png"}
    with pixdex.open(live) as index:
        assert index.add(pictures / "03.png", source="pics", progress=False).unchanged == 1
        index.delete("pics/05.png")
    assert "pics/05.png" in contents(f"{any_store}#v1")  # which is as it was from then on

    def back(self: Collection, alias: str) -> None:
        monkeypatch.setattr(Collection, "alias", real)
        with pixdex.open(live) as index:
            index.add(late[:1], source="x", progress=False)
            real(self, alias)
            index.delete("x/stale.png")

    monkeypatch.setattr(Collection, "alias", back)
    assert rollback(live, catch_up=True).back == "v1"
    assert contents(live).keys() == pics - {"pics/04.png", "pics/05.png"}


def test_a_clock_that_is_set_back_meanwhile_loses_nothing(
    live: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, file = _reindex_running.compared, toys.write(tmp_path / "late.png", 70)

    def written(*args: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch, pixdex.open(f"{store}#v1", encoder="toy:48") as old:
            patch.setattr(Collection, "_next_revs", lambda *_: time.time_ns() // 1000 - 3_600_000_000)
            old.add(file, source="x", progress=False)
        return real(*args, **options)

    monkeypatch.setattr(_reindex_running, "compared", written)
    assert reindex(live, encoder=Turned(), options=QUICK).alias == "live"
    assert "x/late.png" in contents(live)


def test_a_rate_is_kept_until_the_switch(live: str) -> None:
    with pytest.raises(ConfigError, match="rate"):
        Options(rate=0)
    report = reindex(live, encoder=Turned(), options=Options(rate=20, overlap=5.0))
    assert report.alias == "live"
    assert report.seconds >= 12 / 20


def test_a_handle_goes_on_with_the_alias_unless_its_encoder_was_given(live: str, pictures: Path) -> None:
    with pixdex.open(live) as free, pixdex.open(live, encoder="toy:48") as bound:
        reindex(live, encoder=Turned(), options=QUICK)
        with pytest.raises(FingerprintMismatch, match="switched to another encoder"):
            bound.search(str(pictures / "01.png"))
        with pytest.raises(FingerprintMismatch, match="switched to another encoder"):
            bound.collection.refresh()
        assert free.search(str(pictures / "01.png"), k=1)[0].id == "pics/01.png"
        assert free.encoder.reference == "turned:48"
        free.add(toys.write(pictures / "20.png", 20), source="pics", progress=False)
        assert free.search(str(pictures / "20.png"), k=1)[0].score > 0.999


# --- killed -----------------------------------------------------------------------------------------------------------


def test_killed_at_any_instant_it_goes_on(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    toys.folder(pictures, 108, start=12)
    live = made(f"pq://{tmp_path}/store.pix", pictures)
    before = contents(live)
    log = tmp_path / "log"
    log.touch()
    environment = {
        **os.environ,
        "TURNED_DELAY": "0.02",
        "TURNED_LOG": str(log),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    command = [sys.executable, __file__, "reindex", live, "-e", "turned:48", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 60
        while log.stat().st_size < 4 * PAGE and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert encoder_of(live) == "toy:48"
    report = reindex(live, encoder=Turned(), options=QUICK)
    assert report.before > 0
    assert 120 <= report.written + report.before <= 120 + 2 * PAGE
    assert contents(live) == before
    assert encoder_of(live) == "turned:48"


@pytest.mark.parametrize("verb", ["alias", "remove_gone"])
def test_stopped_around_the_switch_the_same_call_ends_it(
    live: str, store: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pixdex._reindex_moving import Mover

    calls: list[int] = []
    kind = Collection if verb == "alias" else Mover
    real = getattr(kind, verb)

    def stopped(self: Any, *rest: Any) -> Any:
        calls.append(1)
        if verb == "alias" or len(calls) == 3:  # after the switch
            raise KeyboardInterrupt
        return real(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(kind, verb, stopped)
        with pytest.raises(KeyboardInterrupt):
            reindex(live, encoder=Turned(), options=QUICK)
    switched = verb != "alias"
    assert encoder_of(live) == ("turned:48" if switched else "toy:48")
    assert fed_from(live) == ("v1" if switched else None)
    with pixdex.open(f"{store}#v1", encoder="toy:48") as old:
        old.add(toys.write(tmp_path / "late.png", 70), source="x", progress=False)
        old.delete("pics/02.png")
    report = reindex(live, encoder=Turned(), options=QUICK)
    assert report.alias == "live"
    assert contents(live).keys() == contents(f"{store}#v1").keys()
    assert fed_from(live) is None
    assert "already" in " ".join(reindex(live, encoder=Turned(), options=QUICK).notices)


def cut_off(live: str, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """A reindexing to ``next`` that was killed ``before`` or ``after`` it switched the alias."""
    real = Collection.alias

    def killed(self: Collection, alias: str) -> None:
        if at == "after":
            real(self, alias)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "alias", killed)
        with pytest.raises(KeyboardInterrupt):
            reindex(live, encoder=Turned(), options=replace(QUICK, into="next"))


@pytest.mark.parametrize("at", ["before", "after"])
def test_what_was_cut_off_and_is_not_used_is_emptied_alone(
    live: str, store: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(live, monkeypatch, at)
    if at == "after":
        assert rollback(live).back == "v1"
        assert fed_from(f"{store}#next") is None
    with pixdex.open(f"{store}#next") as index:
        index.delete("pics/03.png")
        index.delete(F.content.exists())
    assert contents(f"{store}#next") == {}
    assert len(contents(live)) == 12


def test_cut_off_after_the_switch_it_is_fed_until_the_old_collection_is_gone(
    any_store: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = made(any_store, pictures)
    cut_off(live, monkeypatch, "after")
    assert fed_from(live) == "v1"
    with pytest.raises(ConfigError, match=r"'next' lacks what reached 'v1' last.*end that first.*--encoder turned:48"):
        reindex(live, encoder="toy:48", options=QUICK)
    with pixdex.open(live) as index:
        index.delete("pics/03.png")
        assert index.add(pictures, progress=False).unchanged == 0
        index.delete("pics/03.png")
    assert "pics/03.png" not in contents(f"{any_store}#v1")
    connector, _ = connect(any_store)
    Collection.open(connector, "v1").drop()
    connector.close()
    (pictures / "03.png").unlink()
    with pixdex.open(live) as index:
        assert index.add(pictures, progress=False).unchanged == 11
    with pixdex.open(f"{any_store}#v1", encoder="toy:48") as another:
        another.add(pictures, progress=False)
    with pixdex.open(live) as index:
        index.delete(["pics/04.png"])
    assert "pics/04.png" in contents(f"{any_store}#v1")
    assert fed_from(live) is None
    report = reindex(live, encoder=Turned(), options=QUICK)
    assert (report.written, report.deleted) == (0, 0)
    assert contents(live).keys() == {f"pics/{n:02}.png" for n in range(12)} - {"pics/03.png", "pics/04.png"}


def test_what_matches_by_a_field_that_is_new_since_the_switch_is_deleted_for_good(
    live: str, store: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(live, monkeypatch, "after")
    with pixdex.open(live) as index:
        index.add(pictures / "05.png", ids=["pics/05.png"], fields={"mood": "blue"}, progress=False)
        index.collection.alter(fields=[pixdex.Field(name="mood", kind=pixdex.Kind.TEXT)])
        index.delete(F.mood == "blue")
    assert "pics/05.png" not in contents(f"{store}#v1")
    reindex(live, encoder=Turned(), options=QUICK)
    assert contents(live).keys() == {f"pics/{n:02}.png" for n in range(12)} - {"pics/05.png"}


@pytest.mark.parametrize("stopped", [None, "_delete", "_delete_where"])
def test_what_is_deleted_by_a_filter_is_what_matches_in_its_newest_revision(
    live: str, store: str, pictures: Path, stopped: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records brought before the switch, written in its instant to the old collection, and since then to the new one."""

    def noted(url: str, number: int, note: str, encoder: str | None = None) -> None:
        with pixdex.open(url, encoder=encoder) as index:
            index.add(pictures / f"{number:02}.png", source="pics", fields={"note": note}, progress=False)

    connector, _ = connect(store)
    Collection.open(connector, "v1").alter(fields=[pixdex.Field(name="note", kind=pixdex.Kind.TEXT)])
    connector.close()
    for number in (1, 2, 3, 4):
        noted(live, number, "bad" if number < 3 else "good")
    cut_off(live, monkeypatch, "after")
    noted(f"{store}#v1", 2, "good", "toy:48")  # good by now, and not brought yet
    noted(f"{store}#v1", 5, "bad", "toy:48")
    noted(live, 3, "bad")
    noted(f"{store}#v1", 4, "bad", "toy:48")
    noted(live, 4, "better")
    with pixdex.open(live) as index:
        if stopped is not None:
            with monkeypatch.context() as patch:
                real = getattr(Collection, stopped)

                def killed(self: Collection, what: Any) -> None:
                    if stopped == "_delete" or self.name != "v1":
                        real(self, what)
                    raise KeyboardInterrupt

                patch.setattr(Collection, stopped, killed)
                with pytest.raises(KeyboardInterrupt):
                    index.delete(F.note == "bad")
        index.delete(F.note == "bad")
    reindex(live, encoder=Turned(), options=QUICK)
    there = contents(live)
    assert there.keys() == {f"pics/{n:02}.png" for n in range(12)} - {f"pics/{n:02}.png" for n in (1, 3, 5)}
    assert [there[f"pics/{n:02}.png"].get("note") for n in (2, 4)] == ["good", "better"]


def test_cut_off_after_the_switch_with_the_old_collection_gone_there_is_nothing_left_to_do(
    live: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(live, monkeypatch, "after")
    connector, _ = connect(store)
    Collection.open(connector, "v1").drop()
    assert "already" in " ".join(reindex(live, encoder=Turned(), options=QUICK).notices)
    assert fed_from(live) is None
    with pytest.raises(ConfigError, match="remembers nothing"):
        drop_old(live)


@pytest.mark.parametrize("forward", [False, True])
def test_a_rollback_that_was_cut_off_goes_on(
    live: str, store: str, forward: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_alias(f"{store}#v1", "first")
    reindex(live, encoder=Turned(), options=replace(QUICK, into="next"))
    if forward:
        rollback(live)
    back, left, to = ("next", "v1", "next") if forward else ("v1", "next", None)

    def killed(mover: Any) -> None:
        with pixdex.open(f"{store}#{left}") as index:  # what had begun before the switch
            index.add(toys.write(tmp_path / "late.png", 70), source="x", progress=False)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pixdex.reindexing.end_switch", killed)
        with pytest.raises(KeyboardInterrupt):
            rollback(live, to=to, catch_up=True, options=QUICK)
    assert fed_from(live) == left
    report = rollback(live, to=to, catch_up=True, options=QUICK)
    assert (report.left, report.back, report.caught_up) == (left, back, 1)
    assert "x/late.png" in contents(live)
    assert spec_of(live) == spec_of(f"{store}#{back}")
    assert fed_from(live) is None
    if forward:
        assert rollback(live).back == "v1"


def test_a_page_that_was_written_but_not_noted_counts_as_written(
    live: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pixdex._reindex_job import Ledger

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "note", killed)
        with pytest.raises(KeyboardInterrupt):
            reindex(live, encoder=Turned(), options=QUICK)
    report = reindex(live, encoder=Turned(), options=QUICK)
    assert report.written + report.before == 12
    with pixdex.open(live) as index:
        index.delete("pics/03.png")
    back = rollback(live, catch_up=True)
    assert (back.deleted, back.again) == (1, 0)
    assert "pics/03.png" not in contents(f"{store}#v1")


# --- what can be wrong ------------------------------------------------------------------------------------------------


def test_pictures_that_are_gone_are_named_and_nothing_is_switched_unless_allowed(live: str, pictures: Path) -> None:
    (pictures / "04.png").unlink()
    toys.write(pictures / "06.png", 66)
    with pytest.raises(InvalidImage, match=r"pics/0[46]\.png"):
        reindex(live, encoder=Turned(), options=Options(missing="stop"))
    report = reindex(live, encoder=Turned(), options=QUICK)
    assert report.alias is None
    assert "2 records" in (report.refused or "")
    assert {row.id for row in report.missing} == {"pics/04.png", "pics/06.png"}
    assert "another picture" in report.missing[1].reason
    assert encoder_of(live) == "toy:48"
    toys.write(pictures / "04.png", 4)
    report = reindex(live, encoder=Turned(), options=Options(allow_missing=1, overlap=5.0))
    assert report.alias == "live"
    assert [row.id for row in report.missing] == ["pics/06.png"]
    assert len(contents(live)) == 11


def test_a_record_without_a_picture_of_its_own_is_missing(live: str, store: str) -> None:
    connector, name = connect(live)
    Collection.open(connector, name).upsert(Batch(("loose",), {"image": np.ones((1, 48), np.float32)}))
    connector.close()
    report = reindex(live, encoder=Turned(), options=QUICK)
    assert [row.id for row in report.missing] == ["loose"]
    assert "does not say" in report.missing[0].reason
    assert report.refused is not None


def test_only_an_alias_can_be_switched_and_that_is_said_before_work_begins(store: str, pictures: Path) -> None:
    keeping, _ = connect(store)
    made(store, pictures)
    encoder = Turned()
    with pytest.raises(ConfigError, match="pixdex alias"):
        reindex(f"{store}#v1", encoder=encoder)
    assert encoder.total == 0
    report = reindex(f"{store}#v1", encoder=encoder, options=Options(switch=False))
    assert report.alias is None
    assert report.refused is None
    assert report.new == f"v1_{encoder.fingerprint.digest[:8]}"
    assert encoder_of(f"{store}#live") == "toy:48"
    assert encoder_of(f"{store}#{report.new}") == "turned:48"
    keeping.close()


def test_an_alias_that_names_another_collection_meanwhile_is_left_alone(
    live: str, store: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _reindex_running.compared

    def moved(*args: Any, **options: Any) -> Any:
        with pixdex.open(f"{store}#elsewhere", encoder="toy:48") as index:
            index.add(pictures / "00.png", progress=False)
        name_alias(f"{store}#elsewhere", "live")
        return real(*args, **options)

    monkeypatch.setattr(_reindex_running, "compared", moved)
    with pytest.raises(ConfigError, match="'elsewhere' by now"):
        reindex(live, encoder=Turned(), options=QUICK)
    assert len(contents(live)) == 1
    assert len(contents(f"{store}#v1")) == 12


def test_two_jobs_and_collections_of_others(live: str, store: str) -> None:
    place = normal(live).rpartition("#")[0]
    with locked(job_file("alias", f"{place}#live")), pytest.raises(StoreLocked, match="pid"):
        reindex(live, encoder=Turned())
    with locked(job_file("copy-to", f"{place}#next")), pytest.raises(StoreLocked, match="pid"):
        reindex(live, encoder=Turned(), options=Options(into="next"))
    with pixdex.open(f"{store}#next", encoder=Turned()) as index:
        index.add([toys.png(1)], ids=["mine"])
    with pytest.raises(AlreadyExists, match="--into"):
        reindex(live, encoder=Turned(), options=Options(into="next"))
    assert contents(f"{store}#next").keys() == {"mine"}
    for taken, what in (("live", "an alias"), ("v1", "is read")):
        with pytest.raises(ConfigError, match=f"{what}.*--into"):
            reindex(live, encoder=Turned(), options=Options(into=taken))


def test_a_collection_that_was_used_before_is_not_overwritten(live: str) -> None:
    report = reindex(live, encoder=Turned(), options=QUICK)
    rollback(live)
    with pytest.raises(AlreadyExists, match="--catch-up"):
        reindex(live, encoder=Turned(), options=QUICK)
    assert rollback(live, to=report.new).back == report.new


def test_rollback_without_memory_wants_a_name(live: str, store: str) -> None:
    with pytest.raises(ConfigError, match="--to NAME"):
        rollback(live)
    with pytest.raises(NotFound, match="stays where it is"):
        rollback(live, to="nowhere")
    with pytest.raises(ConfigError, match="nothing was dropped"):
        drop_old(live)
    report = reindex(live, encoder=Turned(), options=QUICK)
    assert kept(live) == ["v1"]
    assert drop_old(live) == "v1"
    assert kept(live) == []
    with pytest.raises(ConfigError, match="--to NAME"):
        rollback(live)
    assert contents(live).keys() == contents(f"{store}#{report.new}").keys()


# --- better or not ----------------------------------------------------------------------------------------------------


class Blind(Turned):
    """Tells nothing of a picture but its first cell."""

    def __init__(self) -> None:
        super().__init__()
        self.reference = "blind"
        self.fingerprint = pixdex.Fingerprint(encoder="blind", digest="b11d" * 8)
        self.token_spec = None

    def encode(self, prepared: Any, *, tokens: bool = False) -> Features:
        made = super().encode(prepared, tokens=False)
        return Features(made.vectors * (np.arange(48) < 1) + 1, None)


def labelled(store: str, tmp_path: Path) -> str:
    """Twenty pictures of five motifs, each with a little noise."""
    root = tmp_path / "motifs"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        noisy = toys.pixels(number % 5).astype(int) + rng.integers(-9, 9, (24, 32, 3))
        (root / f"{number:02}.png").write_bytes(toys.encoded(np.clip(noisy, 0, 255).astype(np.uint8)))
    with pixdex.open(f"{store}#v1", encoder="toy:48", fields={"motif": "int"}) as index:
        for motif in range(5):
            index.add([root / f"{n:02}.png" for n in range(motif, 20, 5)], fields={"motif": motif}, progress=False)
    name_alias(f"{store}#v1", "live")
    return f"{store}#live"


def test_by_labels_only_what_is_no_worse_takes_over(store: str, tmp_path: Path) -> None:
    keeping, _ = connect(store)
    live = labelled(store, tmp_path)
    with pytest.raises(ConfigError, match="--label"):
        Options(only_if_better=True)
    new = Turned()
    with pytest.raises(ConfigError, match="motif"):
        reindex(live, encoder=new, options=Options(label="motive"))
    assert new.total == 0
    asked = Options(label="motif", only_if_better=True, overlap=5.0)
    report = reindex(live, encoder=Blind(), options=asked)
    assert report.compared is not None
    assert report.compared.differences["map@r"].high < 0
    assert "may be worse" in (report.refused or "")
    assert encoder_of(live) == "toy:48"
    report = reindex(live, encoder=Turned(), options=asked)
    assert report.compared is not None
    assert report.compared.new["recall@1"].mean == 1.0
    assert report.alias == "live"
    keeping.close()


def test_an_encoder_that_does_not_find_its_own_pictures_is_refused(live: str) -> None:
    class Loose(Turned):
        def encode(self, prepared: Any, *, tokens: bool = False) -> Features:
            return Features(np.random.default_rng().standard_normal((len(prepared), 48)).astype(np.float32))

    report = reindex(live, encoder=Loose(), options=QUICK)
    assert "own record" in (report.refused or "")
    assert encoder_of(live) == "toy:48"


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_captions_fields_and_payload_stay_and_tokens_are_of_the_new_encoder(store: str, pictures: Path) -> None:
    keeping, _ = connect(store)
    live = made(store, pictures, tokens=True, fields={"album": "text"})
    connector, name = connect(live)
    collection = Collection.open(connector, name)
    word = pixdex.Fingerprint(encoder="words", digest="0dd5" * 8)
    collection.alter(vectors=(pixdex.Vector(name="text", dim=2, fingerprint=word),))
    batch = collection.fetch(["pics/01.png"], want=Want(vectors=("image",), tokens=True))
    text = {"text": np.array([[0.6, 0.8]], np.float32)}
    payload = {**(batch.payloads or ({},))[0], "album": "summer", "deep": {"n": [1, None]}}
    collection.upsert(Batch(batch.ids, {**batch.vectors, **text}, (payload,), batch.tokens))
    old = {p: r for page in collection.scan() for p, r in zip(page.batch.ids, page.batch.revs or (), strict=True)}
    reindex(live, encoder=Turned(), options=QUICK)
    new = Collection.open(connector, name)
    found = new.fetch(["pics/01.png", "pics/02.png"], want=Want(vectors=("image", "text"), tokens=True))
    np.testing.assert_allclose(found.vectors["text"][0], [0.6, 0.8], atol=1e-6)
    assert found.present("text").tolist() == [True, False]
    assert (found.payloads or ())[0] == payload
    assert new.spec.tokens == Turned().token_spec
    assert (found.tokens or (None,))[0] is not None
    assert new.count(F["album"] == "summer") == 1
    assert {p: r for page in new.scan() for p, r in zip(page.batch.ids, page.batch.revs or (), strict=True)} == old
    connector.close()
    keeping.close()


@pytest.mark.parametrize(("module", "verb"), [(_reindex_moving, "pages"), (_reindex_running, "compared")])
def test_captions_that_are_declared_meanwhile_are_brought_along(
    live: str, store: str, module: Any, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first pass, which began before, comes upon them."""
    word = pixdex.Fingerprint(encoder="words", digest="0dd5" * 8)
    real = getattr(module, verb)

    def captioned(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(module, verb, real)
        connector, name = connect(f"{store}#v1")
        old = Collection.open(connector, name)
        old.alter(vectors=(pixdex.Vector(name="text", dim=2, fingerprint=word),))
        batch = old.fetch(["pics/01.png"], want=Want(vectors=("image",)))
        text = {"text": np.array([[0.6, 0.8]], np.float32)}
        old.upsert(Batch(batch.ids, {**batch.vectors, **text}, batch.payloads))
        connector.close()
        return real(*args, **options)

    monkeypatch.setattr(module, verb, captioned)
    report = reindex(live, encoder=Turned(), options=QUICK)
    assert (report.missing, report.alias) == ((), "live")
    connector, name = connect(live)
    found = Collection.open(connector, name).fetch(["pics/01.png"], want=Want(vectors=("text",)))
    connector.close()
    np.testing.assert_allclose(found.vectors["text"][0], [0.6, 0.8], atol=1e-6)


def test_a_head_on_top_needs_no_picture(store: str, pictures: Path) -> None:
    from pixdex.encoders.heads import LinearHead

    keeping, _ = connect(store)
    plain = encoders.load("mini").with_head(None, reference="plain")
    weight = np.random.default_rng(0).standard_normal((plain.dim, 16)).astype(np.float32)
    headed = plain.with_head(LinearHead(weight, np.zeros(16, np.float32)), reference="headed")
    with pixdex.open(f"{store}#v1", encoder=plain) as index:
        index.add(pictures, progress=False)
    name_alias(f"{store}#v1", "live")
    gone = pictures.rename(pictures.with_name("away"))
    report = reindex(f"{store}#live", encoder=headed, options=QUICK)
    assert report.derived
    assert report.alias == "live"
    with pixdex.open(f"{store}#live", encoder=headed) as index:
        (hit,) = index.search(str(gone / "03.png"), k=1)
    assert (hit.id, round(hit.score, 3)) == ("pics/03.png", 1.0)
    with pytest.raises(ConfigError, match="cannot be made here"):
        rollback(f"{store}#live", catch_up=True)
    keeping.close()


# --- from the shell ---------------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_did(live: str, store: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(os, "nice", steps.append)
    run = CliRunner().invoke
    assert run(cli.app, ["reindex", live]).exit_code == 2
    done = run(cli.app, ["reindex", live, "-e", "turned:48", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["alias"] == "live"
    back = run(cli.app, ["rollback", live])
    assert "names v1 again" in back.stdout
    assert steps == [10]
    assert run(cli.app, ["rollback", live, "--to", report["new"], "--catch-up"]).exit_code == 0
    assert "dropped v1" in run(cli.app, ["reindex", live, "--drop-old", "--yes"]).stderr
    (pictures / "01.png").unlink()
    done = run(cli.app, ["reindex", live, "-e", "toy:48"])
    assert done.exit_code == 1
    assert "not switched" in done.stdout
    assert "pics/01.png" in done.stderr
    assert "before" in run(cli.app, ["alias", f"{store}#{report['new']}", "live"]).stderr


def main() -> None:
    """The command with the two encoders, for a child that is killed."""
    sys.modules.setdefault("test_reindexing", sys.modules[__name__])
    _plugins.installed = _with_both(_plugins.installed)
    _reindex_moving.PAGE_RECORDS = PAGE
    cli.main()


if __name__ == "__main__":
    main()
