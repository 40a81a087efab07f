"""What an evaluation of a collection is made of: the labels of its records, and the queries with theirs."""

from __future__ import annotations

from collections.abc import Collection as Sized
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pixdex import index as indexes
from pixdex._progress import Count
from pixdex.errors import ConfigError, nearest
from pixdex.fields import AUTOMATIC_NAMES, CONTENT, IMAGE
from pixdex.filters import Filter
from pixdex.filters.meaning import at
from pixdex.pictures import Picture
from pixdex.report import Progress, Quarantined
from pixdex.spec import Field, Kind
from pixdex.types import Payload, Want

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.encoders.port import Encoder

__all__ = [
    "Gallery",
    "Label",
    "Pictures",
    "Queries",
    "candidates",
    "encoded",
    "own_queries",
    "picture_queries",
    "read_gallery",
    "vector_of",
]

Label: TypeAlias = "str | int"

_KINDS = (Kind.TEXT, Kind.INT, Kind.BOOL)
_PAGE = 1000
_NAMED = 5
"""Labels that a message names."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """The records that can be found, with their labels.

    Attributes:
        ids: of the n records that have the vector.
        codes: int64 ``[n]``, which of ``names`` is a record's label; -1 without one.
        names: the labels.
        contents: the content hashes, None where there is none.
    """

    ids: tuple[str, ...]
    codes: NDArray[np.int64]
    names: tuple[Label, ...]
    contents: tuple[str | None, ...]

    def rows(self) -> dict[str, int]:
        """Id -> row."""
        return {record: row for row, record in enumerate(self.ids)}

    @property
    def kind(self) -> Kind:
        """What the labels are, and those of queries are read as."""
        if all(isinstance(name, bool) for name in self.names):
            return Kind.BOOL
        return Kind.INT if all(isinstance(name, int) for name in self.names) else Kind.TEXT

    def labelled(self) -> NDArray[np.int64]:
        """int64 ``[names]``: how many records have each label."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))


@dataclass(frozen=True, slots=True)
class Queries:
    """What is searched for.

    Attributes:
        ids: of q queries.
        labels: what is right for each.
        vectors: float32 ``[q, dim]``.
        own: rows of the gallery that are the query itself, and no answer.
        paths: where its picture lies, None where nobody knows.
        unusable: pictures that could not be used.
        notices: what was left out, in sentences.
    """

    ids: tuple[str, ...]
    labels: tuple[Label, ...]
    vectors: NDArray[np.float32]
    own: tuple[tuple[int, ...], ...]
    paths: tuple[str | None, ...]
    unusable: tuple[Quarantined, ...] = ()
    notices: tuple[str, ...] = ()

    def take(self, rows: Sequence[int]) -> Queries:
        """The queries at ``rows``, in that order."""
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
            vectors=self.vectors[list(rows)],
            own=tuple(self.own[row] for row in rows),
            paths=tuple(self.paths[row] for row in rows),
        )


def vector_of(collection: Collection, using: str | None) -> str:
    """The vector that is searched: that of pictures, or the only one.

    Raises:
        ConfigError: there are several, or not that one.
    """
    names = [vector.name for vector in collection.spec.vectors]
    if using is not None:
        return collection.spec.vector(using).name
    if IMAGE in names or len(names) == 1:
        return IMAGE if IMAGE in names else names[0]
    raise ConfigError(f"collection {collection.name!r} has several vectors ({', '.join(names)}): say which with using=")


# --- the gallery ------------------------------------------------------------------------------------


