"""One run of a copy: what has to be true before, the passes, and the proof after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pixdex._copy_checks import Check, Sampling, check_all
from pixdex._copy_moving import PAGE_RECORDS, Follow, Mover, Pace
from pixdex._copy_results import CopyReport, reported, utc
from pixdex._copy_shape import difference, native
from pixdex._names import check_collection
from pixdex._passes import existing, teller, until_few
from pixdex.collection import Collection
from pixdex.errors import AlreadyExists, ConfigError, Unsupported
from pixdex.filters import F
from pixdex.types import Want

if TYPE_CHECKING:
    from pixdex._copy_census import Census
    from pixdex._copy_job import Job
    from pixdex._copy_until import Until
    from pixdex.connectors.port import Connector
    from pixdex.policy import Policy
    from pixdex.spec import Spec

__all__ = ["Aim", "Asked", "Run", "read"]

_ROUNDS = 3
_SHARE = 10
"""Of the time that comparing ids takes, at least so many times as much passes until it is done again."""


@dataclass(frozen=True, slots=True)
class Aim:
    """The store and the name that a copy goes to."""

    connector: Connector
    name: str
    policy: Policy | None

    def existing(self) -> Collection | None:
        """The collection there, if there is one."""
        return existing(self.connector, self.name, self.policy)

    def create(self, spec: Spec) -> Collection:
        """Make it."""
        return Collection.create(self.connector, self.name, spec, policy=self.policy)


def read(census: Census, source: Collection, target: Collection, tell: Callable[[str, int, int], None]) -> None:
    """The ids of both into ``census``."""
    counts = source.count(), target.count()
    census.take("source", source, follow=lambda done: tell("comparing ids", done, sum(counts)))
    census.take("target", target, follow=lambda done: tell("comparing ids", counts[0] + done, sum(counts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How to copy: see ``copy``. ``known_as`` is the source's name, or an alias of it."""

    into_existing: bool
    replace_others: bool
    overlap: float
    sampling: Sampling
    switch_alias: str | None
    switch_from: str | None
    until: Until | None
    known_as: str


