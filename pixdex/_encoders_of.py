"""Which encoder a collection is opened with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pixdex import encoders
from pixdex.errors import ConfigError, Unsupported
from pixdex.fields import IMAGE

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.encoders.port import Encoder

__all__ = ["DEFAULT_ENCODER", "encoder_for", "require_own"]

DEFAULT_ENCODER = "mini"


def encoder_for(collection: Collection | None, encoder: Encoder | str | None) -> Encoder:
    """The encoder asked for, else the collection's own, else the default; checked against the collection."""
    if encoder is None and collection is not None and collection.spec.encoder is not None:
        loaded = _own_encoder(collection.name, collection.spec.encoder)
    else:
        encoder = DEFAULT_ENCODER if encoder is None else encoder
        loaded = encoders.load(encoder) if isinstance(encoder, str) else encoder
    if collection is not None:
        require_own(collection, loaded)
    return loaded


def require_own(collection: Collection, encoder: Encoder) -> None:
    """Make sure that the collection's vectors and tokens are this encoder's."""
    if all(vector.name != IMAGE for vector in collection.spec.vectors):
        raise Unsupported(
            f"collection {collection.name!r} has no vector {IMAGE!r} to search pictures by: give its records one with "
            "pixdex attach, or say which of its vectors the encoder made with pixdex adopt --encoder"
        )
    collection.require(encoder.fingerprint, vector=IMAGE)
    collection.require_tokens(encoder.token_spec)


def _own_encoder(name: str, reference: str) -> Encoder:
    try:
        return encoders.load(reference)
    except ConfigError as error:
        raise ConfigError(
            f"collection {name!r} was written by encoder {reference!r}, which cannot be made here: {error}. "
            "Say with encoder= where it is now"
        ) from error
