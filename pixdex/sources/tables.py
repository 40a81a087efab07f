"""Pictures that a table names or holds, with the other columns as their fields."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from pixdex._records import check_ids, checked
from pixdex.errors import ConfigError, InvalidRecord, nearest
from pixdex.fields import AUTOMATIC_NAMES
from pixdex.pictures import Item, Picture, Refused, path_id, place_of, shown, source_of, text_id
from pixdex.sources._rows import Cells, Rows, by_look, is_table, rows_of
from pixdex.sources.addresses import Addresses, scheme_of
from pixdex.sources.port import Origin
from pixdex.spec import Field, Kind, Spec
from pixdex.types import Batch, Payload

__all__ = ["COLUMNS", "Table", "cell_of", "is_table", "picture_column", "picture_named"]

COLUMNS = ("path", "file", "filename", "image", "url")
"""Names of the column that names or holds the pictures, where nobody says which it is; in any case, the first that is there."""
_ID = "id"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A list of paths, a CSV, a file of JSON lines or a Parquet file.

    Paths are relative to the folder of the table. A column ``id`` gives ids; without one they are
    ``<name of that folder>/<path as written>``, or the address. All other columns are fields: read as the kind that is
    declared, absent where a cell is empty. A Parquet file may hold the pictures themselves, as bytes or as data sets of
    Hugging Face do, ``{"bytes": ..., "path": ...}``: their ids are ``<name of the folder>/<name of the table>/<row>``.
    """

    path: Path
    addresses: Addresses
    rows: Rows = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", rows_of(self.path))

    @property
    def origin(self) -> Origin:
        return Origin(*source_of(self.path.parent, self.addresses.options.source))

    @property
    def single(self) -> bool:
        return False

    def check(self) -> None:
        try:
            if not any(True for _ in self.rows.rows()):
                raise ConfigError(f"{self.path} is empty")
            _ = self._column
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror or error}") from error

    @cached_property
    def _columns(self) -> Sequence[str]:
        return self.rows.columns()

    @cached_property
    def _column(self) -> str:
        """The column that names the pictures."""
        return picture_column(self.path, self._columns, self.addresses.options.column)

    @cached_property
    def _fields(self) -> Sequence[str]:
        """The columns that become fields."""
        taken = AUTOMATIC_NAMES | {self._column, _ID, ""}
        return [name for name in self._columns if name not in taken and not name.startswith("_")]

    def suggested(self) -> Sequence[Field]:
        names = [name for name in self._fields if _can_be_declared(name)]
        return list(self.rows.kinds(names).values()) if names else ()

    def notices(self) -> Sequence[str]:
        left_out = [name for name in self._columns if name and name not in {*self._fields, self._column, _ID}]
        return [f"column {name!r} is left out: a field of that name is filled by pixdex" for name in left_out]

    def items(self, spec: Spec) -> Iterator[Item | None]:
        source, declared = self.origin.name, {f.name: f for f in spec.fields}
        try:
            for number, cells in self.rows.rows(self._column):
                yield self._item_or_row(number, cells, source, declared, spec)
        except OSError as error:
            yield Item(None, Refused(shown(self.path), f"the table cannot be read further: {error.strerror or error}"))

    def _item_or_row(
        self, number: int, cells: Cells | str, source: str, declared: Mapping[str, Field], spec: Spec
    ) -> Item:
        """The picture of a row, or one that says why there is none."""
        label = f"{shown(self.path)}:{number}"
        if isinstance(cells, str):
            return Item(None, Refused(label, cells))
        try:
            return self._item(number, cells, source, declared, spec)
        except ValueError as error:  # among them InvalidRecord, and ConfigError of an address
            return Item(None, Refused(label, str(error).removeprefix("record 'row': ")))

    def _item(self, number: int, cells: Cells, source: str, declared: Mapping[str, Field], spec: Spec) -> Item:
        """The picture of a row. Raises InvalidRecord for one that cannot be kept."""
        cell = cells.get(self._column)
        data, named = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (cell, cell)
        if isinstance(data, bytes):
            picture, record = data, path_id(source, f"{self.path.name}/{number}")
            automatic = place_of(f"{shown(self.path.absolute())}:{number}")
        elif isinstance(named, str) and named.strip():
            picture, record, automatic = picture_named(named.strip(), self.path.parent, source, self.addresses)
        else:
            raise InvalidRecord(f"{self._column!r} names no picture" + ("" if cell is None else f": {cell!r:.80}"))
        payload = {name: cells[name] for name in self._fields if name in cells}
        if self.rows.as_text:
            payload = {name: cell_of(text, declared.get(name)) for name, text in payload.items()}
        own = cells.get(_ID)
        record = record if own is None else str(own)
        kept = (checked(Batch(("row",), payloads=(payload,)), spec).payloads or ())[0]
        check_ids([record])
        return Item(record, picture, {**automatic, **kept})


def picture_named(named: str, root: Path, source: str, addresses: Addresses) -> tuple[Picture, str, Payload]:
    """What a file names by a path, relative to ``root``, or an address; its id, and what is known of it."""
    if scheme_of(named) is not None:
        picture = addresses.named(named)
        return picture, text_id(named), {} if isinstance(picture, Path) else place_of(shown(named))
    path, folder = Path(named), root.absolute()
    below = path.is_absolute() and path.is_relative_to(folder)
    relative = os.path.relpath(path, folder) if below else path.as_posix()
    return root / path, path_id(source, Path(relative).as_posix()), {}


def _can_be_declared(name: str) -> bool:
    from pixdex._names import check_field

    try:
        check_field(name)
    except ConfigError:
        return False
    return True


def picture_column(path: Path, columns: Sequence[str], asked: str | None) -> str:
    """The column of a table that names or holds the pictures: the one ``asked`` for, else the one so called.

    Raises:
        ConfigError: there is no such column.
    """
    if asked is not None:
        if asked not in columns:
            raise ConfigError(f"{path}: there is no column {asked!r}{nearest(asked, columns)}")
        return asked
    folded = {name.casefold(): name for name in reversed(columns)}
    found = next((folded[name] for name in COLUMNS if name in folded), None)
    if found is None:
        known = ", ".join(columns) or "none"
        raise ConfigError(f"{path}: say with --column (column=) which column names the pictures (there are: {known})")
    return found


def cell_of(text: str, declared: Field | None) -> Any:
    """A cell of text as the kind that is declared; by its look where none is.

    Raises:
        InvalidRecord: it cannot be read so.
    """
    text = shown(text)
    if declared is None:
        return by_look(text)
    try:
        if declared.many:
            return _json(text) if text.startswith("[") else [_scalar(text.strip(), declared.kind)]
        return _scalar(text if declared.kind is Kind.TEXT else text.strip(), declared.kind)
    except ValueError:
        raise InvalidRecord(f"field {declared.name!r} is declared {declared.kind}, got {text!r:.80}") from None


_TRUTHS: Mapping[str, bool] = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _scalar(text: str, kind: Kind) -> Any:
    """Raises ValueError for text that is not of the kind; what is left of times is checked with all other values."""
    if kind is Kind.INT:
        return int(text)
    if kind is Kind.FLOAT:
        return float(text)
    if kind is Kind.BOOL:
        if text.casefold() not in _TRUTHS:
            raise ValueError(text)
        return _TRUTHS[text.casefold()]
    if kind is Kind.GEO:
        return _json(text) if text.startswith(("[", "{")) else [float(part) for part in text.split(",")]
    return text


def _json(text: str) -> Any:
    return orjson.loads(text)
