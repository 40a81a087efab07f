"""Another tool's collection and the companion that holds the vectors its store could not add to it, as one port.

Records, ids and payloads are the other tool's; the companion, made by pixdex, holds vectors and tokens under the
same ids. A search asks the companion for candidates and then the other tool's collection which of those it still has
and which match the filter, so that what it changed a moment ago counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pixdex.filters import Filter, Ids
from pixdex.spec import Spec
from pixdex.types import Batch, Hit, Page, Scan, Search, Want

if TYPE_CHECKING:
    from pixdex.connectors.port import Capabilities, Connector

__all__ = ["Joined"]

_GROWTH = 4


class Joined:
    """A connector over a connector, for one collection that has a companion; the verbs are documented in ``port``."""

    def __init__(self, connector: Connector, spec: Spec, companion: str) -> None:
        self.connector = connector
        self.companion = companion
        self.scheme = connector.scheme
        self._theirs = frozenset(v.column for v in spec.vectors if v.stored_as is not None)
        # Candidates may be gone or not match, so that a search may return too few, and exact says nothing.
        self.capabilities: Capabilities = replace(connector.capabilities, complete=False, exact=False)

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        return self.connector.describe(name, timeout=timeout)

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        return self.connector.count(name, where, timeout=timeout)

    def flush(self, name: str, *, timeout: float | None) -> None:
        self.connector.flush(name, timeout=timeout)
        self.connector.flush(self.companion, timeout=timeout)

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        theirs, ours = self._parted(want)
        return self._with(ours, self.connector.fetch(name, ids, want=theirs, timeout=timeout), timeout)

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        theirs, ours = self._parted(request.want)
        page = self.connector.scan(name, replace(request, want=theirs), timeout=timeout)
        return replace(page, batch=self._with(ours, page.batch, timeout))

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        if request.using in self._theirs:
            return self.connector.search(name, request, timeout=timeout)
        reach = request.k
        while True:
            asked = replace(request, k=reach, where=None, want=Want(payload=False))
            found = self.connector.search(self.companion, asked, timeout=timeout)
            records = self._matching(name, found, request, timeout)
            hits = [[_hit(records[h.id], h) for h in some if h.id in records][: request.k] for some in found]
            short = any(len(kept) < request.k and len(some) >= reach for kept, some in zip(hits, found, strict=True))
            if not short or reach >= self.capabilities.max_k:
                return hits
            reach = min(reach * _GROWTH, self.capabilities.max_k)

    # --- what needs no joining ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        self.connector.create(name, spec, timeout=timeout)

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        self.connector.alter(name, spec, timeout=timeout)

    def drop(self, name: str, *, timeout: float | None) -> None:
        self.connector.drop(name, timeout=timeout)

    def names(self, *, timeout: float | None) -> Sequence[str]:
        return self.connector.names(timeout=timeout)

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        self.connector.upsert(name, batch, timeout=timeout)

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        self.connector.delete(name, ids, timeout=timeout)

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        self.connector.delete_where(name, where, timeout=timeout)

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        self.connector.alias(alias, name, timeout=timeout)

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        return self.connector.aliases(timeout=timeout)

    def close(self) -> None:
        self.connector.close()

    # --- helpers ---

    def _matching(
        self, name: str, found: Sequence[Sequence[Hit]], request: Search, timeout: float | None
    ) -> dict[str, tuple[Batch, int]]:
        """The candidates that are still there and match, by id."""
        ids = list(dict.fromkeys(hit.id for hits in found for hit in hits))
        records: dict[str, tuple[Batch, int]] = {}
        size = self.capabilities.max_batch
        for start in range(0, len(ids), size):
            piece = ids[start : start + size]
            if request.where is None:
                batches = [self.fetch(name, piece, want=request.want, timeout=timeout)]
            else:
                batches = self._those(name, piece, request.where, request.want, timeout)
            records |= {record: (batch, row) for batch in batches for row, record in enumerate(batch.ids)}
        return records

    def _those(self, name: str, ids: Sequence[str], where: Filter, want: Want, timeout: float | None) -> list[Batch]:
        """The records of these ids that match."""
        batches, after = [], None
        matching = Ids(tuple(ids)) & where
        while True:
            page = self.scan(name, Scan(size=len(ids), after=after, where=matching, want=want), timeout=timeout)
            batches.append(page.batch)
            after = page.after
            if after is None:
                return batches

    def _parted(self, want: Want) -> tuple[Want, Want]:
        """What is wanted of the other tool's collection, and of the companion."""
        theirs = tuple(column for column in want.vectors if column in self._theirs)
        ours = tuple(column for column in want.vectors if column not in self._theirs)
        return replace(want, vectors=theirs, tokens=False), Want(payload=False, vectors=ours, tokens=want.tokens)

    def _with(self, want: Want, batch: Batch, timeout: float | None) -> Batch:
        """The records, with what is wanted of the companion."""
        if not want.vectors and not want.tokens:
            return batch
        ours = self.connector.fetch(self.companion, batch.ids, want=want, timeout=timeout)
        return _beside(batch, ours, want)


def _hit(record: tuple[Batch, int], candidate: Hit) -> Hit:
    batch, row = record
    return replace(batch.hit(row, candidate.score), trace=candidate.trace)


def _beside(batch: Batch, ours: Batch, want: Want) -> Batch:
    """``batch`` with the vectors and tokens of the records of ``ours`` that have the same ids."""
    import numpy as np

    row_of = {record: row for row, record in enumerate(ours.ids)}
    known = np.array([record in row_of for record in batch.ids], dtype=bool)
    rows = np.array([row_of.get(record, 0) for record in batch.ids], dtype=np.intp)
    vectors: dict[str, Any] = dict(batch.vectors)
    absent: dict[str, Any] = dict(batch.absent)
    for column in want.vectors:
        matrix = ours.vectors[column]
        there = known & ours.present(column)[rows] if len(ours) else known
        vectors[column] = (
            np.where(there[:, None], matrix[rows], 0)
            if len(ours)
            else np.zeros((len(batch), matrix.shape[1]), np.float32)
        )
        absent[column] = ~there
    tokens = batch.tokens
    if want.tokens:
        held: Mapping[str, Any] = dict(zip(ours.ids, ours.tokens or (None,) * len(ours), strict=True))
        tokens = tuple(held.get(record) for record in batch.ids)
    return replace(batch, vectors=vectors, absent=absent, tokens=tokens)
