"""hnswlib: a graph with the vectors in memory; no payload. Filters are a Python function, called for each candidate."""

# ruff: noqa: ARG002 - arguments of the protocol that this engine has no use for

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from benchmarks._peers import Corpus, K, Setting, Where


class Engine:
    """16 links, 200 candidates at construction."""

    package, database, filters, answers = "hnswlib", False, True, "row, score"

    def lines(self, rows: int, *, filtered: bool) -> Sequence[Sequence[Setting]]:
        return [[{"ef": ef} for ef in ((32, 128) if filtered else (10, 16, 24, 32, 48, 64, 96, 128, 256))]]

    def build(self, folder: Path, corpus: Corpus) -> None:
        rows, dim = corpus.vectors.shape
        index = hnswlib.Index("ip", dim)
        index.init_index(rows, M=16, ef_construction=200)
        index.add_items(np.ascontiguousarray(corpus.vectors), np.arange(rows))
        index.save_index(str(folder / "index.hnsw"))

    def open(self, folder: Path, corpus: Corpus) -> None:
        self._index = hnswlib.Index("ip", corpus.vectors.shape[1])
        self._index.load_index(str(folder / "index.hnsw"))
        self._index.set_num_threads(1)
        self._columns = corpus.columns

    def use(self, setting: Setting) -> None:
        self._index.set_ef(int(setting["ef"]))

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        if where is None:
            return self._index.knn_query(query, K)
        return self._index.knn_query(query, K, filter=where.mask(self._columns).tolist().__getitem__)

    def many(self, queries: NDArray[np.float32], *, payload: bool) -> Any:
        return self._index.knn_query(queries, K)

    def rows(self, answer: Any) -> list[int]:
        return self.all_rows(answer)[0]

    def all_rows(self, answer: Any) -> list[list[int]]:
        labels, _ = answer
        return labels.astype(np.int64).tolist()
