"""Several kinds of evidence in one ranking: lists of hits joined into one, scores that fall off with distance and age,
queries moved by what was liked.

Pure functions over hits, so that the numbers are the same on every store, whatever it can do itself.

==================  ==============================================================================================
``reciprocal_rank``  sum of w / (k + rank). Cormack, Clarke, Büttcher: Reciprocal Rank Fusion outperforms Condorcet and
                     individual Rank Learning Methods, SIGIR 2009. Needs no comparable scores. Qdrant counts ranks from 0
                     and has k = 2 where the paper has 60: its k is this one less 1
``z_scored``         weighted sum of scores in standard deviations from the mean of their list
``distribution``     weighted sum of scores scaled so that 0 and 1 are three standard deviations from the mean of their
                     list, cut off there: distribution-based score fusion, as Qdrant defines it
==================  ==============================================================================================

A record that a list lacks gets nothing from it in the first and the third, and what the last of the list got in the
second, where 0 would be an average. Hits that score the same, as those of one caption do, have no order among them, and
stores give them in any: each has the mean of their ranks, and ``levelled`` cuts no list between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from numbers import Real
from typing import TYPE_CHECKING, TypeAlias

from pixdex.errors import ConfigError
from pixdex.filters import distance_km
from pixdex.types import Hit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AT",
    "NEAR",
    "Decay",
    "K",
    "Method",
    "Moment",
    "Place",
    "Shape",
    "age",
    "checked_weights",
    "contributions",
    "decayed",
    "distribution",
    "fuse",
    "kilometres",
    "levelled",
    "method_named",
    "reciprocal_rank",
    "rocchio",
    "z_scored",
]

K = 60
"""What is added to ranks, as in the paper."""
_LEVEL = 1e-6
"""Scores so near, by magnitude, are the same: what stores compute of the same vectors differs by less."""
_BOUND = 3.0
"""Standard deviations from the mean that become 0 and 1."""

Lists: TypeAlias = Mapping[str, Sequence[Hit]]
"""What each kind of evidence found, best first, by its name."""
Weights: TypeAlias = Mapping[str, float] | None
"""How much each kind counts; what is not named counts 1."""


class Method(StrEnum):
    """How lists are joined."""

    RRF = "rrf"
    Z = "z"
    DBSF = "dbsf"


def fuse(lists: Lists, *, method: Method | str = Method.RRF, weights: Weights = None) -> list[Hit]:
    """The lists joined by a method of that name.

    Raises:
        ConfigError: no such method, or weights that do not fit; see ``reciprocal_rank``.
    """
    return _METHODS[method_named(method)](lists, weights=weights)


def method_named(name: Method | str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: there is none.
    """
    try:
        return Method(name)
    except ValueError:
        raise ConfigError(f"fusion {name!r}: one of {', '.join(Method)}") from None


def reciprocal_rank(lists: Lists, *, weights: Weights = None, k: float = K) -> list[Hit]:
    """The lists joined by rank: score is the sum of ``weight / (k + rank)``, ranks counted from 1, of hits that score the
    same the mean of theirs.

    Hits are new ones, by score, then id, with the payload of the first list that has it; ``trace`` says what each list
    scored, by its name.

    Raises:
        ConfigError: a weight that is negative or not finite, or of a list that there is not.
    """
    return _joined(lists, weights, lambda hits: _by_rank(hits, k), _nothing)


def z_scored(lists: Lists, *, weights: Weights = None) -> list[Hit]:
    """The lists joined by the weighted sum of their scores in standard deviations from the mean (of the list, divided by n);
    a list without spread gives 0. Otherwise as ``reciprocal_rank``.
    """
    return _joined(lists, weights, _z, _least)


def distribution(lists: Lists, *, weights: Weights = None) -> list[Hit]:
    """The lists joined by the weighted sum of ``(s - low) / (high - low)`` in [0, 1], where ``low`` and ``high`` are three
    standard deviations (divided by n - 1) from the mean of the list; .5 where there is no spread. Otherwise as
    ``reciprocal_rank``.
    """
    return _joined(lists, weights, _scaled, _nothing)


_METHODS: Mapping[Method, Callable[..., list[Hit]]] = {
    Method.RRF: reciprocal_rank,
    Method.Z: z_scored,
    Method.DBSF: distribution,
}


def contributions(hits: Sequence[Hit], *, method: Method | str) -> tuple[list[float], float]:
    """What one list adds to the score of each of its hits, and to that of a record which it lacks, before weights: the score
    of ``fuse`` is the sum of weight times this.

    Raises:
        ConfigError: no such method.
    """
    parts_of, absent = _PARTS[method_named(method)]
    parts = parts_of(hits)
    return parts, absent(parts)


