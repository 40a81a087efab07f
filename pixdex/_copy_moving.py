"""Moving records from one collection to another: pages that are bounded by bytes, read ahead while others are written."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import orjson

from pixdex._copy_job import Refused
from pixdex._copy_shape import differing, everything, expected, native, sound, translated
from pixdex.errors import AlreadyExists
from pixdex.records_file import RecordsFile
from pixdex.spec import Spec
from pixdex.types import Batch, Page, Want

if TYPE_CHECKING:
    from pixdex._copy_job import Job
    from pixdex.collection import Collection

__all__ = ["Follow", "Mover", "Moving", "Pace", "ahead", "microseconds", "pages"]

T = TypeVar("T")

PAGE_BYTES = 4 << 20
"""Bytes of a page, about. Four are in memory: two read ahead, one being written, one being read."""
PAGE_RECORDS = 1000
_FIRST = 64
_AHEAD = 2
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """How far a copy is.

    Attributes:
        phase: ``copying``, ``catching up``, ``keeping up``, ``last pass``, ``finishing``, ``comparing ids``, ``checking``.
        done: records of this phase so far, those of an earlier run included.
        total: about how many there are.
        rate: records a second, of this run.
        left: seconds that it will still take, about; None while nobody knows.
    """

    phase: str
    done: int
    total: int
    rate: float
    left: float | None


Follow: TypeAlias = Callable[[Moving], None]


def microseconds() -> int:
    """The clock that revisions are of."""
    return time.time_ns() // 1000


def _set_forward() -> int:
    """How far that one is before the one that nobody sets, which is less once it was set back."""
    return microseconds() - time.monotonic_ns() // 1000


class Pace:
    """Holds a copy to so many records a second, and knows how fast it goes."""

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit = rate
        self._clock = clock
        self._sleep = sleep
        self._started = clock()
        self._done = 0

    @property
    def most(self) -> int:
        """Records a page may have, so that the rate is held from second to second."""
        return PAGE_RECORDS if self._limit is None else max(1, min(PAGE_RECORDS, int(self._limit)))

    def wait(self, count: int) -> None:
        """So many were written: wait until that is within the rate."""
        self._done += count
        if self._limit is not None:
            early = self._started + self._done / self._limit - self._clock()
            if early > 0:
                self._sleep(early)

    @property
    def done(self) -> int:
        """Records so far."""
        return self._done

    @property
    def rate(self) -> float:
        """Records a second so far."""
        return self._done / max(self._clock() - self._started, 1e-9)

    def moving(self, phase: str, done: int, total: int) -> Moving:
        """How far it is."""
        left = max(total - done, 0) / self.rate if self._done else None
        return Moving(phase=phase, done=done, total=max(total, done), rate=self.rate, left=left)


# --- reading ---


def pages(
    collection: Collection,
    want: Want,
    *,
    after: str | None = None,
    since: int | None = None,
    most: int = PAGE_RECORDS,
    stored: bool = False,
) -> Iterator[Page]:
    """The records of a collection in pages of about ``PAGE_BYTES``, or of ``most`` records. What a record takes is seen as
    they come. ``stored``: as they lie at the port.
    """
    size = min(_FIRST, most)
    scan: Callable[..., Iterator[Page]] = (
        partial(collection._stored, where=None) if stored else collection.scan  # noqa: SLF001 - as they lie at the port
    )
    while True:
        for page in scan(want=want, size=size, after=after, since=since):
            yield page
            after = page.after
            if after is None:
                return
            fitting = max(1, min(most, int(PAGE_BYTES * len(page.batch) / max(_bytes(page.batch), 1))))
            if len(page.batch) and not size / 2 <= fitting <= size * 1.25:
                size = fitting
                break
        else:
            return


def _bytes(batch: Batch) -> int:
    """What a page takes, by its vectors, its tokens and a few of its payloads."""
    some = (batch.payloads or ())[:: max(1, len(batch) // 16)]
    payloads = sum(len(orjson.dumps(payload, default=str)) for payload in some) / max(len(some), 1) * len(batch)
    tokens = sum(matrix.nbytes for matrix in batch.tokens or () if matrix is not None)
    return int(sum(matrix.nbytes for matrix in batch.vectors.values()) + tokens + payloads)


_END = object()


def ahead(items: Iterable[T], depth: int = _AHEAD) -> Generator[T, None, None]:
    """The same items, ``depth`` of them read by another thread while earlier ones are used. Close it, or use it up."""
    waiting: Queue[Any] = Queue(depth)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            if all(put((item, None)) for item in items):
                put((_END, None))
        except BaseException as error:  # noqa: BLE001 - raised where the items are used
            put((_END, error))

    thread = threading.Thread(target=read, name="pixdex-copy-reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        while not waiting.empty():
            try:
                waiting.get_nowait()
            except Empty:
                break
        thread.join()


# --- writing ---


@contextmanager
def _unsearched() -> Iterator[None]:
    """Have the garbage collector leave alone what is there already, modules above all: it would look through all of it again
    and again, which takes a tenth of a copy's time.
    """
    if gc.get_freeze_count():  # whoever did that has reasons
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _revs(batch: Batch) -> Sequence[int]:
    """Revisions of records of ours, as they lie at the port or not."""
    return batch.revs if batch.revs is not None else [payload.get("_rev", 0) for payload in batch.payloads or ()]


def _checked_alike(source: Collection, target: Collection) -> bool:
    """Whether all that the source holds was checked as the target checks what it gets: not what another tool, or who made a
    file, has written, and not against fields that only the target declares.
    """
    ours, theirs = ({(f.name, f.kind, f.many) for f in spec.fields} for spec in (source.spec, target.spec))
    checked = source.spec.native and not isinstance(source.connector, RecordsFile)
    return checked and target.spec.native and ours == theirs


class Mover:
    """From one collection to another, remembered in a job."""

    def __init__(
        self,
        source: Collection,
        target: Collection,
        job: Job,
        *,
        overlap: int,
        replaces: bool,
        guards: bool,
        pace: Pace,
        follow: Follow,
    ) -> None:
        """``overlap`` is in microseconds. A target that ``guards`` held records before; one of them with another content is
        replaced only if the copy ``replaces``.
        """
        self._source = source
        self._target = target
        self._job = job
        self._overlap = overlap
        self._guards = guards and not replaces
        self._pace = pace
        self._follow = follow
        self._native = source.spec.native
        self._set_forward = _set_forward()
        # Where they were checked once records go as they lie at the port: that saves a third.
        self._stored = not self._guards and _checked_alike(source, target)

    def main(self) -> None:
        """Every record, from where the job stopped."""
        job = self._job
        if job.fact("mark") is None:
            job.remember(mark=microseconds(), cursor=None)
        total = self._source.count()
        want, most = everything(self._source.spec), self._pace.most
        found = pages(self._source, want, after=job.fact("cursor"), most=most, stored=self._stored)
        with _unsearched(), closing(ahead(found)) as read:
            for page in read:
                self._write(page.batch, cursor=page.after, phase="main" if page.after is not None else "catch")
                self._follow(self._pace.moving("copying", job.fact("seen", 0), total))
        job.remember(phase="catch", cursor=None)

    def catch_up(self) -> int:
        """What was written since the last mark; how many records that were."""
        if not self._native:
            return self._compare_all()
        job, began, news = self._job, microseconds(), 0
        since = job.fact("mark") - self._overlap - self._set_back()
        # Most of what lies in the overlap is copied already: revisions are read first, and records of those that are new.
        found = pages(self._source, Want(), since=since, most=self._pace.most)
        with closing(ahead(found)) as read:
            for page in read:
                known = job.known(page.batch.ids, page.batch.revs or ())
                fresh = [record for record, before in zip(page.batch.ids, known, strict=True) if not before]
                if fresh:
                    news += self.these(fresh)
                    self._follow(self._pace.moving("catching up", news, news))
        job.remember(mark=began)
        job.forget_before(began - self._overlap)
        return news

    def _set_back(self) -> int:
        """Microseconds by which this clock was set back since the last pass: what was written then is older than its mark."""
        before, self._set_forward = self._set_forward, _set_forward()
        return max(before - self._set_forward, 0)

    def these(self, ids: Sequence[str]) -> int:
        """The records of these ids as the source has them now; how many of them it has."""
        batch = self._source.fetch(ids, want=everything(self._source.spec))
        if len(batch):
            self._write(batch, stored=False)
        return len(batch)

    def _compare_all(self) -> int:
        """Copy what the target holds otherwise: records of another tool have no revisions."""
        news = seen = 0
        want, total = everything(self._source.spec), self._source.count()
        refused = {row.id for row in self._job.refused()}
        with closing(ahead(pages(self._source, want, most=self._pace.most))) as read:
            for page in read:
                ours, unfit = expected(page.batch, self._source.spec, self._target.spec)
                theirs = self._target.fetch(ours.ids, want=everything(self._target.spec))
                changed = {*differing(ours, theirs, self._target.spec), *(unfit.keys() - refused)}
                rows = [row for row, record in enumerate(page.batch.ids) if record in changed]
                if rows:
                    self._write(page.batch.take(rows))
                    news += len(rows)
                seen += len(page.batch)
                self._follow(self._pace.moving("catching up", seen, total))
        return news

    def _write(self, batch: Batch, *, stored: bool = True, **facts: Any) -> None:
        recent = self._recent(batch)
        if self._guards:
            self._refuse_others(batch)
        self._job.intend(batch.ids)
        if self._stored and stored:
            refused = sound(batch, self._target._write)  # noqa: SLF001 - as they lie at the port
        else:
            refused = sound(replace(translated(batch, self._source.spec), revs=None), self._target.upsert)
        kept = [record for record in batch.ids if record not in refused] if refused else batch.ids
        said = [Refused(record, reason) for record, reason in refused.items()]
        self._job.acknowledge(kept, seen=len(batch), refused=said, recent=recent, **facts)
        self._pace.wait(len(batch))

    def _recent(self, batch: Batch) -> list[tuple[str, int]]:
        """What the next pass will meet again, by its revisions."""
        if not self._native:
            return []
        bound = self._job.fact("mark") - self._overlap
        return [(record, rev) for record, rev in zip(batch.ids, _revs(batch), strict=True) if rev > bound]

    def _refuse_others(self, batch: Batch) -> None:
        """Refuse to replace records that this job did not write, and that hold something else."""
        there = self._target.fetch(batch.ids, want=Want(payload=False)).ids
        foreign = set(there) - self._job.wrote(there)
        if foreign:
            refuse_others(self._source.spec, batch, self._target, foreign)

    def collisions(self) -> None:
        """Look for such records before anything is written.

        Raises:
            AlreadyExists: there are some.
        """
        if not self._guards:
            return
        seen, total = 0, self._source.count()
        for page in pages(self._source, Want(payload=False), most=PAGE_RECORDS):
            there = self._target.fetch(page.batch.ids, want=Want(payload=False)).ids
            foreign = set(there) - self._job.wrote(there)
            if foreign:
                batch = self._source.fetch(sorted(foreign), want=everything(self._source.spec))
                refuse_others(self._source.spec, batch, self._target, foreign)
            seen += len(page.batch)
            self._follow(Moving(phase="looking for collisions", done=seen, total=total, rate=0.0, left=None))


def refuse_others(source: Spec, batch: Batch, target: Collection, among: set[str]) -> None:
    """Refuse records of ``batch`` whose ids are in the target, ``among`` those, with another content.

    Raises:
        AlreadyExists: there are some; the first are named.
    """
    asked = batch.take([row for row, record in enumerate(batch.ids) if record in among])
    ours, _ = expected(asked, source, native(source))
    theirs = target.fetch(ours.ids, want=everything(target.spec))
    others = differing(ours, theirs, target.spec)
    if others:
        some = ", ".join(f"{record!r} ({what})" for record, what in sorted(others.items())[:_NAMED])
        more = f" and {len(others) - _NAMED} more of this page" if len(others) > _NAMED else ""
        raise AlreadyExists(
            f"the target holds other records under ids of the source: {some}{more}. Nothing of theirs was touched: copy to "
            "another collection, or say that the source's replace them (--replace)"
        )
