"""A better model without a pause: a second collection by another encoder, kept up with the first, compared, and switched to.

``reindex`` encodes every record's own picture anew and has an alias name the new collection, from one moment to the next;
``rollback`` lets it name the old one again, which is kept. Both go through the facade, so that they are the same on any store,
and are remembered on this machine (``pixdex._state``): interrupted or killed, the same call goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pixdex import encoders
from pixdex._copy_moving import Follow, Pace, microseconds
from pixdex._encoders_of import encoder_for
from pixdex._feeding import feed
from pixdex._names import check_collection
from pixdex._passes import silent
from pixdex._reindex_job import Flip, Ledger, Missing
from pixdex._reindex_making import derivation, making
from pixdex._reindex_moving import Mover, Stage
from pixdex._reindex_places import Place, Store, collection_of, no_alias, opened_store
from pixdex._reindex_results import Compared, ReindexReport, RollbackReport
from pixdex._reindex_running import Run, check_alias, end_switch
from pixdex._state import job_file, locked
from pixdex.collection import Collection
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.errors import ConfigError, NotFound
from pixdex.fields import IMAGE

if TYPE_CHECKING:
    from pixdex.encoders.port import Encoder
    from pixdex.policy import Policy

__all__ = [
    "Compared",
    "Missing",
    "Options",
    "ReindexReport",
    "RollbackReport",
    "drop_old",
    "kept",
    "name_alias",
    "reindex",
    "rollback",
]

_AS_USUAL = Decoding()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a collection is reindexed.

    Attributes:
        into: name of the new collection; default the alias, or the old name, with eight digits of the new fingerprint behind.
        switch: the alias is switched at the end; else the new collection is left beside the old one, up to date.
        missing: what becomes of a record whose picture cannot be read: ``keep-out`` of the new collection, or ``stop``.
        allow_missing: more of them than that, and the alias is not switched.
        label: a field that says what is right: the collections are compared by it.
        only_if_better: the alias is switched only where the new encoder is no worse by each metric: where the lower end of
            the 95 % interval of new minus old is not below 0. It needs a label.
        sample: records that are searched for to compare.
        seed: of their choice.
        overlap: seconds by which a pass reads again what was written before the last one began: how far clocks of writers
            may be apart, and the longest write.
        decoding: how pictures are read: as they were when they were added.
        rate: records a second at most, until the alias is switched.
        workers: pictures decoded at once; default one less than cores, as somebody is searching.
        patience: seconds that one picture may take.
    """

    into: str | None = None
    switch: bool = True
    missing: Literal["keep-out", "stop"] = "keep-out"
    allow_missing: int = 0
    label: str | None = None
    only_if_better: bool = False
    sample: int = 200
    seed: int = 0
    overlap: float = 60.0
    decoding: Decoding = _AS_USUAL
    rate: float | None = None
    workers: int | None = None
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        if self.missing not in ("keep-out", "stop"):
            raise ConfigError(f"missing is {self.missing!r}: keep-out or stop")
        if self.only_if_better and self.label is None:
            raise ConfigError("only_if_better needs a label that says what is right (--label FIELD)")
        if self.allow_missing < 0 or self.overlap < 0 or self.sample < 1:
            raise ConfigError("allow_missing and overlap are 0 at least, sample is 1 at least")
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"rate is {self.rate}: ask for more than 0 records a second")
        if self.into is not None:
            check_collection(self.into)


