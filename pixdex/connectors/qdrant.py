"""Qdrant: a server over REST or gRPC (``qdrant://host:6333/name``, ``qdrant+https://``), or the client's local mode
(``qdrant+local:///dir#name``).

Local mode is for tests and small collections: one process a directory, exact search by brute force in Python, one
fsync a point, points kept as pickles, so never open a directory that came from a stranger.

The Spec lies, as text, in the collection's metadata; ``_qdrant_points`` says how a record lies. ``Qdrant`` holds a
share of a client and knows nothing of how that is opened; ``connect`` says how. Every write waits, so that what was
acknowledged is visible.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pixdex import errors
from pixdex.connectors._shared import Use
from pixdex.connectors.address import Address, serves
from pixdex.connectors.port import Capabilities, Survey
from pixdex.errors import MissingDependency
from pixdex.filters import Filter
from pixdex.spec import Spec
from pixdex.types import Batch, Hit, Page, Scan, Search, Want

try:
    from qdrant_client import models

    from pixdex.connectors import _qdrant_foreign as foreign
    from pixdex.connectors import _qdrant_schema as schema
    from pixdex.connectors._qdrant_client import KEEPS_SPECS, Store, local_share, server_of, server_share, whole
    from pixdex.connectors._qdrant_errors import translated
    from pixdex.connectors._qdrant_filters import OPERATORS
    from pixdex.connectors._qdrant_ids import foreign_id, point_id
    from pixdex.connectors._qdrant_models import CLIENT, ask, point, search_params
    from pixdex.connectors._qdrant_points import points
    from pixdex.connectors._qdrant_reading import compiled, reading
except ImportError as error:
    raise MissingDependency("qdrant-client", "qdrant") from error

__all__ = ["Qdrant", "connect", "connect_server"]

LOCAL = Capabilities(
    operators=OPERATORS,
    foreign=True,
    # A point costs one fsync, about 10 ms on a plain disk, and a call cannot be stopped half-way.
    max_batch=64,
    max_dim=65536,
)
SERVER = Capabilities(
    operators=OPERATORS,
    complete=False,
    foreign=True,
    # A request may have 32 MB, and a float of four bytes takes up to 22 as JSON.
    max_batch_bytes=5 << 20,
    max_dim=65536,
)


@dataclass(frozen=True, slots=True)
class _LocalOptions:
    """There are none."""


def connect(address: Address) -> Qdrant:
    """Open the directory that ``address`` names; where there is none, ``create`` makes it.

    Raises:
        ConfigError: no path, or an option (there are none).
        StoreLocked: another process has it open.
        StoreFormat: there is something else at the path.
    """
    address.read_options(_LocalOptions)
    return Qdrant(local_share(address.path), scheme="qdrant+local", capabilities=LOCAL)


@serves
def connect_server(address: Address) -> Qdrant:
    """A connection to the server that ``address`` names; nothing is sent before the first call.

    Raises:
        ConfigError: no host, an option that is not known, or a key that is not set.
    """
    return Qdrant(server_share(server_of(address)), scheme=address.scheme, capabilities=SERVER)


class Qdrant:
    """A connector around a share of a client. The verbs are documented in ``port``.

    The client is leased once there is a store; ``close``, or the exit, gives it back.
    """

    def __init__(self, share: Any, *, scheme: str, capabilities: Capabilities) -> None:
        self.scheme = scheme
        self.capabilities = capabilities
        self._share = share
        # At exit, too: the client's own finalizer would run when modules are gone.
        self._release = weakref.finalize(self, share.close)

    # --- collections ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        with self._calling(timeout, make=True) as store:
            schema.create(store, name, spec, timeout)

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        with self._calling(timeout) as store:
            return store.specs.read(name, timeout)

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        with self._calling(timeout) as store:
            schema.alter(store, name, spec, timeout, page=self.capabilities.max_batch)

    def drop(self, name: str, *, timeout: float | None) -> None:
        if self._share.lease():
            with self._calling(timeout) as store:
                try:
                    with translated(store.place):
                        store.client.delete_collection(name, timeout=whole(timeout))
                except errors.NotFound:
                    pass
                store.specs.forget()

    def versions(self, *, timeout: float | None) -> Mapping[str, str]:
        with self._calling(timeout) as store:
            return store.versions()

    def names(self, *, timeout: float | None) -> Sequence[str]:
        if self._share.lease() is None:
            return []
        with self._calling(timeout) as store:
            return sorted(store.names(timeout))

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        if name is None and self._share.lease() is None:
            return
        with self._calling(timeout) as store:
            schema.move_alias(store, alias, name, timeout)

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        if self._share.lease() is None:
            return {}
        with self._calling(timeout) as store:
            return dict(store.aliases(timeout))

    # --- other tools' collections ---

    def survey(self, name: str, *, timeout: float | None) -> Survey:
        with self._calling(timeout) as store:
            return foreign.survey(store, name, timeout)

    def register(self, name: str, spec: Spec | None, *, timeout: float | None) -> None:
        with self._calling(timeout) as store:
            if not store.specs.in_file:
                store.require(KEEPS_SPECS, "keeping a Spec there (else name a file: ?registry=specs.json)")
            store.info(name, timeout)
            store.keep(name, spec, timeout)

    def attach(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        with self._calling(timeout) as store:
            foreign.attach(store, name, batch, timeout)

    # --- writes ---

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        with self._calling(timeout) as store:  # from the Spec on, as an alias may be switched
            spec = store.specs.read(name, timeout)
            if store.unindexed(name):
                schema.index(store, name, spec.columns, timeout)
            if len(batch):
                store.client.upsert(name, points(batch, spec.columns, point), timeout=whole(timeout))

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        with self._calling(timeout) as store:
            store.specs.read(name, timeout)  # an empty list must not hide that there is none
            if ids:
                selected = models.PointIdsList(points=[point_id(record) for record in ids])
                store.client.delete(name, selected, timeout=whole(timeout))

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        with self._calling(timeout) as store:
            matching = compiled(where, store.specs.read(name, timeout), CLIENT)
            selector = models.FilterSelector(filter=matching)
            store.client.delete(name, selector, timeout=whole(timeout))

    def flush(self, name: str, *, timeout: float | None) -> None:
        with self._calling(timeout) as store:
            store.info(name, timeout)  # every write waited

    # --- reads ---

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        with self._calling(timeout) as store:
            read = reading(store.specs, name, timeout, CLIENT, want=want)
            asked = read.asked(ids)
            found = store.client.retrieve(
                name,
                list(asked),
                with_payload=read.keys,
                with_vectors=read.with_vectors,
                timeout=whole(timeout),
            )
        return read.batch(found, asked)

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        with self._calling(timeout) as store:
            read = reading(
                store.specs, name, timeout, CLIENT, want=request.want, where=request.where, using=request.using
            )
            params = search_params(request.tuning, request.k) if store.server else None  # local mode is exact
            answers = ask(store.client, name, request, read, params, store.server_limit(timeout))
        return [read.hits(answer.points) for answer in answers]

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        with self._calling(timeout) as store:
            read = reading(store.specs, name, timeout, CLIENT, want=request.want, where=request.where)
            found, after = store.client.scroll(
                name,
                scroll_filter=read.matching,
                limit=request.size,
                offset=None if request.after is None else foreign_id(request.after),
                with_payload=read.keys,
                with_vectors=read.with_vectors,
                timeout=whole(timeout),
            )
        return Page(read.batch(found), None if after is None else str(after))

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        with self._calling(timeout) as store:
            read = reading(store.specs, name, timeout, CLIENT, want=Want(payload=False), where=where)
            return store.client.count(name, count_filter=read.matching, exact=True, timeout=whole(timeout)).count

    def close(self) -> None:
        self._release()

    # --- helpers ---

    def _calling(self, timeout: float | None, *, make: bool = False) -> Use[Store]:
        lease = self._share.lease(make=make)
        if lease is None:
            raise errors.NotFound(f"there is no Qdrant directory at {self._share.path} yet")
        lease.resource.limit(timeout)
        return Use(lease, lease.resource.told)
