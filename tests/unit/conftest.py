"""What tests of pictures share: the toy encoder, also by name, and stores to put pictures into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toys

import pixdex
from pixdex import _plugins
from pixdex.index import ImageIndex


@pytest.fixture
def toy() -> toys.ToyEncoder:
    """A fresh encoder that counts."""
    return toys.ToyEncoder()


@pytest.fixture
def toy_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """``toy`` and ``toy:48`` as an installed plugin would be."""
    monkeypatch.setattr(_plugins, "installed", toys.with_toy(_plugins.installed))


@pytest.fixture(params=["memory", "pq"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store: the oracle and the embedded one."""
    return {"memory": "memory://", "pq": f"pq://{tmp_path / 'store.pix'}"}[request.param]


@pytest.fixture
def photos(toy: toys.ToyEncoder, url: str) -> Iterator[ImageIndex]:
    """An empty index over each store."""
    with pixdex.open(url, encoder=toy) as index:
        yield index


@pytest.fixture
def made(toy: toys.ToyEncoder) -> Iterator[Callable[..., ImageIndex]]:
    """Indexes with options, in memory; closed at the end."""
    opened = []

    def make(address: str = "memory://", **options: Any) -> ImageIndex:
        index = pixdex.open(address, **{"encoder": toy, **options})
        opened.append(index)
        return index

    yield make
    for index in opened:
        index.close()
