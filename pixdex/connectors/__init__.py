"""Connectors: one store, one file, found by the scheme of an address.

A connector registers a factory ``(Address) -> Connector`` under its scheme in the entry-point group
``pixdex.connectors``; the built-in ones use the same door.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from pixdex.connectors.address import DEFAULT_COLLECTION, nearest, parse
from pixdex.errors import ConfigError

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector

__all__ = ["available", "connect"]

GROUP = "pixdex.connectors"


def available() -> dict[str, EntryPoint]:
    """Scheme -> entry point of every installed connector."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def connect(url: str) -> tuple[Connector, str]:
    """Open the store that ``url`` names, and the name of the collection in it.

    Raises:
        ConfigError: no such scheme or option.
        MissingDependency: the store's client is not installed.
        StoreError: the store cannot be opened.
    """
    address = parse(url)
    known = available()
    if address.scheme not in known:
        raise ConfigError(f"unknown store {address.scheme}://{nearest(address.scheme, list(known))}")
    connector: Connector = known[address.scheme].load()(address)
    return connector, address.collection or DEFAULT_COLLECTION
