"""What a store is: about a dozen verbs over frozen values. ``Collection`` adds everything rich, once.

Promises that every connector keeps (``pixdex.testing`` turns each into a test):

* ``upsert`` replaces the whole record and is idempotent; ``delete`` and ``fetch`` ignore unknown ids.
* A filter applies before top-k. Filters arrive bound (see ``pixdex.filters``) and hold only operators
  that ``capabilities.operators`` lists; what else a user asks for, the facade completes.
* ``scan`` visits every record that is present throughout, once, in any order; a page may be asked for
  again with the same cursor. A page may be short; only ``after is None`` means the end.
* ``fetch`` returns what exists, in any order. A stored vector equals the one given to 1e-6.
* What a read returns is the caller's own: payloads are fresh dicts, and a change of them changes no record. What
  ``upsert`` is given is not: the caller may change it afterwards.
* ``describe`` returns the Spec that ``create`` or ``alter`` was given, also while the collection is empty.
* After ``flush`` everything acknowledged is visible to search, count and scan.
* Scores are similarities in the sense of ``Metric``. Client exceptions are translated; unknown
  collections are NotFound; a vector name that the collection lacks is FingerprintMismatch, because
  physical vector names carry the fingerprint.

What the facade has done before a call: ids, vectors and payloads are checked and canonical (see
``Collection``), cosine vectors are normalized, batches are within ``capabilities``, ids are distinct.
Payloads carry ``_rev``. Times in payloads are ISO 8601 text in UTC; ``filters.stored`` gives the value
for a typed column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pixdex.filters import Operator
from pixdex.spec import Kind, Metric, Spec
from pixdex.types import MAX_ID_BYTES, Batch, Hit, Page, Scan, Search, Want

if TYPE_CHECKING:
    from pixdex.filters import Filter

__all__ = [
    "Adopting",
    "Capabilities",
    "Compacted",
    "Connector",
    "Finding",
    "Survey",
    "SurveyedField",
    "SurveyedVector",
    "Upkeep",
    "Versioned",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a store does natively, limits included. Tests, emulation and the docs table read it.

    Attributes:
        metrics: the metrics it scores with.
        operators: the filter operators it evaluates exactly as pixdex defines them.
        delete_where: deletes by filter (else: the facade scans and deletes).
        exact: ``Tuning(exact=True)`` is exact (else: the facade scans and scores).
        complete: a search returns k hits whenever k records match (else: the facade counts and completes).
        foreign: opens collections that another tool made; the connector is ``Adopting``.
        alias: has aliases that switch atomically.
        alter: fields and vectors can be added to a live collection.
        durable: what was acknowledged survives the process.
        reads_own_writes: acknowledged writes are visible to this handle without ``flush``.
        staleness: seconds until another handle sees an acknowledged, flushed write.
        tokens: has a place for token matrices.
        max_vectors: named vectors a collection may have.
        max_batch: records a write.
        max_batch_bytes: bytes a write, about.
        max_k: results a query.
        max_dim: width of a vector.
        max_id_bytes: UTF-8 bytes of an id.
        max_payload_bytes: bytes of a payload as JSON.
        max_token_bytes: bytes of a token matrix.
    """

    metrics: frozenset[Metric] = frozenset(Metric)
    operators: frozenset[Operator] = frozenset(Operator)
    delete_where: bool = True
    exact: bool = True
    complete: bool = True
    foreign: bool = False
    alias: bool = True
    alter: bool = True
    durable: bool = True
    reads_own_writes: bool = True
    staleness: float = 0.0
    tokens: bool = True
    max_vectors: int = 16
    max_batch: int = 1000
    max_batch_bytes: int = 16 << 20
    max_k: int = 16384
    max_dim: int = 32768
    max_id_bytes: int = MAX_ID_BYTES
    max_payload_bytes: int = 1 << 20
    max_token_bytes: int = 1 << 20


