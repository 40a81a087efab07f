"""Single faults of stores, most of them met in the wild, planted into the oracle.

Each class is the oracle with one mistake. Its decorator names a test that is expected to catch it; any
other may too.
"""

from __future__ import annotations

import contextlib
import math
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pixdex.connectors import memory
from pixdex.connectors.memory import MemoryConnector
from pixdex.errors import AlreadyExists, InvalidRecord, NotFound, StoreError, StoreUnavailable
from pixdex.filters import And, Box, Contains, Eq, Exists, Filter, Near, Not, Or, Range, matches
from pixdex.spec import Kind, Metric, Spec
from pixdex.types import Batch, Hit, Page, Scan, Search, Want

MUTANTS: dict[str, tuple[type[MemoryConnector], str]] = {}
"""name -> the mutant and the test that is expected to catch it."""


def caught_by(test: str) -> Callable[[type[MemoryConnector]], type[MemoryConnector]]:
    def register(mutant: type[MemoryConnector]) -> type[MemoryConnector]:
        MUTANTS[mutant.__name__] = (mutant, test)
        return mutant

    return register


# --- scores ---------------------------------------------------------------------------------------

KEYSTONE = "test_score_is_the_defined_similarity"


class _Scored(MemoryConnector):
    metric: Metric

    def wrong(self, score: float) -> float:
        raise NotImplementedError

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        found = super().search(name, request, timeout=timeout)
        metric = next(v.metric for v in self.describe(name, timeout=timeout).vectors if v.column == request.using)
        if metric is not self.metric:
            return found
        return [[replace(hit, score=self.wrong(hit.score)) for hit in hits] for hits in found]


@caught_by(KEYSTONE)
class L2IsADistance(_Scored):
    metric = Metric.L2

    def wrong(self, score: float) -> float:
        return -score


@caught_by(KEYSTONE)
class L2IsRooted(_Scored):
    metric = Metric.L2

    def wrong(self, score: float) -> float:
        return -math.sqrt(-score)


@caught_by(KEYSTONE)
class L2IsARelevance(_Scored):
    metric = Metric.L2

    def wrong(self, score: float) -> float:
        return 1 / (1 - score)


@caught_by(KEYSTONE)
class CosineIsADistance(_Scored):
    metric = Metric.COSINE

    def wrong(self, score: float) -> float:
        return 1 - score


@caught_by(KEYSTONE)
class CosineIsScaledToOne(_Scored):
    metric = Metric.COSINE

    def wrong(self, score: float) -> float:
        return (1 + score) / 2


@caught_by(KEYSTONE)
class DotIsNegated(_Scored):
    metric = Metric.DOT

    def wrong(self, score: float) -> float:
        return -score


@caught_by(KEYSTONE)
class DotIsOneMinus(_Scored):
    metric = Metric.DOT

    def wrong(self, score: float) -> float:
        return 1 - score


@caught_by(KEYSTONE)
class ScoresAreRounded(_Scored):
    metric = Metric.L2

    def wrong(self, score: float) -> float:
        return float(np.float16(score))


# --- search ---------------------------------------------------------------------------------------


@caught_by("test_a_filter_applies_before_top_k")
class PostFiltering(MemoryConnector):
    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        found = super().search(name, replace(request, where=None), timeout=timeout)
        where = request.where
        return [[h for h in hits if where is None or matches(where, h.id, h.payload or {})] for hits in found]


@caught_by("test_a_filter_applies_before_top_k")
class SearchIgnoresTheFilter(MemoryConnector):
    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        return super().search(name, replace(request, where=None), timeout=timeout)


@caught_by(KEYSTONE)
class OneHitTooFew(MemoryConnector):
    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        return [hits[: max(1, request.k - 1)] for hits in super().search(name, request, timeout=timeout)]


@caught_by(KEYSTONE)
class TheWorstComeFirst(MemoryConnector):
    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        found = super().search(name, replace(request, k=10**6), timeout=timeout)
        return [list(reversed(hits))[: request.k] for hits in found]


