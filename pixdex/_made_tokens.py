"""Tokens of records that keep none, made of their pictures again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixdex._encoding import Encoding
from pixdex._originals import picture_of, roots_of
from pixdex.errors import InvalidImage
from pixdex.fields import IMAGE
from pixdex.pictures import Item
from pixdex.report import Tally

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.encoders.decoding import Decoding
    from pixdex.encoders.port import Encoder
    from pixdex.types import Payload

__all__ = ["tokens_from_pictures"]


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


def _picture(record: str, payload: Payload, roots: Mapping[str, Path], decoding: Decoding) -> Path | None:
    with suppress(InvalidImage):
        return picture_of(record, payload, roots, decoding)
    return None
