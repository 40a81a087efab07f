"""An open Qdrant client, local or of a server, with what belongs to it: Specs, the server's version, time limits."""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import portalocker
from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import GrpcToRest

from pixdex import errors
from pixdex.connectors._qdrant_errors import told, translated
from pixdex.connectors._qdrant_models import Index
from pixdex.connectors._qdrant_points import index_keys
from pixdex.connectors._shared import Own, Share, Shared, holds_store
from pixdex.connectors._specs import Specs
from pixdex.connectors.address import Address, secret
from pixdex.spec import Spec

__all__ = [
    "ADDS_VECTORS",
    "KEEPS_SPECS",
    "METADATA",
    "NO_LIMIT",
    "Server",
    "Store",
    "local_share",
    "server_of",
    "server_share",
    "whole",
]

METADATA = "pixdex"
"""The key under which a collection's metadata hold its Spec."""

KEEPS_SPECS = (1, 16)
"""The first server that keeps metadata with a collection."""
ADDS_VECTORS = (1, 18)
"""The first server that adds a named vector to a live collection."""

NO_LIMIT = 7 * 24 * 3600
"""Seconds: the client takes none for five."""
_VERSION_LIMIT = 10
"""Seconds for the one call over gRPC that takes no limit: that for the version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a server is and how it is asked.

    Attributes:
        port: of REST; ``grpc_port`` of gRPC.
        grpc: records go by gRPC.
        key: the API key.
        registry: a file of Specs of collections that other tools made.
    """

    host: str
    port: int = 6333
    grpc_port: int = 6334
    tls: bool = False
    grpc: bool = False
    key: str | None = None
    registry: str | None = None
    index: Index = field(default_factory=Index)

    @property
    def place(self) -> str:
        """For messages: no secrets."""
        scheme = "qdrant+https" if self.tls else "qdrant"
        return f"{scheme}://{self.host}:{self.grpc_port if self.grpc else self.port}" + (" (gRPC)" if self.grpc else "")


@dataclass(frozen=True, slots=True)
class _Options:
    """Options of a server's address. Those from ``m`` on count when a collection is created: see ``Index``."""

    key_env: str | None = None
    grpc: bool = False
    grpc_port: int = 6334
    registry: str | None = None
    m: int | None = None
    ef_construct: int | None = None
    quantization: str | None = None
    on_disk: bool | None = None
    shards: int | None = None
    replicas: int | None = None


def server_of(address: Address) -> Server:
    """The server that an address names.

    Raises:
        ConfigError: no host, a database, an option that means nothing, or a key that is not set.
    """
    found, options = address.server, address.read_options(_Options)
    if found.database is not None:
        raise errors.ConfigError(
            f"{address}: Qdrant has no databases: write {address.scheme}://{found.host}/collection"
        )
    index = Index(**{option.name: getattr(options, option.name) for option in fields(Index)})
    index.settings()  # refuses what means nothing
    return Server(
        host=found.host,
        port=found.port or 6333,
        grpc_port=options.grpc_port,
        tls=address.scheme.endswith("+https"),
        grpc=options.grpc,
        key=secret(options.key_env),
        registry=options.registry,
        index=index,
    )


