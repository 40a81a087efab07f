"""What a search asks for: a picture, a text, a record or a vector, made into a query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._made_tokens import tokens_from_pictures
from pixdex.errors import InvalidImage, NotFound, Unsupported
from pixdex.fields import CONTENT, IMAGE
from pixdex.filters import F, Filter, Ids
from pixdex.pictures import Picture, as_path, content_hash, load_picture, names_file, path_exists, shown
from pixdex.rerankers.port import Query
from pixdex.types import Want

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.encoders.decoding import Decoding
    from pixdex.encoders.port import Encoder, Pixels

__all__ = ["Asked", "asked", "asked_in_words", "itself", "looked_at"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A query ready to run, and what makes the filter that finds itself; asked for seldom, it may read a file."""

    query: Query
    itself: Callable[[], Filter | None]


def asked(query: Any, encoder: Encoder, collection: Collection, decoding: Decoding, *, tokens: bool) -> Asked:
    """The query that a picture, read as ``decoding`` says, a float vector ``[dim]`` or an id stands for.

    Raises:
        NotFound: no such file and no such id.
        InvalidImage: not a usable picture.
        Unsupported: a record without an image vector.
    """
    if isinstance(query, np.ndarray) and query.dtype != np.uint8:
        return Asked(Query(query), lambda: None)
    if isinstance(query, str) and not names_file(query):
        return _by_id(query, encoder, collection, decoding, tokens=tokens)
    picture, pixels = looked_at(query, encoder, decoding)
    features = encoder.encode([encoder.prepare(pixels)], tokens=tokens)
    return Asked(
        Query(features.vectors[0], None if features.tokens is None else features.tokens[0]),
        lambda: F[CONTENT] == content_hash(picture, decoding),
    )


def looked_at(query: Any, encoder: Encoder, decoding: Decoding) -> tuple[Picture, Pixels]:
    """The picture that a path or anything else stands for, and its upright pixels, as many as the encoder likes.

    Raises:
        NotFound: no such file.
        InvalidImage: not a usable picture.
    """
    path = as_path(query)
    picture = query if path is None else path
    if path is not None and not path_exists(path):
        raise NotFound(f"{path} does not exist")
    try:
        return picture, load_picture(picture, decoding, min_side=getattr(encoder, "min_side", None))[0]
    except InvalidImage as error:
        raise error if path is None else InvalidImage(f"{shown(path)}: {error}") from error


def asked_in_words(text: str, encoder: Encoder) -> Asked:
    """The query that a text stands for.

    Raises:
        Unsupported: the encoder knows pictures only.
    """
    # Not by isinstance: before Python 3.12 that asks for every attribute, and a batch size starts what runs the pictures.
    encode_text = getattr(encoder, "encode_text", None)
    if encode_text is None:
        raise Unsupported(
            f"encoder {encoder.name!r} makes vectors of pictures only: to search by text, make a collection with an "
            "encoder for both, such as a CLIP or SigLIP model, or add captions, with text= and text_encoder="
        )
    return Asked(Query(encode_text([text])[0]), lambda: None)


def _by_id(record: str, encoder: Encoder, collection: Collection, decoding: Decoding, *, tokens: bool) -> Asked:
    """Tokens that the record lacks are made of its picture, where that is there."""
    batch = collection.fetch([record], want=Want(payload=tokens, vectors=(IMAGE,), tokens=tokens))
    if not len(batch):
        raise NotFound(f"{record!r} is neither a file nor an id in collection {collection.name!r}")
    if not batch.present(IMAGE)[0]:
        raise Unsupported(f"record {record!r} has no image vector to search with")
    matrix = (batch.tokens or (None,))[0]
    if tokens and matrix is None:
        made = tokens_from_pictures({record: (batch.payloads or (None,))[0]}, collection, encoder, decoding)
        matrix = made.get(record)
    return Asked(Query(batch.vectors[IMAGE][0], matrix), lambda: F.ids([record]))


def itself(asked: Asked, collection: Collection) -> Filter | None:
    """What finds the query itself; None when it is no record.

    Raises:
        Unsupported: the collection does not know records by their content.
    """
    found = asked.itself()
    if found is not None and not isinstance(found, Ids) and collection.spec.field(CONTENT) is None:
        raise Unsupported(
            "exclude_self: another tool made this collection, which knows records by id, not by the content of "
            "their pictures: search by id, or leave that id out with where="
        )
    return found
