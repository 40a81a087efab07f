"""Group commit of the embedded store: threads that write at once share what the disk takes, and nothing else."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixdex.connectors import _pq_records as records
from pixdex.connectors import _pq_store
from pixdex.connectors._pq_schema import Connection
from pixdex.connectors._pq_segments import Block
from pixdex.connectors.pq import PqConnector
from pixdex.errors import StoreError, StoreFull, StoreTimeout
from pixdex.spec import Fingerprint, Metric, Spec, Vector
from pixdex.types import Batch, Want

IMAGE = Vector(dim=8, metric=Metric.L2, fingerprint=Fingerprint(encoder="e", digest="3fa9c1d2aa"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "photos.pix"


@pytest.fixture
def store(path: Path) -> Iterator[PqConnector]:
    with_one = PqConnector(path)
    with_one.create("x", Spec(vectors=(IMAGE,)), timeout=None)
    yield with_one
    with_one.close()


def record_batch(ids: Sequence[str]) -> Batch:
    """Records whose vectors follow from their ids."""
    vectors = np.array([[float(ord(letter)) for letter in f"{record:8}"] for record in ids], dtype=np.float32)
    return Batch(tuple(ids), {IMAGE.column: vectors}, tuple({"_rev": n} for n in range(len(ids))))


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A disk that takes 20 ms to force a file; when each was."""
    forced: list[float] = []
    fsync = os.fsync

    def slow(file: int) -> None:
        forced.append(time.monotonic())
        time.sleep(0.02)
        fsync(file)

    monkeypatch.setattr(os, "fsync", slow)
    return forced


def write_at_once(store: PqConnector, ids: Sequence[str]) -> list[StoreError | None]:
    """Each id written by a thread of its own; what each raised."""

    def write(record: str) -> StoreError | None:
        try:
            store.upsert("x", record_batch([record]), timeout=None)
        except StoreError as error:
            return error
        return None

    with ThreadPoolExecutor(len(ids)) as pool:
        return list(pool.map(write, ids))


def test_writers_that_wait_for_each_other_share_what_the_disk_takes(
    path: Path, store: PqConnector, slow_disk: list[float]
) -> None:
    ids = [f"r{n}" for n in range(24)]
    assert write_at_once(store, ids) == [None] * 24
    assert len(slow_disk) < 12  # one each, and one of the folder, without sharing
    assert PqConnector(path).count("x", None, timeout=None) == 24


def test_what_one_of_a_group_raises_undoes_its_own_part_alone(
    store: PqConnector, slow_disk: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = records.insert

    def refuse(db: Connection, target: records.Snapshot, batch: Batch, blocks: Mapping[str, Block]) -> None:
        insert(db, target, batch, blocks)
        if batch.ids[0].startswith("bad"):
            raise StoreTimeout("just so")

    monkeypatch.setattr(records, "insert", refuse)
    ids = [f"bad{n}" if n % 3 == 0 else f"r{n}" for n in range(24)]
    raised = write_at_once(store, ids)
    assert [type(error) for error in raised] == [StoreTimeout if n % 3 == 0 else type(None) for n in range(24)]
    there = store.fetch("x", ids, want=Want(vectors=(IMAGE.column,)), timeout=None)
    assert set(there.ids) == {record for record in ids if not record.startswith("bad")}
    expected = record_batch(there.ids).vectors[IMAGE.column]
    assert np.array_equal(there.vectors[IMAGE.column], expected)
    assert len(slow_disk) < 12


def test_a_disk_that_is_full_at_the_commit_is_told_to_all_that_share_it(
    path: Path, store: PqConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("x", record_batch(["before"]), timeout=None)

    def full(_: int) -> None:
        time.sleep(0.02)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        raised = write_at_once(store, [f"r{n}" for n in range(8)])
    assert [type(error) for error in raised] == [StoreFull] * 8
    store.upsert("x", record_batch(["after"]), timeout=None)
    assert PqConnector(path).count("x", None, timeout=None) == 2


def test_a_writer_whose_followers_gave_up_commits_itself(path: Path, store: PqConnector) -> None:
    """Whoever waited may time out in the very instant in which the transaction was left to it."""
    lock = store._store._lock()
    lock._waiting += 1  # one that never comes
    writer = threading.Thread(target=store.upsert, args=("x", record_batch(["first"])), kwargs={"timeout": None})
    writer.start()
    time.sleep(0.02)
    lock._waiting -= 1
    writer.join(5)
    assert not writer.is_alive()
    assert PqConnector(path).count("x", None, timeout=None) == 1


def test_handles_of_one_process_do_not_wait_for_each_others_groups(path: Path, store: PqConnector) -> None:
    handles = [store, PqConnector(path), PqConnector(path)]
    with ThreadPoolExecutor(12) as pool:
        for n, handle in enumerate(handles * 8):
            pool.submit(handle.upsert, "x", record_batch([f"r{n}"]), timeout=5)
    assert store.count("x", None, timeout=None) == 24
    for handle in handles[1:]:
        handle.close()


def test_ctrl_c_in_the_instant_after_a_commit_takes_nothing_back(
    path: Path, store: PqConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Connection):
        def execute(self, text: str, *more: Any) -> Any:
            found = super().execute(text, *more)
            if text == "COMMIT" and armed:
                armed.clear()
                raise KeyboardInterrupt
            return found

    armed: list[bool] = []
    monkeypatch.setattr(_pq_store, "Connection", Interrupted)
    store.close()
    again = PqConnector(path)
    again.upsert("x", record_batch(["first"]), timeout=None)
    armed.append(True)
    with pytest.raises(KeyboardInterrupt):
        again.upsert("x", record_batch(["second"]), timeout=None)
    again.upsert("x", record_batch(["third"]), timeout=None)
    there = PqConnector(path).fetch("x", ["first", "second", "third"], want=Want(vectors=(IMAGE.column,)), timeout=None)
    assert there.ids == ("first", "second", "third")
    assert np.array_equal(there.vectors[IMAGE.column], record_batch(there.ids).vectors[IMAGE.column])
    assert again.verify("x", timeout=None) == []
    again.close()
