"""What an index is, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pixdex.collection import Collection
from pixdex.fields import IMAGE, TEXT, spelled

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector

__all__ = ["Info", "describe", "of_collection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What an index is, for people: the store, the collection, its encoder, fields and size; of which field captions are, and
    which encoder makes vectors of them.
    """

    store: str
    collection: str
    count: int
    encoder: str
    fingerprint: str
    dim: int
    metric: str
    fields: Mapping[str, str]
    tokens: str | None
    sources: Mapping[str, str]
    captions: str | None = None


def describe(connector: Connector, name: str) -> Info:
    """What a collection is, without loading its encoder.

    Raises:
        NotFound: there is none of that name.
    """
    return of_collection(Collection.open(connector, name))


def of_collection(collection: Collection) -> Info:
    """What an open collection is."""
    spec = collection.spec
    vector = next((v for v in spec.vectors if v.name == IMAGE), spec.vectors[0])
    text = next((v for v in spec.vectors if v.name == TEXT and v.embeds is not None), None)
    return Info(
        store=collection.connector.scheme,
        collection=collection.name,
        count=collection.count(),
        encoder=spec.encoder or vector.fingerprint.encoder,
        fingerprint=vector.fingerprint.digest,
        dim=vector.dim,
        metric=vector.metric,
        fields={f.name: spelled(f) for f in spec.fields},
        tokens=None if spec.tokens is None else f"{spec.tokens.count} x {spec.tokens.dim} {spec.tokens.dtype}",
        sources={s.name: s.root for s in spec.sources},
        captions=None if text is None else f"{text.embeds}, by {text.encoder or text.fingerprint.encoder}",
    )
