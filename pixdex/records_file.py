"""A Parquet file of records as a store: what ``vectors_file`` writes, behind the port, for copies to and from it.

A file is written once. What is written to it lies in ``<file>.partial`` meanwhile, a folder of numbered parts that are files
of the same kind, each whole and forced to the disk before a write is acknowledged. ``settle`` makes one file of them and puts
it in its place, and removes the folder. A record that is written again, or deleted, is left out where it stood before.
Searches are exact and read everything: the facade does them.
"""

# ruff: noqa: ARG002 - the verbs of the port

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from pixdex.connectors._files import replace_file, sync_directory
from pixdex.connectors.port import Capabilities, Compacted, Finding
from pixdex.errors import AlreadyExists, ConfigError, NotFound, StoreFormat, StoreFull, Unsupported
from pixdex.spec import Spec
from pixdex.types import Batch, Page, Scan, Search, Want
from pixdex.vectors_file import SUFFIX, VectorsFile, Writer, check_installed, told

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.filters import Filter
    from pixdex.types import Hit

__all__ = ["CAPABILITIES", "RecordsFile", "is_file"]

CAPABILITIES = Capabilities(
    operators=frozenset(),
    delete_where=False,
    exact=False,  # the facade reads everything
    alias=False,
    alter=False,
    max_batch=10_000,
    max_batch_bytes=64 << 20,
    max_payload_bytes=64 << 20,
    max_token_bytes=64 << 20,
)
_COLLECTION = "main"
_SPEC = "spec.json"
_WHOLE = "whole.parquet"
_DELETED = ".deleted.json"


def is_file(place: str) -> bool:
    """Whether a place that is no address names such a file."""
    return "://" not in place and Path(place).suffix.lower() == SUFFIX


