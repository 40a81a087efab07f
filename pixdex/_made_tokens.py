"""Tokens of records that keep none, made of their pictures again; and where these pictures lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixdex._encoding import Encoding
from pixdex.errors import InvalidImage
from pixdex.fields import CONTENT, IMAGE
from pixdex.pictures import Item, content_hash, shown
from pixdex.report import Tally

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.encoders.decoding import Decoding
    from pixdex.encoders.port import Encoder
    from pixdex.types import Payload

__all__ = ["picture_of", "roots_of", "tokens_from_pictures"]


def tokens_from_pictures(
    records: Mapping[str, Payload | None], collection: Collection, encoder: Encoder, decoding: Decoding
) -> dict[str, NDArray[Any]]:
    """The tokens of those records, id to payload, whose picture is where the payload or the source of its id says, with the
    content that the payload says; decoded and encoded as ``add`` does it, in one go. The others are left out.
    """
    if encoder.token_spec is None:
        return {}
    roots = roots_of(collection)
    items = [
        Item(record, found)
        for record, payload in records.items()
        if payload and (found := _picture(record, payload, roots, decoding)) is not None
    ]
    if not items:
        return {}
    with Encoding(encoder, IMAGE, tokens=True, decoding=decoding) as encoding:
        batch = encoding.batch(items, Tally())
    made = zip(batch.ids, batch.tokens or (None,) * len(batch), strict=True)
    return {record: matrix for record, matrix in made if matrix is not None}


def roots_of(collection: Collection) -> dict[str, Path]:
    """Where the sources of ids lay, by name."""
    return {source.name: Path(source.root) for source in collection.spec.sources}


def picture_of(record: str, payload: Payload, roots: Mapping[str, Path], decoding: Decoding) -> Path:
    """Where the very picture lies that was added.

    Raises:
        InvalidImage: it lies nowhere, cannot be read, or another lies there by now.
    """
    content = payload.get(CONTENT)
    if content is None:
        raise InvalidImage("its record does not say what its picture was: another tool made it")
    reason = "its record does not say where"
    for path in _places(record, payload, roots):
        try:
            if content_hash(path, decoding) == content:
                return path
            reason = f"{shown(path)} is another picture than when it was added"
        except InvalidImage as error:
            reason = f"{shown(path)}: {error}"
    raise InvalidImage(reason)


def _picture(record: str, payload: Payload, roots: Mapping[str, Path], decoding: Decoding) -> Path | None:
    with suppress(InvalidImage):
        return picture_of(record, payload, roots, decoding)
    return None


def _places(record: str, payload: Payload, roots: Mapping[str, Path]) -> Iterator[Path]:
    """Where it may lie: at the path it was added from, or in the folder that the collection remembers for its id."""
    source, _, relative = record.partition("/")
    path = payload.get("path")
    if isinstance(path, str):
        given = Path(path)
        if given.is_absolute():
            yield given
        elif source in roots:
            yield roots[source] / given
    if source in roots and relative:
        yield roots[source] / relative
