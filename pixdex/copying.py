"""Moving a collection to another store, with proof: copied, caught up, counted, compared, signed off.

``copy`` goes through the facade only, so that any store is a source and a target. It is remembered on this machine
(``pixdex._state``), so that the same call goes on where another one stopped, and done again brings the target up to date.
``check`` only compares.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex._copy_census import Census
from pixdex._copy_checks import Check, Sampling, check_all
from pixdex._copy_job import Job, Refused
from pixdex._copy_moving import Follow, Moving, Pace
from pixdex._copy_results import CopyReport, Side, reported
from pixdex._copy_running import Aim, Asked, Run, read
from pixdex._copy_shape import difference, native
from pixdex._copy_until import Until
from pixdex._passes import silent, teller
from pixdex._state import job_file, locked, normal
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.connectors.address import DEFAULT_COLLECTION, parse
from pixdex.errors import ConfigError
from pixdex.records_file import RecordsFile, is_file

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector
    from pixdex.policy import Policy

__all__ = ["Check", "CopyReport", "Follow", "Moving", "Refused", "Sampling", "Side", "Until", "check", "copy"]

_OVERLAP = 60.0


def copy(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    into_existing: bool = False,
    replace_others: bool = False,
    rate: float | None = None,
    overlap: float = _OVERLAP,
    sampling: Sampling = Sampling(),
    switch_alias: str | None = None,
    switch_from: str | None = None,
    follow: Until | None = None,
    policy: Policy | None = None,
    progress: Follow | None = None,
) -> CopyReport:
    """Copy a collection to another store and prove that it is there. Interrupted or killed, the same call goes on.

    Records go with all named vectors, payload and tokens; the target gets the source's Spec, encoder and fingerprints. A
    target gives its own revisions; the source's are what a copy catches up by. While the source is written to, passes
    follow until one finds few; what the source has lost is removed from the target, where this job wrote it.

    Args:
        source, target: addresses.
        into_existing: the target may hold other records; one of them under an id of the source with another content is
            an error, before anything is written.
        replace_others: such a one is replaced.
        rate: records a second at most.
        overlap: seconds by which a pass reads again what was written before the last one began: how far clocks of writers
            may be apart, and the longest write.
        sampling: how much is compared.
        switch_alias: an alias that names the target once everything is compared and the same.
        switch_from: the collection that the alias names now, if it does.
        follow: once all is copied, keep up with what the source gets and loses until then; only then is it compared.
        progress: called with a ``Moving`` after every page.

    Raises:
        ConfigError: both are the same collection; an alias that names another one; a source that is empty now and was copied
            before; the job cannot be remembered.
        NotFound: there is no such source.
        AlreadyExists: the target holds records that are not this job's; or other records under ids of the source.
        FingerprintMismatch, Unsupported: the target has another Spec, or the store cannot hold such a one.
        StoreLocked: another copy to the same target is under way.
        StoreError: a store failed, such as for lack of space; what was copied stays.
    """
    if rate is not None and not rate > 0:
        raise ConfigError(f"rate is {rate}: ask for more than 0 records a second")
    if overlap < 0:
        raise ConfigError(f"overlap is {overlap}: it is in seconds, from 0")
    here, there = _place(source), _place(target)
    if normal(here) == normal(there):
        raise ConfigError(f"{_shown(here)} is source and target: name another target")
    file, shown = job_file("copy", here, there), (_shown(here), _shown(there))
    with (
        locked(job_file("copy-to", there)),
        _store(here) as (source_store, known_as),
        nullcontext(_by_own_name(source_store, known_as, policy)) as ours,
        _store(there) as (connector, name),
        Job(file) as job,
        Census(file.with_name(f"{file.name}.ids")) as census,
    ):
        asked = Asked(
            into_existing=into_existing,
            replace_others=replace_others,
            overlap=overlap,
            sampling=sampling,
            switch_alias=switch_alias,
            switch_from=switch_from,
            until=follow,
            known_as=known_as,
        )
        aim = Aim(connector, name, policy)
        return Run(shown, ours, aim, job, census, asked, Pace(rate), progress or silent).run()


def check(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    into_existing: bool = False,
    sampling: Sampling = Sampling(),
    policy: Policy | None = None,
    progress: Follow | None = None,
) -> CopyReport:
    """Compare two collections as ``copy`` does at its end; nothing is written. ``into_existing``: the target may hold more.

    Raises:
        NotFound: one of them does not exist.
        StoreError: a store failed.
    """
    here, there = _place(source), _place(target)
    started, tell = time.monotonic(), teller(progress or silent)
    file = job_file("check", here, there)
    with (
        _opened(here, policy) as ours,
        _opened(there, policy) as theirs,
        Census(file.with_name(f"{file.name}.{os.getpid()}")) as census,
    ):
        said = difference(native(ours.spec), native(theirs.spec))
        checks = [Check(name="spec", passed=not said, compared=1, said=said or "the same on both sides")]
        digests: Mapping[str, str] = {}
        if not said:
            read(census, ours, theirs, tell)
            found, digests = check_all(
                ours, theirs, census, sampling, since=None, more_allowed=into_existing, follow=tell
            )
            checks += found
        shown = _shown(here), _shown(there)
        return reported(ours, theirs, shown, started, checks=tuple(checks), digests=digests)


def _place(place: str | os.PathLike[str]) -> str:
    """An address as it is; a file by the one path that names it."""
    text = os.fspath(place)
    return str(Path(text).expanduser().resolve()) if is_file(text) else text


@contextmanager
def _store(url: str) -> Iterator[tuple[Connector, str]]:
    connector, name = (RecordsFile(url), DEFAULT_COLLECTION) if is_file(url) else connect(url)
    try:
        yield connector, name
    finally:
        connector.close()


@contextmanager
def _opened(url: str, policy: Policy | None) -> Iterator[Collection]:
    """The collection at an address."""
    with _store(url) as (connector, name):
        yield _by_own_name(connector, name, policy)


def _by_own_name(connector: Connector, name: str, policy: Policy | None) -> Collection:
    """The collection of that name or alias: an alias may name another one before all is copied."""
    aliases = connector.aliases(timeout=None) if connector.capabilities.alias else {}
    return Collection.open(connector, aliases.get(name, name), policy=policy)


def _shown(place: str) -> str:
    """An address without secrets, or a file."""
    return place if is_file(place) else str(parse(place))
