"""Pictures to records: found, recognised, decoded, encoded, written.

Everything goes on at once: while a chunk is written, the next is decoded and encoded and the one after it is read. Of
each chunk the files are hashed first, so that what the collection holds already is neither decoded nor encoded. Stages
wait for one another: what is between them is bounded by count and by bytes. The store is used, and ``items`` are
read, in the caller's thread alone.

What is being encoded is not in the store yet. So an item whose id or content is also in the chunk before waits until
that one is written; what it then finds is what it would have found if chunks were done one by one.

A picture that cannot be used becomes one row of the report and stops nothing. Killed or interrupted, everything written
so far is in the collection, and adding the same again goes on from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._encoding import Encoded, Encoding
from pixdex._feeding import feeding
from pixdex._hashing import CHUNK, Hashed, Hashing
from pixdex._records import holds
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.errors import InvalidImage
from pixdex.fields import AUTOMATIC_NAMES, CONTENT, TEXT, users_own
from pixdex.filters import F
from pixdex.pictures import Item, place_of, shown
from pixdex.report import Entry, Progress, Report, Status, Tally
from pixdex.types import Batch, Payload, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex._captions import Writer
    from pixdex._twins import Twins
    from pixdex.collection import Collection
    from pixdex.encoders.port import Encoder
    from pixdex.journal import Journal

__all__ = ["ingest"]


def ingest(
    items: Iterable[Item | None],
    collection: Collection,
    encoder: Encoder,
    *,
    vector: str,
    tokens: bool = False,
    captions: Writer | None = None,
    notices: Sequence[str] = (),
    progress: Progress | None = None,
    decoding: Decoding = Decoding(),
    workers: int | None = None,
    patience: float = PATIENCE,
    journal: Journal | None = None,
    max_failures: int | None = None,
    twins: Twins | None = None,
) -> Report:
    """Add pictures to a collection that declares the ``fields.AUTOMATIC`` ones.

    ``items`` may hold None for what was passed over; at most 128 are held at a time, and one chunk of them. ``vector``
    is the name the vectors are written under. With ``tokens`` records get the encoder's tokens too, with ``captions`` the
    vectors of those. Files are decoded as ``decoding`` says, ``workers`` at once; one that takes more than ``patience``
    seconds to read or to decode is set aside. A ``journal`` gets a row for each picture, when it is written;
    ``twins`` says of which the collection holds the same picture already, and what becomes of those.

    Raises:
        InvalidImage: more than ``max_failures`` pictures could not be used; what was written stays.
        StoreError: the store failed; what was written stays, and adding again goes on from there.
    """
    tally = Tally()
    with (
        Encoding(encoder, vector, tokens=tokens, decoding=decoding, workers=workers, patience=patience) as encoding,
        Hashing(items, tally, decoding, patience, journal) as reading,
    ):
        pipeline = _Pipeline(collection, encoding, vector, captions, twins, tokens=tokens)
        coming: deque[_Chunk] = deque()

        def write() -> None:
            pipeline.write(coming.popleft(), tally, journal)
            _check_failures(tally, max_failures)
            so_far = tally.report(notices)
            if progress is not None and so_far.seen and coming:  # the last is told when all is visible
                progress(so_far)

        reading.look_ahead()
        while hashed := reading.take():
            coming.append(pipeline.look_up(hashed, coming))
            try:
                reading.look_ahead()
            except Exception:  # whoever makes the items broke: what they gave before is written
                while coming:
                    write()
                raise
            if len(coming) > 1:
                write()
        while coming:
            write()
        collection.flush()
    report = tally.report(notices if captions is None else [*notices, *captions.notices()])
    if progress is not None:
        progress(report)
    return report


def _check_failures(tally: Tally, most: int | None) -> None:
    failed = tally.quarantined
    if most is not None and len(failed) > most:
        raise InvalidImage(
            f"{len(failed)} pictures could not be used, {most} are allowed to (max_failures); the last: {failed[-1].path}: "
            f"{failed[-1].reason}. What was added stays, and adding again goes on"
        )


# --- recognising and writing -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """An item with its content hash and the payload it is to have, automatic fields still missing; whether there is a record of
    its id, which it replaces.
    """

    id: str
    item: Item
    content: str
    payload: Payload
    hashed: Hashed
    there: bool = False

    def entry(self, status: Status, reason: str | None = None) -> Entry:
        """Its row in the journal."""
        return self.hashed.entry(self.id, status, reason)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What is to be done about some items, and what of it is under way.

    Attributes:
        found: what became of those of which nothing is to be written.
        reused: those whose content is in the store, with a record that has all that is needed.
        new: those that are being encoded; ``encoded``: their records.
        late: those to look at again when all before them is written.
        ids: of all that will be written.
        contents: of all that are being encoded, or late.
    """

    found: Sequence[Entry]
    reused: Sequence[tuple[_Seen, Batch]]
    new: Sequence[_Seen]
    encoded: Future[Encoded]
    late: Sequence[_Seen]
    ids: frozenset[str]
    contents: frozenset[str]


