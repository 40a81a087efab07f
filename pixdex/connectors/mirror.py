"""Two stores as one: the first answers, the second is written too and its answers are compared.

For a move that nobody should notice: point the program at ``mirror://?primary=ADDRESS&secondary=ADDRESS``, let ``pixdex
copy`` bring over what was there before, watch what differs, and switch when nothing does. The second store is on trial: it may
fail, be slow or differ, and no caller sees that; ``comparison`` and the log ``pixdex.connectors.mirror`` do.

``&`` and ``#`` in the inner addresses are written ``%26`` and ``%23``. Each may name a collection of its own; the mirror's
is called as that of the first.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pixdex.connectors import connect as connect_to
from pixdex.connectors._mirror_shadow import (
    Comparison,
    Difference,
    Shadow,
    batches_differ,
    counts_differ,
    hits_differ,
)
from pixdex.connectors.port import Capabilities, Versioned
from pixdex.errors import AlreadyExists, ConfigError, NotFound, StoreError
from pixdex.filters import operators_of
from pixdex.types import Page, Want

if TYPE_CHECKING:
    from pixdex.connectors._mirror_shadow import Verdict
    from pixdex.connectors.address import Address
    from pixdex.connectors.port import Connector
    from pixdex.filters import Filter
    from pixdex.types import Batch, Hit, Scan, Search, Spec

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
_BOTH = ("alias", "alter", "durable", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """Of the address; ``share`` of the reads are compared, picked at random."""

    primary: str = ""
    secondary: str = ""
    share: float = 1.0


def connect(address: Address) -> Mirror:
    """``mirror://?primary=ADDRESS&secondary=ADDRESS``, and ``&share=0.1`` where not every read is to be compared.

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
    return Mirror(first, second, names={name: other}, share=options.share)


class Mirror:
    """A connector over two; the verbs are documented in ``port``. ``names``: what a collection is called in the second
    store, where that differs. The stores are closed with it.

    Raises:
        ConfigError: ``share`` is no share.
    """

    scheme = "mirror"

    def __init__(
        self, primary: Connector, secondary: Connector, *, names: Mapping[str, str] | None = None, share: float = 1.0
    ) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"share is {share}: the share of reads to compare is from 0 to 1")
        self.primary, self.secondary = primary, secondary
        self.capabilities = _together(primary.capabilities, secondary.capabilities)
        self._names = dict(names or {})
        self._share = share
        self._shadow = Shadow()
        self._lock = threading.Lock()
        self._unwritten: dict[str, dict[str, None]] = {}
        self._writing = threading.Lock()  # both stores get the writes in one order, or they would end up differing
        self._random = random.Random(0)

    def comparison(self) -> Comparison:
        """What was compared until now, and how the second store did."""
        found = self._shadow.comparison()
        with self._lock:
            return replace(found, unwritten=sum(map(len, self._unwritten.values())))

    # --- both change ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        self.primary.create(name, spec, timeout=timeout)
        try:
            self.secondary.create(self._other(name), spec, timeout=timeout)
        except AlreadyExists:
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
        with self._lock:
            self._unwritten.pop(name, None)

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        self.primary.alias(alias, name, timeout=timeout)
        self.secondary.alias(alias, None if name is None else self._other(name), timeout=timeout)

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        with self._writing:
            self.primary.upsert(name, batch, timeout=timeout)
            self._also(name, batch.ids, lambda other: self.secondary.upsert(other, batch, timeout=timeout))

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        with self._writing:
            self.primary.delete(name, ids, timeout=timeout)
            self._also(name, ids, lambda other: self.secondary.delete(other, ids, timeout=timeout))

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        """Never called: what a filter finds could differ, so the facade deletes by id what the first store finds."""
        raise NotImplementedError

    def flush(self, name: str, *, timeout: float | None) -> None:
        self.primary.flush(name, timeout=timeout)
        try:
            self._catch_up(name, timeout)
            self.secondary.flush(self._other(name), timeout=timeout)
        except StoreError as error:
            _log.warning("mirror: the second store is behind in %r: %s", name, error)

    # --- the first answers ---

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        spec = self.primary.describe(name, timeout=timeout)
        self._check(name, spec, timeout)
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
            lambda _: self.secondary.count(self._other(name), where, timeout=timeout),
            counts_differ,
            able=self._able(where),
        )

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        can = self.secondary.capabilities
        return self._answered(
            "search",
            lambda: self.primary.search(name, request, timeout=timeout),
            lambda _: self.secondary.search(self._other(name), request, timeout=timeout),
            hits_differ,
            able=self._able(request.where) and request.k <= can.max_k and (can.exact or not request.tuning.exact),
        )

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        return self._answered(
            "fetch",
            lambda: self.primary.fetch(name, ids, want=want, timeout=timeout),
            lambda _: self.secondary.fetch(self._other(name), ids, want=want, timeout=timeout),
            batches_differ,
        )

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        # Stores have orders and pages of their own: the second is asked for the records of the page.
        def theirs(page: Page) -> Page:
            ids, want = page.batch.ids, request.want
            return Page(self.secondary.fetch(self._other(name), ids, want=want, timeout=timeout), None)

        return self._answered(
            "scan",
            lambda: self.primary.scan(name, request, timeout=timeout),
            theirs,
            lambda one, other: batches_differ(one.batch, other.batch),
        )

    def close(self) -> None:
        self._shadow.close()
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
        if not able:
            self._shadow.skip()
        elif self._share == 1 or self._random.random() < self._share:
            kept = _kept(answer)

            def again() -> Verdict:
                try:
                    now = first()
                except NotFound:  # gone from both meanwhile
                    return "", 1.0
                return differ(now, second(now))

            self._shadow.compare(verb, lambda: differ(kept, second(kept)), again)
        return answer

    def _also(self, name: str, ids: Iterable[str], write: Callable[[str], None]) -> None:
        """Write to the second store too; what it fails to take is remembered."""
        try:
            write(self._other(name))
        except StoreError as error:
            with self._lock:
                self._unwritten.setdefault(name, {}).update(dict.fromkeys(ids))
            _log.warning("mirror: the second store did not take a write to %r: %s", name, error)

    def _catch_up(self, name: str, timeout: float | None) -> None:
        """Give the second store what it failed to take, as the first has it now."""
        with self._lock:
            ids = list(self._unwritten.get(name, ()))
        if not ids:
            return
        spec = self.primary.describe(name, timeout=timeout)
        want = Want(payload=True, vectors=tuple(v.column for v in spec.vectors), tokens=spec.tokens is not None)
        for start in range(0, len(ids), self.capabilities.max_batch):
            piece = ids[start : start + self.capabilities.max_batch]
            with self._writing:
                batch = self.primary.fetch(name, piece, want=want, timeout=timeout)
                if len(batch):
                    self.secondary.upsert(self._other(name), batch, timeout=timeout)
                gone = sorted(set(piece) - set(batch.ids))
                if gone:
                    self.secondary.delete(self._other(name), gone, timeout=timeout)
            with self._lock:
                for record in piece:
                    self._unwritten.get(name, {}).pop(record, None)

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
