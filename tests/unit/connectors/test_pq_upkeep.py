"""Compaction and verification of the embedded store: nothing lost, nothing overlooked, whatever goes on meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.connectors import _pq_compact, _pq_derived
from pixdex.connectors._deadline import Deadline
from pixdex.connectors.memory import MemoryConnector
from pixdex.connectors.port import Upkeep
from pixdex.connectors.pq import PqConnector
from pixdex.errors import NotFound, StoreFormat, StoreFull, StoreTimeout, StoreUnavailable, Unsupported
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, Vector
from pixdex.types import Batch, Search, Want

PRINT = Fingerprint(encoder="e", digest="3fa9c1d2aa")
IMAGE = Vector(dim=8, metric=Metric.L2, fingerprint=PRINT)
TEXT = Vector(name="text", dim=4, metric=Metric.COSINE, dtype="float16", fingerprint=PRINT)
SPEC = Spec(
    vectors=(IMAGE, TEXT), fields=(Field(name="n", kind=Kind.INT), Field(name="tags", kind=Kind.TEXT, many=True))
)
ALL = Want(vectors=(IMAGE.column, TEXT.column), tokens=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photos.pix"


@pytest.fixture
def store(path: Path) -> Iterator[PqConnector]:
    """100 records, of which 30 were replaced and 20 deleted."""
    with_many = PqConnector(path)
    with_many.create("x", SPEC, timeout=None)
    with_many.upsert("x", make_batch(range(100)), timeout=None)
    with_many.upsert("x", make_batch(range(0, 90, 3), seed=1), timeout=None)
    with_many.delete("x", [f"r{n}" for n in range(40, 60)], timeout=None)
    yield with_many
    with_many.close()


def make_batch(numbers: Any, seed: int = 0) -> Batch:
    ids = tuple(f"r{n}" for n in numbers)
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(len(ids), 4)).astype(np.float32)
    vectors = {
        IMAGE.column: rng.normal(size=(len(ids), 8)).astype(np.float32),
        TEXT.column: text / np.linalg.norm(text, axis=1, keepdims=True),
    }
    payloads = tuple({"_rev": 1, "n": n, "tags": [f"t{n % 5}", "all"], "seed": seed} for n in numbers)
    tokens = tuple(np.full((2, 2), n % 100, dtype=np.int8) if n % 2 else None for n in numbers)
    return Batch(ids, vectors, payloads, tokens, {TEXT.column: np.arange(len(ids)) % 4 == 0})


def contents(store: PqConnector) -> dict[str, Any]:
    """Every record with all that it has."""
    batch = store.fetch("x", [f"r{n}" for n in range(300)], want=ALL, timeout=None)
    payloads, tokens = batch.payloads or (), batch.tokens or ()
    return {
        record: (
            payloads[i],
            None if tokens[i] is None else tokens[i].tolist(),
            *(batch.vectors[v.column][i].tolist() if batch.present(v.column)[i] else None for v in (IMAGE, TEXT)),
        )
        for i, record in enumerate(batch.ids)
    }


def compacted(store: PqConnector, prepare: Callable[..., None], progress: Callable[..., None] | None = None) -> None:
    """A compaction during which something happens: ``prepare`` is called when the copy is made."""
    _pq_compact.compact(
        store._store,
        store._vectors,
        "x",
        prepare=prepare,
        progress=progress or (lambda *_: None),
        deadline=Deadline(None),
    )


def nothing(*_: object) -> None:
    """Prepare nothing."""


def segments(path: Path) -> set[str]:
    return {file.name for file in path.glob("segments/*")}


def check(store: PqConnector, expected: dict[str, Any]) -> None:
    """The records are those, found by their vectors, and nothing is wrong."""
    assert contents(store) == expected
    assert store.count("x", None, timeout=None) == len(expected)
    for record in list(expected)[::17]:
        query = np.array([expected[record][2]], dtype=np.float32)
        assert store.search("x", Search(queries=query, k=1, using=IMAGE.column), timeout=None)[0][0].id == record
    assert store.verify("x", timeout=None) == []


# --- compaction -----------------------------------------------------------------------------------


def test_compaction_keeps_every_record_and_gives_room_back(path: Path, store: PqConnector) -> None:
    other, before, files, steps = PqConnector(path), contents(store), segments(path), []
    done = store.compact("x", progress=lambda *step: steps.append(step), timeout=None)
    assert (done.kept, done.removed) == (80 + 60, 50 + 37)
    assert done.freed > 0
    assert steps == [(80, 80), (60, 60)]
    for handle in (store, other, PqConnector(path)):
        check(handle, before)
    assert len(segments(path)) == 2
    assert not segments(path) & files
    assert sum(file.stat().st_size for file in path.glob("segments/*")) == 2 * 64 + 80 * 32 + 60 * 8
    assert store.compact("x", timeout=None).removed == 0
    store.upsert("x", make_batch(range(200, 230)), timeout=None)
    check(store, before | contents(store))


def test_writers_go_on_during_a_compaction(path: Path, store: PqConnector) -> None:
    def meanwhile(_: object, vector: Any, vectors: np.ndarray[Any, Any]) -> None:
        assert vectors.shape == (vector.rows, vector.dim)
        seed = 5 + vector.dim
        store.upsert("x", make_batch(range(10, 35), seed=seed), timeout=None)
        store.upsert("x", make_batch(range(100 * (seed % 2), 110), seed=seed + 1), timeout=None)
        store.delete("x", ["r11", "r61", "r104"], timeout=None)
        expected.update(contents(store))
        for gone in ("r11", "r61", "r104"):
            expected.pop(gone, None)

    expected: dict[str, Any] = {}
    compacted(store, meanwhile)
    check(store, expected)
    check(PqConnector(path), expected)


def test_readers_of_an_older_snapshot_go_on_or_are_told_to_read_again(path: Path, store: PqConnector) -> None:
    request = Search(queries=np.ones((1, 8), dtype=np.float32), k=5, using=IMAGE.column)
    mapped, unmapped = PqConnector(path), PqConnector(path)
    expected = mapped.search("x", request, timeout=None)
    again: list[Any] = []

    def search(handle: PqConnector) -> None:
        try:
            again.append(handle.search("x", request, timeout=None))
        except StoreUnavailable:
            again.append(handle.search("x", request, timeout=None))

    stop = threading.Event()

    def keep_searching() -> None:
        while not stop.is_set():
            search(mapped)
            search(unmapped)
            unmapped._vectors.close()
            unmapped._views.close()

    reader = threading.Thread(target=keep_searching)
    reader.start()
    for n in range(12):
        store.upsert("x", make_batch([250], seed=n), timeout=None)
        store.delete("x", ["r250"], timeout=None)
        store.compact("x", timeout=None)
    stop.set()
    reader.join()
    assert len(again) > 12
    wrong = [found for found in again if "r250" not in {hit.id for hit in found[0]} and found != expected]
    assert not wrong


def test_a_compaction_that_fails_changes_nothing(
    path: Path, store: PqConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, files = contents(store), segments(path)

    def fail(*_: object) -> None:
        raise StoreTimeout("no time")

    for stage in ("prepare", "exchange", "copy"):
        if stage == "exchange":
            monkeypatch.setattr(_pq_compact, "_exchange", fail)
        with pytest.raises(StoreTimeout):
            compacted(store, fail if stage == "prepare" else nothing, fail if stage == "copy" else None)
        assert segments(path) == files
        monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(StoreFull, match=r"needs 1 MiB .*0 MiB are free; nothing was changed"):
        store.compact("x", timeout=None)
    monkeypatch.undo()
    assert segments(path) == files
    check(store, before)


def test_a_drop_or_another_compaction_meanwhile_wins(path: Path, store: PqConnector) -> None:
    before = contents(store)
    seen: list[str] = []

    def other(_: object, vector: Any, __: object) -> None:
        if not seen:
            seen.append(vector.name)
            compacted(PqConnector(path), nothing)

    compacted(store, other)
    assert len(segments(path)) == 2
    check(store, before)
    store.upsert("x", make_batch(range(5), seed=9), timeout=None)
    with pytest.raises(NotFound):
        compacted(store, lambda *_: PqConnector(path).drop("x", timeout=None))
    assert segments(path) == set()


def test_what_is_damaged_is_not_copied(path: Path, store: PqConnector) -> None:
    store.close()
    before = segments(path)
    flip(largest(path), 64 + 5)
    again = PqConnector(path)
    with pytest.raises(StoreFormat, match="verify"):
        again.compact("x", timeout=None)
    assert segments(path) == before
    again.close()


def test_sqlite_gives_its_room_back(path: Path, store: PqConnector) -> None:
    store.upsert("x", Batch(("big",), {}, ({"_rev": 1, "text": "x" * 900_000},)), timeout=None)
    store.delete("x", ["big"], timeout=None)
    store.compact("x", timeout=None)
    assert (path / "pixdex.sqlite").stat().st_size < 300_000
    check(store, contents(store))


# --- verification ---------------------------------------------------------------------------------


def largest(path: Path) -> Path:
    return max(path.glob("segments/*"), key=lambda file: file.stat().st_size)


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def test_verify_names_the_block_and_the_records(path: Path, store: PqConnector) -> None:
    segment = largest(path)
    flip(segment, 64 + 70 * 32)  # also under a process that has read it: what is on the disk counts
    (found,) = store.verify("x", timeout=None)
    assert found.lost
    assert f"{segment}, bytes 64 to {64 + 130 * 32}" in found.place
    assert {"r70", "r0"} <= set(found.records)
    assert "r45" not in found.records


@pytest.mark.parametrize("wound", ["cut", "header", "gone"])
def test_verify_names_a_wounded_segment(path: Path, store: PqConnector, wound: str) -> None:
    segment = largest(path)
    data = segment.read_bytes()
    segment.unlink()
    if wound != "gone":
        segment.write_bytes(data[:100] if wound == "cut" else b"?" + data[1:])
    (found,) = store.verify("x", timeout=None)
    assert found.place == str(segment)
    assert len(found.records) == 80


@pytest.mark.parametrize(
    ("change", "words", "records"),
    [
        ("UPDATE b1 SET payload = CAST(replace(payload, '\"n\":7,', '\"n\":8,') AS BLOB)", "payload or the id", {"r7"}),
        ("UPDATE b1 SET payload = CAST(payload AS TEXT) WHERE row = 8", "payload or the id", {"r7"}),
        ("UPDATE r1 SET id = 'other' WHERE id = 'r7'", "payload or the id", {"other"}),
        ("UPDATE b1 SET tokens = x'00000000' WHERE row = 8", "token matrix", {"r7"}),
        ("UPDATE r1 SET f3 = 99 WHERE id = 'r7'", "filters do not see", {"r7"}),
        ("DELETE FROM m1 WHERE row = 8 AND value = 'all'", "filters do not see", {"r7"}),
        ("DELETE FROM b1 WHERE row = 8", "80 records have 79 payloads", set()),
        ("DELETE FROM dead WHERE ordinal = 3", "positions, but", set()),
        ("UPDATE vectors SET rows = rows + 1", "do not follow each other", set()),
        ("UPDATE collections SET spec = replace(spec, 'tags', 'tabs')", "the Spec of collection 'x'", set()),
    ],
)
def test_verify_finds_what_sqlite_does_not(
    path: Path, store: PqConnector, change: str, words: str, records: set[str]
) -> None:
    store.close()
    db = sqlite3.connect(path / "pixdex.sqlite")
    names = {name for _, name, *_ in db.execute("PRAGMA table_info(r1)")}
    typed = sorted(name for name in names if name.startswith("f"))
    change = change.replace(
        "f3", next(name for name in typed if db.execute(f"SELECT {name} FROM r1 WHERE id='r7'").fetchone() == (7,))
    )
    assert db.execute(change).rowcount
    db.commit()
    db.close()
    again = PqConnector(path)
    findings = again.verify("x", timeout=None)
    assert any(words in finding.what for finding in findings), findings
    assert all(finding.lost and finding.remedy for finding in findings)
    assert records <= {record for finding in findings for record in finding.records}
    again.close()


def test_a_flipped_payload_is_never_served(path: Path, store: PqConnector) -> None:
    store.close()
    db = sqlite3.connect(path / "pixdex.sqlite")
    db.execute("UPDATE b1 SET payload = CAST(replace(payload, '\"n\":7,', '\"n\":8,') AS BLOB)")
    db.execute("UPDATE b1 SET tokens = x'00000000' WHERE row = 10")
    db.commit()
    db.close()
    again = PqConnector(path)
    with pytest.raises(StoreFormat, match="payload of record 'r7'.*verify"):
        again.fetch("x", ["r7"], want=Want(), timeout=None)
    query = np.zeros((1, 8), dtype=np.float32)
    with pytest.raises(StoreFormat, match="payload of record 'r7'"):
        again.search("x", Search(queries=query, k=100, using=IMAGE.column), timeout=None)
    with pytest.raises(StoreFormat, match="token matrix of record 'r9'"):
        again.fetch("x", ["r9"], want=ALL, timeout=None)
    assert again.fetch("x", ["r8", "r9"], want=Want(), timeout=None).ids == ("r8", "r9")
    again.upsert("x", make_batch([7, 9]), timeout=None)  # the remedy
    assert again.verify("x", timeout=None) == []
    again.close()


def test_a_corrupt_database_is_found(path: Path, store: PqConnector) -> None:
    store.close()
    with (path / "pixdex.sqlite").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 4096)
    again = PqConnector(path)
    assert again.verify("x", timeout=None)
    again.close()


def test_a_damaged_derived_file_is_no_loss(path: Path, store: PqConnector) -> None:
    with store._store.reading(Deadline(None)) as db:
        file = db.execute("SELECT file FROM vectors LIMIT 1").fetchone()[0]
    derived = _pq_derived.path_of(path / "derived", "index", file, 5)
    _pq_derived.write(derived, "index", file, 5, {}, {"index": np.arange(50)})
    assert store.verify("x", timeout=None) == []
    flip(derived, 200)
    (found,) = store.verify("x", timeout=None)
    assert not found.lost
    assert found.place == str(derived)
    store.compact("x", timeout=None)
    assert list((path / "derived").iterdir()) == []


# --- copies ---------------------------------------------------------------------------------------


def test_a_copy_that_is_taken_while_a_writer_writes_is_whole(path: Path, tmp_path: Path) -> None:
    """The recipe of docs/embedded.md, step by step."""
    writer = """
        import sys, itertools; sys.path.insert(0, sys.argv[1])
        from test_pq_upkeep import *
        store = PqConnector(Path(sys.argv[2]))
        store.create("x", SPEC, timeout=None)
        for n in itertools.count():
            store.upsert("x", make_batch(range(n * 20, n * 20 + 20), seed=n), timeout=None)
            print(n, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(writer), str(Path(__file__).parent), str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(30):
        acknowledged = int(process.stdout.readline())
    copy = tmp_path / "copy.pix"
    copy.mkdir()
    backup = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))"
    subprocess.run(
        [sys.executable, "-c", backup, path / "pixdex.sqlite", copy / "pixdex.sqlite"], check=True, timeout=60
    )
    later = [int(process.stdout.readline()) for _ in range(5)]
    subprocess.run(["cp", "-r", path / "segments", copy], check=True, timeout=60)
    assert process.poll() is None
    process.kill()
    process.communicate()
    store = PqConnector(copy)
    assert store.verify("x", timeout=None) == []
    assert store.count("x", None, timeout=None) >= (acknowledged + 1) * 20
    for n in range(acknowledged + 1):
        batch = store.fetch("x", [f"r{i}" for i in range(n * 20, n * 20 + 20)], want=ALL, timeout=None)
        expected = make_batch(range(n * 20, n * 20 + 20), seed=n)
        np.testing.assert_array_equal(batch.vectors[IMAGE.column], expected.vectors[IMAGE.column])
    store.upsert("x", make_batch([999_999]), timeout=None)
    assert store.verify("x", timeout=None) == []
    assert store.compact("x", timeout=None).removed == 0
    store.close()
    assert later


# --- the facade -----------------------------------------------------------------------------------


def test_a_collection_is_compacted_and_verified(store: PqConnector) -> None:
    collection = Collection.open(store, "x")
    assert collection.compact().removed
    assert collection.verify() == []
    assert isinstance(store, Upkeep)
    memory = MemoryConnector()
    other = Collection.create(memory, "x", SPEC)
    for verb in (other.compact, other.verify):
        with pytest.raises(Unsupported, match="memory"):
            verb()
