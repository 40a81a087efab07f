"""A read as an engine is asked for it, and what it answers as pixdex shows it. Serves every Qdrant engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pixdex.connectors._qdrant_filters import Target, to_filter
from pixdex.connectors._qdrant_points import Records, checked_ids, records
from pixdex.connectors._rows import current, to_batch, wanted
from pixdex.connectors._specs import Specs
from pixdex.errors import FingerprintMismatch
from pixdex.filters import Filter
from pixdex.spec import Metric, Spec, Vector
from pixdex.types import Batch, Hit, Want

__all__ = ["Reading", "compiled", "reading"]


class Reading(NamedTuple):
    """One read.

    Attributes:
        want: what to bring back; ``vectors`` are those that it names.
        matching: the engine's filter, None for everything.
        records: how the collection's records are coded.
        vector: the one that is searched, where one is.
    """

    want: Want
    vectors: Sequence[Vector]
    matching: Any
    records: Records
    vector: Vector | None

    @property
    def keys(self) -> Any:
        """What to read of a point's payload."""
        return self.records.keys(self.want)

    @property
    def with_vectors(self) -> Any:
        """What to read of a point's vectors."""
        return self.records.vectors(self.want)

    def asked(self, ids: Iterable[str]) -> dict[Any, str]:
        """Point id -> record id, without those that no point can have."""
        coded = ((self.records.point_id(record), record) for record in ids)
        return {point: record for point, record in coded if point is not None}

    def batch(self, points: Iterable[Any], asked: dict[Any, str] | None = None) -> Batch:
        """Points as records; each must be the one that was asked for under its id.

        Raises:
            StoreError: two ids share a point.
        """
        if asked is None:
            found = [self.records.row(point, self.want) for point in points]
        else:
            found = checked_ids(asked, [(point.id, self.records.row(point, self.want)) for point in points])
        return to_batch(found, self.vectors, self.want)

    def hits(self, points: Iterable[Any]) -> list[Hit]:
        """Points of a search as results."""
        hits = self.records.hits(points, self.want)
        if self.vector is not None and self.vector.metric is Metric.L2:
            for hit in hits:
                hit.score = -(hit.score**2)  # Qdrant's Euclidean distance is rooted and positive
        return hits


def reading(
    specs: Specs,
    name: str,
    timeout: float | None,
    target: Target,
    *,
    want: Want,
    where: Filter | None = None,
    using: str | None = None,
) -> Reading:
    """A read by the Spec as last read; by the newest, where it does not fit that one.

    Raises:
        FingerprintMismatch: it fits neither: it comes from a handle that went stale.
    """
    try:
        return _by(specs.last(name, timeout), target, want, where, using)
    except FingerprintMismatch:
        return _by(specs.read(name, timeout), target, want, where, using)


def _by(spec: Spec, target: Target, want: Want, where: Filter | None, using: str | None) -> Reading:
    return Reading(
        want,
        wanted(spec, want),
        None if where is None else compiled(where, spec, target),
        records(spec),
        None if using is None else spec.physical(using),
    )


def compiled(where: Filter | None, spec: Spec, target: Target) -> Any:
    """A bound filter as the target's engine takes it."""
    return to_filter(current(where, spec), target, records(spec).point_id, native=spec.native)
