"""What connectors share that read records one by one: rows to a ``Batch`` or a ``Hit``, tokens as text,
and what is checked of a filter before it is compiled.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.errors import Unsupported
from pixdex.filters import And, Filter, Or, check_columns
from pixdex.spec import Spec, Vector
from pixdex.types import Batch, Hit, Payload, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Row",
    "check_depth",
    "current",
    "decode_tokens",
    "encode_tokens",
    "to_batch",
    "to_hit",
    "wanted",
]


@dataclass(frozen=True, slots=True)
class Row:
    """One record as read: what was not asked for is None, a vector that it lacks is left out."""

    id: str
    payload: Payload | None
    vectors: Mapping[str, Any]
    tokens: Any


def wanted(spec: Spec, want: Want) -> Sequence[Vector]:
    """The vectors that ``want`` names."""
    if not want.vectors:
        return ()
    return [spec.physical(column) for column in want.vectors]


def current(where: Filter | None, spec: Spec) -> Filter | None:
    """``where`` itself.

    Raises:
        FingerprintMismatch: it was bound to other columns than those of ``spec``, which the store holds.
    """
    if where is not None:
        check_columns(where, spec)
    return where


def check_depth(where: Filter, store: str, most: int) -> None:
    """Refuse a filter that nests too deep for the recursion of a store.

    Raises:
        Unsupported: more than ``most`` levels.
    """
    depth = _depth(where)
    if depth > most:
        raise Unsupported(f"{store}: a filter nested {depth} deep, it reads {most}: write it flatter, or split it")


def _depth(where: Filter) -> int:
    if isinstance(where, And | Or):
        return 1 + max(map(_depth, where.parts), default=0)
    return 1


def to_batch(rows: Sequence[Row], vectors: Sequence[Vector], want: Want) -> Batch:
    """Rows as columns, with the wanted ``vectors``."""
    absent = {v.column: np.array([v.column not in row.vectors for row in rows], dtype=bool) for v in vectors}
    matrices = {v.column: _matrix(rows, v, absent[v.column]) for v in vectors}
    return Batch(
        tuple(row.id for row in rows),
        matrices,
        tuple(row.payload or {} for row in rows) if want.payload else None,
        tuple(row.tokens for row in rows) if want.tokens else None,
        {column: mask for column, mask in absent.items() if mask.any()},
    )


def _matrix(rows: Sequence[Row], vector: Vector, absent: NDArray[np.bool_]) -> NDArray[np.float32]:
    if len(rows) and not absent.any():
        return np.array([row.vectors[vector.column] for row in rows], np.float32)  # at once, in half the time
    matrix = np.zeros((len(rows), vector.dim), np.float32)
    for row in np.flatnonzero(~absent).tolist():
        matrix[row] = rows[row].vectors[vector.column]
    return matrix


def to_hit(row: Row, score: float) -> Hit:
    """A row as a result."""
    vectors = {column: np.asarray(vector, dtype=np.float32) for column, vector in row.vectors.items()}
    return Hit(row.id, score, row.payload, vectors or None, row.tokens)


def encode_tokens(tokens: Any) -> str:
    """A token matrix as text: dtype, rows, width and base64; the empty text for None."""
    if tokens is None:
        return ""
    data = b2a_base64(tokens.tobytes(), newline=False).decode()
    return f"{_name(tokens.dtype)} {tokens.shape[0]} {tokens.shape[1]} {data}"


def decode_tokens(text: str) -> Any:
    """The tokens of ``encode_tokens``."""
    if not text:
        return None
    dtype, count, dim, data = text.split(" ")
    return np.frombuffer(a2b_base64(data), _dtype(dtype)).reshape(int(count), int(dim))


# numpy takes longer to spell a dtype, and to read one, than all else here takes.
_dtype = lru_cache(maxsize=16)(np.dtype)


@lru_cache(maxsize=16)
def _name(dtype: Any) -> str:
    return str(dtype.name)
