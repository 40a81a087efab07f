"""The async classes: the same verbs as the sync ones, bounded threads, and cancellation that leaves a valid state."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import toys

import pixdex
from pixdex import (
    Batch,
    Collection,
    F,
    Field,
    Fingerprint,
    ImageIndex,
    Kind,
    Metric,
    Policy,
    Spec,
    Vector,
    Want,
    aio,
    connect,
)
from pixdex import index as sync_index
from pixdex.connectors.memory import MemoryConnector
from pixdex.connectors.port import Connector
from pixdex.encoders.images import Decoding
from pixdex.errors import ConfigError, InvalidRecord, NotFound, StoreError, StoreUnavailable

DIM = 16
PLAIN = {"require", "require_tokens"}
"""Methods that ask nothing of the store: not awaited."""
AWAITED = {"collection", "text_encoder"}
"""Properties that ask the store: a method there."""
MORE = {"close"}
"""What an AsyncCollection has besides: the connector's own close knows nothing of calls that run."""
RENAMED = {"Iterator": "AsyncIterator", "Collection": "AsyncCollection", "ImageIndex": "AsyncImageIndex"}


# --- the two are alike ------------------------------------------------------------------------------


def members(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


def attributes(kind: type) -> set[str]:
    """What ``__init__`` sets and everybody may read."""
    return set(re.findall(r"self\.([a-z]\w*) =", inspect.getsource(kind.__init__)))


PAIRS = [(Collection, aio.AsyncCollection), (ImageIndex, aio.AsyncImageIndex)]
METHODS = [
    pytest.param(sync, twin, name, id=f"{sync.__name__}.{name}")
    for sync, twin in PAIRS
    for name, value in members(sync).items()
    if not isinstance(value, property)
]


@pytest.mark.parametrize(("sync", "twin"), PAIRS)
def test_both_have_the_same_members(sync, twin):
    assert attributes(sync) <= {"connector", "name", "spec", "policy", "encoder"}
    expected = members(sync).keys() | attributes(sync)
    assert members(twin).keys() - (MORE if sync is Collection else set()) == expected


def renamed(annotation: str) -> str:
    head = annotation.partition("[")[0]
    return RENAMED.get(head, head) + annotation[len(head) :]


@pytest.mark.parametrize(("sync", "twin", "name"), METHODS)
def test_methods_have_the_same_signature(sync, twin, name):
    ours, theirs = (inspect.signature(inspect.unwrap(getattr(kind, name))) for kind in (twin, sync))
    assert ours.parameters == theirs.parameters
    assert ours.return_annotation == renamed(theirs.return_annotation)
    if name not in PLAIN:
        method = inspect.unwrap(getattr(twin, name))
        assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


@pytest.mark.parametrize(("sync", "twin"), PAIRS)
def test_properties_stay_properties_unless_they_ask_the_store(sync, twin):
    properties = {name for name, value in members(sync).items() if isinstance(value, property)}
    for name in properties | attributes(sync):
        value = members(twin)[name]
        if name in AWAITED:
            assert inspect.iscoroutinefunction(value)
            assert list(inspect.signature(value).parameters) == ["self"]
        else:
            assert isinstance(value, property)


@pytest.mark.parametrize("name", ["open", "encode", "load"])
def test_functions_have_the_same_signature(name):
    ours, theirs = inspect.signature(getattr(aio, name)), inspect.signature(getattr(pixdex, name))
    assert ours.parameters == theirs.parameters
    assert ours.return_annotation == renamed(theirs.return_annotation)


# --- collections ------------------------------------------------------------------------------------


def spec() -> Spec:
    fingerprint = Fingerprint(encoder="none", digest="00" * 8)
    vectors = (Vector(name="image", dim=DIM, metric=Metric.COSINE, fingerprint=fingerprint),)
    return Spec(vectors=vectors, fields=(Field(name="year", kind=Kind.INT),))


def records(count: int, start: int = 0) -> Batch:
    rng = np.random.default_rng(start)
    ids = tuple(f"r{number:05}" for number in range(start, start + count))
    vectors = {"image": rng.standard_normal((count, DIM)).astype(np.float32)}
    return Batch(ids, vectors, tuple({"year": 2000 + number % 10} for number in range(count)))


@asynccontextmanager
async def filled(url: str, count: int = 300) -> AsyncIterator[aio.AsyncCollection]:
    async with await aio.AsyncCollection.create(connect(url)[0], "main", spec()) as collection:
        await collection.upsert(records(count))
        yield collection


def test_every_verb_does_what_the_sync_one_does(url):
    async def main() -> None:
        async with filled(url) as collection:
            plain = Collection.open(collection.connector, "main")
            assert collection.name == "main"
            assert collection.spec == plain.spec
            assert collection.capabilities is plain.capabilities
            assert await collection.count() == 300
            assert await collection.count(F.year == 2003) == 30
            assert (await collection.fetch(["r00007", "gone"])).ids == ("r00007",)
            await collection.alter(fields=[Field(name="place", kind=Kind.GEO)])
            await collection.refresh()
            assert collection.spec.field("place") is not None
            await collection.alias("latest")
            assert await collection.aliases() == ["latest"]
            other = await aio.AsyncCollection.open(collection.connector, "latest")
            assert await other.count() == 300
            await collection.unalias("latest")
            await collection.delete(["r00000"])
            await collection.delete_where(F.year == 2001)
            await collection.flush()
            assert await collection.count() == 269
            query = np.ones(DIM, np.float32)
            assert await collection.search_one(query, k=3) == plain.search_one(query, k=3)
            assert [p.batch.ids async for p in collection.scan(size=50)] == [p.batch.ids for p in plain.scan(size=50)]
            await collection.drop()
            with pytest.raises(NotFound):
                await collection.count()

    asyncio.run(main())


def test_a_hundred_searches_at_once_find_what_one_after_the_other_finds(url):
    async def main() -> None:
        async with filled(url) as collection:
            plain = Collection.open(collection.connector, "main")
            queries = np.random.default_rng(1).standard_normal((100, DIM)).astype(np.float32)
            where = F.year >= 2003
            searches = (collection.search_one(query, k=7, where=where) for query in queries)
            found = await asyncio.gather(*searches)
            assert found == [plain.search_one(query, k=7, where=where) for query in queries]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.search_one(np.full(DIM, np.nan)), InvalidRecord),
        (lambda c: c.search_one(np.ones(DIM), k=0), ConfigError),
        (lambda c: c.fetch([7]), InvalidRecord),
        (lambda c: c.alter(fields=[Field(name="year", kind=Kind.INT)]), ConfigError),
    ],
)
def test_errors_are_the_sync_ones(url, call, error):
    async def main() -> tuple[Exception, Exception]:
        async with filled(url, 10) as collection:
            with pytest.raises(error) as awaited:
                await call(collection)
            with pytest.raises(error) as plain:
                call(Collection.open(collection.connector, "main"))
            return awaited.value, plain.value

    ours, theirs = asyncio.run(main())
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)


