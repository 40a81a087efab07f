"""Chroma, its persistent client in this process."""

# ruff: noqa: ARG002 - arguments of the protocol that this engine has no use for

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.api.client import SharedSystemClient
from chromadb.config import Settings
from numpy.typing import NDArray

from benchmarks._peers import Corpus, K, Setting, Where

AT_ONCE = 5_000


class Engine:
    """A graph of 16 links and 100 candidates at construction."""

    package, database, filters, answers = "chromadb", True, True, "id, score, payload"

    def lines(self, rows: int, *, filtered: bool) -> Sequence[Sequence[Setting]]:
        return [[{"ef": ef} for ef in ((32, 100) if filtered else (16, 32, 64, 100, 200))]]

    def build(self, folder: Path, corpus: Corpus) -> None:
        graph = {"space": "ip", "max_neighbors": 16, "ef_construction": 100, "ef_search": 100}
        collection = _client(folder).create_collection("images", configuration={"hnsw": graph}, embedding_function=None)
        for rows in corpus.pieces(AT_ONCE):
            collection.add(
                ids=[f"{row:08}" for row in rows],
                embeddings=np.asarray(corpus.vectors[rows.start : rows.stop]),
                metadatas=corpus.payloads(rows),
            )

    def open(self, folder: Path, corpus: Corpus) -> None:
        self._folder = folder
        self._collection = _client(folder).get_collection("images", embedding_function=None)

    def use(self, setting: Setting) -> None:
        self._collection.modify(configuration={"hnsw": {"ef_search": int(setting["ef"])}})
        SharedSystemClient.clear_system_cache()  # an open graph keeps the knob that it was opened with
        self._collection = _client(self._folder).get_collection("images", embedding_function=None)

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        matching = None if where is None else _filter(where)
        return self._collection.query(query[None], n_results=K, where=matching, include=["metadatas", "distances"])

    def many(self, queries: NDArray[np.float32], *, payload: bool) -> Any:
        return self._collection.query(
            queries, n_results=K, include=["metadatas", "distances"] if payload else ["distances"]
        )

    def rows(self, answer: Any) -> list[int]:
        return self.all_rows(answer)[0]

    def all_rows(self, answer: Any) -> list[list[int]]:
        return [[int(record) for record in ids] for ids in answer["ids"]]


def _client(folder: Path) -> Any:
    return chromadb.PersistentClient(str(folder / "chroma"), Settings(anonymized_telemetry=False))


def _filter(where: Where) -> dict[str, Any]:
    if where.low == where.high:
        return {where.field: where.low}
    return {"$and": [{where.field: {"$gte": where.low}}, {where.field: {"$lte": where.high}}]}
