"""The captions of pictures: which encoder makes vectors of them, which payload key they stand under, what searches by them.

The vector ``text`` of a record is that of its caption. What makes it, and of which key, stands in the Spec, so that opening
a collection again needs neither. The encoder is loaded when the first caption, or the first text that is searched for, comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex import encoders
from pixdex._asking import Asked
from pixdex.errors import ConfigError, FingerprintMismatch
from pixdex.fields import TEXT
from pixdex.rerankers.port import Query
from pixdex.spec import Metric, Spec, Vector
from pixdex.types import Batch, Payload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.encoders.port import WordEncoder

__all__ = ["Captions", "Writer", "caption_of", "vector_of"]

_HOW = "text_encoder= (--text-encoder), such as hf:sentence-transformers/all-MiniLM-L6-v2"


def vector_of(spec: Spec) -> Vector | None:
    """The vector of captions, if a collection has one."""
    return next((vector for vector in spec.vectors if vector.name == TEXT), None)


def caption_of(value: Any) -> str | None:
    """What a payload value says as a caption: a text, or several with commas between; None where it says nothing.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return None
    said = [value] if isinstance(value, str) else value
    if not isinstance(said, list | tuple) or not all(isinstance(each, str) for each in said):
        raise TypeError(value)
    return ", ".join(each.strip() for each in said if each.strip()) or None


class Captions:
    """The encoder of captions of an index: the one that was given, else the one that its collection names."""

    def __init__(self, given: WordEncoder | str | None) -> None:
        self._given = given
        self._encoder: WordEncoder | None = None if isinstance(given, str) else given
        self._reference: str | None = None

    def check(self, collection: Collection) -> None:
        """Make sure that an encoder that was given is that of the captions which are there.

        Raises:
            FingerprintMismatch: they are of another.
        """
        vector = vector_of(collection.spec)
        if vector is not None and self._given is not None:
            self._fitting(vector, collection)

    def searches(self, collection: Collection) -> bool:
        """Whether texts are looked for among captions: there are some, and it is known by which encoder."""
        vector = vector_of(collection.spec)
        return vector is not None and (vector.encoder is not None or self._given is not None)

    def encoder(self, collection: Collection) -> WordEncoder | None:
        """What makes vectors of captions; None where texts are not looked for among them."""
        return self._fitting(collection.spec.vector(TEXT), collection) if self.searches(collection) else None

    def asked(self, text: str, collection: Collection) -> Asked:
        """The query that a text stands for, among captions."""
        encoder = self._fitting(collection.spec.vector(TEXT), collection)
        return Asked(Query(encoder.encode_text([text])[0]), lambda: None)

    def declared(self, key: str) -> Vector:
        """The vector of captions under ``key``, for a Spec.

        Raises:
            ConfigError: nobody said which encoder.
        """
        if self._given is None:
            raise ConfigError(f"text={key!r}: say with {_HOW}, what makes vectors of captions")
        encoder = self._loaded(None)
        return Vector(
            name=TEXT,
            dim=encoder.dim,
            metric=encoder.metric,
            fingerprint=encoder.fingerprint,
            encoder=encoder.reference,
            embeds=key,
        )

    def declare(self, key: str | None, collection: Collection) -> list[str]:
        """See that a collection that is there has the vector of captions under ``key``; say in sentences what was done.

        Raises:
            ConfigError: its captions stand under another key, or nobody said which encoder makes vectors of them.
            Unsupported: the store cannot add a vector to a live collection.
        """
        vector = vector_of(collection.spec)
        if key is None or (vector is not None and vector.embeds == key):
            return []
        if vector is not None:
            made = "nobody said what of" if vector.embeds is None else f"of {vector.embeds!r}"
            raise ConfigError(f"text={key!r}: the vector {TEXT!r} of collection {collection.name!r} is made {made}")
        collection.alter(vectors=(self.declared(key),))
        return [f"records get a vector {TEXT!r} of {key!r}: those that are there when they are added again"]

    def writer(self, collection: Collection) -> Writer | None:
        """What writes captions as they are added; None where there are none."""
        vector = vector_of(collection.spec)
        if vector is None or vector.embeds is None:
            return None
        return Writer(self._fitting(vector, collection), vector.embeds)

    def _fitting(self, vector: Vector, collection: Collection) -> WordEncoder:
        encoder = self._loaded(vector.encoder)
        difference = vector.fingerprint.difference(encoder.fingerprint)
        if difference:
            raise FingerprintMismatch(
                f"the captions of collection {collection.name!r} are vectors of {vector.fingerprint.encoder} "
                f"[{vector.fingerprint.digest[:8]}], not of {encoder.name} [{encoder.fingerprint.digest[:8]}] (they differ in: "
                f"{difference}). Open it with the text_encoder= that wrote them"
            )
        return encoder

    def _loaded(self, reference: str | None) -> WordEncoder:
        wanted = self._given if isinstance(self._given, str) else reference
        # The collection names another one where an alias was switched, which is followed unless one was given.
        if self._encoder is not None and (self._given is not None or wanted == self._reference):
            return self._encoder
        if wanted is None:
            raise ConfigError(f"say with {_HOW}, what made the vectors {TEXT!r}")
        try:
            encoder = encoders.load_text(wanted)
        except ConfigError as error:
            if self._given is not None:
                raise
            raise ConfigError(
                f"captions were written by encoder {wanted!r}, which cannot be made here: {error}. Say with text_encoder= "
                "where it is now"
            ) from error
        self._encoder, self._reference = encoder, wanted
        return encoder