def test_an_error_passes_unchanged():
    """The very object that the store raised, attributes and cause included."""
    raised = StoreUnavailable("connection refused")

    class Broken(MemoryConnector):
        def count(self, name: str, where: Any, *, timeout: float | None) -> int:
            raise raised

    async def main() -> None:
        collection = aio.AsyncCollection(Collection.create(Broken(), "main", spec(), policy=Policy(attempts=1)))
        with pytest.raises(StoreUnavailable) as caught:
            await collection.count()
        assert caught.value is raised

    asyncio.run(main())


# --- threads ----------------------------------------------------------------------------------------


class Gate(MemoryConnector):
    """A store whose counts, upserts and scans wait at a gate; it knows how many wait and how many waited at most."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.inside = self.most = self.passed = self.scans = 0
        self.closed_with = -1
        self.lock = threading.Lock()

    def wait(self) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.gate.wait(20)
        with self.lock:
            self.inside -= 1
            self.passed += 1

    def count(self, name: str, where: Any, *, timeout: float | None) -> int:
        self.wait()
        return super().count(name, where, timeout=timeout)

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        self.wait()
        super().upsert(name, batch, timeout=timeout)

    def scan(self, name: str, request: Any, *, timeout: float | None) -> Any:
        self.scans += 1
        self.wait()
        return super().scan(name, request, timeout=timeout)

    def close(self) -> None:
        self.closed_with = self.inside


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.gate.set()


@pytest.fixture
def limiter() -> Iterator[aio.Limiter]:
    limiter = aio.Limiter(3)
    yield limiter
    limiter.close()


def gated(gate: Connector, limiter: aio.Limiter) -> aio.AsyncCollection:
    return aio.AsyncCollection(Collection.create(gate, "main", spec()), limiter=limiter)


def test_no_more_calls_run_than_the_limiter_has_threads(gate, limiter):
    async def main() -> None:
        collection = gated(gate, limiter)
        gate.gate.clear()
        calls = [asyncio.ensure_future(collection.count()) for _ in range(20)]
        await until(lambda: gate.inside == 3)
        await asyncio.sleep(0.02)
        assert gate.inside == 3
        gate.gate.set()
        assert await asyncio.gather(*calls) == [0] * 20
        assert gate.most == 3

    asyncio.run(main())


def test_one_limiter_bounds_several_event_loops_and_objects(gate, limiter):
    collections = [gated(gate, limiter)]
    collections.append(aio.AsyncCollection(Collection.open(gate, "main"), limiter=limiter))

    async def count(collection: aio.AsyncCollection) -> list[int]:
        return await asyncio.gather(*(collection.count() for _ in range(10)))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda c: asyncio.run(count(c)), collections)) == [[0] * 10] * 2
    assert 1 <= gate.most <= 3
    assert asyncio.run(count(collections[0])) == [0] * 10  # a third loop


def test_the_default_limiter_can_be_replaced(gate, limiter):
    before = aio.default_limiter()
    assert before.size == aio.DEFAULT_THREADS
    old = aio.AsyncCollection(Collection.create(gate, "main", spec()))
    aio.set_default_limiter(limiter)
    try:
        new = aio.AsyncCollection(Collection.open(gate, "main"))
    finally:
        aio.set_default_limiter(before)

    async def most(collection: aio.AsyncCollection, size: int) -> int:
        gate.gate.clear()
        gate.most = 0
        calls = [asyncio.ensure_future(collection.count()) for _ in range(30)]
        await until(lambda: gate.inside >= size)
        await asyncio.sleep(0.02)
        gate.gate.set()
        await asyncio.gather(*calls)
        return gate.most

    assert asyncio.run(most(new, 3)) == 3
    assert asyncio.run(most(old, aio.DEFAULT_THREADS)) == aio.DEFAULT_THREADS


def test_a_limiter_without_threads_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        aio.Limiter(0)


def test_calls_see_the_context_of_the_caller(gate, limiter):
    request = contextvars.ContextVar("request", default="none")
    seen = []

    async def main() -> None:
        request.set("42")
        collection = gated(gate, limiter)
        gate.wait = lambda: seen.append(request.get())  # type: ignore[method-assign]
        await collection.count()

    asyncio.run(main())
    assert seen == ["42"]


# --- cancellation -----------------------------------------------------------------------------------


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cancelled_write_returns_at_once_and_is_written_whole(gate, limiter):
    async def main() -> None:
        collection = gated(gate, limiter)
        gate.gate.clear()
        task = asyncio.create_task(collection.upsert(records(50)))
        await until(lambda: gate.inside == 1)
        started = time.monotonic()
        await cancelled(task)
        assert time.monotonic() - started < 1
        assert gate.inside == 1  # the thread is at it still
        gate.gate.set()
        await until(lambda: gate.passed == 1)
        assert await collection.count() == 50

    asyncio.run(main())


def test_threads_come_back_after_cancelled_calls(gate, limiter):
    async def main() -> None:
        collection = gated(gate, limiter)
        gate.gate.clear()
        tasks = [asyncio.create_task(collection.count()) for _ in range(12)]
        await until(lambda: gate.inside == 3)
        for task in tasks:
            await cancelled(task)
        gate.gate.set()
        await until(lambda: gate.inside == 0)
        assert await asyncio.gather(*(collection.count() for _ in range(6))) == [0] * 6
        assert gate.passed == 3 + 6  # those that waited for a thread never ran

    asyncio.run(main())


@pytest.mark.parametrize("calls", [2, 6])  # with a thread to spare, and with calls that wait for one
def test_close_waits_for_cancelled_calls_that_still_run(gate, limiter, calls):
    async def main() -> None:
        collection = gated(gate, limiter)
        gate.gate.clear()
        tasks = [asyncio.create_task(collection.upsert(records(5, start=5 * n))) for n in range(calls)]
        await until(lambda: gate.inside == min(calls, 3))
        for task in tasks:
            await cancelled(task)
        closing = asyncio.create_task(collection.close())
        await asyncio.sleep(0.02)
        assert gate.closed_with == -1
        with pytest.raises(StoreError, match="closed"):
            await collection.count()
        gate.gate.set()
        await closing
        assert gate.closed_with == 0
        await collection.close()  # again is fine

    asyncio.run(main())


def test_a_cancelled_close_can_be_done_again(gate, limiter):
    async def main() -> None:
        collection = gated(gate, limiter)
        gate.gate.clear()
        tasks = [asyncio.create_task(collection.count()) for _ in range(9)]
        await until(lambda: gate.inside == 3)
        closing = asyncio.create_task(collection.close())
        await asyncio.sleep(0.01)
        await cancelled(closing)
        gate.gate.set()
        assert await asyncio.gather(*tasks) == [0] * 9
        await collection.close()
        assert gate.closed_with == 0

    asyncio.run(main())


def test_a_scan_fetches_a_page_when_it_is_asked_for(gate, limiter):
    async def main() -> None:
        collection = gated(gate, limiter)
        await collection.upsert(records(100))
        pages = collection.scan(size=10)
        await asyncio.sleep(0.01)
        assert gate.scans == 0
        await anext(pages)
        await anext(pages)
        await asyncio.sleep(0.01)
        assert gate.scans == 2
        await pages.aclose()
        assert gate.scans == 2

    asyncio.run(main())


def test_a_cancelled_scan_goes_on_behind_its_last_page(gate, limiter):
    async def main() -> None:
        collection = gated(gate, limiter)
        await collection.upsert(records(100))
        pages = collection.scan(size=30)
        first = await anext(pages)
        gate.gate.clear()
        task = asyncio.ensure_future(anext(pages))
        await until(lambda: gate.inside == 1)
        await cancelled(task)
        with pytest.raises(StopAsyncIteration):
            await anext(pages)
        gate.gate.set()
        rest = [i async for page in collection.scan(size=30, after=first.after) for i in page.batch.ids]
        assert sorted([*first.batch.ids, *rest]) == list(records(100).ids)

    asyncio.run(main())


def test_a_loop_that_ends_before_the_thread_does_leaves_no_noise(gate, limiter, caplog):
    collection = gated(gate, limiter)

    async def main() -> None:
        gate.gate.clear()
        task = asyncio.create_task(collection.upsert(records(5)))
        await until(lambda: gate.inside == 1)
        await cancelled(task)

    asyncio.run(main())
    gate.gate.set()
    asyncio.run(collection.close())
    gc.collect()
    assert not caplog.records
    assert Collection.open(gate, "main").count() == 5


# --- the index --------------------------------------------------------------------------------------


def test_an_index_adds_and_finds_what_the_sync_one_does(url, toy, tmp_path):
    root = toys.folder(tmp_path / "in", 12)

    async def main() -> None:
        async with await aio.open(url, encoder=toy, fields={"year": Kind.INT}) as photos:
            assert photos.encoder is toy
            with pytest.raises(NotFound):
                await photos.collection()
            assert (await photos.add(root, fields={"year": 2020})).added == 12
            await photos.declare({"album": Kind.TEXT})
            hits = await photos.search(root / "03.png", k=3)
            assert hits[0].id == "in/03.png"
            assert await photos.search("in/03.png", k=3) == hits
            assert (await photos.get("in/05.png", want=Want(payload=True))).ids == ("in/05.png",)
            await photos.delete("in/05.png")
            assert await photos.count() == 11
            assert (await photos.info()).fields["album"] == "text"
            collection = await photos.collection()
            assert await collection.count(F.year == 2020) == 11
        with pytest.raises(StoreError, match="closed"):
            await photos.count()
        with pytest.raises(StoreError, match="closed"):
            await collection.count()  # its life is the index's

    asyncio.run(main())


class Slow(toys.ToyEncoder):
    """An encoder that stops at its first batch until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def encode(self, prepared: Any, *, tokens: bool = False) -> Any:
        self.begun.set()
        assert self.go_on.wait(20)
        return super().encode(prepared, tokens=tokens)