def reindex(
    url: str,
    *,
    encoder: Encoder | str,
    options: Options = Options(),
    policy: Policy | None = None,
    progress: Follow | None = None,
) -> ReindexReport:
    """Make a collection of the same records by another encoder, and switch the alias ``url`` names to it.

    Searches go to the old collection meanwhile, and so do writes: passes follow until one finds few. Records keep ids, payload,
    other vectors and revisions; tokens are the new encoder's, where the old collection keeps some. Each picture is read again
    and must be the one that was added; where the new encoder is the old one with a head on top, the stored vectors do, and no
    picture is opened.

    Args:
        url: address of an alias; with ``Options(switch=False)`` of a collection, too.
        encoder: the new encoder, or its reference.
        options: how.
        policy: how calls to the store are repeated.
        progress: called with a ``Moving`` after every page.

    Raises:
        ConfigError: ``url`` names no alias; it names another collection by now; no such encoder or label; another reindexing
            was stopped around its switch.
        NotFound: there is no such collection.
        AlreadyExists: there is a collection of the new name, which is not this job's.
        InvalidImage: a picture could not be used, where ``missing`` is ``stop``.
        Unsupported: the collection is another tool's, or the store has no aliases.
        StoreLocked: another job makes the same collection, or switches the same alias.
        StoreError: the store failed; what was written stays.
    """
    loaded = encoders.load(encoder) if isinstance(encoder, str) else encoder
    follow = progress or silent
    with ExitStack() as stack:
        store = stack.enter_context(opened_store(url, policy))
        place = replace(store.place, alias=store.name) if options.switch else store.place
        old = collection_of(store)
        if place.alias is not None and old.name == store.name:
            raise ConfigError(no_alias(store))
        name = options.into or f"{re.sub('_[0-9a-f]{8}$', '', store.name)}_{loaded.fingerprint.digest[:8]}"
        check_collection(name)
        stack.enter_context(locked(job_file("alias", store.address(store.name))))
        if old.spec.vector(IMAGE).fingerprint.digest == loaded.fingerprint.digest:
            return _already(store, old, loaded, options, follow)
        fed = old.spec.fed_from
        if fed is not None and store.place.existing(fed) is not None:
            raise ConfigError(
                f"{old.name!r} lacks what reached {fed!r} last, as a reindexing was stopped around its switch: end that first, "
                f"with its encoder (--encoder {old.spec.encoder or old.spec.vector(IMAGE).fingerprint.encoder}), or go back with rollback"
            )
        if name in (old.name, *store.place.aliases()):
            what = "the collection that is read" if name == old.name else "an alias"
            raise ConfigError(f"{name!r} is {what}: give the new collection another name (--into)")
        stack.enter_context(locked(job_file("copy-to", store.address(name))))
        ledger = stack.enter_context(Ledger(job_file("reindex", store.address(name))))
        return Run(place, old, name, loaded, ledger, options, follow).run()


def rollback(
    url: str,
    *,
    to: str | None = None,
    catch_up: bool = False,
    options: Options = Options(),
    policy: Policy | None = None,
    progress: Follow | None = None,
) -> RollbackReport:
    """Let an alias name the collection again that it named before, from one moment to the next.

    What was written since the switch is in the collection that is left. The report says how many such records the other one
    lacks; with ``catch_up`` they are encoded for it first, by its own encoder. Nothing is dropped: ``to`` leads forward again.

    Args:
        url: address of the alias.
        to: the collection; default the one that this machine remembers to have switched from.
        catch_up: bring it what was written since.
        options: of these: overlap, decoding, rate, workers, patience.
        policy, progress: as of ``reindex``.

    Raises:
        ConfigError: no alias, or nothing is remembered of it and ``to`` is not given.
        NotFound: that collection is gone.
        StoreLocked: another job is at it.
        StoreError: the store failed; what was written stays.
    """
    follow = progress or silent
    with ExitStack() as stack:
        store = stack.enter_context(opened_store(url, policy))
        place, live = store.place, collection_of(store)
        if live.name == store.name:
            raise ConfigError(no_alias(store))
        stack.enter_context(locked(job_file("alias", store.address(store.name))))
        last = place.flips.last()
        left = _cut_off(place, live, last) if catch_up and to in (None, live.name) else None
        live, back = (live, _to_go_back_to(store, live, to, last)) if left is None else (left, live)
        stack.enter_context(locked(job_file("copy-to", store.address(back.name))))
        ledger = stack.enter_context(Ledger(job_file("reindex", store.address(back.name))))
        origin = stack.enter_context(Ledger(job_file("reindex", store.address(live.name))))
        loaded = encoder_for(back, None) if catch_up else None
        with _back(live, back, loaded, ledger, origin, options, follow) as mover:
            if left is None:
                _go_back(store, live, mover, back, last, catch_up=catch_up)
            if catch_up:
                mover.stage = Stage.RETURNED
                end_switch(mover)
            lacking, again = mover.lacking(), mover.removed()
        return RollbackReport(
            alias=store.name,
            left=live.name,
            back=back.name,
            lacking=lacking,
            caught_up=mover.written,
            deleted=mover.deleted,
            again=again,
            missing=tuple(ledger.missing()) if catch_up else (),
            notices=tuple(_lacks(back.name, live.name, lacking, again)),
        )


