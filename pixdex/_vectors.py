"""Vectors and tokens that may be written or searched with: checked, normalized, rounded.

Everything here raises InvalidRecord that names the record and the remedy. Apart from ``_records``, so that numpy is
loaded by the first call that touches vectors and not by an import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.errors import InvalidRecord
from pixdex.spec import Metric, TokenSpec, Vector
from pixdex.types import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["as_array", "checked_query", "checked_tokens", "checked_vectors"]

_FLOAT32 = np.dtype(np.float32)
_ROUNDING = 2.0**-22
"""How far the square of a normalized float32 vector may be from 1: dividing again would not bring it closer."""


def checked_query(values: Any, vector: Vector) -> NDArray[np.float32]:
    """One query ``[dim]`` as float32 ``[1, dim]``: finite, of the right width, normalized for cosine."""
    array = values if isinstance(values, np.ndarray) else as_array(values, "a query")
    if array.ndim != 1:
        raise InvalidRecord(f"one query is [dim], got an array of shape {array.shape}: use search for several")
    if len(array) != vector.dim:
        raise _width(vector, array)
    narrow = array if array.dtype == _FLOAT32 else _as_float32(as_array(array, "a query"))[0]
    wide = narrow.astype(np.float64)
    square = float(wide.dot(wide))
    if not math.isfinite(square):
        raise InvalidRecord(f"query 0: vector {vector.name!r} holds NaN or infinity")
    if vector.metric is Metric.COSINE:
        if square == 0.0:
            raise InvalidRecord(f"query 0: vector {vector.name!r} is zero, which has no cosine")
        if abs(square - 1.0) > _ROUNDING:
            narrow = (wide / math.sqrt(square)).astype(np.float32)
    return narrow[None]


def checked_vectors(
    values: Any, vector: Vector, *, ids: Sequence[str] | None = None, present: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """float32 ``[n, dim]``: finite, of the right width, normalized for cosine, rounded to the declared dtype.

    ``ids`` names the rows in errors (None: queries); rows that are not ``present`` become zeros.
    """
    array = as_array(values, f"vector {vector.name!r}")
    matrix = _as_float32(array)  # a copy: the caller's array stays as it is
    if matrix.ndim != 2 or matrix.shape[1] != vector.dim:
        raise _width(vector, array)
    if ids is not None and len(matrix) != len(ids):  # [dim] given where [n, dim] is meant
        raise InvalidRecord(f"{len(ids)} ids but {len(matrix)} rows of vector {vector.name!r}")
    if present is not None and not present.all():
        matrix[~present] = 0.0
    # In float64: squares of tiny or huge float32 values neither vanish nor overflow, so that a sum of them is finite
    # exactly where every value is.
    wide = matrix.astype(np.float64)
    squares = np.einsum("ij,ij->i", wide, wide)
    _refuse_rows(~np.isfinite(squares), f"vector {vector.name!r} holds NaN or infinity", ids)
    if vector.metric is Metric.COSINE:
        zero = squares == 0.0
        needed = zero if present is None else zero & present
        _refuse_rows(needed, f"vector {vector.name!r} is zero, which has no cosine", ids)
        squares[zero] = 1.0
        far = np.abs(squares - 1.0) > _ROUNDING  # row by row: what is stored must not depend on who else is in a batch
        if far.any():
            matrix[far] = wide[far] / np.sqrt(squares[far])[:, None]
    if vector.dtype == "float16" and ids is not None:
        with np.errstate(over="ignore"):
            matrix = matrix.astype(np.float16).astype(np.float32)
        _refuse_rows(~np.isfinite(matrix).all(axis=1), f"vector {vector.name!r} overflows float16", ids)
    return matrix


def _width(vector: Vector, array: NDArray[Any]) -> InvalidRecord:
    return InvalidRecord(f"vector {vector.name!r} has {vector.dim} dimensions, got an array of shape {array.shape}")


def _as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """A copy, at least 2-D."""
    if array.dtype == np.float32:
        return np.array(array, ndmin=2)
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused
        return np.array(array, dtype=np.float32, ndmin=2)


def as_array(values: Any, what: str) -> NDArray[Any]:
    """``values`` as an array of real numbers.

    Raises:
        InvalidRecord: it is ragged, text or complex; ``what`` names it.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidRecord(f"{what} is no array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InvalidRecord(f"{what} is no array of numbers: its dtype is {array.dtype}")
    return array


def _refuse_rows(bad: Any, message: str, ids: Sequence[str] | None) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidRecord(f"record {ids[row]!r}: {message}" if ids is not None else f"query {row}: {message}")


def checked_tokens(batch: Batch, spec: TokenSpec | None) -> tuple[NDArray[Any] | None, ...] | None:
    """The token matrices as ports take them; None where no record has any."""
    if batch.tokens is None or all(matrix is None for matrix in batch.tokens):
        return None
    if spec is None:
        raise InvalidRecord("this collection keeps no tokens: create it with a TokenSpec")
    return tuple(
        None if matrix is None else _token_matrix(record, matrix, spec)
        for record, matrix in zip(batch.ids, batch.tokens, strict=True)
    )


def _token_matrix(record: str, matrix: Any, spec: TokenSpec) -> NDArray[Any]:
    array = as_array(matrix, f"record {record!r}: the token matrix")
    if array.ndim != 2 or array.shape[1] != spec.width or not 1 <= array.shape[0] <= spec.count:
        raise InvalidRecord(
            f"record {record!r}: tokens are [1..{spec.count}, {spec.width}], got an array of shape {array.shape}"
        )
    if array.dtype != np.dtype(spec.stored_dtype):
        raise InvalidRecord(f"record {record!r}: tokens are {spec.stored_dtype}, got {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRecord(f"record {record!r}: tokens hold NaN or infinity")
    return np.array(array, order="C")
