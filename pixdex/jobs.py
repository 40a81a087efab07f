"""Adding as a job: with a journal on this machine, what failed tried again, and what is gone from folders removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex._twins import OnDuplicate, Twins
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

__all__ = ["Job", "journal_for", "only_failed", "remove_gone", "synced", "twins_for"]


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

    A file that cannot be looked at, in a folder that lets nobody in or on a drive that fails, stays; so does what has another id
    than its path, which is too long or not text.
    """
    gone: dict[str, str] = {}
    for page in collection.scan(want=Want(payload=False)):
        theirs = {record: path for record in page.batch.ids for path in _path_of(record, folders)}
        for record in theirs.keys() - journal.seen(theirs):
            if _is_gone(theirs[record]):
                gone[record] = str(theirs[record])
    if gone:
        collection.delete(list(gone))
        collection.flush()
    failed = {
        e.id: e.label for e in journal.entries(Status.FAILED) for path in _path_of(e.id, folders) if _is_gone(path)
    }
    rows = {**gone, **failed}
    journal.record([Entry(id=record, label=path, status=Status.REMOVED) for record, path in rows.items()])
    return len(gone)


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
