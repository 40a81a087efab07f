"""A directory of Qdrant Edge shards, one a collection, and the file that says which is which.

::

    DIR/qdrant-edge.json   collections (Spec, shard), aliases; replaced as a whole, fsynced
    DIR/.lock              held while a process has the directory open
    DIR/<hex>/             a shard

A shard counts once the file names it: what a process that died left behind is removed at the next opening. A
directory that is a shard itself, made by another tool, is a shelf with one collection of any name.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import qdrant_edge as edge

from pixdex import errors
from pixdex.connectors._files import replace_file
from pixdex.connectors._qdrant_edge_models import Index, indexed
from pixdex.connectors._qdrant_errors import translated
from pixdex.connectors._qdrant_points import index_keys
from pixdex.connectors._shared import Share, Shared
from pixdex.connectors._specs import Specs
from pixdex.spec import Field, Spec

__all__ = ["CONFIG", "Shelf", "share"]

REGISTRY = "qdrant-edge.json"
CONFIG = "edge_config.json"
"""What a shard's directory holds."""
_LOCK = ".lock"
_VERSION = 1
_WORTH = 2000
"""Records changed, at the least, that make indexing worth its while."""


@dataclass(frozen=True, slots=True)
class _Contents:
    """What the registry says: collection -> (shard, Spec as text), alias -> collection."""

    collections: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        entries = {name: {"shard": shard, "spec": spec} for name, (shard, spec) in self.collections.items()}
        return orjson.dumps({"version": _VERSION, "collections": entries, "aliases": dict(self.aliases)})

    @classmethod
    def from_json(cls, path: Path) -> _Contents:
        try:
            found = orjson.loads(path.read_bytes())
            if found["version"] > _VERSION:
                raise errors.StoreFormat(f"{path.parent} was written by a newer pixdex: pip install -U pixdex")
            entries = {name: (str(e["shard"]), str(e["spec"])) for name, e in found["collections"].items()}
            return cls(entries, dict(found["aliases"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.StoreFormat(f"{path} is corrupt: {error!r}; restore it from a copy") from error


class Shelf:
    """The open directory. Changes of collections are made under the lock of the lease."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.foreign = (self.path / CONFIG).exists()
        self.specs = Specs(self._read_spec)
        self.registry: str | None = None
        self._lock = threading.Lock()
        self._shards: dict[str, Any] = {}
        self._changed: dict[str, int] = {}
        self._file: int | None = None
        self._contents = _Contents()
        if not self.foreign:
            self._open()

    def _open(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._file = _locked(self.path / _LOCK)
        try:
            if (self.path / REGISTRY).exists():
                self._contents = _Contents.from_json(self.path / REGISTRY)
            else:
                self._save(_Contents())
            self._tidy()
        except BaseException:
            os.close(self._file)
            raise

    def _tidy(self) -> None:
        """Remove what no collection names."""
        named = {shard for shard, _ in self._contents.collections.values()}
        for entry in self.path.iterdir():
            if entry.is_dir() and entry.name not in named and _is_ours(entry.name):
                shutil.rmtree(entry)

    def close(self) -> None:
        """Close the shards and let go of the directory."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()
        if self._file is not None:
            os.close(self._file)

    # --- which is which ---

    def names(self) -> list[str]:
        """The collections; that of a shard of another tool has the name that it is asked for by."""
        return sorted(self._contents.collections)

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        return dict(self._contents.aliases)

    def real(self, name: str) -> str:
        """The collection that a name or an alias stands for.

        Raises:
            NotFound: none.
        """
        if self.foreign:
            return ""
        found = self._contents.aliases.get(name, name)
        if found not in self._contents.collections:
            raise errors.NotFound(f"{self.path} has no collection {name!r}")
        return found

    def shard(self, name: str) -> Any:
        """The open shard of a collection or alias."""
        real = self.real(name)
        with self._lock:
            found = self._shards.get(real)
            if found is None:
                place = self.path if self.foreign else self.path / self._contents.collections[real][0]
                found = self._shards[real] = edge.EdgeShard.load(str(place))
            return found

    def use_registry(self, path: str | None) -> None:
        """Keep the Spec of another tool's shard in that file."""
        if path is None or path == self.registry:
            return
        if self.registry is not None:
            raise errors.ConfigError(f"{self.path} is open with another registry: {self.registry}")
        self.registry = path
        self.specs = Specs(self._read_spec, registry=path)

    def _read_spec(self, name: str, _timeout: float | None) -> Spec:
        if self.foreign:
            raise errors.StoreFormat(
                f"{self.path} is a shard that pixdex did not make: to search it as it is, use pixdex adopt"
            )
        return Spec.from_json(self._contents.collections[self.real(name)][1])

    # --- changes ---

    def create(self, name: str, spec: Spec, index: Index) -> None:
        """Make a shard, with its payload indexes before any data, and then name it."""
        if self.foreign:
            raise errors.Unsupported(f"{self.path} is a shard of another tool: give another directory")
        if name in self._contents.collections or name in self._contents.aliases:
            raise errors.AlreadyExists(f"{self.path} has a collection or alias {name!r} already")
        place = uuid.uuid4().hex
        (self.path / place).mkdir()
        shard = edge.EdgeShard.create(str(self.path / place), index.config(spec))
        try:
            add_indexes(shard, spec.columns)
            shard.flush()
            self._save(self._with(name, place, spec))
        except BaseException:
            shard.close()
            shutil.rmtree(self.path / place, ignore_errors=True)
            raise
        self._shards[name] = shard

    def keep(self, name: str, spec: Spec) -> None:
        """Replace the Spec of a collection."""
        real = self.real(name)
        self._save(self._with(real, self._contents.collections[real][0], spec))

    def drop(self, name: str) -> None:
        """Forget a collection and the aliases that point at it, then remove its shard."""
        if name not in self._contents.collections:
            return
        place = self._contents.collections[name][0]
        left = {key: entry for key, entry in self._contents.collections.items() if key != name}
        self._save(_Contents(left, {a: to for a, to in self._contents.aliases.items() if to != name}))
        with self._lock:
            shard = self._shards.pop(name, None)
        if shard is not None:
            shard.close()
        self._changed.pop(name, None)
        shutil.rmtree(self.path / place)

    def alias(self, alias: str, name: str | None) -> None:
        """Point an alias at a collection; None removes it."""
        if alias in self._contents.collections:
            raise errors.AlreadyExists(f"{alias!r} is a collection, so it cannot be an alias")
        others = {key: to for key, to in self._contents.aliases.items() if key != alias}
        if name is not None:
            if name not in self._contents.collections:
                raise errors.NotFound(f"{self.path} has no collection {name!r}")
            others[alias] = name
        self._save(replace(self._contents, aliases=others))

    def changed(self, name: str, records: int) -> None:
        """So many records were written: counts towards the next indexing."""
        real = self.real(name)
        self._changed[real] = self._changed.get(real, 0) + records

    def settle(self, name: str, *, optimize: bool) -> None:
        """Bring everything to disk, and index when a tenth of the records changed since it was done last."""
        real, shard = self.real(name), self.shard(name)
        shard.flush()
        changed = self._changed.get(real, 0)
        if optimize and not self.foreign and changed >= max(_WORTH, shard.info().points_count // 10):
            shard.optimize()
            self._changed[real] = 0

    def _with(self, name: str, place: str, spec: Spec) -> _Contents:
        return replace(self._contents, collections={**self._contents.collections, name: (place, spec.to_json())})

    def _save(self, contents: _Contents) -> None:
        if self.foreign:
            raise errors.Unsupported(f"{self.path} is a shard of another tool, which pixdex only reads")
        replace_file(self.path / REGISTRY, contents.to_json())
        self._contents = contents
        self.specs.forget()


def add_indexes(shard: Any, fields: tuple[Field, ...] | list[Field]) -> None:
    """Payload indexes of the columns."""
    for declared in fields:
        for key in index_keys(declared):
            shard.update(edge.UpdateOperation.create_field_index(key, indexed(declared)))


def _is_ours(name: str) -> bool:
    return len(name) == 32 and set(name) <= set("0123456789abcdef")


def _locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        message = f"another process has {path.parent} open: close it there, or run a Qdrant server"
        raise errors.StoreLocked(message) from error
    except BaseException:
        os.close(file)
        raise
    return file


def _found(path: str) -> bool:
    """Whether there is a shelf or a shard at ``path``; an empty directory is none yet."""
    place = Path(path)
    with translated(path):
        if place.is_file():
            raise errors.StoreFormat(f"{path} is a file, no Qdrant Edge directory")
        entries = {entry.name for entry in place.iterdir()} if place.is_dir() else set()
    if entries & {REGISTRY, CONFIG}:
        return True
    others = [name for name in entries if name != _LOCK and not name.startswith(REGISTRY)]
    if others:
        raise errors.StoreFormat(f"{path} exists and is no Qdrant Edge directory")
    return False


def _opened(path: str) -> Shelf:
    with translated(path):
        return Shelf(path)


_SHARED = Shared(_opened, Shelf.close)


def share(path: str) -> Share[Shelf]:
    """The share of this process in the directory at ``path``."""
    return Share(_SHARED, path, _found)
