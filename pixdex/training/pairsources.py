"""What a reranker is trained on: pictures with classes or without, from a folder, a table or a collection."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex._encoders_of import encoder_for
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.encoders.compose import ComposedEncoder
from pixdex.errors import ConfigError, nearest
from pixdex.pictures import Item
from pixdex.rerankers.maxsim import unpacked
from pixdex.sources.addresses import scheme_of
from pixdex.training.collected import Row, rows_of
from pixdex.training.data import LABEL, has_labels, labelled, numbered, unlabelled
from pixdex.training.tokenviews import token_encoder

__all__ = ["PairSource", "pair_source"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PairSource:
    """Pictures to make pairs of.

    Attributes:
        encoder: whose tokens they are.
        items: the pictures.
        labels: int64 ``[n]``, numbers of classes; None: they have none, or shall be told apart one by one.
        names: of the classes.
        vectors: float32 ``[n, d]`` of a collection that has tokens of all of them; else None.
        tokens: int8 ``[n, t, k]`` likewise, of bits 1 and -1.
    """

    encoder: ComposedEncoder
    items: tuple[Item, ...]
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    vectors: NDArray[np.float32] | None = None
    tokens: NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.int64]) -> PairSource:
        """Some of them; ``names`` stay as they are."""
        return replace(
            self,
            items=tuple(self.items[row] for row in rows),
            labels=None if self.labels is None else self.labels[rows],
            vectors=None if self.vectors is None else self.vectors[rows],
            tokens=None if self.tokens is None else self.tokens[rows],
        )

    def some(self, most: int, seed: int) -> PairSource:
        """At most so many of them, drawn at random: whole classes where there are any."""
        if len(self) <= most:
            return self
        rng = np.random.default_rng(seed)
        if self.labels is None:
            return self.take(np.sort(rng.permutation(len(self))[:most]))
        sizes = np.bincount(self.labels, minlength=len(self.names))
        order = rng.permutation(len(sizes))
        kept = order[np.cumsum(sizes[order]) <= most]
        return self.take(np.flatnonzero(np.isin(self.labels, kept)))


def pair_source(
    source: str | os.PathLike[str],
    *,
    encoder: Any = None,
    label: str | None = None,
    copies: bool = False,
    column: str | None = None,
    where: str | None = None,
) -> PairSource:
    """Read the source. Classes are used where there are some, unless ``copies`` says otherwise: the folders of a folder in
    which every picture lies in one, and the column or field ``label``, or that which ``label`` names.

    Args:
        source: a folder, a table with paths, or the URL of a collection, whose tokens are used where it has them.
        encoder: whose tokens, or its reference; of a collection by default its own.
        label: the column or field with the class.
        copies: without classes.
        column: the column of a table that names or holds the pictures.
        where: a filter over columns or fields.

    Raises:
        ConfigError: no such source, column or field; a picture without a class; one class only; no encoder.
        Unsupported: the encoder makes no tokens.
    """
    if copies and label is not None:
        raise ConfigError(
            f"label={label!r} and copies contradict each other: pictures of a class match, or only copies do"
        )
    if scheme_of(str(source)) not in (None, "file"):
        return _from_collection(str(source), encoder, label, where, copies=copies)
    if encoder is None:
        raise ConfigError("say whose tokens a reranker is for: encoder= (--encoder), such as mini or hf:FOLDER")
    made = token_encoder(encoder)
    if copies or (label is None and not has_labels(source, column=column)):
        return PairSource(encoder=made, items=unlabelled(source, column=column, where=where))
    try:
        data = labelled(source, label=label, column=column, where=where)
    except ConfigError as error:
        if label is None:
            raise ConfigError(f"{error}; or say copies (--copies), to learn without classes") from error
        raise
    return PairSource(encoder=made, items=data.items, labels=data.labels, names=data.names)


def _from_collection(url: str, encoder: Any, label: str | None, where: str | None, *, copies: bool) -> PairSource:
    connector, name = connect(url)
    try:
        collection = Collection.open(connector, name)
        made = token_encoder(encoder_for(collection, encoder))
        known = {field.name for field in collection.spec.fields}
        if label is not None and label not in known:
            raise ConfigError(f"{url} has no field {label!r} of classes{nearest(label, known)}")
        field = None if copies else label or (LABEL if LABEL in known else None)
        rows = rows_of(collection, where=where, field=field, tokens=True)
    finally:
        connector.close()
    if not rows:
        what = "pictures" if field is None else f"pictures with a field {field!r} with one class"
        raise ConfigError(f"{url} has no {what}" + ("" if where is None else f" where {where}"))
    items = tuple(row.item for row in rows)
    vectors, tokens = _stored(rows, made)
    if field is None:
        return PairSource(encoder=made, items=items, vectors=vectors, tokens=tokens)
    labels, names = numbered([row.label for row in rows])
    if len(names) < 2:
        raise ConfigError(
            f"{url} has one class only, {names[0]!r}: at least two are needed to tell apart, or copies (--copies)"
        )
    return PairSource(encoder=made, items=items, labels=labels, names=names, vectors=vectors, tokens=tokens)


def _stored(rows: list[Row], encoder: ComposedEncoder) -> tuple[NDArray[np.float32] | None, NDArray[np.int8] | None]:
    """Vectors and tokens of all of them, or of none where some lack them."""
    spec = encoder.token_spec
    matrices = [row.tokens for row in rows if row.tokens is not None]
    shapes = {matrix.shape for matrix in matrices}
    if spec is None or len(matrices) < len(rows) or len(shapes) != 1 or spec.dtype not in ("int8", "bits"):
        return None, None
    vectors = np.stack([row.vector for row in rows]).astype(np.float32)
    return vectors, np.stack([unpacked(matrix) for matrix in matrices])
