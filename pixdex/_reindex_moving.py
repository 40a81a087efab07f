"""Records from a collection of one encoder to one of another: all of them, then what is written meanwhile.

A record keeps its revision, so that both collections tell which of them differ, whoever was killed when. Once readers and
writers were switched to the new collection, what they write there is theirs: it is neither replaced nor removed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from pixdex import _records
from pixdex._copy_moving import Follow, Pace, ahead, microseconds, pages
from pixdex._copy_shape import sound
from pixdex._feeding import feed
from pixdex._limits import pieces
from pixdex._reindex_job import Missing
from pixdex._reindex_making import wanted
from pixdex.errors import ConfigError, InvalidImage
from pixdex.filters import F, bind
from pixdex.types import Batch, Want

if TYPE_CHECKING:
    from pixdex._reindex_job import Ledger
    from pixdex._reindex_making import Maker, Making
    from pixdex.collection import Collection
    from pixdex.spec import Vector

__all__ = ["Mover", "Stage", "revisions"]

PAGE_RECORDS = 256
"""Records of a page: what may be encoded again after a kill, twice, as two are under way."""
_UNDER_WAY = 2
_LATE = 1_000_000
"""Microseconds that a write may take where a pass is to be quick."""
_REVS = Want(payload=True)


class Stage(Enum):
    """Whose the records of the collection that is written to are."""

    FILLING = "filling"
    """The job's."""
    SWITCHED = "switched"
    """The job's and, since the switch, those of its users."""
    BACK = "back"
    """It was used before, and what is newer in the source is to come to it."""
    RETURNED = "returned"
    """The same, once its users are back."""


