"""What the client does to a whole collection: making and altering one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

from qdrant_client import models

from pixdex import errors
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._qdrant_client import ADDS_VECTORS, KEEPS_SPECS, METADATA, NO_LIMIT, Store, whole
from pixdex.connectors._qdrant_errors import translated
from pixdex.connectors._qdrant_models import CLIENT, INDEXES, Index, params, strict_mode
from pixdex.connectors._qdrant_points import columns, index_keys, payload_of
from pixdex.spec import REV, Field, Spec, Vector

__all__ = ["alter", "create", "index", "move_alias"]

_STORED = {"float16": models.VectorStorageDatatype.FLOAT16}
_SKEW = 60 * 10**6
"""Microseconds that writers' clocks may be apart."""


def create(store: Store, name: str, spec: Spec, timeout: float | None) -> None:
    """An empty collection. A filter on a key without an index, which is one of a stale handle, fails there."""
    store.require(KEEPS_SPECS, "keeping a collection's Spec")
    if name in store.aliases(timeout):
        raise errors.AlreadyExists(f"{name!r} is an alias")
    chosen = store.server.index if store.server else Index()
    store.client.create_collection(
        name,
        vectors_config={vector.column: params(vector, on_disk=chosen.on_disk) for vector in spec.vectors},
        metadata={METADATA: spec.to_json()},
        strict_mode_config=strict_mode(),
        timeout=whole(timeout),
        **chosen.settings(),
    )
    store.specs.forget()
    index(store, name, spec.columns, timeout)


def alter(store: Store, name: str, spec: Spec, timeout: float | None, *, page: int) -> None:
    """More vectors and fields; records get the new columns, ``page`` at a time."""
    deadline, started = Deadline.after(timeout), time.time_ns() // 1000
    old = store.specs.read(name, timeout)
    fields = [field for field in spec.fields if field not in old.fields] if spec.native else []
    for vector in spec.vectors:
        if vector not in old.vectors:
            _add_vector(store, name, vector, timeout)
    if fields:
        index(store, name, fields, timeout)
        _back_fill(store, name, fields, deadline, page)
    # Late, so that an alter that failed half-way is done again.
    store.keep(name, spec, timeout)
    if fields:  # once more those that a writer wrote meanwhile who had read the old Spec
        _back_fill(store, name, fields, deadline, page, since=started - _SKEW)


def move_alias(store: Store, alias: str, name: str | None, timeout: float | None) -> None:
    """Point an alias at a collection, in one step; None removes it."""
    if alias in store.names(timeout):
        raise errors.AlreadyExists(f"{alias!r} is a collection, so it cannot be an alias")
    steps: list[Any] = []
    if alias in store.aliases(timeout):
        steps.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
    if name is not None:
        target = models.CreateAlias(collection_name=name, alias_name=alias)
        steps.append(models.CreateAliasOperation(create_alias=target))
    if steps:
        store.client.update_collection_aliases(steps, timeout=whole(timeout))
        store.specs.forget()


def _add_vector(store: Store, name: str, vector: Vector, timeout: float | None) -> None:
    """A place for one more named vector; one that is there already, from a call that broke off, stays."""
    store.require(ADDS_VECTORS, "adding a vector to a live collection")
    described = params(vector)
    dense = models.DenseVectorConfig(
        size=described.size, distance=described.distance, datatype=_STORED.get(vector.dtype)
    )
    config = models.DenseVectorNameConfig(dense=dense)
    try:
        with translated(store.place):
            store.client.create_vector_name(name, vector.column, config, timeout=whole(timeout))
    except errors.AlreadyExists:
        pass


def index(store: Store, name: str, fields: Sequence[Field], timeout: float | None) -> None:
    """Payload indexes of columns; those that are there already stay."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Payload indexes have no effect in the local Qdrant")
        for field in fields:
            for key in index_keys(field):
                store.client.create_payload_index(name, key, INDEXES[field.kind], timeout=whole(timeout))


def _back_fill(
    store: Store, name: str, fields: Sequence[Field], deadline: Deadline, page: int, *, since: int | None = None
) -> None:
    newer = None if since is None else CLIENT.filter(must=[CLIENT.between(REV.column, since, None)])
    after: Any = None
    while True:
        limit = whole(deadline.left(NO_LIMIT))
        read, after = store.client.scroll(name, newer, page, offset=after, with_payload=["payload"], timeout=limit)
        steps: list[Any] = []
        for found in read:
            values = columns(payload_of((found.payload or {})["payload"]), fields)
            if values:
                change = models.SetPayload(payload=values, points=[found.id])
                steps.append(models.SetPayloadOperation(set_payload=change))
        if steps:
            store.client.batch_update_points(name, steps, timeout=limit)
        if after is None:
            return
        deadline.check()
