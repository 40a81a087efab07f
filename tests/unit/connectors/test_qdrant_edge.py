"""What is Qdrant Edge's own: the directory, the lock, crashes, the graph and codes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_edge")

from pixdex import errors, filters
from pixdex.collection import Collection
from pixdex.connectors import _qdrant_edge_shelf as shelf
from pixdex.connectors import qdrant_edge
from pixdex.connectors._qdrant_errors import translated
from pixdex.connectors.address import parse
from pixdex.filters import F
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, Vector
from pixdex.types import Batch, Scan, Search, Tuning, Want

PRINT = Fingerprint(encoder="e", digest="3fa9c1d2")
SPEC = Spec(vectors=(Vector(dim=8, fingerprint=PRINT),), fields=(Field(name="n", kind=Kind.INT),))
IMAGE = SPEC.vectors[0].column


def opened(path: Path, options: str = "") -> qdrant_edge.QdrantEdge:
    return qdrant_edge.connect(parse(f"qdrant+edge://{path}{options}"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[qdrant_edge.QdrantEdge]:
    store = opened(tmp_path / "store")
    yield store
    store.close()


def some(count: int, *, dim: int = 8, seed: int = 0) -> Batch:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return Batch(tuple(f"r{i}" for i in range(count)), {"image": vectors}, tuple({"n": i} for i in range(count)))


# --- opening ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["?grpc=1", "?quantization=int4", "?m=x", "?optimize=maybe"])
def test_an_option_that_means_nothing_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(errors.ConfigError, match=option[1:].partition("=")[0]):
        opened(tmp_path / "store", option)


def test_another_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(errors.StoreFormat, match="no Qdrant Edge directory"):
        opened(tmp_path)
    with pytest.raises(errors.StoreFormat, match="is a file"):
        opened(tmp_path / "letter.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1, "collections": {"a": 1}, "aliases": {}}'])
def test_a_corrupt_registry_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / shelf.REGISTRY).write_text(text)
    with pytest.raises(errors.StoreFormat, match=r"qdrant-edge\.json is corrupt"):
        opened(tmp_path)


def test_a_registry_of_a_newer_pixdex(tmp_path: Path) -> None:
    (tmp_path / shelf.REGISTRY).write_text('{"version": 2}')
    with pytest.raises(errors.StoreFormat, match="newer pixdex"):
        opened(tmp_path)


def test_reading_makes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path / "typo")
    search = Search(queries=np.ones((1, 8), np.float32), k=1, using=IMAGE)
    for call in (
        lambda: store.describe("main", timeout=None),
        lambda: store.count("main", None, timeout=None),
        lambda: store.scan("main", Scan(size=1), timeout=None),
        lambda: store.search("main", search, timeout=None),
        lambda: store.fetch("main", ["a"], want=Want(), timeout=None),
        lambda: store.upsert("main", Batch(("a",), {}, ({},)), timeout=None),
        lambda: store.delete("main", [], timeout=None),
        lambda: store.flush("main", timeout=None),
        lambda: store.alias("live", "main", timeout=None),
    ):
        with pytest.raises(errors.NotFound):
            call()
    store.drop("main", timeout=None)
    store.alias("live", None, timeout=None)
    assert (list(store.names(timeout=None)), store.aliases(timeout=None)) == ([], {})
    assert list(tmp_path.iterdir()) == []
    store.close()
    with pytest.raises(errors.StoreError, match="closed"):
        store.names(timeout=None)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


OPEN = """
import sys
from pixdex.connectors.address import parse
from pixdex.connectors.qdrant_edge import connect
from pixdex.errors import StoreLocked
try:
    print(connect(parse(sys.argv[1])).count("main", None, timeout=None))
except StoreLocked as error:
    print("locked", error)