class Mover:
    """The way from ``source`` to ``target``. Used by one thread."""

    def __init__(
        self,
        source: Collection,
        target: Collection,
        ledger: Ledger,
        maker: Maker | None,
        *,
        origin: Ledger | None = None,
        stage: Stage,
        overlap: float,
        stops: bool,
        pace: Pace,
        follow: Follow,
    ) -> None:
        """``ledger`` is that of the target, ``origin`` that of the source, if it has one. Without ``maker`` it only looks.
        ``overlap`` is in seconds; ``stops``: at the first picture that cannot be used.
        """
        self.stage = stage
        self.written = self.deleted = 0
        self._began = microseconds()
        self._source, self._target = source, target
        self._ledger, self._origin, self._maker = ledger, origin, maker
        self._overlap = int(max(overlap, source.capabilities.staleness) * 1e6)
        self._stops = stops
        self._pace, self._follow = pace, follow
        self._tried: set[str] = set()

    # --- passes ---

    def main(self) -> None:
        """Every record, from where the job stopped."""
        ledger = self._ledger
        if ledger.fact("mark") is None:
            ledger.remember(mark=microseconds(), cursor=None, seen=0)
        total, seen = self._source.count(), int(ledger.fact("seen", 0))

        def found() -> Iterator[tuple[Batch, dict[str, Any]]]:
            nonlocal seen
            with closing(ahead(self._pages(after=ledger.fact("cursor")))) as read:
                for page in read:
                    seen += len(page.batch)
                    facts = {"cursor": page.after, "seen": seen} if page.after is not None else {"seen": seen}
                    yield page.batch, facts

        self._move(found(), "encoding", total, done=lambda: int(ledger.fact("seen", 0)))
        ledger.remember(phase="catch", cursor=None)

    def catch_up(self) -> int:
        """What was written since the last mark; how many records were written for it."""
        self.follow_spec()
        began, since = microseconds(), int(self._ledger.fact("mark")) - self._overlap
        count = self._since(since)
        self._ledger.remember(mark=began)
        self._began = began
        return count

    def catch_up_quickly(self) -> int:
        """What was written since the last pass began, late writes aside, for which another pass follows."""
        began, since = microseconds(), self._began - min(self._overlap, _LATE)
        count = self._since(since)
        self._began = began
        return count

    def _since(self, since: int) -> int:
        before = self.written
        with closing(ahead(self._pages(since=since))) as read:
            self._move(((page.batch, {}) for page in read), "catching up", 0)
        return self.written - before

    def whole(self) -> int:
        """Bring every record that differs, and remove what is gone; how many records that took."""
        before, total, seen = self.written + self.deleted, self._source.count(), 0

        def found() -> Iterator[tuple[Batch, dict[str, Any]]]:
            nonlocal seen
            with closing(ahead(pages(self._source, _REVS))) as read:
                for page in read:
                    differing = self._differing(page.batch)
                    seen += len(page.batch)
                    for start in range(0, len(differing), self._most):
                        yield self._fetched(differing[start : start + self._most]), {}

        self._move(found(), "comparing", total, done=lambda: seen)
        self.remove_gone()
        return self.written + self.deleted - before

    def remove_gone(self) -> int:
        """Remove what the source has no more; how many records that were."""
        count, total, seen = 0, self._target.count(), 0
        with closing(ahead(pages(self._target, _REVS))) as read:
            for page in read:
                count += self._remove(page.batch)
                seen += len(page.batch)
                self._follow(self._pace.moving("looking for deleted", seen, total))
        self._forget_missing()
        self.deleted += count
        return count

    def follow_spec(self) -> None:
        """Declare what the source has declared meanwhile: folders, fields, other vectors."""
        self._source.refresh()
        try:
            self._declare()
        except ConfigError:  # users of the target have declared the same this very moment
            self._declare()

    def feed(self, *, until_done: bool) -> None:
        """Have who uses the target know that records are still brought there, or are no more: until then they delete on both
        sides, and what they find unchanged they write again. Without that neither would leave a trace, and a record that was
        deleted would come back, and one that was added again be removed.
        """
        feed(self._target, self._source.name if until_done else None)

    def _declare(self) -> None:
        self._target.refresh()
        ours, theirs = self._source.spec, self._target.spec
        fields = tuple(replace(f, ordinal=0) for f in ours.fields if theirs.field(f.name) is None)
        known = {source.name for source in theirs.sources}
        sources = tuple(source for source in ours.sources if source.name not in known)
        named = {vector.name for vector in theirs.vectors}
        vectors = tuple(vector for vector in ours.vectors if vector.name not in named)
        if fields or sources or vectors:
            self._target.alter(fields=fields, vectors=vectors, sources=sources)

    def lacking(self) -> int:
        """How many records the target lacks, or has of an older revision."""
        with closing(ahead(pages(self._source, _REVS))) as read:
            return sum(len(self._differing(page.batch)) for page in read)

    def removed(self) -> int:
        """How many records the target has that were removed from the source."""
        with closing(ahead(pages(self._target, _REVS))) as read:
            return sum(len(self._gone(page.batch)) for page in read)

    # --- pages ---

    def _pages(self, *, after: str | None = None, since: int | None = None) -> Iterator[Any]:
        want = wanted(self._source.spec, self._target.spec)
        return pages(self._source, want, after=after, since=since, most=self._most)

    @property
    def _most(self) -> int:
        """Records of a page."""
        return min(PAGE_RECORDS, self._pace.most)

    def _fetched(self, ids: Sequence[str]) -> Batch:
        return self._source.fetch(ids, want=wanted(self._source.spec, self._target.spec))

    def _whole_records(self, batch: Batch, known: Sequence[Vector]) -> Batch:
        """The records, read again where the source has more named vectors by now than those ``known`` as it was read: their
        revisions would say that nothing is lacking.
        """
        if len(batch):
            self._source.refresh()
            if self._source.spec.vectors != known:
                self.follow_spec()
                return self._fetched(batch.ids)
        return batch

    def _differing(self, batch: Batch) -> list[str]:
        """The ids of those records that are to be made."""
        there = revisions(self._target, batch.ids)
        pairs = list(zip(batch.ids, batch.revs or (), strict=True))
        self._ledger.confirm([(record, rev) for record, rev in pairs if there.get(record) == rev])
        return [record for record, rev in pairs if self._is_due(record, rev, there.get(record))]

    def _is_due(self, record: str, rev: int, there: int | None) -> bool:
        if there == rev:
            return False
        if there is None:
            if record in self._tried and self._ledger.left_out(record) == rev:
                return False
            # What a collection in use once had its users have removed since.
            return self.stage in (Stage.FILLING, Stage.BACK) or not self._held(record, rev)
        return rev > there if self.stage in (Stage.BACK, Stage.RETURNED) else self._ledger.own(record, there)

    def _held(self, record: str, rev: int) -> bool:
        """Whether the target once held a record with that revision."""
        return self._ledger.copied(record, rev) or (self._origin is not None and self._origin.copied(record, rev))

    def _move(
        self,
        batches: Iterable[tuple[Batch, dict[str, Any]]],
        phase: str,
        total: int,
        done: Callable[[], int] | None = None,
    ) -> None:
        """Make and write what is due of ``batches``; the facts of each are kept once it is written."""
        known = self._source.spec.vectors
        maker = self._maker
        if maker is None:
            raise ConfigError("nothing can be written without an encoder")
        under_way: deque[tuple[Making, dict[str, Any]]] = deque()

        def write() -> None:
            making, facts = under_way.popleft()
            self._write(*maker.finish(making), facts)
            so_far = self.written if done is None else done()
            self._follow(self._pace.moving(phase, so_far, max(total, so_far)))

        for batch, facts in batches:
            due = set(self._differing(batch))
            rows = [row for row, record in enumerate(batch.ids) if record in due]
            under_way.append((maker.begin(self._whole_records(batch.take(rows), known)), facts))
            while len(under_way) > _UNDER_WAY - 1:
                write()
        while under_way:
            write()

    def _write(self, batch: Batch, missing: list[Missing], facts: dict[str, Any]) -> None:
        if self.stage in (Stage.SWITCHED, Stage.RETURNED) and len(batch):  # encoding takes a while, and its users write
            due = set(self._differing(batch))
            batch = batch.take([row for row, record in enumerate(batch.ids) if record in due])
        records = list(zip(batch.ids, batch.revs or (), strict=True))
        self._ledger.plan(records)
        refused = sound(batch, self._upsert)
        missing += [Missing(record, rev, refused[record]) for record, rev in records if record in refused]
        written = [pair for pair in records if pair[0] not in refused]
        self._ledger.note(written, missing, **facts)
        self._tried.update(row.id for row in missing)
        self.written += len(written)
        if self.stage in (Stage.FILLING, Stage.BACK):  # else somebody waits for what was acknowledged
            self._pace.wait(len(written))
        if missing and self._stops:
            first = missing[0]
            raise InvalidImage(
                f"{first.id}: {first.reason}. The new collection is not used yet, and what was encoded stays: bring the picture "
                "back and give the same command again, or leave such records out (--missing keep-out)"
            )

    def _upsert(self, batch: Batch) -> None:
        """Write records with the revisions they have."""
        target = self._target
        checked = _records.checked(replace(batch, revs=None), target.spec)
        ready = target._physical(checked)  # noqa: SLF001 - as ``upsert``, but for revisions
        payloads = zip(ready.payloads or (), batch.revs or (), strict=True)
        ready = replace(ready, payloads=tuple({**payload, "_rev": rev} for payload, rev in payloads))
        for rows in pieces(ready, target.connector):
            piece = ready.take(rows)
            target._run("upsert", target.connector.upsert, piece, size=len(piece))  # noqa: SLF001

    # --- what is gone ---

    def _remove(self, batch: Batch) -> int:
        gone = self._gone(batch)
        # Not by id alone: whoever puts such a record back this very moment gives it a newer revision.
        for start in range(0, len(gone), PAGE_RECORDS):
            piece = gone[start : start + PAGE_RECORDS]
            newest = max(rev for _, rev in piece)
            where = bind(F.ids([record for record, _ in piece]) & (F["_rev"] <= newest), self._target.spec)
            self._target._delete_where(where)  # noqa: SLF001 - and not what the source has of them by now
        return len(gone)

    def _gone(self, batch: Batch) -> list[tuple[str, int]]:
        """Those records of the target that the source once had, and has no more."""
        there = set(self._source.fetch(batch.ids, want=Want(payload=False)).ids)
        pairs = zip(batch.ids, batch.revs or (), strict=True)
        return [(record, rev) for record, rev in pairs if record not in there and self._was_there(record, rev)]

    def _was_there(self, record: str, rev: int) -> bool:
        return self._ledger.own(record, rev) or (self._origin is not None and self._origin.copied(record, rev))

    def _forget_missing(self) -> None:
        missing = [row.id for row in self._ledger.missing()]
        for start in range(0, len(missing), PAGE_RECORDS):
            piece = missing[start : start + PAGE_RECORDS]
            there = set(self._source.fetch(piece, want=Want(payload=False)).ids)
            self._ledger.gone([record for record in piece if record not in there])


def revisions(collection: Collection, ids: Sequence[str]) -> dict[str, int]:
    """The revisions of those records that are there."""
    found = collection.fetch(ids, want=_REVS)
    return dict(zip(found.ids, found.revs or (), strict=True))