class _Done:
    """Who hears what became of items: the tally, and the journal, where there is one."""

    def __init__(self, tally: Tally, journal: Journal | None) -> None:
        self._tally, self._journal = tally, journal

    def plan(self, batch: Batch) -> None:
        """These records are about to be written."""
        if self._journal is not None and len(batch):
            self._journal.plan(batch.ids)

    def take(self, entries: Sequence[Entry]) -> None:
        """Whatever is said to be written is."""
        self._tally.take(entries)
        if self._journal is not None and entries:
            self._journal.record(entries)


class _Pipeline:
    """From hashed items to written records, a chunk at a time."""

    def __init__(
        self,
        collection: Collection,
        encoding: Encoding,
        vector: str,
        captions: Writer | None,
        twins: Twins | None,
        *,
        tokens: bool,
    ) -> None:
        self._collection = collection
        self._twins = twins
        self._captions = captions
        self._encoding = encoding
        self._vector = vector
        self._tokens = tokens

    def look_up(self, hashed: Sequence[Hashed], before: Iterable[_Chunk]) -> _Chunk:
        """Have what is new encoded. ``before`` are the chunks that are not written yet."""
        found: list[Entry] = []
        seen = self._seen(hashed, found)
        ids = frozenset().union(*(chunk.ids for chunk in before))
        contents = frozenset().union(*(chunk.contents for chunk in before))
        late = [one for one in seen if one.id in ids or one.content in contents]
        reused, fresh = self._known(_without(seen, late), found)
        firsts: dict[str, _Seen] = {}
        for one in fresh:
            firsts.setdefault(one.content, one)
        new = list(firsts.values())
        late += _without(fresh, new)  # copies: their first may turn out to be of no use
        return _Chunk(
            found,
            reused,
            new,
            self._encode(new),
            late,
            frozenset(one.id for one in (*new, *late, *(one for one, _ in reused))),
            frozenset(one.content for one in (*new, *late)),
        )

    def write(self, chunk: _Chunk, tally: Tally, journal: Journal | None) -> None:
        """Write what a chunk brings, those before it being written; the tally and the journal hear what became of it."""
        done = _Done(tally, journal)
        done.take(chunk.found)
        self._write(chunk.reused, chunk.new, chunk.encoded, done)
        if chunk.late:
            found: list[Entry] = []
            reused, fresh = self._known(chunk.late, found)
            done.take(found)
            self._write(reused, fresh, self._encode(fresh), done)

    def _encode(self, seen: Sequence[_Seen]) -> Future[Encoded]:
        return self._encoding.submit([replace(one.item, id=one.id, payload=one.payload) for one in seen])

    def _write(
        self, reused: Sequence[tuple[_Seen, Batch]], new: Sequence[_Seen], encoded: Future[Encoded], done: _Done
    ) -> None:
        there = {one.id for one in (*new, *(one for one, _ in reused)) if one.there}
        if reused:
            copies = {one.id: record.ids[0] for one, record in reused if record.ids[0] != one.id}
            left_out = self._upsert(self._copies(reused), copies, there, done)
            done.take([_entry(one, Status.REUSED, left_out) for one, _ in reused])
        made = encoded.result()
        bad = {row.id: row.reason for row in made.unusable}
        twins = {} if self._twins is None or not len(made.batch) else self._twins.of(made.batch)
        left_out = self._upsert(made.batch, twins, there, done)
        done.take(
            [
                one.entry(Status.FAILED, bad[one.id]) if one.id in bad else _entry(one, Status.ADDED, left_out)
                for one in new
            ]
        )

    def _upsert(self, batch: Batch, twins: Mapping[str, str], there: Container[str], done: _Done) -> Mapping[str, str]:
        """Write records, those that have a twin as is asked for; which were left out, and whose twins they are. A record that is
        ``there`` is never left as it was, which its picture is not any more.
        """
        if self._twins is not None:
            if self._twins.skips:
                twins = {record: twin for record, twin in twins.items() if record not in there}
            batch = self._twins.tagged(batch, twins)
        done.plan(batch)
        if len(batch):
            self._collection.upsert(batch if self._captions is None else self._captions.written(batch))
        return {record: twin for record, twin in twins.items() if record not in set(batch.ids)}

    def _seen(self, hashed: Sequence[Hashed], found: list[Entry]) -> list[_Seen]:
        """The items whose bytes could be read; of the same id the last stands."""
        seen: dict[str, _Seen] = {}
        for one in hashed:
            item, content = one.item, one.content
            if isinstance(content, InvalidImage):
                found.append(one.entry(item.id or item.label, Status.FAILED, str(content)))
                continue
            payload = {**item.payload, CONTENT: content}
            if isinstance(item.picture, Path):
                payload |= place_of(shown(item.picture.absolute()))
            record = item.id or content
            if record in seen:
                found.append(one.entry(record, Status.UNCHANGED))
            seen[record] = _Seen(record, item, content, payload, one)
        return list(seen.values())

    def _known(self, seen: Sequence[_Seen], found: list[Entry]) -> tuple[list[tuple[_Seen, Batch]], list[_Seen]]:
        """Of those that are to be written: the ones whose content the collection knows with its vectors, under any
        id, each with such a record; and the others.
        """
        changed = self._without_unchanged(seen, found)
        own = self._own(changed)
        others = self._of_content({one.content for one in changed if one.id not in own})
        rows = [(one, own.get(one.id) or others.get(one.content)) for one in changed]
        return [(one, row) for one, row in rows if row is not None], [one for one, row in rows if row is None]

    def _without_unchanged(self, seen: Sequence[_Seen], found: list[Entry]) -> list[_Seen]:
        """Those whose record is missing or differs in content, fields, caption or tokens; with the fields it has."""
        if not seen:
            return []
        want = Want(tokens=self._tokens, vectors=() if self._captions is None else (TEXT,))
        fed = self._is_fed()  # asked first: what is found then is there to stay
        stored = self._collection.fetch([s.id for s in seen], want=want)
        row_of = {record: row for row, record in enumerate(stored.ids)}
        changed = []
        for one in seen:
            row = row_of.get(one.id)
            if row is None:
                changed.append(one)
            elif not fed and self._holds(stored, row, one.payload):
                found.append(one.entry(Status.UNCHANGED))
            else:
                kept = users_own((stored.payloads or ())[row])
                changed.append(replace(one, payload={**kept, **one.payload}, there=True))
        return changed

    def _is_fed(self) -> bool:
        """Whether a reindexing still brings records. It may be about to remove one that is unchanged here: so that is written
        again, with the vectors it has.
        """
        if self._collection.spec.fed_from is None:
            return False
        fed = feeding(self._collection) is not None
        self._collection.refresh()
        return fed

    def _holds(self, stored: Batch, row: int, payload: Payload) -> bool:
        if self._tokens and (stored.tokens is None or stored.tokens[row] is None):
            return False
        there = (stored.payloads or ())[row]
        if self._captions is not None and self._captions.caption({**there, **payload}) is not None:
            return bool(stored.present(TEXT)[row]) and holds(there, payload, self._collection.spec)
        return holds(there, payload, self._collection.spec)

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
        for page in self._collection.scan(where=where, want=self._everything, size=CHUNK):
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
        them. A record that is written again keeps its other vectors too: they need not be of the picture; that of a
        caption which it has no more it loses.
        """
        payloads: list[Payload] = []
        for one, record in old:
            before = (record.payloads or ({},))[0]
            automatic = {key: value for key, value in before.items() if key in AUTOMATIC_NAMES}
            payloads.append({**automatic, **one.payload})
        vectors, absent = {}, {}
        for vector in self._collection.spec.vectors:
            kept = np.array(
                [r.present(vector.name)[0] and self._stays(vector.name, one, r) for one, r in old], dtype=bool
            )
            if kept.any():
                vectors[vector.name] = np.concatenate([record.vectors[vector.name] for _, record in old])
                absent[vector.name] = ~kept
        tokens = tuple(_tokens(record) for _, record in old)
        return Batch(tuple(one.id for one, _ in old), vectors, tuple(payloads), tokens, absent)

    def _stays(self, vector: str, one: _Seen, record: Batch) -> bool:
        """Whether a vector of a record of the same content is also that of ``one``."""
        if vector == self._vector:
            return True
        if vector == TEXT and self._captions is not None:
            return self._captions.alike(one.payload, (record.payloads or ({},))[0])
        return record.ids[0] == one.id


def _entry(one: _Seen, status: Status, left_out: Mapping[str, str]) -> Entry:
    twin = left_out.get(one.id)
    return one.entry(status) if twin is None else one.entry(Status.DUPLICATE, f"the same picture as {twin!r}")


def _without(seen: Iterable[_Seen], others: Iterable[_Seen]) -> list[_Seen]:
    ids = {one.id for one in others}
    return [one for one in seen if one.id not in ids]


def _tokens(record: Batch) -> NDArray[Any] | None:
    """The tokens of a batch of one."""
    return (record.tokens or (None,))[0]