def usable(vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.bool_]:
    """Bool ``[n]``: which are finite, and have a direction where that counts."""
    good = np.asarray(np.isfinite(vectors).all(axis=1))
    return good & np.asarray(vectors.any(axis=1)) if metric is Metric.COSINE else good


class Writer:
    """Gives records the vectors of their captions, a batch at a time."""

    def __init__(self, encoder: WordEncoder, key: str) -> None:
        self._encoder = encoder
        self._key = key
        self._odd = self._unusable = 0

    def caption(self, payload: Payload) -> str | None:
        """The caption in a payload; what is no text is none."""
        try:
            return caption_of(payload.get(self._key))
        except TypeError:
            return None

    def alike(self, one: Payload, other: Payload) -> bool:
        """Whether two payloads have the same caption, or none."""
        return self.caption(one) == self.caption(other)

    def written(self, batch: Batch) -> Batch:
        """The records, those that have a caption and no vector of it with one."""
        captions = [self._counted(payload) for payload in batch.payloads or ()]
        present = batch.present(TEXT)
        rows = [row for row, caption in enumerate(captions) if caption is not None and not present[row]]
        if not rows:
            return batch
        vectors = self._encoded([captions[row] or "" for row in rows])
        good = usable(vectors, self._encoder.metric)
        self._unusable += int((~good).sum())
        matrix = np.zeros((len(batch), self._encoder.dim), np.float32)
        if TEXT in batch.vectors:
            matrix[present] = batch.vectors[TEXT][present]
        matrix[rows] = np.where(good[:, None], vectors, 0)
        there = present.copy()
        there[rows] = good
        return replace(batch, vectors={**batch.vectors, TEXT: matrix}, absent={**batch.absent, TEXT: ~there})

    def notices(self) -> list[str]:
        """What is to be said about captions that could not be used."""
        says = [
            (self._odd, f"have something else than text as {self._key!r}: they are added without a caption"),
            (self._unusable, f"have a caption that encoder {self._encoder.name!r} makes no usable vector of"),
        ]
        return [f"{count} pictures {what}" for count, what in says if count]

    def _counted(self, payload: Mapping[str, Any]) -> str | None:
        try:
            return caption_of(payload.get(self._key))
        except TypeError:
            self._odd += 1
            return None

    def _encoded(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """float32 ``[n, dim]``; a caption that many have is encoded once."""
        different = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        made = np.asarray(self._encoder.encode_text(list(different)), dtype=np.float32)
        return made[[different[caption] for caption in captions]]