@caught_by(KEYSTONE)
class TheFirstQueryAnswersAll(MemoryConnector):
    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        found = super().search(name, request, timeout=timeout)
        return [found[0] for _ in found]


@caught_by("test_a_record_without_its_only_vector")
class AMissingVectorIsFound(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        vectors = {c: np.where(batch.present(c)[:, None], m, 1) for c, m in batch.vectors.items()}
        for vector in self.describe(name, timeout=timeout).vectors:
            vectors.setdefault(vector.column, np.ones((len(batch), vector.dim), np.float32))
        super().upsert(name, replace(batch, vectors=vectors, absent={}), timeout=timeout)


@caught_by("test_stale_handle_is_a_fingerprint_mismatch")
class AnUnknownVectorIsAccepted(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        known = {v.column for v in self.describe(name, timeout=timeout).vectors}
        super().upsert(
            name, replace(batch, vectors={c: m for c, m in batch.vectors.items() if c in known}), timeout=timeout
        )


@caught_by("test_stale_handle_is_a_fingerprint_mismatch")
class AnUnknownVectorIsSearched(MemoryConnector):
    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        columns = [v.column for v in self.describe(name, timeout=timeout).vectors]
        using = request.using if request.using in columns else columns[0]
        return super().search(name, replace(request, using=using), timeout=timeout)


# --- ids ------------------------------------------------------------------------------------------


class _Renamed(MemoryConnector):
    def kept(self, record: str) -> str:
        raise NotImplementedError

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        super().upsert(name, replace(batch, ids=tuple(map(self.kept, batch.ids))), timeout=timeout)

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        super().delete(name, list(map(self.kept, ids)), timeout=timeout)

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        asked = {self.kept(record): record for record in ids}
        batch = super().fetch(name, list(asked), want=want, timeout=timeout)
        return replace(batch, ids=tuple(asked[record] for record in batch.ids))


@caught_by("test_ids_of_every_shape")
class IdsAreNumbers(_Renamed):
    def kept(self, record: str) -> str:
        return str(int(record)) if record.isascii() and record.isdigit() else record


@caught_by("test_long_ids")
class IdsAreCut(_Renamed):
    def kept(self, record: str) -> str:
        return record.encode()[:511].decode(errors="ignore")


@caught_by("test_ids_of_every_shape")
class IdsAreFolded(_Renamed):
    def kept(self, record: str) -> str:
        return record.casefold()


@caught_by("test_ids_of_every_shape")
class IdsAreStripped(_Renamed):
    def kept(self, record: str) -> str:
        return record.strip() or record


@caught_by("test_ids_of_every_shape")
class IdsAreNormalized(_Renamed):
    def kept(self, record: str) -> str:
        return unicodedata.normalize("NFC", record)


@caught_by("test_ids_of_every_shape")
class IdsEndAtNul(_Renamed):
    def kept(self, record: str) -> str:
        return record.partition("\0")[0] or record


# --- writes ---------------------------------------------------------------------------------------


@caught_by("test_upsert_replaces_the_whole_record")
class PayloadsAreMerged(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        records = self._collection(name).records
        old = [records[i].payload if i in records else {} for i in batch.ids]
        payloads = tuple({**o, **p} for o, p in zip(old, batch.payloads or (), strict=True))
        super().upsert(name, replace(batch, payloads=payloads), timeout=timeout)


@caught_by("test_upsert_drops_a_vector_that_is_left_out")
class VectorsAreMerged(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        records = self._collection(name).records
        old = {i: records[i].vectors for i in batch.ids if i in records}
        super().upsert(name, batch, timeout=timeout)
        for record, vectors in old.items():
            records[record] = replace(records[record], vectors={**vectors, **records[record].vectors})


@caught_by("test_upsert_drops_tokens_that_are_left_out")
class TokensAreMerged(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        records = self._collection(name).records
        old = {i: records[i].tokens for i in batch.ids if i in records}
        super().upsert(name, batch, timeout=timeout)
        for record, tokens in old.items():
            if records[record].tokens is None:
                records[record] = replace(records[record], tokens=tokens)


@caught_by("test_the_last_write_wins")
class TheFirstWriteWins(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        records = self._collection(name).records
        rows = [row for row, record in enumerate(batch.ids) if record not in records]
        super().upsert(name, batch.take(rows), timeout=timeout)


@caught_by("test_upsert_is_idempotent")
class UpsertAppends(MemoryConnector):
    """The old row stays: count and scan see it twice."""

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        records = self._collection(name).records
        self._twice = {*getattr(self, "_twice", ()), *((name, i) for i in batch.ids if i in records)}
        super().upsert(name, batch, timeout=timeout)

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        twice = sum(1 for i in self._matching(name, where) if (name, i) in getattr(self, "_twice", ()))
        return super().count(name, where, timeout=timeout) + twice


@caught_by("test_delete_ignores_unknown_ids")
class DeleteIsStrict(MemoryConnector):
    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        for record in ids:
            if record not in self._collection(name).records:
                raise InvalidRecord(f"no record {record!r}")
        super().delete(name, ids, timeout=timeout)


@caught_by("test_fetch_ignores_unknown_ids")
class FetchIsStrict(MemoryConnector):
    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        batch = super().fetch(name, ids, want=want, timeout=timeout)
        if len(batch) < len(ids):
            raise InvalidRecord("some ids are unknown")
        return batch


@caught_by("test_delete_ignores_unknown_ids")
class DeletedRecordsAreStillFound(MemoryConnector):
    """A tombstone that search does not know."""

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        ghosts = getattr(self, "_ghosts", {})
        self._ghosts = {**ghosts, name: {**ghosts.get(name, {}), **self._collection(name).records}}
        super().delete(name, ids, timeout=timeout)

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        now = self._collection(name)
        alive, now.records = now.records, {**getattr(self, "_ghosts", {}).get(name, {}), **now.records}
        try:
            return super().search(name, request, timeout=timeout)
        finally:
            now.records = alive


@caught_by("test_delete_where")
class DeleteWhereIgnoresTheFilter(MemoryConnector):
    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        super().delete_where(name, And(()), timeout=timeout)


@caught_by("test_stored_vector_equals_the_checked_one")
class VectorsAreHalves(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        vectors = {c: m.astype(np.float16).astype(np.float32) for c, m in batch.vectors.items()}
        super().upsert(name, replace(batch, vectors=vectors), timeout=timeout)


@caught_by("test_stored_vector_equals_the_checked_one")
class VectorsAreNormalizedByTheStore(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        norms = {c: np.linalg.norm(m, axis=1, keepdims=True) for c, m in batch.vectors.items()}
        vectors = {c: m / np.where(norms[c] == 0, 1, norms[c]) for c, m in batch.vectors.items()}
        super().upsert(name, replace(batch, vectors=vectors), timeout=timeout)


# --- payloads and tokens --------------------------------------------------------------------------


class _Rewritten(MemoryConnector):
    def kept(self, value: Any) -> Any:
        raise NotImplementedError

    def walk(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: self.walk(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.walk(v) for v in value]
        return self.kept(value)

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        super().upsert(name, replace(batch, payloads=tuple(map(self.walk, batch.payloads or ()))), timeout=timeout)


@caught_by("test_payload_comes_back_as_it_was")
class BoolsAreInts(_Rewritten):
    def kept(self, value: Any) -> Any:
        return int(value) if isinstance(value, bool) else value


@caught_by("test_payload_comes_back_as_it_was")
class WholeFloatsAreInts(_Rewritten):
    def kept(self, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value


@caught_by("test_payload_comes_back_as_it_was")
class IntsAreFloat32(_Rewritten):
    def kept(self, value: Any) -> Any:
        return int(np.float32(value)) if type(value) is int and abs(value) > 2**50 else value


@caught_by("test_payload_comes_back_as_it_was")
class TextIsNormalized(_Rewritten):
    def kept(self, value: Any) -> Any:
        return unicodedata.normalize("NFD", value) if isinstance(value, str) else value


@caught_by("test_payload_comes_back_as_it_was")
class NullsAreDropped(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        payloads = tuple({k: v for k, v in p.items() if v is not None} for p in batch.payloads or ())
        super().upsert(name, replace(batch, payloads=payloads), timeout=timeout)


@caught_by("test_payload_comes_back_as_it_was")
class EmptyListsAreNull(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        payloads = tuple({k: None if v == [] else v for k, v in p.items()} for p in batch.payloads or ())
        super().upsert(name, replace(batch, payloads=payloads), timeout=timeout)


@caught_by("test_what_is_read_is_the_readers_own")
class HandsOutItsOwn(MemoryConnector):
    def _read(self, name: str, ids: Sequence[str], want: Want) -> Batch:
        batch = super()._read(name, ids, want)
        if batch.payloads is None:
            return batch
        records = self._collection(name).records
        return replace(batch, payloads=tuple({**records[record].payload} for record in ids))


@caught_by("test_what_comes_back_may_be_changed")
class ReadsAreViews(MemoryConnector):
    def _read(self, name: str, ids: Sequence[str], want: Want) -> Batch:
        batch = super()._read(name, ids, want)
        records = self._collection(name).records
        return replace(batch, payloads=tuple(records[i].payload for i in ids) if want.payload else None)


@caught_by("test_revisions_rise")
class RevisionsAreForgotten(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        payloads = tuple({k: v for k, v in p.items() if k != "_rev"} for p in batch.payloads or ())
        super().upsert(name, replace(batch, payloads=payloads), timeout=timeout)


@caught_by("test_tokens_come_back_when_asked_for")
class TokensComeUnasked(MemoryConnector):
    def _read(self, name: str, ids: Sequence[str], want: Want) -> Batch:
        return super()._read(name, ids, replace(want, tokens=True))


@caught_by("test_tokens_come_back_when_asked_for")
class TokensAreDropped(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        super().upsert(name, replace(batch, tokens=None), timeout=timeout)


@caught_by("test_tokens_come_back_when_asked_for")
class TokensAreFloat32(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        tokens = (
            None if batch.tokens is None else tuple(None if t is None else t.astype("float32") for t in batch.tokens)
        )
        super().upsert(name, replace(batch, tokens=tokens), timeout=timeout)


@caught_by("test_want_names_what_comes_back")
class VectorsComeUnasked(MemoryConnector):
    def _read(self, name: str, ids: Sequence[str], want: Want) -> Batch:
        return super()._read(
            name, ids, replace(want, vectors=tuple(v.column for v in self._collection(name).spec.vectors))
        )


@caught_by("test_scan_brings_vectors_and_payloads")
class VectorsComeInAnotherOrder(MemoryConnector):
    def _read(self, name: str, ids: Sequence[str], want: Want) -> Batch:
        batch = super()._read(name, ids, want)
        return replace(batch, vectors={c: m[::-1].copy() for c, m in batch.vectors.items()})


# --- scan and count -------------------------------------------------------------------------------


@caught_by("test_scan_visits_every_record_once")
class TheLastPageIsLost(MemoryConnector):
    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        page = super().scan(name, request, timeout=timeout)
        if page.after is None:
            return page
        following = super().scan(name, replace(request, after=page.after), timeout=timeout)
        return Page(page.batch, None if following.after is None else page.after)


@caught_by("test_scan_visits_every_record_once")
class PagesOverlap(MemoryConnector):
    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        page = super().scan(name, request, timeout=timeout)
        overlap = page.after is not None and len(page.batch) > 1
        return Page(page.batch, page.batch.ids[-2] if overlap else page.after)


@caught_by("test_scan_while_visited_records_are_deleted")
class TheCursorCounts(MemoryConnector):
    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        start = int(request.after or 0)
        found = sorted(self._matching(name, request.where))
        end = start + request.size
        return Page(self._read(name, found[start:end], request.want), str(end) if len(found) > end else None)


@caught_by("test_scan_visits_every_record_once")
class PagesAreTooLarge(MemoryConnector):
    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        return super().scan(name, replace(request, size=request.size + 1), timeout=timeout)


@caught_by("test_filter")
class ScanIgnoresTheFilter(MemoryConnector):
    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        return super().scan(name, replace(request, where=None), timeout=timeout)


@caught_by("test_scan_resumes_with_a_filter")
class LaterPagesIgnoreTheFilter(MemoryConnector):
    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        return super().scan(name, request if request.after is None else replace(request, where=None), timeout=timeout)


@caught_by("test_count")
class CountIgnoresTheFilter(MemoryConnector):
    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        return super().count(name, None, timeout=timeout)


@caught_by("test_flush_makes_everything_visible")
class CountIsAnEstimate(MemoryConnector):
    """Deleted records are counted, as statistics of some engines do."""

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        self._gone = {**getattr(self, "_gone", {}), name: getattr(self, "_gone", {}).get(name, 0) + len(ids)}
        super().delete(name, ids, timeout=timeout)

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        return super().count(name, where, timeout=timeout) + (
            getattr(self, "_gone", {}).get(name, 0) if where is None else 0
        )


# --- filters --------------------------------------------------------------------------------------


class _Truth(MemoryConnector):
    """The oracle with another meaning of leaves."""

    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        return matches(where, record, payload)

    def holds(self, where: Filter, record: str, payload: Any) -> bool:
        match where:
            case And(parts):
                return all(self.holds(part, record, payload) for part in parts)
            case Or(parts):
                return any(self.holds(part, record, payload) for part in parts)
            case Not(part):
                return not self.holds(part, record, payload)
        return self.leaf(where, record, payload)

    def _matching(self, name: str, where: Filter | None) -> Iterator[str]:
        for record, kept in self._collection(name).records.items():
            if where is None or self.holds(where, record, kept.payload):
                yield record


@caught_by("test_filter[text !=]")
class LogicIsThreeValued(_Truth):
    def holds(self, where: Filter, record: str, payload: Any) -> bool:
        match where:
            case Not(Eq(field) as part):
                return payload.get(field.name) is not None and not self.holds(part, record, payload)
        return super().holds(where, record, payload)


@caught_by("test_filter[contains text]")
class NotIsThreeValuedOnLists(_Truth):
    def holds(self, where: Filter, record: str, payload: Any) -> bool:
        match where:
            case Not(Contains(field) as part):
                return bool(payload.get(field.name)) and not self.holds(part, record, payload)
        return super().holds(where, record, payload)


@caught_by("test_filter[text ==]")
class TextIsFolded(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        match where:
            case Eq(field, str(value)):
                return str(payload.get(field.name) or "\0").casefold() == value.casefold()
        return super().leaf(where, record, payload)


@caught_by("test_hostile_text_in_a_filter")
class TextIsStripped(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        match where:
            case Eq(field, str(value)):
                found = payload.get(field.name)
                return found is not None and found.rstrip(" ") == value.rstrip(" ")
        return super().leaf(where, record, payload)


@caught_by("test_hostile_text_in_a_filter")
class TextIsAPattern(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        match where:
            case Eq(field, "%"):
                return payload.get(field.name) is not None
        return super().leaf(where, record, payload)


@caught_by("test_filter[contains text]")
class ContainsIsASubstring(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        match where:
            case Contains(field, (str(value), *_)):
                return any(value in item for item in payload.get(field.name) or ())
        return super().leaf(where, record, payload)


@caught_by("test_filter[contains any]")
class ContainsMeansAll(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        if isinstance(where, Contains):
            return all(matches(Contains(where.field, (value,)), record, payload) for value in where.values)
        return super().leaf(where, record, payload)


@caught_by("test_filter[list exists]")
class EmptyListsExist(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        if isinstance(where, Exists):
            return payload.get(where.field.name) is not None
        return super().leaf(where, record, payload)


@caught_by("test_filter[text exists]")
class NullsExist(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        if isinstance(where, Exists):
            return where.field.name in payload and payload[where.field.name] != []
        return super().leaf(where, record, payload)


@caught_by("test_filter[int == 0]")
class AbsentIsZero(_Truth):
    """A column that cannot be null, without a guard."""

    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        match where:
            case Eq(field, 0) if field.kind is Kind.INT:
                return not payload.get(field.name)
        return super().leaf(where, record, payload)


@caught_by("test_filter[int >=]")
class RangesAreOpen(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        if isinstance(where, Range) and where.low is not None and where.field.kind is Kind.INT:
            at_low = matches(Eq(where.field, where.low), record, payload)
            return super().leaf(where, record, payload) and not at_low
        return super().leaf(where, record, payload)


@caught_by("test_filter[int between]")
class TheUpperBoundIsForgotten(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        if isinstance(where, Range) and where.low is not None:
            return super().leaf(replace(where, high=None), record, payload)
        return super().leaf(where, record, payload)


@caught_by("test_filter[int between just below the largest]")
class IntsCompareAsFloat32(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        if isinstance(where, Range) and where.field.kind is Kind.INT:
            value = payload.get(where.field.name)
            low, high = (None if b is None else np.float32(b) for b in (where.low, where.high))
            return (
                value is not None
                and (low is None or np.float32(value) >= low)
                and (high is None or np.float32(value) <= high)
            )
        return super().leaf(where, record, payload)


@caught_by("test_filter[time ==]")
class TimesAreMilliseconds(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        match where:
            case Eq(field, int(value)) if field.kind is Kind.TIME:
                start = value // 1000 * 1000
                return super().leaf(Range(field, start, start + 999), record, payload)
        return super().leaf(where, record, payload)


@caught_by("test_filter[across the date line]")
class TheEarthIsFlat(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        match where:
            case Near(field, lat, lon, km) if not field.many:
                place = payload.get(field.name)
                return place is not None and math.hypot(place["lat"] - lat, place["lon"] - lon) * 111.2 <= km
        return super().leaf(where, record, payload)


@caught_by("test_filter[box across the date line]")
class BoxesEndAtTheDateLine(_Truth):
    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        if isinstance(where, Box) and where.west > where.east:
            return False
        return super().leaf(where, record, payload)


@caught_by("test_filter[or]")
class OrIsAnd(_Truth):
    def holds(self, where: Filter, record: str, payload: Any) -> bool:
        return super().holds(And(where.parts) if isinstance(where, Or) and where.parts else where, record, payload)


@caught_by("test_filter[and]")
class AClauseIsDropped(_Truth):
    def holds(self, where: Filter, record: str, payload: Any) -> bool:
        return super().holds(And(where.parts[:1]) if isinstance(where, And) else where, record, payload)


# --- collections ----------------------------------------------------------------------------------


@caught_by("test_describe_gives_the_spec_while_empty")
class AnEmptyCollectionForgetsItsSpec(MemoryConnector):
    def describe(self, name: str, *, timeout: float | None) -> Spec:
        if not self._collection(name).records:
            raise NotFound(f"no collection {name!r}")
        return super().describe(name, timeout=timeout)


@caught_by("test_describe_gives_the_whole_spec")
class FingerprintsLoseTheirParts(MemoryConnector):
    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        vectors = tuple(replace(v, fingerprint=replace(v.fingerprint, parts={})) for v in spec.vectors)
        super().create(name, replace(spec, vectors=vectors), timeout=timeout)


@caught_by("test_create_twice_is_already_exists")
class CreateReplaces(MemoryConnector):
    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        try:
            super().create(name, spec, timeout=timeout)
        except AlreadyExists:
            self.drop(name, timeout=timeout)
            super().create(name, spec, timeout=timeout)


@caught_by("test_drop_and_create_is_empty")
class DropKeepsTheRecords(MemoryConnector):
    def drop(self, name: str, *, timeout: float | None) -> None:
        if name in self._store.collections:
            self._graves = {**getattr(self, "_graves", {}), name: self._store.collections[name].records}
        super().drop(name, timeout=timeout)

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        super().create(name, spec, timeout=timeout)
        self._store.collections[name].records.update(getattr(self, "_graves", {}).get(name, {}))


@caught_by("test_collection_names_that_look_alike_are_two")
class CollectionNamesAreCleaned(MemoryConnector):
    def _collection(self, name: str) -> Any:
        return super()._collection(name.replace("-", "_").replace(".", "_"))

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        super().create(name.replace("-", "_").replace(".", "_"), spec, timeout=timeout)


@caught_by("test_unknown_collection_is_not_found")
class UnknownCollectionsAreEmpty(MemoryConnector):
    def _collection(self, name: str) -> Any:
        try:
            return super()._collection(name)
        except NotFound:
            return memory._Collection(Spec(vectors=next(iter(self._store.collections.values())).spec.vectors))


@caught_by("test_alias_switches")
class AliasesAreNotSwitched(MemoryConnector):
    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        if name is None or alias not in self._store.aliases:
            super().alias(alias, name, timeout=timeout)


@caught_by("test_alias_opens_its_collection")
class AliasesAreListedAsCollections(MemoryConnector):
    def names(self, *, timeout: float | None) -> Sequence[str]:
        return sorted([*super().names(timeout=timeout), *self._store.aliases])


@caught_by("test_drop_takes_its_aliases_along")
class DroppingAnAliasDropsItsCollection(MemoryConnector):
    def drop(self, name: str, *, timeout: float | None) -> None:
        super().drop(self._store.aliases.get(name, name), timeout=timeout)


@caught_by("test_alter_adds_a_field_filled_from_payloads")
class AlterForgetsOldRecords(MemoryConnector):
    """Only records written after a field was declared have it in a column."""

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        super().alter(name, spec, timeout=timeout)
        new = {f.name for f in spec.fields} - {"label", "n"}
        records = self._collection(name).records
        for record, old in records.items():
            records[record] = replace(old, payload={k: v for k, v in old.payload.items() if k not in new})


@caught_by("test_flush_makes_everything_visible")
class WritesAreSeenOneWriteLate(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        waiting = getattr(self, "_waiting", {})
        self._waiting = {**waiting, name: batch}
        if name in waiting:
            super().upsert(name, waiting[name], timeout=timeout)


# --- many at once ---------------------------------------------------------------------------------

PAUSE = 0.002
"""Seconds in which others meet what is half done."""


@caught_by("test_threads_with_the_same_records")
class AWriteIsSeenInTwoSteps(MemoryConnector):
    """First the payload, then the vector."""

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        records = self._collection(name).records
        old = {i: records[i].vectors for i in batch.ids if i in records}
        super().upsert(name, batch, timeout=timeout)
        new = {i: records[i] for i in old}
        for record, vectors in old.items():
            records[record] = replace(new[record], vectors=vectors)
        time.sleep(PAUSE)
        records.update(new)


@caught_by("test_threads_with_the_same_records")
class ReplacingIsDeletingAndInserting(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        super().delete(name, batch.ids, timeout=timeout)
        time.sleep(PAUSE)
        super().upsert(name, batch, timeout=timeout)


@caught_by("test_threads_with_records_of_their_own")
class TheSlowerWriterWins(MemoryConnector):
    """Reads all, changes it, writes all, without a lock: what others wrote meanwhile is lost."""

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        now = self._collection(name)
        seen = dict(now.records)
        time.sleep(PAUSE)
        super().upsert(name, batch, timeout=timeout)
        now.records = {**seen, **{i: now.records[i] for i in batch.ids}}


@caught_by("test_an_alias_moves_under_a_reader")
class AnAliasIsRemovedBeforeItMoves(MemoryConnector):
    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        super().alias(alias, None, timeout=timeout)
        time.sleep(PAUSE)
        super().alias(alias, name, timeout=timeout)


@caught_by("test_flush_and_at_once_read")
class CountsAreRemembered(MemoryConnector):
    """For a tenth of a second."""

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        known: dict[Any, tuple[float, int]] = self.__dict__.setdefault("_known", {})
        at, number = known.get((name, where), (0.0, 0))
        if time.monotonic() - at > 0.1:
            number = super().count(name, where, timeout=timeout)
            known[name, where] = (time.monotonic(), number)
        return number


# --- limits and handles ---------------------------------------------------------------------------


@caught_by("test_selective_filters_are_complete")
class TheIndexGivesUp(MemoryConnector):
    """Of what it visits it returns what matches: what approximate indexes do under selective filters."""

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        where, near = request.where, replace(request, where=None, k=15 * request.k, want=Want())
        found = super().search(name, near, timeout=timeout)
        kept = [[h for h in hits if where is None or matches(where, h.id, h.payload or {})] for hits in found]
        return [hits[: request.k] for hits in kept]


@caught_by("test_k_beyond_what_the_store_gives")
class TheLargestKIsRefused(MemoryConnector):
    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        if request.k >= self.capabilities.max_k:
            raise InvalidRecord("k is too large")
        return super().search(name, request, timeout=timeout)


@caught_by("test_payload_up_to_the_limit")
class TheLargestPayloadIsRefused(MemoryConnector):
    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        if any(len(str(payload)) >= self.capabilities.max_payload_bytes for payload in batch.payloads or ()):
            raise InvalidRecord("a payload is too large")
        super().upsert(name, batch, timeout=timeout)


@caught_by("test_a_stale_handle_after_another_was_made")
class ColumnsAreOrdinals(_Truth):
    """The filter of a stale handle reads what stands where its field stood."""

    def leaf(self, where: Any, record: str, payload: Any) -> bool:
        spec = next(reversed(self._store.collections.values())).spec
        declared = getattr(where, "field", None)
        now = next((f for f in spec.columns if declared is not None and f.ordinal == declared.ordinal), None)
        if now is None or now.kind is declared.kind:
            return super().leaf(where if now is None else replace(where, field=now), record, payload)
        return False


@caught_by("test_scan_resumes_in_the_midst_of_writes")
class TheCursorMustExist(MemoryConnector):
    """It names the last record visited; when that is gone the scan ends."""

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        if request.after is not None and request.after not in self._collection(name).records:
            return Page(self._read(name, [], request.want), None)
        return super().scan(name, request, timeout=timeout)


@caught_by("test_random_filters")
class KeysAreTrimmed(MemoryConnector):
    """Keys of payloads lose what the column of a database would lose."""

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        payloads = tuple({k.strip().partition("\0")[0]: v for k, v in p.items()} for p in batch.payloads or ())
        super().upsert(name, replace(batch, payloads=payloads), timeout=timeout)


# --- faults ---------------------------------------------------------------------------------------


class GoesAway(MemoryConnector):
    """The oracle with a plug to pull: its own ``faults``. The kit has nothing to say against it."""

    away = False

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        self.away = True
        try:
            yield
        finally:
            self.away = False

    def _collection(self, name: str) -> Any:
        if self.away:
            self.unplugged(name)
        return super()._collection(name)

    def unplugged(self, name: str) -> None:
        raise StoreUnavailable("the plug is out")


@caught_by("test_a_store_that_is_away")
class AwayIsNotFound(GoesAway):
    def unplugged(self, name: str) -> None:
        raise NotFound(f"no collection {name!r}")


@caught_by("test_a_store_that_is_away")
class AwayIsForEver(GoesAway):
    def unplugged(self, name: str) -> None:
        raise StoreError("the plug is out")


@caught_by("test_a_store_that_is_away")
class AwayIsAClientsError(GoesAway):
    def unplugged(self, name: str) -> None:
        raise ConnectionError("the plug is out")


@caught_by("test_a_store_that_is_away")
class AwayHangs(GoesAway):
    """A call that does not look at its timeout."""

    def unplugged(self, name: str) -> None:
        time.sleep(4)
        raise StoreUnavailable("the plug is out")


@caught_by("test_a_store_that_is_away")
class AwayLosesRecords(GoesAway):
    def unplugged(self, name: str) -> None:
        self._store.collections[name].records.pop("b", None)
        super().unplugged(name)
