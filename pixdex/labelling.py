"""Labels that exist already, put on the records of a collection: from a table, or from annotations in the form of COCO.

What filters, ``evaluate``, training and ``calibrate`` go by is a field of the records. ``label`` reads what a file says of pictures,
finds their records, and writes those that differ again, with all else that they have.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._label_finding import By, find, key_of
from pixdex._label_results import Counted, LabelReport, Tally
from pixdex._label_sheet import Sheet, normal
from pixdex._names import check_field
from pixdex._progress import Count, counted
from pixdex._records import holds
from pixdex._state import writing_alone
from pixdex.errors import ConfigError, InvalidRecord, Unsupported
from pixdex.evaluating import Target, opened
from pixdex.fields import TEXT, check_user_fields, declared, spelled
from pixdex.index import ImageIndex
from pixdex.pictures import shown
from pixdex.sources.labels import labels_of
from pixdex.types import Want

if TYPE_CHECKING:
    from pixdex._captions import Writer
    from pixdex.collection import Collection
    from pixdex.sources.labels import Labels
    from pixdex.spec import Field, Kind
    from pixdex.types import Batch, Payload

__all__ = ["By", "Counted", "LabelReport", "label"]

_CHUNK = 1_000
_PIECE = 128
"""Records that are written at once: with vectors and tokens they take a thousand times the room of a label."""
_BULK = 1_000
"""So many written records are worth bringing the index up to them."""


def label(
    target: Target,
    file: str | os.PathLike[str],
    *,
    label: str | Sequence[str] | None = None,
    field: str | None = None,
    kind: Kind | str | None = None,
    column: str | None = None,
    by: By | str | None = None,
    root: str | os.PathLike[str] | None = None,
    largest: bool = False,
    declare: bool = True,
    dry_run: bool = False,
    progress: Count | bool | None = None,
) -> LabelReport:
    """Put the labels in a file on the records of the pictures that it names. All else of a record stays; it gets a new revision.

    A record that has its label already is not written, so that the same call goes on where one was stopped. Nothing is written
    before all rows are read and their pictures looked for. A row that cannot be used is counted and named, never raised. A record
    is read and written again whole: another program that changes the same record in between may be overwritten, which ``add``
    with a job on the same machine, and another ``label``, are kept from where ``target`` is an address.

    Args:
        target: an address, an open index or a collection.
        file: a table (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``) with a column that names pictures and others with labels; or
            annotations in the form of COCO (``.json``), of which the names of categories are the labels. Boxes and outlines are
            not kept.
        label: the column of a table with the labels, or several; default ``label``. Each goes to the field of its name.
        field: the field that gets them, where it is called otherwise.
        kind: of a field that is not declared yet; default what the values suggest, for COCO ``text``. Into ``text[]``, and any
            other list, goes all that rows say of a picture.
        column: the column of a table that names the pictures; default ``id``, else ``path``, ``file``, ``filename``, ``image``
            or ``url``.
        by: what it names them by: ``path``; ``name``: what their paths end with, the file name or some folders too; ``id``.
            Default ``id`` where the column is so called, else ``path``.
        root: the folder that paths are relative to, which need not be on this machine; default that of the file.
        largest: of several categories of a picture that of the largest box counts, crowds last.
        declare: declare a field that the collection does not have, for filters; else labels are kept undeclared, which
            ``evaluate``, training and ``calibrate`` take as well.
        dry_run: write nothing, and say what would be.
        progress: True for bars, False, or a function that hears how many are done and of how many.

    Raises:
        ConfigError: no such file, column or field; a field of another kind; one that pixdex fills itself; a picture of several
            categories where the field holds one; a file that ends early.
        InvalidRecord: records hold values of another kind than a new field's.
        NotFound: no such collection.
        Unsupported: another tool's collection, or a store that cannot add a field.
        StoreLocked: another job is at the collection.
        StoreFull: no room for temporary files.
        StoreError: the store failed; what was written stays.
    """
    began, path = time.monotonic(), Path(file).expanduser()
    columns = (label,) if isinstance(label, str) else tuple(label or ())
    labels = labels_of(path, label=columns, field=field, column=column, largest=largest)
    way = _way(by, labels)
    tally = Tally()
    with (
        opened(target, pictures=False) as (collection, _),
        _held(target, collection, dry_run=dry_run),
        Sheet() as sheet,
    ):
        _check(collection)
        fields = _fields(labels, collection, kind)
        new = [one for one in fields.values() if declare and collection.spec.field(one.name) is None]
        if new and not collection.capabilities.alter:
            raise Unsupported(_NO_FIELDS.format(collection.connector.scheme, new[0].name))
        place = normal(shown(os.path.abspath(path.parent if root is None else root)))  # noqa: PTH100 - links stay links
        with counted(f"reading {path.name}", progress) as count:
            _read(labels, fields, sheet, tally, way, place, count)
        with counted("looking for the pictures", progress) as count:
            find(collection, sheet, way, tally, count)
        writer = _Writing(collection, fields, tally, target, new, dry_run=dry_run)
        with counted("labelling", progress) as count:
            writer.write(sheet, count)
        notices = [*_notices(collection, tally, way, place, fields, declare=declare), *writer.notices()]
        if writer.written >= _BULK:
            with counted("building the index", progress) as count:
                collection.settle(progress=count)
        records = collection.count()
    return LabelReport(
        fields=tuple(f"{name}:{spelled(one)}" for name, one in fields.items()),
        declared=tuple(one.name for one in writer.declared),
        records=records,
        notices=tuple(notices),
        seconds=time.monotonic() - began,
        dry_run=dry_run,
        **tally.values(),
    )


_NO_FIELDS = (
    "{} cannot add fields to a live collection, and field {!r} is not declared: declare it when a collection is made (--declare), or "
    "keep labels undeclared with declare=False (--no-declare): eval, train and calibrate take those, filters do not"
)


def _way(by: By | str | None, labels: Labels) -> By:
    if by is None:
        return By.ID if labels.by_id else By.PATH
    if by not in set(By):
        raise ConfigError(f"by is {by!r}: one of {', '.join(By)}")
    return By(by)


@contextmanager
def _held(target: Target, collection: Collection, *, dry_run: bool) -> Iterator[None]:
    """No other job of this machine writes to the collection meanwhile, by whatever name."""
    if dry_run or not isinstance(target, str):
        yield
        return
    with writing_alone(target, collection.connector, collection.name):
        yield


def _check(collection: Collection) -> None:
    """What is there now, which must be ours to write."""
    if not collection.spec.native:
        raise Unsupported(
            f"label: collection {collection.name!r} was made by another tool, and pixdex only reads it: put the labels on its "
            "records with that tool; filters, eval and training read its fields"
        )
    collection.refresh()


def _fields(labels: Labels, collection: Collection, kind: Kind | str | None) -> dict[str, Field]:
    """The fields that get labels: as they are declared, else as they are to be."""
    fields = {}
    check_user_fields(dict.fromkeys(labels.names))
    for name in labels.names:
        check_field(name)
        there = collection.spec.field(name)
        asked = None if kind is None else declared(name, kind)
        if there is not None and asked is not None and (there.kind, there.many) != (asked.kind, asked.many):
            raise ConfigError(f"field {name!r} is declared as {spelled(there)} already, not {spelled(asked)}")
        found = there or asked or labels.suggested(name)
        if found is None:
            raise ConfigError(
                f"the labels for field {name!r} suggest no kind of field: say one with --kind (kind=), such as text"
            )
        fields[name] = found
    return fields


def _read(
    labels: Labels, fields: Mapping[str, Field], sheet: Sheet, tally: Tally, by: By, root: str, count: Count | None
) -> None:
    """Keep in a sheet what a file says."""
    for said in labels.said(fields, by_id=by is By.ID):
        tally.add("rows")
        if count is not None and tally["rows"] % _CHUNK == 0:
            count(tally["rows"], tally["rows"])
        if said.refused is not None:
            tally.name("unusable", f"{said.row}: {said.refused}")
        elif not said.values:
            tally.name("unlabelled", f"{said.row}: {said.key}")
        else:
            try:
                sheet.say(*key_of(said.key, by, root), said)
            except InvalidRecord as error:
                tally.name("unusable", f"{said.row}: {error}")
    sheet.all_said()


def _notices(
    collection: Collection, tally: Tally, by: By, root: str, fields: Mapping[str, Field], *, declare: bool
) -> Iterator[str]:
    """What to know."""
    if tally["unknown"] and not any(tally[what] for what in ("labelled", "changed", "unchanged", "ambiguous")):
        page = next(collection.scan(size=1), None)
        example = next(zip(page.batch.ids, page.batch.payloads or (), strict=True), None) if page is not None else None
        if example is not None:
            record, payload = example
            looks = record if by is By.ID else payload.get("path", record)
            ways = f"; paths are relative to {root} (--root, root=), --by name (by='name') goes by how they end"
            how = "" if by is By.ID else ways
            yield f"the collection has none of these pictures, it has such as {looks}{how}"
    for name in fields:
        if not declare and collection.spec.field(name) is None:
            yield f"field {name!r} is not declared, so it is kept but cannot be filtered on"


class _Writing:
    """Gives records what rows say of them."""

    def __init__(
        self,
        collection: Collection,
        fields: Mapping[str, Field],
        tally: Tally,
        target: Target,
        new: Sequence[Field],
        *,
        dry_run: bool,
    ) -> None:
        self.written = 0
        self.declared: Sequence[Field] = ()
        self._collection = collection
        self._fields = fields
        self._tally = tally
        self._new = new
        self._dry_run = dry_run
        self._captions = None if dry_run else _captions(collection, fields, target)

    def write(self, sheet: Sheet, count: Count | None) -> None:
        """Whatever a sheet holds of records that were found."""
        said, done, total = sheet.said(), 0, sheet.keys()
        while page := dict(islice(said, _CHUNK)):
            wanted = {record: values for record, rows in page.items() if (values := self._agreed(record, rows))}
            if wanted:
                self._declare()
                self._page(wanted)
            done += len(page)
            if count is not None:
                count(done, max(done, total))
        if self.written:
            self._collection.flush()

    def notices(self) -> list[str]:
        """What to know of captions."""
        return [] if self._captions is None else self._captions.notices()

    def _agreed(self, record: str, rows: Sequence[tuple[str, Payload]]) -> dict[str, Any]:
        """What the rows about a record say together; nothing where they contradict one another."""
        agreed: dict[str, Any] = {}
        first: dict[str, str] = {}
        for row, values in rows:
            more = False
            for name, value in values.items():
                if self._fields[name].many:
                    before = agreed.get(name, [])
                    agreed[name] = [*before, *(one for one in _distinct(value) if one not in before)]
                    more |= len(agreed[name]) > len(before)
                elif name not in agreed:
                    agreed[name], first[name], more = value, row, True
                elif agreed[name] != value:
                    both = f"{agreed[name]!r:.60} ({first[name]}), {value!r:.60} ({row})"
                    self._tally.name("contradictory", f"{record}: {both}")
                    return {}
            if not more:
                self._tally.add("repeated")
        return agreed

    def _declare(self) -> None:
        """Declare fields that the collection does not have, once there is something to write."""
        if self._new:
            if not self._dry_run:
                self._collection.alter(fields=self._new)
            self.declared, self._new = self._new, ()

    def _page(self, wanted: Mapping[str, Payload]) -> None:
        stored = self._collection.fetch(list(wanted))
        there = dict(zip(stored.ids, stored.payloads or (), strict=True))
        differing = []
        for record, values in wanted.items():
            if record not in there:
                self._tally.name("unknown", f"{record}: was removed meanwhile")
            elif holds(there[record], values, self._collection.spec):
                self._tally.add("unchanged")
            else:
                empty = all(there[record].get(name) in (None, "", []) for name in values)
                self._tally.add("labelled" if empty else "changed")
                differing.append(record)
        for start in range(0, 0 if self._dry_run else len(differing), _PIECE):
            self._upsert(differing[start : start + _PIECE], wanted)

    def _upsert(self, ids: Sequence[str], wanted: Mapping[str, Payload]) -> None:
        """Records as they are now, with what they are to have."""
        spec = self._collection.spec
        everything = Want(vectors=tuple(vector.name for vector in spec.vectors), tokens=spec.tokens is not None)
        batch = self._collection.fetch(ids, want=everything)
        before = batch.payloads or ()
        payloads = tuple({**p, **wanted[record]} for record, p in zip(batch.ids, before, strict=True))
        batch = replace(batch, payloads=payloads)
        if len(batch):
            self._collection.upsert(batch if self._captions is None else _captioned(batch, before, self._captions))
            self.written += len(batch)


def _distinct(values: Sequence[Any]) -> list[Any]:
    return [value for number, value in enumerate(values) if value not in values[:number]]


def _captions(collection: Collection, fields: Mapping[str, Field], target: Target) -> Writer | None:
    """What makes vectors of captions, where one of the fields holds those."""
    if not any(vector.name == TEXT and vector.embeds in fields for vector in collection.spec.vectors):
        return None
    from pixdex._captions import Captions

    return Captions(target.text_encoder if isinstance(target, ImageIndex) else None).writer(collection)


def _captioned(batch: Batch, before: Sequence[Payload], captions: Writer) -> Batch:
    """Records with the vectors of the captions that they have now."""
    stays = [captions.alike(one, other) for one, other in zip(before, batch.payloads or (), strict=True)]
    absent = ~(batch.present(TEXT) & np.array(stays, dtype=bool))
    return captions.written(replace(batch, absent={**batch.absent, TEXT: absent}))
