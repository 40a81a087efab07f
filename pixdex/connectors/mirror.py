"""Two stores as one: the first answers, the second is written too and its answers are compared.

For a move that nobody should notice: point the program at ``mirror://?primary=ADDRESS&secondary=ADDRESS``, let ``pixdex
copy`` bring over what was there before, watch what differs, and switch when nothing does. The second store is on trial: it may
fail, be slow or differ, and no caller sees that; ``comparison`` and the log ``pixdex.connectors.mirror`` do. Only what changes
collections themselves (create, alter, drop, alias) fails where the second does.

A write waits for the second store at most ``patience`` seconds, as far as that keeps to the time it is given; when it was away or too
slow it is left alone for half a minute. ``flush`` gives it what it missed, and may take as long as it was given. Which records
those are is remembered on this machine, by the mirror's address, where both stores last: a program that was killed goes on.

``&`` and ``#`` in the inner addresses are written ``%26`` and ``%23``. Each may name a collection of its own; the mirror's
is called as that of the first.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pixdex._state import job_file
from pixdex.connectors import connect as connect_to
from pixdex.connectors._mirror_missed import Missed
from pixdex.connectors._mirror_shadow import (
    Comparison,
    Difference,
    NotCompared,
    Shadow,
    batches_differ,
    counts_differ,
    hits_differ,
)
from pixdex.connectors.port import Capabilities, Versioned
from pixdex.errors import AlreadyExists, ConfigError, NotFound, StoreError, Unsupported
from pixdex.filters import operators_of
from pixdex.types import Page, Want

if TYPE_CHECKING:
    from pathlib import Path

    from pixdex.connectors._mirror_shadow import Verdict
    from pixdex.connectors.address import Address
    from pixdex.connectors.port import Connector
    from pixdex.filters import Filter
    from pixdex.spec import Spec
    from pixdex.types import Batch, Hit, Scan, Search

__all__ = ["Comparison", "Difference", "Mirror", "connect"]

_log = logging.getLogger("pixdex.connectors.mirror")

A = TypeVar("A")

_AT_MOST = (
    "max_vectors",
    "max_dim",
    "max_batch",
    "max_batch_bytes",
    "max_id_bytes",
    "max_payload_bytes",
    "max_token_bytes",
)
_TRIES = 5
"""How often both are asked again while writes come between."""
_REST = 30.0
"""Seconds for which a second store that was away is not written to."""
_BOTH = ("alias", "alter", "durable", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """Of the address; ``share`` of the reads are compared, picked at random; ``patience``: seconds."""

    primary: str = ""
    secondary: str = ""
    share: float = 1.0
    patience: float = 10.0


def connect(address: Address) -> Mirror:
    """``mirror://?primary=ADDRESS&secondary=ADDRESS``, and ``&share=0.1`` where not every read is to be compared,
    ``&patience=2`` where no write may wait longer for the second store.

    Raises:
        ConfigError: an address is missing, or cannot be one.
        StoreError: one of the stores cannot be opened.
    """
    options = address.read_options(_Options)
    if not options.primary or not options.secondary or address.place:
        raise ConfigError(f"{address}: write mirror://?primary=ADDRESS&secondary=ADDRESS, with %23 for # in these")
    first, name = connect_to(options.primary)
    try:
        second, other = connect_to(options.secondary)
    except BaseException:
        first.close()
        raise
    if address.collection is not None:
        name = address.collection
    try:
        missed = _missed_by(options) if first.capabilities.durable and second.capabilities.durable else None
        return Mirror(first, second, names={name: other}, share=options.share, patience=options.patience, missed=missed)
    except BaseException:
        first.close()
        second.close()
        raise


def _missed_by(options: _Options) -> Path | None:
    """The file that remembers what this machine's programs have not got into the second store."""
    try:
        return job_file("mirror", options.primary, options.secondary)
    except ConfigError as error:
        _log.warning("mirror: what the second store misses is known to this program only: %s", error)
        return None


