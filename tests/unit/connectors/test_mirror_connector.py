"""A mirror: the first store answers whatever becomes of the second, and what differs is noticed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pixdex
from pixdex import Batch, Collection, F
from pixdex._state import job_file
from pixdex.connectors.memory import MemoryConnector
from pixdex.connectors.mirror import Mirror
from pixdex.errors import AccessDenied, ConfigError, FingerprintMismatch, PartialWrite, StoreTimeout, StoreUnavailable
from pixdex.spec import Field, Fingerprint, Kind, Spec, Vector
from pixdex.types import Want

MARK = Fingerprint(encoder="toy", digest="0123abcd" * 4)
SPEC = Spec(vectors=(Vector(dim=4, fingerprint=MARK),), fields=(Field(name="n", kind=Kind.INT),))


class Shaky(MemoryConnector):
    """A store in memory that can be away."""

    away = False

    def _collection(self, name: str) -> Any:
        if self.away:
            raise StoreUnavailable("it is away")
        return super()._collection(name)


@pytest.fixture
def second() -> Shaky:
    return Shaky()


@pytest.fixture
def mirror(second: Shaky) -> Iterator[Mirror]:
    mirror = Mirror(MemoryConnector(), second, names={"photos": "copied"})
    yield mirror
    mirror.close()


@pytest.fixture
def photos(mirror: Mirror) -> Collection:
    collection = Collection.create(mirror, "photos", SPEC)
    collection.upsert(records(6))
    return collection


def records(count: int, start: int = 0) -> Batch:
    rows = range(start, start + count)
    vectors = np.random.default_rng(start).standard_normal((count, 4)).astype(np.float32)
    return Batch(tuple(f"r{row}" for row in rows), {"image": vectors}, tuple({"n": row} for row in rows))


def test_both_hold_what_is_written_and_answer_alike(photos: Collection, mirror: Mirror, second: Shaky) -> None:
    photos.delete(["r0"])
    photos.delete_where(F.n == 5)
    assert second.count("copied", None, timeout=None) == 4
    assert [hit.id for hit in photos.search_one([1, 0, 0, 0], k=9, where=F.n < 4)]
    assert photos.count(F.n < 3) == 2
    assert len(photos.fetch(["r1", "r2"])) == 2
    found = mirror.comparison()
    assert found.reads >= 3
    assert (found.differing, found.failed, found.unwritten, found.overlap) == (0, 0, 0, 1.0)


def test_a_second_store_that_is_away_disturbs_nobody_and_catches_up(
    photos: Collection, mirror: Mirror, second: Shaky
) -> None:
    second.away = True
    photos.upsert(records(3, start=10))
    photos.delete(["r0", "r10"])
    photos.flush()
    assert photos.count() == 7
    found = mirror.comparison()
    assert found.unwritten == 4  # r10 to r12, and r0 which is gone
    assert found.failed == 1
    second.away = False
    photos.flush()
    assert mirror.comparison().unwritten == 0
    assert (
        set(ids(second, "copied"))
        == set(ids(photos.connector, "photos"))
        == {"r1", "r2", "r3", "r4", "r5", "r11", "r12"}
    )


def test_what_was_missed_by_an_alias_is_brought_before_it_is_switched(
    photos: Collection, mirror: Mirror, second: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Collection.create(mirror, "other", SPEC)
    photos.alias("live")
    live = Collection.open(mirror, "live")
    second.away = True
    live.upsert(records(3, start=10))
    live.delete(["r0"])
    with pytest.raises(StoreUnavailable):
        other.alias("live")
    assert (mirror.aliases(timeout=None), second.aliases(timeout=None)) == ({"live": "photos"}, {"live": "copied"})
    second.away = False
    real, written = mirror._catch_up, []

    def meanwhile(name: str, timeout: float | None) -> None:
        real(name, timeout)
        monkeypatch.setattr(mirror, "_rests_until", float("inf"))
        live.upsert(records(1, start=20))  # missed, too, while all before was brought
        written.append(name)

    monkeypatch.setattr(mirror, "_catch_up", meanwhile)
    other.alias("live")
    assert written == ["live"]
    assert mirror.comparison().unwritten == 0
    assert set(ids(second, "copied")) == set(ids(mirror.primary, "photos"))
    assert {"r10", "r20"} <= set(ids(second, "copied"))
    assert ids(second, "other") == ()
    photos.unalias("live")
    photos.unalias("live")


def test_while_the_second_store_is_away_no_alias_is_switched(
    photos: Collection, mirror: Mirror, second: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is written by it later reaches two different collections, and is missed nowhere."""
    other = Collection.create(mirror, "other", SPEC)
    photos.alias("live")
    real = second.alias

    def away(alias: str, name: str | None, *, timeout: float | None) -> None:
        if second.away:
            raise StoreUnavailable("it is away")
        real(alias, name, timeout=timeout)

    monkeypatch.setattr(second, "alias", away)
    second.away = True
    with pytest.raises(StoreUnavailable):
        other.alias("live")
    with pytest.raises(StoreUnavailable):
        photos.unalias("live")
    assert (mirror.aliases(timeout=None), second.aliases(timeout=None)) == ({"live": "photos"}, {"live": "copied"})
    second.away = False
    other.alias("live")
    assert (mirror.aliases(timeout=None), second.aliases(timeout=None)) == ({"live": "other"}, {"live": "other"})