def read_gallery(
    collection: Collection, label: str, *, using: str, where: Filter | None, count: Count | None
) -> Gallery:
    """The records that match, and their labels: those without one are in the way of every query, as in life.

    Raises:
        ConfigError: no record, no such field, or one that holds no labels.
    """
    declared = collection.spec.field(label)
    _check_field(declared, label)
    key = label if declared is None or declared.stored_as is None else declared.stored_as
    total = collection.count(where)
    ids: list[str] = []
    labels: list[Label | None] = []
    contents: list[str | None] = []
    keys: set[str] = set()
    for page in collection.scan(where=where, want=Want(vectors=(using,)), size=_PAGE):
        there = page.batch.present(using)
        for row, (record, payload) in enumerate(zip(page.batch.ids, page.batch.payloads or (), strict=True)):
            if there[row]:
                ids.append(record)
                labels.append(_label(payload, key))
                contents.append(payload.get(CONTENT))
                keys.update(payload)
        if count is not None:
            count(len(ids), max(total, len(ids)))
    if not ids:
        which = "" if where is None else " that match"
        raise ConfigError(f"collection {collection.name!r} has no records{which} with a vector {using!r}")
    numbers: dict[Label, int] = {}
    codes = np.array([-1 if x is None else numbers.setdefault(x, len(numbers)) for x in labels], dtype=np.int64)
    if not numbers:
        known = {*keys, *(field.name for field in collection.spec.fields)} - AUTOMATIC_NAMES
        missing = f"no record of collection {collection.name!r} has a value under {label!r}"
        raise ConfigError(f"{missing}{nearest(label, (name for name in known if name[:1] != '_'))}")
    return Gallery(tuple(ids), codes, tuple(numbers), tuple(contents))


def _check_field(field: Field | None, label: str) -> None:
    if field is None:
        return  # payload that is not declared may be labels, too
    if field.many:
        raise ConfigError(f"field {label!r} is a list: a label is one value a record")
    if field.kind not in _KINDS:
        raise ConfigError(f"field {label!r} is {field.kind}: a label is {', '.join(_KINDS)}")


def _label(payload: Payload, label: str) -> Label | None:
    value = at(payload, label)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int):
        raise ConfigError(f"{label!r} holds {value!r:.60}: a label is {', '.join(_KINDS)}")
    return value


# --- queries of the collection itself -----------------------------------------------------------------


def own_queries(
    collection: Collection, gallery: Gallery, records: Sequence[str], *, using: str, count: Count | None
) -> Queries:
    """Records as queries; each is left out of its own ranking."""
    row_of = gallery.rows()
    vectors: list[NDArray[np.float32]] = []
    ids: list[str] = []
    paths: list[str | None] = []
    for start in range(0, len(records), _PAGE):
        batch = collection.fetch(records[start : start + _PAGE], want=Want(vectors=(using,)))
        kept = np.flatnonzero(batch.present(using)).tolist()  # one may have been deleted meanwhile
        ids += [batch.ids[row] for row in kept]
        vectors.append(np.asarray(batch.vectors[using][kept], dtype=np.float32))
        paths += [_path((batch.payloads or ())[row]) for row in kept]
        if count is not None:
            count(min(start + _PAGE, len(records)), len(records))
    rows = [row_of[record] for record in ids]
    labels = tuple(gallery.names[gallery.codes[row]] for row in rows)
    return Queries(tuple(ids), labels, np.concatenate(vectors), tuple((row,) for row in rows), tuple(paths))


def candidates(gallery: Gallery) -> dict[str, Label]:
    """The records that can be queries, with their labels: another record has the same."""
    others = gallery.labelled() > 1
    return {
        record: gallery.names[code]
        for record, code in zip(gallery.ids, gallery.codes.tolist(), strict=True)
        if code >= 0 and others[code]
    }


# --- queries that are pictures ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pictures:
    """Query pictures encoded, sorted by id.

    Attributes:
        made: id, payload and vector of each.
        labels: what is right for each, None where nobody says.
        by_table: whether a table says so, not the names of folders.
        unusable: pictures that could not be used.
    """

    made: tuple[tuple[str, Payload, NDArray[np.float32]], ...]
    labels: tuple[Label | None, ...]
    by_table: bool
    unusable: tuple[Quarantined, ...]