"""


def test_one_process_holds_it(store: qdrant_edge.QdrantEdge, tmp_path: Path) -> None:
    Collection.create(store, "main", SPEC).upsert(some(3))
    url = f"qdrant+edge://{tmp_path}/store"
    assert run(OPEN, url).stdout.startswith(f"locked another process has {tmp_path}/store open")
    store.close()
    assert run(OPEN, url).stdout.strip() == "3"


def test_connectors_of_a_process_share_it(store: qdrant_edge.QdrantEdge, tmp_path: Path) -> None:
    collection = Collection.create(store, "main", SPEC)
    collection.upsert(some(3))
    other = opened(tmp_path / "store")
    seen = Collection.open(other, "main")
    assert seen.count(F.n >= 1) == 2
    collection.alter(fields=[Field(name="late", kind=Kind.TEXT)])
    collection.upsert(Batch(("z",), {}, ({"late": "x"},)))
    seen.refresh()
    assert seen.count(F.late == "x") == 1
    store.close()
    assert other.count("main", None, timeout=None) == 4
    other.close()


# --- killed -----------------------------------------------------------------------------------------

WRITE = """
import os, sys, numpy as np
from pixdex.connectors.address import parse
from pixdex.connectors.qdrant_edge import connect
from pixdex.connectors import _qdrant_edge_shelf as shelf
from pixdex.spec import *
from pixdex.types import *
spec = Spec.from_json(sys.argv[2])
store = connect(parse(sys.argv[1]))
kill = lambda *a, **k: os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(
    ("code", "left", "count"),
    [
        ("shelf.Shelf._save = kill; store.create('new', spec, timeout=None)", ["main"], 5),
        ("shelf.shutil.rmtree = kill; store.drop('main', timeout=None)", [], None),
        ("shelf.Path.replace = kill; store.drop('main', timeout=None)", ["main"], 5),
        ("store.delete('main', ['r1'], timeout=None); kill()", ["main"], 4),
    ],
)
def test_killed_at_a_bad_moment(tmp_path: Path, code: str, left: list[str], count: int | None) -> None:
    """What was acknowledged is there, what was not is gone, and nothing lies about."""
    store = opened(tmp_path / "store")
    Collection.create(store, "main", SPEC).upsert(some(5))
    store.close()
    done = run(WRITE + code, f"qdrant+edge://{tmp_path}/store", SPEC.to_json())
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = opened(tmp_path / "store")
    assert list(again.names(timeout=None)) == left
    if count is not None:
        assert again.count("main", None, timeout=None) == count
    assert len([entry for entry in (tmp_path / "store").iterdir() if entry.is_dir()]) == len(left)
    Collection.create(again, "next", SPEC).upsert(some(2))
    again.close()


def test_a_create_that_fails_leaves_nothing(store: qdrant_edge.QdrantEdge, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    store.create("main", SPEC, timeout=None)
    before = sorted((tmp_path / "store").iterdir())
    monkeypatch.setattr(shelf.os, "fsync", full)
    with pytest.raises(errors.StoreFull, match=rf"{tmp_path}/store: .*free some space"):
        store.create("more", SPEC, timeout=None)
    monkeypatch.undo()
    assert sorted((tmp_path / "store").iterdir()) == before
    assert list(store.names(timeout=None)) == ["main"]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    store = opened(tmp_path / "store")
    store.create("main", SPEC, timeout=None)
    store.close()
    registry = json.loads((tmp_path / "store" / shelf.REGISTRY).read_text())
    shard = tmp_path / "store" / registry["collections"]["main"]["shard"]
    (shard / shelf.CONFIG).write_text("{")
    again = opened(tmp_path / "store")
    with pytest.raises(errors.StoreError, match=f"{tmp_path}/store"):
        again.count("main", None, timeout=None)
    again.close()


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (Exception("Not existing vector name error: zz"), errors.FingerprintMismatch),
        (Exception("failed to open WAL /d/wal: Can't init WAL: Kind(WouldBlock)"), errors.StoreLocked),
        (Exception("Service runtime error: No space left on device"), errors.StoreFull),
        (Exception("Service runtime error: Shard is not initialized"), errors.NotFound),
        (Exception("Service runtime error: something"), errors.StoreError),
        (PermissionError(errno.EACCES, "Permission denied"), errors.AccessDenied),
    ],
)
def test_translation(raised: Exception, kind: type[Exception]) -> None:
    with pytest.raises(errors.PixdexError, match="^/dir: ") as caught, translated("/dir"):
        raise raised
    assert type(caught.value) is kind


