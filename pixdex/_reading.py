"""How the facade reads: filters that a store cannot express are completed, short answers searched again, results
ordered, and what comes from the port is shown as users see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pixdex import _records
from pixdex.filters import FALSE, TRUE, Filter, Operator, matches, relax
from pixdex.types import Batch, Hit, Page, Payload, Scan, Search, Spec, Tuning, Vector, Want

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pixdex.connectors.port import Capabilities, Connector

__all__ = ["COMPLETED", "Asked", "Reader"]

_ROUNDS_BEFORE_SCAN = 6
_GROWTH = 4

COMPLETED = "completed"
"""In ``Hit.trace``: the store's index returned fewer than match, so an exact search followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A search after all checks: ``queries`` float32 ``[q, d]``, ``where`` bound, ``want`` by logical names."""

    queries: NDArray[np.float32]
    vector: Vector
    where: Filter
    k: int
    tuning: Tuning
    want: Want


@dataclass(frozen=True, slots=True)
class Reader:
    """The reading verbs of one collection. ``run`` calls a verb of the connector on it, under the policy."""

    connector: Connector
    spec: Spec
    run: Callable[..., Any]

    @property
    def _limits(self) -> Capabilities:
        return self.connector.capabilities

    @property
    def _exact(self) -> bool:
        """Whether the store searches exactly when asked to; another tool's index may be anything."""
        return self._limits.exact and self.spec.native

    # --- search ---

    def search(self, asked: Asked) -> list[list[Hit]]:
        """For each query at most ``k`` hits, by score, then id."""
        if asked.k > self._limits.max_k or (asked.tuning.exact and not self._exact):
            return self._scan_and_score(asked)
        return self._search(asked)

    def _search(self, asked: Asked) -> list[list[Hit]]:
        bound, k = asked.where, asked.k
        pushed, exact = self._pushed(bound)
        want = self.at_port(asked.want if exact else replace(asked.want, payload=True))
        reach = k
        for _ in range(_ROUNDS_BEFORE_SCAN):
            request = Search(
                queries=asked.queries,
                k=reach,
                using=asked.vector.column,
                where=None if pushed == TRUE else pushed,
                tuning=asked.tuning,
                want=want,
            )
            raw: Sequence[Sequence[Hit]] = self.run("search", self.connector.search, request)
            kept = raw if exact else [[h for h in hits if matches(bound, h.id, h.payload or {})] for hits in raw]
            if exact or all(len(some) >= k or len(hits) < reach for some, hits in zip(kept, raw, strict=True)):
                return self._completed(asked, [self._seen(_ordered(hits)[:k], asked.want) for hits in kept])
            if reach == self._limits.max_k:
                break
            reach = min(reach * _GROWTH, self._limits.max_k)
        return self._scan_and_score(asked)

    def _completed(self, asked: Asked, found: list[list[Hit]]) -> list[list[Hit]]:
        """``found``, searched again exactly where an approximate index returned fewer than match."""
        if (
            (self._limits.complete and self.spec.native)
            or asked.tuning.exact
            or all(len(hits) == asked.k for hits in found)
        ):
            return found
        matching = self.count(asked.where)
        short = [row for row, hits in enumerate(found) if len(hits) < min(asked.k, matching)]
        if not short:
            return found
        again = replace(asked, queries=asked.queries[short], tuning=replace(asked.tuning, exact=True))
        for row, hits in zip(short, self.search(again), strict=True):
            if len(hits) > len(found[row]):  # else records without the vector made the difference
                found[row] = [replace(hit, trace={**hit.trace, COMPLETED: 1.0}) for hit in hits]
        return found

    def _scan_and_score(self, asked: Asked) -> list[list[Hit]]:
        """Exact search by reading every record that matches: what a store's own search cannot do."""
        import numpy as np

        from pixdex.scores import similarities

        column = asked.vector.column
        best: list[list[Hit]] = [[] for _ in asked.queries]
        for page in self.matching(asked.where, Want(payload=False, vectors=(column,))):
            batch = page.batch
            rows = np.flatnonzero(batch.present(column))
            if not len(rows):
                continue
            scores = similarities(asked.vector.metric, asked.queries, batch.vectors[column][rows])
            for hits, row_scores in zip(best, scores, strict=True):
                hits.extend(Hit(batch.ids[row], float(s)) for row, s in zip(rows, row_scores, strict=True))
                hits[:] = _ordered(hits)[: asked.k]
        return self._filled(best, asked.want)

    def _filled(self, found: list[list[Hit]], want: Want) -> list[list[Hit]]:
        """The hits with what was asked for, fetched by id; those deleted meanwhile are left out."""
        if want == Want(payload=False):
            return found
        batch = self.fetch([hit.id for hits in found for hit in hits], want)
        row_of = {record: row for row, record in enumerate(batch.ids)}
        return [[batch.hit(row_of[h.id], h.score) for h in hits if h.id in row_of] for hits in found]

    # --- by id, by filter ---

    def fetch(self, ids: Sequence[str], want: Want) -> Batch:
        """Records by id, in the order of ``ids``; those that do not exist are left out."""
        distinct = list(dict.fromkeys(ids))
        if not distinct:
            import numpy as np

            empty = {name: np.zeros((0, self.spec.vector(name).dim), np.float32) for name in want.vectors}
            return Batch((), empty, () if want.payload else None, revs=() if want.payload else None)
        fetch = partial(self.connector.fetch, want=self.at_port(want))
        size = self._limits.max_batch
        pieces = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        batch = Batch.concat([self.run("fetch", fetch, piece, size=len(piece)) for piece in pieces])
        row_of = {record: row for row, record in enumerate(batch.ids)}
        return self.from_port(batch.take([row_of[i] for i in distinct if i in row_of]))

    def count(self, bound: Filter) -> int:
        """How many records match, exactly."""
        if bound == FALSE:
            return 0
        pushed, exact = self._pushed(bound)
        if not exact:
            return sum(len(page.batch) for page in self.matching(bound, Want(payload=False)))
        return int(self.run("count", self.connector.count, None if pushed == TRUE else pushed))

    def matching(self, bound: Filter, want: Want, *, size: int = 1000, after: str | None = None) -> Iterator[Page]:
        """Pages at the port of the records that match a bound filter, the residual checked here."""
        pushed, exact = self._pushed(bound)
        where = None if pushed == TRUE else pushed
        asked = want if exact else replace(want, payload=True)
        for page in self.pages(asked, where=where, size=size, after=after):
            batch = page.batch
            if not exact:
                payloads = batch.payloads or ()
                batch = batch.take([i for i, r in enumerate(batch.ids) if matches(bound, r, payloads[i])])
                if not want.payload:
                    batch = replace(batch, payloads=None)
            yield Page(batch, page.after)

    def pages(
        self, want: Want, *, where: Filter | None = None, size: int = 1000, after: str | None = None
    ) -> Iterator[Page]:
        """Pages at the port of what the store finds by a filter that it can express."""
        size = min(size, self._limits.max_batch)
        while True:
            request = Scan(size=size, after=after, where=where, want=want)
            page: Page = self.run("scan", self.connector.scan, request)
            if len(page.batch) or page.after is None:
                yield page
            after = page.after
            if after is None:
                return

    def pushed_whole(self, bound: Filter) -> Filter | None:
        """The bound filter as the store takes it; None when the store cannot express all of it."""
        pushed, exact = self._pushed(bound)
        return pushed if exact else None

    def _pushed(self, bound: Filter) -> tuple[Filter, bool]:
        """What of a bound filter the store is asked, and whether that is all of it. What another tool wrote may
        be of any kind, which stores judge differently: there all is checked again, and nothing is negated.
        """
        if bound is TRUE:
            return bound, True
        if self.spec.native:
            return relax(bound, self._limits.operators)
        return relax(bound, self._limits.operators - {Operator.NOT})[0], bound == TRUE

    # --- between user and port ---

    def at_port(self, want: Want) -> Want:
        """``want`` by physical names."""
        if not want.vectors and not want.tokens:
            return want
        tokens = want.tokens and self.spec.tokens is not None
        return replace(want, vectors=tuple(self.spec.vector(name).column for name in want.vectors), tokens=tokens)

    def from_port(self, batch: Batch) -> Batch:
        """Records as users see them."""
        name = self._logical_names()
        payloads = batch.payloads
        shown = None if payloads is None else tuple(self._shown(payloads))
        return Batch(
            batch.ids,
            {name[column]: values for column, values in batch.vectors.items()},
            shown,
            batch.tokens,
            {name[column]: mask for column, mask in batch.absent.items()},
            tuple(int(p.get("_rev", 0)) for p in payloads) if payloads is not None and self.spec.native else None,
        )

    def _logical_names(self) -> dict[str, str]:
        return {vector.column: vector.name for vector in self.spec.vectors}

    def _shown(self, payloads: Sequence[Payload]) -> Sequence[Payload]:
        """Payloads as users see them; another tool's as they are."""
        if not self.spec.native:
            return payloads
        return _records.from_port(payloads, _records.conversions(self.spec))

    def _seen(self, hits: Sequence[Hit], want: Want) -> list[Hit]:
        """Hits of the port as users see them."""
        payloads: Sequence[Payload | None] = (
            self._shown([hit.payload or {} for hit in hits]) if want.payload else (None,) * len(hits)
        )
        seen = zip(hits, payloads, strict=True)
        if not want.vectors:
            return [Hit(hit.id, hit.score, payload, None, hit.tokens, hit.trace) for hit, payload in seen]
        name = self._logical_names()
        return [
            Hit(hit.id, hit.score, payload, _renamed(hit.vectors, name), hit.tokens, hit.trace) for hit, payload in seen
        ]


def _renamed(vectors: Mapping[str, Any] | None, name: Mapping[str, str]) -> Mapping[str, Any] | None:
    return None if vectors is None else {name[column]: vector for column, vector in vectors.items()}


def _ordered(hits: Sequence[Hit]) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))
