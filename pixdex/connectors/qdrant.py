"""Qdrant. Today its local mode: ``qdrant+local:///dir#name``, one process a directory, exact search.

Local mode is for tests and small collections: it searches by brute force in Python, pays one fsync a
point, and keeps points as pickles, so never open a directory that came from a stranger.

The Spec lies, as text, in the collection's metadata; ``_qdrant_points`` says how a record lies. ``Qdrant`` holds a client and knows nothing of
how it was opened; ``connect`` opens it.
"""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixdex import errors
from pixdex.connectors._rows import read_spec, to_batch, to_hit, vector_of, wanted
from pixdex.connectors._shared import Shared
from pixdex.connectors.address import Address
from pixdex.connectors.port import Capabilities
from pixdex.errors import MissingDependency
from pixdex.filters import Filter
from pixdex.types import Batch, Field, Hit, Metric, Page, Scan, Search, Spec, Want

try:
    import portalocker
    from qdrant_client import QdrantClient, models

    from pixdex.connectors._qdrant_errors import translated
    from pixdex.connectors._qdrant_filters import OPERATORS, point_id, to_filter
    from pixdex.connectors._qdrant_points import columns, indexes, keys, params, points, row
except ImportError as error:
    raise MissingDependency("qdrant-client", "qdrant") from error

__all__ = ["Qdrant", "connect"]

LOCAL = Capabilities(
    operators=OPERATORS,
    # A point costs one fsync, about 10 ms on a plain disk, and a call cannot be stopped half-way.
    max_batch=64,
    max_dim=65536,
)

_METADATA = "pixdex"


def connect(address: Address) -> Qdrant:
    """Open the directory that ``address`` names, making it where there is none.

    Raises:
        ConfigError: no path, or an option (there are none).
        StoreLocked: another process has it open.
        StoreFormat: there is something else at the path.
    """
    address.read_options(_LocalOptions)
    lease = _LOCAL.lease(address.path)
    return Qdrant(lease.resource, lease.lock, lease.release, scheme="qdrant+local", capabilities=LOCAL)


@dataclass(frozen=True, slots=True)
class _LocalOptions:
    """There are none."""


def _open_local(path: str) -> QdrantClient:
    place = Path(path)
    with translated():
        if place.is_file() or (place.is_dir() and not _is_local(place)):
            raise errors.StoreFormat(f"{path} exists and is no Qdrant directory")
        _probe_lock(place / ".lock")
        try:
            return QdrantClient(path=path)
        except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise errors.StoreFormat(f"{path} is no Qdrant directory, or corrupt: {error}") from error


def _is_local(place: Path) -> bool:
    entries = {entry.name for entry in place.iterdir()}
    return not entries or "meta.json" in entries


def _probe_lock(path: Path) -> None:
    """Fail before the client does: it would leave open files behind."""
    if path.exists():
        with path.open("r+") as file:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
            portalocker.unlock(file)


_LOCAL = Shared(_open_local, QdrantClient.close)


