"""Where the pictures of records lie, and whether they are still those that were added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex.errors import InvalidImage
from pixdex.fields import CONTENT
from pixdex.pictures import content_hash, shown

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.encoders.decoding import Decoding
    from pixdex.types import Payload

__all__ = ["picture_of", "roots_of"]


def roots_of(collection: Collection) -> dict[str, Path]:
    """Where the sources of ids lay, by name."""
    return {source.name: Path(source.root) for source in collection.spec.sources}


def picture_of(record: str, payload: Payload, roots: Mapping[str, Path], decoding: Decoding) -> Path:
    """Where the very picture lies that was added, read as ``decoding`` says.

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
            reason = f"{shown(path)} is another picture than when it was added, or was added with another frame or background"
        except InvalidImage as error:
            reason = f"{shown(path)}: {error}"
    raise InvalidImage(reason)


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