class RecordsFile:
    """One file as a connector; its collection has any name. The verbs are documented in ``port``."""

    scheme = "parquet"
    capabilities = CAPABILITIES

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """The file at ``path``, which need not be there.

        Raises:
            MissingDependency: pyarrow is not installed.
        """
        check_installed()
        self._path = Path(path).expanduser()
        self._partial = self._path.with_name(f"{self._path.name}.partial")
        self._lock = threading.RLock()
        self._known: _View | None = None

    # --- the collection ---

    def create(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        if not spec.native:
            raise Unsupported("a file has no collections of other tools")
        with self._lock:
            if self._path.exists() or (self._partial / _SPEC).exists():
                raise AlreadyExists(f"{self._path} is there already")
            self._begin(spec)

    def describe(self, name: str, *, timeout: float | None) -> Spec:
        kept = self._partial / _SPEC
        if kept.is_file():
            return Spec.from_json(kept.read_bytes())
        if self._path.is_file():
            return self._file(self._path).spec
        raise NotFound(f"there is no file {self._path}")

    def alter(self, name: str, spec: Spec, *, timeout: float | None) -> None:
        old = self.describe(name, timeout=timeout)
        if (spec.fields, spec.vectors, spec.tokens) != (old.fields, old.vectors, old.tokens):
            raise Unsupported("the columns of a file stay as they are: export the collection again")
        with self._lock:
            self._begin(spec)

    def drop(self, name: str, *, timeout: float | None) -> None:
        with self._lock:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._path.unlink(missing_ok=True)
            self._known = None

    def names(self, *, timeout: float | None) -> Sequence[str]:
        return [_COLLECTION] if self._path.exists() or self._partial.exists() else []

    def alias(self, alias: str, name: str | None, *, timeout: float | None) -> None:
        raise Unsupported("a file has no aliases")

    def aliases(self, *, timeout: float | None) -> Mapping[str, str]:
        return {}

    # --- writing ---

    def upsert(self, name: str, batch: Batch, *, timeout: float | None) -> None:
        spec = self.describe(name, timeout=timeout)
        named = {vector.column: vector.name for vector in spec.vectors}
        for column in batch.vectors:
            spec.physical(column)
        logical = replace(
            batch,
            vectors={named[column]: values for column, values in batch.vectors.items()},
            absent={named[column]: mask for column, mask in batch.absent.items()},
        )
        with self._lock:
            self._begin(spec)
            with Writer(self._next(SUFFIX), spec, unusable=False, compression="lz4") as writer:
                writer.write(logical)
                writer.finish()
            with _kept(self._partial):
                sync_directory(self._partial)
            self._known = None

    def delete(self, name: str, ids: Sequence[str], *, timeout: float | None) -> None:
        spec = self.describe(name, timeout=timeout)
        if ids:
            with self._lock:
                self._begin(spec)
                path = self._next(_DELETED)
                with _kept(path):
                    replace_file(path, orjson.dumps(list(ids)))
                self._known = None

    def delete_where(self, name: str, where: Filter, *, timeout: float | None) -> None:
        raise Unsupported("a file deletes by id")

    def flush(self, name: str, *, timeout: float | None) -> None:
        self.describe(name, timeout=timeout)

    def settle(self, name: str, *, progress: Callable[[int, int], None] | None = None, timeout: float | None) -> None:
        """Write the file from its parts, put it in its place, and remove them."""
        with self._lock:
            if not (self._partial / _SPEC).exists():
                return
            spec, view, done = self.describe(name, timeout=timeout), self._view(), 0
            whole = self._partial / _WHOLE
            with Writer(whole, spec, unusable=False) as writer:
                for count in view.write_to(writer):
                    done += count
                    if progress is not None:
                        progress(done, view.count)
                writer.finish()
            self._known = None
            with _kept(self._path):
                whole.replace(self._path)
                sync_directory(self._path.parent)  # before the parts go
            gone = self._partial.with_name(f".{self._partial.name}.gone")
            with suppress(OSError):  # what cannot be removed costs only its space
                shutil.rmtree(gone, ignore_errors=True)
                self._partial.rename(gone)  # all parts at once: of some of them older records would count again
                shutil.rmtree(gone)

    def compact(
        self, name: str, *, progress: Callable[[int, int], None] | None = None, timeout: float | None
    ) -> Compacted:
        raise Unsupported("a file is compact already")

    def verify(
        self, name: str, *, progress: Callable[[int, int], None] | None = None, timeout: float | None
    ) -> Sequence[Finding]:
        view = self._view()
        try:
            for _ in view.everything():
                pass
        except ConfigError as error:
            return [Finding(place=str(self._path), what=str(error), remedy="export the collection again")]
        return []

    # --- reading ---

    def fetch(self, name: str, ids: Sequence[str], *, want: Want, timeout: float | None) -> Batch:
        return self._view().fetch(ids, self._logical(name, want, timeout))

    def search(self, name: str, request: Search, *, timeout: float | None) -> Sequence[Sequence[Hit]]:
        raise Unsupported("a file has no index: search it exactly, or import it into a store")

    def scan(self, name: str, request: Scan, *, timeout: float | None) -> Page:
        return self._view().page(request.size, request.after, self._logical(name, request.want, timeout))

    def count(self, name: str, where: Filter | None, *, timeout: float | None) -> int:
        return self._view().count

    def versions(self, *, timeout: float | None) -> Mapping[str, str]:
        return {"pyarrow": metadata.version("pyarrow")}

    def close(self) -> None:
        self._known = None

    # --- helpers ---

    def _logical(self, name: str, want: Want, timeout: float | None) -> Want:
        spec = self.describe(name, timeout=timeout)
        return replace(want, vectors=tuple(spec.physical(column).name for column in want.vectors))

    def _begin(self, spec: Spec) -> None:
        """Have the folder of parts, with the Spec.

        Raises:
            ConfigError: something else is there under its name, such as what ``encode`` leaves unfinished.
        """
        kept, text = self._partial / _SPEC, spec.to_json().encode()
        try:
            if not kept.exists() and self._partial.exists() and not _is_empty(self._partial):
                raise ConfigError(
                    f"{self._partial} is not what an unfinished copy leaves: remove it, or name another file"
                )
            self._partial.mkdir(exist_ok=True)
            if not kept.exists() or kept.read_bytes() != text:
                with _kept(kept):
                    replace_file(kept, text)
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}") from error

    def _parts(self) -> list[Path]:
        """What was written, in order: the file as it is, then the parts."""
        written = sorted(path for path in self._partial.glob("[0-9]*") if path.name.endswith((SUFFIX, _DELETED)))
        return [*([self._path] if self._path.is_file() else []), *written]

    def _next(self, suffix: str) -> Path:
        numbers = [int(path.name.partition(".")[0]) for path in self._parts() if path != self._path]
        return self._partial / f"{max(numbers, default=0) + 1:09}{suffix}"

    def _file(self, path: Path) -> VectorsFile:
        try:
            return VectorsFile.open(path)
        except ConfigError as error:
            raise StoreFormat(str(error)) from error

    def _view(self) -> _View:
        with self._lock:
            if self._known is None:
                if not self._path.is_file() and not self._partial.is_dir():
                    raise NotFound(f"there is no file {self._path}")
                self._known = _View.of(self._parts(), self.describe(_COLLECTION, timeout=None))
            return self._known