@runtime_checkable
class Connector(Protocol):
    """One open store. Safe to call from several threads. ``timeout`` is in seconds, None for no limit.

    ``name`` is a collection or an alias everywhere but in ``create``, ``drop`` and ``alias``.
    """

    scheme: str
    capabilities: Capabilities

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        """Make an empty collection. Raises AlreadyExists, also for the name of an alias."""
        ...

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        """The Spec of a collection. Raises NotFound, StoreFormat (made by another tool)."""
        ...

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        """Replace the Spec by one with more fields, vectors or sources; old records get the columns
        of new fields filled from their payloads. Raises Unsupported where the store cannot.
        """
        ...

    def drop(self, name: str, *, timeout: float | None) -> None:
        """Remove a collection, its records and the aliases that point at it; unknown names are ignored."""
        ...

    def names(self, *, timeout: float | None) -> Sequence[str]:
        """The collections, sorted, aliases not among them."""
        ...

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        """Write whole records. ``batch.payloads`` is always given. Vectors go by physical name."""
        ...

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        """Remove records by id."""
        ...

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        """Remove every record that matches; called only with the capability."""
        ...

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        """Records by id: those that exist, in any order."""
        ...

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        """For each query at most ``k`` hits, best first. Records without the vector are not found."""
        ...

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        """One page of the records that match."""
        ...

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        """How many records match, exactly."""
        ...

    def flush(self, name: str, *, timeout: float | None) -> None:
        """Return when everything acknowledged is visible to search, count and scan."""
        ...

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        """Point ``alias`` at a collection, atomically; None removes it. Raises AlreadyExists when
        ``alias`` is the name of a collection, NotFound when ``name`` is none.
        """
        ...

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        """Alias -> collection."""
        ...

    def close(self) -> None:
        """Release the store; calling twice is fine."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyedVector:
    """A vector that another tool made.

    Attributes:
        name: what the store calls it; empty for the unnamed vector of a Qdrant collection.
        metric: None when the store compares in a way that pixdex has no name for.
        searchable: pixdex can search it: float32 or float16, one vector a record.
        index: how the store indexes it, in its own words.
    """

    name: str
    dim: int
    metric: Metric | None
    searchable: bool = True
    index: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyedField:
    """A field that another tool declared or indexed; ``type`` is the store's word for it.

    ``kind`` is None for what pixdex cannot filter on.
    """

    name: str
    type: str
    kind: Kind | None
    many: bool = False
    indexed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What there is in a collection that another tool made."""

    count: int
    ids: Literal["text", "uuid", "int"]
    key: str
    vectors: tuple[SurveyedVector, ...]
    fields: tuple[SurveyedField, ...]


@runtime_checkable
class Adopting(Protocol):
    """What a connector with the capability ``foreign`` can do besides. None of it changes what is there.

    Once a Spec with the layout ``Foreign`` is registered, ``describe`` returns it and the reading verbs
    work on the collection: ids are text (an int in decimal digits, a uuid in its canonical form), a payload is
    all that the other tool stored besides vectors, filters arrive without ``not`` and may match more than
    they say, since the facade checks every record again. ``alter`` takes it where it can add a vector.
    """

    def survey(self, name: str, *, timeout: float | None) -> Survey:
        """What is in the collection. Raises NotFound."""
        ...

    def register(self, name: str, spec: Spec | None, *, timeout: float | None) -> None:
        """Keep the Spec with the collection; None forgets it. Raises AccessDenied, or Unsupported where the
        store has no place for it and the address names no registry file.
        """
        ...

    def attach(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        """Give records that exist the vectors of ``batch``, by id, and leave all else of them; unknown ids are
        ignored. Raises Unsupported where ``alter`` cannot add a vector.
        """
        ...


@runtime_checkable
class Versioned(Protocol):
    """What a connector can do that knows what it runs on; ``pixdex doctor`` asks."""

    def versions(self, *, timeout: float | None) -> Mapping[str, str]:
        """What answers, and what it is asked with: name -> version."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What a compaction did.

    Attributes:
        kept: vectors that were copied.
        removed: vectors that no record had any more.
        freed: bytes that the store takes less.
    """

    kept: int
    removed: int
    freed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something in a store that is not as it was written.

    Attributes:
        place: the file, with the bytes in it where they are known.
        what: what is wrong.
        remedy: what to do.
        records: the ids of the records concerned, where they are known.
        lost: something that was acknowledged is damaged; else it is made anew from what is whole.
    """

    place: str
    what: str
    remedy: str
    records: tuple[str, ...] = ()
    lost: bool = True


@runtime_checkable
class Upkeep(Protocol):
    """What a connector can do whose files pixdex itself writes. ``progress`` is called with how many vectors or
    records are done, and of how many.
    """

    def settle(self, name: str, *, progress: Callable[[int, int], None] | None = None, timeout: float | None) -> None:
        """Do now what is done in the background otherwise: bring the index up to the last record."""
        ...

    def compact(
        self, name: str, *, progress: Callable[[int, int], None] | None = None, timeout: float | None
    ) -> Compacted:
        """Give back the room of replaced and deleted records. Readers and writers go on meanwhile. Raises StoreFull
        where there is no room for the copy, and StoreFormat where a checksum does not fit; nothing is lost by either.
        """
        ...

    def verify(
        self, name: str, *, progress: Callable[[int, int], None] | None = None, timeout: float | None
    ) -> Sequence[Finding]:
        """Read everything and compare it with its checksums. Nothing is changed."""
        ...
