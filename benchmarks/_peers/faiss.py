"""faiss alone: the limit of what pixdex can reach with it. An inverted file with 4-bit codes; exact vectors in memory.

Record ids are row numbers and nothing else is kept. A filter is a mask that numpy makes of the columns, within the time
that is measured.
"""

# ruff: noqa: ARG002 - arguments of the protocol that this engine has no use for

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks._peers import Corpus, K, Setting, Where

PROBES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
FACTORS = (2, 3, 5, 10, 20)


class Engine:
    """``IVF1024,PQ96x4fs,RFlat`` for 200,000 x 384; lists and codes in proportion for other sizes."""

    package, database, filters, answers = "faiss-cpu", False, True, "row, score"

    def lines(self, rows: int, *, filtered: bool) -> Sequence[Sequence[Setting]]:
        probes = [n for n in PROBES if n <= _lists(rows)]
        factors = (10, 30) if filtered else FACTORS
        return [[{"nprobe": probe, "kf": factor} for probe in probes] for factor in factors]

    def build(self, folder: Path, corpus: Corpus) -> None:
        vectors = np.ascontiguousarray(corpus.vectors)
        rows, dim = vectors.shape
        described = f"IVF{_lists(rows)},PQ{dim // 4}x4fs,RFlat"
        index = faiss.index_factory(dim, described, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(folder / "index.faiss"))

    def open(self, folder: Path, corpus: Corpus) -> None:
        self._index = faiss.read_index(str(folder / "index.faiss"))
        self._columns = corpus.columns

    def use(self, setting: Setting) -> None:
        self._probes, self._factor = int(setting["nprobe"]), setting["kf"]
        self._parameters = self._search_parameters(None)

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        if where is None:
            return self._index.search(query[None], K, params=self._parameters)
        selector = faiss.IDSelectorBitmap(np.packbits(where.mask(self._columns), bitorder="little"))
        return self._index.search(query[None], K, params=self._search_parameters(selector))

    def many(self, queries: NDArray[np.float32], *, payload: bool) -> Any:
        return self._index.search(queries, K, params=self._parameters)

    def rows(self, answer: Any) -> list[int]:
        return self.all_rows(answer)[0]

    def all_rows(self, answer: Any) -> list[list[int]]:
        _, rows = answer
        return rows.tolist()

    def _search_parameters(self, selector: Any) -> Any:
        inside = faiss.SearchParametersIVF(nprobe=self._probes, sel=selector)  # the selector works in here alone
        return faiss.IndexRefineSearchParameters(k_factor=self._factor, base_index_params=inside)


def _lists(rows: int) -> int:
    return int(2 ** np.round(np.log2(2.3 * np.sqrt(rows))))