@dataclass(frozen=True, slots=True)
class _Part:
    """A file, and which of its rows are records that count: bool ``[rows]``, None for all."""

    file: VectorsFile
    live: NDArray[np.bool_] | None
    groups: tuple[int, ...]
    """Where its row groups begin, and the end."""


@dataclass(frozen=True)
class _View:
    """What all parts hold together. It does not change."""

    spec: Spec
    parts: tuple[_Part, ...]
    count: int
    _tables: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Sequence[Path], spec: Spec) -> _View:
        """Read the ids of all parts, and find those that stand twice, by a 64-bit hash and then themselves."""
        files: list[VectorsFile] = []
        hashes: list[NDArray[np.int64]] = []
        gone: dict[str, int] = {}
        for path in paths:
            if path.name.endswith(_DELETED):
                with told(path):
                    gone |= dict.fromkeys(orjson.loads(path.read_bytes()), len(files))
                continue
            file = VectorsFile.open(path)
            files.append(file)
            found = [np.fromiter(map(hash, ids), np.int64, len(ids)) for ids in _ids(file)]
            hashes.append(np.concatenate(found) if found else np.zeros(0, np.int64))
        live = _live(files, hashes, gone)
        parts = tuple(_Part(file, kept, _groups(file)) for file, kept in zip(files, live, strict=True))
        count = sum(int(part.live.sum()) if part.live is not None else part.groups[-1] for part in parts)
        return cls(spec, parts, count)

    def everything(self) -> Iterator[Batch]:
        """All records, with all they have, vectors by name."""
        want = Want(vectors=tuple(vector.name for vector in self.spec.vectors), tokens=True)
        after: str | None = None
        while True:
            page = self.page(2000, after, want, logical=True)
            yield page.batch
            after = page.after
            if after is None:
                return

    def write_to(self, writer: Writer) -> Iterator[int]:
        """Write everything to a file of the same Spec; how many records each step wrote."""
        for part in self.parts:
            with part.file.reading() as opened:
                if not writer.has_columns_of(opened.schema_arrow):  # such as what ``encode`` wrote
                    yield from self._translated(part, writer)
                    continue
                for group, start in enumerate(part.groups[:-1]):
                    rows = opened.read_row_group(group)
                    if part.live is not None:
                        rows = rows.filter(part.live[start : part.groups[group + 1]])
                    writer.write_rows(rows)
                    yield len(rows)

    def _translated(self, part: _Part, writer: Writer) -> Iterator[int]:
        for batch in replace(self, parts=(part,)).everything():
            writer.write(batch)
            yield len(batch)

    def page(self, size: int, after: str | None, want: Want, *, logical: bool = False) -> Page:
        """Records from a cursor, which is a part and a row of it; not beyond a row group."""
        number, row = map(int, after.split(":")) if after else (0, 0)
        while number < len(self.parts) and row >= self.parts[number].groups[-1]:
            number, row = number + 1, 0
        if number == len(self.parts):
            return Page(self._empty(want), None)
        part = self.parts[number]
        group = int(np.searchsorted(part.groups, row, side="right")) - 1
        stop = min(part.groups[group + 1], row + size)
        rows = np.arange(row, stop) if part.live is None else row + np.flatnonzero(part.live[row:stop])
        batch = self._read(part, group, rows - part.groups[group], want, logical=logical)
        more = stop < part.groups[-1] or any(later.groups[-1] for later in self.parts[number + 1 :])
        return Page(batch, f"{number}:{stop}" if more else None)

    def fetch(self, ids: Sequence[str], want: Want) -> Batch:
        """The records of these ids that there are."""
        wanted, found = set(ids), []
        for part in self.parts:
            start = 0
            for group, some in enumerate(_ids(part.file)):
                rows = [i for i, record in enumerate(some) if record in wanted]
                if part.live is not None:
                    rows = [i for i in rows if part.live[start + i]]
                if rows:
                    found.append(self._read(part, group, np.array(rows), want))
                start += len(some)
        return Batch.concat(found) if found else self._empty(want)

    def _read(self, part: _Part, group: int, rows: Any, want: Want, *, logical: bool = False) -> Batch:
        from pixdex._vectors_columns import records

        table = self._table(part, group, want)
        if len(rows) < len(table):
            together = len(rows) and rows[-1] - rows[0] == len(rows) - 1
            table = table.slice(int(rows[0]), len(rows)) if together else table.take(rows)
        with told(part.file.path):
            batch = records(
                table,
                part.file.spec,
                part.file.version,
                vectors=want.vectors,
                payload=want.payload,
                tokens=want.tokens,
            )
        return batch if logical else self._at_port(batch)

    def _table(self, part: _Part, group: int, want: Want) -> Any:
        """A row group, with the columns that are wanted. The last one is kept, as a page is a piece of it."""
        key = (part.file.path, group, want)
        table = self._tables.get(key)
        if table is None:
            with part.file.reading() as opened:
                table = opened.read_row_group(group, columns=part.file.columns(want))
            self._tables.clear()
            self._tables[key] = table
        return table

    def _at_port(self, batch: Batch) -> Batch:
        column = {vector.name: vector.column for vector in self.spec.vectors}
        return replace(
            batch,
            vectors={column[name]: values for name, values in batch.vectors.items()},
            absent={column[name]: mask for name, mask in batch.absent.items()},
        )

    def _empty(self, want: Want) -> Batch:
        vectors = {self.spec.vector(n).column: np.zeros((0, self.spec.vector(n).dim), np.float32) for n in want.vectors}
        return Batch((), vectors, () if want.payload else None, () if want.tokens else None)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Of a file that is written."""
    try:
        yield
    except OSError as error:
        raise StoreFull(f"{path} cannot be written: {error.strerror}") from error


def _live(
    files: Sequence[VectorsFile], hashes: Sequence[NDArray[np.int64]], gone: Mapping[str, int]
) -> list[NDArray[np.bool_] | None]:
    """Of each file, which rows count: the last of each id, if it was not deleted after; None for all."""
    everything = np.concatenate(hashes) if hashes else np.zeros(0, np.int64)
    ordered = np.sort(everything)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    deleted = np.fromiter(map(hash, gone), np.int64, len(gone))
    unusable = np.array([hash(None)], np.int64)
    suspects = np.union1d(np.union1d(twice, deleted), unusable if np.isin(unusable, ordered).any() else deleted)
    live: list[NDArray[np.bool_] | None] = [None] * len(files)
    seen: set[str] = set()
    for number in reversed(range(len(files)) if len(suspects) else ()):
        rows = np.flatnonzero(np.isin(hashes[number], suspects))
        if not len(rows):
            continue
        ids = [record for some in _ids(files[number]) for record in some]
        kept = np.ones(len(ids), dtype=bool)
        for row in rows[::-1]:
            record = ids[row]
            if record is None or record in seen or gone.get(record, -1) > number:
                kept[row] = False
            seen.add(record)
        live[number] = kept if not kept.all() else None
    return live


def _groups(file: VectorsFile) -> tuple[int, ...]:
    with file.reading() as opened:
        sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.metadata.num_row_groups)]
    return tuple(int(n) for n in np.cumsum([0, *sizes]))


def _ids(file: VectorsFile) -> Iterator[list[str | None]]:
    """The ids of each row group; those of pictures that could not be used are None.

    Raises:
        ConfigError: another row has none.
    """
    from pixdex._vectors_columns import OK

    with file.reading() as opened:
        status = ["status"] if "status" in opened.schema_arrow.names else []
        start = 0
        for group in range(opened.metadata.num_row_groups):
            rows = opened.read_row_group(group, columns=["id", *status])
            ids = rows.column("id").to_pylist()
            if rows.column("id").null_count:
                said = rows.column("status").to_pylist() if status else [OK] * len(ids)
                lost = [start + i for i, record in enumerate(ids) if record is None and said[i] == OK]
                if lost:
                    raise ConfigError(
                        f"{file.path}: row {lost[0]}, the first being 0, has no id"
                        f"{f', and so have {len(lost) - 1} more of its row group' if len(lost) > 1 else ''}: "
                        "give it one, or leave it out"
                    )
            yield ids
            start += len(ids)
