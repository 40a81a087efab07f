"""Jobs for programs on asyncio: what the sync ones do, and one that is cancelled stops, lets go and can be gone on with."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import toys

import pixdex
from pixdex import Want, _copy_moving, _plugins, _reindex_moving, aio, connect, encoders, labelling
from pixdex.calibrating import calibrate
from pixdex.copying import copy
from pixdex.dedup import Near, find_duplicates
from pixdex.fusion_fitting import fit_fusion
from pixdex.labelling import label
from pixdex.reindexing import Options, name_alias, reindex, rollback

SYNC = (copy, reindex, rollback, label, find_duplicates, calibrate, fit_fusion)
RENAMED = {"Collection": "AsyncCollection", "str | indexes.ImageIndex": "str | AsyncImageIndex"}
COUNT = 48
QUICK = Options(sample=10, overlap=1.0)
Hear = Callable[..., None]


@pytest.mark.parametrize("sync", SYNC, ids=lambda sync: sync.__name__)
def test_functions_have_the_same_signature(sync: Callable[..., Any]) -> None:
    twin = getattr(aio, sync.__name__)
    ours, theirs = inspect.signature(twin), inspect.signature(sync)
    assert ours.return_annotation == theirs.return_annotation
    renamed = [p.replace(annotation=RENAMED.get(p.annotation, p.annotation)) for p in theirs.parameters.values()]
    assert list(ours.parameters.values()) == renamed
    assert inspect.iscoroutinefunction(twin)
    assert sync.__name__ in aio.__all__


def test_what_is_no_job_is_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = aio.train


def turned(rest: str) -> toys.ToyEncoder:
    return toys.ToyEncoder(f"turned{rest}")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "state"))
    known = toys.with_toy(_plugins.installed)
    other = {"turned": EntryPoint("turned", "test_aio_jobs:turned", encoders.GROUP)}
    monkeypatch.setattr(
        _plugins, "installed", lambda group: {**known(group), **(other if group == encoders.GROUP else {})}
    )
    monkeypatch.setattr(_copy_moving, "PAGE_RECORDS", 8)
    monkeypatch.setattr(_reindex_moving, "PAGE_RECORDS", 8)
    monkeypatch.setattr(labelling, "_CHUNK", 8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return toys.folder(tmp_path / "in", COUNT)


@pytest.fixture
def url(pictures: Path, tmp_path: Path) -> Iterator[str]:
    """Pictures of four kinds with tokens, in memory, under the alias ``live``."""
    store = f"memory://{tmp_path.name}"
    keeping, _ = connect(store)
    with pixdex.open(f"{store}#v1", encoder="toy:48", fields={"label": "text"}, tokens=True) as index:
        for number in range(COUNT):
            index.add(pictures / f"{number:02}.png", fields={"kind": f"k{number % 4}"}, progress=False)
    name_alias(f"{store}#v1", "live")
    yield f"{store}#live"
    keeping.close()


@pytest.fixture
def table(pictures: Path) -> Path:
    path = pictures / "labels.csv"
    path.write_text("path,label\n" + "".join(f"{n:02}.png,cat\n" for n in range(COUNT)))
    return path


async def cancelled(start: Callable[[Hear], Coroutine[Any, Any, Any]]) -> None:
    """Begin it, cancel it when it first says how far it is, and see that it stops before it says so again."""
    began, go_on, heard = threading.Event(), threading.Event(), []

    def hear(*said: Any) -> None:
        heard.append(said)
        began.set()
        assert go_on.wait(20)

    task = asyncio.create_task(start(hear))
    assert await asyncio.to_thread(began.wait, 20)
    task.cancel()
    await asyncio.sleep(0.02)
    assert not task.done(), "the work in hand is finished first"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.02)
    assert len(heard) == 1


def labelled(url: str) -> int:
    with pixdex.open(url) as index:
        return sum(payload.get("label") is not None for payload in toys.payloads(index).values())


def test_a_cancelled_copy_is_gone_on_with(url: str, tmp_path: Path) -> None:
    target = f"pq://{tmp_path / 'copy.pix'}"

    async def main() -> None:
        await cancelled(lambda hear: aio.copy(url, target, progress=hear))
        with pixdex.open(target) as index:
            assert 0 < index.count() < COUNT
        done = await aio.copy(url, target)
        assert (done.signed_off, done.target.count) == (True, COUNT)
        assert await aio.copy(url, f"{target}#again") is not None

    asyncio.run(main())


def test_a_cancelled_reindexing_is_gone_on_with_and_led_back(url: str) -> None:
    async def main() -> None:
        await cancelled(lambda hear: aio.reindex(url, encoder="turned:", options=QUICK, progress=hear))
        with pixdex.open(url) as index:
            assert index.encoder.name == "toy", "the alias names what it named"
        done = await aio.reindex(url, encoder="turned:", options=QUICK)
        assert done.alias == "live"
        assert done.records == (COUNT, COUNT)
        back = await aio.rollback(url, catch_up=True, options=QUICK)
        assert back.back == "v1"

    asyncio.run(main())


def test_cancelled_labels_are_gone_on_with(url: str, table: Path) -> None:
    async def main() -> None:
        heard = threading.Event()

        async def after_a_page(hear: Hear) -> Any:
            return await aio.label(url, table, progress=lambda *said: hear(*said) if labelled(url) else heard.set())

        await cancelled(after_a_page)
        there = labelled(url)
        assert 0 < there < COUNT
        async with await aio.open(url) as photos:
            done = await aio.label(photos, table)
            assert (done.unchanged, done.labelled) == (there, COUNT - there)
            collection = await photos.collection()
            assert (await aio.label(collection, table)).unchanged == COUNT

    asyncio.run(main())


def test_what_changes_nothing_finds_the_same_and_stops(url: str) -> None:
    near = Near(cosine=0.6)

    async def main() -> None:
        async with await aio.open(url) as photos:
            collection = await photos.collection()
            with pixdex.open(url) as index:
                one = find_duplicates(index.collection, near)
                other = await aio.find_duplicates(collection, near)
                assert (one.groups, one.candidates) == (other.groups, other.candidates)
                fitted = await aio.fit_fusion(photos, label="kind", evidence=["image", "at"], folds=2)
                same_fit = fit_fusion(index, label="kind", evidence=["image", "at"], folds=2)
                assert fitted.chosen == same_fit.chosen
                done = await aio.calibrate(photos, "maxsim", label="kind", candidates=10)
                same = calibrate(index, "maxsim", label="kind", candidates=10)
                assert done.calibration == same.calibration
            await cancelled(lambda hear: aio.find_duplicates(collection, near, progress=hear))
            await cancelled(lambda hear: aio.fit_fusion(photos, label="kind", evidence=["image", "at"], progress=hear))
            await cancelled(lambda hear: aio.calibrate(photos, "maxsim", label="kind", progress=hear))
            assert await collection.count() == COUNT
            assert (await collection.fetch(["in/00.png"], want=Want())).ids

    asyncio.run(main())
