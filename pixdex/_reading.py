"""How the facade reads: filters that a store cannot express are completed, short answers searched again, results
ordered, and what comes from the port is shown as users see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex import _records
from pixdex._vectors import checked_query, checked_vectors
from pixdex.errors import ConfigError
from pixdex.filters import FALSE, TRUE, Filter, Operator, bind, matches, relax
from pixdex.scores import similarities
from pixdex.spec import Spec
from pixdex.types import Batch, Hit, Page, Scan, Search, Tuning, Want

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pixdex.connectors.port import Capabilities, Connector

__all__ = ["COMPLETED", "Reader"]

_ROUNDS_BEFORE_SCAN = 6
_GROWTH = 4

COMPLETED = "completed"
"""In ``Hit.trace``: the store's index returned fewer than match, so an exact search followed."""


@dataclass(frozen=True)
class Reader:
    """The reading verbs of one collection. ``run`` calls a verb of the connector on it, under the policy.

    What is asked for is a value of the port, ``Search`` or ``Scan``, whose ``where`` and ``want`` are the user's
    (``where`` bound, ``want`` by logical names) until ``_pushed`` and ``at_port`` make the store's of them.
    """

    connector: Connector
    spec: Spec
    run: Callable[..., Any]

    @property
    def _limits(self) -> Capabilities:
        return self.connector.capabilities

    @cached_property
    def _max_k(self) -> int:
        return self._limits.max_k

    @property
    def _exact(self) -> bool:
        """Whether the store searches exactly when asked to; another tool's index may be anything."""
        return self._limits.exact and self.spec.native

    # --- search ---

    def asked(
        self,
        queries: ArrayLike,
        *,
        one: bool,
        k: int,
        where: Filter | None,
        using: str | None,
        tuning: Tuning,
        want: Want,
    ) -> Search:
        """A search, checked: of ``one`` query ``[dim]``, else of several ``[q, dim]``.

        Raises:
            ConfigError, InvalidRecord, InvalidFilter: see ``Collection.search``.
        """
        if k < 1:
            raise ConfigError(f"k is {k}: ask for at least 1")
        vectors = self.spec.vectors
        if using is None and len(vectors) > 1:
            names = ", ".join(v.name for v in vectors)
            raise ConfigError(f"this collection has several vectors ({names}): say which with using=")
        vector = vectors[0] if using is None else self.spec.vector(using)
        checked = checked_query(queries, vector) if one else checked_vectors(queries, vector)
        bound = None if where is None else bind(where, self.spec)
        return Search(queries=checked, k=k, using=vector.column, where=bound, tuning=tuning, want=want)

    def search(self, asked: Search) -> list[list[Hit]]:
        """For each query at most ``k`` hits, by score, then id."""
        if not len(asked.queries) or (asked.where is not None and asked.where == FALSE):
            return [[] for _ in asked.queries]
        if asked.k > self._max_k or (asked.tuning.exact and not self._exact):
            return self._scan_and_score(asked)
        return self._search(asked)

    def _search(self, asked: Search) -> list[list[Hit]]:
        bound, k = asked.where, asked.k
        pushed, exact = (None, True) if bound is None else self._pushed(bound)
        request = asked
        if pushed is not bound or asked.want.vectors or asked.want.tokens or not exact:
            want = self.at_port(asked.want if exact else replace(asked.want, payload=True))
            request = replace(asked, where=pushed, want=want)
        for _ in range(_ROUNDS_BEFORE_SCAN):
            raw: Sequence[Sequence[Hit]] = self.run("search", self.connector.search, request)
            kept = raw if exact else [_matching(bound, hits) for hits in raw]
            reach = request.k
            if exact or all(len(some) >= k or len(hits) < reach for some, hits in zip(kept, raw, strict=True)):
                found = [self._seen(_ordered(hits, k), asked.want) for hits in kept]
                return found if min(map(len, found)) == k else self._completed(asked, found)
            if reach == self._max_k:
                break
            request = replace(request, k=min(reach * _GROWTH, self._max_k))
        return self._scan_and_score(asked)

    def _completed(self, asked: Search, found: list[list[Hit]]) -> list[list[Hit]]:
        """``found``, searched again exactly where an approximate index returned fewer than match."""
        if asked.tuning.exact or (self._limits.complete and self.spec.native):
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

    def _scan_and_score(self, asked: Search) -> list[list[Hit]]:
        """Exact search by reading every record that matches: what a store's own search cannot do."""
        column, metric = asked.using, self.spec.physical(asked.using).metric
        best: list[list[Hit]] = [[] for _ in asked.queries]
        for page in self.matching(asked.where, Want(payload=False, vectors=(column,))):
            batch = page.batch
            rows = np.flatnonzero(batch.present(column))
            if not len(rows):
                continue
            scores = similarities(metric, asked.queries, batch.vectors[column][rows])
            for hits, row_scores in zip(best, scores, strict=True):
                leading = _leading(row_scores, asked.k)
                hits.extend(Hit(batch.ids[rows[at]], float(row_scores[at])) for at in leading)
                hits[:] = _ordered(hits, asked.k)
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
            empty = {name: np.zeros((0, self.spec.vector(name).dim), np.float32) for name in want.vectors}
            return Batch((), empty, () if want.payload else None, revs=() if want.payload else None)
        fetch = partial(self.connector.fetch, want=self.at_port(want))
        size = self._limits.max_batch
        pieces = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        batch = Batch.concat([self.run("fetch", fetch, piece, size=len(piece)) for piece in pieces])
        row_of = {record: row for row, record in enumerate(batch.ids)}
        return self.from_port(batch.take([row_of[i] for i in distinct if i in row_of]))

    def count(self, bound: Filter | None) -> int:
        """How many records match, exactly."""
        if bound == FALSE:
            return 0
        pushed, exact = self._pushed(bound)
        if not exact:
            return sum(len(page.batch) for page in self.matching(bound, Want(payload=False)))
        return int(self.run("count", self.connector.count, pushed))

    def matching(
        self, bound: Filter | None, want: Want, *, size: int = 1000, after: str | None = None
    ) -> Iterator[Page]:
        """Pages at the port of the records that match a bound filter, the residual checked here."""
        pushed, exact = self._pushed(bound)
        asked = want if exact else replace(want, payload=True)
        for page in self.pages(asked, where=pushed, size=size, after=after):
            batch = page.batch
            if bound is not None and not exact:
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
        if not exact:
            return None
        return TRUE if pushed is None else pushed

    def _pushed(self, bound: Filter | None) -> tuple[Filter | None, bool]:
        """What of a bound filter the store is asked, None for nothing, and whether that is all of it. What another tool
        wrote may be of any kind, which stores judge differently: there all is checked again, and nothing is negated.
        """
        if bound is None or bound == TRUE:
            return None, True
        pushed, exact = relax(bound, self._able)
        return None if pushed == TRUE else pushed, exact and self.spec.native

    @cached_property
    def _able(self) -> frozenset[Operator]:
        operators = self._limits.operators
        return operators if self.spec.native else operators - {Operator.NOT}

    # --- between user and port ---

    def at_port(self, want: Want) -> Want:
        """``want`` by physical names."""
        if not want.vectors and not want.tokens:
            return want
        tokens = want.tokens and self.spec.tokens is not None
        return replace(want, vectors=tuple(self.spec.vector(name).column for name in want.vectors), tokens=tokens)

    def from_port(self, batch: Batch) -> Batch:
        """Records as users see them."""
        name = self._logical_names
        payloads = batch.payloads
        revs = [int(p.get("_rev", 0)) for p in payloads] if payloads is not None and self.spec.native else None
        if self.spec.native:
            _records.show(payloads or (), self._conversions)
        return Batch(
            batch.ids,
            {name[column]: values for column, values in batch.vectors.items()},
            payloads,
            batch.tokens,
            {name[column]: mask for column, mask in batch.absent.items()},
            None if revs is None else tuple(revs),
        )

    @cached_property
    def _logical_names(self) -> Mapping[str, str]:
        return {vector.column: vector.name for vector in self.spec.vectors}

    @cached_property
    def _conversions(self) -> _records.Conversions:
        return _records.conversions(self.spec)

    def _seen(self, hits: list[Hit], want: Want) -> list[Hit]:
        """Hits of the port, made in place what users see; another tool's payloads stay as they are."""
        if not want.payload:
            for hit in hits:
                hit.payload = None  # it was read for a residual check
        elif self.spec.native:
            _records.show([hit.payload or {} for hit in hits], self._conversions)
        if want.vectors:
            for hit in hits:
                hit.vectors = {
                    self._logical_names[name]: vector for name, vector in (hit.vectors or {}).items()
                } or None
        return hits


def _matching(bound: Filter | None, hits: Sequence[Hit]) -> Sequence[Hit]:
    return hits if bound is None else [hit for hit in hits if matches(bound, hit.id, hit.payload or {})]


def _leading(scores: NDArray[np.float64], k: int) -> Sequence[int]:
    """Where the ``k`` best scores stand, and what equals the last of them: of the others no hit need be made."""
    if len(scores) <= k:
        return range(len(scores))
    last = np.partition(scores, -k)[-k]
    found: list[int] = np.flatnonzero(scores >= last).tolist()
    return found


def _ordered(hits: Sequence[Hit], k: int) -> list[Hit]:
    """The first ``k`` by score, then id. Most stores answer in the order of scores already."""
    last = math.inf
    for hit in hits:
        if not hit.score < last:
            return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:k]
        last = hit.score
    return list(hits[:k])
