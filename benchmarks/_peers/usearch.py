"""usearch: a graph over vectors rounded to bfloat16, in memory; no payload, no filters in Python."""

# ruff: noqa: ARG002 - arguments of the protocol that this engine has no use for

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from benchmarks._peers import Corpus, K, Setting, Where


class Engine:
    """16 links, 128 candidates at construction."""

    package, database, filters, answers = "usearch", False, False, "row, score"

    def lines(self, rows: int, *, filtered: bool) -> Sequence[Sequence[Setting]]:
        return [[{"ef": ef} for ef in (10, 16, 24, 32, 48, 64, 96, 128, 256)]]

    def build(self, folder: Path, corpus: Corpus) -> None:
        rows, dim = corpus.vectors.shape
        index = Index(ndim=dim, metric="ip", dtype="bf16", connectivity=16, expansion_add=128)
        index.add(np.arange(rows), np.ascontiguousarray(corpus.vectors))
        index.save(str(folder / "index.usearch"))

    def open(self, folder: Path, corpus: Corpus) -> None:
        self._index = Index.restore(str(folder / "index.usearch"))

    def use(self, setting: Setting) -> None:
        self._index.expansion_search = int(setting["ef"])

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        return self._index.search(query, K, threads=1)

    def many(self, queries: NDArray[np.float32], *, payload: bool) -> Any:
        return self._index.search(queries, K, threads=1)

    def rows(self, answer: Any) -> list[int]:
        return answer.keys.astype(np.int64).tolist()

    def all_rows(self, answer: Any) -> list[list[int]]:
        return answer.keys.astype(np.int64).tolist()
