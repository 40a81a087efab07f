"""Keeping a collection in step with folders: the records of files that are gone are removed, unless too much is gone.

A file that is gone was deleted, or lies on a drive that is missing, which looks the same. So what would remove a large part of a
folder's records, or what was on a drive that is not mounted now, removes nothing and is told instead.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex._twins import DUPLICATE_OF
from pixdex.errors import ConfigError, SyncRefused
from pixdex.fields import CONTENT
from pixdex.filters import F
from pixdex.pictures import shown
from pixdex.report import Entry, Status
from pixdex.sources.addresses import scheme_of
from pixdex.types import Want

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.journal import Journal
    from pixdex.sources import Source
    from pixdex.types import Payload

__all__ = ["remove_gone", "synced"]

_PIECE = 1000
_FEW = 20
"""So many records may always go, whatever share of a small collection they are."""
_EXAMPLES = 3


def synced(known: Sequence[Source]) -> list[tuple[str, Path]]:
    """The folders that are kept in step: the name that ids start with, and the folder.

    Raises:
        ConfigError: there is something among the sources that is no folder.
    """
    from pixdex.sources.folders import Folder

    folders = [(s.origin.name, s.path.absolute()) for s in known if isinstance(s, Folder) and not s.single]
    if not known or len(folders) < len(known):
        raise ConfigError("sync removes what is gone from folders: give folders only, each as a whole")
    return folders


def remove_gone(
    collection: Collection, journal: Journal, folders: Sequence[tuple[str, Path]], at_most: float
) -> tuple[int, list[str]]:
    """Remove the records of files that this run has not come by and that are not there any more; how many, and what is to be
    said of others.

    A file that cannot be looked at, in a folder that lets nobody in or on a drive that fails, stays; so does a record that has such
    an id but was not added from such a file, and what has another id than its path, which is too long or not text. Where the
    journal has been kept before, records that it never met are another machine's, and stay too.

    Raises:
        SyncRefused: more than the share ``at_most`` of the folders' records would go, or a drive is missing; nothing was removed.
    """
    found = _looked(collection, journal, folders)
    if at_most < 1:
        _check(found, collection, journal, at_most)
    if found.gone:
        gone = found.gone.keys()
        _untag(collection, [record for record, twin in found.twins.items() if twin in gone and record not in gone])
        collection.delete(sorted(gone))
        collection.flush()
    _forget_gone(collection, journal, folders)
    journal.keep_mounts([folder for _, folder in folders], _mounts(found.folders))
    return len(found.gone), _said_of(found.others)


# --- what is gone ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """What there is in the collection of some folders.

    Attributes:
        count: records of theirs.
        gone: id -> file, of those to be removed; ``contents``: their content hashes.
        others: the ids of those that this machine has never met.
        twins: id -> the record that it is a duplicate of, of the whole collection.
        folders: all that files lie in, or lay in, up to those that are synced.
    """

    count: int = 0
    gone: dict[str, Path] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    twins: dict[str, str] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)


def _looked(collection: Collection, journal: Journal, folders: Sequence[tuple[str, Path]]) -> _Found:
    found = _Found()
    for page in collection.scan():
        payloads = dict(zip(page.batch.ids, page.batch.payloads or (), strict=True))
        found.twins |= {r: twin for r, p in payloads.items() if isinstance(twin := p.get(DUPLICATE_OF), str)}
        theirs = {
            record: path
            for record, path in _files_of(payloads, folders).items()
            if _added_from_its_file(record, payloads[record])
        }
        found.count += len(theirs)
        found.folders.update(path.parent for path in theirs.values())
        gone = _unseen(theirs, journal)
        mine = journal.met(gone) if journal.kept_before else gone.keys()
        found.others += [record for record in gone if record not in mine]
        found.gone |= {record: path for record, path in gone.items() if record in mine}
        found.contents |= {r: content for r in gone if isinstance(content := payloads[r].get(CONTENT), str)}
    roots = {folder for _, folder in folders}
    found.folders |= {up for folder in found.folders for up in folder.parents if roots & {up, *up.parents}}
    return found


def _files_of(ids: Iterable[str], folders: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Those that stand for files of the folders, and which."""
    return {record: path for record in ids for path in _path_of(record, folders)}


def _path_of(record: str, folders: Sequence[tuple[str, Path]]) -> Iterator[Path]:
    """The file that an id stands for, if it is of one of the folders."""
    for name, folder in folders:
        if record.startswith(f"{name}/"):
            yield folder / record.removeprefix(f"{name}/")
            return


