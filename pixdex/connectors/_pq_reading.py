"""What a read transaction brings back: hits of a search, records at rows."""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson

from pixdex.connectors import _pq_records as records
from pixdex.connectors._pq_columns import positions_of
from pixdex.connectors._pq_mask import mask
from pixdex.connectors._pq_plan import find
from pixdex.filters import check_columns
from pixdex.types import Batch, Hit, Search, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.connectors._deadline import Deadline
    from pixdex.connectors._pq_plan import Found
    from pixdex.connectors._pq_records import Snapshot
    from pixdex.connectors._pq_schema import Connection
    from pixdex.connectors._pq_vectors import Vectors
    from pixdex.connectors._pq_view import View, Views
    from pixdex.filters import Filter

__all__ = ["Reading"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One read transaction on a collection."""

    db: Connection
    target: Snapshot
    vectors: Vectors

    def search(self, views: Views, request: Search, deadline: Deadline) -> list[list[Hit]] | None:
        """The hits of each query; None where another thread has read a later snapshot, so that it takes another."""
        vector = self.target.vector(request.using)
        view = views.at(self.db, self.target, vector)
        if view is None:
            return None
        allowed = view.allowed(request.where, lambda where: self._matching(view, request.using, where))
        found = find(
            view,
            self.target.spec.physical(request.using).metric,
            request.queries,
            request.k,
            request.tuning,
            allowed,
            between=deadline.check,
        )
        return self._hits(view, found, request.want)

    def batch(self, rows: Sequence[int], want: Want) -> Batch:
        """The records at ascending ``rows``, with what is wanted."""
        vectors = [self.target.vector(name) for name in want.vectors]
        columns = ", ".join(["id", *(f"v{vector.id}" for vector in vectors)])
        found = self.db.execute(
            f"SELECT {columns} FROM r{self.target.id} WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row",
            (orjson.dumps(list(rows)).decode(),),
        ).fetchall()
        ids = tuple(record[0] for record in found)
        matrices, absent = {}, {}
        for column, vector in enumerate(vectors, start=1):
            positions = [record[column] for record in found]
            absent[vector.name] = np.array([position is None for position in positions], dtype=bool)
            matrices[vector.name] = self.vectors.read(self.db, vector, positions)
        payloads, tokens = None, None
        if want.payload or want.tokens:
            payloads, tokens = records.bodies(self.db, self.target.id, rows, ids, tokens=want.tokens)
        return Batch(
            ids,
            matrices,
            tuple(payloads) if payloads is not None and want.payload else None,
            tuple(tokens) if tokens is not None and want.tokens else None,
            absent,
        )

    def _matching(self, view: View, using: str, where: Filter) -> NDArray[np.bool_]:
        """Which positions match, dead ones perhaps among them: bool ``[rows]``."""
        check_columns(where, self.target.spec)
        vector = self.target.vector(using)
        return mask(
            where,
            view.rows,
            lambda declared: view.columns.column(self.db, self.target, vector, declared),
            lambda ids: positions_of(self.db, self.target, vector, ids),
        )

    def _hits(self, view: View, found: Found, want: Want) -> list[list[Hit]]:
        """The records at the positions found, with what is wanted of them."""
        positions, scores = found.positions, found.scores
        if len(positions) == 1 and positions.size and positions[0, -1] >= 0:
            return [self._made(view, positions[0], scores[0].tolist(), want)]
        there = positions >= 0
        hits = self._made(view, positions[there], scores[there].tolist(), want)
        ends = np.cumsum(np.count_nonzero(there, axis=1)).tolist()
        return [hits[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _made(self, view: View, positions: NDArray[np.int64], scores: Sequence[float], want: Want) -> list[Hit]:
        if want.tokens or want.vectors:
            rows = view.columns.rows_at(positions)
            distinct = sorted(set(rows))
            batch = self.batch(distinct, want)
            place = {row: i for i, row in enumerate(distinct)}
            return [batch.hit(place[row], score) for row, score in zip(rows, scores, strict=True)]
        ids = view.columns.ids_at(positions)
        if not want.payload:
            return list(map(Hit, ids, scores))
        rows = view.columns.rows_at(positions)
        return list(map(Hit, ids, scores, records.payloads(self.db, self.target.id, rows, ids)))
