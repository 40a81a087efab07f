"""Rows of tables, by the form of the file: lists of paths, CSV, JSON lines, Parquet. A file is read as the rows are.

``rows`` yields the number of each row for reports, and its cells; or, for a row that cannot be read, why. ``kinds``
says which fields a table suggests.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import orjson

from pixdex.errors import ConfigError, InvalidRecord, MissingDependency
from pixdex.fields import infer
from pixdex.pictures import shown
from pixdex.spec import Field, Kind
from pixdex.types import MAX_INT, MAX_TEXT_BYTES

__all__ = ["Cells", "Rows", "is_table", "rows_of"]

Cells: TypeAlias = Mapping[str, Any]
Numbered: TypeAlias = tuple[int, Cells | str]

_MAX_LINE = 16 << 20
_SAMPLE = 100
_PAGE = 1000
_PAGE_OF_FILES = 16
"""Rows at a time where they hold files, which are large."""
_MAX_GROUP = 256 << 20
"""Bytes of pictures in a group of rows: reading one takes up to three times as much memory."""
_BUFFER = 1 << 20
_INT = re.compile(r"-?(?:0|[1-9]\d{0,15})")
_FLOAT = re.compile(r"-?\d+\.\d*(?:[eE][+-]?\d+)?|-?\d+[eE][+-]?\d+")


class Rows(Protocol):
    """A table."""

    @property
    def as_text(self) -> bool:
        """Whether its cells are all text, whose kind is to be found."""
        ...

    def columns(self) -> Sequence[str]:
        """The names of the columns, in order.

        Raises:
            ConfigError: there are none, or the file cannot be read.
        """
        ...

    def rows(self, pictures: str | None = None) -> Iterator[Numbered]:
        """Its rows, from 1 on. Of columns that hold files, only ``pictures`` is read."""
        ...

    def kinds(self, columns: Sequence[str]) -> Mapping[str, Field]:
        """The fields that the values of some columns suggest; a column whose values differ in kind suggests none."""
        ...


def is_table(path: Path) -> bool:
    """Whether a path has the suffix of a table that is read here."""
    return path.suffix.lower() in _FORMS


def rows_of(path: Path) -> Rows:
    """The table in a file.

    Raises:
        MissingDependency: reading it needs pyarrow.
    """
    return _FORMS[path.suffix.lower()](path)


def by_look(text: str) -> Any:
    """What a cell of text stands for when nobody says: ``3``, ``2.5``, ``true``, else text. ``007`` stays text."""
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    if _INT.fullmatch(text) and text != "-0" and abs(int(text)) <= MAX_INT:
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


# --- text ------------------------------------------------------------------------------------------------------------


def _text(path: Path, newline: str | None = None) -> IO[str]:
    """A text file in UTF-8 or, as its first bytes say, UTF-16; other bytes become surrogates, as in paths."""
    with path.open("rb") as file:
        wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
    return path.open(encoding=encoding, errors=errors, newline=newline)


@dataclass(frozen=True, slots=True)
class _Lines:
    """A list of paths, one a line."""

    path: Path
    as_text: bool = True

    def columns(self) -> Sequence[str]:
        return ("path",)

    def rows(self, pictures: str | None = None) -> Iterator[Numbered]:
        del pictures
        with _text(self.path) as file:
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), ""), 1):
                text = line.rstrip("\n")
                if text.strip():
                    yield number, {"path": text}

    def kinds(self, columns: Sequence[str]) -> Mapping[str, Field]:
        del columns
        return {}


@dataclass(frozen=True, slots=True)
class _Csv:
    """Comma-separated values; semicolons, tabs and bars are recognised by the first line."""

    path: Path
    as_text: bool = True

    def columns(self) -> Sequence[str]:
        with _text(self.path, "") as file:
            try:
                return [shown(name) for name in next(csv.reader(file, delimiter=self._delimiter()), [])]
            except csv.Error as error:
                raise ConfigError(f"{self.path}: its first line cannot be read: {error}") from error

    def _delimiter(self) -> str:
        if self.path.suffix.lower() == ".tsv":
            return "\t"
        with _text(self.path, "") as file:
            head = file.readline(_MAX_LINE)
        return max(",;\t|", key=head.count)

    def rows(self, pictures: str | None = None) -> Iterator[Numbered]:
        del pictures
        with _text(self.path, "") as file:
            reader = csv.reader(file, delimiter=self._delimiter())
            try:
                names = [shown(name) for name in next(reader, [])]
                for cells in reader:
                    if len(cells) > len(names):
                        yield reader.line_num, f"{len(cells)} cells under {len(names)} columns"
                    elif cells:
                        yield reader.line_num, {name: cell for name, cell in zip(names, cells, strict=False) if cell}
            except csv.Error as error:
                yield reader.line_num, f"the table cannot be read further: {error}"

    def kinds(self, columns: Sequence[str]) -> Mapping[str, Field]:
        looks = _suggested(
            (
                {name: by_look(text) for name, text in cells.items()}
                for _, cells in self.rows()
                if not isinstance(cells, str)
            ),
            columns,
        )
        return {name: field or Field(name=name, kind=Kind.TEXT) for name, field in looks.items() if field != _TOO_LONG}


# --- JSON lines --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _JsonLines:
    """One JSON object a line."""

    path: Path
    as_text: bool = False

    def columns(self) -> Sequence[str]:
        names: dict[str, None] = {}
        for _, cells in islice(self.rows(), _SAMPLE):
            names.update(dict.fromkeys(() if isinstance(cells, str) else cells))
        return list(names)

    def rows(self, pictures: str | None = None) -> Iterator[Numbered]:
        del pictures
        with self.path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
                if line.strip():
                    yield number, _object(line.removeprefix(b"\xef\xbb\xbf"))

    def kinds(self, columns: Sequence[str]) -> Mapping[str, Field]:
        found = _suggested((cells for _, cells in self.rows() if not isinstance(cells, str)), columns)
        return {name: field for name, field in found.items() if field is not None and field != _TOO_LONG}


def _object(line: bytes) -> Cells | str:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"
    if not isinstance(value, dict):
        return f"a line is a JSON object, not {type(value).__name__}"
    return {name: cell for name, cell in value.items() if cell not in (None, "")}


# --- Parquet -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Parquet:
    """A Parquet file, a page of rows at a time."""

    path: Path
    as_text: bool = False

    def columns(self) -> Sequence[str]:
        with self._file() as file:
            return list(file.schema_arrow.names)

    def _file(self) -> Any:
        try:
            import pyarrow.parquet as pq
            from pyarrow.lib import ArrowException
        except ImportError:
            raise MissingDependency("pyarrow", "parquet") from None
        try:
            # Unbuffered, a group of rows is read whole, and twice as much memory is taken.
            return pq.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False)
        except (ArrowException, OSError) as error:
            raise ConfigError(f"{self.path} cannot be read as Parquet: {error}") from error

    def rows(self, pictures: str | None = None) -> Iterator[Numbered]:
        import pyarrow as pa

        with self._file() as file:
            files = {field.name for field in file.schema_arrow if _holds_files(field.type)}
            names = [name for name in file.schema_arrow.names if name == pictures or name not in files]
            number = 0
            try:
                for batch in _batches(file, names, pictures if pictures in files else None):
                    for cells in batch.to_pylist():
                        number += 1
                        plain = {name: _plain(cell) for name, cell in cells.items()}
                        yield number, {name: cell for name, cell in plain.items() if cell not in (None, "")}
            except (pa.ArrowException, OSError, InvalidRecord) as error:
                yield number + 1, f"the table cannot be read further: {error}"

    def kinds(self, columns: Sequence[str]) -> Mapping[str, Field]:
        with self._file() as file:
            found = {name: _kind_of(file.schema_arrow.field(name).type) for name in columns}
        return {
            name: Field(name=name, kind=kind, many=many) for name, (kind, many) in found.items() if kind is not None
        }


def _batches(file: Any, names: Sequence[str], pictures: str | None) -> Iterator[Any]:
    """The rows of some columns, few at a time where one of them holds pictures.

    Raises:
        InvalidRecord: so many pictures lie together that reading them takes too much memory: the reader decompresses at
            least a page, which may be all of a group of rows.
    """
    if pictures is None:
        yield from file.iter_batches(batch_size=_PAGE, columns=names)
        return
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        columns = [group.column(at) for at in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.partition(".")[0] == pictures)
        if size > _MAX_GROUP:
            raise InvalidRecord(
                f"{size} bytes of pictures in one row group, the limit is {_MAX_GROUP}: write smaller ones"
            )
        yield from file.iter_batches(batch_size=_PAGE_OF_FILES, row_groups=[number], columns=names)


def _holds_files(kind: Any) -> bool:
    """Whether its values are files: bytes, or what data sets make of a picture, ``{"bytes": ..., "path": ...}``."""
    import pyarrow.types as t

    if t.is_struct(kind):
        return any(part.name == "bytes" and _holds_files(part.type) for part in kind)
    return bool(t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind))


def _kind_of(kind: Any) -> tuple[Kind | None, bool]:
    """The kind of field that an Arrow type suggests, and whether it is a list of such."""
    import pyarrow.types as t

    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return _kind_of(kind.value_type)[0], True
    if t.is_dictionary(kind):
        return _kind_of(kind.value_type)
    if t.is_timestamp(kind):
        return (None if kind.tz is None else Kind.TIME), False
    tests = (
        (t.is_boolean, Kind.BOOL),
        (t.is_integer, Kind.INT),
        (t.is_floating, Kind.FLOAT),
        (t.is_decimal, Kind.FLOAT),
        (t.is_string, Kind.TEXT),
        (t.is_large_string, Kind.TEXT),
    )
    return next((found for test, found in tests if test(kind)), None), False


def _plain(value: Any) -> Any:
    """A value of Arrow as JSON has it; times with a zone stay times."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {name: _plain(cell) for name, cell in value.items()}
    if isinstance(value, list):
        return [_plain(cell) for cell in value]
    return value


