"""Milvus: a server (``milvus://host:19530/database/name``) and Milvus Lite (``milvus+lite://photos.db#name``, one
process a path).

The Spec lies, as text, in the collection's properties; ``_milvus_rows`` says how a record lies. ``Milvus``
holds a share of a client and knows nothing of how that is opened; ``connect`` and ``connect_server`` say how.

A server shows what was written after about 0.2 s. Reads do not wait for that, ``flush`` does: it counts with strong
consistency, which returns when all that was acknowledged before is in memory.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pixdex import errors
from pixdex.connectors._milvus_filters import OPERATORS, to_expression
from pixdex.connectors._rows import current, to_batch, wanted
from pixdex.connectors._shared import Use
from pixdex.connectors.address import Address, serves
from pixdex.connectors.port import Capabilities, Survey
from pixdex.errors import MissingDependency
from pixdex.filters import Filter
from pixdex.spec import Metric, Spec
from pixdex.types import Batch, Hit, Page, Scan, Search, Want

# Else gRPC prints, as information, that a server said goodbye. It reads this when it is imported first.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

try:
    from pixdex.connectors import _milvus_foreign as foreign
    from pixdex.connectors._milvus_client import NAMED_VECTORS, PROPERTY, Options, Store, lite_share, once, server_share
    from pixdex.connectors._milvus_errors import translated
    from pixdex.connectors._milvus_index import APPROXIMATE, Index, search_params
    from pixdex.connectors._milvus_pages import page
    from pixdex.connectors._milvus_rows import MAX_TOKEN_BYTES, MAX_VARCHAR, logical, physical, schema
except ImportError as error:
    raise MissingDependency("pymilvus", "milvus") from error

__all__ = ["Milvus", "connect", "connect_server"]

LITE = Capabilities(
    operators=OPERATORS,
    alter=False,  # Lite cannot add a field to a collection
    foreign=True,
    max_payload_bytes=MAX_VARCHAR - 64,  # the revision is added
    max_token_bytes=MAX_TOKEN_BYTES,
)
SERVER = replace(
    LITE,
    exact=False,
    complete=False,
    reads_own_writes=False,
    staleness=5.0,
    max_vectors=4,
    max_batch_bytes=16 << 20,  # a message may have 64 MB, and tokens grow by a third
)
MAX_COLUMNS = 64
"""Columns of a collection on a server."""


def connect(address: Address) -> Milvus:
    """Open the Milvus Lite directory that ``address`` names; where there is none, ``create`` makes it.

    Raises:
        ConfigError: no path, or an option that is not known.
        StoreLocked: another process has it open.
        StoreFormat: there is something else at the path.
    """
    options = address.read_options(Options)
    if options.key_env or options.tls or options.ca:
        raise errors.ConfigError(f"{address}: Milvus Lite is in this process: it takes no key_env, tls or ca")
    index = options.chosen("FLAT")
    return Milvus(
        lite_share(address.path), scheme="milvus+lite", capabilities=LITE, index=index, registry=options.registry
    )


@serves
def connect_server(address: Address) -> Milvus:
    """A connection to the server that ``address`` names.

    Raises:
        ConfigError: no host, an option that is not known, or a key that is not set.
        StoreUnavailable: it is not there.
        Unsupported: it is too old.
    """
    options = address.read_options(Options)
    index = options.chosen("HNSW")
    share = server_share(address, options)
    version = share.lease().resource.version or NAMED_VECTORS
    most = SERVER.max_vectors if version >= NAMED_VECTORS else 1
    return Milvus(share, scheme="milvus", capabilities=replace(SERVER, max_vectors=most), index=index)


class Milvus:
    """A connector around a share of a client. The verbs are documented in ``port``.

    The client is leased once there is a store; ``close``, or the exit, gives it back.
    """

    def __init__(
        self, share: Any, *, scheme: str, capabilities: Capabilities, index: Index, registry: str | None = None
    ) -> None:
        self.scheme = scheme
        self._able = capabilities
        self._share = share
        self._index = index
        self._registry = registry
        self._release = weakref.finalize(self, share.close)

    @property
    def capabilities(self) -> Capabilities:
        """What it can do. Less once a collection with an approximate index was seen."""
        lease = self._share.lease() if self._able.complete else None
        if lease is not None and lease.resource.approximate:
            self._able = replace(self._able, exact=False, complete=False)
        return self._able

    # --- collections ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        made, collection = schema(spec), physical(name)
        if self.scheme == "milvus" and len(made.fields) > MAX_COLUMNS:
            raise errors.Unsupported(
                f"collection {name!r} needs {len(made.fields)} columns, a Milvus server allows {MAX_COLUMNS}: a field "
                "takes two, a place three: declare only what filters need, the rest of a payload is kept anyway"
            )
        indexes = self._index.of(spec.vectors)
        with self._calling(name, make=True) as store:
            client = store.client
            if client.has_collection(collection, **once(timeout)):  # a server takes an equal one for the same
                raise errors.AlreadyExists(f"{store.place}: collection {name!r} already exists")
            properties = {PROPERTY: spec.to_json()}
            level = {"consistency_level": "Bounded"} if store.server else {}
            client.create_collection(collection, schema=made, properties=properties, **level, **once(timeout))
            # Nothing to wait for, as the collection is empty: the client would poll every half second.
            client.create_index(collection, indexes, sync=False, **once(timeout))
            store.load(name, timeout)
            store.forget()

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        with self._calling(name) as store:
            return store.current(name, timeout).spec

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        old = self.describe(name, timeout=timeout)
        if (spec.fields, spec.vectors, spec.tokens) != (old.fields, old.vectors, old.tokens):
            raise errors.Unsupported(
                f"{self.scheme} cannot add fields or vectors to collection {name!r}: "
                "create a collection that has them and copy the records"
            )
        with self._calling(name) as store:
            properties = {PROPERTY: spec.to_json()}
            store.client.alter_collection_properties(physical(name), properties=properties, **once(timeout))
            store.forget()

    def drop(self, name: str, *, timeout: float | None) -> None:
        if name in self.names(timeout=timeout):  # else it may be an alias, which would drop its target
            with self._calling(name) as store:
                for alias, collection in self.aliases(timeout=timeout).items() if store.server else ():
                    if collection == name:  # an older server leaves them, a newer one refuses
                        store.client.drop_alias(physical(alias), **once(timeout))
                store.client.drop_collection(physical(name), **once(timeout))
                store.forget()

    def versions(self, *, timeout: float | None) -> Mapping[str, str]:
        with self._calling() as store:
            return store.versions()

    def names(self, *, timeout: float | None) -> Sequence[str]:
        if self._share.lease() is None:
            return []
        with self._calling() as store:
            return sorted(map(logical, store.client.list_collections(**once(timeout))))

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        names, known = self.names(timeout=timeout), self.aliases(timeout=timeout)
        if alias in names:
            raise errors.AlreadyExists(f"{alias!r} is a collection, so it cannot be an alias")
        if name is not None and name not in names:
            raise errors.NotFound(f"no collection {name!r}")
        if name is None and alias not in known:
            return
        with self._calling(alias) as store:
            if name is None:
                store.client.drop_alias(physical(alias), **once(timeout))
            else:
                point = store.client.alter_alias if alias in known else store.client.create_alias
                point(physical(name), physical(alias), **once(timeout))
            store.forget()

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        if self._share.lease() is None:
            return {}
        with self._calling() as store:
            return store.aliases(timeout)

    # --- other tools' collections ---

    def survey(self, name: str, *, timeout: float | None) -> Survey:
        with self._calling(name) as store:
            return foreign.survey(store, name, timeout)

    def register(self, name: str, spec: Spec | None, *, timeout: float | None) -> None:
        with self._calling(name) as store:
            foreign.register(store, name, spec, timeout)

    def attach(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        raise errors.Unsupported(f"{self.scheme} cannot add a vector to collection {name!r}")

    # --- writes ---

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        with self._calling(name) as store:
            try:
                with translated(name, store.place):
                    store.upsert(name, store.last(name, timeout), batch, timeout)
            except errors.FingerprintMismatch:  # its columns, all of which a row must have, carry digests
                store.upsert(name, store.current(name, timeout), batch, timeout)

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        with self._calling(name) as store:
            key = store.current(name, timeout).key  # an empty list must not hide that there is no collection
            if ids:
                store.changed()
                store.client.delete(physical(name), filter=key.among(ids), **once(timeout))

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        with self._calling(name) as store:
            matching = self._matching(where, store.current(name, timeout).spec)
            store.changed()
            store.loaded("delete", name, timeout, {"filter": matching, **_level(store, "Strong")})

    def flush(self, name: str, *, timeout: float | None) -> None:
        with self._calling(name) as store:
            store.described(name, timeout)  # Lite flushes what does not exist
            if store.server:  # sealing segments would take seconds, and makes nothing more visible
                store.count(name, "", timeout, _level(store, "Strong"))
            else:
                store.client.flush(physical(name), **once(timeout))

    # --- reads ---

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        with self._calling(name) as store:
            layout = store.last(name, timeout)
            vectors = wanted(layout.spec, want)
            asked: dict[str, Any] = {"filter": layout.key.among(ids), "output_fields": layout.columns(vectors, want)}
            asked |= _level(store, "Session")
            read = store.query(name, timeout, asked) if ids else []
            if store.server and len(read) < len(ids):
                # A server replaces a record by removing and adding it, and may be seen in between: look again. All of
                # it, since an alias may move meanwhile.
                read = max(read, store.query(name, timeout, asked), key=len)
        return to_batch([layout.row(cells, vectors, want) for cells in read], vectors, want)

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        want = request.want
        with self._calling(name) as store:
            layout = store.last(name, timeout)
            vector, vectors = layout.spec.physical(request.using), wanted(layout.spec, want)
            kind = layout.table.indexes.get(vector.column, "")
            present = layout.holding.get(vector.column)
            tests = [] if present is None else [present]
            if request.where is not None:
                tests.append(self._matching(request.where, layout.spec))
            asked = {
                "data": list(request.queries),
                "anns_field": vector.column,
                "search_params": search_params(kind, vector.metric, request.tuning, request.k),
                "filter": " and ".join(tests),
                "limit": request.k,
                "output_fields": layout.columns(vectors, want),
                **_level(store, "Bounded"),
            }
            answers = store.loaded("search", name, timeout, asked)
        sign = -1.0 if vector.metric is Metric.L2 else 1.0  # a squared distance, or a similarity by that name
        trace = {"approximate": 1.0} if kind in APPROXIMATE else {}
        return [layout.hits(answer, sign, vectors, want, trace) for answer in answers]

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        want = request.want
        with self._calling(name) as store:
            layout = store.last(name, timeout)
            vectors = wanted(layout.spec, want)
            matching, columns = self._matching(request.where, layout.spec), layout.columns(vectors, want)
            read, after = page(store, name, request, matching, columns, timeout)
        return Page(to_batch([layout.row(cells, vectors, want) for cells in read], vectors, want), after)

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        with self._calling(name) as store:
            matching = "" if where is None else self._matching(where, store.last(name, timeout).spec)
            return store.count(name, matching, timeout, _level(store, "Bounded"))

    def close(self) -> None:
        self._release()

    # --- helpers ---

    @staticmethod
    def _matching(where: Filter | None, spec: Spec) -> str:
        return to_expression(current(where, spec), spec)

    def _calling(self, name: str = "", *, make: bool = False) -> Use[Store]:
        lease = self._share.lease(make=make)
        if lease is None:
            raise errors.NotFound(f"there is no Milvus Lite directory at {self._share.path} yet")
        if self._registry is not None:
            lease.resource.use_registry(self._registry)
        return Use(lease, partial(lease.resource.told, name))


def _level(store: Store, level: str) -> dict[str, str]:
    """How fresh an answer has to be. Lite is always up to date."""
    return {"consistency_level": level} if store.server else {}
