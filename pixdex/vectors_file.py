"""Records in a Parquet file: what one machine encodes, another loads without the encoder; a collection to take away.

A row is a record, and these are its columns::

id              text                        payload         JSON: all of the payload
vector_<name>   float32, fixed width, for   tokens          the bytes of the matrix, row after row
                each named vector; null     tokens_shape    its rows and columns
                where there is none         <field>         each declared field, typed: for queries, what
                                                            counts is in ``payload``

A field whose name is taken, or begins with ``vector_`` or ``field_``, is called ``field_<name>``. A file that ``encode``
wrote has also ``status`` (``ok`` or ``unusable``), and of an unusable picture ``picture`` and ``reason`` instead. The file's
metadata holds the version of all this, the Spec of a collection for it and, by that, the fingerprint of the encoder. The
first version, which had ``vector`` and ``fields`` instead of ``vector_image`` and ``payload``, is read too.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pixdex.errors import ConfigError, MissingDependency, PixdexError, StoreFormat, StoreFull
from pixdex.fields import IMAGE
from pixdex.report import Quarantined
from pixdex.spec import Fingerprint, Spec
from pixdex.types import Batch, Want

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SUFFIX", "Part", "VectorsFile", "Writer", "check_installed", "is_vectors", "told"]

SUFFIX = ".parquet"
_VERSION = 2
_GROUP_ROWS = 20_000
_GROUP_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a file: records with their vectors, and the pictures that could not be used."""

    batch: Batch
    unusable: tuple[Quarantined, ...] = ()


def is_vectors(path: Path) -> bool:
    """Whether a file is one that ``Writer`` wrote.

    Raises:
        MissingDependency: a Parquet file needs pyarrow to be looked at.
    """
    return path.suffix.lower() == SUFFIX and b"pixdex.version" in _metadata(path)


def _metadata(path: Path) -> dict[bytes, bytes]:
    parquet = _parquet()
    try:
        if not path.is_file():  # reading a pipe would wait for who writes
            return {}
        return parquet.read_metadata(path).metadata or {}
    except (OSError, ValueError):  # not there, or not Parquet: ArrowInvalid is a ValueError
        return {}


def check_installed() -> None:
    """Raises MissingDependency for what files of vectors need."""
    _parquet()


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingDependency("pyarrow", "parquet") from None
    return pyarrow.parquet


# --- writing ---------------------------------------------------------------------------------------------------------


