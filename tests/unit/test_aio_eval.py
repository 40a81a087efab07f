"""Evaluation for programs on asyncio: the same as the sync one, and it stops when it is cancelled."""

from __future__ import annotations

import asyncio
import inspect
import threading
from pathlib import Path

import pytest
import toys
from test_evaluating import filled, shelf

import pixdex
from pixdex import aio, evaluating
from pixdex.evaluating import Evaluation
from pixdex.index import ImageIndex


@pytest.mark.parametrize("name", ["evaluate", "compare"])
def test_functions_have_the_same_signature(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (aio, evaluating))
    assert ours == theirs
    assert inspect.iscoroutinefunction(getattr(aio, name))


@pytest.fixture
def index(photos: ImageIndex, tmp_path: Path) -> ImageIndex:
    return filled(photos, shelf(tmp_path / "in"))


def test_both_do_what_the_sync_ones_do(index: ImageIndex, tmp_path: Path, toy: toys.ToyEncoder) -> None:
    asked = shelf(tmp_path / "asked", 2, start=50)
    url = f"pq://{tmp_path / 'other.pix'}"
    with pixdex.open(url, encoder=toy) as other:
        filled(other, tmp_path / "in")

    async def main() -> None:
        twin = aio.AsyncImageIndex(index)
        found = await aio.evaluate(twin, label="kind", queries=asked)
        assert found.metrics == evaluating.evaluate(index, label="kind", queries=asked).metrics
        collection = await twin.collection()
        done = await aio.compare(collection, url, label="kind", metrics=["map"], limit=5)
        assert list(done.differences) == ["map"]
        assert len(done.first.queries) == 5

    asyncio.run(main())


def test_cancelled_it_stops(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    from pixdex import _eval_search

    monkeypatch.setattr(_eval_search, "_AT_ONCE", 1)
    began, go_on, searches = threading.Event(), threading.Event(), []
    search = type(index.collection).search

    def slow(self: object, *arguments: object, **options: object) -> object:
        searches.append(1)
        began.set()
        go_on.wait(10)
        return search(self, *arguments, **options)

    monkeypatch.setattr(type(index.collection), "search", slow)

    async def main() -> None:
        task: asyncio.Task[Evaluation] = asyncio.create_task(aio.evaluate(aio.AsyncImageIndex(index), label="kind"))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(searches) == 1  # of twenty

    asyncio.run(main())
