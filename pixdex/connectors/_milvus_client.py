"""An open Milvus client, of Lite or of a server, with what belongs to it: Specs, layouts, the server's version."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from pixdex import errors
from pixdex.connectors._deadline import Deadline
from pixdex.connectors._milvus_errors import Quiet, not_loaded, told, translated
from pixdex.connectors._milvus_index import EXACT, Index
from pixdex.connectors._milvus_rows import Layout, Table, logical, physical
from pixdex.connectors._shared import Own, Share, Shared, holds_store
from pixdex.connectors._specs import Specs
from pixdex.connectors.address import Address, secret
from pixdex.spec import Spec
from pixdex.types import Batch

__all__ = ["PROPERTY", "Options", "Store", "lite_share", "once", "server_share"]

PROPERTY = "pixdex"
"""The key under which a collection's properties hold its Spec."""

OLDEST = (2, 3)
"""The first server with upsert, arrays and aliases as they are used here."""
NAMED_VECTORS = (2, 4)
"""The first server with more than one vector a collection."""

_CONNECT_LIMIT = 10
"""Seconds to connect in."""
_STEP = 0.02
"""Seconds between looks whether a collection is in memory."""
_VECTORS = frozenset(
    getattr(DataType, name)
    for name in (
        "FLOAT_VECTOR",
        "BINARY_VECTOR",
        "FLOAT16_VECTOR",
        "BFLOAT16_VECTOR",
        "SPARSE_FLOAT_VECTOR",
        "INT8_VECTOR",
    )
    if hasattr(DataType, name)
)


@dataclass(frozen=True, slots=True)
class Options:
    """Options of an address. Those from ``index`` on count when a collection is created: see ``Index``.

    Attributes:
        key_env: the environment variable that holds the token, such as ``user:password``.
        tls: the server speaks TLS; ``ca``: a PEM file of the authority that vouches for it.
        registry: a file of Specs of collections that other tools made.
    """

    key_env: str | None = None
    tls: bool = False
    ca: str | None = None
    registry: str | None = None
    index: str | None = None
    m: int = 16
    ef_construction: int = 200
    nlist: int = 128

    def chosen(self, default: str) -> Index:
        """The index; ``default`` where none is named.

        Raises:
            ConfigError: it means nothing.
        """
        kind = (self.index or default).upper()
        return Index(kind=kind, m=self.m, ef_construction=self.ef_construction, nlist=self.nlist)


class _Once(float):
    """Seconds that a call may take. The client repeats a failed call while ``elapsed >= seconds`` is false, whatever it
    is told of repeating; of these seconds that is never false. Repeating is for ``Policy``.
    """

    __hash__ = float.__hash__

    def __le__(self, _elapsed: float, /) -> bool:
        return True


@lru_cache(maxsize=64)
def once(timeout: float | None) -> Mapping[str, Any]:
    """Keywords of every call: how long it may take; the client repeats nothing."""
    seconds = None if timeout is None else _Once(timeout)
    return {"timeout": seconds, "retry_times": 0, "retry_on_rate_limit": False}