def drop_old(url: str, *, policy: Policy | None = None) -> str:
    """Remove the collection that an alias was switched from, and all its records; its name. There is no way back then.

    Raises:
        ConfigError: this machine remembers no such one, or something names it still.
        StoreLocked: a job is at it.
    """
    with ExitStack() as stack:
        store = stack.enter_context(opened_store(url, policy))
        stack.enter_context(locked(job_file("alias", store.address(store.name))))
        place, live = store.place, collection_of(store)
        last = place.flips.last()
        if last is None or last.new != live.name:
            raise ConfigError(
                f"this machine remembers nothing that {store.name!r} was switched from: nothing was dropped"
            )
        if not last.ended:
            raise ConfigError(f"the switch from {last.old!r} is not done: give the same pixdex reindex again first")
        names = [alias for alias, name in place.aliases().items() if name == last.old]
        if names:
            raise ConfigError(f"alias {names[0]!r} names {last.old!r}: nothing was dropped")
        old = place.existing(last.old)
        if old is not None:
            old.drop()
        place.flips.take_back()
        return last.old


def name_alias(url: str, alias: str, *, policy: Policy | None = None) -> str | None:
    """Let ``alias`` name the collection at ``url``; what it named before.

    Raises:
        AlreadyExists: there is a collection of that name.
        NotFound: there is no collection at ``url``.
        Unsupported: the store has no aliases.
    """
    with opened_store(url, policy) as store:
        before = store.place.aliases().get(alias)
        collection_of(store).alias(alias)
        return before


def kept(url: str) -> list[str]:
    """The collections of the store, but for the one that ``url`` names."""
    with opened_store(url, None) as store:
        return _others(store)


def _others(store: Store) -> list[str]:
    live = store.place.names(store.name)
    return [name for name in store.place.connector.names(timeout=None) if name != live]


# --- what is said and done ---


def _cut_off(place: Place, live: Collection, last: Flip | None) -> Collection | None:
    """The collection from which a rollback that was killed after it switched the alias to ``live`` has still to bring records."""
    name = live.spec.fed_from
    if name is None or (last is not None and (last.old, last.new, last.ended) == (name, live.name, False)):
        return None  # that was a reindexing
    return place.existing(name)


def _to_go_back_to(store: Store, live: Collection, to: str | None, last: Flip | None) -> Collection:
    """The collection that the alias is to name again."""
    name = to or (last.old if last is not None and last.new == live.name else None)
    if name is None:
        raise ConfigError(
            f"this machine does not remember what {store.name!r} named before {live.name!r}: say so with --to NAME; there "
            f"are {', '.join(_others(store)) or 'no others'}"
        )
    back = store.place.existing(name)
    if back is None or name in store.place.aliases():
        raise NotFound(f"there is no collection {name!r} in this store any more: {store.name!r} stays where it is")
    if back.name == live.name:
        raise ConfigError(f"{store.name!r} names {name!r} already")
    return back