def _joined(
    lists: Lists,
    weights: Weights,
    parts_of: Callable[[Sequence[Hit]], list[float]],
    absent: Callable[[list[float]], float],
) -> list[Hit]:
    chosen = checked_weights(weights, lists)
    records: dict[str, Hit] = {}
    traces: dict[str, dict[str, float]] = {}
    scores: dict[str, float] = {}
    rows = {name: (hits, parts_of(hits)) for name, hits in lists.items()}
    base = sum(chosen[name] * absent(parts) for name, (_, parts) in rows.items())
    for name, (hits, parts) in rows.items():
        without = absent(parts)
        for hit, part in zip(hits, parts, strict=True):
            known = records.setdefault(hit.id, hit)
            if known.payload is None:
                records[hit.id] = replace(known, payload=hit.payload)
            traces.setdefault(hit.id, {**hit.trace})[name] = hit.score
            scores[hit.id] = scores.get(hit.id, base) + chosen[name] * (part - without)
    joined = [replace(hit, score=scores[record], trace=traces[record]) for record, hit in records.items()]
    return sorted(joined, key=_order)


def checked_weights(weights: Weights, names: Iterable[str]) -> dict[str, float]:
    """A weight for each of ``names``, 1 where none is given.

    Raises:
        ConfigError: a weight that is negative or not finite, or of another name.
    """
    given, known = dict(weights or {}), list(names)
    for name, weight in given.items():
        if name not in known:
            raise ConfigError(f"a weight for {name!r}, which nothing was searched by; there is {', '.join(known)}")
        if not (isinstance(weight, Real) and math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"the weight of {name!r} is {weight!r}: a number, 0 or more")
    return {name: float(given.get(name, 1.0)) for name in known}


def _by_rank(hits: Sequence[Hit], k: float = K) -> list[float]:
    parts: list[float] = []
    for start, end in _levels(hits):
        parts += [1.0 / (k + (start + 1 + end) / 2)] * (end - start)
    return parts


def _levels(hits: Sequence[Hit]) -> Iterator[tuple[int, int]]:
    """Where those begin and end that score the same."""
    start = 0
    for at in range(1, len(hits) + 1):
        if at == len(hits) or not _same(hits[start].score, hits[at].score):
            yield start, at
            start = at


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= _LEVEL * max(1.0, abs(one))


def levelled(hits: Sequence[Hit], depth: int, *, all_there: bool) -> list[Hit]:
    """The first ``depth`` hits and those that score as the last of them does. Where the list may go on with such ones
    (not ``all_there``), none of them, if anything is left then: which of them a store gives is chance.
    """
    for start, end in _levels(hits):
        if end >= depth:
            return list(hits[:end] if all_there or end < len(hits) or not start else hits[:start])
    return list(hits)


def _nothing(_: list[float]) -> float:
    return 0.0


def _least(parts: list[float]) -> float:
    return min(parts, default=0.0)


def _order(hit: Hit) -> tuple[float, str]:
    return -hit.score, hit.id


def _z(hits: Sequence[Hit]) -> list[float]:
    mean, deviation = _moments(hits, 0)
    return [(hit.score - mean) / deviation if deviation > 0 else 0.0 for hit in hits]


def _scaled(hits: Sequence[Hit]) -> list[float]:
    mean, deviation = _moments(hits, 1)
    if not deviation > 0:
        return [0.5] * len(hits)
    return [min(1.0, max(0.0, 0.5 + (hit.score - mean) / (2 * _BOUND * deviation))) for hit in hits]


def _moments(hits: Sequence[Hit], less: int) -> tuple[float, float]:
    """Mean and standard deviation of the scores; squares are divided by n - ``less``."""
    if len(hits) <= less:
        return 0.0, 0.0
    mean = math.fsum(hit.score for hit in hits) / len(hits)
    return mean, math.sqrt(math.fsum((hit.score - mean) ** 2 for hit in hits) / (len(hits) - less))


_PARTS: Mapping[Method, tuple[Callable[[Sequence[Hit]], list[float]], Callable[[list[float]], float]]] = {
    Method.RRF: (_by_rank, _nothing),
    Method.Z: (_z, _least),
    Method.DBSF: (_scaled, _nothing),
}


# --- place and time -------------------------------------------------------------------------------