class Store:
    """A client, and what is known of the collections behind it."""

    def __init__(
        self,
        client: Any,
        place: str,
        *,
        version: tuple[int, ...] | None = None,
        registry: str | None = None,
        closer: Callable[[], None] | None = None,
    ) -> None:
        self.client = client
        self.place = place
        self.version = version
        self.server = version is not None
        """Whether it is a server; else Lite."""
        self.approximate = False
        """Whether a collection was seen whose index does not compare with every vector."""
        self._registry = registry
        self.specs = Specs(self._read_spec, registry=registry)
        self._layouts: dict[str, Layout] = {}
        self.following: tuple[tuple[str, str, str], list[str]] | None = None
        """What ``_milvus_pages`` knows of the pages that come next."""
        self._closer = closer

    def use_registry(self, path: str | None) -> None:
        """Keep Specs of other tools' collections in this file from now on; None leaves things as they are."""
        if path is not None and path != self._registry:
            self._registry, self.specs = path, Specs(self._read_spec, registry=path)
            self._layouts.clear()

    def versions(self) -> dict[str, str]:
        """Of the client, and of the server or of Lite."""
        name = "milvus-lite" if self.version is None else "Milvus"
        what = metadata.version(name) if self.version is None else ".".join(map(str, self.version))
        return {name: what, "pymilvus": metadata.version("pymilvus")}

    def close(self) -> None:
        """Close the client."""
        self.client.close()
        if self._closer is not None:
            self._closer()

    def told(self, name: str, error: Exception) -> errors.PixdexError | None:
        """What a call raised, as a pixdex error. One that may come of an old Spec makes the store forget it."""
        found = told(error, name, self.place)
        if isinstance(found or error, errors.FingerprintMismatch | errors.NotFound):
            self.forget()
        return found

    # --- what is known ---

    def current(self, name: str, timeout: float | None) -> Layout:
        """How records lie, asked of the store."""
        return self._layout(name, self.specs.read(name, timeout), timeout)

    def last(self, name: str, timeout: float | None) -> Layout:
        """How records lay when that was last asked."""
        return self._layouts.get(name) or self._layout(name, self.specs.last(name, timeout), timeout)

    def forget(self) -> None:
        """After whatever changes a Spec or an alias, and when a call by an old one failed."""
        self.specs.forget()
        self._layouts.clear()
        self.changed()

    def changed(self) -> None:
        """Records are about to be written or removed."""
        self.following = None

    def _layout(self, name: str, spec: Spec, timeout: float | None) -> Layout:
        known = self._layouts.get(name)
        if known is None or known.spec is not spec:
            known = self._layouts[name] = Layout(spec, self.table(name, timeout))
            self.approximate |= any(kind not in EXACT for kind in known.table.indexes.values())
        return known

    def described(self, name: str, timeout: float | None) -> dict[str, Any]:
        """What the store says of a collection."""
        found: dict[str, Any] = self.client.describe_collection(physical(name), **once(timeout))
        return found

    def _read_spec(self, name: str, timeout: float | None) -> Spec:
        found = self.described(name, timeout)
        text = (found.get("properties") or {}).get(PROPERTY)
        if not text:
            raise errors.StoreFormat(
                f"collection {name!r} was not made by pixdex: it has no Spec, `pixdex adopt` opens it"
            )
        return Spec.from_json(text)

    def aliases(self, timeout: float | None) -> dict[str, str]:
        """Alias -> collection."""
        names = self.client.list_aliases(**once(timeout))["aliases"]
        found = [self._described_alias(alias, timeout) for alias in names]
        return {logical(a["alias"]): logical(a["collection_name"]) for a in found if a is not None}

    def _described_alias(self, alias: str, timeout: float | None) -> dict[str, Any] | None:
        """What the store says of an alias; None where it was removed since it was listed."""
        try:
            with translated(place=self.place):
                found: dict[str, Any] = self.client.describe_alias(alias, **once(timeout))
        except errors.NotFound:
            return None
        return found

    def table(self, name: str, timeout: float | None) -> Table:
        """Columns and indexes of a collection."""
        found = self.described(name, timeout)
        indexes = dict.fromkeys((f["name"] for f in found["fields"] if f["type"] in _VECTORS), "")
        for index in self.client.list_indexes(physical(name), **once(timeout)):
            said = self.client.describe_index(physical(name), index, **once(timeout)) or {}
            column = said.get("field_name")
            if column in indexes:
                indexes[column] = said.get("index_type", "")
        scalars = [f["name"] for f in found["fields"] if f["name"] not in indexes and not f.get("is_primary")]
        return Table(indexes=indexes, scalars=tuple(scalars), dynamic=bool(found.get("enable_dynamic_field")))

    # --- calls ---

    def loaded(self, verb: str, name: str, timeout: float | None, arguments: Mapping[str, Any]) -> Any:
        """The answer of a call that needs the collection in memory, which it is not after it was made, or a restart."""
        started, call = time.monotonic(), getattr(self.client, verb)
        try:
            return call(physical(name), **arguments, **once(timeout))
        except MilvusException as error:
            if not not_loaded(error):
                raise
        deadline = Deadline(None if timeout is None else started + timeout)
        self.load(name, timeout)
        while str(self.client.get_load_state(physical(name), **once(timeout))["state"]) != "Loaded":
            deadline.check()
            time.sleep(_STEP)
        left = None if timeout is None else deadline.left(timeout)
        return call(physical(name), **arguments, **once(left))

    def query(self, name: str, timeout: float | None, arguments: Mapping[str, Any]) -> Any:
        """Rows, their vectors as arrays: those are read at once, where lists are made number by number."""
        return self.loaded("query", name, timeout, {**arguments, "strict_float32": True})

    def upsert(self, name: str, layout: Layout, batch: Batch, timeout: float | None) -> None:
        """Write records of ours. The client takes rows, and packs each of their cells by itself; columns, which take a third of
        that time, only what it calls itself does.
        """
        cells = layout.cells(batch)
        if not len(batch):
            return
        self.changed()
        try:
            write, context = self.client._get_connection().upsert, self.client._generate_call_context()  # noqa: SLF001
        except AttributeError:  # of another version
            plain = [[np.asarray(v) if isinstance(v, memoryview) else v for v in values] for values in cells.values()]
            rows = [dict(zip(cells, row, strict=True)) for row in zip(*plain, strict=True)]
            self.client.upsert(physical(name), rows, **once(timeout))
            return
        columns = [{"name": f["name"], "type": f["type"], "values": cells[f["name"]]} for f in layout.fields]
        write(physical(name), columns, schema={"fields": layout.fields}, context=context, **once(timeout))

    def count(self, name: str, matching: str, timeout: float | None, level: Mapping[str, str]) -> int:
        """How many rows an expression holds for, all for an empty one; ``level``: how fresh the answer has to be."""
        if matching and not self.server:  # Lite would hold all that matches, vectors too, to count it
            key = {"filter": matching, "output_fields": [self.last(name, timeout).key.column]}
            return len(self.loaded("query", name, timeout, key))
        counted = {"filter": matching, "output_fields": ["count(*)"], **level}
        return int(self.loaded("query", name, timeout, counted)[0]["count(*)"])

    def load(self, name: str, timeout: float | None) -> None:
        """Have the collection taken into memory; this does not wait until it is."""
        self.client.load_collection(physical(name), **once(timeout), **({"_async": True} if self.server else {}))