def _go_back(
    store: Store, live: Collection, mover: Mover, back: Collection, last: Flip | None, *, catch_up: bool
) -> None:
    """Let the alias name ``back``, which has what ``live`` has by then where it is to ``catch_up``."""
    place = store.place
    if catch_up:
        mover.whole()
        mover.catch_up()
    back.flush()
    if catch_up:
        mover.catch_up_quickly()
    check_alias(place, store.name, live.name)
    mover.feed(until_done=catch_up)
    feed(live, None)  # by a run that was killed after its switch, which this takes back
    back.alias(store.name)
    if last is not None and (last.old, last.new) == (back.name, live.name):
        place.flips.take_back()
    else:
        place.flips.add(Flip(old=live.name, new=back.name, at=microseconds(), ended=True))


def _lacks(back: str, left: str, lacking: int, again: int) -> Iterator[str]:
    if lacking:
        yield (
            f"{back!r} lacks {lacking} records of {left!r}, or has them of an older revision: they stay there; pixdex rollback --to "
            f"{left} leads there again, and --catch-up brings along what was written"
        )
    if again:
        yield f"{again} records that were deleted from {left!r} are in {back!r} still"


def _already(store: Store, live: Collection, encoder: Encoder, options: Options, follow: Follow) -> ReindexReport:
    """The alias names a collection of that encoder. What a killed run left to do after its switch is done."""
    last, count = store.place.flips.last(), live.count()
    report = ReindexReport(
        old=live.name,
        new=live.name,
        encoders=(encoder.name, encoder.name),
        records=(count, count),
        notices=(f"{live.name!r} is of this encoder already",),
    )
    if last is None or last.new != live.name or last.ended:
        feed(live, None)
        return report
    # Not from one that is called like the old one by now, which was dropped: see ``feeding``.
    old = store.place.existing(last.old) if live.spec.fed_from == last.old else None
    if old is None:  # nothing is left to bring, and there is no way back
        store.place.flips.take_back()
        feed(live, None)
        return report
    file = job_file("reindex", store.address(live.name))
    with locked(job_file("copy-to", store.address(live.name))), Ledger(file) as ledger:
        with _moving(old, live, encoder, ledger, None, Stage.SWITCHED, options, follow) as mover:
            end_switch(mover)
            store.place.flips.end()
        ledger.remember(phase="done")
        notice = "an earlier run had switched the alias; what was left to do is done"
        return replace(
            report,
            old=old.name,
            records=(old.count(), live.count()),
            written=mover.written,
            deleted=mover.deleted,
            missing=tuple(ledger.missing()),
            alias=store.name,
            notices=(notice,),
        )


@contextmanager
def _moving(
    source: Collection,
    target: Collection,
    encoder: Encoder,
    ledger: Ledger,
    origin: Ledger | None,
    stage: Stage,
    options: Options,
    follow: Follow,
) -> Iterator[Mover]:
    derive = derivation(source.spec.vector(IMAGE), source.spec.tokens, encoder)
    with making(
        source,
        target.spec,
        encoder,
        decoding=options.decoding,
        workers=options.workers,
        patience=options.patience,
        derive=derive,
    ) as maker:
        yield Mover(
            source,
            target,
            ledger,
            maker,
            origin=origin,
            stage=stage,
            overlap=options.overlap,
            stops=options.missing == "stop",
            pace=Pace(options.rate),
            follow=follow,
        )


@contextmanager
def _back(
    live: Collection,
    back: Collection,
    encoder: Encoder | None,
    ledger: Ledger,
    origin: Ledger,
    options: Options,
    follow: Follow,
) -> Iterator[Mover]:
    """What moves records back, by ``encoder``; None: it only tells what is lacking."""
    if encoder is not None:
        ledger.remember(mark=microseconds())
        with _moving(live, back, encoder, ledger, origin, Stage.BACK, options, follow) as mover:
            yield mover
        return
    yield Mover(
        live,
        back,
        ledger,
        None,
        origin=origin,
        stage=Stage.BACK,
        overlap=options.overlap,
        stops=False,
        pace=Pace(None),
        follow=follow,
    )
