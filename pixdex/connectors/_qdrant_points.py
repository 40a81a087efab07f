"""How a record lies in Qdrant: as a point whose id is a UUID made of the record's id.

Its payload::

_id      the record's id          payload  the record's payload, as it is
f0, f1   typed columns (filters)  tokens   text, when the record has some
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qdrant_client import models

from pixdex import filters
from pixdex.connectors._qdrant_filters import point_id
from pixdex.connectors._rows import Row, decode_tokens, encode_tokens
from pixdex.errors import StoreFormat
from pixdex.types import Batch, Field, Kind, Metric, Payload, Vector, Want

__all__ = ["columns", "indexes", "keys", "params", "points", "row"]

_DISTANCES = {
    Metric.COSINE: models.Distance.COSINE,
    Metric.DOT: models.Distance.DOT,
    Metric.L2: models.Distance.EUCLID,
}
_INDEXES = {
    Kind.TEXT: models.PayloadSchemaType.KEYWORD,
    Kind.INT: models.PayloadSchemaType.INTEGER,
    Kind.TIME: models.PayloadSchemaType.INTEGER,
    Kind.FLOAT: models.PayloadSchemaType.FLOAT,
    Kind.BOOL: models.PayloadSchemaType.BOOL,
}


def params(vector: Vector) -> models.VectorParams:
    """What Qdrant is told of a vector."""
    datatype = models.Datatype.FLOAT16 if vector.dtype == "float16" else None
    return models.VectorParams(size=vector.dim, distance=_DISTANCES[vector.metric], datatype=datatype)


def indexes(field: Field) -> list[tuple[str, models.PayloadSchemaType]]:
    """The payload keys of a field, with the index each needs."""
    if field.kind is not Kind.GEO:
        return [(field.column, _INDEXES[field.kind])]
    place = f"{field.column}[]" if field.many else field.column
    return [(f"{place}.{part}", models.PayloadSchemaType.FLOAT) for part in ("lat", "lon")]


def points(batch: Batch, fields: Sequence[Field]) -> list[models.PointStruct]:
    """Records as points; a vector that a record lacks is left out."""
    vectors: list[dict[str, Any]] = [{} for _ in batch.ids]
    for name, matrix in batch.vectors.items():
        for row, vector, present in zip(vectors, matrix.tolist(), batch.present(name), strict=True):
            if present:
                row[name] = vector
    tokens = batch.tokens or (None,) * len(batch)
    return [
        models.PointStruct(id=point_id(record), vector=vector, payload=_stored(record, payload, matrix, fields))
        for record, vector, payload, matrix in zip(batch.ids, vectors, batch.payloads or (), tokens, strict=True)
    ]


def _stored(record: str, payload: Payload, tokens: Any, fields: Sequence[Field]) -> dict[str, Any]:
    stored = {"_id": record, "payload": payload, **columns(payload, fields)}
    return stored if tokens is None else {**stored, "tokens": encode_tokens(tokens)}


def columns(payload: Payload, fields: Sequence[Field]) -> dict[str, Any]:
    """The typed columns of those fields that a payload has."""
    values = {field: filters.stored(field, payload) for field in fields}
    return {field.column: _plain(field, value) for field, value in values.items() if value is not None}


def _plain(field: Field, value: Any) -> Any:
    if field.kind is not Kind.GEO:
        return value
    places = [{"lat": lat, "lon": lon} for lat, lon in (value if field.many else [value])]
    return places if field.many else places[0]


def keys(want: Want) -> list[str]:
    """What to read of a point's payload."""
    return ["_id", *(["payload"] if want.payload else []), *(["tokens"] if want.tokens else [])]


def row(point: models.Record | models.ScoredPoint) -> Row:
    """A point that was read with ``keys``.

    Raises:
        StoreFormat: another tool wrote it.
    """
    stored = point.payload or {}
    if not isinstance(stored.get("_id"), str):
        raise StoreFormat(f"point {point.id} was not written by pixdex: its payload has no _id")
    vectors = point.vector if isinstance(point.vector, dict) else {}
    return Row(stored["_id"], stored.get("payload"), vectors, decode_tokens(stored.get("tokens", "")))
