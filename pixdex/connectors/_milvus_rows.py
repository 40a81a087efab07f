"""How a record lies in Milvus: as a row without nulls.

Names of collections, their schema, rows and back::

id       the record's id                      payload  the record's payload, as JSON text
f0, f1   typed columns (filters)              h0, h1   whether the record has that field
t0, t1   tokens as text, cut to columns       v0, v1   whether it has the first, second vector
image_…  vectors by physical name, zeros where there is none
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from pymilvus import DataType, MilvusClient

from pixdex import filters
from pixdex.connectors._milvus_filters import held
from pixdex.connectors._rows import Row, decode_tokens, encode_tokens
from pixdex.errors import ConfigError, InvalidRecord
from pixdex.types import MAX_ID_BYTES, MAX_TEXT_BYTES, Batch, Field, Kind, Spec, Vector, Want

__all__ = [
    "MAX_ITEMS",
    "MAX_TOKEN_BYTES",
    "MAX_VARCHAR",
    "columns",
    "logical",
    "physical",
    "present",
    "row",
    "rows",
    "schema",
]

MAX_VARCHAR = 65_535
"""Bytes of a text column."""
MAX_ITEMS = 4_096
"""Items of a list."""
_CHUNKS = 8
_HEADER = 64  # room for what is said of tokens before their bytes
MAX_TOKEN_BYTES = (MAX_VARCHAR * _CHUNKS - _HEADER) // 4 * 3
"""Bytes of a token matrix: base64 in eight text columns at most."""

_TYPES: Mapping[Kind, tuple[Any, Any]] = {
    Kind.TEXT: (DataType.VARCHAR, ""),
    Kind.INT: (DataType.INT64, 0),
    Kind.TIME: (DataType.INT64, 0),
    Kind.FLOAT: (DataType.DOUBLE, 0.0),
    Kind.BOOL: (DataType.BOOL, False),
}
"""Column type and what stands in it where the field is absent. Places have none: no filter reads them."""


# --- names: letters, digits and _ are what Milvus allows ---

_CODES = {"-": "_m", ".": "_d", "_": "__"}
_MARK = "px_"


def physical(name: str) -> str:
    """A collection name as Milvus allows it: itself, or with a mark and its odd characters coded.

    Raises:
        ConfigError: it gets too long.
    """
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and not name.startswith(_MARK):
        return name
    coded = _MARK + re.sub(r"[-._]", lambda found: _CODES[found[0]], name)
    if len(coded) > 255:
        raise ConfigError(f"collection name {name!r} is too long for Milvus, which spells it {coded!r}")
    return coded


def logical(name: str) -> str:
    """The name that ``physical`` made this one of."""
    if not name.startswith(_MARK):
        return name
    plain = {code: character for character, code in _CODES.items()}
    return re.sub(r"_[md_]", lambda found: plain[found[0]], name.removeprefix(_MARK))


# --- the schema ---


def schema(spec: Spec) -> Any:
    """The Milvus schema of a collection."""
    made = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    made.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
    made.add_field("payload", DataType.VARCHAR, max_length=MAX_VARCHAR)
    for field in spec.columns:
        made.add_field(held(field), DataType.BOOL)
        if field.kind is not Kind.GEO:
            kind = _TYPES[field.kind][0]
            size = {"max_length": MAX_TEXT_BYTES} if field.kind is Kind.TEXT else {}
            array = {"element_type": kind, "max_capacity": MAX_ITEMS} if field.many else {}
            made.add_field(field.column, DataType.ARRAY if field.many else kind, **array, **size)
    for column in _token_columns(spec):
        made.add_field(column, DataType.VARCHAR, max_length=MAX_VARCHAR)
    for vector in spec.vectors:
        made.add_field(present(spec, vector), DataType.BOOL)
        made.add_field(vector.column, DataType.FLOAT_VECTOR, dim=vector.dim)
    return made


def present(spec: Spec, vector: Vector) -> str:
    """The bool column that says whether a record has the vector."""
    return f"v{spec.vectors.index(vector)}"


def _token_columns(spec: Spec) -> list[str]:
    if spec.tokens is None:
        return []
    characters = -(-spec.tokens.max_bytes // 3) * 4 + _HEADER
    return [f"t{i}" for i in range(-(-characters // MAX_VARCHAR))]


def columns(spec: Spec, vectors: Sequence[Vector], want: Want) -> list[str]:
    """What to read of a row."""
    pairs = [column for vector in vectors for column in (vector.column, present(spec, vector))]
    return ["id", *(["payload"] if want.payload else []), *(_token_columns(spec) if want.tokens else []), *pairs]


# --- rows and back ---


def rows(batch: Batch, spec: Spec) -> list[dict[str, Any]]:
    """Records as rows.

    Raises:
        InvalidRecord: a list is longer than a column holds.
    """
    made: list[dict[str, Any]] = []
    tokens = batch.tokens or (None,) * len(batch)
    for record, payload, matrix in zip(batch.ids, batch.payloads or (), tokens, strict=True):
        cells: dict[str, Any] = {"id": record, "payload": orjson.dumps(payload).decode()}
        for field in spec.columns:
            cells |= _typed(record, field, filters.stored(field, payload))
        text = encode_tokens(matrix)
        for i, column in enumerate(_token_columns(spec)):
            cells[column] = text[i * MAX_VARCHAR : (i + 1) * MAX_VARCHAR]
        made.append(cells)
    for vector in spec.vectors:
        mask, empty = batch.present(vector.column), np.zeros(vector.dim, np.float32)
        for i, cells in enumerate(made):
            cells[present(spec, vector)] = bool(mask[i])
            cells[vector.column] = batch.vectors[vector.column][i] if mask[i] else empty
    return made


def _typed(record: str, field: Field, value: Any) -> dict[str, Any]:
    """The columns of one field."""
    if field.many and value is not None and len(value) > MAX_ITEMS:
        raise InvalidRecord(f"record {record!r}: {field.name!r} has {len(value)} items; Milvus holds {MAX_ITEMS}")
    cells = {held(field): value is not None}
    if field.kind is Kind.GEO:
        return cells
    empty = [] if field.many else _TYPES[field.kind][1]
    return {**cells, field.column: empty if value is None else value}


def row(record: str, cells: Mapping[str, Any], spec: Spec, vectors: Sequence[Vector]) -> Row:
    """What was read of a row with ``columns``."""
    payload = orjson.loads(cells["payload"]) if "payload" in cells else None
    held_vectors = {vector.column: cells[vector.column] for vector in vectors if cells[present(spec, vector)]}
    tokens = decode_tokens("".join(cells.get(column, "") for column in _token_columns(spec)))
    return Row(record, payload, held_vectors, tokens)
