"""Qdrant Edge, Qdrant's engine in this process: ``qdrant+edge:///dir#name``, one process a directory.

``_qdrant_edge_shelf`` says how collections lie in the directory, ``_qdrant_points`` how a record lies in a shard.
What was acknowledged is in the shard's write-ahead log and survives the process; ``flush`` brings it to disk.

Vectors are compared one by one until ``flush`` builds an HNSW graph, which it does, blocking, when at least 2000 records
and a tenth of the collection changed; ``?optimize=0`` leaves that out. A directory that is a shard of another tool is
read where it is; ``?registry=FILE`` names the file for its Spec.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pixdex import errors
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._shared import Lease, Use
from pixdex.connectors.address import Address
from pixdex.connectors.port import Capabilities, Survey
from pixdex.errors import MissingDependency
from pixdex.filters import Filter
from pixdex.spec import Field, Spec
from pixdex.types import Batch, Hit, Page, Scan, Search, Want

try:
    import qdrant_edge as edge

    from pixdex.connectors import _qdrant_edge_foreign as foreign
    from pixdex.connectors._qdrant_edge_models import EDGE, Index, add_vector, plain, point, search_params, views
    from pixdex.connectors._qdrant_edge_shelf import Shelf, add_indexes, share
    from pixdex.connectors._qdrant_errors import told
    from pixdex.connectors._qdrant_filters import OPERATORS
    from pixdex.connectors._qdrant_ids import foreign_id, point_id
    from pixdex.connectors._qdrant_points import columns, payload_of, points
    from pixdex.connectors._qdrant_reading import compiled, reading
except ImportError as error:
    raise MissingDependency("qdrant-edge-py", "qdrant") from error

__all__ = ["QdrantEdge", "connect"]

EDGE_CAPABILITIES = Capabilities(operators=OPERATORS, complete=False, foreign=True, max_dim=65536)


@dataclass(frozen=True, slots=True)
class _Options:
    """Options of an address. ``m``, ``ef_construct`` and ``quantization`` count at creation: see ``Index``."""

    optimize: bool = True
    registry: str | None = None
    m: int | None = None
    ef_construct: int | None = None
    quantization: str | None = None


def connect(address: Address) -> QdrantEdge:
    """Open the directory that ``address`` names; where there is none, ``create`` makes it.

    Raises:
        ConfigError: no path, or an option that means nothing.
        StoreLocked: another process has it open.
        StoreFormat: there is something else at the path.
    """
    options = address.read_options(_Options)
    index = Index(m=options.m, ef_construct=options.ef_construct, quantization=options.quantization)
    index.codes()  # refuses what means nothing
    return QdrantEdge(address.path, index, optimize=options.optimize, registry=options.registry)


class QdrantEdge:
    """A connector around a share of a directory. The verbs are documented in ``port``."""

    scheme = "qdrant+edge"
    capabilities = EDGE_CAPABILITIES

    def __init__(self, path: str, index: Index, *, optimize: bool, registry: str | None) -> None:
        self._index = index
        self._optimize = optimize
        self._registry = registry
        self._share = share(path)
        self._release = weakref.finalize(self, self._share.close)

    # --- collections ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        with self._changing(make=True) as shelf:
            shelf.create(name, spec, self._index)

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        with self._reading() as shelf:
            shelf.real(name)
            return shelf.specs.read(name, timeout)

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        deadline = Deadline.after(timeout)
        with self._changing() as shelf:  # writers of this process wait, and there are no others
            old, shard = shelf.specs.read(name, timeout), shelf.shard(name)
            for vector in spec.vectors:
                if vector not in old.vectors:
                    foreign.tolerant(shard, add_vector(vector))
            if not spec.native:
                shelf.specs.register(name, spec)
                return
            fields = [field for field in spec.fields if field not in old.fields]
            if fields:
                add_indexes(shard, fields)
                _back_fill(shard, fields, deadline)
                shard.flush()
            shelf.keep(name, spec)

    def drop(self, name: str, *, timeout: float | None) -> None:
        if self._share.lease():
            with self._changing() as shelf:
                shelf.drop(name)

    def versions(self, *, timeout: float | None) -> Mapping[str, str]:
        return {"qdrant-edge-py": metadata.version("qdrant-edge-py")}

    def names(self, *, timeout: float | None) -> Sequence[str]:
        if self._share.lease() is None:
            return []
        with self._reading() as shelf:
            return shelf.names()

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        if name is None and self._share.lease() is None:
            return
        with self._changing() as shelf:
            shelf.alias(alias, name)

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        if self._share.lease() is None:
            return {}
        with self._reading() as shelf:
            return shelf.aliases()

    # --- another tool's shard ---

    def survey(self, name: str, *, timeout: float | None) -> Survey:
        with self._reading() as shelf:
            return foreign.survey(shelf.path, shelf.shard(name))

    def register(self, name: str, spec: Spec | None, *, timeout: float | None) -> None:
        with self._changing() as shelf:
            if not shelf.specs.in_file:
                raise errors.Unsupported(
                    f"{shelf.path} is a shard, which has no place for a Spec: name a file with ?registry=specs.json"
                )
            shelf.specs.register(name, spec)

    def attach(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        with self._changing() as shelf:
            foreign.attach(shelf.shard(name), batch)
            shelf.changed(name, len(batch))

    # --- writes ---

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        with self._changing() as shelf:
            spec, shard = shelf.specs.read(name, timeout), shelf.shard(name)
            if len(batch):
                shard.update(edge.UpdateOperation.upsert_points(points(batch, spec.columns, point, rows=views)))
                shelf.changed(name, len(batch))

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        with self._changing() as shelf:
            shard = shelf.shard(name)
            if ids:
                shard.update(edge.UpdateOperation.delete_points([point_id(record) for record in ids]))
                shelf.changed(name, len(ids))

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        with self._changing() as shelf:
            matching = compiled(where, shelf.specs.read(name, timeout), EDGE)
            shelf.shard(name).update(edge.UpdateOperation.delete_points_by_filter(matching))

    def flush(self, name: str, *, timeout: float | None) -> None:
        with self._changing() as shelf:
            shelf.settle(name, optimize=self._optimize)

    # --- reads ---

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        with self._reading() as shelf:
            read = reading(shelf.specs, name, timeout, EDGE, want=want)
            asked = read.asked(ids)
            return read.batch(shelf.shard(name).retrieve(list(asked), read.keys, read.with_vectors), asked)

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        with self._reading() as shelf:
            read = reading(
                shelf.specs, name, timeout, EDGE, want=request.want, where=request.where, using=request.using
            )
            keys, vectors, params = read.keys, read.with_vectors, search_params(request.tuning, request.k)
            asked = [
                edge.QueryRequest(
                    limit=request.k,
                    query=edge.Query.Nearest(query, using=request.using or None),
                    with_vector=vectors,
                    with_payload=keys,
                    filter=read.matching,
                    params=params,
                )
                for query in request.queries.tolist()
            ]
            found = shelf.shard(name).query_batch(edge.QueryBatchRequest(asked))
        return [read.hits(some) for some in found]

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        with self._reading() as shelf:
            read = reading(shelf.specs, name, timeout, EDGE, want=request.want, where=request.where)
            asked = edge.ScrollRequest(
                offset=None if request.after is None else foreign_id(request.after),
                limit=request.size,
                filter=read.matching,
                with_payload=read.keys,
                with_vector=read.with_vectors,
            )
            found, after = shelf.shard(name).scroll(asked)
        return Page(read.batch(found), None if after is None else str(after))

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        with self._reading() as shelf:
            read = reading(shelf.specs, name, timeout, EDGE, want=Want(payload=False), where=where)
            return int(shelf.shard(name).count(edge.CountRequest(exact=True, filter=read.matching)))

    def close(self) -> None:
        self._release()

    # --- helpers ---

    def _changing(self, *, make: bool = False) -> Use[Shelf]:
        """The directory, to this thread alone."""
        return Use(self._lease(make=make), self._told)

    def _reading(self) -> Use[Shelf]:
        """The directory; the engine takes care of threads."""
        return Use(self._lease(), self._told, alone=False)

    def _lease(self, *, make: bool = False) -> Lease[Shelf]:
        lease = self._share.lease(make=make)
        if lease is None:
            raise errors.NotFound(f"there is no Qdrant Edge directory at {self._share.path} yet")
        lease.resource.use_registry(self._registry)
        return lease

    def _told(self, error: Exception) -> errors.PixdexError | None:
        return told(error, self._share.path)


def _back_fill(shard: Any, fields: Sequence[Field], deadline: Deadline) -> None:
    after: Any = None
    while True:
        read, after = shard.scroll(edge.ScrollRequest(offset=after, limit=1000, with_payload=["payload"]))
        for found in read:
            values = columns(payload_of((found.payload or {})["payload"]), fields)
            if values:
                shard.update(edge.UpdateOperation.set_payload([found.id], plain(values)))
        if after is None:
            return
        deadline.check()
