"""How a record lies in Milvus: as a row without nulls.

Names of collections, their schema, rows and back::

id             the record's id                  payload        the record's payload, as JSON text
f0_…, f1_…     typed columns (filters)          h0_…, h1_…     whether the record has that field
f2_…_lat, _lon a field of one place             v0, v1         whether it has the first, second vector
t0, t1         tokens as text, cut to columns   image_…        vectors by physical name, zeros where there is none

Another tool's rows are read as they are: see ``Table``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import orjson
from pymilvus import DataType, MilvusClient

from pixdex import filters
from pixdex.connectors._milvus_filters import Key, held, key_of, place
from pixdex.connectors._rows import Row, decode_tokens, encode_tokens, to_hit
from pixdex.errors import ConfigError, InvalidRecord
from pixdex.spec import Field, Kind, Spec, Vector
from pixdex.types import MAX_ID_BYTES, MAX_TEXT_BYTES, Batch, Hit, Want

__all__ = ["MAX_ITEMS", "MAX_TOKEN_BYTES", "MAX_VARCHAR", "Layout", "Table", "logical", "physical", "schema"]

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
"""Column type and what stands in it where the field is absent. A place has two of doubles, a list of places none."""


# --- names: letters, digits and _ are what Milvus allows ---

_CODES = {"-": "_m", ".": "_d", "_": "__"}
_MARK = "px_"


@lru_cache(maxsize=256)
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
    for declared in spec.columns:
        made.add_field(held(declared), DataType.BOOL)
        if declared.kind is Kind.GEO:
            for column in () if declared.many else place(declared):
                made.add_field(column, DataType.DOUBLE)
        else:
            kind = _TYPES[declared.kind][0]
            size = {"max_length": MAX_TEXT_BYTES} if declared.kind is Kind.TEXT else {}
            array = {"element_type": kind, "max_capacity": MAX_ITEMS} if declared.many else {}
            made.add_field(declared.column, DataType.ARRAY if declared.many else kind, **array, **size)
    for column in _token_columns(spec):
        made.add_field(column, DataType.VARCHAR, max_length=MAX_VARCHAR)
    for number, vector in enumerate(spec.vectors):
        made.add_field(f"v{number}", DataType.BOOL)
        made.add_field(vector.column, DataType.FLOAT_VECTOR, dim=vector.dim)
    return made


def _token_columns(spec: Spec) -> list[str]:
    if spec.tokens is None:
        return []
    characters = -(-spec.tokens.max_bytes // 3) * 4 + _HEADER
    return [f"t{i}" for i in range(-(-characters // MAX_VARCHAR))]


# --- rows and back ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What the store says of a collection.

    Attributes:
        indexes: column of a vector -> type of its index.
        scalars: the columns besides key and vectors.
        dynamic: rows may have more keys than there are columns.
    """

    indexes: Mapping[str, str] = field(default_factory=dict)
    scalars: tuple[str, ...] = ()
    dynamic: bool = False


