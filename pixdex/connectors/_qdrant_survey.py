"""What other tools keep in a collection, told from its indexes and from a sample of its points."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pixdex.connectors.port import Survey, SurveyedField, SurveyedVector
from pixdex.spec import Kind

__all__ = ["SAMPLE", "survey"]

SAMPLE = 256
"""Points that are looked at."""

_INDEXED = {
    "keyword": Kind.TEXT,
    "uuid": Kind.TEXT,
    "text": Kind.TEXT,
    "integer": Kind.INT,
    "float": Kind.FLOAT,
    "bool": Kind.BOOL,
    "datetime": Kind.TIME,
    "geo": Kind.GEO,
}
_DEPTH = 3
_KEY = re.compile(r"[A-Za-z0-9_-]+")


def survey(
    *,
    count: int,
    vectors: Sequence[SurveyedVector],
    indexed: Mapping[str, str],
    sample: Sequence[Any],
    strict: bool = False,
) -> Survey:
    """What there is.

    Args:
        indexed: payload key -> type of its index, in the engine's words.
        sample: points with ids and payloads.
        strict: a filter on a key that is not indexed is refused.
    """
    found: dict[str, list[Any]] = {}
    for point in sample:
        for key, value in _leaves(point.payload or {}, _DEPTH):
            found.setdefault(key, []).append(value)
    fields = [_indexed(key, word.lower(), found.get(key, [])) for key, word in sorted(indexed.items())]
    fields += [_seen(key, values, strict=strict) for key, values in sorted(found.items()) if key not in indexed]
    ids: Literal["int", "uuid"] = "int" if sample and isinstance(sample[0].id, int) else "uuid"
    return Survey(count=count, ids=ids, key="id", vectors=tuple(vectors), fields=tuple(fields))


def _leaves(payload: Mapping[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    """Values by dotted path; what is null says nothing."""
    for key, value in payload.items():
        if value is None or value == []:
            continue
        if isinstance(value, Mapping) and not _is_place(value) and depth > 1 and _KEY.fullmatch(key):
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in _leaves(value, depth - 1))
        else:
            yield key, value


def _indexed(key: str, word: str, values: Sequence[Any]) -> SurveyedField:
    many = any(isinstance(value, list) for value in values)
    return SurveyedField(name=key, type=word, kind=_INDEXED.get(word), many=many, indexed=True)


def _seen(key: str, values: Sequence[Any], *, strict: bool) -> SurveyedField:
    many = any(isinstance(value, list) for value in values)
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    kinds = {_kind(item) for item in items}
    if kinds == {Kind.INT, Kind.FLOAT}:
        kinds = {Kind.FLOAT}
    path = all(_KEY.fullmatch(part) for part in key.split("."))
    kind = kinds.pop() if len(kinds) == 1 and path else None
    if strict and kind is not None:
        return SurveyedField(name=key, type=f"{kind.value}, not indexed in strict mode", kind=None, many=many)
    return SurveyedField(name=key, type=kind.value if kind else "json", kind=kind, many=many)


def _kind(value: Any) -> Kind | None:
    """The kind of a JSON value; a time cannot be told from a text."""
    if _is_place(value):
        return Kind.GEO
    for kind, types in ((Kind.BOOL, bool), (Kind.INT, int), (Kind.FLOAT, float), (Kind.TEXT, str)):
        if isinstance(value, types):
            return kind
    return None


def _is_place(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"lat", "lon"}
