"""pixdex's embedded store through the public API. Its only knob is ``Tuning(effort)``."""

# ruff: noqa: ARG002 - arguments of the protocol that this engine has no use for

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pixdex
import pixdex.collection
import pixdex.connectors.pq  # loaded here, as opening is measured without imports
from benchmarks._peers import COLUMNS, Corpus, K, Setting, Where
from pixdex.filters import F, Filter
from pixdex.spec import Field, Fingerprint, Kind, Spec, Vector
from pixdex.types import Batch, Tuning, Want

EFFORTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
AT_ONCE = 10_000


class Engine:
    """``pq://``, in its default configuration, or with a kind of index."""

    package, database, filters, answers = "pixdex", True, True, "id, score, payload"

    def __init__(self, kind: str = "auto") -> None:
        self._kind = kind
        self._tuning = Tuning()

    def lines(self, rows: int, *, filtered: bool) -> Sequence[Sequence[Setting]]:
        return [[{"effort": effort} for effort in EFFORTS]]

    def build(self, folder: Path, corpus: Corpus) -> None:
        spec = Spec(
            vectors=(
                Vector(
                    dim=corpus.vectors.shape[1], fingerprint=Fingerprint(encoder="benchmark", digest="5eed5eed5eed5eed")
                ),
            ),
            fields=(Field(name="label", kind=Kind.TEXT), *(Field(name=name, kind=Kind.INT) for name in COLUMNS)),
        )
        connector, name = pixdex.connect(self._address(folder))
        collection = pixdex.Collection.create(connector, name, spec)
        for rows in corpus.pieces(AT_ONCE):
            ids = tuple(f"{row:08}" for row in rows)
            vectors = np.asarray(corpus.vectors[rows.start : rows.stop])
            collection.upsert(Batch(ids, {"image": vectors}, tuple(corpus.payloads(rows))))
        collection.flush()
        collection.settle()
        connector.close()

    def open(self, folder: Path, corpus: Corpus) -> None:
        connector, name = pixdex.connect(self._address(folder))
        self._collection = pixdex.Collection.open(connector, name)

    def use(self, setting: Setting) -> None:
        self._tuning = Tuning(effort=setting["effort"])

    def one(self, query: NDArray[np.float32], where: Where | None) -> Any:
        matching = None if where is None else _filter(where)
        return self._collection.search_one(query, k=K, where=matching, tuning=self._tuning)

    def many(self, queries: NDArray[np.float32], *, payload: bool) -> Any:
        return self._collection.search(queries, k=K, tuning=self._tuning, want=Want(payload=payload))

    def rows(self, answer: Any) -> list[int]:
        return [int(hit.id) for hit in answer]

    def all_rows(self, answer: Any) -> list[list[int]]:
        return [self.rows(hits) for hits in answer]

    def _address(self, folder: Path) -> str:
        return f"pq://{folder}/store.pix?index={self._kind}"


def _filter(where: Where) -> Filter:
    field = F[where.field]
    return field == where.low if where.low == where.high else field.between(where.low, where.high)
