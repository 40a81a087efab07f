"""How records lie in Qdrant. Serves every engine: points are whatever has an id, a vector and a payload.

Ours are points whose id is a UUID made of the record's id. Their payload::

_id             the record's id            payload  the record's payload, as JSON text
f0_..., f1_...  typed columns (filters)    tokens   text, when the record has some

Qdrant's reader of numbers is off by the last bit for one float in ten, so that no float of ours is left to it: the
payload is text, and a float column is two integers (``split``). Places are the exception: there it is a nanometre.

Those of another tool stay as they are: their id as text is the record's, and all of the payload is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import orjson

from pixdex import filters
from pixdex.connectors._qdrant_filters import PARTS, part_key, split
from pixdex.connectors._qdrant_ids import foreign_id, point_id
from pixdex.connectors._rows import Row, decode_tokens, encode_tokens, to_hit
from pixdex.errors import StoreError, StoreFormat
from pixdex.spec import Field, Kind, Spec
from pixdex.types import Batch, Hit, Payload, Want

__all__ = ["Records", "checked_ids", "columns", "index_keys", "payload_of", "points", "records", "vectors_of"]


class Records(Protocol):
    """How the records of a collection are coded as points."""

    native: bool

    def point_id(self, record: str) -> int | str | None:
        """The id of a record's point; None where there can be none."""
        ...

    def keys(self, want: Want) -> Any:
        """What to read of a point's payload."""
        ...

    def vectors(self, want: Want) -> Any:
        """What to read of a point's vectors."""
        ...

    def row(self, point: Any, want: Want) -> Row:
        """A point that was read with ``keys`` and ``vectors``."""
        ...

    def hits(self, points: Iterable[Any], want: Want) -> list[Hit]:
        """Points of a search as results, with the engine's scores."""
        ...


_KEYS = {
    (payload, tokens): ["_id", *(["payload"] if payload else []), *(["tokens"] if tokens else [])]
    for payload in (False, True)
    for tokens in (False, True)
}


class _Native:
    """Records that pixdex wrote."""

    native = True

    def point_id(self, record: str) -> int | str | None:
        return point_id(record)

    def keys(self, want: Want) -> Any:
        return _KEYS[want.payload, want.tokens]

    def vectors(self, want: Want) -> Any:
        return list(want.vectors) or False

    def row(self, point: Any, want: Want) -> Row:
        """Raises StoreFormat: another tool wrote the point."""
        stored = point.payload or {}
        record = stored.get("_id")
        if not isinstance(record, str):
            raise StoreFormat(f"point {point.id} was not written by pixdex: its payload has no _id")
        found = point.vector if want.vectors else None  # once: Edge makes lists of numbers at each look
        tokens = decode_tokens(stored.get("tokens", "")) if want.tokens else None
        return Row(record, _loaded(stored), found if isinstance(found, dict) else {}, tokens)

    def hits(self, points: Iterable[Any], want: Want) -> list[Hit]:
        if want.vectors or want.tokens or not want.payload:
            return [to_hit(self.row(point, want), point.score) for point in points]
        hits, load = [], orjson.loads
        for point in points:  # by the shortest way, as there are many
            stored = point.payload  # once: Edge makes a dict of it at each look
            try:
                hits.append(Hit(stored["_id"], point.score, load(stored["payload"])))
            except (KeyError, TypeError):
                hits.append(to_hit(self.row(point, want), point.score))
        return hits


def _loaded(stored: Mapping[str, Any]) -> Payload | None:
    text = stored.get("payload")
    return None if text is None else payload_of(text)


def payload_of(text: str) -> Payload:
    """The payload that a point of ours holds as text."""
    payload: Payload = orjson.loads(text)
    return payload


