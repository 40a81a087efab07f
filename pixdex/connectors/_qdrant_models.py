"""What the Qdrant client's requests are made of: conditions, points, collections.

Points are built with ``model_construct``: they are checked already, and validating vectors of 512 floats again costs
more than the rest of a write. For what is small, the client's validation is the faster way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from qdrant_client import QdrantClient, models

from pixdex.connectors._qdrant_reading import Reading
from pixdex.errors import ConfigError
from pixdex.filters import Box
from pixdex.spec import Kind, Metric, Vector
from pixdex.types import Search, Tuning

__all__ = ["CLIENT", "INDEXES", "Index", "ask", "params", "point", "search_params", "strict_mode"]

_DISTANCES = {
    Metric.COSINE: models.Distance.COSINE,
    Metric.DOT: models.Distance.DOT,
    Metric.L2: models.Distance.EUCLID,
}
INDEXES = {
    Kind.TEXT: models.PayloadSchemaType.KEYWORD,
    Kind.INT: models.PayloadSchemaType.INTEGER,
    Kind.TIME: models.PayloadSchemaType.INTEGER,
    Kind.FLOAT: models.PayloadSchemaType.INTEGER,  # of each half
    Kind.BOOL: models.PayloadSchemaType.BOOL,
    Kind.GEO: models.PayloadSchemaType.FLOAT,  # of each coordinate
}
_OVERSAMPLING = 2.0


class _Client:
    """The filter algebra's target. See ``_qdrant_filters.Target``."""

    booleans = True

    def filter(self, *, must: Sequence[Any] = (), should: Sequence[Any] = (), must_not: Sequence[Any] = ()) -> Any:
        parts = {"must": must, "should": should, "must_not": must_not}
        given: dict[str, Any] = {name: list(some) for name, some in parts.items() if some}
        return models.Filter(**given)

    def between(self, key: str, low: float | None, high: float | None) -> Any:
        return _field(key, range=models.Range(gte=low, lte=high))

    def moments(self, key: str, low: datetime | None, high: datetime | None) -> Any:
        return _field(key, range=models.DatetimeRange(gte=low, lte=high))

    def one_of(self, key: str, values: list[Any]) -> Any:
        return _field(key, match=models.MatchAny(any=values))

    def truth(self, key: str, value: bool) -> Any:  # noqa: FBT001 - the value of a condition
        return _field(key, match=models.MatchValue(value=value))

    def empty(self, key: str) -> Any:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))

    def within(self, key: str, box: Box) -> Any:
        corners = models.GeoBoundingBox(
            top_left=models.GeoPoint(lat=box.north, lon=box.west),
            bottom_right=models.GeoPoint(lat=box.south, lon=box.east),
        )
        return _field(key, geo_bounding_box=corners)

    def nested(self, key: str, inside: Any) -> Any:
        return models.NestedCondition(nested=models.Nested(key=key, filter=inside))

    def ids(self, points: list[Any]) -> Any:
        return models.HasIdCondition(has_id=points)


CLIENT = _Client()


def _field(key: str, **condition: Any) -> Any:
    return models.FieldCondition(key=key, **condition)


def point(*, id: Any, vector: Any, payload: Any) -> Any:  # noqa: A002 - the client's word
    """A record to write."""
    return models.PointStruct.model_construct(id=id, vector=vector, payload=payload)


def ask(
    client: QdrantClient,
    name: str,
    request: Search,
    read: Reading,
    params: models.SearchParams | None,
    timeout: int | None,
) -> Sequence[models.QueryResponse]:
    """Search once for each query, in one request. The client copies what it is given for several, float by float, so
    one goes by itself.
    """
    using = request.using or None  # none: the unnamed vector
    queries = request.queries.tolist()
    if len(queries) == 1:
        answer = client.query_points(
            name,
            query=queries[0],
            using=using,
            query_filter=read.matching,
            search_params=params,
            limit=request.k,
            with_payload=read.keys,
            with_vectors=read.with_vectors,
            timeout=timeout,
        )
        return [answer]
    return client.query_batch_points(
        name,
        [
            models.QueryRequest.model_construct(
                query=query,
                using=using,
                filter=read.matching,
                limit=request.k,
                with_payload=read.keys,
                with_vector=read.with_vectors,
                params=params,
            )
            for query in queries
        ],
        timeout=timeout,
    )


def search_params(tuning: Tuning, k: int) -> models.SearchParams:
    """What a search may cost. Scores are always of the vectors themselves: quantized candidates are scored again."""
    return _search_params(tuning.effort, tuning.exact, k)


@lru_cache(maxsize=256)
def _search_params(effort: float, exact: bool, k: int) -> models.SearchParams:  # noqa: FBT001 - a value of Tuning
    if exact:
        return models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
    rescored = models.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING)
    return models.SearchParams(hnsw_ef=max(k, round(16 * 64**effort)), quantization=rescored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """How a new collection is indexed; what is None is the server's own choice.

    Attributes:
        m: links a node of the HNSW graph.
        ef_construct: candidates looked at when a node is linked.
        quantization: ``int8``, ``binary`` or ``turbo`` codes in memory; scores stay exact.
        on_disk: vectors are mapped from disk instead of held in memory.
        shards: shards of the collection.
        replicas: copies of each shard.
    """

    m: int | None = None
    ef_construct: int | None = None
    quantization: str | None = None
    on_disk: bool | None = None
    shards: int | None = None
    replicas: int | None = None

    def settings(self) -> dict[str, Any]:
        """Arguments of ``create_collection``.

        Raises:
            ConfigError: no such quantization.
        """
        found: dict[str, Any] = {"shard_number": self.shards, "replication_factor": self.replicas}
        if self.m is not None or self.ef_construct is not None:
            found["hnsw_config"] = models.HnswConfigDiff(m=self.m, ef_construct=self.ef_construct)
        if self.quantization is not None:
            found["quantization_config"] = _quantization(self.quantization)
        return {name: value for name, value in found.items() if value is not None}


def _quantization(name: str) -> Any:
    match name:
        case "int8":
            scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
            return models.ScalarQuantization(scalar=scalar)
        case "binary":
            return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
        case "turbo":
            return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(always_ram=True))
    raise ConfigError(f"option quantization={name!r}: it is int8, binary or turbo")


def params(vector: Vector, *, on_disk: bool | None = None) -> models.VectorParams:
    """What Qdrant is told of a vector."""
    datatype = models.Datatype.FLOAT16 if vector.dtype == "float16" else None
    return models.VectorParams(
        size=vector.dim, distance=_DISTANCES[vector.metric], datatype=datatype, on_disk=on_disk or None
    )


def strict_mode() -> models.StrictModeConfig:
    """A filter on a key that is not indexed is an error, not a scan of everything: it comes from a stale handle."""
    return models.StrictModeConfig(enabled=True, unindexed_filtering_retrieve=False, unindexed_filtering_update=False)
