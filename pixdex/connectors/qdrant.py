"""Qdrant. Today its local mode: ``qdrant+local:///dir#name``, one process a directory, exact search.

Local mode is for tests and small collections: it searches by brute force in Python, pays one fsync a
point, and keeps points as pickles, so never open a directory that came from a stranger.

The Spec lies, as text, in the collection's metadata; ``_qdrant_points`` says how a record lies. ``Qdrant``
holds a share of a client and knows nothing of how that is opened; ``connect`` says how.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixdex import errors
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._rows import current, to_batch, to_hit, wanted
from pixdex.connectors._shared import Share, Shared, holds_store
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
    """Open the directory that ``address`` names; where there is none, ``create`` makes it.

    Raises:
        ConfigError: no path, or an option (there are none).
        StoreLocked: another process has it open.
        StoreFormat: there is something else at the path.
    """
    address.read_options(_LocalOptions)
    return Qdrant(Share(_LOCAL, address.path, _found), scheme="qdrant+local", capabilities=LOCAL)


@dataclass(frozen=True, slots=True)
class _LocalOptions:
    """There are none."""


def _open_local(path: str) -> QdrantClient:
    _found(path)
    with translated():
        _probe_lock(Path(path) / ".lock")
        try:
            return QdrantClient(path=path)
        except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise errors.StoreFormat(f"{path} is no Qdrant directory, or corrupt: {error}") from error


def _found(path: str) -> bool:
    """Whether a Qdrant directory is at ``path``; an empty one is none yet."""
    with translated():
        return holds_store(path, "meta.json", "Qdrant")


def _probe_lock(path: Path) -> None:
    """Fail before the client does: it would leave open files behind."""
    if path.exists():
        with path.open("r+") as file:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
            portalocker.unlock(file)


_LOCAL = Shared(_open_local, QdrantClient.close)


class Qdrant:
    """A connector around a share of a client. The verbs are documented in ``port``.

    The client is leased once there is a store; ``close``, or the exit, gives it back.
    """

    def __init__(self, share: Share[QdrantClient], *, scheme: str, capabilities: Capabilities) -> None:
        self.scheme = scheme
        self.capabilities = capabilities
        self._share = share
        # At exit, too: the client's own finalizer would run when modules are gone.
        self._release = weakref.finalize(self, share.close)

    # --- collections ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        with self._calling(make=True) as client:
            vectors = {vector.column: params(vector) for vector in spec.vectors}
            client.create_collection(
                name, vectors_config=vectors, metadata={_METADATA: spec.to_json()}, timeout=_whole(timeout)
            )
            _index(client, name, spec.columns)

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        with self._calling() as client:
            metadata = client.get_collection(name).config.metadata or {}
        if _METADATA not in metadata:
            raise errors.StoreFormat(f"collection {name!r} was not made by pixdex: it has no Spec")
        return Spec.from_json(metadata[_METADATA])

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        deadline = Deadline.after(timeout)
        with self._calling() as client:
            old = self.describe(name, timeout=timeout)
            fields = [field for field in spec.fields if field not in old.fields]
            for vector in spec.vectors:
                if vector not in old.vectors:
                    dense = models.DenseVectorConfig(size=vector.dim, distance=params(vector).distance)
                    config = models.DenseVectorNameConfig(dense=dense)
                    client.create_vector_name(name, vector.column, config)
            if fields:
                _index(client, name, fields)
                _back_fill(client, name, fields, deadline)
            # Last, so that an alter that failed half-way is done again.
            client.update_collection(name, metadata={_METADATA: spec.to_json()})

    def drop(self, name: str, *, timeout: float | None) -> None:
        if self._share.lease():
            with self._calling() as client:
                client.delete_collection(name, timeout=_whole(timeout))

    def names(self, *, timeout: float | None) -> Sequence[str]:
        if self._share.lease() is None:
            return []
        with self._calling() as client:
            return sorted(collection.name for collection in client.get_collections().collections)

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        steps: list[Any] = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))]
        if name is not None:
            target = models.CreateAlias(collection_name=name, alias_name=alias)
            steps.append(models.CreateAliasOperation(create_alias=target))
        if alias in self.names(timeout=timeout):
            raise errors.AlreadyExists(f"{alias!r} is a collection, so it cannot be an alias")
        if name is None and alias not in self.aliases(timeout=timeout):
            return
        with self._calling() as client:
            client.update_collection_aliases(steps, timeout=_whole(timeout))

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        if self._share.lease() is None:
            return {}
        with self._calling() as client:
            return {a.alias_name: a.collection_name for a in client.get_aliases().aliases}

    # --- writes ---

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        with self._calling() as client:  # from the Spec on, as an alias may be switched
            spec = self.describe(name, timeout=timeout)
            if len(batch):
                client.upsert(name, points(batch, spec.columns), timeout=_whole(timeout))

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        with self._calling() as client:
            client.get_collection(name)  # an empty list must not hide that there is none
            if ids:
                client.delete(
                    name, models.PointIdsList(points=[point_id(record) for record in ids]), timeout=_whole(timeout)
                )

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        with self._calling() as client:
            matching = to_filter(current(where, self.describe(name, timeout=timeout)))
            selector = models.FilterSelector(filter=matching or models.Filter())
            client.delete(name, selector, timeout=_whole(timeout))

    def flush(self, name: str, *, timeout: float | None) -> None:
        with self._calling() as client:
            client.get_collection(name)  # every write waited

    # --- reads ---

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        asked = {point_id(record): record for record in ids}
        with self._calling() as client:
            vectors = wanted(self.describe(name, timeout=timeout), want)
            read = client.retrieve(
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
        want = request.want
        with self._calling() as client:
            spec = self.describe(name, timeout=timeout)
            vector = spec.physical(request.using)
            wanted(spec, want)
            matching = to_filter(current(request.where, spec))
            asked = [
                models.QueryRequest(
                    query=query,
                    using=request.using,
                    filter=matching,
                    limit=request.k,
                    with_payload=keys(want),
                    with_vector=list(want.vectors) or False,
                )
                for query in request.queries.tolist()
            ]
            answers = client.query_batch_points(name, asked, timeout=_whole(timeout))
        rooted = vector.metric is Metric.L2
        return [[to_hit(row(p), -(p.score**2) if rooted else p.score) for p in a.points] for a in answers]

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        with self._calling() as client:
            spec = self.describe(name, timeout=timeout)
            vectors = wanted(spec, request.want)
            read, after = client.scroll(
                name,
                scroll_filter=to_filter(current(request.where, spec)),
                limit=request.size,
                offset=request.after,
                with_payload=keys(request.want),
                with_vectors=list(request.want.vectors) or False,
                timeout=_whole(timeout),
            )
        batch = to_batch([row(point) for point in read], vectors, request.want)
        return Page(batch, None if after is None else str(after))

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        with self._calling() as client:
            matching = None if where is None else to_filter(current(where, self.describe(name, timeout=timeout)))
            return client.count(name, count_filter=matching, exact=True, timeout=_whole(timeout)).count

    def close(self) -> None:
        self._release()

    # --- helpers ---

    @contextmanager
    def _calling(self, *, make: bool = False) -> Iterator[QdrantClient]:
        lease = self._share.lease(make=make)
        if lease is None:
            raise errors.NotFound(f"there is no Qdrant directory at {self._share.path} yet")
        with lease.lock, translated():
            yield lease.resource


def _index(client: QdrantClient, name: str, fields: Sequence[Field]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes have no effect in the local Qdrant")
        for field in fields:
            for key, schema in indexes(field):
                client.create_payload_index(name, key, schema)


def _back_fill(client: QdrantClient, name: str, fields: Sequence[Field], deadline: Deadline) -> None:
    after: Any = None
    while True:
        read, after = client.scroll(name, limit=LOCAL.max_batch, offset=after, with_payload=["payload"])
        steps: list[Any] = []
        for point in read:
            values = columns((point.payload or {}).get("payload") or {}, fields)
            if values:
                change = models.SetPayload(payload=values, points=[point.id])
                steps.append(models.SetPayloadOperation(set_payload=change))
        if steps:
            client.batch_update_points(name, steps)
        if after is None:
            return
        deadline.check()


def _whole(timeout: float | None) -> int | None:
    """Seconds as the client takes them; local mode takes no notice."""
    return None if timeout is None else max(1, math.ceil(timeout))
