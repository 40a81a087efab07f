"""Encoding on one machine, loading on another: pictures to a file of vectors, and such a file to a collection.

``encode`` goes through pictures as ``ImageIndex.add`` does, into a store beside the file, which is written at the end.
``load`` writes the file to a collection of any store, and needs neither the pictures nor the encoder.
"""

from __future__ import annotations

import os
from collections.abc import Collection as Sized
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex import encoders
from pixdex._adding import settled
from pixdex._names import check_collection
from pixdex._progress import following
from pixdex._records import coerce, holds
from pixdex._unfinished import Unfinished, partial_of
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.errors import ConfigError, InvalidRecord, NotFound
from pixdex.fields import AUTOMATIC_NAMES, IMAGE, TEXT, spelled, users_own
from pixdex.index import DEFAULT_ENCODER, ImageIndex, declared_fields
from pixdex.pictures import as_path, is_picture, several
from pixdex.report import Progress, Report, Tally
from pixdex.spec import Field, Source, Spec, Vector
from pixdex.types import Batch, Payload, Want
from pixdex.vectors_file import SUFFIX, VectorsFile, check_installed

if TYPE_CHECKING:
    from pixdex.encoders.port import Encoder
    from pixdex.index import Fields
    from pixdex.pictures import Picture
    from pixdex.policy import Policy

__all__ = ["encode", "load", "partial_of"]


def encode(
    pictures: Picture | Iterable[Picture],
    target: str | os.PathLike[str],
    *,
    encoder: Encoder | str | None = None,
    declare: Fields | None = None,
    fields: Mapping[str, Any] | None = None,
    ids: Sequence[str] | None = None,
    source: str | None = None,
    tokens: bool = False,
    column: str | None = None,
    allow_remote: bool = False,
    allow_private: bool = False,
    decoding: Decoding = Decoding(),
    workers: int | None = None,
    patience: float = PATIENCE,
    progress: Progress | bool | None = None,
) -> Report:
    """Encode pictures into a Parquet file, which ``load`` writes to a collection, on this machine or another.

    The file is there when it is whole, and replaces one of that name. What cannot be used stands in it with the reason.
    Until then what is encoded is kept in ``<target>.partial``, a folder that the finished file replaces: interrupted or
    killed, the same call goes on from there, and what it finds there counts as unchanged. A picture that is gone since
    then stays in the file.

    Args:
        pictures, fields, ids, source, column, allow_remote, allow_private, decoding, workers, patience, progress: as of
            ``ImageIndex.add``.
        target: the file, ``.parquet``.
        encoder: an encoder or its reference; default ``mini``.
        declare: name -> kind of fields to filter on, as of ``pixdex.open``.
        tokens: the encoder's tokens too.

    Raises:
        ConfigError: as ``ImageIndex.add``, or the file cannot be written there; ``<target>.partial`` was begun with
            other pictures or options, or is not ours.
        FingerprintMismatch: ``<target>.partial`` was begun with another encoder.
        StoreError: no space, another process that encodes into the same file, or ``<target>.partial`` is damaged; what
            was encoded stays.
        MissingDependency: pyarrow is not installed, or what the pictures need.
        Unsupported: tokens of an encoder that has none.
    """
    path = Path(target).expanduser()
    if path.suffix.lower() != SUFFIX:
        raise ConfigError(f"{path}: the file is a Parquet file, and its name ends in {SUFFIX}")
    check_installed()
    chosen = DEFAULT_ENCODER if encoder is None else encoder
    loaded = encoders.load(chosen) if isinstance(chosen, str) else chosen
    declared = declared_fields(declare or {})
    asked = _asked(
        pictures,
        ids,
        tokens=tokens,
        source=source,
        column=column,
        declared=declared,
        fields=sorted((fields or {}).items()),
        decoding=(decoding.frame, decoding.background, decoding.truncated),
    )
    with Unfinished(path, loaded, asked) as unfinished:
        index = ImageIndex(
            unfinished.store, unfinished.name, collection=None, encoder=loaded, fields=declared, tokens=tokens
        )
        report = index.add(
            pictures,
            fields=fields,
            ids=ids,
            source=source,
            column=column,
            allow_remote=allow_remote,
            allow_private=allow_private,
            decoding=decoding,
            workers=workers,
            patience=patience,
            progress=progress,
        )
        unfinished.write(report)
    return report


