"""Where a reindexing works: an open store, the name that an address says in it, and what is remembered of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pixdex._passes import existing
from pixdex._reindex_job import Flips
from pixdex._state import job_file, normal
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.errors import Unsupported
from pixdex.fields import IMAGE

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector
    from pixdex.policy import Policy

__all__ = ["Place", "Store", "collection_of", "no_alias", "opened_store"]


@dataclass(frozen=True, slots=True)
class Place:
    """A store, what its collections are called, and what of it is remembered."""

    connector: Connector
    alias: str | None
    flips: Flips
    policy: Policy | None

    def names(self, name: str) -> str:
        """The collection that a name stands for."""
        return self.aliases().get(name, name)

    def aliases(self) -> dict[str, str]:
        """What each alias names."""
        return dict(self.connector.aliases(timeout=None)) if self.connector.capabilities.alias else {}

    def existing(self, name: str) -> Collection | None:
        """The collection of that name, if there is one."""
        return existing(self.connector, name, self.policy)


@dataclass(frozen=True, slots=True)
class Store:
    """An open store, and the name in it that an address says."""

    place: Place
    name: str
    where: str

    def address(self, name: str) -> str:
        """That of a collection, without secrets, for what is remembered."""
        return f"{self.where}#{name}"


@contextmanager
def opened_store(url: str, policy: Policy | None) -> Iterator[Store]:
    """The store at an address; leaving it closes it."""
    where = normal(url).rpartition("#")[0]
    connector, name = connect(url)
    try:
        flips = Flips(job_file("flips", f"{where}#{name}"))
        yield Store(Place(connector, None, flips, policy), name, where)
    finally:
        connector.close()


def collection_of(store: Store) -> Collection:
    """The collection, by its own name: an alias may name another one before all is done."""
    collection = Collection.open(store.place.connector, store.place.names(store.name), policy=store.place.policy)
    if not collection.spec.native:
        raise Unsupported(
            f"collection {collection.name!r} was made by another tool: give its records a vector of the new encoder with pixdex attach"
        )
    if all(vector.name != IMAGE for vector in collection.spec.vectors):
        raise Unsupported(
            f"collection {collection.name!r} has no vector {IMAGE!r}, so that no encoder of pictures made it"
        )
    return collection


def no_alias(store: Store) -> str:
    """What to do about a name that is a collection's own."""
    if not store.place.connector.capabilities.alias:
        return f"{store.place.connector.scheme} has no aliases to switch: make the new collection with --no-switch, and open it"
    return (
        f"{store.name!r} is a collection, and only an alias can be switched. Give it one (pixdex alias URL NAME), have everybody open "
        f"it by that, and reindex there; or make the new collection with --no-switch"
    )
