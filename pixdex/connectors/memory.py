"""The oracle: a store in memory that is obviously right, and slow.

What filters and scores mean on every store is what they mean here. Searches are brute force by
``scores.similarities``, filters are ``filters.matches`` on each record, timeouts mean nothing. It also serves small collections, tests and,
with capabilities switched off, proofs that the facade makes up for what a store lacks.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.connectors.port import Capabilities
from pixdex.errors import AlreadyExists, NotFound, Unsupported
from pixdex.filters import Filter, matches, operators_of
from pixdex.scores import similarities
from pixdex.spec import Spec
from pixdex.types import Batch, Hit, Page, Payload, Scan, Search, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.connectors.address import Address

__all__ = ["MemoryConnector", "connect"]

CAPABILITIES = Capabilities(durable=False)


@dataclass(frozen=True, slots=True)
class _NoOptions:
    """``memory://`` has none."""


@dataclass(frozen=True, slots=True)
class _Record:
    payload: Payload
    vectors: Mapping[str, NDArray[Any]]
    tokens: NDArray[Any] | None


@dataclass(slots=True)
class _Collection:
    spec: Spec
    records: dict[str, _Record] = field(default_factory=dict)


@dataclass(slots=True)
class _Store:
    collections: dict[str, _Collection] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


_PLACES: dict[str, _Store] = {}
_PLACES_LOCK = threading.Lock()


def connect(address: Address) -> MemoryConnector:
    """``memory://`` is a fresh store; ``memory://name`` is the one of that name in this process.

    Raises:
        ConfigError: there is an option; it knows none.
    """
    address.read_options(_NoOptions)
    if not address.place:
        return MemoryConnector()
    with _PLACES_LOCK:
        return MemoryConnector(store=_PLACES.setdefault(address.place, _Store()))


