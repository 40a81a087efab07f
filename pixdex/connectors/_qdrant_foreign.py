"""What the client does with collections that another tool made: looking, filling a vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from pixdex.connectors._qdrant_client import Store, whole
from pixdex.connectors._qdrant_ids import foreign_id
from pixdex.connectors._qdrant_points import vectors_of
from pixdex.connectors._qdrant_survey import SAMPLE
from pixdex.connectors._qdrant_survey import survey as survey_of
from pixdex.connectors.port import Survey, SurveyedVector
from pixdex.spec import Metric
from pixdex.types import Batch

__all__ = ["attach", "survey"]

_METRICS = {
    models.Distance.COSINE: Metric.COSINE,
    models.Distance.DOT: Metric.DOT,
    models.Distance.EUCLID: Metric.L2,
}
_ATTEMPTS = 3


def survey(store: Store, name: str, timeout: float | None) -> Survey:
    """What is in a collection."""
    info = store.info(name, timeout)
    sample, _ = store.client.scroll(name, limit=SAMPLE, with_payload=True, timeout=whole(timeout))
    found, strict = info.config.params.vectors or {}, info.config.strict_mode_config
    named: Mapping[str, models.VectorParams] = found if isinstance(found, dict) else {"": found}
    return survey_of(
        count=store.client.count(name, timeout=whole(timeout)).count,
        vectors=[_vector(vector, described) for vector, described in named.items()],
        indexed={key: index.data_type.value for key, index in (info.payload_schema or {}).items()},
        sample=sample,
        strict=bool(strict and strict.enabled and strict.unindexed_filtering_retrieve is False),
    )


def _vector(name: str, found: models.VectorParams) -> SurveyedVector:
    metric = _METRICS.get(found.distance)
    floats = found.datatype in (None, models.Datatype.FLOAT32, models.Datatype.FLOAT16)
    return SurveyedVector(
        name=name,
        dim=found.size,
        metric=metric,
        searchable=floats and found.multivector_config is None,
        index="hnsw" if metric else found.distance.value,
    )


def attach(store: Store, name: str, batch: Batch, timeout: float | None) -> None:
    """Give points that exist the vectors of the batch, which Qdrant refuses for those that do not."""
    given: dict[Any, Any] = dict(zip(map(foreign_id, batch.ids), vectors_of(batch), strict=True))
    for attempt in range(_ATTEMPTS):
        asked = [found for found, vectors in given.items() if found is not None and vectors]
        if not asked:
            return
        there = store.client.retrieve(name, asked, with_payload=False, timeout=whole(timeout))
        changed = [models.PointVectors(id=p.id, vector=given[_key(p.id)]) for p in there]
        try:
            if changed:
                store.client.update_vectors(name, changed, timeout=whole(timeout))
            return
        except Exception as error:  # a point went between the two calls
            if "No point with id" not in str(error) or attempt == _ATTEMPTS - 1:
                raise


def _key(point: Any) -> int | str:
    return point if isinstance(point, int) else str(point)
