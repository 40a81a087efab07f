"""Columns read from a real store: by position, grown, saved, shared by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pixdex.connectors import _pq_columns, _pq_derived, _pq_records
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._pq_columns import Columns, load, positions_of
from pixdex.connectors._pq_mask import mask
from pixdex.connectors._pq_store import Store
from pixdex.connectors.pq import PqConnector, PqOptions
from pixdex.filters import F, Filter, bind, matches
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, Vector
from pixdex.types import Batch

if TYPE_CHECKING:
    import sqlite3

    from pixdex.connectors._pq_records import Physical, Snapshot

    Moment = tuple[sqlite3.Connection, Snapshot, Physical]

IMAGE = Vector(dim=2, metric=Metric.L2, fingerprint=Fingerprint(encoder="e", digest="3fa9c1d2aa"))
FIELDS = tuple(Field(name=f"{kind}{'s' * many}", kind=kind, many=many) for kind in Kind for many in (False, True))
SPEC = Spec(vectors=(IMAGE,), fields=FIELDS)
SAMPLES: dict[Kind, Sequence[Any]] = {
    Kind.TEXT: ("a", "a\0b", "", "é"),
    Kind.INT: (0, -1, 2**53 - 1),
    Kind.FLOAT: (0.1, -0.0, 5e-324),
    Kind.BOOL: (True, False),
    Kind.TIME: ("2020-05-01T12:00:00+00:00", "1969-12-31T23:59:59.999999+00:00"),
    Kind.GEO: ({"lat": 1.0, "lon": 179.9}, {"lat": 1.0, "lon": -179.9}),
}
WHERES: Sequence[Filter] = (
    F.text == "a\0b",
    F.texts.contains("é"),
    F.int > -1,
    F.ints.contains(2**53 - 1),
    F.float == 0.0,
    F.floats.contains(5e-324),
    ~(F.bool == True),  # noqa: E712 - builds a filter
    F.bools.contains(False),
    F.time < "2000-01-01T00:00:00Z",
    F.times.contains("2020-05-01T12:00:00Z"),
    F.geo.within(1.0, 180.0, 50.0),
    F.geos.within_box(0.0, 179.0, 2.0, -179.95),
    ~F.texts.exists(),
    F.ids(["r3", "r5", "nonesuch"]),
)


def payload_of(number: int) -> dict[str, Any]:
    """Each field is absent, or one of the samples, in turn."""
    values: dict[str, Any] = {"_rev": number}
    for place, field in enumerate(FIELDS):
        some = SAMPLES[field.kind]
        turn = (number + place) % (len(some) + 1)
        if turn < len(some):
            values[field.name] = [some[turn], some[0]] if field.many else some[turn]
    return values


class Photos:
    """A store with one collection, and moments of it."""

    def __init__(self, path: Path) -> None:
        self.connector = PqConnector(path, PqOptions(sync=False))
        self.connector.create("x", SPEC, timeout=None)
        self.store = Store(path, sync=False)
        self.folder = self.store.derived
        self.payloads: list[dict[str, Any]] = []

    def add(self, count: int) -> None:
        start = len(self.payloads)
        fresh = [payload_of(number) for number in range(start, start + count)]
        self.payloads += fresh
        ids = tuple(f"r{number}" for number in range(start, start + count))
        matrix = np.zeros((count, 2), dtype=np.float32)
        self.connector.upsert("x", Batch(ids, {IMAGE.column: matrix}, tuple(fresh)), timeout=None)

    @contextmanager
    def now(self) -> Iterator[Moment]:
        with self.store.reading(Deadline.after(None)) as db:
            target = _pq_records.resolve(db, "x")
            yield db, target, target.vectors[IMAGE.column]

    def load(self) -> Columns:
        with self.now() as moment:
            return load(*moment, self.folder)

    def find(self, columns: Columns, where: Filter) -> list[bool]:
        with self.now() as moment:
            asked = partial(columns.column, *moment)
            found: list[bool] = mask(bind(where, SPEC), columns.rows, asked, partial(positions_of, *moment)).tolist()
            return found

    def expected(self, where: Filter, count: int) -> list[bool]:
        bound = bind(where, SPEC)
        return [matches(bound, f"r{number}", payload) for number, payload in enumerate(self.payloads[:count])]


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Photos]:
    made = Photos(tmp_path / "store")
    yield made
    made.store.close()
    made.connector.close()


def check(photos: Photos, columns: Columns, count: int) -> None:
    assert columns.rows == count
    backwards = np.arange(count)[::-1]
    assert columns.ids_at(backwards) == [f"r{number}" for number in backwards]
    assert columns.rows_at(backwards) == [number + 1 for number in backwards]
    for where in WHERES:
        assert photos.find(columns, where) == photos.expected(where, count), str(where)


def test_columns_hold_what_the_records_hold(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pq_columns, "_CHUNK", 16)  # several chunks
    assert photos.load().rows == 0
    photos.add(41)
    check(photos, photos.load(), 41)


def test_columns_grow_and_older_ones_stay(photos: Photos) -> None:
    kept = []
    columns = photos.load()
    for step in range(12):
        photos.add(1 + step % 3)
        with photos.now() as moment:
            columns = columns.extended(*moment)
        kept.append((columns, len(photos.payloads)))
        if step % 4 == 0:  # so that fields lag behind, too
            check(photos, columns, len(photos.payloads))
    for older, count in kept:
        check(photos, older, count)
    assert len(columns.ids.parts) < 6


def test_what_was_saved_is_mapped_and_completed(photos: Photos) -> None:
    photos.add(30)
    columns = photos.load()
    for where in WHERES[:6]:
        photos.find(columns, where)
    columns.save(photos.folder)
    photos.add(4)
    again = photos.load()
    assert not again.ids.parts[0].data.flags.writeable
    assert set(again.fields) == set(columns.fields)
    check(photos, again, 34)


def test_a_damaged_file_is_left_out(photos: Photos) -> None:
    photos.add(10)
    photos.load().save(photos.folder)
    [path] = photos.folder.glob("*.columns")
    data = bytearray(path.read_bytes())
    data[-80] ^= 1
    path.write_bytes(data)
    check(photos, photos.load(), 10)


def test_the_dead_are_absent_only_to_later_snapshots(photos: Photos) -> None:
    """A snapshot that still has a record finds it, though a newer file or column lacks it."""
    photos.add(8)
    where = F.int.exists()
    with photos.now() as before:
        columns = load(*before, photos.folder)
        photos.connector.delete("x", ["r1", "r2"], timeout=None)
        newer = photos.load()
        assert newer.ids_at(np.array([1, 2, 3])) == ["", "", "r3"]
        assert newer.rows_at(np.array([1, 2, 3])) == [0, 0, 4]
        newer.save(photos.folder)
        assert photos.find(columns, where) != photos.expected(where, 8)  # read after they died
        found = mask(bind(where, SPEC), 8, partial(columns.column, *before), partial(positions_of, *before))
        assert found.tolist() == photos.expected(where, 8)
        assert load(*before, photos.folder).ids_at(np.array([1])) == ["r1"]


def test_all_may_have_died(photos: Photos) -> None:
    photos.add(3)
    photos.connector.delete("x", ["r0", "r1", "r2"], timeout=None)
    columns = photos.load()
    columns.save(photos.folder)
    for known in (columns, photos.load()):
        assert known.ids_at(np.arange(3)) == ["", "", ""]
        assert photos.find(known, F.text.exists() | F.texts.exists()) == [False] * 3


def test_a_replaced_record_has_its_values_at_its_new_place(photos: Photos) -> None:
    photos.add(3)
    changed = {"_rev": 9, "int": 77, "texts": ["new"]}
    batch = Batch(("r0",), {IMAGE.column: np.ones((1, 2), dtype=np.float32)}, (changed,))
    photos.connector.upsert("x", batch, timeout=None)
    columns = photos.load()
    assert columns.ids_at(np.arange(4)) == ["", "r1", "r2", "r0"]
    assert photos.find(columns, F.int == 77) == [False, False, False, True]
    assert photos.find(columns, F.texts.contains("new")) == [False, False, False, True]


def test_a_field_of_a_later_spec_is_read(photos: Photos) -> None:
    photos.add(6)
    columns = photos.load()
    columns.save(photos.folder)
    added = Spec(vectors=SPEC.vectors, fields=(*SPEC.fields, Field(name="late", kind=Kind.INT)))
    photos.connector.alter("x", added, timeout=None)
    for known in (columns, photos.load()):
        with photos.now() as moment:
            late = added.field("late")
            assert late is not None
            assert not known.column(*moment, late).ask(lambda part: part.present()).any()


def test_readers_of_older_columns_are_not_disturbed(photos: Photos) -> None:
    photos.add(50)
    older = photos.load()
    expected = photos.expected(F.text == "a", 50)
    wrong: list[Any] = []
    done = threading.Event()

    def read(ask: Callable[[], list[bool]]) -> None:
        while not done.is_set():
            if ask() != expected:
                wrong.append(1)

    threads = [threading.Thread(target=read, args=(partial(photos.find, older, F.text == "a"),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    newer = older
    for _ in range(15):
        photos.add(7)
        with photos.now() as moment:
            newer = newer.extended(*moment)
        assert photos.find(newer, F.text == "a") == photos.expected(F.text == "a", newer.rows)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_derived_file_of_another_vector_is_not_taken(photos: Photos) -> None:
    photos.add(5)
    columns = photos.load()
    columns.save(photos.folder)
    [path] = photos.folder.glob("*.columns")
    path.rename(_pq_derived.path_of(photos.folder, "columns", columns.file ^ 1, 5))
    assert photos.load().ids.parts[0].data.flags.writeable