class Store:
    """A client, and the Specs of the collections behind it."""

    def __init__(self, client: QdrantClient, place: str, server: Server | None = None) -> None:
        self.client = client
        self.place = place
        self.server = server
        self.specs = Specs(self._read_spec, registry=server.registry if server else None)
        self._version: tuple[int, ...] | None = None
        self._unindexed: dict[str, bool] = {}
        self._limit = threading.local()
        if server is not None:
            client.http.client.add_middleware(self._limited)

    def close(self) -> None:
        """Close the client."""
        self.client.close()

    def versions(self) -> dict[str, str]:
        """Of the client, and of the server, where there is one."""
        found = {"qdrant-client": metadata.version("qdrant-client")}
        return found if self.server is None else {"Qdrant": self.client.info().version, **found}

    def told(self, error: Exception) -> errors.PixdexError | None:
        """What a call raised, as a pixdex error. One that may come of an old Spec makes the store forget it."""
        found = told(error, self.place)
        if isinstance(found or error, errors.FingerprintMismatch | errors.NotFound):
            self.specs.forget()
        return found

    # --- time ---

    def limit(self, seconds: float | None) -> None:
        """What each REST request of this thread may take from now on: the client knows whole seconds, and not for
        every call.
        """
        self._limit.seconds = seconds

    def server_limit(self, seconds: float | None) -> int | None:
        """The time limit to tell the client of, in a search: over REST ours suffices, and each parameter of an
        address costs 20 us.
        """
        return whole(seconds) if self._grpc else None

    def _limited(self, request: Any, send: Any) -> Any:
        seconds = getattr(self._limit, "seconds", None)
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
        return send(request)

    # --- what the client asks without a time limit ---

    def info(self, name: str, timeout: float | None) -> models.CollectionInfo:
        """A collection as the server describes it. Raises what the client raises."""
        if self._grpc:
            request = grpc.GetCollectionInfoRequest(collection_name=name)
            return GrpcToRest.convert_collection_info(
                self.client.grpc_collections.Get(request, timeout=_seconds(timeout)).result
            )
        return self.client.get_collection(name)

    def names(self, timeout: float | None) -> Sequence[str]:
        """The collections."""
        if self._grpc:
            answer = self.client.grpc_collections.List(grpc.ListCollectionsRequest(), timeout=_seconds(timeout))
            return [found.name for found in answer.collections]
        return [found.name for found in self.client.get_collections().collections]

    def aliases(self, timeout: float | None) -> Mapping[str, str]:
        """Alias -> collection."""
        if self._grpc:
            answer = self.client.grpc_collections.ListAliases(grpc.ListAliasesRequest(), timeout=_seconds(timeout))
            return {found.alias_name: found.collection_name for found in answer.aliases}
        return {found.alias_name: found.collection_name for found in self.client.get_aliases().aliases}

    @property
    def _grpc(self) -> bool:
        return self.server is not None and self.server.grpc

    # --- Specs ---

    def _read_spec(self, name: str, timeout: float | None) -> Spec:
        info = self.info(name, timeout)
        text = (info.config.metadata or {}).get(METADATA)
        if not text:
            self.require(KEEPS_SPECS, "keeping a collection's Spec")
            raise errors.StoreFormat(
                f"collection {name!r} was not made by pixdex: it has no Spec. To search it as it is, use pixdex adopt"
            )
        spec = Spec.from_json(text)
        if self.server is not None and spec.native:
            needed = {key for field in spec.columns for key in index_keys(field)}
            self._unindexed[name] = not needed <= (info.payload_schema or {}).keys()
        return spec

    def unindexed(self, name: str) -> bool:
        """Whether indexes were missing when the Spec was read last: whoever made the collection broke off."""
        return self._unindexed.get(name, False)

    def keep(self, name: str, spec: Spec | None, timeout: float | None) -> None:
        """Write a collection's Spec to its metadata, or to the registry file."""
        if self.specs.in_file and (spec is None or not spec.native):
            self.specs.register(name, spec)
            return
        # Metadata are merged, so that a key cannot be removed.
        kept = "" if spec is None else spec.to_json()
        self.client.update_collection(name, metadata={METADATA: kept}, timeout=whole(timeout))
        self.specs.forget()

    # --- versions ---

    def require(self, version: tuple[int, int], what: str) -> None:
        """Make sure that the server is as new.

        Raises:
            Unsupported: it is not; both versions are named.
        """
        if self.server is None:
            return
        if self._version is None:
            self._version = _numbers(self.client.info().version)
        if self._version < version:
            has = ".".join(map(str, self._version))
            raise errors.Unsupported(
                f"{self.place} is Qdrant {has}, and {what} needs {'.'.join(map(str, version))} or newer"
            )


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if found is None:  # a build of one's own
        return (999,)
    return tuple(int(part or 0) for part in found.groups())


def whole(timeout: float | None) -> int:
    """Seconds as the client takes them."""
    return NO_LIMIT if timeout is None else max(1, math.ceil(timeout))


def _seconds(timeout: float | None) -> float:
    return NO_LIMIT if timeout is None else timeout


# --- opening ----------------------------------------------------------------------------------------


def server_share(server: Server) -> Own[Store]:
    """A connection of its own to a server; nothing is sent before the first call."""
    with translated(server.place):
        return Own(server.place, Store(_connected(server), server.place, server), Store.close)


def _connected(server: Server) -> QdrantClient:
    with warnings.catch_warnings():
        if server.host in ("127.0.0.1", "localhost", "::1"):
            warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        return QdrantClient(
            host=f"[{server.host}]" if ":" in server.host else server.host,
            port=server.port,
            grpc_port=server.grpc_port,
            https=server.tls,
            prefer_grpc=server.grpc,
            api_key=server.key,
            timeout=_VERSION_LIMIT,
            grpc_options={"grpc.enable_retries": 0},  # Policy repeats calls
            check_compatibility=False,  # it warns from a thread; what is needed of a version is asked for
            cloud_inference=True,  # vectors come ready: no point is searched for texts to embed
        )


def _open_local(path: str) -> Store:
    _found(path)
    with translated(path):
        _probe_lock(Path(path) / ".lock")
        try:
            return Store(QdrantClient(path=path), path)
        except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise errors.StoreFormat(f"{path} is no Qdrant directory, or corrupt: {error}") from error


def _found(path: str) -> bool:
    """Whether a Qdrant directory is at ``path``; an empty one is none yet."""
    with translated(path):
        return holds_store(path, "meta.json", "Qdrant")


def _probe_lock(path: Path) -> None:
    """Fail before the client does: it would leave open files behind."""
    if path.exists():
        with path.open("r+") as file:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
            portalocker.unlock(file)


_LOCAL = Shared(_open_local, Store.close)


def local_share(path: str) -> Share[Store]:
    """The share of this process in the directory at ``path``."""
    return Share(_LOCAL, path, _found)
