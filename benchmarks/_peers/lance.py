"""LanceDB in this process: a graph over 8-bit vectors in one partition, candidates scored again exactly."""

# ruff: noqa: ARG002 - arguments of the protocol that this engine has no use for

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks._peers import COLUMNS, Corpus, K, Setting, Where

AT_ONCE = 50_000
PAYLOAD = ("path", "label", "width", "height", *COLUMNS)


class Engine:
    """``IVF_HNSW_SQ``; integer fields have B-trees, a filter applies before the search."""

    package, database, filters, answers = "lancedb", True, True, "id, score, payload"

    def lines(self, rows: int, *, filtered: bool) -> Sequence[Sequence[Setting]]:
        wide = (32, 128) if filtered else (32, 64, 128, 256)  # not below K times the factor
        return [[{"ef": ef, "refine": factor} for ef in wide] for factor in (0, 2)]

    def build(self, folder: Path, corpus: Corpus) -> None:
        pieces = (_table(corpus, rows) for rows in corpus.pieces(AT_ONCE))
        database = lancedb.connect(str(folder / "lance"))
        table = database.create_table("images", next(pieces))
        for piece in pieces:
            table.add(piece)
        table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_HNSW_SQ", num_partitions=1)
        for name in COLUMNS:
            table.create_scalar_index(name, index_type="BTREE")
        table.optimize()

    def open(self, folder: Path, corpus: Corpus) -> None:
        self._table = lancedb.connect(str(folder / "lance")).open_table("images")

    def use(self, setting: Setting) -> None:
        self._ef, self._refine = int(setting["ef"]), int(setting["refine"])

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        asked = self._asked(query, ["id", *PAYLOAD])
        return (asked if where is None else asked.where(_filter(where), prefilter=True)).to_list()

    def many(self, queries: NDArray[np.float32], *, payload: bool) -> Any:
        return self._asked(list(queries), ["id", *PAYLOAD] if payload else ["id"]).to_list()

    def rows(self, answer: Any) -> list[int]:
        return [row["id"] for row in answer]

    def all_rows(self, answer: Any) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for row in answer:
            found.setdefault(row["query_index"], []).append(row["id"])
        return [found.get(i, []) for i in range(max(found, default=-1) + 1)]

    def _asked(self, query: Any, columns: list[str]) -> Any:
        asked = self._table.search(query).distance_type("dot").nprobes(1).ef(self._ef).limit(K)
        asked = asked.select([*columns, "_distance"])
        return asked.refine_factor(self._refine) if self._refine else asked


def _table(corpus: Corpus, rows: range) -> pa.Table:
    matrix = np.ascontiguousarray(corpus.vectors[rows.start : rows.stop])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    payload = pa.Table.from_pylist(corpus.payloads(rows))
    return payload.append_column("id", pa.array(rows)).append_column("vector", vectors)


def _filter(where: Where) -> str:
    if where.low == where.high:
        return f"{where.field} = {where.low}"
    return f"{where.field} >= {where.low} AND {where.field} <= {where.high}"
