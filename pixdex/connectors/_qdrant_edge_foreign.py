"""What Qdrant Edge does with a shard that another tool made: looking, filling a vector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import qdrant_edge as edge

from pixdex import errors
from pixdex.connectors._qdrant_edge_models import METRICS
from pixdex.connectors._qdrant_edge_shelf import CONFIG
from pixdex.connectors._qdrant_errors import from_message
from pixdex.connectors._qdrant_ids import foreign_id
from pixdex.connectors._qdrant_points import vectors_of
from pixdex.connectors._qdrant_survey import SAMPLE
from pixdex.connectors._qdrant_survey import survey as survey_of
from pixdex.connectors.port import Survey, SurveyedVector
from pixdex.types import Batch

__all__ = ["attach", "survey", "tolerant"]


def survey(path: Path, shard: Any) -> Survey:
    """What is in a shard, whose configuration is a file in its directory."""
    sample, _ = shard.scroll(edge.ScrollRequest(limit=SAMPLE, with_payload=True))
    described = orjson.loads((path / CONFIG).read_bytes()).get("vectors", {})
    named = {"": described} if isinstance(described.get("size"), int) else described
    info = shard.info()
    return survey_of(
        count=shard.count(edge.CountRequest(exact=True)),
        vectors=[_vector(name, found) for name, found in sorted(named.items())],
        indexed={key: str(index.data_type).rpartition(".")[2] for key, index in info.payload_schema.items()},
        sample=sample,
    )


def _vector(name: str, found: Mapping[str, Any]) -> SurveyedVector:
    metric = METRICS.get(found["distance"])
    floats = str(found.get("datatype") or "float32").lower() in ("float32", "float16")
    return SurveyedVector(
        name=name,
        dim=int(found["size"]),
        metric=metric,
        searchable=floats and not found.get("multivector_config"),
        index="hnsw" if metric else str(found["distance"]),
    )


def attach(shard: Any, batch: Batch) -> None:
    """Give points that exist the vectors of the batch, which the engine refuses for those that do not."""
    given: dict[Any, Any] = dict(zip(map(foreign_id, batch.ids), vectors_of(batch), strict=True))
    asked = [found for found, vectors in given.items() if found is not None and vectors]
    there = [point.id for point in shard.retrieve(asked, False, False)]
    changed = [
        edge.PointVectors(id=found, vector=given[found if isinstance(found, int) else str(found)]) for found in there
    ]
    if changed:
        shard.update(edge.UpdateOperation.update_vectors(changed))


def tolerant(shard: Any, operation: Any) -> None:
    """Do what may have been done already, by a call that broke off."""
    try:
        shard.update(operation)
    except Exception as error:
        if from_message(str(error)) is not errors.AlreadyExists:
            raise
