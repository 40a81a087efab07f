"""What a bound filter means, record by record, in Python; and what a typed column of a store holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pixdex.errors import InvalidRecord
from pixdex.filters.nodes import Box, Filter, Near, Range, fold
from pixdex.spec import Field, Kind
from pixdex.types import Payload

__all__ = ["EARTH_RADIUS_KM", "at", "distance_km", "matches", "micros", "stored", "stored_column"]

EARTH_RADIUS_KM = 6371.0088
"""Mean radius (IUGG), used by every distance in pixdex."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def matches(where: Filter, record: str, payload: Payload) -> bool:
    """Whether a bound filter holds for a record, by its id and its payload at the port.

    This is what the memory store runs on every record and what completes a filter that a store
    cannot express.
    """
    return fold(where, _Truth(record, payload))


@dataclass(frozen=True, slots=True)
class _Truth:
    record: str
    payload: Payload

    def eq(self, field: Field, value: Any) -> bool:
        return bool(stored(field, self.payload) == value)

    def is_in(self, field: Field, values: tuple[Any, ...]) -> bool:
        return stored(field, self.payload) in values

    def in_range(self, field: Field, leaf: Range) -> bool:
        value = stored(field, self.payload)
        return (
            value is not None and (leaf.low is None or value >= leaf.low) and (leaf.high is None or value <= leaf.high)
        )

    def exists(self, field: Field) -> bool:
        return stored(field, self.payload) is not None

    def contains(self, field: Field, values: tuple[Any, ...]) -> bool:
        return any(value in values for value in stored(field, self.payload) or ())

    def near(self, field: Field, leaf: Near) -> bool:
        return any(distance_km(lat, lon, leaf.lat, leaf.lon) <= leaf.km for lat, lon in _places(field, self.payload))

    def box(self, field: Field, leaf: Box) -> bool:
        return any(_inside(lat, lon, leaf) for lat, lon in _places(field, self.payload))

    def ids(self, ids: tuple[str, ...]) -> bool:
        return self.record in ids

    def all_of(self, parts: Sequence[bool]) -> bool:
        return all(parts)

    def any_of(self, parts: Sequence[bool]) -> bool:
        return any(parts)

    def negate(self, part: bool) -> bool:  # noqa: FBT001 - the algebra of truth values
        return not part


def stored(field: Field, payload: Payload) -> Any:
    """The value that filters see in a payload at the port: times as microseconds, places as
    ``(lat, lon)``, lists as lists of those, None where absent.

    Stores fill their typed columns with it. What another tool wrote is absent where it is of another kind.
    """
    if field.stored_as is not None:
        return _as_found(field, at(payload, field.stored_as))
    return _read(field, payload.get(field.name))


def stored_column(field: Field, payloads: Sequence[Payload]) -> list[Any]:
    """``stored`` of each payload; in a fifth of the time where all values are of the field's own type."""
    if field.stored_as is None and not field.many and field.kind in _OWN:
        values = [payload.get(field.name) for payload in payloads]
        if set(map(type, values)) <= _OWN[field.kind]:
            if field.kind is Kind.FLOAT:
                return [None if value is None else value + 0.0 for value in values]
            return values
    return [stored(field, payload) for payload in payloads]


_OWN: Mapping[Kind, frozenset[type]] = {
    Kind.TEXT: frozenset((str, type(None))),
    Kind.INT: frozenset((int, type(None))),
    Kind.FLOAT: frozenset((float, int, type(None))),
    Kind.BOOL: frozenset((bool, type(None))),
}


def _read(field: Field, value: Any) -> Any:
    if value is None or value == []:
        return None
    read = _READERS.get(field.kind) or partial(_plain_value, field)
    if field.many and not isinstance(value, list | tuple):
        raise _stale(field, value)
    try:
        return [read(item) for item in value] if field.many else read(value)
    except (TypeError, ValueError, KeyError) as error:
        raise _stale(field, value) from error


def _as_found(field: Field, value: Any) -> Any:
    try:
        return _read(field, value)
    except InvalidRecord:
        return None


def at(payload: Payload, path: str) -> Any:
    """What lies in a payload under a key, or else under a dotted path."""
    if path in payload:
        return payload[path]
    value: Any = payload
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _stale(field: Field, value: Any) -> InvalidRecord:
    return InvalidRecord(
        f"field {field.name!r} is declared {field.kind}{' (a list)' if field.many else ''}, got {value!r:.80}. "
        "If it was declared after this handle was opened, open the collection again"
    )


_PYTHON: Mapping[Kind, type | tuple[type, ...]] = {
    Kind.TEXT: str,
    Kind.INT: int,
    Kind.FLOAT: (int, float),
    Kind.BOOL: bool,
}


def _plain_value(field: Field, value: Any) -> Any:
    """``value``, when it is of the field's kind: a handle that is older than the field may have let another through."""
    if not isinstance(value, _PYTHON[field.kind]) or (isinstance(value, bool) and field.kind is not Kind.BOOL):
        raise TypeError(value)
    return value + 0.0 if isinstance(value, int | float) and field.kind is Kind.FLOAT else value


_READERS: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.TIME: lambda text: micros(_moment(text)),
    Kind.GEO: lambda place: _degrees(place),  # noqa: PLW0108 - defined below
}


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # only another tool writes such


def _degrees(place: Any) -> tuple[float, float]:
    # A pair stands in payloads that were written before the field was declared.
    lat, lon = (place["lat"], place["lon"]) if isinstance(place, Mapping) else place
    return float(lat), float(lon)


def _places(field: Field, payload: Payload) -> Sequence[tuple[float, float]]:
    value = stored(field, payload)
    if value is None:
        return ()
    return value if field.many else (value,)


def _inside(lat: float, lon: float, box: Box) -> bool:
    if not box.south <= lat <= box.north:
        return False
    if box.west <= box.east:
        return box.west <= lon <= box.east
    return lon >= box.west or lon <= box.east


def distance_km(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Great-circle distance in kilometres, by the haversine formula (Sinnott, 1984)."""
    phi1, phi2 = math.radians(lat1), math.radians(lat2)
    half = math.sin((phi2 - phi1) / 2) ** 2
    half += math.cos(phi1) * math.cos(phi2) * math.sin(math.radians(lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(half)))


def micros(moment: datetime) -> int:
    """An aware datetime as microseconds since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _MICROSECOND