def _asked(pictures: Picture | Iterable[Picture], ids: Sequence[str] | None, **options: object) -> Iterator[str]:
    """What tells one call from another, piece by piece. Pictures in memory, and of an iterator, are not looked at."""
    yield from (f"{name}={value!r}" for name, value in options.items())
    yield from ids or ()
    if not is_picture(pictures) and not isinstance(pictures, Sized):
        return
    for picture in several(pictures):
        path = as_path(picture)
        yield type(picture).__name__ if path is None else str(path.absolute())


# --- loading -----------------------------------------------------------------------------------------------------------


def load(
    url: str,
    file: str | os.PathLike[str],
    *,
    policy: Policy | None = None,
    progress: Progress | bool | None = None,
) -> Report:
    """Write a file of ``encode`` to a collection, which is made when there is none. The encoder is not loaded.

    What is there already with the same content and fields is not written again, so that a load that was interrupted
    goes on when it is done again.

    Raises:
        ConfigError: it is no such file; it calls a folder as the collection calls another; a field of it is declared as
            another kind in the collection.
        MissingDependency: pyarrow is not installed, or what the store needs.
        FingerprintMismatch: the collection holds vectors, or tokens, of another encoder; nothing is written.
        StoreError: the store failed; what was written stays.
    """
    found = VectorsFile.open(Path(file).expanduser())
    if [vector.name for vector in found.spec.vectors] != [IMAGE]:
        names = ", ".join(vector.name for vector in found.spec.vectors)
        raise ConfigError(f"{file} holds the vectors {names}: write it to a collection with pixdex import")
    connector, name = connect(url)
    try:
        try:
            collection = Collection.open(connector, name, policy=policy)
        except NotFound:
            check_collection(name)
            collection = Collection.create(connector, name, found.spec, policy=policy)
        with following(progress) as follow:
            report = _Loading(found, collection).run(follow)
        return settled(collection, report, progress)
    finally:
        connector.close()


class _Loading:
    """The way from a file to a collection that is there."""

    def __init__(self, file: VectorsFile, collection: Collection) -> None:
        self._file = file
        self._collection = collection
        self._tally = Tally()
        self._tokens = file.spec.tokens is not None and collection.spec.tokens is not None

    def run(self, progress: Progress | None) -> Report:
        notices = self._prepare()
        for part in self._file.parts():
            for picture in part.unusable:
                self._tally.quarantine(picture.path, picture.reason)
            fresh = self._changed(self._fitting(_last_of_each(part.batch)))
            if len(fresh):
                self._collection.upsert(fresh)
                self._tally.added += len(fresh)
            if progress is not None:
                progress(self._tally.report(notices))
        self._collection.flush()
        return self._tally.report(notices)

    def _prepare(self) -> list[str]:
        """See that both fit together before anything is written; declare what pixdex fills, remember the folders."""
        theirs, ours = self._file.spec, self._collection.spec
        self._collection.require(theirs.vector(IMAGE).fingerprint, vector=IMAGE)
        if self._tokens:
            self._collection.require_tokens(theirs.tokens)
        _check_fields(theirs.fields, ours)
        new = _new_sources(theirs.sources, ours.sources)
        automatic = tuple(f for f in theirs.fields if f.name in AUTOMATIC_NAMES and ours.field(f.name) is None)
        if automatic or new:
            self._collection.alter(fields=automatic, sources=new)
        notices = (
            [] if self._tokens or theirs.tokens is None else ["this collection keeps no tokens: they are left out"]
        )
        undeclared = [f.name for f in theirs.fields if self._collection.spec.field(f.name) is None]
        return notices + [
            f"field {name!r} is not declared here, so it is kept but cannot be filtered on" for name in undeclared
        ]

    def _fitting(self, batch: Batch) -> Batch:
        """The records that the collection can keep; the others go to the report."""
        rows = []
        broken = set(np.flatnonzero(~np.isfinite(batch.vectors[IMAGE]).all(axis=1)).tolist())
        for row, (record, payload) in enumerate(zip(batch.ids, batch.payloads or (), strict=True)):
            reason = "its vector holds NaN or infinity" if row in broken else self._misfit(payload)
            if reason is None:
                rows.append(row)
            else:
                self._tally.quarantine(record, reason)
        kept = batch if len(rows) == len(batch) else batch.take(rows)
        return kept if self._tokens else replace(kept, tokens=None)

    def _misfit(self, payload: Payload) -> str | None:
        try:
            for field in self._collection.spec.fields:
                coerce(field, payload.get(field.name))
        except InvalidRecord as error:
            return str(error)
        return None

    def _changed(self, batch: Batch) -> Batch:
        """The records that the collection lacks or has otherwise, with the fields and other vectors that it has."""
        if not len(batch):
            return batch
        others = tuple(vector for vector in self._collection.spec.vectors if vector.name != IMAGE)
        want = Want(vectors=(IMAGE, *(vector.name for vector in others)), tokens=self._tokens)
        there = self._collection.fetch(batch.ids, want=want)
        rows = {record: row for row, record in enumerate(there.ids)}
        changed, payloads = [], []
        for row, (record, payload) in enumerate(zip(batch.ids, batch.payloads or (), strict=True)):
            before = rows.get(record)
            if before is not None and self._holds(there, before, payload):
                self._tally.unchanged += 1
                continue
            old = {} if before is None else (there.payloads or ())[before]
            changed.append(row)
            payloads.append({**users_own(old), **payload})
        fresh = replace(batch.take(changed), payloads=tuple(payloads))
        return _with_others(fresh, there, others) if others else fresh

    def _holds(self, there: Batch, row: int, payload: Payload) -> bool:
        if not there.present(IMAGE)[row] or (self._tokens and (there.tokens or ())[row] is None):
            return False
        return holds((there.payloads or ())[row], payload, self._collection.spec)