# --- Milvus Lite ---


def _open_lite(path: str) -> Store:
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    _found(path)
    with Quiet(), translated(place=path):
        # Started here, not by MilvusClient, which says no more than that it failed, and never stops it.
        server, database, port = start_server_in_thread(str(Path(path).resolve()))
        client = MilvusClient(uri=f"http://127.0.0.1:{port}")

    def stop() -> None:
        server.stop(grace=1).wait()  # at once when no call runs; without grace gRPC prints a line
        database.close()

    return Store(client, path, closer=stop)


def _found(path: str) -> bool:
    """Whether a Milvus Lite directory is at ``path``; an empty one is none yet."""
    with translated(place=path):
        return holds_store(path, "collections", "Milvus Lite 3")


_LITE = Shared(_open_lite, Store.close, Quiet)


def lite_share(path: str) -> Share[Store]:
    """A share of the Milvus Lite directory at ``path``."""
    return Share(_LITE, path, _found)


# --- a server ---


def server_share(address: Address, options: Options) -> Own[Store]:
    """A connection of its own to a server, made at once, since its version says what it can do.

    Raises:
        Unsupported: the server is too old.
    """
    found = address.server
    host = f"[{found.host}]" if ":" in found.host else found.host
    place = f"milvus://{host}:{found.port or 19530}" + (f"/{found.database}" if found.database else "")
    with Quiet(), translated(place=place):
        client = _connected(f"{host}:{found.port or 19530}", found.database, options)
        version = _version(client.get_server_version(**once(_CONNECT_LIMIT)))
    if version < OLDEST:
        client.close()
        raise errors.Unsupported(
            f"{place} is Milvus {'.'.join(map(str, version))}; pixdex needs {'.'.join(map(str, OLDEST))} or newer"
        )
    return Own(place, Store(client, place, version=version, registry=options.registry), Store.close, Quiet())


def _connected(authority: str, database: str | None, options: Options) -> Any:
    if options.ca is not None and not Path(options.ca).expanduser().is_file():
        raise errors.ConfigError(f"option ca={options.ca!r}: there is no such file")
    secure = options.tls or options.ca is not None
    tls: dict[str, Any] = {"secure": True} if secure else {}
    if options.ca is not None:
        tls["server_pem_path"] = str(Path(options.ca).expanduser())
    return MilvusClient(
        uri=f"{'https' if secure else 'http'}://{authority}",
        token=secret(options.key_env) or "",
        db_name=database or "",
        timeout=_CONNECT_LIMIT,
        dedicated=True,
        **tls,
    )


def _version(text: str) -> tuple[int, ...]:
    """``v2.3.5-lite`` as ``(2, 3, 5)``."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)