def test_a_file_of_what_was_missed_that_cannot_be_read_holds_up_no_switch(
    photos: Collection, mirror: Mirror, second: Shaky, caplog: pytest.LogCaptureFixture
) -> None:
    mirror._missed._db.execute("DROP TABLE missed_writes")
    photos.alias("live")
    assert second.aliases(timeout=None) == {"live": "copied"}
    assert "what the second store misses cannot be read" in caplog.text


def test_a_second_store_that_stays_away_is_told_once(
    photos: Collection, mirror: Mirror, second: Shaky, caplog: pytest.LogCaptureFixture
) -> None:
    for away in (True, False, True):
        second.away = away
        for _ in range(3):
            photos.count()
            mirror.comparison()
    assert mirror.comparison().failed == 6
    assert caplog.text.count("failed to answer count: it is away") == 2


@pytest.mark.parametrize("what", ["payload", "vector", "gone", "more"])
def test_what_differs_is_noticed_and_named(photos: Collection, mirror: Mirror, second: Shaky, what: str) -> None:
    (vector,) = photos.spec.vectors
    want = Want(payload=True, vectors=(vector.column,))
    batch = second.fetch("copied", ["r3"], want=want, timeout=None)
    if what == "payload":
        second.upsert("copied", replace(batch, payloads=({"n": 99},)), timeout=None)
    elif what == "vector":
        second.upsert("copied", replace(batch, vectors={vector.column: -batch.vectors[vector.column]}), timeout=None)
    elif what == "gone":
        second.delete("copied", ["r3"], timeout=None)
    else:
        second.upsert("copied", replace(batch, ids=("r99",)), timeout=None)
    for page in photos.scan(want=Want(payload=True, vectors=("image",))):
        assert len(page.batch) == 6  # the first answers as ever
    assert photos.count() == 6
    photos.search_one(batch.vectors[vector.column][0], k=6)
    examples = {example.verb: example.what for example in mirror.comparison().examples}
    assert (
        set(examples)
        == {
            "payload": {"scan"},
            "vector": {"scan", "search"},
            "gone": {"scan", "search", "count"},
            "more": {"search", "count"},
        }[what]
    )
    assert what == "more" or "'r3'" in examples["scan"]


def test_whatever_the_second_store_raises_is_no_callers_business(
    photos: Collection, mirror: Mirror, second: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*_: object, timeout: float | None) -> None:
        raise FingerprintMismatch("switched meanwhile")

    monkeypatch.setattr(second, "upsert", other)
    monkeypatch.setattr(second, "flush", lambda *_, timeout: 1 / 0)
    photos.upsert(records(2, start=20))
    photos.flush()
    assert photos.count() == 8
    assert mirror.comparison().unwritten == 2


