"""What stands in which column of a file of vectors, and records as columns and back. The format is told in ``vectors_file``.

Imported where pyarrow is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from pixdex import filters
from pixdex.report import Quarantined
from pixdex.spec import Field, Kind, Spec, TokenSpec
from pixdex.types import Batch, Payload, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FIRST_VERSION",
    "OK",
    "field_column",
    "of_records",
    "of_unusable",
    "records",
    "schema",
    "unusable",
    "vector_column",
]

FIRST_VERSION = 1
"""In which there was one vector, ``vector``, and the payload was called ``fields``."""
OK, _UNUSABLE = "ok", "unusable"
_STATUS = ("status", "picture", "reason")
_RESERVED = {"id", "payload", "tokens", "tokens_shape", *_STATUS}

_TYPES: Mapping[Kind, Any] = {
    Kind.TEXT: pa.string(),
    Kind.INT: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.BOOL: pa.bool_(),
    Kind.TIME: pa.timestamp("us", "UTC"),
    Kind.GEO: pa.struct([("lat", pa.float64()), ("lon", pa.float64())]),
}


def vector_column(name: str) -> str:
    """The column of a named vector."""
    return f"vector_{name}"


def field_column(name: str) -> str:
    """The column of a declared field: its name, where that is not taken."""
    return f"field_{name}" if name in _RESERVED or name.startswith(("vector_", "field_")) else name


def schema(spec: Spec, *, unusable: bool) -> Any:
    """The columns of a file; ``unusable``: also of pictures that could not be used."""
    columns = [pa.field("id", pa.string(), nullable=unusable)]
    columns += [pa.field(vector_column(v.name), pa.list_(pa.float32(), v.dim)) for v in spec.vectors]
    columns += [
        pa.field(field_column(f.name), pa.list_(_TYPES[f.kind]) if f.many else _TYPES[f.kind]) for f in spec.fields
    ]
    columns.append(pa.field("payload", pa.string()))
    if spec.tokens is not None:
        columns += [pa.field("tokens", pa.binary()), pa.field("tokens_shape", pa.list_(pa.int32(), 2))]
    if unusable:
        columns += [pa.field("status", pa.string(), nullable=False), pa.field("picture", pa.string())]
        columns.append(pa.field("reason", pa.string()))
    return pa.schema(columns)


# --- writing ---


def of_records(batch: Batch, spec: Spec, columns: Any) -> Any:
    """Records, with vectors by name and payloads as at the port, as rows of these ``columns``."""
    payloads = [{k: v for k, v in p.items() if k != "_rev"} for p in batch.payloads or ({},) * len(batch)]
    made: dict[str, Any] = {"id": batch.ids, "payload": [orjson.dumps(payload).decode() for payload in payloads]}
    for vector in spec.vectors:
        made[vector_column(vector.name)] = _vectors(batch, vector.name, vector.dim)
    for field in spec.fields:
        made[field_column(field.name)] = _values(field, payloads)
    if spec.tokens is not None:
        matrices = batch.tokens or (None,) * len(batch)
        made["tokens"] = [None if matrix is None else matrix.tobytes() for matrix in matrices]
        made["tokens_shape"] = [None if matrix is None else matrix.shape for matrix in matrices]
    if "status" in columns.names:
        made["status"] = [OK] * len(batch)
    return _rows(made, columns, len(batch))


def of_unusable(pictures: Sequence[Quarantined], columns: Any) -> Any:
    """Pictures that could not be used as rows of these ``columns``."""
    made = {
        "picture": [picture.path for picture in pictures],
        "reason": [picture.reason for picture in pictures],
        "status": [_UNUSABLE] * len(pictures),
    }
    return _rows(made, columns, len(pictures))


def _rows(made: Mapping[str, Any], columns: Any, count: int) -> Any:
    arrays = []
    for column in columns:
        values = made.get(column.name)
        if values is None:
            arrays.append(pa.nulls(count, column.type))
        else:
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _vectors(batch: Batch, name: str, dim: int) -> Any:
    present = batch.present(name)
    matrix = batch.vectors.get(name, np.zeros((len(batch), dim), np.float32))
    values = pa.array(np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1))
    mask = None if present.all() else pa.array(~present)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(pa.float32(), dim), mask=mask)


def _values(field: Field, payloads: Sequence[Payload]) -> Any:
    values = filters.stored_column(field, payloads)
    kind = _TYPES[field.kind]
    if field.kind is Kind.GEO:
        values = [None if v is None else [_place(at) for at in v] if field.many else _place(v) for v in values]
    return pa.array(values, pa.list_(kind) if field.many else kind)


def _place(at: tuple[float, float]) -> dict[str, float]:
    return {"lat": at[0], "lon": at[1]}


# --- reading ---


def columns(want: Want, version: int, *, tokens: bool) -> list[str]:
    """The columns that hold what is wanted; ``tokens``: the file has some."""
    first = version == FIRST_VERSION
    named = ["vector" if first else vector_column(name) for name in want.vectors]
    named += ["fields" if first else "payload"] if want.payload else []
    named += (["tokens"] if first else ["tokens", "tokens_shape"]) if want.tokens and tokens else []
    return ["id", *named]


def records(rows: Any, spec: Spec, version: int, *, vectors: Sequence[str], payload: bool, tokens: bool) -> Batch:
    """Rows of usable records as a batch, with what is asked for. Raises ValueError, KeyError for what is not as written."""
    matrices, absent = {}, {}
    for name in vectors:
        column = rows.column("vector" if version == FIRST_VERSION else vector_column(name))
        matrices[name], missing = _matrix(column, spec.vector(name).dim)
        if missing is not None:
            absent[name] = missing
    named = "fields" if version == FIRST_VERSION else "payload"
    payloads = tuple(map(orjson.loads, rows.column(named).to_pylist())) if payload else None
    if set(map(type, payloads or ())) - {dict}:
        raise ValueError("a payload is no JSON object")
    blobs = None
    if tokens and spec.tokens is not None:
        found = rows.column("tokens").to_pylist()
        shapes = [None] * len(found) if version == FIRST_VERSION else rows.column("tokens_shape").to_pylist()
        blobs = tuple(_token_matrix(*pair, spec.tokens) for pair in zip(found, shapes, strict=True))
    return Batch(tuple(rows.column("id").to_pylist()), matrices, payloads, blobs, absent)


def unusable(rows: Any) -> tuple[Any, tuple[Quarantined, ...]]:
    """The rows of usable records, and the other ones."""
    if "status" not in rows.schema.names:
        return rows, ()
    good = np.array([status == OK for status in rows.column("status").to_pylist()], dtype=bool)
    if good.all():
        return rows, ()
    bad = np.flatnonzero(~good).tolist()
    pictures, reasons = rows.column("picture"), rows.column("reason")
    return rows.filter(pa.array(good)), tuple(
        Quarantined(str(pictures[i].as_py()), str(reasons[i].as_py())) for i in bad
    )


def _matrix(column: Any, dim: int) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """``[n, dim]``, and where there is none."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not column.null_count:
        values = column.flatten()
        if values.type == pa.float32() and not values.null_count:  # what ``to_numpy`` gives, but that it imports pandas
            rows = np.frombuffer(values.buffers()[1], np.float32, len(values), values.offset * 4)
        else:
            rows = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        return rows.reshape(len(column), dim), None
    missing = column.is_null().to_numpy(zero_copy_only=False)
    matrix = np.zeros((len(column), dim), np.float32)
    matrix[~missing] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)  # flatten leaves out nulls
    return matrix, missing


def _token_matrix(blob: bytes | None, shape: Sequence[int] | None, tokens: TokenSpec) -> NDArray[Any] | None:
    if blob is None:
        return None
    return np.frombuffer(blob, dtype=tokens.stored_dtype).reshape(tuple(shape) if shape else (-1, tokens.width))