class Qdrant:
    """A connector around an open client. The verbs are documented in ``port``.

    ``lock`` is held around each call of the client; ``release`` is called once, by ``close`` or at exit.
    """

    def __init__(
        self,
        client: QdrantClient,
        lock: AbstractContextManager[Any],
        release: Callable[[], object],
        *,
        scheme: str,
        capabilities: Capabilities,
    ) -> None:
        self.scheme = scheme
        self.capabilities = capabilities
        self._client = client
        self._lock = lock
        # At exit, too: the client's own finalizer would run when modules are gone.
        self._release = weakref.finalize(self, release)

    # --- collections ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        with self._calling():
            vectors = {vector.column: params(vector) for vector in spec.vectors}
            self._client.create_collection(
                name, vectors_config=vectors, metadata={_METADATA: spec.to_json()}, timeout=_whole(timeout)
            )
            self._index(name, spec.columns)

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        with self._calling():
            metadata = self._client.get_collection(name).config.metadata or {}
        if _METADATA not in metadata:
            raise errors.StoreFormat(f"collection {name!r} was not made by pixdex: it has no Spec")
        return read_spec(metadata[_METADATA])

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        deadline = _Deadline(timeout)
        old = self.describe(name, timeout=timeout)
        fields = [field for field in spec.fields if field not in old.fields]
        with self._calling():
            for vector in spec.vectors:
                if vector not in old.vectors:
                    dense = models.DenseVectorConfig(size=vector.dim, distance=params(vector).distance)
                    config = models.DenseVectorNameConfig(dense=dense)
                    self._client.create_vector_name(name, vector.column, config)
            if fields:
                self._index(name, fields)
                self._back_fill(name, fields, deadline)
            # Last, so that an alter that failed half-way is done again.
            self._client.update_collection(name, metadata={_METADATA: spec.to_json()})

    def drop(self, name: str, *, timeout: float | None) -> None:
        with self._calling():
            self._client.delete_collection(name, timeout=_whole(timeout))

    def names(self, *, timeout: float | None) -> Sequence[str]:
        with self._calling():
            return sorted(collection.name for collection in self._client.get_collections().collections)

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        steps: list[Any] = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))]
        if name is not None:
            target = models.CreateAlias(collection_name=name, alias_name=alias)
            steps.append(models.CreateAliasOperation(create_alias=target))
        if alias in self.names(timeout=timeout):
            raise errors.AlreadyExists(f"{alias!r} is a collection, so it cannot be an alias")
        with self._calling():
            self._client.update_collection_aliases(steps, timeout=_whole(timeout))

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        with self._calling():
            return {a.alias_name: a.collection_name for a in self._client.get_aliases().aliases}

    # --- writes ---

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        spec = self.describe(name, timeout=timeout)
        if len(batch):
            with self._calling():
                self._client.upsert(name, points(batch, spec.columns), timeout=_whole(timeout))

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        with self._calling():
            self._client.get_collection(name)  # an empty list must not hide that there is none
            if ids:
                self._client.delete(
                    name, models.PointIdsList(points=[point_id(record) for record in ids]), timeout=_whole(timeout)
                )

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        selector = models.FilterSelector(filter=to_filter(where) or models.Filter())
        with self._calling():
            self._client.delete(name, selector, timeout=_whole(timeout))

    def flush(self, name: str, *, timeout: float | None) -> None:
        with self._calling():
            self._client.get_collection(name)  # every write waited

    # --- reads ---

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        asked = {point_id(record): record for record in ids}
        vectors = wanted(self.describe(name, timeout=timeout), name, want)
        with self._calling():
            read = self._client.retrieve(
                name,
                list(asked),
                with_payload=keys(want),
                with_vectors=list(want.vectors) or False,
                timeout=_whole(timeout),
            )
        found = {str(point.id): row(point) for point in read}
        for point, record in found.items():
            if record.id != asked[point]:
                raise errors.StoreError(f"ids {record.id!r} and {asked[point]!r} share point {point}")
        return to_batch(list(found.values()), vectors, want)

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        spec, want = self.describe(name, timeout=timeout), request.want
        vector = vector_of(spec, name, request.using)
        wanted(spec, name, want)
        asked = [
            models.QueryRequest(
                query=query,
                using=request.using,
                filter=to_filter(request.where),
                limit=request.k,
                with_payload=keys(want),
                with_vector=list(want.vectors) or False,
            )
            for query in request.queries.tolist()
        ]
        with self._calling():
            answers = self._client.query_batch_points(name, asked, timeout=_whole(timeout))
        rooted = vector.metric is Metric.L2
        return [[to_hit(row(p), -(p.score**2) if rooted else p.score, want) for p in a.points] for a in answers]

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        vectors = wanted(self.describe(name, timeout=timeout), name, request.want)
        with self._calling():
            read, after = self._client.scroll(
                name,
                scroll_filter=to_filter(request.where),
                limit=request.size,
                offset=request.after,
                with_payload=keys(request.want),
                with_vectors=list(request.want.vectors) or False,
                timeout=_whole(timeout),
            )
        batch = to_batch([row(point) for point in read], vectors, request.want)
        return Page(batch, None if after is None else str(after))

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        with self._calling():
            return self._client.count(name, count_filter=to_filter(where), exact=True, timeout=_whole(timeout)).count

    def close(self) -> None:
        self._release()

    # --- helpers ---

    @contextmanager
    def _calling(self) -> Iterator[None]:
        if not self._release.alive:
            raise errors.StoreError("this Qdrant connector is closed")
        with self._lock, translated():
            yield

    def _index(self, name: str, fields: Sequence[Field]) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Payload indexes have no effect in the local Qdrant")
            for field in fields:
                for key, schema in indexes(field):
                    self._client.create_payload_index(name, key, schema)

    def _back_fill(self, name: str, fields: Sequence[Field], deadline: _Deadline) -> None:
        after: Any = None
        while True:
            read, after = self._client.scroll(
                name, limit=self.capabilities.max_batch, offset=after, with_payload=["payload"]
            )
            steps: list[Any] = []
            for point in read:
                values = columns((point.payload or {}).get("payload") or {}, fields)
                if values:
                    change = models.SetPayload(payload=values, points=[point.id])
                    steps.append(models.SetPayloadOperation(set_payload=change))
            if steps:
                self._client.batch_update_points(name, steps)
            if after is None:
                return
            deadline.check()


def _whole(timeout: float | None) -> int | None:
    """Seconds as the client takes them; local mode takes no notice."""
    return None if timeout is None else max(1, math.ceil(timeout))


class _Deadline:
    """When a call of several steps has to stop."""

    __slots__ = ("_end",)

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def check(self) -> None:
        if self._end is not None and time.monotonic() > self._end:
            raise errors.StoreTimeout("Qdrant did not finish in time")