def test_a_second_store_that_hangs_is_given_little_time_and_then_left_alone(
    second: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(MemoryConnector(), second, patience=0.5)
    photos = Collection.create(mirror, "photos", SPEC)
    given: list[float | None] = []

    def hanging(*_: object, timeout: float | None) -> None:
        given.append(timeout)
        raise StoreTimeout(f"no answer in {timeout} s")

    monkeypatch.setattr(second, "upsert", hanging)
    for start in (0, 10):
        photos.upsert(records(2, start=start))
    assert given == [0.5]
    monkeypatch.undo()
    photos.flush()
    assert mirror.comparison().unwritten == 0
    photos.upsert(records(1, start=30))
    assert second.count("photos", None, timeout=None) == 5  # written to again at once
    mirror.close()


def test_what_the_first_store_took_half_of_is_brought_over(
    photos: Collection, mirror: Mirror, second: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mirror.primary.upsert

    def half(name: str, batch: Batch, *, timeout: float | None) -> None:
        real(name, batch.take([0]), timeout=timeout)
        raise PartialWrite("the disk is full", done=[batch.ids[0]])

    monkeypatch.setattr(mirror.primary, "upsert", half)
    with pytest.raises(PartialWrite):
        photos.upsert(records(2, start=20))
    monkeypatch.undo()
    photos.flush()
    assert "r20" in ids(second, "copied")
    assert mirror.comparison().unwritten == 0


def test_it_opens_while_the_second_store_is_away(photos: Collection, mirror: Mirror, second: Shaky) -> None:
    second.away = True
    assert Collection.open(mirror, "photos").count() == 6
    second.describe = lambda *_, timeout: raising(AccessDenied("wrong key"))  # type: ignore[method-assign]
    with pytest.raises(AccessDenied):  # which will not pass
        Collection.open(mirror, "photos")


def raising(error: Exception) -> Any:
    raise error


def test_an_end_behind_is_told(
    photos: Collection, mirror: Mirror, second: Shaky, caplog: pytest.LogCaptureFixture
) -> None:
    second.away = True
    for start in (10, 20, 30):
        photos.upsert(records(3, start=start))
    photos.upsert(records(3, start=30))  # those are behind already
    mirror.close()
    assert mirror.comparison().unwritten == 9
    assert "9 records behind" in caplog.text


class Killed(BaseException):
    """The end of a program."""


def test_what_the_second_missed_is_known_after_a_restart(
    second: Shaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = MemoryConnector()
    photos = Collection.create(Mirror(first, second, missed=tmp_path / "missed"), "photos", SPEC)
    second.away = True
    photos.upsert(records(3))
    photos.delete(["r1"])
    photos = Collection.open(Mirror(first, second, missed=tmp_path / "missed"), "photos")  # after a kill
    assert photos.connector.comparison().unwritten == 3  # type: ignore[attr-defined]
    second.away = False
    monkeypatch.setattr(second, "upsert", lambda *_, timeout: raising(Killed()))  # between the two stores
    with pytest.raises(Killed):
        photos.upsert(records(2, start=10))
    monkeypatch.undo()
    mirror = Mirror(first, second, missed=tmp_path / "missed")
    Collection.open(mirror, "photos").flush()
    assert set(ids(second, "photos")) == set(ids(first, "photos")) == {"r0", "r2", "r10", "r11"}
    assert mirror.comparison().unwritten == 0
    mirror.close()


def test_a_file_that_remembers_nothing_fails_no_write(
    second: Shaky, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "missed").write_bytes(b"x" * 5000)
    mirror = Mirror(MemoryConnector(), second, missed=tmp_path / "missed")
    photos = Collection.create(mirror, "photos", SPEC)
    photos.upsert(records(2))
    assert "known to this program only" in caplog.text
    mirror._missed._db.close()
    photos.upsert(records(2))
    assert "cannot be remembered" in caplog.text
    assert second.count("photos", None, timeout=None) == photos.count() == 2
    assert mirror.comparison().unwritten == 0  # the second store has them
    second.away = True
    photos.upsert(records(2))
    assert mirror.comparison().unwritten == 2
    mirror.close()


def test_another_programs_write_is_not_forgotten(
    second: Shaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs write the same records; the second store fails one of them while the other one's are under way."""
    first = MemoryConnector()
    ours, theirs = (Mirror(first, second, missed=tmp_path / "missed") for _ in range(2))
    photos = Collection.create(ours, "photos", SPEC)
    others = Collection.open(theirs, "photos")
    new = replace(records(2), payloads=({"n": 70}, {"n": 71}))
    write = second.upsert

    def upsert(name: str, batch: Batch, *, timeout: float | None) -> None:
        write(name, batch, timeout=timeout)
        monkeypatch.undo()
        second.away = True
        others.upsert(new)
        second.away = False

    for step in (lambda: photos.upsert(records(2)), photos.flush):
        monkeypatch.setattr(second, "upsert", upsert)
        step()
        assert theirs.comparison().unwritten == ours.comparison().unwritten == 2
    photos.flush()
    assert [p["n"] for p in Collection.open(second, "photos").fetch(["r0", "r1"]).payloads or ()] == [70, 71]
    assert ours.comparison().unwritten == 0
    ours.close()
    theirs.close()


@pytest.mark.parametrize("earlier", ["primary", "secondary", "flush"])
def test_two_programs_that_overtake_one_another_are_brought_level(
    second: Shaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: str
) -> None:
    first = MemoryConnector()
    ours, theirs = (Mirror(first, second, missed=tmp_path / "missed") for _ in range(2))
    photos = Collection.create(ours, "photos", SPEC)
    others = Collection.open(theirs, "photos")
    store = first if earlier == "primary" else second
    write = store.upsert

    def upsert(name: str, batch: Batch, *, timeout: float | None) -> None:
        monkeypatch.undo()
        others.upsert(replace(records(2), payloads=({"n": 70}, {"n": 71})))
        write(name, batch, timeout=timeout)

    if earlier == "flush":
        ours._rests_until = float("inf")
        photos.upsert(records(2))
    monkeypatch.setattr(store, "upsert", upsert)
    if earlier == "primary":
        ours._rests_until = float("inf")
    photos.flush() if earlier == "flush" else photos.upsert(records(2))
    assert ours.comparison().unwritten == 2
    photos.flush()
    of_both = [Collection.open(one, "photos").fetch(["r0", "r1"]).payloads for one in (first, second)]
    assert of_both[0] == of_both[1]
    ours.close()
    theirs.close()


def test_closing_does_not_ask_again(photos: Collection, mirror: Mirror, second: Shaky) -> None:
    asked: list[int] = []
    begun = threading.Event()

    def count(*_: object, timeout: float | None) -> int:
        asked.append(1)
        begun.set()
        return 99

    second.count = count  # type: ignore[method-assign, assignment]
    photos.count()
    assert begun.wait(10)
    mirror.close()
    assert asked == [1]
    assert mirror.comparison().failed == 0


def test_an_answer_that_a_write_overtook_is_asked_for_again(photos: Collection, mirror: Mirror, second: Shaky) -> None:
    real = second.count
    stale = iter([5])
    second.count = lambda *args, timeout: next(stale, None) or real(*args, timeout=timeout)  # type: ignore[method-assign]
    assert photos.count() == 6
    found = mirror.comparison()
    assert (found.reads, found.differing) == (1, 0)


def test_while_writes_come_between_nothing_is_said_to_differ(
    photos: Collection, mirror: Mirror, second: Shaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mirror.primary.count

    def overtaken(name: str, where: Any, *, timeout: float | None) -> int:
        found = real(name, where, timeout=timeout)
        photos.upsert(records(1, start=100 + found))  # as by another thread, before the second is asked
        return found

    monkeypatch.setattr(mirror.primary, "count", overtaken)
    photos.count()
    found = mirror.comparison()
    assert (found.differing, found.failed, found.skipped) == (0, 0, 1)


def test_a_share_of_the_reads_is_compared() -> None:
    mirror = Mirror(MemoryConnector(), MemoryConnector(), share=0.25)
    photos = Collection.create(mirror, "photos", SPEC)
    for _ in range(40):
        photos.count()
        mirror.comparison()
    assert 2 <= mirror.comparison().reads <= 20
    mirror.close()


def test_by_address_with_pictures(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    first, other = tmp_path / "first.pix", tmp_path / "second.pix"
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    with pixdex.open(f"mirror://?primary=pq://{first}&secondary=pq://{other}%23copied", encoder="classic") as index:
        index.add([picture])
        assert len(index.search(picture)) == 1
    with pixdex.open(f"pq://{other}#copied") as index:
        assert index.count() == 1
    assert job_file("mirror", f"pq://{first}", f"pq://{other}#copied").exists()


def test_addresses_that_make_no_mirror(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="secondary=ADDRESS"):
        pixdex.connect("mirror://?primary=memory://")
    with pytest.raises(ConfigError, match="no option 'second'"):
        pixdex.connect("mirror://?primary=memory://&second=memory://")
    with pytest.raises(ConfigError, match="patience is 0"):
        pixdex.connect("mirror://?primary=memory://&secondary=memory://&patience=0")
    with pytest.raises(ConfigError, match="share is 2"):
        pixdex.connect("mirror://?primary=memory://&secondary=memory://&share=2")
    del tmp_path


def test_a_collection_that_the_second_lacks_or_has_otherwise_is_refused() -> None:
    first, second = MemoryConnector(), MemoryConnector()
    Collection.create(first, "photos", SPEC)
    with pytest.raises(ConfigError, match="no collection 'photos': make it with pixdex copy"):
        Collection.open(Mirror(first, second), "photos")
    Collection.create(second, "photos", replace(SPEC, fields=()))
    with pytest.raises(ConfigError, match="have other fields"):
        Collection.open(Mirror(first, second), "photos")


def test_a_collection_is_made_in_both_or_in_neither() -> None:
    first, second = MemoryConnector(), MemoryConnector()
    Collection.create(second, "photos", replace(SPEC, fields=()))
    with pytest.raises(ConfigError, match="have other fields"):
        Collection.create(Mirror(first, second), "photos", SPEC)
    assert list(first.names(timeout=None)) == []
    Collection.create(second, "others", SPEC)
    assert Collection.create(Mirror(first, second), "others", SPEC).count() == 0


def ids(connector: Any, name: str) -> tuple[str, ...]:
    from pixdex.types import Scan

    batch = connector.scan(name, Scan(size=100), timeout=None).batch
    return tuple(batch.ids)