class Writer:
    """Writes a file, which is there under its name only when it is whole. A context: leaving it by an exception, or
    before ``finish``, leaves what was there before.
    """

    def __init__(self, path: Path, spec: Spec, *, unusable: bool = True, compression: str = "zstd") -> None:
        """For records of that Spec, and for pictures that could not be used, where it may hold those.

        Raises:
            ConfigError: nothing can be written there.
            MissingDependency: pyarrow is not installed.
        """
        parquet = _parquet()
        from pixdex._vectors_columns import schema

        self._path = path
        self._spec = spec
        self._schema = schema(spec, unusable=unusable)
        self._waiting: list[pa.RecordBatch] = []
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        self._partial = Path(name)
        try:
            self._file = os.fdopen(handle, "wb")
            self._parquet = parquet.ParquetWriter(
                self._file, self._schema, compression=compression, use_dictionary=_repeating(self._schema)
            )
        except BaseException:  # stopped before there is something to close
            self._partial.unlink(missing_ok=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is not finished."""
        if not self._file.closed:
            with suppress(OSError):  # a full disk, which has been told
                self._parquet.close()
            with suppress(OSError):
                self._file.close()
        self._partial.unlink(missing_ok=True)

    def write(self, batch: Batch) -> None:
        """Records; vectors by name, payloads JSON values.

        Raises:
            StoreFull: no space left.
            ConfigError: it cannot be written.
        """
        from pixdex._vectors_columns import of_records

        if len(batch):
            self._add(of_records(batch, self._spec, self._schema))

    def write_rows(self, rows: pa.Table) -> None:
        """Rows that have just the columns of this file, as another such file holds them."""
        import pyarrow as pa

        for batch in rows.to_batches():
            if len(batch):
                self._add(pa.RecordBatch.from_arrays(batch.columns, schema=self._schema))

    def has_columns_of(self, schema: pa.Schema) -> bool:
        """Whether rows of a file of that schema can be written as they are."""
        return bool(self._schema.equals(schema))

    def write_unusable(self, pictures: Sequence[Quarantined]) -> None:
        """Pictures that have no vector, and why."""
        from pixdex._vectors_columns import of_unusable

        if pictures:
            self._add(of_unusable(pictures, self._schema))

    def _add(self, rows: pa.RecordBatch) -> None:
        self._waiting.append(rows)
        if (
            sum(len(batch) for batch in self._waiting) >= _GROUP_ROWS
            or sum(batch.nbytes for batch in self._waiting) >= _GROUP_BYTES
        ):
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        with _room(self._path):
            self._parquet.write_table(
                pa.Table.from_batches(self._waiting, self._schema), row_group_size=2 * _GROUP_ROWS
            )
        self._waiting = []

    def finish(self) -> None:
        """Write what is left, and put the file in its place."""
        if self._waiting:
            self._write_group()
        spec = self._spec
        vector = next((v for v in spec.vectors if v.name == IMAGE), spec.vectors[0])
        with _room(self._path):
            self._close(spec, vector.fingerprint)
            self._partial.chmod(0o666 & ~_umask())
            self._partial.replace(self._path)

    def _close(self, spec: Spec, fingerprint: Fingerprint) -> None:
        self._parquet.add_key_value_metadata(
            {
                "pixdex.version": str(_VERSION),
                "pixdex.spec": spec.to_json(),
                "pixdex.encoder": spec.encoder or fingerprint.encoder,
                "pixdex.fingerprint": fingerprint.digest,
            }
        )
        self._parquet.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


@contextmanager
def _room(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull(f"no space left for {path}: free some space, and do it again") from error
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def _repeating(columns: pa.Schema) -> list[str]:
    """The columns in which values come again and again: all but those that are long, or of each record their own."""
    own = ("id", "payload", "picture", "tokens", "tokens_shape", "vector_")
    return [name for name in columns.names if not name.startswith(own)]


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


# --- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VectorsFile:
    """A file that ``Writer`` wrote.

    Attributes:
        spec: of a collection for it.
        count: of its rows.
        version: of the format.
    """

    path: Path
    spec: Spec
    count: int
    version: int = _VERSION

    @classmethod
    def open(cls, path: Path) -> VectorsFile:
        """Read what the file says of itself.

        Raises:
            ConfigError: it is none, or a newer pixdex wrote it.
            MissingDependency: pyarrow is not installed.
        """
        found = _metadata(path)
        version = found.get(b"pixdex.version", b"")
        if not version.isdigit():
            raise ConfigError(f"{path} holds no vectors that pixdex wrote")
        if int(version) > _VERSION:
            raise ConfigError(f"{path} was written by a newer pixdex: pip install -U pixdex")
        try:
            spec = Spec.from_json(found[b"pixdex.spec"])
        except (KeyError, StoreFormat) as error:
            raise ConfigError(f"{path}: {error}") from error
        return cls(path, spec, _parquet().read_metadata(path).num_rows, int(version))

    def parts(self, size: int = 500) -> Iterator[Part]:
        """Its rows, at most ``size`` at a time.

        Raises:
            ConfigError: the file is damaged.
        """
        with self.reading() as file:
            for rows in file.iter_batches(batch_size=size):
                yield self.part(rows)

    def part(self, rows: pa.RecordBatch | pa.Table) -> Part:
        """Rows of the file, with all their columns, as records and unusable pictures."""
        from pixdex._vectors_columns import records, unusable

        names = [vector.name for vector in self.spec.vectors]
        kept, bad = unusable(rows)
        return Part(records(kept, self.spec, self.version, vectors=names, payload=True, tokens=True), bad)

    def columns(self, want: Want) -> list[str]:
        """The columns that hold what is wanted of records; vectors by name."""
        from pixdex._vectors_columns import columns

        return columns(want, self.version, tokens=self.spec.tokens is not None)

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """The file, open.

        Raises:
            ConfigError: it is damaged.
        """
        with told(self.path), _parquet().ParquetFile(self.path) as file:
            yield file


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What is not as it was written in the file ``path`` is told as of a damaged one.

    Raises:
        ConfigError: it is damaged.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, PixdexError):
            raise
        raise ConfigError(f"{path} is damaged: {error}") from error
