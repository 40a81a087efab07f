"""Collections that another tool made: looking, and keeping a Spec with them."""

from __future__ import annotations

from typing import Any

from pymilvus import DataType

from pixdex import errors
from pixdex.connectors._milvus_client import PROPERTY, Store, once
from pixdex.connectors._milvus_index import METRICS
from pixdex.connectors._milvus_rows import physical
from pixdex.connectors.port import Survey, SurveyedField, SurveyedVector
from pixdex.spec import Kind, Spec

__all__ = ["register", "survey"]

_KINDS = {
    DataType.VARCHAR: Kind.TEXT,
    DataType.INT8: Kind.INT,
    DataType.INT16: Kind.INT,
    DataType.INT32: Kind.INT,
    DataType.INT64: Kind.INT,
    DataType.FLOAT: Kind.FLOAT,
    DataType.DOUBLE: Kind.FLOAT,
    DataType.BOOL: Kind.BOOL,
}
_METRICS = {word: metric for metric, word in METRICS.items()}


def survey(store: Store, name: str, timeout: float | None) -> Survey:
    """What is in a collection. Keys beyond the columns (dynamic fields) belong to payloads but cannot be filtered on."""
    found = store.described(name, timeout)
    indexes = _indexes(store, name, timeout)
    key = next(field for field in found["fields"] if field.get("is_primary"))
    vectors, fields = [], []
    for field in found["fields"]:
        kind = DataType(field["type"])
        if field is key:
            continue
        if "VECTOR" in kind.name:
            vectors.append(_vector(field, kind, indexes.get(field["name"], {})))
        else:
            fields.append(_field(field, kind, indexed=field["name"] in indexes))
    return Survey(
        count=_count(store, name, timeout),
        ids="text" if DataType(key["type"]) is DataType.VARCHAR else "int",
        key=key["name"],
        vectors=tuple(vectors),
        fields=tuple(fields),
    )


def _count(store: Store, name: str, timeout: float | None) -> int:
    strong = {"consistency_level": "Strong"} if store.server else {}
    answer = store.loaded("query", name, timeout, {"filter": "", "output_fields": ["count(*)"], **strong})
    return int(answer[0]["count(*)"])


def _indexes(store: Store, name: str, timeout: float | None) -> dict[str, dict[str, Any]]:
    """Column -> what the store says of its index."""
    found = {}
    for index in store.client.list_indexes(physical(name), **once(timeout)):
        said = store.client.describe_index(physical(name), index, **once(timeout)) or {}
        found[said.get("field_name", index)] = said
    return found


def _vector(field: dict[str, Any], kind: Any, index: dict[str, Any]) -> SurveyedVector:
    metric = _METRICS.get(index.get("metric_type", ""))
    return SurveyedVector(
        name=field["name"],
        dim=int(field["params"].get("dim", 0)),
        metric=metric,
        searchable=kind is DataType.FLOAT_VECTOR and metric is not None,
        index=str(index.get("index_type", "")),
    )


def _field(field: dict[str, Any], kind: Any, *, indexed: bool) -> SurveyedField:
    many = kind is DataType.ARRAY
    item = DataType(field["element_type"]) if many and "element_type" in field else kind
    word = f"{kind.name.lower()} of {item.name.lower()}" if many else kind.name.lower()
    return SurveyedField(name=field["name"], type=word, kind=_KINDS.get(item), many=many, indexed=indexed)


def register(store: Store, name: str, spec: Spec | None, timeout: float | None) -> None:
    """Keep the Spec in the collection's properties, or in the registry file."""
    store.described(name, timeout)
    if store.specs.in_file:
        store.specs.register(name, spec)
    elif spec is not None:
        store.client.alter_collection_properties(physical(name), properties={PROPERTY: spec.to_json()}, **once(timeout))
    else:
        _forget(store, name, timeout)
    store.forget()


def _forget(store: Store, name: str, timeout: float | None) -> None:
    try:
        store.client.drop_collection_properties(physical(name), [PROPERTY], **once(timeout))
        kept = (store.described(name, timeout).get("properties") or {}).get(PROPERTY)
    except errors.PixdexError:
        raise
    except Exception:  # noqa: BLE001 - older servers cannot take a property out, but they can empty it
        kept = True
    if kept:
        store.client.alter_collection_properties(physical(name), properties={PROPERTY: ""}, **once(timeout))
