"""Vector engines behind one protocol, so that one piece of code measures all of them.

Each module holds one class ``Engine``. ``python -m benchmarks._peers`` builds or measures one of them, in a process of
its own: see ``__main__``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CASES",
    "COLUMNS",
    "CORRELATED",
    "ENGINES",
    "SHARES",
    "Corpus",
    "K",
    "Peer",
    "Setting",
    "Where",
    "load",
    "missing",
]

K = 10
ENGINES: Mapping[str, tuple[str, ...]] = {
    "pq": (),
    "faiss": (),
    "hnswlib": ("hnswlib",),
    "usearch": ("usearch",),
    "edge": ("qdrant_edge",),
    "chroma": ("chromadb",),
    "lance": ("lancedb",),
    "milvus_lite": ("pymilvus", "milvus_lite"),
}
"""Names of modules here, and the packages that each needs beside pixdex's own. ``pq_fresh`` is no other engine."""
COLUMNS = ("tenth", "hundredth", "number", "near")
"""Integer fields of every record. The first three are drawn at random, so that they say nothing about the vectors;
``near`` ranks the records by how near they are to one of them."""
WIDE = 1_000_000
"""``number`` and ``near`` are spread evenly over [0, WIDE)."""

Setting = Mapping[str, float]
"""What an engine's knobs stand at; empty where it has none."""


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on an integer field: ``low <= field <= high``; an equality where both are the same."""

    field: str
    low: int
    high: int

    def mask(self, columns: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """The rows that match."""
        values = columns[self.field]
        return values == self.low if self.low == self.high else (values >= self.low) & (values <= self.high)


CASES: Mapping[str, Where] = {
    "10 % equal": Where("tenth", 3, 3),
    "10 % range": Where("number", 0, WIDE // 10 - 1),
    "1 % equal": Where("hundredth", 37, 37),
    "1 % range": Where("number", 0, WIDE // 100 - 1),
}
"""What ``store`` filters by."""
SHARES: Mapping[str, Where] = {
    f"{percent:g} %": Where("number", 0, round(WIDE * percent / 100) - 1) for percent in (50, 10, 1, 0.1, 0.01)
}
CORRELATED: Mapping[str, Where] = {
    f"{percent:g} % correlated": Where("near", 0, round(WIDE * percent / 100) - 1) for percent in (10, 1)
}
"""What ``filtered`` filters by; the correlated ones let a corner of the space through, far from most queries."""


@dataclass(frozen=True)
class Corpus:
    """What is stored: a folder with ``vectors.npy`` and ``columns.npz``; the vectors are mapped, not read."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, vectors: NDArray[np.float32], *, seed: int = 1) -> Corpus:
        """Write one."""
        rng = np.random.default_rng(seed)
        np.save(folder / "vectors.npy", vectors)
        n = len(vectors)
        spread = np.arange(n) * WIDE // n
        near = np.empty_like(spread)
        near[np.argsort(-(vectors @ vectors[0]))] = spread
        drawn = {"tenth": rng.integers(10, size=n), "hundredth": rng.integers(100, size=n)}
        np.savez(folder / "columns.npz", number=rng.permuted(spread), near=near, **drawn)
        return cls(folder)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Unit vectors ``[n, dim]``; compared by inner product, which is their cosine."""
        found: NDArray[np.float32] = np.load(self.folder / "vectors.npy", mmap_mode="r")
        return found

    @cached_property
    def columns(self) -> dict[str, NDArray[np.int64]]:
        """The integer fields, by row."""
        with np.load(self.folder / "columns.npz") as file:
            return {name: file[name] for name in COLUMNS}

    def payloads(self, rows: range) -> list[dict[str, Any]]:
        """What is stored beside each vector: about 130 bytes of JSON; the row number can be read off the path."""
        values = zip(*(self.columns[name][rows.start : rows.stop].tolist() for name in COLUMNS), strict=True)
        return [
            {"path": f"{row // 1000:04}/{row:08}.jpg", "label": f"class {row % 101}", "width": 640, "height": 480}
            | dict(zip(COLUMNS, numbers, strict=True))
            for row, numbers in zip(rows, values, strict=True)
        ]

    def pieces(self, size: int) -> Iterable[range]:
        """All rows, ``size`` at a time."""
        n = len(self.vectors)
        return (range(start, min(n, start + size)) for start in range(0, n, size))


class Peer(Protocol):
    """One engine. A process either builds, or opens and asks.

    Attributes:
        package: the distribution it comes in.
        database: whether it keeps payloads; then ``one`` brings them.
        filters: whether it has filters.
        answers: what ``one`` brings for a hit.
    """

    package: ClassVar[str]
    database: ClassVar[bool]
    filters: ClassVar[bool]
    answers: ClassVar[str]

    def lines(self, rows: int, *, filtered: bool) -> Sequence[Sequence[Setting]]:
        """Settings to try with so many rows, along lines of rising cost."""
        ...

    def build(self, folder: Path, corpus: Corpus) -> None:
        """Store everything in ``folder``, index it, bring it to disk."""
        ...

    def open(self, folder: Path, corpus: Corpus) -> None:
        """Be ready to answer. Only engines without fields of their own look at ``corpus.columns``."""
        ...

    def use(self, setting: Setting) -> None:
        """From now on, search with these knobs."""
        ...

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        """The ``K`` nearest of one query, with the payload where the engine is a database."""
        ...

    def many(self, queries: NDArray[np.float32], *, payload: bool) -> Any:
        """The ``K`` nearest of each of several queries, in the way that the engine answers several fastest."""
        ...

    def rows(self, answer: Any) -> list[int]:
        """Row numbers in an answer of ``one``."""
        ...

    def all_rows(self, answer: Any) -> list[list[int]]:
        """Row numbers in an answer of ``many``."""
        ...


def missing(name: str) -> str | None:
    """Why an engine cannot be measured here, if it cannot."""
    absent = [package for package in ENGINES.get(name.partition(":")[0], ()) if find_spec(package) is None]
    return f'{" and ".join(absent)} not installed: pip install "pixdex[bench,qdrant,milvus]"' if absent else None


def load(name: str) -> Peer:
    """The engine of that name; its library is imported here. ``pq:hnsw`` is the embedded store with that kind of index."""
    module, _, kind = name.partition(":")
    make = import_module(f"{__name__}.{module}").Engine
    engine: Peer = make(kind) if kind else make()
    return engine
