"""While a reindexing still brings records to a collection that is in use already: from which one, and what deleting means then.

A record may lie in both, of two revisions: what it says is what the newer one says. What is deleted here alone would be brought
again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pixdex._altering import respecify
from pixdex.errors import NotFound
from pixdex.policy import Call

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.filters import Filter

__all__ = ["delete_there", "feed", "feeding"]


def feeding(collection: Collection) -> Collection | None:
    """The collection from which a reindexing still brings records to this one, as the store knows it now. None where no alias names
    this one: then the other one is in use, or is again, and what becomes of this one is no matter of its.
    """
    if not collection.capabilities.alias:
        return None
    now = _opened(collection, collection.name)
    name = now.spec.fed_from
    if name is None:
        return None
    aliases = collection.policy.run(Call("aliases", now.name), lambda t: collection.connector.aliases(timeout=t))
    if aliases.get(now.name, now.name) not in aliases.values():
        return None
    with suppress(NotFound):
        if name not in aliases:
            return _opened(collection, name)
    # Dropped: nothing comes from there any more, nor is another one meant that is called so later.
    feed(now, None)
    return None


def feed(collection: Collection, name: str | None) -> None:
    """Say in the Spec from which collection records are still brought to this one; None: from none any more."""
    respecify(collection, lambda spec: replace(spec, fed_from=name), lambda spec: spec.fed_from == name)


def delete_there(source: Collection, collection: Collection, where: Filter) -> None:
    """Remove from ``source``, which feeds ``collection``, what matches in that: by id, as it may be another revision in the one that
    comes, without the field that is asked for. What is newer in ``source`` stays: it is what the record says.
    """
    for page in collection.scan(where=where):
        found = source.fetch(page.batch.ids)
        there = dict(zip(found.ids, found.revs or (), strict=True))
        pairs = zip(page.batch.ids, page.batch.revs or (), strict=True)
        source._delete([i for i, rev in pairs if i in there and there[i] <= rev])  # noqa: SLF001 - from that one alone


def _opened(collection: Collection, name: str) -> Collection:
    return type(collection).open(collection.connector, name, policy=collection.policy)
