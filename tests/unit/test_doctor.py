"""What ``pixdex doctor`` finds out: about collections that are well, and each thing that can be wrong with one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
import toys

import pixdex
from pixdex import Batch, Collection, _plugins, connect
from pixdex._feeding import feed
from pixdex.connectors.memory import MemoryConnector
from pixdex.doctor import Check, Diagnosis, State, diagnose
from pixdex.errors import ConfigError
from pixdex.jobs import Job
from pixdex.spec import Fingerprint, Spec, Vector

pytest.importorskip("faiss")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_plugins, "installed", toys.with_toy(_plugins.installed))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return toys.folder(tmp_path / "pics", 12)


@pytest.fixture
def url(tmp_path: Path, pictures: Path) -> str:
    url = f"pq://{tmp_path / 'photos.pix'}"
    with pixdex.open(url, encoder="toy") as index:
        index.add(pictures, fields={"album": "summer"}, job=Job())
    return url


def by_name(found: Diagnosis) -> dict[str, Check]:
    return {check.name: check for check in found.checks}


def test_a_collection_that_is_well(url: str) -> None:
    found = diagnose(url, deep=True)
    assert found.well
    assert {check.state for check in found.checks} == {State.WELL}
    checks = by_name(found)
    assert set(checks) == {
        "reachable", "spec", "encoder", "aliases", "records", "vectors", "recall", "filters", "pictures", "journal", "files",
    }  # fmt: skip
    assert checks["records"].what == "12, counted and read"
    assert "recall@10 1.000" in checks["recall"].what
    assert set(found.versions) == {"faiss-cpu", "SQLite"}


@pytest.mark.parametrize(
    ("scheme", "module", "client"),
    [
        ("qdrant+local", "qdrant_client", "qdrant-client"),
        ("qdrant+edge", "qdrant_edge", "qdrant-edge-py"),
        ("milvus+lite", "milvus_lite", "pymilvus"),
    ],
)
def test_on_every_engine(scheme: str, module: str, client: str, tmp_path: Path, pictures: Path) -> None:
    pytest.importorskip(module)
    url = f"{scheme}://{tmp_path / 'there'}"
    with pixdex.open(url, encoder="toy") as index:
        index.add(pictures)
    found = diagnose(url)
    assert found.well, found.checks
    assert client in found.versions


def test_a_store_that_is_not_there_names_what_is(url: str, tmp_path: Path) -> None:
    found = diagnose(f"{url}#other")
    assert not found.well
    assert by_name(found)["collections"].what == "the store has main"
    away = diagnose("milvus+lite://" + str(tmp_path))
    assert (away.well, away.collection) == (False, f"milvus+lite://{tmp_path}")
    assert not diagnose("qdrant://127.0.0.1:1/photos").well
    with pytest.raises(ConfigError):
        diagnose("photos")
    del tmp_path


def test_pictures_that_are_gone_or_others(url: str, pictures: Path) -> None:
    (pictures / "00.png").unlink()
    toys.write(pictures / "01.png", 99)
    check = by_name(diagnose(url))["pictures"]
    assert check.state is State.NOTE
    assert check.what.startswith("2 of 12 are not there")
    assert diagnose(url).well  # searching still works


def test_what_failed_to_be_added_is_said(url: str, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG")
    with pixdex.open(url) as index:
        index.add(pictures, job=Job())
    check = by_name(diagnose(url))["journal"]
    assert (check.state, "--retry-failed" in check.remedy) == (State.NOTE, True)


def test_an_encoder_that_is_another_by_now(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(toys.ToyEncoder):
        def __init__(self, dim: int = 48) -> None:
            super().__init__(dim=dim)
            self.fingerprint = Fingerprint(encoder="toy", digest="f" * 32, parts={"config": "x", "weights": "y"})

    monkeypatch.setattr(toys, "ToyEncoder", Other)
    check = by_name(diagnose(url))["encoder"]
    assert check.state is State.ILL
    assert "weights" in check.what


def test_an_encoder_that_is_not_here(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert by_name(diagnose(url))["encoder"].state is State.NOTE


SPEC = Spec(vectors=(Vector(dim=8, fingerprint=Fingerprint(encoder="x", digest="0" * 32)),))


def memory(change: Callable[[MemoryConnector], None], monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    """What is found in a store in memory that does something wrong."""
    url = "memory://ill"
    connector, name = pixdex.connect(url)
    connector.drop(name, timeout=None)
    collection = Collection.create(connector, name, SPEC)
    vectors = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    collection.upsert(Batch(tuple(f"r{n}" for n in range(60)), {"image": vectors}, tuple({} for _ in range(60))))
    change(connector)  # type: ignore[arg-type]
    monkeypatch.setattr("pixdex.doctor.connect", lambda _: (connector, name))
    return by_name(diagnose(url))


def test_a_store_without_exact_search_is_not_read_through_when_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(store: MemoryConnector) -> None:
        store.capabilities = replace(store.capabilities, exact=False, complete=False)

    assert "recall@10 1.000" in memory(unable, monkeypatch)["recall"].what  # small enough to be read
    monkeypatch.setattr("pixdex._doctor_probing._SCANNED", 59)
    scans = []

    def large(store: MemoryConnector) -> None:
        unable(store)
        scan, search = store.scan, store.search
        store.scan = lambda name, request, *, timeout: scans.append(1) or scan(name, request, timeout=timeout)  # type: ignore[method-assign, func-returns-value]
        store.search = (
            lambda name, request, *, timeout: [  # type: ignore[method-assign]
                hits[:5] for hits in search(name, request, timeout=timeout)
            ]
        )  # fewer than match, so that the facade would complete each by a scan

    check = memory(large, monkeypatch)["recall"]
    assert check.state is State.WELL
    assert "memory has no exact search to compare with" in check.what
    assert "pixdex eval" in check.remedy
    assert len(scans) == 1


def test_a_check_ends_when_its_time_is_over_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixdex._doctor_probing._PATIENCE", 0.0)
    checks = memory(lambda _: None, monkeypatch)
    assert "1 of 60 records, as time was over" in checks["recall"].what


def test_both_searches_of_a_check_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def slow(store: MemoryConnector) -> None:
        search = store.search

        def searched(name: str, request: object, *, timeout: float | None) -> object:
            now[0] += len(request.queries)  # type: ignore[attr-defined] # a second each
            return search(name, request, timeout=timeout)  # type: ignore[arg-type]

        store.search = searched  # type: ignore[method-assign, assignment]

    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=lambda: now[0])
    monkeypatch.setattr("pixdex._doctor_probing.time", clock)
    assert "15 of 60 records, as time was over" in memory(slow, monkeypatch)["recall"].what
    assert now[0] <= 35


def test_an_index_that_loses_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(store: MemoryConnector) -> None:
        search = store.search

        def losing(name: str, request: object, *, timeout: float | None) -> object:
            found = search(name, replace(request, k=request.k * 2), timeout=timeout)  # type: ignore[type-var, attr-defined]
            step = 1 if request.tuning.exact else 2  # type: ignore[attr-defined]
            return [hits[::step][: request.k] for hits in found]  # type: ignore[attr-defined]

        store.search = losing  # type: ignore[method-assign, assignment]

    check = memory(lossy, monkeypatch)["recall"]
    assert check.state is State.ILL
    assert "0.5" in check.what


@pytest.mark.parametrize("lie", ["nothing", "others", "scores"])
def test_a_store_whose_searches_lie_even_exact_ones(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(store: MemoryConnector) -> None:
        search = store.search

        def told(name: str, request: object, *, timeout: float | None) -> object:
            found = search(name, request, timeout=timeout)  # type: ignore[arg-type]
            if lie == "nothing":
                return [[] for _ in found]
            if lie == "others":
                return [[replace(hit, id="r7") for hit in hits[1:2]] for hits in found]
            return [[replace(hit, score=2 * hit.score) for hit in hits] for hits in found]

        store.search = told  # type: ignore[method-assign, assignment]

    check = memory(lying, monkeypatch)["recall"]
    assert check.state is State.ILL
    assert "not found by their own vectors" in check.what


def test_a_store_that_counts_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def counting(store: MemoryConnector) -> None:
        store.count = lambda *_, timeout: 61  # type: ignore[method-assign]

    check = memory(counting, monkeypatch)["records"]
    assert (check.state, check.what) == (State.ILL, "the store counts 61 records, reading them all finds 60")


def test_a_collection_that_is_being_written_to_is_not_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    def growing(store: MemoryConnector) -> None:
        counts = iter([58, 61])
        real = store.count
        store.count = lambda name, where, *, timeout: next(counts, None) or real(name, where, timeout=timeout)  # type: ignore[method-assign]

    check = memory(growing, monkeypatch)["records"]
    assert (check.state, "being written to" in check.what) == (State.NOTE, True)


def test_a_reindexing_that_was_cut_off(url: str) -> None:
    connector, name = connect(url)
    feed(Collection.open(connector, name), "old")
    connector.close()
    check = by_name(diagnose(url))["reindexing"]
    assert check.state is State.NOTE
    assert "'old'" in check.what
    assert "the same command again" in check.remedy


def test_an_alias_that_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def leading(store: MemoryConnector) -> None:
        store.aliases = lambda *, timeout: {"old": "gone"}  # type: ignore[method-assign]

    check = memory(leading, monkeypatch)["aliases"]
    assert (check.state, "old" in check.what) == (State.ILL, True)


def test_records_without_a_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(store: MemoryConnector) -> None:
        store.upsert("main", Batch(("bare",), {}, ({"_rev": 1},)), timeout=None)

    assert by_states(memory(lacking, monkeypatch))["vectors"] is State.NOTE


def by_states(checks: dict[str, Check]) -> dict[str, State]:
    return {name: check.state for name, check in checks.items()}


def test_a_mirror_whose_stores_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (pixdex.connect(f"memory://{name}")[0] for name in ("first", "second"))
    for store in (first, second):
        store.drop("main", timeout=None)
        Collection.create(store, "main", SPEC)
    alone = Collection.open(first, "main")
    alone.upsert(Batch(("r",), {"image": np.ones((1, 8), np.float32)}, ({},)))
    found = by_name(diagnose("mirror://?primary=memory://first&secondary=memory://second"))["mirror"]
    assert found.state is State.ILL
    assert "in the second" in found.what
    del monkeypatch


def test_a_mirror_whose_second_store_is_behind() -> None:
    url = "mirror://?primary=memory://ahead&secondary=memory://behind"
    mirror, _ = pixdex.connect(url)
    mirror.drop("main", timeout=None)
    Collection.create(mirror, "main", SPEC)
    mirror._missed.add("main", ["r1", "r2"])  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pixdex.doctor.connect", lambda _: (mirror, "main"))
        check = by_name(diagnose(url))["mirror"]
    assert check.state is State.ILL
    assert "has not taken 2 records" in check.what


def test_damaged_files_are_found_when_asked_for(url: str, tmp_path: Path) -> None:
    segment = max((tmp_path / "photos.pix").rglob("*.seg*"), key=lambda path: path.stat().st_size)
    data = bytearray(segment.read_bytes())
    data[-5] ^= 1
    segment.write_bytes(bytes(data))
    check = by_name(diagnose(url, deep=True))["files"]
    assert check.state is State.ILL
    assert check.remedy


def test_by_the_shell(url: str) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, toys.__file__, "doctor", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    shown = run(url)
    assert shown.returncode == 0
    assert "recall@10 1.000" in shown.stdout
    ill = run(f"{url}#other", "--json")
    assert ill.returncode == 1
    assert orjson.loads(ill.stdout)["well"] is False
