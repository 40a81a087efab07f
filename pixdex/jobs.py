"""Adding as a job: with a journal on this machine, and what failed tried again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from pixdex._twins import OnDuplicate, Twins
from pixdex.dedup import Near, usual
from pixdex.errors import ConfigError
from pixdex.fields import IMAGE
from pixdex.report import Status

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.connectors.port import Connector
    from pixdex.encoders.decoding import Decoding
    from pixdex.journal import Journal
    from pixdex.pictures import Item

__all__ = ["Job", "journal_for", "not_tried", "only_failed", "twins_for"]

_PIECE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How adding is done as a job. It keeps a journal on this machine: a row for each picture, with what became of it and why
    (``pixdex journal`` shows it), and the hashes of files, which are not read again while they look as they did. One job at a
    time adds to a collection.

    Attributes:
        sync: records whose files are gone from the folders that are added are removed at the end.
        remove_at_most: the share of the records of these folders that ``sync`` may remove, above 20 records. More, or records of a
            drive that is not mounted any more, are SyncRefused, and nothing is removed; with 1 all that is gone goes.
        retry_failed: only pictures that failed before are added.
        max_failures: stop when more pictures than that could not be used.
        on_duplicate: what becomes of a picture that the collection holds under another id, the same file or an edited copy:
            it is kept, left out (``skip``), or gets that id as ``duplicate_of`` (``tag``).
        near: what counts as the same picture; default: ``dedup.usual``.
    """

    sync: bool = False
    remove_at_most: float = 0.2
    retry_failed: bool = False
    max_failures: int | None = None
    on_duplicate: OnDuplicate | str = OnDuplicate.KEEP
    near: Near | None = None

    def __post_init__(self) -> None:
        if self.on_duplicate not in set(OnDuplicate):
            raise ConfigError(f"on_duplicate is {self.on_duplicate!r}: one of {', '.join(OnDuplicate)}")
        if self.sync and self.on_duplicate == OnDuplicate.SKIP:
            raise ConfigError(
                "sync would remove a moved file's old record and skip its new one: tag duplicates instead"
            )
        if self.sync and self.retry_failed:
            raise ConfigError("sync has all of a folder looked at, retry_failed only what failed: one at a time")
        if not 0 < self.remove_at_most <= 1:
            raise ConfigError(f"remove_at_most is {self.remove_at_most}: a share of the records, above 0, at most 1")
        if self.max_failures is not None and self.max_failures < 0:
            raise ConfigError(f"max_failures is {self.max_failures}: allow 0 or more")


@contextmanager
def journal_for(
    job: Job | None, address: str | None, connector: Connector, name: str, encoder: str, decoding: Decoding
) -> Iterator[Journal | None]:
    """The journal of a job on the collection ``name``, open while it runs; None without a job.

    The journal goes by the address that was given, since what is added by an alias goes on when that is switched; that one job
    runs at a time, by the collection that it names now.

    Raises:
        ConfigError: nobody knows the address of the collection.
        StoreLocked: another job adds to it, or labels its records.
        StoreError: the store does not say what its aliases name.
    """
    if job is None:
        yield None
        return
    if address is None:
        raise ConfigError("a job keeps its journal by the collection's address: open the index with pixdex.open")
    from pixdex._state import writing_alone
    from pixdex.journal import Journal, journal_of  # SQLite is loaded by those who use it

    how = f"frame {decoding.frame}, background {decoding.background}"
    with (
        writing_alone(address, connector, name),
        Journal(journal_of(address), encoder=encoder, how=how) as journal,
    ):
        yield journal


def twins_for(job: Job | None, collection: Collection, decoding: Decoding) -> Twins | None:
    """What finds the pictures that are there already; None where they are kept."""
    if job is None or job.on_duplicate == OnDuplicate.KEEP:
        return None
    return Twins(collection, IMAGE, job.near or usual(collection), OnDuplicate(job.on_duplicate), decoding)


def only_failed(items: Iterable[Item | None], journal: Journal) -> Iterator[Item]:
    """Of the items those that failed before."""
    failed = {entry.id for entry in journal.entries(Status.FAILED)}
    return (item for item in items if item is not None and item.id in failed)


def not_tried(journal: Journal) -> list[str]:
    """What is to be said of pictures that failed before and were not come by when those were to be tried again."""
    left = 0
    example = ""
    rows = journal.entries(Status.FAILED)
    while page := {entry.id: entry.label for entry in islice(rows, _PIECE)}:
        missed = sorted(page.keys() - journal.seen(page))
        left += len(missed)
        example = example or next((page[record] for record in missed), "")
    said = (
        f"{left} pictures that failed before are not among these, such as {example}: give the folders and the source as they were "
        "given then; of files that are gone, sync takes note"
    )
    return [said] if left else []
