"""Records of one encoder made records of another: encoded from their pictures, or from the vectors they have, where those tell all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex._crew import Crew
from pixdex._encoding import Encoded, Encoding
from pixdex._machine import cores
from pixdex._originals import picture_of, roots_of
from pixdex._reindex_job import Missing
from pixdex.errors import InvalidImage
from pixdex.fields import CONTENT, IMAGE
from pixdex.pictures import Item
from pixdex.spec import Spec, TokenSpec, Vector
from pixdex.types import Batch, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.encoders.decoding import Decoding
    from pixdex.encoders.port import Encoder

__all__ = ["Derive", "Maker", "Making", "derivation", "making", "spec_for", "wanted"]

Derive: TypeAlias = "Callable[[NDArray[np.float32]], NDArray[np.float32]]"
"""New vectors float32 ``[n, dim]`` of stored ones."""
_READERS = 4
_MOST_WORKERS = 7


def derivation(vector: Vector, tokens: TokenSpec | None, encoder: Encoder) -> Derive | None:
    """What makes the encoder's vectors of those stored; None where the pictures are needed.

    That is so where the stored ones are those of the encoder without its head, unrounded, and tokens, if any are kept, stay
    what they are.
    """
    from pixdex.encoders.compose import ComposedEncoder  # numpy only

    if not isinstance(encoder, ComposedEncoder) or encoder.composition.head is None or vector.dtype != "float32":
        return None
    if encoder.with_head(None).fingerprint.digest != vector.fingerprint.digest:
        return None
    return encoder.composition.project if tokens in (None, encoder.token_spec) else None


def spec_for(old: Spec, encoder: Encoder) -> Spec:
    """The Spec of a collection of the same records by another encoder: all else stays as it is."""
    vectors = tuple(
        replace(vector, dim=encoder.dim, metric=encoder.metric, fingerprint=encoder.fingerprint)
        if vector.name == IMAGE
        else vector
        for vector in old.vectors
    )
    tokens = None if old.tokens is None else encoder.token_spec
    return replace(old, vectors=vectors, tokens=tokens, encoder=encoder.reference)


def wanted(old: Spec, new: Spec) -> Want:
    """What of a record is read to make the new one."""
    return Want(vectors=tuple(v.name for v in old.vectors), tokens=_keeps_tokens(old, new))


def _keeps_tokens(old: Spec, new: Spec) -> bool:
    return old.tokens is not None and old.tokens == new.tokens


@dataclass(frozen=True, slots=True)
class Making:
    """Records under way."""

    batch: Batch
    without: Mapping[str, str]
    encoded: Future[Encoded] | None


class Maker:
    """Makes records of ``old`` such as a collection of the Spec ``new`` holds."""

    def __init__(
        self,
        old: Collection,
        new: Spec,
        encoding: Encoding,
        crew: Crew,
        decoding: Decoding,
        patience: float,
        derive: Derive | None,
    ) -> None:
        """Use ``making``."""
        self._old, self._new = old, new
        self._encoding, self._crew = encoding, crew
        self._decoding, self._patience = decoding, patience
        self._derive = derive
        self._tokens = new.tokens is not None and not _keeps_tokens(old.spec, new)

    def begin(self, batch: Batch) -> Making:
        """Have the records of a page of ``old`` made, after those begun before."""
        if self._derive is not None:
            return Making(batch, {}, None)
        rows = np.flatnonzero(batch.present(IMAGE)).tolist()
        roots = roots_of(self._old)
        jobs = [(batch.ids[row], self._crew.submit(partial(self._place, batch, row, roots))) for row in rows]
        items, without = [], {}
        for record, job in jobs:
            try:
                items.append(Item(record, job.result(self._patience)))
            except InvalidImage as error:
                without[record] = str(error)
        return Making(batch, without, self._encoding.submit(items))

    def finish(self, making: Making) -> tuple[Batch, list[Missing]]:
        """The records, and those that could not be made. Raises what the encoder raised."""
        batch = making.batch
        if making.encoded is None:
            return self._derived(batch), []
        made = making.encoded.result()
        without = {**making.without, **{row.id: row.reason for row in made.unusable if row.id is not None}}
        revs = dict(zip(batch.ids, batch.revs or (), strict=True))
        missing = [Missing(record, revs[record], reason) for record, reason in without.items()]
        kept = batch.take([row for row, record in enumerate(batch.ids) if record not in without])
        return self._with(kept, made.batch), missing

    def vectors(self, batch: Batch) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """The ids of those records whose picture could be encoded, and their vectors float32 ``[n, dim]``."""
        made, _ = self.finish(self.begin(batch))
        rows = np.flatnonzero(made.present(IMAGE)).tolist()
        return tuple(made.ids[row] for row in rows), made.vectors[IMAGE][rows]

    def _place(self, batch: Batch, row: int, roots: Mapping[str, Path]) -> Path:
        payload = (batch.payloads or ())[row]
        if not isinstance(payload.get(CONTENT), str):
            raise InvalidImage("its record does not say what its picture holds, so that no file is known to be it")
        return picture_of(batch.ids[row], payload, roots, self._decoding)

    def _derived(self, batch: Batch) -> Batch:
        present = batch.present(IMAGE)
        made = np.zeros((len(batch), self._new.vector(IMAGE).dim), np.float32)
        if self._derive is not None and present.any():
            made[present] = self._derive(batch.vectors[IMAGE][present])
        return _replaced(batch, made, present)

    def _with(self, batch: Batch, made: Batch) -> Batch:
        """The records with the vectors, and tokens, that were made."""
        row_of = {record: row for row, record in enumerate(made.ids)}
        present = np.array([record in row_of for record in batch.ids], dtype=bool)
        matrix = np.zeros((len(batch), self._new.vector(IMAGE).dim), np.float32)
        if present.any():
            matrix[present] = made.vectors[IMAGE][[row_of[r] for r in batch.ids if r in row_of]]
        batch = _replaced(batch, matrix, present)
        if self._tokens:
            given = made.tokens or (None,) * len(made)
            batch = replace(batch, tokens=tuple(given[row_of[r]] if r in row_of else None for r in batch.ids))
        return batch


def _replaced(batch: Batch, matrix: NDArray[Any], present: NDArray[np.bool_]) -> Batch:
    return replace(batch, vectors={**batch.vectors, IMAGE: matrix}, absent={**batch.absent, IMAGE: ~present})


@contextmanager
def making(
    old: Collection,
    new: Spec,
    encoder: Encoder,
    *,
    decoding: Decoding,
    workers: int | None,
    patience: float,
    derive: Derive | None,
) -> Iterator[Maker]:
    """What makes records; leaving it ends its threads and processes."""
    tokens = new.tokens is not None and not _keeps_tokens(old.spec, new)
    workers = workers or max(1, min(_MOST_WORKERS, cores() - 1))  # somebody is searching
    crew = Crew("pixdex-find", min(_READERS, workers))
    try:
        with Encoding(encoder, IMAGE, tokens=tokens, decoding=decoding, workers=workers, patience=patience) as encoding:
            yield Maker(old, new, encoding, crew, decoding, patience, derive)
    finally:
        crew.close()
