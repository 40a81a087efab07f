"""Adding as a job: with a journal on this machine, what failed tried again, and what is gone from folders removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex._twins import DUPLICATE_OF, OnDuplicate, Twins
from pixdex.dedup import Near, usual
from pixdex.errors import ConfigError
from pixdex.fields import IMAGE
from pixdex.report import Entry, Status
from pixdex.types import Want

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.encoders.decoding import Decoding
    from pixdex.journal import Journal
    from pixdex.pictures import Item
    from pixdex.sources import Source
    from pixdex.types import Payload

__all__ = ["Job", "journal_for", "not_tried", "only_failed", "remove_gone", "synced", "twins_for"]

_PIECE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """How adding is done as a job. It keeps a journal on this machine: a row for each picture, with what became of it and why
    (``pixdex journal`` shows it), and the hashes of files, which are not read again while they look as they did. One job at a
    time adds to a collection.

    Attributes:
        sync: records whose files are gone from the folders that are added are removed at the end.
        retry_failed: only pictures that failed before are added.
        max_failures: stop when more pictures than that could not be used.
        on_duplicate: what becomes of a picture that the collection holds under another id, the same file or an edited copy:
            it is kept, left out (``skip``), or gets that id as ``duplicate_of`` (``tag``).
        near: what counts as the same picture; default: ``dedup.usual``.
    """

    sync: bool = False
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
        if self.max_failures is not None and self.max_failures < 0:
            raise ConfigError(f"max_failures is {self.max_failures}: allow 0 or more")


@contextmanager
def journal_for(job: Job | None, address: str | None, encoder: str, decoding: Decoding) -> Iterator[Journal | None]:
    """The journal of a job, open while it runs; None without a job.

    Raises:
        ConfigError: nobody knows the address of the collection.
        StoreLocked: another job adds to it.
    """
    if job is None:
        yield None
        return
    if address is None:
        raise ConfigError("a job keeps its journal by the collection's address: open the index with pixdex.open")
    from pixdex.journal import Journal, journal_of  # SQLite is loaded by those who use it

    how = f"frame {decoding.frame}, background {decoding.background}"
    with Journal(journal_of(address), encoder=encoder, how=how) as journal:
        yield journal


def twins_for(job: Job | None, collection: Collection) -> Twins | None:
    """What finds the pictures that are there already; None where they are kept."""
    if job is None or job.on_duplicate == OnDuplicate.KEEP:
        return None
    return Twins(collection, IMAGE, job.near or usual(collection), OnDuplicate(job.on_duplicate))


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


def synced(known: Sequence[Source]) -> list[tuple[str, Path]]:
    """The folders that are kept in step: the name that ids start with, and the folder.

    Raises:
        ConfigError: there is something among the sources that is no folder.
    """
    from pixdex.sources.folders import Folder

    folders = [(s.origin.name, s.path) for s in known if isinstance(s, Folder) and not s.single]
    if not known or len(folders) < len(known):
        raise ConfigError("sync removes what is gone from folders: give folders only, each as a whole")
    return folders


def remove_gone(collection: Collection, journal: Journal, folders: Sequence[tuple[str, Path]]) -> int:
    """Remove the records of files that this run has not come by and that are not there any more; how many.

    A file that cannot be looked at, in a folder that lets nobody in or on a drive that fails, stays; so does a record that has such
    an id but was not added from such a file, and what has another id than its path, which is too long or not text.
    """
    gone: set[str] = set()
    twins: dict[str, str] = {}
    for page in collection.scan():
        payloads = dict(zip(page.batch.ids, page.batch.payloads or (), strict=True))
        gone.update(r for r in _unseen(payloads, journal, folders) if _added_from_its_file(r, payloads[r]))
        twins |= {r: twin for r, p in payloads.items() if isinstance(twin := p.get(DUPLICATE_OF), str)}
    if gone:
        _untag(collection, [record for record, twin in twins.items() if twin in gone and record not in gone])
        collection.delete(sorted(gone))
        collection.flush()
    _forget_gone(collection, journal, folders)
    return len(gone)


def _unseen(ids: Iterable[str], journal: Journal, folders: Sequence[tuple[str, Path]]) -> list[str]:
    """Those that stand for files of the folders that are gone, and were not come by."""
    theirs = {record: path for record in ids for path in _path_of(record, folders)}
    seen = journal.seen(theirs)
    return [record for record, path in theirs.items() if record not in seen and _is_gone(path)]


def _added_from_its_file(record: str, payload: Payload) -> bool:
    """Whether a record says that it was added from the file its id stands for: ids of the user's own may look like such."""
    path, relative = payload.get("path"), Path(record.partition("/")[2]).parts
    return isinstance(path, str) and Path(path).parts[-len(relative) :] == relative


def _untag(collection: Collection, ids: Sequence[str]) -> None:
    """These are no duplicates any more: what they were like is removed, and they may be all there is of a picture that moved."""
    spec = collection.spec
    everything = Want(vectors=tuple(v.name for v in spec.vectors), tokens=spec.tokens is not None)
    for start in range(0, len(ids), _PIECE):
        batch = collection.fetch(ids[start : start + _PIECE], want=everything)
        payloads = [{name: v for name, v in p.items() if name != DUPLICATE_OF} for p in batch.payloads or ()]
        collection.upsert(replace(batch, payloads=tuple(payloads)))


def _forget_gone(collection: Collection, journal: Journal, folders: Sequence[tuple[str, Path]]) -> None:
    """Rows of files that are gone say so, where there is no record of them: it was removed now, by a run that was killed, or
    never made.
    """
    rows = journal.entries(*(status for status in Status if status is not Status.REMOVED))
    while page := list(islice(rows, _PIECE)):
        labels = {entry.id: entry.label for entry in page}
        ids = _unseen(labels, journal, folders)
        there = set(collection.fetch(ids, want=Want(payload=False)).ids) if ids else set()
        journal.record(
            [Entry(id=record, label=labels[record], status=Status.REMOVED) for record in ids if record not in there]
        )


def _path_of(record: str, folders: Sequence[tuple[str, Path]]) -> Iterator[Path]:
    """The file that an id stands for, if it is of one of the folders."""
    for name, folder in folders:
        if record.startswith(f"{name}/"):
            yield folder / record.removeprefix(f"{name}/")
            return


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
