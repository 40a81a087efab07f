"""What connectors share that read records one by one: rows to a ``Batch`` or a ``Hit``, tokens as text,
and what is checked of a filter before it is compiled.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixdex.errors import Unsupported
from pixdex.filters import And, Filter, Or, check_columns
from pixdex.types import Batch, Hit, Payload, Spec, Vector, Want

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
    matrices = {vector.column: np.zeros((len(rows), vector.dim), np.float32) for vector in vectors}
    absent = {column: np.array([column not in row.vectors for row in rows], dtype=bool) for column in matrices}
    for column, matrix in matrices.items():
        for filled, row in zip(matrix, rows, strict=True):
            if column in row.vectors:
                filled[:] = row.vectors[column]
    return Batch(
        tuple(row.id for row in rows),
        matrices,
        tuple(row.payload or {} for row in rows) if want.payload else None,
        tuple(row.tokens for row in rows) if want.tokens else None,
        {column: mask for column, mask in absent.items() if mask.any()},
    )


def to_hit(row: Row, score: float) -> Hit:
    """A row as a result."""
    vectors = {column: np.asarray(vector, dtype=np.float32) for column, vector in row.vectors.items()}
    return Hit(row.id, score, row.payload, vectors or None, row.tokens)


def encode_tokens(tokens: Any) -> str:
    """A token matrix as text: dtype, rows, width and base64; the empty text for None."""
    if tokens is None:
        return ""
    data = base64.b64encode(np.ascontiguousarray(tokens).tobytes()).decode()
    return f"{tokens.dtype.name} {tokens.shape[0]} {tokens.shape[1]} {data}"


def decode_tokens(text: str) -> Any:
    """The tokens of ``encode_tokens``."""
    if not text:
        return None
    dtype, count, dim, data = text.split(" ")
    return np.frombuffer(base64.b64decode(data), dtype=dtype).reshape(int(count), int(dim))
