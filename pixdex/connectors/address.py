"""Addresses: ``scheme://place?option=value#collection``, parsed into typed values.

Stores on disk: everything between ``://`` and ``?`` or ``#`` is a path, relative allowed, and
``#name`` is the collection (default ``main``). Servers: ``scheme://host:port/collection`` or
``scheme://host:port/database/collection``. Secrets never stand in an address: ``key_env=NAME`` names
the environment variable that holds one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints
from urllib.parse import parse_qsl, unquote

from pixdex._names import check_collection
from pixdex.errors import ConfigError, nearest

__all__ = ["DEFAULT_COLLECTION", "Address", "parse"]

DEFAULT_COLLECTION = "main"

_SHAPE = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+]*)://(?P<place>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<name>.*))?\Z", re.DOTALL
)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

Options = TypeVar("Options")


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


def parse(url: str) -> Address:
    """The address that ``url`` spells. For servers the collection still stands in ``place``.

    Raises:
        ConfigError: not an address, or a collection name with characters that stores refuse.
    """
    found = _SHAPE.match(url)
    if found is None:
        raise ConfigError(f"{url!r} is no address: write scheme://place, such as pq://photos.pix or memory://")
    collection = unquote(found["name"]) if found["name"] else None
    if collection is not None:
        check_collection(collection)
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
        raise ConfigError(f"option {key}={text!r} is no {'/'.join(k.__name__ for k in kinds)}") from None
    return text


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)
