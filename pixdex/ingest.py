"""Pictures to records: found, recognised, decoded, encoded, written.

Work goes in chunks. Of each chunk the files are hashed first, so that what the collection holds
already is neither decoded nor encoded; the rest is decoded and prepared in threads while the encoder
works, and written as one batch. A picture that cannot be used becomes one row of the report and
stops nothing. Killed or interrupted, everything written so far is in the collection, and adding the
same again goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._encoding import Encoding
from pixdex._records import coerce
from pixdex.errors import InvalidImage
from pixdex.fields import AUTOMATIC_NAMES, CONTENT
from pixdex.filters import F
from pixdex.pictures import Item, content_hash, shown
from pixdex.report import Progress, Report, Tally
from pixdex.types import MAX_TEXT_BYTES, Batch, Payload, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.encoders.port import Encoder

__all__ = ["ingest"]

_CHUNK = 128


@dataclass(frozen=True, slots=True)
class _Seen:
    """An item with its content hash and the payload it is to have, automatic fields still missing."""

    id: str
    item: Item
    content: str
    payload: Payload


def ingest(
    items: Iterable[Item | None],
    collection: Collection,
    encoder: Encoder,
    *,
    vector: str,
    tokens: bool = False,
    notices: Sequence[str] = (),
    progress: Progress | None = None,
    threads: int | None = None,
) -> Report:
    """Add pictures to a collection that declares the ``fields.AUTOMATIC`` ones.

    ``items`` may hold None for what was passed over. ``vector`` is the name the vectors are written
    under. With ``tokens`` records get the encoder's tokens too.

    Raises:
        StoreError: the store failed; what was written stays, and adding again goes on from there.
    """
    tally = Tally()
    pool = ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1), thread_name_prefix="pixdex-decode")
    try:
        encoding = Encoding(encoder, vector, tokens, pool, tally)
        pipeline = _Pipeline(collection, encoding)
        ahead: list[tuple[Item, Future[str]]] = []
        for chunk in _chunks(_pictures(items, tally)):
            hashing = [(item, pool.submit(content_hash, item.picture)) for item in chunk]
            pipeline.write(ahead)  # while the next chunk is being hashed
            ahead = hashing
            so_far = tally.report(notices)
            if progress is not None and so_far.seen:
                progress(so_far)
        pipeline.write(ahead)
        collection.flush()
    finally:
        pool.shutdown(cancel_futures=True)
    report = tally.report(notices)
    if progress is not None:
        progress(report)
    return report


def _pictures(items: Iterable[Item | None], tally: Tally) -> Iterator[Item]:
    for item in items:
        if item is None:
            tally.ignored += 1
        else:
            yield item


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


class _Pipeline:
    """From hashed items to written records, a chunk at a time."""

    def __init__(self, collection: Collection, encoding: Encoding) -> None:
        self._collection = collection
        self._encoding = encoding
        self._vector = encoding.vector
        self._tokens = encoding.tokens
        self._tally = encoding.tally

    def write(self, hashing: Sequence[tuple[Item, Future[str]]]) -> None:
        fresh = self._reuse(self._without_known(self._hashed(hashing)))
        firsts: dict[str, _Seen] = {}
        for one in fresh:
            firsts.setdefault(one.content, one)
        self._add(list(firsts.values()))
        copies = [one for one in fresh if firsts[one.content] is not one]
        self._add(self._reuse(copies))  # what is left of them: their first could not be used, or is not visible yet

    def _add(self, seen: Sequence[_Seen]) -> None:
        batch = self._encoding.batch([replace(one.item, id=one.id, payload=one.payload) for one in seen])
        if len(batch):
            self._collection.upsert(batch)
            self._tally.added += len(batch)

    def _hashed(self, hashing: Sequence[tuple[Item, Future[str]]]) -> list[_Seen]:
        """The items whose bytes could be read; of the same id the last stands."""
        seen: dict[str, _Seen] = {}
        for item, future in hashing:
            try:
                content = future.result()
            except InvalidImage as error:
                self._tally.quarantine(item.label, error)
                continue
            payload = {**item.payload, CONTENT: content}
            if isinstance(item.picture, Path):
                path = shown(item.picture.absolute())
                if len(path.encode()) <= MAX_TEXT_BYTES:  # escapes may make a long path longer than a field
                    payload["path"] = path
            record = item.id or content
            if record in seen:
                self._tally.unchanged += 1
            seen[record] = _Seen(record, item, content, payload)
        return list(seen.values())

    def _without_known(self, seen: Sequence[_Seen]) -> list[_Seen]:
        """Those whose record is missing or differs in content, fields or tokens; with the fields it has."""
        if not seen:
            return []
        stored = self._collection.fetch([s.id for s in seen], want=Want(payload=True, tokens=self._tokens))
        row_of = {record: row for row, record in enumerate(stored.ids)}
        changed = []
        for one in seen:
            row = row_of.get(one.id)
            if row is None:
                changed.append(one)
            elif self._holds(stored, row, one.payload):
                self._tally.unchanged += 1
            else:
                before = (stored.payloads or ())[row]
                kept = {key: value for key, value in before.items() if key not in AUTOMATIC_NAMES}
                changed.append(replace(one, payload={**kept, **one.payload}))
        return changed

    def _holds(self, stored: Batch, row: int, payload: Payload) -> bool:
        if self._tokens and (stored.tokens is None or stored.tokens[row] is None):
            return False
        there = stored.payloads[row] if stored.payloads is not None else {}
        return all(key in there and self._same(key, there[key], value) for key, value in payload.items())

    def _same(self, key: str, stored: Any, given: Any) -> bool:
        declared = self._collection.spec.field(key)
        return bool(stored == given if declared is None else coerce(declared, stored) == coerce(declared, given))

    def _reuse(self, seen: Sequence[_Seen]) -> list[_Seen]:
        """Write those whose content the collection knows under any id with its vectors; the others are left."""
        own = self._own(seen)
        others = self._of_content({one.content for one in seen if one.id not in own})
        rows = [own.get(one.id) or others.get(one.content) for one in seen]
        old = [(one, row) for one, row in zip(seen, rows, strict=True) if row is not None]
        if old:
            self._collection.upsert(self._copies(old))
            self._tally.reused += len(old)
        return [one for one, row in zip(seen, rows, strict=True) if row is None]

    def _own(self, seen: Sequence[_Seen]) -> dict[str, Batch]:
        """Id -> the record of that id, where it has the same content and all that is needed."""
        if not seen:
            return {}
        batch = self._collection.fetch([one.id for one in seen], want=self._everything)
        content = {one.id: one.content for one in seen}
        return {r.ids[0]: r for r in self._usable(batch) if (r.payloads or ({},))[0].get(CONTENT) == content[r.ids[0]]}

    def _of_content(self, contents: set[str]) -> dict[str, Batch]:
        """Content hash -> any record of it that has all that is needed. A content is asked for until it
        is found, so that thousands of copies of one picture cost a page and not all of them.
        """
        known: dict[str, Batch] = {}
        left = set(contents)
        while left and self._found(left, known):
            left -= known.keys()
        return known

    def _found(self, contents: set[str], known: dict[str, Batch]) -> bool:
        """Add what the first page that has something has; False when no page has."""
        where = F[CONTENT].is_in(sorted(contents))
        for page in self._collection.scan(where=where, want=self._everything, size=_CHUNK):
            usable = self._usable(page.batch)
            for record in usable:
                known.setdefault((record.payloads or ({},))[0][CONTENT], record)
            if usable:
                return True
        return False

    @property
    def _everything(self) -> Want:
        spec = self._collection.spec
        return Want(vectors=tuple(v.name for v in spec.vectors), tokens=spec.tokens is not None)

    def _usable(self, batch: Batch) -> list[Batch]:
        """The records that have a vector, and tokens when those are asked for, as batches of one."""
        rows = np.flatnonzero(batch.present(self._vector)).tolist()
        records = [batch.take([row]) for row in rows]
        return [r for r in records if not (self._tokens and _tokens(r) is None)]

    def _copies(self, old: Sequence[tuple[_Seen, Batch]]) -> Batch:
        """Records of known content: its vector, tokens and automatic fields, the payload of the new one over
        them. A record that is written again keeps its other vectors too: they need not be of the picture.
        """
        payloads = []
        for one, record in old:
            before = (record.payloads or ({},))[0]
            automatic = {key: value for key, value in before.items() if key in AUTOMATIC_NAMES}
            payloads.append({**automatic, **one.payload})
        vectors, absent = {}, {}
        for vector in self._collection.spec.vectors:
            kept = np.array(
                [r.present(vector.name)[0] and (vector.name == self._vector or r.ids[0] == one.id) for one, r in old]
            )
            if kept.any():
                vectors[vector.name] = np.concatenate([record.vectors[vector.name] for _, record in old])
                absent[vector.name] = ~kept
        tokens = tuple(_tokens(record) for _, record in old)
        return Batch(tuple(one.id for one, _ in old), vectors, tuple(payloads), tokens, absent)


def _tokens(record: Batch) -> NDArray[Any] | None:
    """The tokens of a batch of one."""
    return (record.tokens or (None,))[0]