def _last_of_each(batch: Batch) -> Batch:
    """Of records with the same id, the last."""
    rows = {record: row for row, record in enumerate(batch.ids)}
    return batch if len(rows) == len(batch) else batch.take(sorted(rows.values()))


def _check_fields(theirs: Sequence[Field], ours: Spec) -> None:
    for field in theirs:
        known = ours.field(field.name)
        if known is not None and (known.kind, known.many) != (field.kind, field.many):
            raise ConfigError(
                f"field {field.name!r} is {spelled(field)} in the file and declared as {spelled(known)} in the "
                "collection: encode again with the kind declared, or make a new collection"
            )


def _new_sources(theirs: Sequence[Source], ours: Sequence[Source]) -> tuple[Source, ...]:
    """The folders that the collection does not know yet."""
    roots = {source.name: source.root for source in ours}
    for source in theirs:
        if roots.get(source.name, source.root) != source.root:
            raise ConfigError(
                f"source {source.name!r} stands for {roots[source.name]} in this collection and for {source.root} in "
                "the file: encode again with another name, source="
            )
    return tuple(source for source in theirs if source.name not in roots)


def _with_others(fresh: Batch, there: Batch, others: Sequence[Vector]) -> Batch:
    """The records with the other vectors that they have in the collection, which are not the file's to remove: but for that
    of a caption which is another now.
    """
    rows = {record: row for row, record in enumerate(there.ids)}
    vectors, absent = dict(fresh.vectors), dict(fresh.absent)
    for vector in others:
        present = there.present(vector.name)
        matrix = np.zeros((len(fresh), vector.dim), np.float32)
        missing = np.ones(len(fresh), dtype=bool)
        for row, record in enumerate(fresh.ids):
            before = rows.get(record)
            if before is not None and present[before] and _made_of_the_same(vector, fresh, row, there, before):
                matrix[row], missing[row] = there.vectors[vector.name][before], False
        vectors[vector.name], absent[vector.name] = matrix, missing
    return replace(fresh, vectors=vectors, absent=absent)


def _made_of_the_same(vector: Vector, fresh: Batch, row: int, there: Batch, before: int) -> bool:
    """Whether what a vector of captions was made of stays as it is."""
    if vector.name != TEXT or vector.embeds is None:
        return True
    return bool((fresh.payloads or ())[row].get(vector.embeds) == (there.payloads or ())[before].get(vector.embeds))
