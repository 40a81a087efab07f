"""What the benchmarks of rerankers share: encoded pictures with tokens, shortlists, and lists ordered anew."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders.images import decode
from pixdex.encoders.runtimes.port import threads
from pixdex.evaluation.metrics import average_precision, average_precision_at_r, recall_at_k
from pixdex.rerankers.port import Candidate, Query, Reranker

__all__ = ["Encoded", "Searched", "encoded", "reordered", "rows_of", "searched"]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Pictures: ``vectors`` float32 ``[n, d]`` of length one, ``tokens`` ``[n, t, w]`` as stored, ``labels`` ``[n]``."""

    vectors: NDArray[np.float32]
    tokens: NDArray[Any]
    labels: NDArray[Any]

    def take(self, rows: NDArray[Any]) -> Encoded:
        """Some of them."""
        return Encoded(self.vectors[rows], self.tokens[rows], self.labels[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """The first stage: of each query the whole ranking (rows, int64 ``[q, n]``) and its cosines, best first."""

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]
    match: NDArray[np.bool_]

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """``recall@1``, ``map`` (over the whole ranking) and ``map@r`` of each query."""
        return _figures(self.match)


def rows_of(shared: Path, name: str, **columns: str) -> list[dict[str, str]]:
    """Lines of ``labels.csv`` of a data set that have these values; ``path`` is a whole one."""
    folder = shared / "data" / name
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if all(row[key] == value for key, value in columns.items())]
    return [{**row, "path": str(folder / row["path"])} for row in found]


def encoded(encoder: Any, rows: Sequence[dict[str, str]], cache: Path | None, *, what: str = "tokens") -> Encoded:
    """Pictures by a whole encoder, as ``add`` does it; kept in ``cache`` from one run to the next. ``cells`` are
    kept half as precise.
    """
    spec = encoder.token_spec
    names = "".join(row["path"] for row in rows)
    key = f"{encoder.fingerprint.digest[:12]}-{spec.fingerprint.digest[:12]}-{len(rows)}-{sum(names.encode()) % 99991}"
    file = None if cache is None else cache / f"{what}-{key}.npz"
    labels = np.array([row["label"] for row in rows])
    if file is not None and file.is_file():
        held = np.load(file)
        return Encoded(held["vectors"].astype(np.float32), held["tokens"], labels)

    def prepared(row: dict[str, str]) -> NDArray[np.uint8]:
        pixels = decode(Path(row["path"]).read_bytes(), min_side=encoder.min_side).pixels
        return np.asarray(encoder.prepare(pixels))

    vectors, tokens = [], []
    with ThreadPoolExecutor(threads()) as pool:
        for start in range(0, len(rows), 128):
            made = encoder.encode(list(pool.map(prepared, rows[start : start + 128])), tokens=True)
            vectors.append(made.vectors)
            tokens.append(np.stack(made.tokens).astype(np.float16 if what == "cells" else made.tokens[0].dtype))
    whole = Encoded(np.concatenate(vectors), np.concatenate(tokens), labels)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, vectors=whole.vectors, tokens=whole.tokens)
    return whole


def searched(queries: Encoded, gallery: Encoded, *, leave_out: NDArray[np.int64] | None = None) -> Searched:
    """The first stage. ``leave_out`` is the row in the gallery of each query itself."""
    cosines = queries.vectors @ gallery.vectors.T
    if leave_out is not None:
        cosines[np.arange(len(cosines)), leave_out] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")
    if leave_out is not None:
        order = order[:, :-1]
    match = gallery.labels[order] == queries.labels[:, None]
    return Searched(order, np.take_along_axis(cosines, order, 1), match)


def reordered(
    reranker: Reranker, queries: Encoded, gallery: Encoded, first: Searched, count: int
) -> dict[str, NDArray[np.float64]]:
    """Figures of each query with the ``count`` best ordered anew; the rest keep their order below."""
    match = first.match.copy()
    for query in range(len(first.rows)):
        scores = scores_of(reranker, queries, gallery, first, query, count)
        match[query, :count] = match[query, :count][np.argsort(-scores, kind="stable")]
    return _figures(match)


def scores_of(
    reranker: Reranker, queries: Encoded, gallery: Encoded, first: Searched, query: int, count: int
) -> NDArray[np.float32]:
    """The scores of one query's shortlist, in the first stage's order."""
    candidates = [
        Candidate(str(row), float(cosine), gallery.tokens[row], gallery.vectors[row])
        for row, cosine in zip(first.rows[query, :count], first.cosines[query, :count], strict=True)
    ]
    return reranker.rerank(Query(queries.vectors[query], queries.tokens[query]), candidates)


def _figures(match: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    return {
        "recall@1": np.asarray(recall_at_k(match, k=1)),
        "map": np.asarray(average_precision(match)),
        "map@r": np.asarray(average_precision_at_r(match)),
    }