def _added_from_its_file(record: str, payload: Payload) -> bool:
    """Whether a record says that it was added from the file its id stands for: ids of the user's own may look like such, and
    what annotations name may have been fetched instead.
    """
    path, relative = payload.get("path"), Path(record.partition("/")[2]).parts
    return isinstance(path, str) and scheme_of(path) is None and Path(path).parts[-len(relative) :] == relative


def _unseen(files: Mapping[str, Path], journal: Journal) -> dict[str, Path]:
    """Those that were not come by, and are gone."""
    seen = journal.seen(files)
    return {record: path for record, path in files.items() if record not in seen and _is_gone(path)}


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file has a name with a byte of zero
        return True
    except OSError:
        return False
    return False


# --- whether it may go -----------------------------------------------------------------------------


def _check(found: _Found, collection: Collection, journal: Journal, at_most: float) -> None:
    """See ``remove_gone``. What is there under another id has moved, and does not count."""
    missing = [place for place in map(Path, journal.mounts()) if place in found.folders and not _mounted(place)]
    drives = Counter(place for path in found.gone.values() for place in missing if place in path.parents)
    most = max(_FEW, int(at_most * found.count))
    if not drives and len(found.gone) <= _FEW:
        return
    moved = _moved(collection, found)
    lost = {record: path for record, path in found.gone.items() if record not in moved}
    known: dict[Path, Path] = {}
    places = Counter(_place_of(path, known) for path in lost.values())
    empty = Counter({place: count for place, count in places.items() if count > _FEW and _is_empty(place)})
    if not drives and not empty and len(lost) <= most:
        return
    raise SyncRefused(
        f"sync would remove {len(found.gone)} of the {found.count} records of these folders, {_why(drives, empty, most)}; nothing "
        f"was removed, and what was added stays. Gone from {_listed(drives or empty or places)}, such as {min(found.gone)}. If a drive is missing, "
        "bring it back; to have all of these removed, say --remove-at-most 1 (remove_at_most=1)",
        gone=tuple(sorted(found.gone)),
    )


def _why(drives: Mapping[Path, int], empty: Mapping[Path, int], most: int) -> str:
    if drives:
        return "from where a drive was mounted before, and none is now"
    if empty:
        return "from a folder that is empty now, as where a drive is not mounted"
    return f"where {most} may go"


def _listed(places: Counter[Path]) -> str:
    said = [f"{shown(place)} ({count})" for place, count in places.most_common(_EXAMPLES)]
    return ", ".join(said) + (" and others" if len(places) > _EXAMPLES else "")


def _moved(collection: Collection, found: _Found) -> set[str]:
    """Those of what is gone whose very content is in the collection under an id that stays."""
    if collection.spec.field(CONTENT) is None:
        return set()
    contents = sorted(set(found.contents.values()))
    there: set[str] = set()
    for start in range(0, len(contents), _PIECE):
        where = F[CONTENT].is_in(contents[start : start + _PIECE])
        for page in collection.scan(where=where):
            rows = zip(page.batch.ids, page.batch.payloads or (), strict=True)
            there.update(payload[CONTENT] for record, payload in rows if record not in found.gone)
    return {record for record in found.gone if found.contents.get(record) in there}


def _place_of(path: Path, known: dict[Path, Path]) -> Path:
    """The folder that went, or was emptied, with a file; else the one that it lay in."""
    place = known.get(path.parent)
    if place is None:
        there = next((up for up in path.parents if not _is_gone(up)), path.parent)
        whole = there == path.parent or _is_empty(there)
        place = there if whole else there / path.relative_to(there).parts[0]
        known[path.parent] = place
    return place


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _mounts(folders: Iterable[Path]) -> list[str]:
    return [str(folder) for folder in folders if _mounted(folder)]


def _mounted(folder: Path) -> bool:
    return os.path.ismount(folder)


def _said_of(others: Sequence[str]) -> list[str]:
    said = (
        f"{len(others)} records of files that are not there stay, such as {min(others, default='')}: they were not added from this "
        "machine by this address. Machines that add folders of one path need a source name each (--source); what nobody needs, pixdex delete removes"
    )
    return [said] if others else []


# --- removing --------------------------------------------------------------------------------------


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
    labels = chain(((entry.id, entry.label) for entry in rows), ((record, record) for record in journal.planned()))
    while page := dict(islice(labels, _PIECE)):
        ids = list(_unseen(_files_of(page, folders), journal))
        there = set(collection.fetch(ids, want=Want(payload=False)).ids) if ids else set()
        journal.record(
            [Entry(id=record, label=page[record], status=Status.REMOVED) for record in ids if record not in there]
        )