class Mirror:
    """A connector over two; the verbs are documented in ``port``. ``names``: what a collection is called in the second
    store, where that differs. The second is given ``patience`` seconds for a write, or an answer. ``missed`` is the file that remembers
    what the second did not take; without it nobody knows after this object. The stores are closed with it.

    Raises:
        ConfigError: ``share`` is no share, or there is no patience.
    """

    scheme = "mirror"

    def __init__(
        self,
        primary: Connector,
        secondary: Connector,
        *,
        names: Mapping[str, str] | None = None,
        share: float = 1.0,
        patience: float = 10.0,
        missed: Path | None = None,
    ) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"share is {share}: the share of reads to compare is from 0 to 1")
        if not patience > 0:
            raise ConfigError(f"patience is {patience}: give the second store some seconds")
        self.primary, self.secondary = primary, secondary
        self.capabilities = _together(primary.capabilities, secondary.capabilities)
        self._names = dict(names or {})
        self._share = share
        self._patience = patience
        self._rests_until = 0.0
        self._shadow = Shadow()
        self._missed = Missed(missed)
        self._writing = threading.Lock()  # both stores get the writes in one order, or they would end up differing
        self._writes = 0
        self._random = random.Random(0)

    def comparison(self) -> Comparison:
        """What was compared until now, and how the second store did."""
        return replace(self._shadow.comparison(), unwritten=self._missed.count())

    # --- both change ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        self.primary.create(name, spec, timeout=timeout)
        try:
            with suppress(AlreadyExists):  # as good, if it is alike
                self.secondary.create(self._other(name), spec, timeout=timeout)
            self._check(name, spec, timeout)
        except BaseException:
            self.primary.drop(name, timeout=timeout)
            raise

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        self.primary.alter(name, spec, timeout=timeout)
        self.secondary.alter(self._other(name), spec, timeout=timeout)

    def drop(self, name: str, *, timeout: float | None) -> None:
        self.primary.drop(name, timeout=timeout)
        self.secondary.drop(self._other(name), timeout=timeout)
        self._missed.forget(name)

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        # What was missed is known by the name it was written to, which is about to mean another collection, or none.
        with suppress(NotFound):
            self._catch_up(alias, timeout)
        with self._writing:
            with suppress(NotFound):
                for marks in self._behind(alias):
                    self._bring(alias, marks, timeout)
            # The second first: while it is away nothing is switched, or it would get what is written by the alias in another collection.
            self.secondary.alias(alias, None if name is None else self._other(name), timeout=timeout)
            self.primary.alias(alias, name, timeout=timeout)

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        self._write(name, batch.ids, lambda store, there, left: store.upsert(there, batch, timeout=left), timeout)

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        self._write(name, ids, lambda store, there, left: store.delete(there, ids, timeout=left), timeout)

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        # What a filter finds could differ, so the facade deletes by id what the first store finds.
        raise Unsupported("a mirror deletes by id: find the ids with a scan")

    def flush(self, name: str, *, timeout: float | None) -> None:
        self.primary.flush(name, timeout=timeout)
        try:
            self._catch_up(name, timeout)
            self.secondary.flush(self._other(name), timeout=timeout)
            self._rests_until = 0.0
        except Exception as error:  # noqa: BLE001 - the second store is on trial
            _log.warning("mirror: the second store is behind in %r: %s", name, error)

    # --- the first answers ---

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        spec = self.primary.describe(name, timeout=timeout)
        try:
            self._check(name, spec, self._within(timeout))
        except StoreError as error:
            if not error.retryable:  # it will not pass
                raise
            _log.warning("mirror: the second store is away, so %r there was not looked at: %s", name, error)
        return spec

    def versions(self, *, timeout: float | None) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for which, store in (("first", self.primary), ("second", self.secondary)):
            if isinstance(store, Versioned):
                found |= {f"{which}: {name}": what for name, what in store.versions(timeout=timeout).items()}
        return found

    def names(self, *, timeout: float | None) -> Sequence[str]:
        return self.primary.names(timeout=timeout)

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        return self.primary.aliases(timeout=timeout)

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        return self._answered(
            "count",
            lambda: self.primary.count(name, where, timeout=timeout),
            lambda _: self.secondary.count(self._other(name), where, timeout=self._within(timeout)),
            counts_differ,
            able=self._able(where),
        )

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        can = self.secondary.capabilities
        return self._answered(
            "search",
            lambda: self.primary.search(name, request, timeout=timeout),
            lambda _: self.secondary.search(self._other(name), request, timeout=self._within(timeout)),
            hits_differ,
            able=self._able(request.where) and request.k <= can.max_k and (can.exact or not request.tuning.exact),
        )

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        return self._answered(
            "fetch",
            lambda: self.primary.fetch(name, ids, want=want, timeout=timeout),
            lambda _: self.secondary.fetch(self._other(name), ids, want=want, timeout=self._within(timeout)),
            batches_differ,
        )

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        # Stores have orders and pages of their own: the second is asked for the records of the page.
        def theirs(page: Page) -> Page:
            ids, want = page.batch.ids, request.want
            left = self._within(timeout)
            return Page(self.secondary.fetch(self._other(name), ids, want=want, timeout=left), None)

        return self._answered(
            "scan",
            lambda: self.primary.scan(name, request, timeout=timeout),
            theirs,
            lambda one, other: batches_differ(one.batch, other.batch),
        )

    def close(self) -> None:
        self._shadow.close()
        behind = self._missed.count()
        if behind:
            _log.warning("mirror: the second store ends %d records behind", behind)
        self._missed.close()
        for store in (self.primary, self.secondary):
            store.close()

    # --- helpers ---

    def _other(self, name: str) -> str:
        return self._names.get(name, name)

    def _able(self, where: Filter | None) -> bool:
        return where is None or operators_of(where) <= self.secondary.capabilities.operators

    def _answered(
        self,
        verb: str,
        first: Callable[[], A],
        second: Callable[[A], A],
        differ: Callable[[A, A], Verdict],
        *,
        able: bool = True,
    ) -> A:
        """The first store's answer; the second's is compared with it meanwhile."""
        answer = first()
        if not able or self._shadow.full:
            self._shadow.skip()
        elif self._share == 1 or self._random.random() < self._share:
            kept = _kept(answer)

            def again() -> Verdict:
                for _ in range(_TRIES):
                    before = self._writes
                    quiet = not self._writing.locked()
                    try:
                        now = first()
                    except NotFound:  # gone from both meanwhile
                        return "", 1.0
                    found = differ(now, second(now))
                    if not found[0] or (quiet and self._writes == before):
                        return found
                raise NotCompared

            self._shadow.compare(verb, lambda: differ(kept, second(kept)), again)
        return answer

    def _write(
        self,
        name: str,
        ids: Sequence[str],
        write: Callable[[Connector, str, float | None], None],
        timeout: float | None,
    ) -> None:
        """Write to the first store, and to the second what that took. It is remembered before, as this may be killed at any instant,
        and until the second has it.
        """
        with self._writing:
            self._writes += 1
            marks = self._missed.expect(name, ids)
            write(self.primary, name, timeout)
            if time.monotonic() < self._rests_until:
                self._missed.add(name, ids)  # again: another program may have written them meanwhile
                return
            try:
                write(self.secondary, self._other(name), self._within(timeout))
                self._missed.remove(name, marks)
            except Exception as error:  # noqa: BLE001 - it is on trial: whatever it raises is no caller's business
                self._missed.add(name, ids)
                if isinstance(error, StoreError) and error.retryable:
                    self._rests_until = time.monotonic() + _REST
                _log.warning("mirror: the second store did not take a write to %r: %s", name, error)

    def _within(self, timeout: float | None) -> float:
        """What the second store gets of the time there is."""
        return self._patience if timeout is None else min(timeout, self._patience)

    def _catch_up(self, name: str, timeout: float | None) -> None:
        """Give the second store what it failed to take, as the first has it now."""
        for marks in self._behind(name):
            with self._writing:
                self._bring(name, marks, timeout)

    def _behind(self, name: str) -> Iterator[Mapping[str, int]]:
        """The ids of what the second store failed to take, page by page, with their marks."""
        after, size = "", self.capabilities.max_batch
        while marks := self._missed.page(name, after, size):
            yield marks
            after = max(marks)

    def _bring(self, name: str, marks: Mapping[str, int], timeout: float | None) -> None:
        spec = self.primary.describe(name, timeout=timeout)
        want = Want(payload=True, vectors=tuple(v.column for v in spec.vectors), tokens=spec.tokens is not None)
        batch = self.primary.fetch(name, list(marks), want=want, timeout=timeout)
        if len(batch):
            self.secondary.upsert(self._other(name), batch, timeout=timeout)
        gone = sorted(marks.keys() - set(batch.ids))
        if gone:
            self.secondary.delete(self._other(name), gone, timeout=timeout)
        self._missed.remove(name, marks)

    def _check(self, name: str, spec: Spec, timeout: float | None) -> None:
        """Both have the collection, alike in what is stored."""
        other = self._other(name)
        try:
            theirs = self.secondary.describe(other, timeout=timeout)
        except NotFound as error:
            raise ConfigError(
                f"mirror: the second store has no collection {other!r}: make it with pixdex copy, from the first"
            ) from error
        for what in ("vectors", "fields", "tokens", "layout"):
            if getattr(spec, what) != getattr(theirs, what):
                raise ConfigError(
                    f"mirror: collection {name!r} of the first store and {other!r} of the second have other {what}: "
                    "mirror a collection that pixdex copy made from it"
                )


def _together(first: Capabilities, second: Capabilities) -> Capabilities:
    """Reads are as the first store's; what is written both must take."""
    values: dict[str, Any] = {name: min(getattr(first, name), getattr(second, name)) for name in _AT_MOST}
    values |= {name: getattr(first, name) and getattr(second, name) for name in _BOTH}
    return replace(first, metrics=first.metrics & second.metrics, delete_where=False, foreign=False, **values)


def _kept(answer: A) -> A:
    """A copy of what the caller may change: payloads, and the lists that hits stand in."""
    import copy

    return copy.deepcopy(answer)
