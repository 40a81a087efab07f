"""Qdrant Edge, Qdrant's engine in this process, by its own client library."""

# ruff: noqa: ARG002 - arguments of the protocol that this engine has no use for

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from benchmarks._peers import COLUMNS, Corpus, K, Setting, Where

AT_ONCE = 1_000
FULL_SCAN_KB = 10_000


class Engine:
    """A graph of 16 links and 100 candidates at construction; integer fields are indexed before the data."""

    package, database, filters, answers = "qdrant-edge-py", True, True, "id, score, payload"

    def lines(self, rows: int, *, filtered: bool) -> Sequence[Sequence[Setting]]:
        return [[{"ef": ef} for ef in (10, 16, 24, 32, 48, 64, 96, 128, 256)]]

    def build(self, folder: Path, corpus: Corpus) -> None:
        vectors = {"image": edge.EdgeVectorParams(corpus.vectors.shape[1], edge.Distance.Cosine)}
        config = edge.EdgeConfig(vectors=vectors, hnsw_config=edge.HnswIndexConfig(16, 100, FULL_SCAN_KB))
        (folder / "shard").mkdir()
        shard = edge.EdgeShard.create(str(folder / "shard"), config)
        for name in COLUMNS:
            shard.update(edge.UpdateOperation.create_field_index(name, edge.PayloadSchemaType.Integer))
        for rows in corpus.pieces(AT_ONCE):
            matrix = corpus.vectors[rows.start : rows.stop].tolist()
            points = [
                edge.Point(id=row, vector={"image": vector}, payload=payload)
                for row, vector, payload in zip(rows, matrix, corpus.payloads(rows), strict=True)
            ]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        shard.close()

    def open(self, folder: Path, corpus: Corpus) -> None:
        self._shard = edge.EdgeShard.load(str(folder / "shard"))

    def use(self, setting: Setting) -> None:
        self._params = edge.SearchParams(hnsw_ef=int(setting["ef"]))

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        return self._ask([query], where, payload=True)[0]

    def many(self, queries: NDArray[np.float32], *, payload: bool) -> Any:
        return self._ask(queries, None, payload=payload)

    def rows(self, answer: Any) -> list[int]:
        return [int(record) for record, _, _ in answer]

    def all_rows(self, answer: Any) -> list[list[int]]:
        return [self.rows(points) for points in answer]

    def _ask(self, queries: Any, where: Where | None, *, payload: bool) -> Any:
        asked = [
            edge.QueryRequest(
                limit=K,
                query=edge.Query.Nearest(query.tolist(), using="image"),
                with_vector=False,
                with_payload=payload,
                filter=None if where is None else _filter(where),
                params=self._params,
            )
            for query in queries
        ]
        found = self._shard.query_batch(edge.QueryBatchRequest(asked))
        return [[(point.id, point.score, point.payload if payload else None) for point in points] for points in found]


def _filter(where: Where) -> Any:
    if where.low == where.high:
        return edge.Filter(must=[edge.FieldCondition(where.field, match=edge.MatchAny([where.low]))])
    bounds = edge.RangeFloat(gte=where.low, lte=where.high)
    return edge.Filter(must=[edge.FieldCondition(where.field, range=bounds)])
