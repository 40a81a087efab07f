"""Milvus. Today Milvus Lite: ``milvus+lite://photos.db#name``, one process a path, exact search.

The Spec lies, as text, in the collection's properties; ``_milvus_rows`` says how a record lies. ``Milvus``
holds a share of a server and knows nothing of how that is opened; ``connect`` says how.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixdex import errors
from pixdex.connectors._milvus_filters import OPERATORS, after, ids_in, to_expression
from pixdex.connectors._rows import current, to_batch, to_hit, wanted
from pixdex.connectors._shared import Share, Shared, holds_store
from pixdex.connectors.address import Address
from pixdex.connectors.port import Capabilities
from pixdex.errors import MissingDependency
from pixdex.filters import Filter
from pixdex.types import (
    Batch,
    Hit,
    Metric,
    Page,
    Scan,
    Search,
    Spec,
    Want,
)

# Else gRPC prints, as information, that a server said goodbye. It reads this when it is imported first.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

try:
    from milvus_lite.adapter.grpc.server import start_server_in_thread
    from pymilvus import MilvusClient, MilvusException

    from pixdex.connectors._milvus_errors import NOT_LOADED, quiet, translated
    from pixdex.connectors._milvus_rows import (
        MAX_TOKEN_BYTES,
        MAX_VARCHAR,
        columns,
        logical,
        physical,
        present,
        row,
        rows,
        schema,
    )
except ImportError as error:
    raise MissingDependency("pymilvus", "milvus") from error

__all__ = ["Milvus", "connect"]

LITE = Capabilities(
    operators=OPERATORS,
    alter=False,  # Lite cannot add a field to a collection
    max_payload_bytes=MAX_VARCHAR,
    max_token_bytes=MAX_TOKEN_BYTES,
)

_PROPERTY = "pixdex"
_METRICS = {Metric.COSINE: "COSINE", Metric.DOT: "IP", Metric.L2: "L2"}


@dataclass(frozen=True, slots=True)
class _LiteOptions:
    """There are none."""


@dataclass(frozen=True, slots=True)
class _Lite:
    """Milvus Lite: a server in threads of this process, its database, a client of it."""

    server: Any
    database: Any
    client: Any

    def close(self) -> None:
        self.client.close()
        self.server.stop(grace=1).wait()  # at once when no call runs; without grace gRPC prints a line
        self.database.close()


def connect(address: Address) -> Milvus:
    """Open the Milvus Lite directory that ``address`` names; where there is none, ``create`` makes it.

    Raises:
        ConfigError: no path, or an option (there are none).
        StoreLocked: another process has it open.
        StoreFormat: there is something else at the path.
    """
    address.read_options(_LiteOptions)
    return Milvus(Share(_LITE, address.path, _found), scheme="milvus+lite", capabilities=LITE)


def _open_lite(path: str) -> _Lite:
    _found(path)
    with quiet(), translated():
        # Started here, not by MilvusClient, which says no more than that it failed, and never stops it.
        server, database, port = start_server_in_thread(str(Path(path).resolve()))
        return _Lite(server, database, MilvusClient(uri=f"http://127.0.0.1:{port}"))


def _found(path: str) -> bool:
    """Whether a Milvus Lite directory is at ``path``; an empty one is none yet."""
    with translated():
        return holds_store(path, "collections", "Milvus Lite 3")


_LITE = Shared(_open_lite, _Lite.close)


class Milvus:
    """A connector around a share of a server. The verbs are documented in ``port``.

    The server is leased once there is a store; ``close``, or the exit, gives it back.
    """

    def __init__(self, share: Share[_Lite], *, scheme: str, capabilities: Capabilities) -> None:
        self.scheme = scheme
        self.capabilities = capabilities
        self._share = share
        self._release = weakref.finalize(self, share.close)

    # --- collections ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        indexes = MilvusClient.prepare_index_params()
        for vector in spec.vectors:
            indexes.add_index(vector.column, index_type="FLAT", metric_type=_METRICS[vector.metric])
        collection = physical(name)
        with self._calling(name, make=True) as client:
            client.create_collection(
                collection, schema=schema(spec), properties={_PROPERTY: spec.to_json()}, **_once(timeout)
            )
            # Nothing to wait for, as the collection is empty: the client would poll every half second.
            client.create_index(collection, indexes, sync=False, **_once(timeout))
            client.load_collection(collection, **_once(timeout))

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        with self._calling(name) as client:
            found = client.describe_collection(physical(name), **_once(timeout))
        if _PROPERTY not in found["properties"]:
            raise errors.StoreFormat(f"collection {name!r} was not made by pixdex: it has no Spec")
        return Spec.from_json(found["properties"][_PROPERTY])

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        old = self.describe(name, timeout=timeout)
        if (spec.fields, spec.vectors, spec.tokens) != (old.fields, old.vectors, old.tokens):
            raise errors.Unsupported(
                f"{self.scheme} cannot add fields or vectors to collection {name!r}: "
                "create a collection that has them and copy the records"
            )
        with self._calling(name) as client:
            properties = {_PROPERTY: spec.to_json()}
            client.alter_collection_properties(physical(name), properties=properties, **_once(timeout))

    def drop(self, name: str, *, timeout: float | None) -> None:
        if name in self.names(timeout=timeout):  # else it may be an alias, which would drop its target
            with self._calling(name) as client:
                client.drop_collection(physical(name), **_once(timeout))

    def names(self, *, timeout: float | None) -> Sequence[str]:
        if self._share.lease() is None:
            return []
        with self._calling() as client:
            return sorted(map(logical, client.list_collections(**_once(timeout))))

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        names, known = self.names(timeout=timeout), self.aliases(timeout=timeout)
        if alias in names:
            raise errors.AlreadyExists(f"{alias!r} is a collection, so it cannot be an alias")
        if name is not None and name not in names:
            raise errors.NotFound(f"no collection {name!r}")
        if name is not None:
            with self._calling(alias) as client:
                point = client.alter_alias if alias in known else client.create_alias
                point(physical(name), physical(alias), **_once(timeout))
        elif alias in known:
            with self._calling(alias) as client:
                client.drop_alias(physical(alias), **_once(timeout))

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        if self._share.lease() is None:
            return {}
        with self._calling() as client:
            found = [client.describe_alias(a, **_once(timeout)) for a in client.list_aliases()["aliases"]]
        return {logical(alias["alias"]): logical(alias["collection_name"]) for alias in found}

    # --- writes ---

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        with self._calling(name) as client:  # from the Spec on, as an alias may be switched
            spec = self.describe(name, timeout=timeout)
            for column in batch.vectors:
                spec.physical(column)
            if len(batch):
                client.upsert(physical(name), rows(batch, spec), **_once(timeout))

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        self.describe(name, timeout=timeout)  # an empty list must not hide that there is no collection
        if ids:
            with self._calling(name) as client:
                client.delete(physical(name), filter=ids_in(ids), **_once(timeout))

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        with self._calling(name):
            matching = to_expression(current(where, self.describe(name, timeout=timeout)))
            self._loaded(name, "delete", timeout, filter=matching)

    def flush(self, name: str, *, timeout: float | None) -> None:
        self.describe(name, timeout=timeout)  # Lite flushes what does not exist
        with self._calling(name) as client:
            client.flush(physical(name), **_once(timeout))

    # --- reads ---

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        with self._calling(name):
            spec = self.describe(name, timeout=timeout)
            vectors = wanted(spec, want)
            read = []
            if ids:
                asked = columns(spec, vectors, want)
                read = self._loaded(name, "query", timeout, filter=ids_in(ids), output_fields=asked)
        return to_batch([row(cells["id"], cells, spec, vectors) for cells in read], vectors, want)

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        with self._calling(name):
            spec = self.describe(name, timeout=timeout)
            vector, vectors = spec.physical(request.using), wanted(spec, request.want)
            matching = to_expression(current(request.where, spec))
            answers = self._loaded(
                name,
                "search",
                timeout,
                data=request.queries.tolist(),
                anns_field=request.using,
                search_params={"metric_type": _METRICS[vector.metric]},
                filter=f"{present(spec, vector)} == true and {matching}",
                limit=request.k,
                output_fields=columns(spec, vectors, request.want),
            )
        sign = -1.0 if vector.metric is Metric.L2 else 1.0  # a squared distance, or a similarity by that name
        return [
            [to_hit(row(hit["id"], hit["entity"], spec, vectors), sign * hit["distance"]) for hit in answer]
            for answer in answers
        ]

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        tests = [] if request.after is None else [after(request.after)]
        with self._calling(name):
            spec = self.describe(name, timeout=timeout)
            vectors = wanted(spec, request.want)
            read = self._loaded(
                name,
                "query",
                timeout,
                filter=" and ".join([*tests, to_expression(current(request.where, spec))]),
                limit=request.size,
                output_fields=columns(spec, vectors, request.want),
                iterator="True",  # in the order of ids
            )
        batch = to_batch([row(cells["id"], cells, spec, vectors) for cells in read], vectors, request.want)
        return Page(batch, batch.ids[-1] if len(batch) == request.size else None)

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        matching = ""  # without a filter Lite reads no rows
        with self._calling(name):
            if where is not None:
                matching = to_expression(current(where, self.describe(name, timeout=timeout)))
            answer = self._loaded(name, "query", timeout, filter=matching, output_fields=["count(*)"])
        return int(answer[0]["count(*)"])

    def close(self) -> None:
        self._release()

    # --- helpers ---

    @contextmanager
    def _calling(self, name: str = "", *, make: bool = False) -> Iterator[Any]:
        lease = self._share.lease(make=make)
        if lease is None:
            raise errors.NotFound(f"there is no Milvus Lite directory at {self._share.path} yet")
        with lease.lock, quiet(), translated(name):
            yield lease.resource.client

    def _loaded(self, name: str, verb: str, timeout: float | None, **arguments: Any) -> Any:
        """The answer of a call that needs the collection in memory, which it is not after a restart."""
        with self._calling(name) as client:
            call = getattr(client, verb)
            try:
                return call(physical(name), **arguments, **_once(timeout))
            except MilvusException as error:
                if error.code != NOT_LOADED:
                    raise
                client.load_collection(physical(name), **_once(timeout))
                return call(physical(name), **arguments, **_once(timeout))


def _once(timeout: float | None) -> dict[str, Any]:
    """Keywords of every call: how long it may take; the client repeats nothing."""
    return {"timeout": timeout, "retry_times": 0, "retry_on_rate_limit": False}