def test_a_cancelled_add_stops_between_chunks_and_a_second_one_goes_on(url, tmp_path):
    root = toys.folder(tmp_path / "in", 500)
    slow = Slow()

    async def main() -> None:
        async with await aio.open(url, encoder=slow) as photos:
            task = asyncio.create_task(photos.add(root, progress=False))
            await until(slow.begun.is_set)
            task.cancel()
            await asyncio.sleep(0.02)
            assert not task.done()  # the chunk in hand is finished first
            slow.go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            written = await photos.count()
            assert 0 < written <= 256
            encoded = slow.total
            await asyncio.sleep(0.05)
            assert slow.total == encoded  # nothing works on behind the caller's back
            report = await photos.add(root, progress=False)
            assert (report.unchanged, report.added) == (written, 500 - written)
            assert await photos.count() == 500

    asyncio.run(main())


def test_a_cancelled_encode_goes_on_and_its_file_is_loaded(url, tmp_path):
    pytest.importorskip("pyarrow")
    root, file, slow = toys.folder(tmp_path / "in", 300), tmp_path / "v.parquet", Slow()

    async def main() -> None:
        task = asyncio.create_task(aio.encode(root, file, encoder=slow, progress=False))
        await until(slow.begun.is_set)
        task.cancel()
        slow.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not file.exists()
        report = await aio.encode(root, file, encoder=slow, decoding=Decoding(), workers=1, progress=False)
        assert 0 < report.unchanged == 300 - report.added
        seen: list[int] = []
        assert (await aio.load(url, file, progress=lambda so_far: seen.append(so_far.added))).added == 300
        assert seen == [300]

    asyncio.run(main())


