"""Is a collection well? Whether it can be reached, what answers, whether it finds what it holds, and what has come loose.

Nothing is written. What is sampled is drawn anew with each seed. However large a collection is, a check takes about half a minute at
most, but for a deep one: it says of how much it speaks, and what it left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._doctor_probing import ENOUGH, K, Late, by_index, exactly, found_itself, share_found
from pixdex._originals import picture_of, roots_of
from pixdex._vectors import checked_vectors
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.connectors.address import parse
from pixdex.connectors.port import Upkeep, Versioned
from pixdex.encoders.decoding import Decoding
from pixdex.errors import InvalidImage, NotFound, PixdexError, StoreError, Unsupported
from pixdex.fields import CONTENT, IMAGE
from pixdex.filters import F
from pixdex.report import Status
from pixdex.scores import similarities
from pixdex.types import Batch, Want

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pixdex.connectors.port import Connector
    from pixdex.spec import Vector
    from pixdex.types import Hit

__all__ = ["Check", "Diagnosis", "State", "diagnose"]

_COUNTED = 200_000
"""Collections up to that many records are counted by reading them all."""
_MOST_BEHIND = 1.0
"""Seconds: a search that takes longer is worth a word."""


class State(StrEnum):
    """What a check came to."""

    WELL = "well"
    NOTE = "note"
    ILL = "ill"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; ``remedy`` where there is something to do."""

    name: str
    state: State
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found out about a collection.

    Attributes:
        collection: its name; the address, without secrets, where the store could not be opened.
        store: the scheme of its store.
        versions: what answers, and what it was asked with.
        checks: all that was looked at, in order.
        recall: the share of the exact hits that the index found; None where it was not probed.
    """

    collection: str
    store: str
    versions: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    recall: float | None = None

    @property
    def well(self) -> bool:
        """Nothing is ill."""
        return all(check.state is not State.ILL for check in self.checks)


def diagnose(url: str, *, sample: int = 100, deep: bool = False, seed: int = 0) -> Diagnosis:
    """Look at the collection that an address names.

    Args:
        url: address of store and collection.
        sample: how many records are tried: searched by their own vectors, filtered by their values, their pictures opened.
        deep: read everything that has checksums too, where the store is of pixdex's own files, however long that takes.
        seed: of the sample.

    Raises:
        ConfigError: not an address.
        MissingDependency: the store's client is not installed.
    """
    began = time.perf_counter()
    try:
        connector, name = connect(url)
    except StoreError as error:
        return Diagnosis(collection=str(parse(url)), store=url.partition(":")[0], checks=(_ill("reachable", error),))
    try:
        try:
            collection = Collection.open(connector, name)
        except PixdexError as error:
            return Diagnosis(
                collection=name,
                store=connector.scheme,
                versions=_versions(connector),
                checks=(_ill("reachable", error), *_there(connector, error)),
            )
        took = time.perf_counter() - began
        reached = Check("reachable", State.WELL, f"opened in {took * 1e3:.0f} ms")
        examined = _Examination(collection, url, sample=sample, deep=deep, seed=seed)
        checks = (reached, *examined.checks())
        return Diagnosis(
            collection=name,
            store=connector.scheme,
            versions=_versions(connector),
            checks=checks,
            recall=examined.recall,
        )
    finally:
        connector.close()


def _ill(name: str, error: Exception) -> Check:
    return Check(name, State.ILL, str(error))


def _there(connector: Connector, error: PixdexError) -> list[Check]:
    """What there is instead of a collection that is missing."""
    if not isinstance(error, NotFound):
        return []
    try:
        names = ", ".join(connector.names(timeout=30)) or "none"
    except PixdexError as other:
        return [_ill("collections", other)]
    return [Check("collections", State.NOTE, f"the store has {names}")]


def _versions(connector: Connector) -> Mapping[str, str]:
    try:
        return dict(connector.versions(timeout=30)) if isinstance(connector, Versioned) else {}
    except PixdexError:
        return {}


class _Examination:
    """Of one collection: the checks, each of which may fail without the others."""

    def __init__(self, collection: Collection, url: str, *, sample: int, deep: bool, seed: int) -> None:
        self._collection, self._url = collection, url
        self._wanted, self._deep = sample, deep
        self._rng = np.random.default_rng(seed)
        self._count = 0
        self._sample = Batch((), {}, ())
        self.recall: float | None = None

    def checks(self) -> Iterator[Check]:
        """One after another; what one raises is what it found."""
        every: Sequence[tuple[str, Callable[[], Check | None]]] = (
            ("spec", self._spec),
            ("encoder", self._encoder),
            ("aliases", self._aliases),
            ("reindexing", self._reindexing),
            ("records", self._records),
            ("vectors", self._vectors),
            ("recall", self._recall),
            ("filters", self._filters),
            ("pictures", self._pictures),
            ("journal", self._journal),
            ("mirror", self._mirror),
            ("files", self._files),
        )
        for name, look in every:
            try:
                check = look()
            except PixdexError as error:
                check = _ill(name, error)
            if check is not None:
                yield check

    def _spec(self) -> Check:
        spec = self._collection.spec
        vectors = ", ".join(f"{v.name} {v.dim} x {v.metric} of {v.fingerprint.encoder}" for v in spec.vectors)
        tokens = "no tokens" if spec.tokens is None else f"tokens {spec.tokens.count} x {spec.tokens.dim}"
        layout = "" if spec.native else ", made by another tool"
        return Check("spec", State.WELL, f"{vectors}; {len(spec.fields)} fields; {tokens}{layout}")

    def _encoder(self) -> Check:
        from pixdex import encoders

        spec = self._collection.spec
        vector = next((v for v in spec.vectors if v.name == IMAGE), None)
        if spec.encoder is None or vector is None:
            return Check("encoder", State.SKIPPED, "the collection does not know its encoder")
        try:
            encoder = encoders.load(spec.encoder)
        except PixdexError as error:
            remedy = "searching by vectors and ids works; by pictures only where the encoder is"
            return Check("encoder", State.NOTE, f"{spec.encoder} cannot be loaded here: {error}", remedy)
        difference = vector.fingerprint.difference(encoder.fingerprint)
        if difference:
            what = f"{spec.encoder} is another by now (it differs in: {difference})"
            return Check("encoder", State.ILL, what, "get the encoder that wrote it, or encode anew: pixdex reindex")
        return Check("encoder", State.WELL, f"{spec.encoder} is the one that wrote it")

    def _aliases(self) -> Check | None:
        if not self._collection.capabilities.alias:
            return None
        aliases = self._collection.connector.aliases(timeout=30)
        names = set(self._collection.connector.names(timeout=30))
        astray = sorted(alias for alias, target in aliases.items() if target not in names)
        if astray:
            what = f"{', '.join(astray)} name collections that are gone"
            return Check("aliases", State.ILL, what, "let them name another collection, or nothing")
        mine = self._collection.aliases()
        return Check("aliases", State.WELL, f"known as {', '.join(mine)} too" if mine else "none")

    def _reindexing(self) -> Check | None:
        """A reindexing or a rollback that has not ended since it switched the alias."""
        name = self._collection.spec.fed_from
        if name is None:
            return None
        what = f"records are brought here from {name!r}: meanwhile what is deleted is deleted there, too, and what is added unchanged is written again"
        return Check(
            "reindexing", State.NOTE, what, "where none is under way, one was cut off: give the same command again"
        )

    def _records(self) -> Check:
        self._count = self._collection.count()
        seen, whole = self._take(pages=None if self._count <= _COUNTED else 20)
        if not whole:
            return Check("records", State.WELL, f"{self._count} by the store's count; {seen} of them were read")
        now = self._collection.count()
        if now != self._count:
            what = f"{self._count} at first, {now} when {seen} were read: it is being written to"
            return Check("records", State.NOTE, what, "look again when nobody writes")
        if seen != self._count:
            what = f"the store counts {self._count} records, reading them all finds {seen}"
            return Check("records", State.ILL, what, "verify the store, or copy what is there")
        return Check("records", State.WELL, f"{seen}, counted and read")

    @property
    def _everything(self) -> Want:
        return Want(vectors=tuple(v.name for v in self._collection.spec.vectors))

    def _take(self, *, pages: int | None) -> tuple[int, bool]:
        """Draw the sample while reading; how many records were read, and whether that was all."""
        seen, whole, kept = 0, True, []
        late = Late()
        for number, page in enumerate(self._collection.scan(want=self._everything, size=1000)):
            if number and (number == pages or late.is_now):
                whole = False
                break
            seen += len(page.batch)
            rows = [row for row in range(len(page.batch)) if self._rng.random() < self._share(seen)]
            kept += [page.batch.take([row]) for row in rows]
            if len(kept) > 2 * self._wanted:
                kept = [kept[row] for row in self._rng.permutation(len(kept))[: self._wanted]]
        chosen = self._rng.permutation(len(kept))[: self._wanted]
        if len(chosen):
            self._sample = Batch.concat([kept[row] for row in chosen])
        return seen, whole

    def _share(self, seen: int) -> float:
        return min(1.0, 2 * self._wanted / max(1, seen))

    def _vectors(self) -> Check:
        if not len(self._sample):
            return Check("vectors", State.SKIPPED, "no records to look at")
        missing = []
        for vector in self._collection.spec.vectors:
            lacking = int(np.sum(~self._sample.present(vector.name)))
            if lacking:
                missing.append(f"{lacking} of {len(self._sample)} records lack {vector.name!r}")
        if missing:
            return Check("vectors", State.NOTE, "; ".join(missing), "searches by that name do not find these")
        return Check("vectors", State.WELL, f"all of {len(self._sample)} records have theirs")

    def _recall(self) -> Check:
        vector = next((v for v in self._collection.spec.vectors if v.name == IMAGE), self._collection.spec.vectors[0])
        if not len(self._sample) or not self._sample.present(vector.name).any():
            return Check("recall", State.SKIPPED, "no records to search by")
        rows = np.flatnonzero(self._sample.present(vector.name))
        queries = checked_vectors(self._sample.vectors[vector.name][rows], vector)
        found, seconds = by_index(self._collection, queries, vector)
        exact = exactly(self._collection, queries[: len(found)], vector, self._count)
        tried = len(found) if exact is None else len(exact)
        lost = self._lost([self._sample.ids[row] for row in rows[:tried].tolist()], queries, exact or found, vector)
        median = float(np.median(seconds))
        of = f"{tried} records" if tried == len(queries) else f"{tried} of {len(queries)} records, as time was over"
        pace = f"{median * 1e3:.1f} ms a search, {of}"
        if len(lost) > (0 if exact is not None else (1 - ENOUGH) * tried):
            what = f"{len(lost)} of {tried} records are not found by their own vectors, such as {lost[0]!r}"
            return Check("recall", State.ILL, what, "have the store build its index anew, or copy to a new collection")
        if exact is None:
            what = f"records are found by their own vectors, {pace}; {self._collection.connector.scheme} has no exact search to compare with"
            remedy = f"pixdex eval compares, and reads all {self._count} records for it"
            return Check("recall", State.WELL, what, remedy)
        self.recall = recall = float(np.mean([share_found(*both) for both in zip(found, exact, strict=False)]))
        what = f"recall@{K} {recall:.3f} against exact search, {pace}"
        if recall < ENOUGH:
            remedy = "search with more effort (Tuning(effort=...)), or have the store build its index anew"
            return Check("recall", State.ILL, what, remedy)
        if median > _MOST_BEHIND:
            return Check("recall", State.NOTE, what, "searches are slow: the store may be busy, or build an index")
        return Check("recall", State.WELL, what)

    def _lost(
        self, ids: Sequence[str], queries: NDArray[np.float32], hits: Sequence[Sequence[Hit]], vector: Vector
    ) -> list[str]:
        """Those that their own vectors do not find, and that nobody removed meanwhile."""
        lost = [
            record
            for record, query, found in zip(ids, queries, hits, strict=False)
            if not found_itself(record, similarities(vector.metric, query[None], query[None]).item(), found)
        ]
        return self._still_there(lost)

    def _still_there(self, ids: Sequence[str]) -> list[str]:
        """Those that nobody removed since they were read."""
        return list(self._collection.fetch(ids, want=Want(payload=False)).ids) if ids else []

    def _filters(self) -> Check:
        """A record is among those that have its value."""
        tried, wrong = 0, []
        for name in [f.name for f in self._collection.spec.fields if not f.many]:
            row = next((r for r, p in enumerate(self._sample.payloads or ()) if _scalar(p.get(name))), None)
            if row is None:
                continue
            record, value = self._sample.ids[row], (self._sample.payloads or ())[row][name]
            tried += 1
            where = (F[name] == value) & F.ids([record])
            try:
                if self._collection.count(where) != 1 and self._still_there([record]):
                    wrong.append(f"{name} == {value!r} does not find {record!r}")
            except Unsupported:
                tried -= 1
        if wrong:
            remedy = "the store's columns do not hold what the records say: copy to a new collection"
            return Check("filters", State.ILL, "; ".join(wrong), remedy)
        if not tried:
            return Check("filters", State.SKIPPED, "no declared field has a value to look for")
        return Check("filters", State.WELL, f"{tried} fields find their records")

    def _pictures(self) -> Check | None:
        """Whether pictures are still where they were added from: what reranking, explaining and encoding anew open."""
        spec = self._collection.spec
        if spec.field(CONTENT) is None or not len(self._sample):
            return None
        roots, lost = roots_of(self._collection), []
        placed = [
            (record, payload)
            for record, payload in zip(self._sample.ids, self._sample.payloads or (), strict=True)
            if isinstance(payload.get("path"), str)
        ]
        late = Late()
        for tried, (record, payload) in enumerate(placed):
            if late.is_now:
                placed = placed[:tried]
                break
            try:
                picture_of(record, payload, roots, Decoding())
            except InvalidImage as error:
                lost.append(f"{record}: {error}")
        if not placed:
            return Check("pictures", State.SKIPPED, "the records do not say where their pictures lie")
        if lost:
            remedy = "moved: pixdex add from where they are now; gone: pixdex add --sync, or pixdex delete"
            return Check(
                "pictures", State.NOTE, f"{len(lost)} of {len(placed)} are not there, such as {lost[0]}", remedy
            )
        return Check("pictures", State.WELL, f"{len(placed)} lie where they were added from")

    def _journal(self) -> Check | None:
        from pixdex.journal import counts, journal_of

        found = counts(journal_of(self._url))
        failed = found.get(Status.FAILED, 0)
        if failed:
            what = f"{failed} pictures that were added from this machine could not be used"
            return Check("journal", State.NOTE, what, "pixdex journal says why; pixdex add --retry-failed tries again")
        return Check("journal", State.WELL, f"{sum(found.values())} pictures, none failed") if found else None

    def _mirror(self) -> Check | None:
        comparison = getattr(self._collection.connector, "comparison", None)
        if comparison is None:
            return None
        found = comparison()
        what = f"{found.reads} answers compared, {found.differing} differ, {found.failed} failed"
        if found.unwritten:
            what = f"the second store has not taken {found.unwritten} records; {what}"
            return Check(
                "mirror", State.ILL, what, "it gets them with the next flush, if it is there: pixdex add does one"
            )
        if found.failed and not found.differing:
            return Check(
                "mirror", State.ILL, what, "the second store is away, or fails: see the log pixdex.connectors.mirror"
            )
        if found.differing:
            examples = "; ".join(f"{one.verb}: {one.what}" for one in found.examples[:3])
            return Check("mirror", State.ILL, f"{what}: {examples}", "bring the second store level with pixdex copy")
        return Check("mirror", State.WELL, what)

    def _files(self) -> Check | None:
        if not self._deep or not isinstance(self._collection.connector, Upkeep):
            return None
        findings = self._collection.verify()
        if findings:
            first = findings[0]
            return Check(
                "files", State.ILL, f"{len(findings)} findings, the first: {first.place}: {first.what}", first.remedy
            )
        return Check("files", State.WELL, "everything is as its checksums say")


def _scalar(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
