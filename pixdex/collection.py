"""``Collection``: the rich facade over a port. What users of vectors hold.

A connector has a dozen plain verbs. Everything that must mean the same on every store happens here,
once: records are checked and cosine vectors normalized, batches are cut by count and by bytes, results
are ordered, a filter that a store cannot express is completed, a missing verb is emulated, an encoder
that does not fit is refused.

numpy is loaded by the first call that touches vectors: its import costs more than everything else here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from pixdex import _records
from pixdex._altering import Addition, check_fillable, respecify
from pixdex._feeding import delete_there, feeding
from pixdex._identity import require, require_tokens, switched_from
from pixdex._limits import check_supported, pieces
from pixdex._names import check_collection
from pixdex.errors import (
    AlreadyExists,
    ConfigError,
    FingerprintMismatch,
    InvalidFilter,
    NotFound,
    PartialWrite,
    StoreError,
    Unsupported,
)
from pixdex.filters import FALSE, TRUE, F, Filter, bind
from pixdex.policy import Call, Policy
from pixdex.spec import Field, Fingerprint, Foreign, Source, Spec, TokenSpec, Vector
from pixdex.types import Batch, Hit, Page, Tuning, Want

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pixdex._reading import Reader
    from pixdex.connectors.port import Capabilities, Compacted, Connector, Finding, Upkeep

__all__ = ["Collection"]

R = TypeVar("R")

_call = lru_cache(maxsize=256)(Call)


class Collection:
    """One collection of one store.

    ``spec`` is how it lies in the store, ``connector`` the open store. Safe to use from several threads
    as far as the store is.
    """

    def __init__(self, connector: Connector, name: str, spec: Spec, *, policy: Policy | None = None) -> None:
        """Use ``create`` or ``open``; this neither makes nor checks anything."""
        self.connector = connector
        self.name = name
        self.spec = spec
        self.policy = policy or Policy()
        self._known_reader: Reader | None = None
        self._last_rev = 0
        self._rev_lock = threading.Lock()

    # --- life ---------------------------------------------------------------------------------------

    @classmethod
    def create(cls, connector: Connector, name: str, spec: Spec, *, policy: Policy | None = None) -> Collection:
        """Make an empty collection.

        Raises:
            AlreadyExists: there is one of that name.
            ConfigError: the name has characters that stores refuse.
            Unsupported: the store cannot hold such a Spec.
        """
        check_collection(name)
        spec = replace(spec, fed_from=None)  # that of another collection says nothing of this one
        collection = cls(connector, name, spec, policy=policy)
        check_supported(spec, connector)
        try:
            collection._run("create", connector.create, spec, idempotent=False)
        except AlreadyExists as error:
            message = f"there is a collection or alias {name!r} in this store already: open it, or choose another name"
            raise AlreadyExists(message) from error
        return collection

    @classmethod
    def open(
        cls,
        connector: Connector,
        name: str,
        *,
        expect: Mapping[str, Fingerprint] | None = None,
        policy: Policy | None = None,
    ) -> Collection:
        """Open a collection that exists; ``expect`` maps vector names to the fingerprints they must have.

        Raises:
            NotFound: there is none of that name.
            FingerprintMismatch: its vectors are of another encoder than expected.
        """
        policy = policy or Policy()
        try:
            spec = policy.run(Call("describe", name), lambda t: connector.describe(name, timeout=t))
        except NotFound as error:
            raise NotFound(f"there is no collection {name!r} in this {connector.scheme} store") from error
        if isinstance(spec.layout, Foreign) and spec.layout.companion is not None:
            from pixdex._joined import Joined

            connector = Joined(connector, spec, spec.layout.companion)
        collection = cls(connector, name, spec, policy=policy)
        for vector_name, fingerprint in (expect or {}).items():
            collection.require(fingerprint, vector=vector_name)
        return collection

    @property
    def capabilities(self) -> Capabilities:
        """What the store does natively."""
        return self.connector.capabilities

    def require(self, fingerprint: Fingerprint, *, vector: str) -> None:
        """Make sure that the vectors of that name are of the encoder with this fingerprint.

        Raises:
            FingerprintMismatch: they are not; the message says what differs and what to do.
        """
        require(self.name, self.spec.vector(vector).fingerprint, fingerprint, "vectors")

    def require_tokens(self, tokens: TokenSpec | None) -> None:
        """Make sure that the tokens this collection keeps, if it keeps any, are such tokens.

        Raises:
            FingerprintMismatch: they are not.
        """
        require_tokens(self.name, self.spec.tokens, tokens)

    def refresh(self) -> None:
        """Read the Spec again: others may have declared fields, vectors or sources meanwhile.

        Raises:
            FingerprintMismatch: the name stands for a collection of another encoder by now. What was made for the one
                may not go on with the other.
        """
        spec = self._run("describe", self.connector.describe)
        switched = switched_from(self.name, self.spec, spec)
        if switched is not None:
            raise switched
        self.spec = spec

    def alter(
        self,
        *,
        fields: Sequence[Field] = (),
        vectors: Sequence[Vector] = (),
        sources: Sequence[Source] = (),
    ) -> None:
        """Declare more fields, named vectors or sources. Records that are there keep their payload; new
        fields are filled from it.

        Raises:
            ConfigError: a name that is declared already.
            InvalidRecord: a stored payload holds a value of another kind than the new field.
            Unsupported: the store cannot add fields or vectors to a live collection.
        """
        self._own("alter")
        more = Addition(tuple(fields), tuple(vectors), tuple(sources))
        self.refresh()
        spec = more.to(self.spec)
        if (fields or vectors) and not self.capabilities.alter:
            raise Unsupported(
                f"{self.connector.scheme} cannot add fields or vectors to a live collection: "
                "create a new one with them and copy the records"
            )
        check_supported(spec, self.connector)
        if fields:
            check_fillable((page.batch for page in self._reader.pages(Want(payload=True))), fields)
        respecify(self, more.to, more.is_in)

    def drop(self) -> None:
        """Remove the collection and all its records."""
        self._own("drop")
        self._run("drop", self.connector.drop)

    def flush(self) -> None:
        """Return when everything acknowledged is visible to search, count and scan."""
        self._run("flush", self.connector.flush)

    def alias(self, alias: str) -> None:
        """Let ``alias`` name this collection, from one moment to the next, whatever it named before.

        Raises:
            AlreadyExists: there is a collection of that name.
            ConfigError: the name has characters that stores refuse.
            Unsupported: the store has no aliases.
        """
        self._point(alias, self.name)

    def unalias(self, alias: str) -> None:
        """Let ``alias`` name nothing; one that names nothing already is no error."""
        self._point(alias, None)

    def aliases(self) -> list[str]:
        """The aliases of this collection, sorted."""
        if not self.capabilities.alias:
            return []
        found = self.policy.run(Call("aliases", self.name), lambda t: self.connector.aliases(timeout=t))
        return sorted(alias for alias, name in found.items() if name == self.name)

    def _point(self, alias: str, name: str | None) -> None:
        check_collection(alias)
        if not self.capabilities.alias:
            raise Unsupported(f"{self.connector.scheme} has no aliases")
        self.policy.run(Call("alias", alias), lambda t: self.connector.alias(alias, name, timeout=t))

    def _own(self, verb: str) -> None:
        """Refuse to change what another tool made."""
        if not self.spec.native:
            raise Unsupported(
                f"{verb}: collection {self.name!r} was made by another tool, and pixdex only reads it: change records "
                "with that tool; to give them an image vector, use pixdex attach"
            )

    # --- writing ------------------------------------------------------------------------------------

    def upsert(self, batch: Batch) -> None:
        """Write whole records; those of the same id are replaced.

        ``batch.vectors`` maps vector names to ``[n, dim]``; a name that is left out, or ``batch.absent``,
        makes records without that vector. Nothing is written when any record is invalid.

        Raises:
            InvalidRecord: an id, vector, payload or token matrix breaks a law; the message names it.
            PartialWrite: the store failed half-way; ``done`` holds the ids that were acknowledged.
        """
        self._own("upsert")
        self._write(self._physical(_records.checked(batch, self.spec)))

    def _write(self, batch: Batch) -> None:
        """Write records as ports take them but for ``_rev``, which they get here; a copy gives such of another store."""
        ranges = pieces(batch, self.connector)
        ready = _records.with_revs(batch, self._next_revs(len(batch)))
        done: list[str] = []
        for rows in ranges:
            piece = ready if len(rows) == len(ready) else ready.take(rows)
            try:
                self._run("upsert", self.connector.upsert, piece, size=len(piece))
            except StoreError as error:
                if isinstance(error, PartialWrite):
                    done.extend(error.done)
                if not done:
                    raise
                raise PartialWrite(
                    f"{len(done)} of {len(batch)} records were written, then: {error}", done=done
                ) from error
            done.extend(piece.ids)

    def _next_revs(self, count: int) -> int:
        """The first of ``count`` revisions: the clock in microseconds, never going back."""
        with self._rev_lock:
            first = max(time.time_ns() // 1000, self._last_rev + 1)
            self._last_rev = first + count - 1
            return first

    def delete(self, ids: Sequence[str]) -> None:
        """Remove records by id; unknown ids are no error."""
        self._own("delete")
        _records.check_ids(ids)
        distinct = list(dict.fromkeys(ids))
        self._delete(distinct)
        source = feeding(self)  # asked afterwards: an alias may have been switched the moment before
        if source is not None:
            source._delete(distinct)  # noqa: SLF001 - of this class

    def _delete(self, distinct: Sequence[str]) -> None:
        for start in range(0, len(distinct), self.capabilities.max_batch):
            piece = distinct[start : start + self.capabilities.max_batch]
            self._run("delete", self.connector.delete, piece, size=len(piece))

    def delete_where(self, where: Filter) -> None:
        """Remove every record that matches.

        Raises:
            InvalidFilter: the filter does not fit the Spec; nothing is removed.
        """
        self._own("delete_where")
        bound = bind(where, self.spec)
        if bound == FALSE:
            return
        source = feeding(self)
        if source is not None:  # before it is deleted here: whoever is killed between, and asks again, finds it still
            delete_there(source, self, where)
        self._delete_where(bound)
        source = feeding(self)  # asked again: an alias may have been switched the moment before
        if source is not None:
            with suppress(InvalidFilter):  # a field that was declared here since
                source._delete_where(bind(where, source.spec))  # noqa: SLF001 - of this class

    def _delete_where(self, bound: Filter) -> None:
        """Remove what matches from this collection alone."""
        pushed = self._reader.pushed_whole(bound)
        if pushed is not None and self.capabilities.delete_where:
            self._run("delete_where", self.connector.delete_where, pushed)
            return
        # Collect first: deleting under a running scan may skip pages.
        self._delete([i for page in self._reader.matching(bound, Want(payload=False)) for i in page.batch.ids])

    # --- upkeep -------------------------------------------------------------------------------------

    def settle(self, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Have the store do now what it does in the background otherwise, such as building an index: after a bulk load,
        so that the first search finds it done. Where the store looks after that itself, nothing happens.

        ``progress`` is called with how many vectors are done, and of how many.
        """
        from pixdex.connectors.port import Upkeep

        if isinstance(self.connector, Upkeep):
            self.connector.settle(self.name, progress=progress, timeout=None)

    def compact(self, *, progress: Callable[[int, int], None] | None = None) -> Compacted:
        """Give back the room of replaced and deleted records; reading and writing go on meanwhile.

        ``progress`` is called with how many vectors are done, and of how many.

        Raises:
            Unsupported: the store is not of pixdex's own files.
            StoreFull: no room for the copy that takes the place of what is there; nothing is lost.
            StoreFormat: something is damaged: ``verify`` says what.
        """
        return self._upkeep("compact").compact(self.name, progress=progress, timeout=None)

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
        """Read everything and compare it with its checksums; an empty list means that all is as it was written.

        ``progress`` is called with how many records are done, and of how many.

        Raises:
            Unsupported: the store is not of pixdex's own files.
        """
        return list(self._upkeep("verify").verify(self.name, progress=progress, timeout=None))

    def _upkeep(self, verb: str) -> Upkeep:
        from pixdex.connectors.port import Upkeep

        if not isinstance(self.connector, Upkeep):
            scheme = self.connector.scheme
            raise Unsupported(f"{verb}: {scheme} looks after its own files; use what {scheme} has for that")
        return self.connector

    # --- reading ------------------------------------------------------------------------------------

    def fetch(self, ids: Sequence[str], *, want: Want = Want()) -> Batch:
        """Records by id, in the order of ``ids``; those that do not exist are left out."""
        _records.check_ids(ids)
        return self._reader.fetch(ids, want)

    def search(
        self,
        queries: ArrayLike,
        *,
        k: int = 10,
        where: Filter | None = None,
        using: str | None = None,
        threshold: float | None = None,
        tuning: Tuning = Tuning(),
        want: Want = Want(),
    ) -> list[list[Hit]]:
        """For each query at most ``k`` hits, by score, then id.

        Args:
            queries: float ``[q, dim]``.
            where: applies before top-k.
            using: the vector searched; may be left out when there is only one.
            threshold: leaves out hits that score lower.

        Raises:
            InvalidRecord: a query has NaN, the wrong width, or is zero under cosine.
            InvalidFilter: the filter does not fit the Spec.
            FingerprintMismatch: the collection was replaced by one of another encoder.
        """
        reader = self._reader
        asked = reader.asked(queries, one=False, k=k, where=where, using=using, tuning=tuning, want=want)
        found = reader.search(asked)
        return found if threshold is None else [_above(hits, threshold) for hits in found]

    def search_one(
        self,
        query: ArrayLike,
        *,
        k: int = 10,
        where: Filter | None = None,
        using: str | None = None,
        threshold: float | None = None,
        tuning: Tuning = Tuning(),
        want: Want = Want(),
    ) -> list[Hit]:
        """``search`` for one query ``[dim]``."""
        reader = self._reader
        asked = reader.asked(query, one=True, k=k, where=where, using=using, tuning=tuning, want=want)
        hits = reader.search(asked)[0]
        return hits if threshold is None else _above(hits, threshold)

    def scan(
        self,
        *,
        where: Filter | None = None,
        want: Want = Want(),
        size: int = 1000,
        after: str | None = None,
        since: int | None = None,
    ) -> Iterator[Page]:
        """Every record that matches, in pages of at most ``size``, in no promised order.

        ``after`` resumes behind a page: ``page.after``. ``since`` keeps records written after a
        revision (``Batch.revs``): that is how a copy catches up with a live collection. A slow writer may
        commit a lower revision after a higher one was read: let marks overlap by the longest write.
        """
        for page in self._stored(where=where, want=want, size=size, after=after, since=since):
            yield Page(self._reader.from_port(page.batch), page.after)

    def _stored(
        self, *, where: Filter | None, want: Want, size: int, after: str | None, since: int | None
    ) -> Iterator[Page]:
        """The pages of ``scan`` as they lie at the port."""
        if size < 1:
            raise ConfigError(f"size is {size}: ask for at least 1")
        bound = TRUE if where is None else bind(where, self.spec)
        if since is not None:
            self._own("scan(since=)")
            bound = bind(bound & (F["_rev"] > since), self.spec)
        if bound == FALSE:
            return
        reader = self._reader
        yield from reader.matching(bound, reader.at_port(want), size=size, after=after)

    def count(self, where: Filter | None = None) -> int:
        """How many records match, exactly."""
        return self._reader.count(None if where is None else bind(where, self.spec))

    # --- between user and port ----------------------------------------------------------------------

    @property
    def _reader(self) -> Reader:
        reader = self._known_reader
        if reader is None or reader.spec is not self.spec or reader.connector is not self.connector:
            from pixdex._reading import Reader  # numpy comes with it

            reader = self._known_reader = Reader(self.connector, self.spec, self._run)
        return reader

    def _run(self, verb: str, method: Callable[..., R], *args: Any, size: int = 0, idempotent: bool = True) -> R:
        """One verb of the connector on this collection, under the policy."""
        call = _call(verb, self.name, size, idempotent)
        try:
            return self.policy.run(call, lambda timeout: method(self.name, *args, timeout=timeout))
        except FingerprintMismatch as error:
            raise self._explained(error) from error

    def _explained(self, error: FingerprintMismatch) -> FingerprintMismatch:
        """A stale handle, told apart: what this handle was opened with and what is there now."""
        now = self.connector.describe(self.name, timeout=self.policy.attempt_timeout)
        return switched_from(self.name, self.spec, now) or FingerprintMismatch(
            f"{error}: collection {self.name!r} changed since this handle was opened, or another pixdex made it. "
            "Open it again; if that does not help, make a new collection and add again."
        )

    def _physical(self, batch: Batch) -> Batch:
        column = {vector.name: vector.column for vector in self.spec.vectors}
        return replace(
            batch,
            vectors={column[name]: values for name, values in batch.vectors.items()},
            absent={column[name]: mask for name, mask in batch.absent.items()},
        )


def _above(hits: Sequence[Hit], threshold: float) -> list[Hit]:
    return [hit for hit in hits if hit.score >= threshold]
