"""A collection in another store: all of it, also after a kill, beside a writer, and with proof that notices."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pixdex import Batch, Collection, F, Field, Fingerprint, Kind, Spec, TokenSpec, Vector, Want, cli, connect
from pixdex import _copy_moving as moving
from pixdex._copy_checks import _Moving as _Late
from pixdex._copy_checks import _neighbours
from pixdex._state import job_file, locked, state_folder
from pixdex.connectors.memory import MemoryConnector
from pixdex.copying import Sampling, check, copy
from pixdex.errors import AlreadyExists, ConfigError, NotFound, StoreFull, StoreLocked, StoreUnavailable, Unsupported
from pixdex.policy import Policy

MADE = Fingerprint(encoder="toy", digest="ab" * 8)
SPEC = Spec(
    vectors=(
        Vector(name="image", dim=16, fingerprint=MADE),
        Vector(name="text", dim=4, metric="dot", fingerprint=MADE),
    ),
    fields=(
        Field(name="product", kind=Kind.TEXT),
        Field(name="price", kind=Kind.FLOAT),
        Field(name="stock", kind=Kind.INT),
        Field(name="organic", kind=Kind.BOOL),
        Field(name="since", kind=Kind.TIME),
        Field(name="place", kind=Kind.GEO),
        Field(name="tags", kind=Kind.TEXT, many=True),
    ),
    tokens=TokenSpec(count=4, dim=8, dtype="int8", fingerprint=MADE),
    encoder="toy:16",
)
ALL = Want(vectors=("image", "text"), tokens=True)


def records(count: int, start: int = 0, seed: int = 0) -> Batch:
    rng = np.random.default_rng((seed, start))
    numbers = range(start, start + count)
    return Batch(
        tuple(f"shop/{n:04}.jpg" for n in numbers),
        {
            "image": rng.standard_normal((count, 16)).astype(np.float32),
            "text": rng.standard_normal((count, 4)).astype(np.float32),
        },
        tuple(_payload(n) for n in numbers),
        tuple(None if n % 7 == 0 else rng.integers(-9, 9, (1 + n % 4, 8)).astype(np.int8) for n in numbers),
        {"text": np.array([n % 3 == 0 for n in numbers])},
    )


def _payload(n: int) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "product": f"milk-{n % 11}",
        "stock": n,
        "organic": n % 2 == 0,
        "since": datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=n),
        "place": {"lat": 47.0 + n % 5 / 10, "lon": 8.5},
        "tags": ["fresh", "local"][: n % 3],
        "note": {"deep": [1, 2.5, None, "ä", True], "n": 1.0},
    }
    return payload if n % 5 == 0 else {**payload, "price": n / 4}


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(moving, "PAGE_RECORDS", 20)
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "state"))


@pytest.fixture
def place(tmp_path: Path) -> Callable[[str], str]:
    """Addresses of empty places in memory, by name."""
    return lambda name: f"memory://{tmp_path.name}-{name}-{os.getpid()}#c"


class Opened:
    """A collection at an address, with what a user of it does."""

    def __init__(self, url: str) -> None:
        self.connector, name = connect(url)
        self.collection = Collection.open(self.connector, name)

    def __enter__(self) -> Collection:
        return self.collection

    def __exit__(self, *error: object) -> None:
        self.connector.close()


def filled(url: str, count: int = 100, spec: Spec = SPEC) -> str:
    connector, name = connect(url)
    Collection.create(connector, name, spec).upsert(records(count))
    connector.close()
    return url


def everything(url: str) -> dict[str, tuple[Any, ...]]:
    """id -> all that a record has."""
    found = {}
    with Opened(url) as collection:
        for page in collection.scan(want=ALL):
            batch = page.batch
            for row, record in enumerate(batch.ids):
                tokens = None if batch.tokens is None or batch.tokens[row] is None else batch.tokens[row].tolist()
                vectors = {n: batch.vectors[n][row] for n in ("image", "text") if batch.present(n)[row]}
                found[record] = (vectors, batch.payloads[row], tokens)
    return found


def assert_same(one: str, other: str) -> None:
    ours, theirs = everything(one), everything(other)
    assert ours.keys() == theirs.keys()
    for record, (vectors, payload, tokens) in ours.items():
        assert theirs[record][1:] == (payload, tokens)
        assert theirs[record][0].keys() == vectors.keys()
        for name, vector in vectors.items():
            np.testing.assert_allclose(theirs[record][0][name], vector, rtol=0, atol=1e-6)


# --- from store to store -----------------------------------------------------------------------------------------------


def test_a_ring_through_every_kind_of_store_changes_nothing(tmp_path, place):
    pytest.importorskip("pyarrow")
    ring = [
        filled(place("first"), 60),
        f"pq://{tmp_path}/a.pix",
        f"qdrant+edge://{tmp_path}/b.edge#x",
        f"qdrant+local://{tmp_path}/c.qdrant",
        f"milvus+lite://{tmp_path}/d.db",
        str(tmp_path / "e.parquet"),
        place("last"),
    ]
    for source, target in pairwise(ring):
        report = copy(source, target)
        assert report.signed_off, report.checks
        assert (report.copied, report.caught_up, report.deleted) == (60, 0, 0)
        assert [c.name for c in report.checks] == [
            "count", "ids", "records", "neighbours:image", "neighbours:text", "filters",
        ]  # fmt: skip
    assert_same(ring[0], ring[-1])
    with Opened(ring[-1]) as collection:
        assert (collection.spec.vectors, collection.spec.fields, collection.spec.tokens) == (
            SPEC.vectors, SPEC.fields, SPEC.tokens,
        )  # fmt: skip
        assert collection.spec.encoder == "toy:16"
    assert check(ring[1], ring[-2]).digests == report.digests


def test_done_again_it_brings_the_target_up_to_date(place):
    source, target = filled(place("a")), place("b")
    copy(source, target)
    with Opened(source) as collection:
        collection.upsert(records(3, start=200))
        collection.upsert(records(2, start=10, seed=1))
        collection.delete(["shop/0050.jpg"])
    report = copy(source, target)
    assert (report.copied, report.before, report.caught_up, report.deleted) == (5, 100, 5, 1)
    assert report.signed_off
    assert_same(source, target)
    assert copy(source, target).copied == 0


def test_narrow_vectors_stay_as_they_are(place):
    spec = replace(SPEC, vectors=(replace(SPEC.vectors[0], dtype="float16"), SPEC.vectors[1]))
    source, target = filled(place("a"), spec=spec), place("b")
    for seed in (1, 2):  # in the main pass, and caught up
        copy(source, target)
        ours, theirs = everything(source), everything(target)
        assert all((ours[record][0]["image"] == theirs[record][0]["image"]).all() for record in ours)
        with Opened(source) as collection:
            collection.upsert(records(100, seed=seed))


def test_the_garbage_collector_is_as_it_was(tmp_path):
    frozen = []
    source, target = filled(f"pq://{tmp_path}/s.pix"), f"pq://{tmp_path}/t.pix"

    def stop(moving):
        frozen.append(gc.get_freeze_count())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(source, target, progress=stop)
    assert frozen[0] > 0
    assert gc.get_freeze_count() == 0


# --- interrupted -------------------------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pixdex import Collection, _copy_moving, copying
from pixdex._copy_job import Job
from pixdex._copy_census import Census
_copy_moving.PAGE_RECORDS = 20

def deadly(kind, name, at, after):
    real, calls = getattr(kind, name), 0
    def call(*args, **more):
        nonlocal calls
        calls += 1
        if calls == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(*args, **more)
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    setattr(kind, name, call)

kinds = {"Job": Job, "Collection": Collection, "Census": Census}
deadly(kinds[sys.argv[3]], sys.argv[4], int(sys.argv[5]), sys.argv[6] == "after")
copying.copy(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize(
    ("target", "kind", "verb", "at", "when"),
    [
        ("pq://{}/t.pix", "Collection", "_write", 1, "after"),  # the first page is written, and nobody knows
        ("pq://{}/t.pix", "Job", "acknowledge", 4, "before"),
        ("pq://{}/t.pix", "Census", "take", 2, "after"),
        ("{}/t.parquet", "Collection", "_write", 3, "before"),
        ("{}/t.parquet", "Collection", "settle", 1, "after"),
    ],
)
def test_killed_at_any_instant_the_same_goes_on(tmp_path, target, kind, verb, at, when):
    source, there = filled(f"pq://{tmp_path}/s.pix"), target.format(tmp_path)
    line = [sys.executable, "-c", _KILLED, source, there, kind, verb, str(at), when]
    assert subprocess.run(line, check=False).returncode == -9
    assert there.startswith("pq") or Path(there).exists() == (verb == "settle")
    report = copy(source, there)
    assert report.signed_off, report.checks
    assert report.before + report.copied == 100, "what was acknowledged is not written again"
    assert check(source, there).signed_off
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_stops_it_and_the_same_goes_on(tmp_path):
    source, target = filled(f"pq://{tmp_path}/s.pix", 400), f"pq://{tmp_path}/t.pix"
    code = """
    import resource, sys
    from pixdex import _copy_moving, copying
    from pixdex.errors import StoreFull
    _copy_moving.PAGE_RECORDS = 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, -1))
    try:
        copying.copy(sys.argv[1], sys.argv[2])
    except StoreFull as error:
        print(error)
    """
    line = [sys.executable, "-c", textwrap.dedent(code), source, target]
    assert "free some space" in subprocess.run(line, capture_output=True, text=True, check=True).stdout
    report = copy(source, target)
    assert report.signed_off
    assert 0 < report.copied < 400


class Failing(MemoryConnector):
    """Refuses the third write."""

    writes = 0

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        self.writes += 1
        if self.writes == 3:
            raise StoreUnavailable("no connection")
        super().upsert(name, batch, timeout=timeout)


def test_a_store_that_fails_leaves_what_was_copied(place, monkeypatch):
    source, target = filled(place("a")), place("b")
    failing = Failing(store=connect(target)[0]._store)
    with monkeypatch.context() as patch:
        patch.setattr("pixdex.copying.connect", lambda url: (failing, "c") if url == target else connect(url))
        with pytest.raises(StoreUnavailable):
            copy(source, target, policy=Policy(attempts=1))
    report = copy(source, target)
    assert report.signed_off
    assert report.before == 40


# --- the source is written to ------------------------------------------------------------------------------------------


def test_what_is_written_deleted_and_changed_meanwhile_is_in_the_target_too(place):
    source, target = filled(place("a")), place("b")
    pages = []

    def write(now: moving.Moving) -> None:
        pages.append(now)
        with Opened(source) as collection:
            if len(pages) == 2:  # some are copied, some are not
                collection.upsert(records(5, start=0, seed=9))
                collection.upsert(records(5, start=95, seed=9))
                collection.upsert(records(150, start=300))
                collection.delete(["shop/0006.jpg", "shop/0090.jpg"])
            elif now.phase == "catching up" and now.done and collection.count(F.product == "late") < 3:
                late = records(1, start=900 + collection.count())
                collection.upsert(replace(late, payloads=({"product": "late"},)))

    report = copy(source, target, progress=write)
    assert report.signed_off, report.checks
    # The first pass may meet some of the new ones, or all, so that only both together are sure: 99 that were there all the
    # time or were copied before they went, 150 new ones, 5 once more that had been copied; and at most 5 and 3 more, and one.
    assert 99 + 150 + 5 <= report.copied <= 100 + 150 + 10 + 3
    assert report.caught_up >= 5
    assert_same(source, target)
    assert pages[0].phase == "copying"
    assert pages[0].total == 100
    assert pages[0].left > 0


def test_a_vector_declared_meanwhile_is_not_signed_off_without_it(place, monkeypatch):
    source, target = filled(place("memory")), place("pq")
    real = moving.pages

    def pages(*args: Any, **kwargs: Any) -> Iterator[Any]:
        monkeypatch.setattr(moving, "pages", real)
        connector, name = connect(source)
        other = Collection.open(connector, name)
        other.alter(vectors=(Vector(name="late", dim=2, fingerprint=Fingerprint(encoder="w", digest="cd" * 16)),))
        other.upsert(replace(records(1), vectors={**records(1).vectors, "late": np.ones((1, 2), np.float32)}))
        yield from real(*args, **kwargs)

    monkeypatch.setattr(moving, "pages", pages)
    report = copy(source, target)
    assert not report.signed_off
    (failed,) = [check for check in report.checks if not check.passed]
    assert failed.name == "spec"
    assert "it has no vector 'late'" in failed.said


def test_a_source_that_is_never_still_is_signed_off_as_of_a_time(place):
    source, target = filled(place("a")), place("b")

    def write(now: moving.Moving) -> None:
        if now.phase in ("comparing ids", "checking"):
            with Opened(source) as collection:
                collection.upsert(records(1, start=1000 + collection.count()))

    report = copy(source, target, progress=write)
    assert report.signed_off, report.checks
    assert report.moving is not None
    assert report.source.count > report.target.count


def adopted(folder: Path) -> str:
    """The address of a collection that another tool made, of 30 records."""
    client_module = pytest.importorskip("qdrant_client")
    from pixdex.adopting import adopt, propose

    models = client_module.models
    client = client_module.QdrantClient(path=str(folder / "theirs"))
    client.create_collection("things", models.VectorParams(size=4, distance=models.Distance.COSINE))
    client.upsert("things", [_point(models, n) for n in range(30)])
    client.close()
    url = f"qdrant+local://{folder}/theirs#things"
    connector, name = connect(url)
    proposal = propose(connector, name)
    adopt(
        connector,
        replace(
            proposal, spec=replace(proposal.spec, fields=(Field(name="size", kind=Kind.INT, stored_as="meta.size"),))
        ),
    )
    connector.close()
    return url


def _point(models: Any, n: int) -> Any:
    return models.PointStruct(
        id=n, vector=[n + 1.0, 2, 3, 4], payload={"meta": {"size": n % 4}, "_hidden": n, "name": f"t{n}"}
    )


def test_another_tools_collection_becomes_one_of_ours(tmp_path, place):
    source, target = adopted(tmp_path), place("b")
    report = copy(source, target)
    assert report.signed_off, report.checks
    assert "another tool's" in report.notices[0]
    with Opened(target) as collection:
        assert collection.spec.native
        assert collection.count(F.size == 3) == 7
        found = collection.fetch(["7"], want=Want(vectors=("vector",)))
        assert found.payloads == ({"meta": {"size": 3}, "hidden": 7, "name": "t7", "size": 3},)
        assert np.linalg.norm(found.vectors["vector"]) == pytest.approx(1.0)
    client_module = pytest.importorskip("qdrant_client")
    client = client_module.QdrantClient(path=str(tmp_path / "theirs"))
    client.delete("things", [5])
    client.upsert("things", [_point(client_module.models, 31)])
    client.set_payload("things", {"name": "changed"}, points=[7])
    client.set_payload("things", {"huge": 2**60}, points=[8])
    client.close()
    report = copy(source, target)
    assert (report.copied, report.deleted, report.target.count) == (2, 1, 30)
    assert [row.id for row in report.refused] == ["8"]
    assert "beyond 2^53" in report.refused[0].reason
    assert not report.signed_off


# --- what is there already ---------------------------------------------------------------------------------------------


def test_a_target_with_records_of_others_is_left_alone(place):
    source, target = filled(place("a")), filled(place("b"), 3)
    before = everything(target)
    with pytest.raises(AlreadyExists, match="holds 3 records that this copy did not write.*--into-existing"):
        copy(source, target)
    assert everything(target).keys() == before.keys()


def test_a_source_that_is_empty_now_empties_no_target(place):
    source, target = filled(place("a"), 5), place("b")
    copy(source, target)
    with Opened(source) as collection:
        collection.delete_where(F.ids([f"shop/{n:04}.jpg" for n in range(5)]))
    with pytest.raises(ConfigError, match=r"is empty, and had records when they were copied.*Nothing was removed"):
        copy(source, target)
    assert len(everything(target)) == 5


def test_a_half_copied_target_is_gone_on_with_by_its_own_job_only(place):
    source, target = filled(place("a")), place("b")

    def stop(now: moving.Moving) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(source, target, progress=stop)
    with pytest.raises(AlreadyExists, match="did not write"):
        copy(filled(place("other")), target)
    assert copy(source, target).signed_off


def test_into_existing_adds_and_keeps_what_is_there(place):
    source, target = filled(place("a"), 50), place("b")
    connector, name = connect(target)
    Collection.create(connector, name, SPEC).upsert(records(10, start=500))
    report = copy(source, target, into_existing=True)
    assert report.signed_off
    assert report.target.count == 60


def test_other_records_under_the_same_ids_are_refused_before_anything_is_written(place):
    source, target = filled(place("a"), 50), place("b")
    connector, name = connect(target)
    collection = Collection.create(connector, name, SPEC)
    collection.upsert(records(2, start=40))  # the vectors are others, as the seed is of the start
    with pytest.raises(AlreadyExists, match=r"'shop/0040.jpg' \(vector 'image' is off by .*--replace"):
        copy(source, target, into_existing=True)
    assert collection.count() == 2
    assert copy(source, target, into_existing=True, replace_others=True).signed_off
    assert_same(source, target)


def test_the_same_records_under_the_same_ids_are_no_collision(place):
    source, target = filled(place("a"), 50), filled(place("b"), 50)
    assert copy(source, target, into_existing=True).signed_off


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"vectors": (replace(SPEC.vectors[0], dim=8), SPEC.vectors[1])},
            "vector 'image' is 8 x cosine, float32 there, 16 x",
        ),
        ({"vectors": SPEC.vectors[:1]}, "it has no vector 'text'"),
        (
            {"vectors": (replace(SPEC.vectors[0], fingerprint=replace(MADE, digest="cd" * 8)), SPEC.vectors[1])},
            "vector 'image' is of another encoder",
        ),
        ({"fields": SPEC.fields[1:]}, "field 'product' is not declared there"),
        ({"tokens": None}, "of tokens it keeps none"),
    ],
)
def test_another_spec_is_told_with_what_differs(place, change, said):
    source, target = filled(place("a"), 5), place("b")
    connector, name = connect(target)
    Collection.create(connector, name, replace(SPEC, **change))
    with pytest.raises(AlreadyExists, match=f"is there with another Spec: {said}.*copy to another name"):
        copy(source, target)


def test_the_same_collection_and_no_collection_are_told(place, tmp_path):
    with pytest.raises(ConfigError, match="is source and target"):
        copy(f"pq://{tmp_path}/a.pix", f"pq://{tmp_path}/../{tmp_path.name}/a.pix#main")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is source and target"):
        copy(tmp_path / "x.parquet", tmp_path / "link/x.parquet")
    with pytest.raises(NotFound):
        copy(place("none"), place("b"))


def test_two_copies_to_one_target_are_told_apart(place):
    source, target = filled(place("a"), 5), place("b")
    with locked(job_file("copy-to", target)), pytest.raises(StoreLocked, match=f"pid {os.getpid()} on "):
        copy(source, target)
    assert copy(source, target).signed_off


def test_a_record_that_the_target_cannot_hold_is_told_and_the_rest_is_there(tmp_path, place):
    source, target = filled(place("a"), 30), f"milvus+lite://{tmp_path}/d.db"
    with Opened(source) as collection:
        one = records(1, start=7)
        collection.upsert(replace(one, payloads=({"text": "x" * 70_000},)))
    report = copy(source, target)
    assert [row.id for row in report.refused] == ["shop/0007.jpg"]
    assert "its payload has 70" in report.refused[0].reason
    assert not report.signed_off
    assert report.target.count == 29


def test_a_file_is_checked_like_all_that_is_written(place, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    file = tmp_path / "x.parquet"
    copy(filled(place("a"), 5), file)
    with parquet.ParquetFile(file) as opened:
        table = opened.read().replace_schema_metadata(opened.metadata.metadata)
    at = table.schema.names.index("vector_image")
    vectors = table.column(at).to_pylist()
    vectors[1] = [float("nan")] * 16
    parquet.write_table(
        table.set_column(at, table.schema.field(at), pa.array(vectors, table.schema.field(at).type)), file
    )
    report = copy(file, place("b"))
    assert [row.id for row in report.refused] == ["shop/0001.jpg"]
    assert "holds NaN" in report.refused[0].reason
    assert not report.signed_off
    assert report.target.count == 4


def test_records_are_checked_against_what_only_the_target_declares(place):
    source, target = filled(place("a"), 5, replace(SPEC, fields=SPEC.fields[:1] + SPEC.fields[4:5])), place("b")
    with Opened(source) as collection:
        collection.upsert(replace(records(1), payloads=({"stock": "many"},)))
    connector, name = connect(target)
    Collection.create(connector, name, SPEC)
    report = copy(source, target)
    assert [row.id for row in report.refused] == ["shop/0000.jpg"]
    assert "'stock' is declared int" in report.refused[0].reason
    assert report.target.count == 4


# --- the proof notices -------------------------------------------------------------------------------------------------


def _other_vector(target: Collection, one: Batch) -> None:
    turned = one.vectors["image"].copy()
    turned[0, 0] += 1e-4
    target.upsert(replace(one, vectors={**one.vectors, "image": turned}, revs=None))


def _no_vector(target: Collection, one: Batch) -> None:
    target.upsert(replace(one, vectors={"image": one.vectors["image"]}, absent={}, revs=None))


def _other_payload(target: Collection, one: Batch) -> None:
    target.upsert(
        replace(one, payloads=({**one.payloads[0], "note": {"deep": [1, 2.5, None, "ä", 1], "n": 1.0}},), revs=None)
    )


def _other_field(target: Collection, one: Batch) -> None:
    target.upsert(replace(one, payloads=({**one.payloads[0], "product": "wine"},), revs=None))


def _other_tokens(target: Collection, one: Batch) -> None:
    target.upsert(replace(one, tokens=(one.tokens[0] + np.int8(1),), revs=None))


def _lost(target: Collection, one: Batch) -> None:
    target.delete(one.ids)


def _more(target: Collection, one: Batch) -> None:
    target.upsert(replace(one, ids=("shop/new.jpg",), revs=None))


@pytest.mark.parametrize(
    ("tamper", "fails", "said"),
    [
        (_other_vector, "records", "'shop/0013.jpg': vector 'image' is off by"),
        (_no_vector, "records", "'shop/0013.jpg': vector 'text' is missing"),
        (_other_payload, "records", "'shop/0013.jpg': payload 'note' differs"),
        (_other_field, "records", "'shop/0013.jpg': payload 'product' differs"),
        (_other_tokens, "records", "'shop/0013.jpg': its tokens differ"),
        (_lost, "ids", "'shop/0013.jpg' is missing in the target"),
        (_more, "ids", "'shop/new.jpg' is in the target only"),
    ],
)
def test_the_proof_notices(place, tamper, fails, said):
    source, target = filled(place("a"), 40), place("b")
    assert copy(source, target).signed_off
    with Opened(target) as collection:
        tamper(collection, collection.fetch(["shop/0013.jpg"], want=ALL))
    report = check(source, target)
    assert not report.signed_off
    failed = {found.name: found for found in report.checks if not found.passed}
    assert any(line.startswith(said) for line in failed[fails].differing)
    if tamper is _lost:
        assert copy(source, target).signed_off, "what the target lost is copied again"
    elif tamper is _more:
        assert not copy(source, target).signed_off
        with Opened(target) as collection:
            assert collection.count() == 41, "what the copy did not write it does not delete"
    else:
        assert not copy(source, target).signed_off, "what was changed in the target is told, not overwritten"


def test_answers_to_queries_and_filters_are_compared(place, monkeypatch):
    source, target = filled(place("a"), 40), place("b")
    copy(source, target)

    class Odd(MemoryConnector):
        def search(self, name, request, *, timeout):
            found = super().search(name, request, timeout=timeout)
            return [[replace(hit, score=hit.score + 0.01) for hit in hits] for hits in found]

        def count(self, name, where, *, timeout):
            return super().count(name, where, timeout=timeout) + (where is not None)

    odd = Odd(store=connect(target)[0]._store)
    monkeypatch.setattr("pixdex.copying.connect", lambda url: (odd, "c") if url == target else connect(url))
    failed = {found.name: found for found in check(source, target).checks if not found.passed}
    assert failed.keys() == {"neighbours:image", "neighbours:text", "filters"}
    assert "in the source" in failed["filters"].differing[0]


def test_nothing_compared_is_not_the_same(place, monkeypatch):
    source, target = filled(place("a"), 40), place("b")
    copy(source, target)
    for sampling in ({"records": 0}, {"queries": -1}, {"k": 0}, {"filters": -1}):
        with pytest.raises(ConfigError, match=f"sampling: {next(iter(sampling))} is "):
            Sampling(**sampling)
    names = [found.name for found in check(source, target, sampling=Sampling(queries=0, filters=0)).checks]
    assert names == ["spec", "count", "ids", "records"]

    class Mute(MemoryConnector):
        def fetch(self, name, ids, *, want, timeout):
            return super().fetch(name, (), want=want, timeout=timeout)

    mute = Mute(store=connect(source)[0]._store)
    monkeypatch.setattr("pixdex.copying.connect", lambda url: (mute, "c") if url == source else connect(url))
    report = check(source, target)
    (found,) = [found for found in report.checks if found.name == "records"]
    assert (found.passed, found.said) == (False, "0 of 40 compared, so nothing is known")
    assert not report.signed_off


def test_a_record_written_meanwhile_excuses_no_other(place):
    source, target = filled(place("a"), 40), place("b")
    copy(source, target)
    with Opened(source) as ours, Opened(target) as theirs:
        mark = max(rev for page in ours.scan() for rev in page.batch.revs)
        ours.upsert(replace(records(1, start=3, seed=9), revs=None))
        late = _Late(ours, mark)
        queries = records(5, start=10).vectors["image"]
        assert _neighbours(ours, theirs, "image", queries, 10, late).passed
        one = theirs.fetch(["shop/0013.jpg"], want=ALL)
        theirs.upsert(replace(one, vectors={**one.vectors, "image": -one.vectors["image"]}, revs=None))
        found = _neighbours(ours, theirs, "image", queries, 40, late)
    assert not found.passed
    assert any("'shop/0013.jpg'" in line for line in found.differing)


def test_a_sample_says_how_much_it_says(place):
    source, target = filled(place("a"), 100), place("b")
    report = copy(source, target, sampling=Sampling(records=30))
    (found,) = [found for found in report.checks if found.name == "records"]
    assert found.compared == 30
    assert "30 of 100 compared, equal, vectors within 1e-06; with 95 % confidence fewer than 10.00% of" in found.said


# --- aliases -----------------------------------------------------------------------------------------------------------


def test_an_alias_is_switched_once_all_is_the_same(place):
    source, target = filled(place("a"), 30), place("b")
    report = copy(source, target, switch_alias="live")
    assert report.alias == "live"
    with Opened(target) as collection:
        assert collection.aliases() == ["live"]
    assert copy(source, target, switch_alias="live").alias == "live", "done again it is no error"


def test_an_alias_that_names_another_is_switched_when_that_one_is_named(place):
    source, target = filled(place("a"), 30), place("b")
    connector, _ = connect(target)
    for old in ("old", "older"):
        Collection.create(connector, old, SPEC)
    Collection.open(connector, "old").alias("live")
    with pytest.raises(ConfigError, match="alias 'live' names 'old' now: say so with --from old"):
        copy(source, target, switch_alias="live")
    with pytest.raises(ConfigError, match="alias 'live' names 'old', not 'older'"):
        copy(source, target, switch_alias="live", switch_from="older")
    with pytest.raises(NotFound):
        Collection.open(connector, "c")
    assert copy(source, target, switch_alias="live", switch_from="old").alias == "live"
    assert connector.aliases(timeout=None) == {"live": "c"}


def test_an_alias_of_the_targets_own_name_is_refused_before_anything_is_copied(place):
    source, target = filled(place("a"), 3), place("b")
    with pytest.raises(ConfigError, match="'c' is a collection"):
        copy(source, target, switch_alias="c")
    with pytest.raises(NotFound):
        Collection.open(*connect(target))


def test_an_alias_stays_when_the_copy_is_not_the_same(place):
    source, target = filled(place("a"), 30), place("b")
    copy(source, target)
    with Opened(target) as collection:
        _other_vector(collection, collection.fetch(["shop/0013.jpg"], want=ALL))
        assert copy(source, target, switch_alias="live").alias is None
        assert collection.aliases() == []


def test_a_file_has_no_alias(place, tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(Unsupported, match="parquet has no aliases"):
        copy(filled(place("a"), 3), tmp_path / "x.parquet", switch_alias="live")


# --- how fast ----------------------------------------------------------------------------------------------------------


def test_no_more_records_a_second_than_asked_for():
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = moving.Pace(10, clock=lambda: now[0], sleep=sleep)
    assert pace.most == 10
    for _ in range(5):
        pace.wait(10)
    assert now[0] == pytest.approx(5.0)
    assert pace.moving("copying", 50, 100).left == pytest.approx(5.0)


def test_pages_are_bounded_by_bytes(place, monkeypatch):
    source = filled(place("a"), 100)
    monkeypatch.setattr(moving, "PAGE_BYTES", 4000)
    with Opened(source) as collection:
        sizes = [len(page.batch) for page in moving.pages(collection, ALL, most=1000)]
    assert sum(sizes) == 100
    assert sizes[0] == 64
    assert max(sizes[1:]) < 20


def test_reading_ahead_ends_with_its_reader_and_tells_its_errors():
    def items() -> Iterator[int]:
        yield from range(3)
        raise StoreFull("no space")

    read = moving.ahead(items())
    assert [next(read), next(read), next(read)] == [0, 1, 2]
    with pytest.raises(StoreFull, match="no space"):
        next(read)
    endless = moving.ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()


# --- the command -------------------------------------------------------------------------------------------------------


def ran(*words: object) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_command_says_what_it_found_and_writes_a_page(place, tmp_path):
    source, target, page = filled(place("a"), 30), place("b"), tmp_path / "report.html"
    done = ran("copy", source, target, "--report", page, "--rate", 100000)
    assert done.exit_code == 0, done.output
    assert "signed off" in done.stdout
    assert "30 copied" in done.stderr
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert 'class="yes">signed off' in text
    assert "http" not in text
    with Opened(target) as collection:
        collection.delete(["shop/0003.jpg"])
    done = ran("copy", source, target, "--check", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert not found["signed_off"]
    assert found["target"]["count"] == 29


def test_stopped_it_says_how_to_go_on(place, monkeypatch):
    from contextlib import contextmanager

    from pixdex import _cli_copy

    def stop(now: moving.Moving) -> None:
        raise KeyboardInterrupt

    @contextmanager
    def following() -> Iterator[Any]:
        yield stop

    source, target = filled(place("a"), 90), place("b")
    with monkeypatch.context() as patch:
        patch.setattr(_cli_copy, "following", following)
        done = ran("copy", source, target)
    assert done.exit_code == 130
    assert "what was copied stays, and the same command goes on from there" in done.stderr
    report = copy(source, target)
    assert report.before == 20
    assert report.signed_off


def test_export_and_import(place, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    source, target, file = filled(place("a"), 30), place("b"), tmp_path / "out.parquet"
    assert ran("export", source, file).exit_code == 0
    table = pq.read_table(file)
    assert table.schema.names[:4] == ["id", "vector_image", "vector_text", "product"]
    assert table.column("stock").to_pylist() == [json.loads(p)["stock"] for p in table.column("payload").to_pylist()]
    assert table.column("vector_text").null_count == 10
    assert ran("import", file, target).exit_code == 0
    assert_same(source, target)
    assert "its name ends in .parquet" in str(ran("export", source, tmp_path / "x.csv").exception)
    again = ran("export", filled(place("c"), 3), file).exception
    assert isinstance(again, AlreadyExists)
    assert "did not write" in str(again)
    assert pq.read_metadata(file).num_rows == 30
    assert "holds the vectors image, text: write it to a collection with pixdex import" in str(
        ran("add", target, file).exception
    )


def test_what_is_remembered_names_no_secret(place, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY", "s3cret")
    one, other = (job_file("copy", f"qdrant://Host:6333/photos{query}") for query in ("", "?key_env=KEY&grpc=1"))
    assert one == other
    copy(filled(place("a"), 3), place("b"))
    assert all(b"s3cret" not in path.read_bytes() for path in state_folder().iterdir())
