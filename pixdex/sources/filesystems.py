"""Pictures on the file systems that fsspec knows: ``s3://``, ``gs://``, ``az://`` and many more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pixdex.errors import ConfigError, InvalidImage, MissingDependency
from pixdex.pictures import Item, Readable, Refused, path_id, picture_name, place_of, shown
from pixdex.sources.port import Options, Origin, Plain
from pixdex.spec import Spec

__all__ = ["Tree", "file_at"]


@dataclass(frozen=True, slots=True)
class Tree(Plain):
    """What lies under an address: a folder with all below it, or one file. Ids are ``<its last part>/<path below>``.

    Accounts come from where the package behind the scheme looks for them: environment, configuration files.
    """

    address: str
    options: Options

    @property
    def origin(self) -> Origin:
        place = self.address.rstrip("/")
        system, path = _opened(self.address)
        if system.isfile(path):
            place = place.rpartition("/")[0]
        name = self.options.source or place.rpartition("/")[2] or place.partition(":")[0]
        if "/" in name:
            raise ConfigError(f"source {name!r}: a name without '/', or ids of two sources could be the same")
        return Origin(name, place)

    @property
    def single(self) -> bool:
        system, path = _opened(self.address)
        return bool(system.isfile(path))

    def check(self) -> None:
        system, path = _opened(self.address)
        try:
            there = system.exists(path)
        except Exception as error:  # any package raises its own
            raise ConfigError(f"{self.address} cannot be listed: {_said(error)}") from error
        if not there:
            raise ConfigError(f"{self.address} does not exist")
        if not any(self._items("")):
            raise ConfigError(f"no pictures in {self.address}")

    def items(self, spec: Spec) -> Iterator[Item | None]:
        del spec
        return self._items(self.origin.name)

    def _items(self, source: str) -> Iterator[Item | None]:
        system, path = _opened(self.address)
        limit = self.options.max_bytes
        if system.isfile(path):
            yield _item(system, path, path_id(source, path.rpartition("/")[2]), system.info(path), limit)
            return
        base = path.rstrip("/") + "/"
        for file, facts in _files(system, path):
            if isinstance(facts, Refused):
                yield Item(None, facts)
            elif picture_name(file):
                yield _item(system, file, path_id(source, file.removeprefix(base)), facts, limit)
            else:
                yield None


def _files(system: Any, root: str) -> Iterator[tuple[str, dict[str, Any] | Refused]]:
    """Every file below a folder and what is known of it, in the order of their paths; folders that cannot be listed."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(system.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
        except Exception as error:  # noqa: BLE001 - any package raises its own
            yield folder, Refused(shown(system.unstrip_protocol(folder)), f"cannot be listed: {_said(error)}")
            continue
        own = folder.rstrip("/")
        below = [(str(entry["name"]).rstrip("/"), entry) for entry in entries]
        waiting.extend(name for name, entry in reversed(below) if entry["type"] == "directory" and name != own)
        yield from ((name, entry) for name, entry in below if entry["type"] != "directory")


def file_at(address: str, limit: int) -> Readable:
    """The picture at an address, of ``limit`` bytes at most.

    Raises:
        MissingDependency: fsspec is not installed.
        ConfigError: the package behind the scheme is not installed, or there is no such scheme.
    """
    system, path = _opened(address)
    return _File(system, path, shown(address), limit)


def _item(system: Any, path: str, record: str, facts: dict[str, Any], limit: int) -> Item:
    address = shown(system.unstrip_protocol(path))
    payload = place_of(address)
    size = facts.get("size") or 0
    if size > limit:
        return Item(record, Refused(address, f"{size} bytes, the limit is {limit}"), payload)
    return Item(record, _File(system, path, address, limit), payload)


@dataclass(frozen=True, slots=True)
class _File:
    system: Any
    path: str
    label: str
    limit: int

    def read(self) -> bytes:
        try:
            data: bytes = self.system.cat_file(self.path, start=0, end=self.limit + 1)
        except Exception as error:  # any package raises its own
            raise InvalidImage(f"cannot be read: {_said(error)}") from error
        if len(data) > self.limit:
            raise InvalidImage(f"more than {self.limit} bytes, the limit")
        return data


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address, which fsspec keeps for the next time, and the path on it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingDependency("fsspec", "fsspec") from None
    if "::" in address:
        raise ConfigError(f"{address}: one address within another is not followed")
    try:
        system, path = url_to_fs(address)
    except (ImportError, ValueError) as error:  # the package of the scheme is missing; there is no such scheme
        raise ConfigError(f"{address}: {error}") from error
    return system, str(path)


def _said(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or directory"
    return " ".join(str(error).split()) or type(error).__name__
