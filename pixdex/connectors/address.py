"""Addresses: ``scheme://place?option=value#collection``, parsed into typed values.

Stores on disk: everything between ``://`` and ``?`` or ``#`` is a path, relative allowed, and
``#name`` is the collection (default ``main``). Servers: ``scheme://host:port/collection`` or
``scheme://host:port/database/collection``; a factory of theirs is marked with ``serves``. Secrets never
stand in an address: ``key_env=NAME`` names the environment variable that holds one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, get_type_hints
from urllib.parse import parse_qsl, unquote, urlsplit

from pixdex.errors import ConfigError, nearest

__all__ = ["DEFAULT_COLLECTION", "Address", "Server", "parse", "secret", "serves"]

DEFAULT_COLLECTION = "main"

_SHAPE = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+]*)://(?P<place>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<name>.*))?\Z", re.DOTALL
)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

Options = TypeVar("Options")
Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens, and the database on it, where it has several."""

    host: str
    port: int | None
    database: str | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. Its repr shows no user information and no option values that look secret."""

    scheme: str
    place: str
    collection: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The place as a path, ``~`` expanded.

        Raises:
            ConfigError: there is none.
        """
        if not self.place:
            raise ConfigError(
                f"{self.scheme}:// needs a path: {self.scheme}://photos.pix or {self.scheme}:///var/lib/photos"
            )
        return os.path.expanduser(self.place)  # noqa: PTH111 - leaves an unknown ~user as it is

    @property
    def server(self) -> Server:
        """The place as host, port and database; what follows in the path is the collection.

        Raises:
            ConfigError: no host, no such port, a longer path, or a secret.
        """
        return self._served()[0]

    def _served(self) -> tuple[Server, str | None]:
        example = f"{self.scheme}://localhost/photos"
        if "@" in self.place.split("/")[0]:
            raise ConfigError(
                f"{self}: a secret stands in the address; put it into an environment variable and name that with "
                "?key_env=NAME"
            )
        try:
            parts = urlsplit(f"//{self.place}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"{self}: {error}: write {example}") from None
        path = [unquote(part) for part in parts.path.split("/") if part]
        if not host or len(path) > 2:
            raise ConfigError(f"{self} names no server: write {example}")
        if self.collection is not None and len(path) > 1:
            raise ConfigError(f"{self} names two collections: {path[-1]!r} and {self.collection!r}")
        if self.collection is not None:
            return Server(host, port, path[0] if path else None), self.collection
        return Server(host, port, path[0] if len(path) > 1 else None), path[-1] if path else None

    def with_served_collection(self) -> Address:
        """For a server: the collection taken out of the place."""
        server, collection = self._served()
        host = f"[{server.host}]" if ":" in server.host else server.host
        place = host if server.port is None else f"{host}:{server.port}"
        place += f"/{server.database}" if server.database else ""
        return replace(self, place=place, collection=collection or DEFAULT_COLLECTION)

    def read_options(self, options: type[Options]) -> Options:
        """The query as the frozen dataclass ``options`` of str, int, float and bool fields.

        Raises:
            ConfigError: an unknown key (with the nearest match) or a value of the wrong type.
        """
        known = get_type_hints(options)
        for key in self.options:
            if key not in known:
                raise ConfigError(f"{self.scheme}:// has no option {key!r}{nearest(key, known)}")
        values = {key: _convert(key, value, known[key]) for key, value in self.options.items()}
        return options(**values)

    def __str__(self) -> str:
        query = "&".join(f"{k}={v if k.endswith('_env') else '...'}" for k, v in self.options.items())
        place = self.place.rpartition("@")[2] if "@" in self.place.split("/")[0] else self.place
        return f"{self.scheme}://{place}{'?' if query else ''}{query}{'#' if self.collection else ''}{self.collection or ''}"

    __repr__ = __str__


def serves(factory: Factory) -> Factory:
    """Marks a connector's factory as one of a server: the path of its address names database and collection."""
    factory.serves = True  # type: ignore[attr-defined]
    return factory


def secret(variable: str | None) -> str | None:
    """The secret in the environment variable of that name; None for None.

    Raises:
        ConfigError: the variable is not set.
    """
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"the address takes its key from the environment variable {variable}, which is not set")
    return value


def parse(url: str) -> Address:
    """The address that ``url`` spells. For servers the collection still stands in ``place``.

    Raises:
        ConfigError: not an address.
    """
    found = _SHAPE.match(url)
    if found is None:
        raise ConfigError(f"{url!r} is no address: write scheme://place, such as pq://photos.pix or memory://")
    collection = unquote(found["name"]) if found["name"] else None
    pairs = parse_qsl(found["query"] or "", keep_blank_values=True)
    return Address(found["scheme"], found["place"], collection, dict(pairs))


def _convert(key: str, text: str, kind: Any) -> Any:
    kinds = getattr(kind, "__args__", (kind,))  # ``int | None`` reads as int
    try:
        if bool in kinds:
            return _boolean(text)
        for number in (int, float):
            if number in kinds:
                return number(text)
    except ValueError:
        names = "/".join(k.__name__ for k in kinds if k is not type(None))
        raise ConfigError(f"option {key}={text!r} is no {names}") from None
    return text


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)