# --- fields ------------------------------------------------------------------------------------------------------------

_TOO_LONG = Field(name="text", kind=Kind.TEXT, stored_as="text that is longer than a field")


def _suggested(rows: Iterator[Cells], columns: Sequence[str]) -> dict[str, Field | None]:
    """The field that all values of a column suggest; None where they differ in kind or suggest none."""
    found: dict[str, Field | None] = {}
    known: set[tuple[str, type]] = set()  # what a value of that type says was said before
    for cells in rows:
        for name in columns:
            value = cells.get(name)
            if value is None or value == [] or ((name, type(value)) in known and not _is_long(value)):
                continue
            field = _TOO_LONG if _is_long(value) else infer(name, value)
            found[name] = _both(found[name], field) if name in found else field
            if not isinstance(value, list | dict):
                known.add((name, type(value)))
    return found


def _both(one: Field | None, other: Field | None) -> Field | None:
    if one == other or one is None or one is _TOO_LONG:
        return one
    if other is None or other is _TOO_LONG:
        return other
    if {one.kind, other.kind} == {Kind.INT, Kind.FLOAT} and one.many == other.many:
        return one if one.kind is Kind.FLOAT else other
    return None


def _is_long(value: Any) -> bool:
    return (
        isinstance(value, str)
        and len(value) * 4 > MAX_TEXT_BYTES
        and len(value.encode(errors="replace")) > MAX_TEXT_BYTES
    )


_FORMS: Mapping[str, type[_Lines | _Csv | _JsonLines | _Parquet]] = {
    ".txt": _Lines,
    ".csv": _Csv,
    ".tsv": _Csv,
    ".jsonl": _JsonLines,
    ".ndjson": _JsonLines,
    ".parquet": _Parquet,
}