class MemoryConnector:
    """A store in memory. ``capabilities`` may be narrowed: what is missing is then refused."""

    scheme = "memory"

    def __init__(self, capabilities: Capabilities = CAPABILITIES, *, store: _Store | None = None) -> None:
        self.capabilities = capabilities
        self._store = store or _Store()

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        self._check_spec(spec)
        with self._store.lock:
            if name in self._store.collections or name in self._store.aliases:
                raise AlreadyExists(f"there is a collection or alias {name!r} already")
            self._store.collections[name] = _Collection(spec)

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        with self._store.lock:
            return self._collection(name).spec

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        with self._store.lock:
            collection = self._collection(name)
            if (spec.fields, spec.vectors) != (collection.spec.fields, collection.spec.vectors):
                self._need(self.capabilities.alter, "alter")
            self._check_spec(spec)
            collection.spec = spec  # filters read payloads, so new fields need no back-fill

    def drop(self, name: str, *, timeout: float | None) -> None:
        with self._store.lock:
            self._store.collections.pop(name, None)
            for alias in [alias for alias, target in self._store.aliases.items() if target == name]:
                del self._store.aliases[alias]

    def names(self, *, timeout: float | None) -> Sequence[str]:
        with self._store.lock:
            return sorted(self._store.collections)

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        self._need(len(batch) <= self.capabilities.max_batch, f"a write of {len(batch)} records")
        self._need(self.capabilities.tokens or not any(t is not None for t in batch.tokens or ()), "tokens")
        with self._store.lock:
            collection = self._collection(name)
            vectors = [collection.spec.physical(column) for column in batch.vectors]
            for row, record in enumerate(batch.ids):
                collection.records[record] = _Record(
                    copy.deepcopy(batch.payloads[row]) if batch.payloads else {},
                    {
                        v.column: batch.vectors[v.column][row].astype(v.dtype)
                        for v in vectors
                        if batch.present(v.column)[row]
                    },
                    _copied(batch.tokens[row]) if batch.tokens else None,
                )

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        self._need(len(ids) <= self.capabilities.max_batch, f"a deletion of {len(ids)} records")
        with self._store.lock:
            records = self._collection(name).records
            for record in ids:
                records.pop(record, None)

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        self._need(self.capabilities.delete_where, "delete_where")
        with self._store.lock:
            for record in list(self._matching(name, where)):
                del self._collection(name).records[record]

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        with self._store.lock:
            records = self._collection(name).records
            return self._read(name, [record for record in ids if record in records], want)

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        self._need(request.k <= self.capabilities.max_k, f"k = {request.k}")
        self._need(self.capabilities.exact or not request.tuning.exact, "exact search")
        with self._store.lock:
            collection = self._collection(name)
            vector = collection.spec.physical(request.using)
            found = [r for r in self._matching(name, request.where) if vector.column in collection.records[r].vectors]
            rows = [collection.records[record].vectors[vector.column] for record in found]
            stored = np.array(rows, dtype=np.float64).reshape(len(rows), vector.dim)
            scores = similarities(vector.metric, request.queries, stored)
            return [self._best(name, found, row_scores, request) for row_scores in scores]

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        with self._store.lock:
            found = sorted(self._matching(name, request.where))
            rest = [record for record in found if request.after is None or record > request.after]
            page = rest[: request.size]
            return Page(self._read(name, page, request.want), page[-1] if len(rest) > len(page) else None)

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        with self._store.lock:
            return sum(1 for _ in self._matching(name, where))

    def flush(self, name: str, *, timeout: float | None) -> None:
        with self._store.lock:
            self._collection(name)

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        self._need(self.capabilities.alias, "alias")
        with self._store.lock:
            if alias in self._store.collections:
                raise AlreadyExists(f"{alias!r} is a collection, so it cannot be an alias")
            if name is None:
                self._store.aliases.pop(alias, None)
            elif name in self._store.collections:
                self._store.aliases[alias] = name
            else:
                raise NotFound(f"no collection {name!r}")

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        with self._store.lock:
            return dict(self._store.aliases)

    def close(self) -> None:
        """Nothing to release: a named place stays for the next ``connect``."""

    def _collection(self, name: str) -> _Collection:
        found = self._store.collections.get(self._store.aliases.get(name, name))
        if found is None:
            raise NotFound(f"no collection {name!r}")
        return found

    def _matching(self, name: str, where: Filter | None) -> Iterator[str]:
        if where is not None:
            missing = operators_of(where) - self.capabilities.operators
            self._need(not missing, f"the filter operators {sorted(missing)}")
        for record, kept in self._collection(name).records.items():
            if where is None or matches(where, record, kept.payload):
                yield record

    def _best(self, name: str, found: Sequence[str], scores: NDArray[np.float64], request: Search) -> list[Hit]:
        order = sorted(range(len(found)), key=lambda row: (-scores[row], found[row]))[: request.k]
        batch = self._read(name, [found[row] for row in order], request.want)
        return [batch.hit(i, float(scores[row])) for i, row in enumerate(order)]

    def _read(self, name: str, ids: Sequence[str], want: Want) -> Batch:
        collection = self._collection(name)
        records = [collection.records[record] for record in ids]
        vectors = [collection.spec.physical(column) for column in want.vectors]
        absent = {v.column: np.array([v.column not in r.vectors for r in records], dtype=bool) for v in vectors}
        matrices = {v.column: np.zeros((len(ids), v.dim), dtype=np.float32) for v in vectors}
        for column, matrix in matrices.items():
            for row in np.flatnonzero(~absent[column]):
                matrix[row] = records[row].vectors[column]
        return Batch(
            tuple(ids),
            matrices,
            tuple(copy.deepcopy(r.payload) for r in records) if want.payload else None,
            tuple(_copied(r.tokens) for r in records) if want.tokens else None,
            absent,
        )

    def _check_spec(self, spec: Spec) -> None:
        can = self.capabilities
        self._need(len(spec.vectors) <= can.max_vectors, f"{len(spec.vectors)} vectors")
        self._need(can.tokens or spec.tokens is None, "tokens")
        for vector in spec.vectors:
            self._need(vector.metric in can.metrics, f"the metric {vector.metric}")
            self._need(vector.dim <= can.max_dim, f"{vector.dim} dimensions")

    def _need(self, able: bool, what: str) -> None:  # noqa: FBT001  # reads as a sentence
        if not able:
            raise Unsupported(f"this memory store is told not to support {what}")


def _copied(tokens: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if tokens is None else tokens.copy()
