"""Milvus Lite in this process, by pymilvus. It may give fewer hits than match a filter, which the recall shows."""

# ruff: noqa: ARG002 - arguments of the protocol that this engine has no use for

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import DataType, MilvusClient

from benchmarks._peers import COLUMNS, Corpus, K, Setting, Where

AT_ONCE = 5_000
TEXTS, NUMBERS = ("path", "label"), ("width", "height", *COLUMNS)


class Engine:
    """A graph of 16 links and 100 candidates at construction."""

    package, database, filters, answers = "milvus-lite", True, True, "id, score, payload"

    def lines(self, rows: int, *, filtered: bool) -> Sequence[Sequence[Setting]]:
        return [[{"ef": ef} for ef in (16, 64, 256)]]

    def build(self, folder: Path, corpus: Corpus) -> None:
        client = _client(folder)
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=corpus.vectors.shape[1])
        for name in TEXTS:
            schema.add_field(name, DataType.VARCHAR, max_length=64)
        for name in NUMBERS:
            schema.add_field(name, DataType.INT64)
        client.create_collection("images", schema=schema)
        for rows in corpus.pieces(AT_ONCE):
            matrix = np.asarray(corpus.vectors[rows.start : rows.stop])
            records = zip(rows, matrix, corpus.payloads(rows), strict=True)
            client.insert("images", [{"id": row, "vector": vector, **payload} for row, vector, payload in records])
        client.flush("images")
        index = client.prepare_index_params()
        graph = {"M": 16, "efConstruction": 100}
        index.add_index("vector", index_type="HNSW", metric_type="IP", params=graph)
        client.create_index("images", index)
        client.load_collection("images")
        client.close()

    def open(self, folder: Path, corpus: Corpus) -> None:
        self._client = _client(folder)
        self._client.load_collection("images")

    def use(self, setting: Setting) -> None:
        self._params = {"metric_type": "IP", "params": {"ef": int(setting["ef"])}}

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        return self._ask([query], "" if where is None else _filter(where), [*TEXTS, *NUMBERS])[0]

    def many(self, queries: NDArray[np.float32], *, payload: bool) -> Any:
        return self._ask(list(queries), "", [*TEXTS, *NUMBERS] if payload else ["id"])

    def rows(self, answer: Any) -> list[int]:
        return [int(hit["id"]) for hit in answer]

    def all_rows(self, answer: Any) -> list[list[int]]:
        return [self.rows(hits) for hits in answer]

    def _ask(self, queries: list[Any], matching: str, fields: list[str]) -> Any:
        return self._client.search(
            "images", queries, limit=K, filter=matching, output_fields=fields, search_params=self._params
        )


def _client(folder: Path) -> MilvusClient:
    return MilvusClient(str(folder / "milvus.db"))


def _filter(where: Where) -> str:
    if where.low == where.high:
        return f"{where.field} == {where.low}"
    return f"{where.field} >= {where.low} and {where.field} <= {where.high}"