def test_an_add_that_waits_for_a_thread_is_left_out(toy, tmp_path, limiter):
    root = toys.folder(tmp_path / "in", 3)
    busy = threading.Event()

    async def main() -> None:
        photos = aio.AsyncImageIndex(sync_index.open("memory://", encoder=toy), limiter=limiter)
        for _ in range(limiter.size):
            limiter.submit(lambda: busy.wait(20))
        task = asyncio.create_task(photos.add(root, progress=False))
        await asyncio.sleep(0.01)
        await cancelled(task)
        busy.set()
        assert await photos.count() == 0
        assert toy.total == 0
        await photos.close()

    asyncio.run(main())


def test_progress_is_followed_as_in_the_sync_one(toy, tmp_path):
    root = toys.folder(tmp_path / "in", 200)
    seen: list[int] = []

    async def main() -> None:
        async with await aio.open("memory://", encoder=toy) as photos:
            report = await photos.add(root, progress=lambda so_far: seen.append(so_far.added))
            assert seen == [64, 128, 192, 200]
            assert report.added == 200

    asyncio.run(main())


def test_an_index_opened_for_a_cancelled_caller_is_closed(monkeypatch, toy):
    gate, opened = threading.Event(), []
    really = sync_index.open

    def slowly(url: str, **options: Any) -> ImageIndex:
        assert gate.wait(20)
        opened.append(really(url, **options))
        return opened[-1]

    closed = []

    def close(self: ImageIndex) -> None:
        closed.append(self)

    monkeypatch.setattr(sync_index, "open", slowly)
    monkeypatch.setattr(ImageIndex, "close", close)

    async def main() -> None:
        task = asyncio.create_task(aio.open("memory://", encoder=toy))
        await asyncio.sleep(0.02)
        await cancelled(task)
        gate.set()
        await until(lambda: bool(closed))

    asyncio.run(main())
    assert closed == opened


def test_the_import_is_light() -> None:
    code = "import sys, pixdex.aio; assert not {'numpy', 'pydantic', 'PIL', 'rich', 'faiss'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