class _Foreign:
    """Records that another tool wrote; they have no tokens."""

    native = False

    def point_id(self, record: str) -> int | str | None:
        return foreign_id(record)

    def keys(self, want: Want) -> Any:
        return want.payload

    def vectors(self, want: Want) -> Any:
        # The unnamed vector cannot be asked for by name everywhere.
        return True if "" in want.vectors else list(want.vectors) or False

    def row(self, point: Any, want: Want) -> Row:
        stored = point.vector
        vectors = stored if isinstance(stored, dict) else {} if stored is None else {"": stored}
        wanted = {name: vectors[name] for name in want.vectors if name in vectors}
        return Row(str(point.id), (point.payload or {}) if want.payload else None, wanted, None)

    def hits(self, points: Iterable[Any], want: Want) -> list[Hit]:
        return [to_hit(self.row(point, want), point.score) for point in points]


_NATIVE = _Native()
_FOREIGN = _Foreign()


def records(spec: Spec) -> Records:
    """How the records of a collection of that Spec are coded."""
    return _NATIVE if spec.native else _FOREIGN


def index_keys(field: Field) -> list[str]:
    """The payload keys of a field, each of which needs an index."""
    if field.kind not in PARTS:
        return [field.column]
    return [f"{part_key(field)}.{part}" for part in PARTS[field.kind]]


Rows: TypeAlias = Callable[[Any], Iterable[Any]]
"""Makes of a matrix its rows as an engine takes them."""


def points(
    batch: Batch, fields: Sequence[Field], make: Callable[..., Any], *, rows: Rows = np.ndarray.tolist
) -> list[Any]:
    """Records as points, each made by ``make(id=, vector=, payload=)``; a vector that a record lacks is left out."""
    stored = _stored(batch, fields)
    return [
        make(id=point_id(record), vector=vector, payload=payload)
        for record, vector, payload in zip(batch.ids, vectors_of(batch, rows), stored, strict=True)
    ]


def vectors_of(batch: Batch, rows: Rows = np.ndarray.tolist) -> list[dict[str, Any]]:
    """The vectors that each record has, by name."""
    vectors: list[dict[str, Any]] = [{} for _ in batch.ids]
    for name, matrix in batch.vectors.items():
        for row, vector, present in zip(vectors, rows(matrix), batch.present(name), strict=True):
            if present:
                row[name] = vector
    return vectors


def _stored(batch: Batch, fields: Sequence[Field]) -> list[dict[str, Any]]:
    """What the point of each record holds besides vectors; made field by field, which takes half the time."""
    payloads = batch.payloads or ()
    stored: list[dict[str, Any]] = [
        {"_id": record, "payload": orjson.dumps(payload).decode()}
        for record, payload in zip(batch.ids, payloads, strict=True)
    ]
    for field in fields:
        column, whole = field.column, field.kind not in PARTS
        for made, value in zip(stored, filters.stored_column(field, payloads), strict=True):
            if value is not None:
                made[column] = value if whole else _plain(field, value)
    for made, matrix in zip(stored, batch.tokens or (), strict=False):
        if matrix is not None:
            made["tokens"] = encode_tokens(matrix)
    return stored


def columns(payload: Payload, fields: Sequence[Field]) -> dict[str, Any]:
    """The typed columns of those fields that a payload has."""
    values = ((field, filters.stored(field, payload)) for field in fields)
    return {field.column: _plain(field, value) for field, value in values if value is not None}


def _plain(field: Field, value: Any) -> Any:
    if field.kind not in PARTS:
        return value
    pairs = value if field.many else [value]
    if field.kind is Kind.FLOAT:
        pairs = [split(number) for number in pairs]
    objects = [dict(zip(PARTS[field.kind], pair, strict=True)) for pair in pairs]
    return objects if field.many else objects[0]


def checked_ids(asked: Mapping[Any, str], rows: Iterable[tuple[Any, Row]]) -> list[Row]:
    """The rows of points, each of which must be the record that was asked for under its id.

    Raises:
        StoreError: two ids share a point.
    """
    names = {str(point): record for point, record in asked.items()}
    found = []
    for point, row in rows:
        record = names[str(point)]
        if row.id != record:
            raise StoreError(f"ids {row.id!r} and {record!r} share point {point}")
        found.append(row)
    return found
