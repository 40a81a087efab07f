"""What Qdrant Edge's requests are made of: conditions, vectors, indexes. Its classes are its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import qdrant_edge as edge

from pixdex.errors import ConfigError
from pixdex.filters import Box
from pixdex.spec import REV, Field, Kind, Metric, Spec, Vector
from pixdex.types import Tuning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["EDGE", "METRICS", "Index", "add_vector", "indexed", "plain", "point", "search_params", "views"]

_DISTANCES = {
    Metric.COSINE: edge.Distance.Cosine,
    Metric.DOT: edge.Distance.Dot,
    Metric.L2: edge.Distance.Euclid,
}
METRICS = {"Cosine": Metric.COSINE, "Dot": Metric.DOT, "Euclid": Metric.L2}
"""Distances as a shard's configuration spells them."""
_INDEXES = {
    Kind.TEXT: edge.PayloadSchemaType.Keyword,
    Kind.INT: edge.PayloadSchemaType.Integer,
    Kind.TIME: edge.PayloadSchemaType.Integer,
    Kind.FLOAT: edge.PayloadSchemaType.Integer,  # of each half
    Kind.BOOL: edge.PayloadSchemaType.Integer,  # see ``plain``
    Kind.GEO: edge.PayloadSchemaType.Float,  # of each coordinate
}
_OVERSAMPLING = 2.0
_FULL_SCAN_KB = 10_000
_DEFAULT_M, _DEFAULT_EF = 16, 100


class _Edge:
    """The filter algebra's target. See ``_qdrant_filters.Target``."""

    booleans = False  # ``MatchValue(True)`` becomes 1, which equals no boolean

    def filter(self, *, must: Sequence[Any] = (), should: Sequence[Any] = (), must_not: Sequence[Any] = ()) -> Any:
        return edge.Filter(must=list(must) or None, should=list(should) or None, must_not=list(must_not) or None)

    def between(self, key: str, low: float | None, high: float | None) -> Any:
        return edge.FieldCondition(key, range=edge.RangeFloat(gte=low, lte=high))

    def moments(self, key: str, low: datetime | None, high: datetime | None) -> Any:
        bounds = edge.RangeDateTime(
            gte=None if low is None else low.isoformat(), lte=None if high is None else high.isoformat()
        )
        return edge.FieldCondition(key, range=bounds)

    def one_of(self, key: str, values: list[Any]) -> Any:
        return edge.FieldCondition(key, match=edge.MatchAny(values))

    def truth(self, key: str, value: bool) -> Any:  # noqa: FBT001 - the value of a condition
        return self.one_of(key, [int(value)])

    def empty(self, key: str) -> Any:
        return edge.IsEmptyCondition(key)

    def within(self, key: str, box: Box) -> Any:
        corners = edge.GeoBoundingBox(edge.GeoPoint(box.west, box.north), edge.GeoPoint(box.east, box.south))
        return edge.FieldCondition(key, geo_bounding_box=corners)

    def nested(self, key: str, inside: Any) -> Any:
        return edge.NestedCondition(key, inside)

    def ids(self, points: list[Any]) -> Any:
        return edge.HasIdCondition(set(points))


EDGE = _Edge()


def point(*, id: Any, vector: Any, payload: Any) -> Any:  # noqa: A002 - the engine's word
    """A record to write."""
    return edge.Point(id=id, vector=vector, payload=plain(payload))


def indexed(field: Field) -> Any:
    """The index of a field's column. Revisions, of which none is like another, are asked for by ranges only: to look each up
    would take as much room as all other indexes.
    """
    return edge.IntegerIndexParams(lookup=False, range=True) if field == REV else _INDEXES[field.kind]


def views(matrix: NDArray[np.float32]) -> Iterable[Any]:
    """Rows of a matrix as Edge reads them in half the time of lists, which take ten times the room besides."""
    return map(memoryview, matrix)


def plain(columns: dict[str, Any]) -> dict[str, Any]:
    """Typed columns as the engine can match them: booleans as 0 and 1."""
    return {key: value if type(value) in _AS_THEY_ARE else _number(value) for key, value in columns.items()}


_AS_THEY_ARE = frozenset((str, int, float, dict))


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return [_number(item) for item in value] if isinstance(value, list) else value


def search_params(tuning: Tuning, k: int) -> Any:
    """What a search may cost. Scores are always of the vectors themselves: quantized candidates are scored again."""
    return _search_params(tuning.effort, tuning.exact, k)


@lru_cache(maxsize=256)
def _search_params(effort: float, exact: bool, k: int) -> Any:  # noqa: FBT001 - a value of Tuning
    if exact:
        return edge.SearchParams(exact=True, quantization=edge.QuantizationSearchParams(ignore=True))
    rescored = edge.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING)
    return edge.SearchParams(hnsw_ef=max(k, round(16 * 64**effort)), quantization=rescored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """How a new collection is indexed; what is None is the engine's own choice.

    Attributes:
        m: links a node of the HNSW graph.
        ef_construct: candidates looked at when a node is linked.
        quantization: ``int8``, ``binary`` or ``turbo`` codes; scores stay exact.
    """

    m: int | None = None
    ef_construct: int | None = None
    quantization: str | None = None

    def config(self, spec: Spec) -> Any:
        """The configuration of a shard for that Spec."""
        hnsw = None
        if self.m is not None or self.ef_construct is not None:
            hnsw = edge.HnswIndexConfig(self.m or _DEFAULT_M, self.ef_construct or _DEFAULT_EF, _FULL_SCAN_KB)
        vectors = {
            v.column: edge.EdgeVectorParams(v.dim, _DISTANCES[v.metric], datatype=_datatype(v)) for v in spec.vectors
        }
        return edge.EdgeConfig(vectors=vectors, hnsw_config=hnsw, quantization_config=self.codes())

    def codes(self) -> Any:
        """The quantization.

        Raises:
            ConfigError: there is no such.
        """
        match self.quantization:
            case None:
                return None
            case "int8":
                return edge.ScalarQuantizationConfig(edge.ScalarType.Int8)
            case "binary":
                return edge.BinaryQuantizationConfig()
            case "turbo":
                return edge.TurboQuantQuantizationConfig()
        raise ConfigError(f"option quantization={self.quantization!r}: it is int8, binary or turbo")


def add_vector(vector: Vector) -> Any:
    """The operation that makes a place for one more named vector."""
    return edge.UpdateOperation.create_dense_vector(
        vector.column, vector.dim, _DISTANCES[vector.metric], None, _datatype(vector)
    )


def _datatype(vector: Vector) -> Any:
    return edge.VectorStorageDatatype.Float16 if vector.dtype == "float16" else None
