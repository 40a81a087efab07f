"""Files that say of pictures what they are: tables, and annotations in the form of COCO. They are read as the rows are.

What a file says is a row after the other; which record a row is about is found out elsewhere (``labelling``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pixdex._records import coerce
from pixdex.errors import ConfigError, InvalidRecord, nearest
from pixdex.pictures import path_exists, shown
from pixdex.sources._rows import Cells, Rows, is_table, rows_of
from pixdex.sources.coco import Coco
from pixdex.sources.tables import cell_of, picture_column
from pixdex.spec import Field, Kind
from pixdex.types import Payload

__all__ = ["LABEL", "Labels", "Said", "labels_of"]

LABEL = "label"
"""The column that holds labels, and the field that gets them, where nobody says which."""
_ID = "id"


@dataclass(frozen=True, slots=True)
class Said:
    """What a row says.

    Attributes:
        row: how reports call it, ``line 7``.
        key: what it calls the picture: a path, a file name or an id; empty where it is refused.
        values: field -> value in its canonical form; empty where it says nothing.
        refused: why it cannot be used.
    """

    row: str
    key: str
    values: Payload = field(default_factory=dict)
    refused: str | None = None


class Labels(Protocol):
    """A file of labels."""

    @property
    def by_id(self) -> bool:
        """Whether it names records by their ids where nobody says what it names."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The fields that get labels.

        Raises:
            ConfigError: there is no such column.
        """
        ...

    def suggested(self, name: str) -> Field | None:
        """The kind of field that the labels for the field ``name`` suggest; None where they suggest none."""
        ...

    def said(self, fields: Mapping[str, Field], *, by_id: bool) -> Iterator[Said]:
        """What it says for these fields.

        Raises:
            ConfigError: it is not what it is taken for, or a value does not fit into fields of these kinds.
        """
        ...


def labels_of(path: Path, *, label: Sequence[str], field: str | None, column: str | None, largest: bool) -> Labels:
    """The labels in a file, a table or COCO's annotations by its suffix.

    Args:
        path: the file.
        label: the columns of a table that hold labels; none: ``label``.
        field: the field that gets them, where it is not called as the column.
        column: the column of a table that names pictures.
        largest: of a picture's annotations that with the largest box counts.

    Raises:
        ConfigError: there is no such file, or options that it has no use for.
        MissingDependency: a Parquet file, and no pyarrow.
    """
    if not path_exists(path):
        raise ConfigError(f"{path} does not exist")
    if path.suffix.lower() == ".json":
        if label or column is not None:
            raise ConfigError(f"{path}: annotations have no columns, so label and column say nothing of them")
        return CocoLabels(path, field or LABEL, largest)
    if not is_table(path):
        raise ConfigError(
            f"{path}: labels stand in a table (.csv, .tsv, .jsonl, .parquet), or COCO annotations (.json)"
        )
    if largest:
        raise ConfigError(f"{path}: a table has no boxes, of which largest= could choose")
    names = tuple(label) or (LABEL,)
    if field is not None and len(names) > 1:
        raise ConfigError(
            f"field={field!r} is one, and there are {len(names)} columns: they go to fields of their names"
        )
    return TableLabels(path, {name: field or name for name in names}, column)


@dataclass(frozen=True)
class TableLabels:
    """A table; ``fields`` says of the columns with labels which field each goes to."""

    path: Path
    fields: Mapping[str, str]
    column: str | None

    @cached_property
    def _rows(self) -> Rows:
        return rows_of(self.path)

    @cached_property
    def _columns(self) -> Sequence[str]:
        try:
            found = self._rows.columns()
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if not found:
            raise ConfigError(f"{self.path} is empty")
        return found

    @property
    def by_id(self) -> bool:
        return (self.column or _ID) == _ID and _ID in self._columns

    @property
    def names(self) -> Sequence[str]:
        for name in self.fields:
            if name not in self._columns:
                raise ConfigError(
                    f"{self.path}: there is no column {name!r} of labels{nearest(name, self._columns)}: say with --label (label=) which"
                )
        return list(self.fields.values())

    def suggested(self, name: str) -> Field | None:
        column = next(column for column, called in self.fields.items() if called == name)
        found = self._rows.kinds([column]).get(column)
        return None if found is None else replace(found, name=name)

    def said(self, fields: Mapping[str, Field], *, by_id: bool) -> Iterator[Said]:
        key = _ID if by_id and self.column is None and _ID in self._columns else None
        key = key or picture_column(self.path, self._columns, self.column)
        try:
            for number, cells in self._rows.rows():
                yield self._said(f"line {number}", key, cells, fields)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read further: {error.strerror or error}") from error

    def _said(self, row: str, key: str, cells: Cells | str, fields: Mapping[str, Field]) -> Said:
        if isinstance(cells, str):
            return Said(row, "", refused=cells)
        named = cells.get(key)
        if named is None or isinstance(named, bytes | Mapping) or not str(named).strip():
            return Said(row, "", refused=f"{key!r} names no picture")
        values = {}
        try:
            for name, called in self.fields.items():
                value = self._value(cells.get(name), fields[called])
                if value not in (None, "", []):
                    values[called] = value
        except InvalidRecord as error:
            return Said(row, "", refused=str(error))
        return Said(row, shown(str(named).strip()), values)

    def _value(self, cell: Any, declared: Field) -> Any:
        """A cell as the field keeps it. Space around a label is none of it. Raises InvalidRecord."""
        if isinstance(cell, str):
            try:
                cell.encode()
            except UnicodeEncodeError:
                raise InvalidRecord(f"{shown(cell)!r:.80} is not UTF-8: save the file as that") from None
            cell = cell.strip()
        if cell in (None, ""):
            return None
        return coerce(declared, cell_of(cell, declared) if self._rows.as_text else _fitting(cell, declared))


def _fitting(value: Any, declared: Field) -> Any:
    """One label of several, where a field holds several."""
    return [value] if declared.many and not isinstance(value, list) else value


@dataclass(frozen=True)
class CocoLabels:
    """COCO's annotations: the names of the categories that a picture's annotations are of."""

    path: Path
    field: str
    largest: bool
    by_id: bool = False

    @property
    def names(self) -> Sequence[str]:
        return [self.field]

    def suggested(self, name: str) -> Field | None:
        return Field(name=name, kind=Kind.TEXT)

    def said(self, fields: Mapping[str, Field], *, by_id: bool) -> Iterator[Said]:
        declared = fields[self.field]
        if declared.kind is not Kind.TEXT:
            raise ConfigError(f"{self.path}: categories are text, field {self.field!r} is {declared.kind}")
        with Coco(self.path) as coco:
            for row, why in coco.refused():
                yield Said(row, "", refused=why)
            for picture in coco.pictures(largest=self.largest):
                key = picture.id if by_id else picture.file
                row = f"image {picture.id}"
                if key is None:
                    yield Said(row, "", refused="it has no file_name")
                    continue
                try:
                    values = self._value(picture.categories, declared, key)
                except InvalidRecord as error:
                    yield Said(row, "", refused=str(error))
                    continue
                yield Said(row, shown(key), values)

    def _value(self, categories: Sequence[str], declared: Field, key: str) -> Payload:
        """The categories as the field keeps them. Raises InvalidRecord."""
        if not categories:
            return {}
        if declared.many:
            return {self.field: coerce(declared, categories)}
        if len(categories) > 1:
            raise ConfigError(
                f"{self.path}: {key!r} has several categories ({', '.join(categories[:5])}), field {self.field!r} is one text: say "
                f'kind="text[]" (--kind text[]) for a list, or largest=True (--largest) for that of the largest box; nothing was written'
            )
        return {self.field: coerce(declared, categories[0])}