class Shape(StrEnum):
    """How a factor falls off."""

    GAUSS = "gauss"
    EXP = "exp"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decay:
    """A factor in [0, 1] that falls off with a distance: 1 up to ``offset``, ``decay`` at ``offset + scale``.

    With x the distance beyond the offset, ``gauss`` is decay^(x^2 / scale^2), ``exp`` is decay^(x / scale), ``linear`` is
    1 - (1 - decay) x / scale and 0 where that is negative: the decay functions of Elasticsearch and Qdrant.

    Attributes:
        scale: in the unit of the distances, kilometres or seconds; positive.
        offset: up to here nothing falls off.
        decay: in (0, 1).
        absent: the factor of a record that has no such place or time; by default that of one ``scale`` away.

    Raises:
        ConfigError: a value out of its range.
    """

    scale: float
    offset: float = 0.0
    decay: float = 0.5
    shape: Shape = Shape.GAUSS
    absent: float | None = None

    def __post_init__(self) -> None:
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ConfigError(f"scale: positive, not {self.scale}")
        if not (self.offset >= 0 and math.isfinite(self.offset)):
            raise ConfigError(f"offset: 0 or more, not {self.offset}")
        if not 0 < self.decay < 1:
            raise ConfigError(f"decay: between 0 and 1, not {self.decay}")
        if self.absent is not None and not 0 <= self.absent <= 1:
            raise ConfigError(f"absent: from 0 to 1, not {self.absent}")

    def factor(self, distance: float | None) -> float:
        """The factor at a distance, 0 or more; None for a record that has none."""
        if distance is None:
            return self.decay if self.absent is None else self.absent
        beyond = max(0.0, distance - self.offset) / self.scale
        if self.shape is Shape.GAUSS:
            return float(self.decay ** (beyond * beyond))
        if self.shape is Shape.EXP:
            return float(self.decay**beyond)
        return max(0.0, 1.0 - (1.0 - self.decay) * beyond)


def decayed(
    hits: Sequence[Hit],
    name: str,
    distance: Callable[[Hit], float | None],
    decay: Decay,
    *,
    weight: float = 1.0,
) -> list[Hit]:
    """The hits with their scores multiplied by a factor to the power of ``weight``, in their new order; ``trace`` has what
    they were multiplied by under ``name``.

    Scores below 0 would rise when multiplied: where there are such, all are counted from the lowest.
    """
    low = min((hit.score for hit in hits), default=0.0)
    found = []
    for hit in hits:
        factor = decay.factor(distance(hit)) ** weight
        found.append(replace(hit, score=(hit.score - min(0.0, low)) * factor, trace={**hit.trace, name: factor}))
    return sorted(found, key=_order)


NEAR = Decay(scale=10.0)
"""Half at ten kilometres."""
AT = Decay(scale=30 * 86_400.0)
"""Half at thirty days."""


@dataclass(frozen=True, slots=True)
class Place:
    """Near this place is better.

    Attributes:
        lat: degrees north.
        lon: degrees east.
        decay: over kilometres; by default half at ten.
        field: the payload field that holds where a record is, of kind geo.

    Raises:
        ConfigError: no place on Earth.
    """

    lat: float
    lon: float
    decay: Decay = NEAR
    field: str = "place"

    def __post_init__(self) -> None:
        if not (abs(self.lat) <= 90 and abs(self.lon) <= 180):
            raise ConfigError(f"near {self.lat}, {self.lon}: a latitude up to 90 and a longitude up to 180 degrees")


@dataclass(frozen=True, slots=True)
class Moment:
    """About this time is better, before or after.

    Attributes:
        time: with a time zone.
        decay: over seconds; by default half at thirty days.
        field: the payload field that holds when a record was, of kind time.

    Raises:
        ConfigError: a time without a zone.
    """

    time: datetime
    decay: Decay = AT
    field: str = "taken"

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise ConfigError(f"at {self.time}: say in which time zone, such as {self.time.replace(tzinfo=UTC)}")


def kilometres(field: str, place: tuple[float, float]) -> Callable[[Hit], float | None]:
    """How far the place in a payload field of a hit is from ``place`` (latitude, longitude), in kilometres; of several
    the nearest.
    """
    lat, lon = place

    def distance(hit: Hit) -> float | None:
        found = (hit.payload or {}).get(field)
        places = found if isinstance(found, list) else [found]
        return min((distance_km(p["lat"], p["lon"], lat, lon) for p in places if p), default=None)

    return distance


def age(field: str, moment: datetime) -> Callable[[Hit], float | None]:
    """How far the time in a payload field of a hit is from ``moment``, before or after, in seconds; of several the nearest."""

    def distance(hit: Hit) -> float | None:
        found = (hit.payload or {}).get(field)
        times = found if isinstance(found, list) else [found]
        return min((abs(t - moment) / timedelta(seconds=1) for t in times if t is not None), default=None)

    return distance


# --- feedback -------------------------------------------------------------------------------------


def rocchio(
    query: NDArray[np.float32],
    *,
    more: Sequence[NDArray[np.float32]] = (),
    less: Sequence[NDArray[np.float32]] = (),
    alpha: float = 1.0,
    beta: float = 0.75,
    gamma: float = 0.15,
) -> NDArray[np.float32]:
    """The query moved towards what is liked and away from what is not: alpha q + beta mean(more) - gamma mean(less).

    Rocchio: Relevance Feedback in Information Retrieval, 1971. ``query`` float32 ``[dim]``, as are the others.
    """
    import numpy as np

    moved = alpha * np.asarray(query, dtype=np.float64)
    if len(more):
        moved = moved + beta * np.mean(np.asarray(more, dtype=np.float64), axis=0)
    if len(less):
        moved = moved - gamma * np.mean(np.asarray(less, dtype=np.float64), axis=0)
    return moved.astype(np.float32)
