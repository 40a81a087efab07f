"""What the second store of a mirror would have answered, compared with what the first did, beside the program's work."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from pixdex.types import Batch, Hit

__all__ = ["Comparison", "Difference", "NotCompared", "Shadow", "batches_differ", "counts_differ", "hits_differ"]

_log = logging.getLogger("pixdex.connectors.mirror")

_SCORES, _VECTORS = 1e-5, 1e-6
"""Tolerances of the laws: of scores, in proportion above 1, and of stored vectors."""
_WAITING = 64
"""Reads that wait to be compared; more are not compared."""
_EXAMPLES = 20
_AGAIN = 0.1
"""Seconds after which both are asked again where they differ or the second fails: a write may have come between."""
_PATIENCE = 30.0
"""Seconds that whoever wants to know waits for what is being compared."""

Verdict: TypeAlias = "tuple[str, float]"
"""What differs (empty: nothing), and the share of the first store's answer that the second gives too."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A read that the two stores answered differently, twice."""

    verb: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was compared so far.

    Attributes:
        reads: answers compared; ``differing`` of them differed.
        overlap: the mean share of an answer's records that the second store gives too; 1 where nothing was compared.
        skipped: reads not compared: more came than could be, writes came between all the time, or the second store can't answer such.
        failed: reads that the second store failed to answer.
        unwritten: records whose last write the second store failed to take, so far; ``flush`` tries again.
        examples: the first differences.
    """

    reads: int = 0
    differing: int = 0
    overlap: float = 1.0
    skipped: int = 0
    failed: int = 0
    unwritten: int = 0
    examples: tuple[Difference, ...] = ()


class NotCompared(Exception):
    """There was no moment to compare in."""


class Shadow:
    """Compares answers in a thread of its own; no caller waits for it."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: set[Future[None]] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._so_far = Comparison()
        self._failure = ""

    def compare(self, verb: str, ask: Callable[[], Verdict], again: Callable[[], Verdict]) -> None:
        """Have ``ask`` say what differs; if anything does, ``again`` a moment later, which counts, unless it raises NotCompared."""
        with self._lock:
            if self._closing.is_set():
                return
            if self.full:
                self._so_far = replace(self._so_far, skipped=self._so_far.skipped + 1)
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="pixdex-mirror")
            future = self._pool.submit(self._compared, verb, ask, again)
            self._waiting.add(future)
        future.add_done_callback(self._done)

    @property
    def full(self) -> bool:
        """As much waits as may."""
        return len(self._waiting) >= _WAITING

    def skip(self) -> None:
        """A read that is not compared."""
        with self._lock:
            self._so_far = replace(self._so_far, skipped=self._so_far.skipped + 1)

    def comparison(self) -> Comparison:
        """What was compared, after all that waits for it, or half a minute."""
        with self._lock:
            waiting = set(self._waiting)
        wait(waiting, _PATIENCE)
        return self._so_far

    def close(self) -> None:
        """Compare no more; what was not begun is left out, and what was begun is not asked again."""
        self._closing.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _done(self, future: Future[None]) -> None:
        with self._lock:
            self._waiting.discard(future)

    def _compared(self, verb: str, ask: Callable[[], Verdict], again: Callable[[], Verdict]) -> None:
        try:
            what, share = self._twice(ask, again)
        except NotCompared:
            self.skip()
            return
        except Exception as error:  # noqa: BLE001 - the second store is on trial: whatever it raises is counted
            if self._closing.is_set():
                return
            known = str(error) == self._failure  # a store that is away fails them all: that is said once
            _log.log(
                logging.DEBUG if known else logging.WARNING,
                "mirror: the second store failed to answer %s: %s",
                verb,
                error,
            )
            with self._lock:
                self._failure = str(error)
                self._so_far = replace(self._so_far, failed=self._so_far.failed + 1)
            return
        if what:
            _log.warning("mirror: %s differs: %s", verb, what)
        with self._lock:
            self._failure = ""
            self._so_far = _counted(self._so_far, verb, what, share)

    def _twice(self, ask: Callable[[], Verdict], again: Callable[[], Verdict]) -> Verdict:
        try:
            what, share = ask()
            if not what:
                return what, share
        except Exception:  # noqa: BLE001 - or gone meanwhile
            _log.debug("mirror: asked again", exc_info=True)
        if self._closing.wait(_AGAIN):
            raise NotCompared
        return again()


def _counted(before: Comparison, verb: str, what: str, share: float) -> Comparison:
    reads = before.reads + 1
    examples = before.examples
    if what and len(examples) < _EXAMPLES:
        examples = (*examples, Difference(verb, what))
    return replace(
        before,
        reads=reads,
        differing=before.differing + bool(what),
        overlap=before.overlap + (share - before.overlap) / reads,
        examples=examples,
    )


def counts_differ(first: int, second: int) -> Verdict:
    """Two counts."""
    if first == second:
        return "", 1.0
    return f"{first} records in the first store, {second} in the second", min(first, second) / max(first, second)


def hits_differ(first: Sequence[Sequence[Hit]], second: Sequence[Sequence[Hit]]) -> Verdict:
    """The hits of several queries: place by place the same score, and the same record, or one that scores as much."""
    shares = []
    what = ""
    for query, (ours, theirs) in enumerate(zip(first, second, strict=True)):
        known = {hit.id for hit in theirs}
        shares.append(sum(hit.id in known for hit in ours) / len(ours) if ours else float(not theirs))
        what = what or _lists_differ(query, ours, theirs)
    return what, float(np.mean(shares)) if shares else 1.0


def _lists_differ(query: int, ours: Sequence[Hit], theirs: Sequence[Hit]) -> str:
    if len(ours) != len(theirs):
        return f"query {query}: {len(ours)} hits of the first store, {len(theirs)} of the second"
    for place, (one, other) in enumerate(zip(ours, theirs, strict=True), start=1):
        if abs(one.score - other.score) > _SCORES * max(1.0, abs(one.score)):
            return (
                f"query {query}, place {place}: {one.id!r} scores {one.score:.6f} in the first store, "
                f"{other.id!r} {other.score:.6f} in the second"
            )
    return ""


def batches_differ(first: Batch, second: Batch) -> Verdict:
    """Records by id: payloads, vectors and tokens that both were asked for."""
    row_of = {record: row for row, record in enumerate(second.ids)}
    missing = [record for record in first.ids if record not in row_of]
    share = 1 - len(missing) / len(first) if len(first) else 1.0
    if missing:
        return f"{len(missing)} records are not in the second store, such as {missing[0]!r}", share
    more = set(second.ids) - set(first.ids)
    if more:
        return f"{len(more)} records are in the second store only, such as {min(more)!r}", share
    for row, record in enumerate(first.ids):
        what = _records_differ(first, row, second, row_of[record])
        if what:
            return f"{what} of {record!r}", share
    return "", share


def _records_differ(first: Batch, row: int, second: Batch, other: int) -> str:
    if first.payloads is not None and second.payloads is not None and first.payloads[row] != second.payloads[other]:
        return "the payload"
    for column, matrix in first.vectors.items():
        if first.present(column)[row] != second.present(column)[other]:
            return f"the presence of vector {column!r}"
        if not np.allclose(matrix[row], second.vectors[column][other], rtol=_VECTORS, atol=_VECTORS):
            return f"the vector {column!r}"
    if first.tokens is not None and second.tokens is not None:
        one, two = first.tokens[row], second.tokens[other]
        if (one is None) != (two is None) or (one is not None and two is not None and not np.array_equal(one, two)):
            return "the tokens"
    return ""