def encoded(
    pictures: Picture | Iterable[Picture],
    encoder: Encoder,
    gallery: Gallery,
    label: str,
    *,
    progress: Progress | bool | None,
) -> Pictures:
    """Pictures encoded, with their labels: the value under ``label`` where a table gives it, else the name of the folder that
    the picture lies in.

    Raises:
        ConfigError: there are no pictures, or pixdex fills that field itself.
    """
    if label in AUTOMATIC_NAMES:
        raise ConfigError(f"{label!r} is filled by pixdex: it is no label of a query")
    with indexes.open("memory://", encoder=encoder, fields={label: gallery.kind}) as shelf:
        report = shelf.add(pictures, progress=progress)
        pages = list(shelf.collection.scan(want=Want(vectors=(IMAGE,)))) if report.added else []
    made = [
        each
        for page in pages
        for each in zip(page.batch.ids, page.batch.payloads or (), page.batch.vectors[IMAGE], strict=True)
    ]
    made.sort(key=lambda each: each[0])
    by_table = any(label in payload for _, payload, _ in made)
    labels = [_label(p, label) if by_table else _read(_folder_of(p), gallery.kind) for _, p, _ in made]
    return Pictures(tuple(made), tuple(labels), by_table, report.quarantined)


def picture_queries(pictures: Pictures, gallery: Gallery, label: str) -> Queries:
    """Pictures as queries. Those without a label, or with one that no record has, are left out. A record of the very content
    is the query itself, and is left out of its ranking.

    Raises:
        ConfigError: none of them can be a query.
    """
    counts = dict(zip(gallery.names, gallery.labelled().tolist(), strict=True))
    kept = [(*made, found) for made, found in zip(pictures.made, pictures.labels, strict=True) if found in counts]
    rows_of: dict[str, list[int]] = {}
    for row, content in enumerate(gallery.contents):
        if content is not None:
            rows_of.setdefault(content, []).append(row)
    if not kept:
        raise ConfigError(_no_query(label, pictures, gallery))
    own = tuple(tuple(rows_of.get(str(payload.get(CONTENT)), ())) for _, payload, _, _ in kept)
    return Queries(
        ids=tuple(record for record, _, _, _ in kept),
        labels=tuple(found for _, _, _, found in kept if found is not None),
        vectors=np.stack([vector for _, _, vector, _ in kept]),
        own=own,
        paths=tuple(_path(payload) for _, payload, _, _ in kept),
        unusable=pictures.unusable,
        notices=tuple(_left_out(label, pictures.labels, counts, own)),
    )


def _read(label: Label | None, kind: Kind) -> Label | None:
    """A folder's name as the kind of the collection's labels."""
    if not isinstance(label, str) or kind is Kind.TEXT:
        return label
    if kind is Kind.BOOL:
        return {"true": True, "false": False}.get(label.lower())
    try:
        return int(label)
    except ValueError:
        return None


def _folder_of(payload: Payload) -> str | None:
    path = _path(payload)
    return None if path is None else PurePath(path).parent.name or None


def _path(payload: Mapping[str, Any]) -> str | None:
    path = payload.get("path")
    return path if isinstance(path, str) else None


def _left_out(
    label: str, labels: Sequence[Label | None], known: Sized[Label], own: Sequence[tuple[int, ...]]
) -> Iterator[str]:
    without = sum(found is None for found in labels)
    strange = sum(found is not None and found not in known for found in labels)
    if without:
        yield f"{without} pictures have no {label} and are no queries"
    if strange:
        yield f"{strange} pictures have a {label} that no record has and are no queries"
    there = sum(bool(rows) for rows in own)
    if there:
        yield f"{there} queries are in the collection: each is left out of its own ranking"


def _no_query(label: str, pictures: Pictures, gallery: Gallery) -> str:
    if not pictures.made:
        why = "".join(f": {row.path}: {row.reason}" for row in pictures.unusable[:1])
        return f"none of the query pictures can be used{why}"
    there = _some(sorted({str(found) for found in pictures.labels if found is not None}))
    column = f"the column {label!r}"
    source = column if pictures.by_table else f"the names of their folders (a table may have {column})"
    theirs = _some([str(name) for name in gallery.names])
    return f"no query has a {label} that a record has: {source} gives {there}, the collection has {theirs}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(map(repr, names[:_NAMED])) or "nothing") + more
