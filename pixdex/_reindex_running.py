"""One run of a reindexing: what has to be true before, the passes, the comparison, the switch, and what follows it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pixdex._copy_moving import Follow, Pace, microseconds
from pixdex._passes import PASSES, teller, until_few
from pixdex._reindex_comparing import check_label, compared, worse
from pixdex._reindex_job import Flip, Ledger, Missing
from pixdex._reindex_making import derivation, making, spec_for
from pixdex._reindex_moving import Mover, Stage
from pixdex._reindex_results import Compared, ReindexReport
from pixdex.collection import Collection
from pixdex.errors import AlreadyExists, ConfigError
from pixdex.fields import IMAGE

if TYPE_CHECKING:
    from pixdex._reindex_making import Derive, Maker
    from pixdex._reindex_places import Place
    from pixdex.encoders.port import Encoder
    from pixdex.reindexing import Options
    from pixdex.spec import Spec

__all__ = ["Run", "check_alias", "end_switch"]

_GRACE = 1.0
"""Seconds after a switch in which a write that was under way may still reach the old collection."""


class Run:
    """One run of the job that makes the collection ``name`` of ``old``."""

    def __init__(
        self,
        place: Place,
        old: Collection,
        name: str,
        encoder: Encoder,
        ledger: Ledger,
        options: Options,
        follow: Follow,
    ) -> None:
        self._started = time.monotonic()
        self._place, self._old, self._name = place, old, name
        self._encoder, self._ledger, self._options = encoder, ledger, options
        self._follow, self._pace = follow, Pace(options.rate)
        self._notices: list[str] = []
        self._before = 0
        self._mover: Mover | None = None

    def run(self) -> ReindexReport:
        """Make the new collection, keep it up, compare it, switch to it."""
        options = self._options
        spec = spec_for(self._old.spec, self._encoder)
        if self._old.spec.tokens is not None and spec.tokens is None:
            self._notices.append(f"encoder {self._encoder.name!r} makes no tokens: the new collection keeps none")
        if options.label is not None:
            check_label(self._old, options.label)
        new = self._prepared(spec)
        self._before = int(self._ledger.fact("written", 0))
        derive = derivation(self._old.spec.vector(IMAGE), self._old.spec.tokens, self._encoder)
        with making(
            self._old,
            new.spec,
            self._encoder,
            decoding=options.decoding,
            workers=options.workers,
            patience=options.patience,
            derive=derive,
        ) as maker:
            mover = self._mover = self._moving(new, maker)
            mover.feed(until_done=False)  # where an earlier run was killed before it switched
            if self._ledger.fact("phase", "main") == "main":
                mover.main()
            until_few(mover.catch_up)
            new.flush()
            tell = teller(self._follow)
            new.settle(progress=lambda done, total: tell("building the index", done, total))
            mover.whole()
            new.flush()
            result = compared(self._old, new, maker, label=options.label, sample=options.sample, seed=options.seed)
            refused = self._refused(result)
            if self._place.alias is None or refused is not None:
                return self._report(new, derive, result, refused=refused)
            until_few(mover.catch_up)
            mover.remove_gone()
            new.flush()
            self._catch_up_quickly(mover)
            refused = self._too_many_missing()
            if refused is not None:
                return self._report(new, derive, result, refused=refused)
            self._switch(new, mover)
            mover.stage = Stage.SWITCHED
            end_switch(mover)
            self._place.flips.end()
        self._ledger.remember(phase="done")
        return self._report(new, derive, result, alias=self._place.alias)

    # --- before ---

    def _prepared(self, spec: Spec) -> Collection:
        """The new collection, made where there is none.

        Raises:
            AlreadyExists: it is there, and this job did not make it.
        """
        ledger = self._ledger
        new = self._place.existing(self._name)
        if new is None:
            if ledger.fact("made"):
                self._notices.append(f"what an earlier run made, {self._name!r}, is gone, so that this one began anew")
            ledger.forget()
            ledger.remember(made=self._old.name, digest=self._encoder.fingerprint.digest)
            return Collection.create(self._place.connector, self._name, spec, policy=self._place.policy)
        made = ledger.fact("made")
        if made is None and not new.count() and new.spec.vector(IMAGE) == spec.vector(IMAGE):
            ledger.remember(made=self._old.name, digest=self._encoder.fingerprint.digest)
            return new
        if made != self._old.name or ledger.fact("digest") != self._encoder.fingerprint.digest:
            raise AlreadyExists(
                f"there is a collection {self._name!r} in this store already, which was not begun here for {self._old.name!r} "
                "with this encoder. Nothing was changed: choose another name (--into), or drop that collection first"
            )
        new.require(self._encoder.fingerprint, vector=IMAGE)
        if ledger.fact("phase") == "done":
            raise AlreadyExists(
                f"{self._name!r} was made of {self._old.name!r} and used before: go to it again with pixdex rollback --to "
                f"{self._name} --catch-up, which brings what was written since, or choose another name (--into)"
            )
        return new

    def _moving(self, new: Collection, maker: Maker) -> Mover:
        return Mover(
            self._old,
            new,
            self._ledger,
            maker,
            stage=Stage.FILLING,
            overlap=self._options.overlap,
            stops=self._options.missing == "stop",
            pace=self._pace,
            follow=self._follow,
        )

    # --- meanwhile and after ---

    def _catch_up_quickly(self, mover: Mover) -> None:
        """Leave as little as can be to bring after the switch."""
        before = mover.catch_up_quickly()
        for _ in range(PASSES):
            news = mover.catch_up_quickly()
            if not 0 < news < before:
                break
            before = news

    def _refused(self, result: Compared) -> str | None:
        missing = self._too_many_missing()
        if missing is not None:
            return missing
        if result.found < result.looked_for:
            return (
                f"{result.looked_for - result.found} of {result.looked_for} pictures did not find their own record: something is "
                "wrong with the encoder or the store"
            )
        bad = worse(result) if self._options.only_if_better else ""
        if bad:
            return f"the new encoder may be worse: new minus old is {bad} (--only-if-better)"
        return None

    def _too_many_missing(self) -> str | None:
        allowed, missing = self._options.allow_missing, len(self._ledger.missing())
        if missing <= allowed:
            return None
        return (
            f"{missing} records could not be encoded, {allowed} are allowed to (--allow-missing): bring their pictures back and give "
            "the same command again, or allow so many"
        )

    def _switch(self, new: Collection, mover: Mover) -> None:
        place, alias = self._place, self._place.alias
        if alias is None:
            return
        check_alias(place, alias, self._old.name)
        mover.feed(until_done=True)
        # Noted before it is done: a run that is killed between finds the alias where it was, or switched.
        place.flips.add(Flip(old=self._old.name, new=new.name, at=microseconds()))
        self._ledger.remember(phase="switching")
        new.alias(alias)
        self._ledger.remember(phase="switched")

    def _report(
        self,
        new: Collection,
        derive: Derive | None,
        result: Compared | None,
        *,
        alias: str | None = None,
        refused: str | None = None,
    ) -> ReindexReport:
        seconds = time.monotonic() - self._started
        written = int(self._ledger.fact("written", 0)) - self._before
        missing: list[Missing] = self._ledger.missing()
        return ReindexReport(
            old=self._old.name,
            new=new.name,
            encoders=(self._old.spec.vector(IMAGE).fingerprint.encoder, self._encoder.name),
            records=(self._old.count(), new.count()),
            written=written,
            before=self._before,
            derived=derive is not None,
            deleted=0 if self._mover is None else self._mover.deleted,
            missing=tuple(missing),
            compared=result,
            alias=alias,
            refused=refused,
            seconds=seconds,
            rate=written / max(seconds, 1e-9),
            notices=tuple(self._notices),
        )


def check_alias(place: Place, alias: str, expected: str) -> None:
    """See that an alias names what it named when the work began.

    Raises:
        ConfigError: it names another collection, or none.
    """
    names = place.aliases().get(alias)
    if names != expected:
        raise ConfigError(
            f"alias {alias!r} names {'nothing' if names is None else repr(names)} by now, not {expected!r}: it is left as it "
            "is, and so is what was made; point it back, or begin again from what it names"
        )


def end_switch(mover: Mover) -> None:
    """Bring what reached the source until the alias was switched, and a moment after."""
    mover.catch_up_quickly()
    mover.catch_up()
    time.sleep(_GRACE)
    mover.whole()  # whatever clocks said; and what was deleted on both sides while a page of it was on its way
    mover.feed(until_done=False)