@dataclass(frozen=True)
class Layout:
    """How the records of one collection lie. Made once per Spec: what follows from it is kept."""

    spec: Spec
    table: Table

    @cached_property
    def key(self) -> Key:
        """The id column."""
        return key_of(self.spec)

    @cached_property
    def _tokens(self) -> list[str]:
        return _token_columns(self.spec) if self.spec.native else []

    @cached_property
    def _present(self) -> Mapping[str, str]:
        """Column of a vector -> the bool column that says whether a record has it; another tool's have none."""
        return {v.column: f"v{i}" for i, v in enumerate(self.spec.vectors)} if self.spec.native else {}

    @cached_property
    def _payload(self) -> list[str]:
        if self.spec.native:
            return ["payload"]
        return [*self.table.scalars, *(["$meta"] if self.table.dynamic else [])]

    @cached_property
    def _plain_columns(self) -> tuple[list[str], list[str]]:
        """Without and with the payload."""
        return [self.key.column], [self.key.column, *self._payload]

    @cached_property
    def holding(self) -> Mapping[str, str]:
        """Column of a vector -> the expression that holds where a record has it. Empty where every record has all."""
        return {column: f"{present} == true" for column, present in self._present.items()}

    def columns(self, vectors: Sequence[Vector], want: Want) -> list[str]:
        """What to read of a row."""
        if not vectors and not want.tokens:
            return self._plain_columns[want.payload]
        pairs = [c for v in vectors for c in (v.column, self._present.get(v.column)) if c is not None]
        return [
            self.key.column,
            *(self._payload if want.payload else []),
            *(self._tokens if want.tokens else []),
            *pairs,
        ]

    def cells(self, batch: Batch) -> dict[str, Sequence[Any]]:
        """Records as columns: a value, or a view of a vector, for each record.

        Raises:
            InvalidRecord: a list is longer than a column holds.
            FingerprintMismatch: there is no such vector.
        """
        for column in batch.vectors:
            self.spec.physical(column)
        payloads = batch.payloads or ()
        table: dict[str, Sequence[Any]] = {
            "id": list(batch.ids),
            "payload": [orjson.dumps(payload).decode() for payload in payloads],
        }
        for declared in self.spec.columns:
            values = filters.stored_column(declared, payloads)
            _check_lengths(declared, batch.ids, values)
            table[held(declared)] = [value is not None for value in values]
            table |= _cells(declared, values)
        if self._tokens:
            matrices = [encode_tokens(matrix) for matrix in batch.tokens or (None,) * len(batch)]
            for i, column in enumerate(self._tokens):
                table[column] = [text[i * MAX_VARCHAR : (i + 1) * MAX_VARCHAR] for text in matrices]
        for vector in self.spec.vectors:
            present = batch.present(vector.column)
            matrix: Any = batch.vectors.get(vector.column, np.zeros((len(batch), vector.dim), np.float32))
            if not present.all():
                matrix = np.where(present[:, None], matrix, np.float32(0))
            table[self._present[vector.column]] = present.tolist()
            table[vector.column] = [memoryview(row) for row in np.ascontiguousarray(matrix, np.float32)]
        return table

    @cached_property
    def fields(self) -> list[dict[str, Any]]:
        """The columns of a collection of ours as the client describes them."""
        found: list[dict[str, Any]] = schema(self.spec).to_dict()["fields"]
        return found

    def hits(
        self, answer: Any, sign: float, vectors: Sequence[Vector], want: Want, trace: dict[str, float]
    ) -> list[Hit]:
        """The results of one query; ``sign`` makes a similarity of what Milvus calls a distance."""
        key = self.key.column
        if self.spec.native and not vectors and not want.tokens:  # the usual case, by the shortest way
            loads = orjson.loads
            if not want.payload:
                return [Hit(hit["id"], sign * hit["distance"], trace=trace) for hit in answer]
            return [
                Hit(hit["id"], sign * hit["distance"], loads(hit["entity"]["payload"]), trace=trace) for hit in answer
            ]
        found = []
        for hit in answer:
            record = hit["id"] if "id" in hit else hit[key]  # Lite keeps the name of the key
            made = to_hit(self.row({**hit["entity"], key: record}, vectors, want), sign * hit["distance"])
            found.append(replace(made, trace=trace) if trace else made)
        return found

    def row(self, cells: Mapping[str, Any], vectors: Sequence[Vector], want: Want) -> Row:
        """What was read of a row with ``columns``."""
        record = cells[self.key.column]
        if not self.spec.native:
            found = {vector.column: cells[vector.column] for vector in vectors if cells.get(vector.column) is not None}
            return Row(str(record), self._theirs(cells) if want.payload else None, found, None)
        payload = orjson.loads(cells["payload"]) if want.payload else None
        found = {vector.column: cells[vector.column] for vector in vectors if cells[self._present[vector.column]]}
        tokens = decode_tokens("".join(cells.get(column, "") for column in self._tokens)) if want.tokens else None
        return Row(record, payload, found, tokens)

    def _theirs(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """All that another tool stored besides key and vectors; what is null is left out."""
        skipped = {self.key.column, "$meta", *self._vectors}
        payload = {name: _plain(value) for name, value in cells.items() if name not in skipped and value is not None}
        dynamic = cells.get("$meta")
        return {**payload, **_plain(dynamic)} if isinstance(dynamic, Mapping) else payload

    @cached_property
    def _vectors(self) -> frozenset[str]:
        return frozenset(vector.column for vector in self.spec.vectors) | frozenset(self.table.indexes)


def _cells(declared: Field, values: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """The typed columns of a field, with what stands in them where it is absent."""
    if declared.kind is not Kind.GEO:
        empty: Any = [] if declared.many else _TYPES[declared.kind][1]
        return {declared.column: [empty if value is None else value for value in values]}
    if declared.many:
        return {}
    lat, lon = place(declared)
    places = [value or (0.0, 0.0) for value in values]
    return {lat: [float(at[0]) for at in places], lon: [float(at[1]) for at in places]}


def _check_lengths(declared: Field, ids: Sequence[str], values: Sequence[Any]) -> None:
    for record, value in zip(ids, values, strict=True) if declared.many else ():
        if value is not None and len(value) > MAX_ITEMS:
            raise InvalidRecord(
                f"record {record!r}: {declared.name!r} has {len(value)} items; Milvus holds {MAX_ITEMS}"
            )


def _plain(value: Any) -> Any:
    """A value of the client as JSON has it: its lists are none of Python's, its JSON may be bytes."""
    if isinstance(value, bytes):
        return orjson.loads(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value]
