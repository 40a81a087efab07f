"""Encoded pictures in a Parquet file: what one machine encodes, another loads without the encoder.

A row is a picture: ``id``, ``vector`` (float32, fixed width), ``fields`` (JSON: what a record's payload is), ``tokens``
(the bytes of the matrix, row after row), ``status`` (``ok`` or ``unusable``), and of an unusable one ``picture`` and
``reason`` instead. The file's metadata holds the Spec of a collection for it, with the fingerprint of the encoder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import orjson

from pixdex.errors import ConfigError, MissingDependency, StoreFormat
from pixdex.fields import IMAGE
from pixdex.report import Quarantined
from pixdex.types import Batch, Spec, TokenSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SUFFIX", "Part", "VectorsFile", "Writer", "check_installed", "is_vectors"]

SUFFIX = ".parquet"
_VERSION = 1
_OK, _UNUSABLE = "ok", "unusable"
_GROUP_ROWS = 1000
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

    def __init__(self, path: Path, spec: Spec) -> None:
        """For records of that Spec.

        Raises:
            ConfigError: nothing can be written there.
            MissingDependency: pyarrow is not installed.
        """
        parquet = _parquet()
        self._path = path
        self._spec = spec
        self._schema = _schema(spec)
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        self._partial = Path(name)
        try:
            self._file = os.fdopen(handle, "wb")
            self._parquet = parquet.ParquetWriter(
                self._file, self._schema, compression="zstd", use_dictionary=["status", "reason"]
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
            self._parquet.close()
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def write(self, batch: Batch) -> None:
        """Records with their vectors under the name ``image``; payloads are JSON values."""
        vectors = np.asarray(batch.vectors[IMAGE], dtype=np.float32)
        tokens = batch.tokens or (None,) * len(batch)
        payloads = batch.payloads or ({},) * len(batch)
        for record, vector, payload, matrix in zip(batch.ids, vectors, payloads, tokens, strict=True):
            fields = {key: value for key, value in payload.items() if key != "_rev"}
            row = {"id": record, "vector": vector, "fields": orjson.dumps(fields).decode(), "status": _OK}
            if self._spec.tokens is not None and matrix is not None:
                row["tokens"] = np.ascontiguousarray(matrix).tobytes()
            self._add(row, vector.nbytes + len(row["fields"]) + len(row.get("tokens", b"")))

    def write_unusable(self, pictures: Sequence[Quarantined]) -> None:
        """Pictures that have no vector, and why."""
        for picture in pictures:
            self._add({"picture": picture.path, "reason": picture.reason, "status": _UNUSABLE}, 0)

    def _add(self, row: dict[str, Any], size: int) -> None:
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        columns = {name: [row.get(name) for row in self._rows] for name in self._schema.names}
        arrays = [
            _vectors_column(column, self._schema.field(name).type)
            if name == "vector"
            else pa.array(column, self._schema.field(name).type)
            for name, column in columns.items()
        ]
        self._parquet.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0

    def finish(self) -> None:
        """Write what is left, and put the file in its place."""
        if self._rows:
            self._write_group()
        spec = self._spec
        vector = spec.vector(IMAGE)
        self._parquet.add_key_value_metadata(
            {
                "pixdex.version": str(_VERSION),
                "pixdex.spec": spec.to_json(),
                "pixdex.encoder": spec.encoder or vector.fingerprint.encoder,
                "pixdex.fingerprint": vector.fingerprint.digest,
            }
        )
        self._parquet.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.chmod(0o666 & ~_umask())
        self._partial.replace(self._path)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _schema(spec: Spec) -> Any:
    import pyarrow as pa

    columns = [
        pa.field("id", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), spec.vector(IMAGE).dim)),
        pa.field("fields", pa.string()),
        *([pa.field("tokens", pa.binary())] if spec.tokens is not None else []),
        pa.field("status", pa.string(), nullable=False),
        pa.field("picture", pa.string()),
        pa.field("reason", pa.string()),
    ]
    return pa.schema(columns)


def _vectors_column(vectors: Sequence[NDArray[np.float32] | None], kind: Any) -> Any:
    import pyarrow as pa

    dim = kind.list_size
    absent = np.array([vector is None for vector in vectors])
    rows = [np.zeros(dim, np.float32) if vector is None else vector for vector in vectors]
    values = pa.array(np.concatenate(rows) if rows else np.zeros(0, np.float32))
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(absent))


# --- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VectorsFile:
    """A file that ``Writer`` wrote.

    Attributes:
        spec: of a collection for it.
        count: of its rows.
    """

    path: Path
    spec: Spec
    count: int

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
            raise ConfigError(f"{path} holds no vectors that pixdex encode wrote")
        if int(version) > _VERSION:
            raise ConfigError(f"{path} was written by a newer pixdex: pip install -U pixdex")
        try:
            spec = Spec.from_json(found[b"pixdex.spec"])
            spec.vector(IMAGE)
        except (KeyError, StoreFormat) as error:
            raise ConfigError(f"{path}: {error}") from error
        return cls(path, spec, _parquet().read_metadata(path).num_rows)

    def parts(self, size: int = 500) -> Iterator[Part]:
        """Its rows, at most ``size`` at a time.

        Raises:
            ConfigError: the file is damaged.
        """
        import pyarrow as pa

        vector, tokens = self.spec.vector(IMAGE), self.spec.tokens
        try:
            with _parquet().ParquetFile(self.path) as file:
                for rows in file.iter_batches(batch_size=size):
                    yield _part(rows, vector.dim, tokens)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path} is damaged: {error}") from error


def _part(rows: Any, dim: int, tokens: TokenSpec | None) -> Part:
    """Records and unusable pictures of some rows. Raises ValueError, KeyError for what is not as it was written."""
    columns = {name: rows.column(name) for name in rows.schema.names}
    good = np.array([status == _OK for status in columns["status"].to_pylist()], dtype=bool)
    bad = np.flatnonzero(~good).tolist()
    unusable = tuple(
        Quarantined(str(columns["picture"][row].as_py()), str(columns["reason"][row].as_py())) for row in bad
    )
    kept = rows.filter(columns["status"].to_numpy(zero_copy_only=False) == _OK)
    vectors = kept.column("vector")
    if vectors.null_count:
        raise ValueError("a usable picture without a vector")
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(kept), dim)
    payloads = tuple(orjson.loads(text) for text in kept.column("fields").to_pylist())
    blobs = None if tokens is None else kept.column("tokens").to_pylist()
    matrices = None if blobs is None or tokens is None else tuple(_matrix(blob, tokens) for blob in blobs)
    return Part(Batch(tuple(kept.column("id").to_pylist()), {IMAGE: matrix}, payloads, matrices), unusable)


def _matrix(blob: bytes | None, tokens: TokenSpec) -> NDArray[Any] | None:
    return None if blob is None else np.frombuffer(blob, dtype=tokens.stored_dtype).reshape(-1, tokens.width)
