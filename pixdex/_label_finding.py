"""Which records the rows of a file of labels are about: by their ids, their paths, or how these end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from pixdex._label_sheet import below, normal
from pixdex._records import check_ids
from pixdex.errors import InvalidRecord
from pixdex.filters import F
from pixdex.pictures import path_id, shown, text_id
from pixdex.sources.addresses import scheme_of
from pixdex.spec import Kind
from pixdex.types import Payload, Want

if TYPE_CHECKING:
    from pixdex._label_results import Tally
    from pixdex._label_sheet import Sheet
    from pixdex._progress import Count
    from pixdex.collection import Collection

__all__ = ["By", "find", "key_of"]

_PAGE = 500
_FEW = 1_000
"""Pictures that are asked for by their paths; for more of them the whole collection is read, once."""
_NAMED = 4


Found: TypeAlias = Mapping[str, Mapping[str, Sequence[str]]]
"""Key -> path -> the records of the picture there."""


Real: TypeAlias = Callable[[str], str]
"""A folder without links."""


class By(StrEnum):
    """What a row calls the picture: its path, what its path ends with, or the id of its record."""

    PATH = "path"
    NAME = "name"
    ID = "id"


def key_of(named: str, by: By, root: str) -> tuple[str, str]:
    """What a row calls its picture, in one spelling, and as it is written; ``root`` is what relative paths are relative to.

    Raises:
        InvalidRecord: it cannot be the name of a picture.
    """
    if by is By.ID:
        check_ids([named])
        return named, named
    if "\0" in named:
        raise InvalidRecord(f"{named!r:.80} names no file")
    if scheme_of(named) is not None:
        return (named if by is By.PATH else named.rstrip("/").rpartition("/")[2]), named
    if by is By.PATH:
        written = os.path.join(root, named)  # noqa: PTH118 - a Path would change it
        return normal(written), written
    path = normal(named)
    rest = below(path, root) or path.rpartition("/")[2] if os.path.isabs(path) else path  # noqa: PTH117
    while rest.startswith("../"):
        rest = rest[3:]
    if rest in {"", ".", ".."}:
        raise InvalidRecord(f"{named!r:.80} names no file")
    return rest, named


def find(collection: Collection, sheet: Sheet, by: By, tally: Tally, count: Count | None) -> None:
    """Tell a sheet which records its rows are about; the tally hears of rows about none, or about one of several."""
    total, done = sheet.keys(), 0
    at: Callable[[Sequence[str]], Found]
    real = lru_cache(maxsize=4096)(_real_folder)  # of one run: links may lead elsewhere later
    if by is By.ID:
        at = _ById(collection)
    elif by is By.PATH and total <= _FEW and _declared(collection):
        at = _ByFilter(collection, sheet, real)
    else:
        _place(collection, sheet, count)
        at = _ByPlace(sheet, by, real)
    for page in sheet.pages(_PAGE):
        found = at(page)
        for key in page:
            _tell(sheet, key, found.get(key, {}), tally)
        done += len(page)
        if count is not None:
            count(done, total)


def _tell(sheet: Sheet, key: str, found: Mapping[str, Sequence[str]], tally: Tally) -> None:
    if len(found) == 1:
        sheet.find(key, next(iter(found.values())))
        return
    rows = sheet.rows_of(key)
    if not found:
        tally.name("unknown", f"{rows[0]}: {key}", len(rows))
        return
    paths = sorted(found)
    more = " and others" if len(paths) >= _NAMED else ""
    tally.name("ambiguous", f"{rows[0]}: {key} is {', '.join(paths)}{more}", len(rows))


def _declared(collection: Collection) -> bool:
    field = collection.spec.field("path")
    return field is not None and field.kind is Kind.TEXT and not field.many


@dataclass(frozen=True, slots=True)
class _ById:
    collection: Collection

    def __call__(self, keys: Sequence[str]) -> Found:
        there = self.collection.fetch(keys, want=Want(payload=False)).ids
        return {record: {record: [record]} for record in there}


@dataclass(frozen=True, slots=True)
class _ByFilter:
    """Few pictures by their paths: the store finds them, or their ids."""

    collection: Collection
    sheet: Sheet
    real: Real

    def __call__(self, keys: Sequence[str]) -> Found:
        found: dict[str, dict[str, list[str]]] = {}
        spellings = {*map(_spelled, keys), *self.sheet.written(keys)}
        for page in self.collection.scan(where=F["path"].is_in(sorted(spellings))):
            for record, payload in zip(page.batch.ids, page.batch.payloads or (), strict=True):
                key = normal(payload["path"])
                found.setdefault(key, {}).setdefault(key, []).append(record)
        ids = {record: key for key in keys if key not in found for record in self._ids(key)}
        if ids:
            stored = self.collection.fetch(list(ids))
            for record, payload in zip(stored.ids, stored.payloads or (), strict=True):
                key = ids[record]
                if record != key or not isinstance(payload.get("path"), str):
                    found.setdefault(key, {}).setdefault(key, []).append(record)
        return found

    def _ids(self, key: str) -> Iterator[str]:
        """What a record of that picture may be called: as a folder's; as the picture, where it keeps no path."""
        yield text_id(key)
        for path in {key, _real(key, self.real)}:
            for source in self.collection.spec.sources:
                relative = below(path, normal(source.root))
                if relative is not None:
                    yield path_id(source.name, relative)


def _real(key: str, real: Real) -> str:
    """A path whose folders are no links, as far as it is on this machine."""
    if scheme_of(key) is not None:
        return key
    folder, _, name = key.rpartition("/")
    return f"{real(folder or '/')}/{name}"


def _real_folder(folder: str) -> str:
    return normal(shown(os.path.realpath(folder))).rstrip("/")


def _spelled(key: str) -> str:
    """As paths of this system are written."""
    return key if scheme_of(key) is not None else key.replace("/", os.sep)


@dataclass(frozen=True, slots=True)
class _ByPlace:
    """Pictures by their paths, or what these end with, among all records."""

    sheet: Sheet
    by: By
    real: Real

    def __call__(self, keys: Sequence[str]) -> Found:
        if self.by is By.NAME:
            return {key: self.sheet.ending(key, _NAMED) for key in keys}
        found = {key: self.sheet.at(key) or self.sheet.at(_real(key, self.real)) for key in keys}
        return {key: {key: records} for key, records in found.items() if records}


def _place(collection: Collection, sheet: Sheet, count: Count | None) -> None:
    """Tell a sheet where the records of a collection lie."""
    total, done = collection.count(), 0
    roots = {source.name: source.root for source in collection.spec.sources}
    for page in collection.scan():
        for record, payload in zip(page.batch.ids, page.batch.payloads or (), strict=True):
            sheet.place(record, list(_paths(record, payload, roots)))
        done += len(page.batch)
        if count is not None:
            count(done, max(done, total))
    sheet.all_placed()


def _paths(record: str, payload: Payload, roots: Mapping[str, str]) -> Iterator[str]:
    """What may name a record: its path, and where its id says that it lies; its id where there is no path."""
    path = payload.get("path")
    if isinstance(path, str):
        yield normal(path)
    name, _, rest = record.partition("/")
    if rest and name in roots:
        yield normal(f"{roots[name]}/{rest}")
    if not isinstance(path, str):
        yield record