class Run:
    """One run of a job."""

    def __init__(
        self,
        addresses: tuple[str, str],
        source: Collection,
        aim: Aim,
        job: Job,
        census: Census,
        asked: Asked,
        pace: Pace,
        follow: Follow,
    ) -> None:
        """``addresses`` of both are shown, so that no secret may stand in them."""
        self._started = time.monotonic()
        self._addresses = addresses
        self._source = source
        self._aim = aim
        self._job = job
        self._census = census
        self._asked = asked
        self._pace = pace
        self._follow = follow
        self._tell = teller(follow)
        self._before = self._caught_up = self._deleted = 0
        self._moved = self._finished = self._rate = 0.0
        self._notices: list[str] = []

    def run(self) -> CopyReport:
        """Copy what is not copied yet, and prove all of it."""
        self._check_alias()
        target = self._prepared()
        job = self._job
        self._before = job.fact("written", 0)
        mover = Mover(
            self._source,
            target,
            job,
            overlap=int(max(self._asked.overlap, self._source.capabilities.staleness) * 1e6),
            replaces=self._asked.replace_others,
            guards=bool(job.fact("others")),
            pace=self._pace,
            follow=self._follow,
        )
        if not job.begun:
            mover.collisions()
        if job.fact("phase", "main") == "main":
            with self._timed():
                mover.main()
        self._rate = self._pace.done / max(self._moved, 1e-9)
        outgrown = [] if self._asked.until is None else self._keep_up(mover, target, self._asked.until)
        return self._signed(target, outgrown, {}, None) if outgrown else self._proven(mover, target)

    # --- before ---

    def _prepared(self) -> Collection:
        """The target, made where there is none.

        Raises:
            AlreadyExists: there are records in it that are not this job's.
            FingerprintMismatch: it has another Spec.
        """
        job, spec, aim = self._job, native(self._source.spec), self._aim
        if job.fact("source") not in (None, self._source.name):
            raise ConfigError(
                f"this job was begun when {self._addresses[0]} named collection {job.fact('source')!r}, and it names "
                f"{self._source.name!r} now: copy from that collection by its own name, or to another target"
            )
        target = aim.existing()
        if target is None:
            self._anew()
            target = aim.create(spec)
        else:
            said = difference(spec, target.spec)
            if said:
                raise AlreadyExists(
                    f"{self._addresses[1]} is there with another Spec: {said}. Nothing was changed: copy to another name, "
                    "or drop that collection first"
                )
            self._claim(target)
            new = tuple(s for s in spec.sources if s not in target.spec.sources)
            if new:
                target.alter(sources=new)
        job.remember(source=self._source.name, said=[self._addresses[0], self._addresses[1]])
        if not self._source.spec.native:
            self._notices += [
                "the source is another tool's: it has no revisions, so that all is compared to catch up",
                "keys that begin with an underscore, which are pixdex's own, are kept without it",
            ]
        return target

    def _claim(self, target: Collection) -> None:
        """See whose the records of a target are that is there."""
        job, count = self._job, target.count()
        if job.begun and self._is_ours(target, count):
            return
        if count and not self._asked.into_existing:
            raise AlreadyExists(
                f"{self._addresses[1]} holds {count} records that this copy did not write. Nothing was changed: copy to "
                "another name, drop that collection first, or add to it with --into-existing"
            )
        self._anew()
        job.remember(others=bool(count))

    def _anew(self) -> None:
        if self._job.begun:
            self._notices.append("what an earlier run copied is gone from the target, so that this one began anew")
        self._job.forget()

    def _is_ours(self, target: Collection, count: int) -> bool:
        """Whether what the job wrote first is in the target."""
        job = self._job
        if job.fact("others"):
            return True
        if not job.fact("written"):  # killed between a write and the note of it
            if count > PAGE_RECORDS:
                return False
            ids = [record for page in target.scan(want=Want(payload=False)) for record in page.batch.ids]
            return len(job.wrote(ids)) == len(ids)
        probes = job.fact("probes", [])
        found = set(target.fetch(probes, want=Want(payload=False)).ids)
        lost = [record for record in probes if record not in found]
        alive = self._source.fetch(lost, want=Want(payload=False)) if lost else ()
        return bool(found) and len(alive) <= len(found)

    def _check_alias(self) -> None:
        """Refuse an alias that cannot be switched before anything is copied.

        Raises:
            ConfigError: it names another collection.
            Unsupported: the store has none.
        """
        asked, aim = self._asked, self._aim
        if asked.switch_alias is None:
            if asked.switch_from is not None:
                raise ConfigError("say which alias is to be switched (--switch-alias)")
            return
        check_collection(asked.switch_alias)
        if not aim.connector.capabilities.alias:
            raise Unsupported(f"{aim.connector.scheme} has no aliases to switch")
        if asked.switch_alias in (aim.name, *aim.connector.names(timeout=None)):
            raise ConfigError(f"{asked.switch_alias!r} is a collection of the target's store, so it cannot be an alias")
        names = aim.connector.aliases(timeout=None).get(asked.switch_alias)
        if names == aim.name or (names is None and asked.switch_from is None) or names == asked.switch_from:
            return
        if asked.switch_from is None:
            raise ConfigError(
                f"alias {asked.switch_alias!r} names {names!r} now: say so with --from {names}, if it is to be switched"
            )
        raise ConfigError(
            f"alias {asked.switch_alias!r} names {'nothing' if names is None else repr(names)}, not {asked.switch_from!r}: "
            "it is left as it is"
        )

    # --- meanwhile ---

    def _keep_up(self, mover: Mover, target: Collection, until: Until) -> list[Check]:
        """Bring what the source gets, and remove what it loses, until it is time. Or until the source has another Spec: the
        check that fails then.
        """
        until.begin()
        due = time.monotonic() + until.ids_every
        while not until.over:
            began = time.monotonic()
            with self._timed():
                news = mover.catch_up()
            self._caught_up += news
            if news:
                target.flush()
            if began >= due:
                outgrown = self._outgrown(target)
                if outgrown:
                    return outgrown
                self._reconcile(mover, target)
                now = time.monotonic()
                due = now + max(until.ids_every, _SHARE * (now - began))
            self._tell("keeping up", self._caught_up, self._caught_up)
            took = time.monotonic() - began
            # Another tool's records are all read for a pass: that leaves its store as long in peace.
            until.wait(until.every - took if self._source.spec.native else max(until.every - took, took))
        self._tell("last pass", 0, 0)
        return []

    # --- after ---

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._moved += time.monotonic() - began

    def _proven(self, mover: Mover, target: Collection) -> CopyReport:
        census = self._census
        for number in range(_ROUNDS):
            self._catch_up(mover, target)
            changed = self._reconcile(mover, target)
            if changed and number < _ROUNDS - 1:
                continue
            since = self._job.fact("mark") if self._source.spec.native else None
            checks, digests = check_all(
                self._source,
                target,
                census,
                self._asked.sampling,
                since=since,
                more_allowed=bool(self._job.fact("others")),
                follow=self._tell,
            )
            if all(check.passed for check in checks) or not self._written_since(since):
                break
        return self._signed(target, [*checks, *self._outgrown(target)], digests, since)

    def _outgrown(self, target: Collection) -> list[Check]:
        """A check that fails, where the source was given vectors or fields meanwhile: what they hold was not copied. Or where its
        alias was switched, so that others write elsewhere.
        """
        source, known_as = self._source, self._asked.known_as
        if known_as != source.name and known_as not in source.aliases():
            return [
                Check(
                    name="source",
                    passed=False,
                    compared=1,
                    said=f"{known_as!r} names another collection than {source.name!r} by now, of which this is a copy: copy that one "
                    "to another target",
                )
            ]
        source.refresh()
        said = difference(native(self._source.spec), target.spec)
        if not said:
            return []
        return [
            Check(
                name="spec",
                passed=False,
                compared=1,
                said=f"the source has another Spec than when it was copied: {said}: copy to a new target, or declare that in "
                "this one and run the copy again",
            )
        ]

    def _catch_up(self, mover: Mover, target: Collection) -> None:
        with self._timed():
            self._caught_up += until_few(mover.catch_up)
        self._settle(target)

    def _settle(self, target: Collection) -> None:
        began = time.monotonic()
        target.flush()
        target.settle(progress=lambda done, total: self._tell("finishing", done, total))
        self._finished += time.monotonic() - began

    def _reconcile(self, mover: Mover, target: Collection) -> int:
        """Bring the ids of both sides together; how many records that took."""
        census = self._census
        read(census, self._source, target, self._tell)
        refused = {row.id for row in self._job.refused()}
        changed = 0
        for ids in census.missing("target"):
            changed += mover.these([record for record in ids if record not in refused])
        self._caught_up += changed
        if not census.count("source") and self._job.fact("written", 0) and census.count("target"):
            raise ConfigError(
                f"{self._addresses[0]} is empty, and had records when they were copied: all of them would be removed from "
                f"{self._addresses[1]}. Nothing was removed: see what became of the source; if that is meant, drop the target"
            )
        for ids in census.missing("source"):
            ours = self._job.wrote(ids)
            back = set(self._source.fetch(sorted(ours), want=Want(payload=False)).ids) if ours else set()
            gone = sorted(ours - back)
            if gone:
                target.delete(gone)
                self._deleted += len(gone)
                changed += len(gone)
        if changed:
            self._settle(target)
        return changed

    def _written_since(self, since: int | None) -> bool:
        return since is not None and self._source.count(F["_rev"] > since) > 0

    def _signed(
        self, target: Collection, checks: Sequence[Check], digests: Mapping[str, str], since: int | None
    ) -> CopyReport:
        job, asked = self._job, self._asked
        report = reported(
            self._source,
            target,
            self._addresses,
            self._started,
            copied=job.fact("written", 0) - self._before,
            before=self._before,
            caught_up=self._caught_up,
            deleted=self._deleted,
            refused=tuple(job.refused()),
            checks=tuple(checks),
            digests=digests,
            moving=utc(since) if since is not None and self._written_since(since) else None,
            copy_seconds=self._moved,
            finish_seconds=self._finished,
            rate=self._rate,
            notices=tuple(self._notices),
        )
        if asked.switch_alias is not None and report.signed_off:
            self._check_alias()
            target.alias(asked.switch_alias)
            report = replace(report, alias=asked.switch_alias)
        job.remember(phase="done")
        return report
