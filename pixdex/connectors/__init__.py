"""Connectors: one store, one file, found by the scheme of an address.

A connector registers a factory ``(Address) -> Connector`` under its scheme in the entry-point group
``pixdex.connectors``; that of a server is marked with ``address.serves``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pixdex import _plugins
from pixdex.connectors.address import DEFAULT_COLLECTION, parse

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector

__all__ = ["available", "connect"]

GROUP = "pixdex.connectors"


def available() -> list[str]:
    """The schemes of the installed connectors, sorted."""
    return list(_plugins.installed(GROUP))


def connect(url: str) -> tuple[Connector, str]:
    """Open the store that ``url`` names, and the name of the collection in it.

    Raises:
        ConfigError: no such scheme or option.
        MissingDependency: the store's client is not installed.
        StoreError: the store cannot be opened.
    """
    address = parse(url)
    factory = _plugins.load(GROUP, "store", address.scheme)
    if getattr(factory, "serves", False):
        address = address.with_served_collection()
    connector: Connector = factory(address)
    return connector, address.collection or DEFAULT_COLLECTION