def test_a_fault_of_the_program_stays_what_it_is() -> None:
    with pytest.raises(TypeError), translated("/dir"):
        raise TypeError("no")


# --- the graph --------------------------------------------------------------------------------------


def indexed(store: qdrant_edge.QdrantEdge) -> int:
    return int(store._share.lease().resource.shard("main").info().indexed_vectors_count)


@pytest.mark.parametrize("quantization", ["", "int8", "binary", "turbo"])
def test_flush_builds_the_graph_and_scores_stay_exact(tmp_path: Path, quantization: str) -> None:
    options = f"?m=8&ef_construct=64&quantization={quantization}" if quantization else "?m=8"
    store = opened(tmp_path / "store", options)
    spec = replace(SPEC, vectors=(Vector(dim=768, metric=Metric.DOT, fingerprint=PRINT),))
    collection = Collection.create(store, "main", spec)
    batch = some(4000, dim=768)
    collection.upsert(batch)
    assert indexed(store) == 0
    collection.flush()
    assert indexed(store) == 4000
    queries = batch.vectors["image"][:5] + 0.1
    truth = queries @ batch.vectors["image"].T
    where, kept = F.n < 400, truth[:, :400]
    for tuning in (Tuning(effort=1.0), Tuning(exact=True)):
        for query, found in enumerate(collection.search(queries, k=10, tuning=tuning)):
            assert found[0].id == f"r{query}"
            scores = [truth[query, int(hit.id[1:])] for hit in found]
            np.testing.assert_allclose([hit.score for hit in found], scores, rtol=1e-5)
        for query, found in enumerate(collection.search(queries, k=10, where=where, tuning=tuning)):
            assert len(found) == 10
            if tuning.exact:
                assert [hit.id for hit in found] == [f"r{i}" for i in np.argsort(-kept[query])[:10]]
    store.close()


def test_the_graph_may_be_left_out(tmp_path: Path) -> None:
    store = opened(tmp_path / "store", "?optimize=0")
    collection = Collection.create(store, "main", replace(SPEC, vectors=(Vector(dim=768, fingerprint=PRINT),)))
    collection.upsert(some(4000, dim=768))
    collection.flush()
    assert indexed(store) == 0
    store.close()


def test_revisions_are_found_by_ranges_and_each_by_itself(store: qdrant_edge.QdrantEdge) -> None:
    store.create("main", SPEC, timeout=None)
    ids = tuple(f"r{n}" for n in range(40))
    store.upsert("main", Batch(ids, {}, tuple({"_rev": 10**15 + n} for n in range(40))), timeout=None)
    for where, count in ((F["_rev"] > 10**15 + 29, 10), (F["_rev"] == 10**15 + 3, 1), (F["_rev"].exists(), 40)):
        assert store.count("main", filters.bind(where, SPEC), timeout=None) == count


def test_a_stale_filter_is_refused(store: qdrant_edge.QdrantEdge) -> None:
    store.create("main", SPEC, timeout=None)
    old = filters.bind(F.n == 1, SPEC)
    store.drop("main", timeout=None)
    store.create("main", replace(SPEC, fields=(Field(name="n", kind=Kind.TEXT),)), timeout=None)
    for call in (
        lambda: store.count("main", old, timeout=None),
        lambda: store.scan("main", Scan(size=1, where=old), timeout=None),
        lambda: store.delete_where("main", old, timeout=None),
    ):
        with pytest.raises(errors.FingerprintMismatch):
            call()
