"""What may be written: whole records, their ids and payloads, checked and made canonical.

Everything here raises InvalidRecord that names the record and the remedy, before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from pixdex.errors import InvalidRecord
from pixdex.spec import Field, Kind, Spec
from pixdex.types import MAX_ID_BYTES, MAX_INT, MAX_TEXT_BYTES, Batch, Payload, python_scalar

__all__ = ["check_ids", "checked", "coerce", "conversions", "holds", "show", "with_revs"]

_MAX_DEPTH = 50


def checked(batch: Batch, spec: Spec) -> Batch:
    """``batch`` as ports take it, still under logical vector names and without ``_rev``."""
    from pixdex._vectors import checked_tokens, checked_vectors

    check_ids(batch.ids)
    _check_distinct(batch.ids)
    _check_lengths(batch)
    vectors, absent = {}, {}
    for name in batch.absent:
        spec.vector(name)  # a name that does not exist is refused there
    for name, values in batch.vectors.items():
        vector = spec.vector(name)
        present = batch.present(name)
        vectors[name] = checked_vectors(values, vector, ids=batch.ids, present=present)
        if not present.all():
            absent[name] = ~present
    payloads = batch.payloads if batch.payloads is not None else ({},) * len(batch)
    return Batch(
        batch.ids,
        vectors,
        _payloads(batch.ids, payloads, spec),
        checked_tokens(batch, spec.tokens),
        absent,
    )


def check_ids(ids: Sequence[str]) -> None:
    """Refuse what is no id: ids are text of 1 to 512 UTF-8 bytes."""
    if isinstance(ids, str):
        raise InvalidRecord(f"{ids!r:.60} is one id where several are meant: put it into a list")
    if not _are_ids(ids):
        for record in ids:
            _check_id(record)


def _are_ids(ids: Sequence[Any]) -> bool:
    """Whether all are ids beyond doubt. Most are, and asked of all at once it costs a tenth."""
    if set(map(type, ids)) != {str} or not "".join(ids).isascii():
        return False
    lengths = [len(record) for record in ids]
    return min(lengths) >= 1 and max(lengths) <= MAX_ID_BYTES


def _check_id(record: Any) -> None:
    if not isinstance(record, str):
        raise InvalidRecord(f"ids are text, not {type(record).__name__} {record!r}: use str(...)")
    try:
        size = len(record.encode())
    except UnicodeEncodeError:
        raise InvalidRecord(f"id {record!r} is not valid Unicode") from None
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidRecord(f"id {record[:40]!r}... has {size} bytes: ids have 1 to {MAX_ID_BYTES} UTF-8 bytes")


def _check_distinct(ids: Sequence[str]) -> None:
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    for record in ids:
        if record in seen:
            raise InvalidRecord(f"id {record!r} stands twice in one call: keep one of them")
        seen.add(record)


def _check_lengths(batch: Batch) -> None:
    columns: dict[str, Any] = {"payloads": batch.payloads, "tokens": batch.tokens}
    columns |= {f"vector {name!r}": values for name, values in batch.vectors.items()}
    columns |= {f"absent {name!r}": mask for name, mask in batch.absent.items()}
    for what, column in columns.items():
        if column is not None and len(column) != len(batch):
            raise InvalidRecord(f"{len(batch)} ids but {len(column)} rows of {what}")


# --- payloads ---------------------------------------------------------------------------------------


def _payloads(ids: Sequence[str], payloads: Sequence[Payload], spec: Spec) -> tuple[Payload, ...]:
    fields = {field.name: field for field in spec.columns}
    odd = _odd_keys(payloads, fields)
    if odd is not None and not odd:
        return tuple(payloads)
    entries = {key: _reader(key, payloads, fields.get(key)) for key in odd or ()}
    checked = []
    for record, payload in zip(ids, payloads, strict=True):
        if not isinstance(payload, Mapping):
            raise InvalidRecord(f"record {record!r}: a payload is a mapping, not {type(payload).__name__}")
        try:
            if odd is None:
                changed = {_key(key): _entry(key, value, fields.get(key)) for key, value in payload.items()}
            else:
                changed = {_key(key): read(payload[key]) for key, read in entries.items() if key in payload}
            checked.append({**payload, **changed})
        except InvalidRecord as error:
            raise InvalidRecord(f"record {record!r}: {error}") from None
    return tuple(checked)


def _reader(key: str, payloads: Sequence[Payload], field: Field | None) -> Callable[[Any], Any]:
    """What makes a value under a key canonical: by the shortest way where all that are there are alike."""
    column = [payload[key] for payload in payloads if key in payload]
    kinds = set(map(type, column))
    if kinds == {datetime} and field is not None and field.kind is Kind.TIME and not field.many:
        if all(moment.tzinfo is UTC for moment in column):
            return _spelled
    elif kinds == {list} and (field is None or field.many):
        items = list(chain.from_iterable(column))
        if type(None) not in set(map(type, items)) and _is_plain(items, field and replace(field, many=False)):
            return list
    elif kinds == {dict} and field is None and _odd_keys(column, {}) == set():
        return dict
    return lambda value: _entry(key, value, field)


def _spelled(moment: datetime) -> str:
    """A time in UTC as it is stored."""
    return moment.isoformat(timespec="microseconds")


_MOST_KEYS = 100


def _odd_keys(payloads: Sequence[Payload], fields: Mapping[str, Field]) -> set[str] | None:
    """The keys under which a value may have to be refused or changed; None where each payload is to be looked at.

    Records of a batch share their keys, and a column is looked at in a fifth of the time that its values take.
    """
    if set(map(type, payloads)) != {dict}:
        return None
    keys = set().union(*payloads)
    if len(keys) > _MOST_KEYS or set(map(type, keys)) - {str}:
        return None
    odd = set()
    for key in keys:
        column = [payload[key] for payload in payloads if key in payload]
        if key.startswith("_") or not key.isascii() or not _is_plain(column, fields.get(key)):
            odd.add(key)
    return odd


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise InvalidRecord(f"payload key {key!r} is not text")
    if key.startswith("_"):
        raise InvalidRecord(f"payload key {key!r}: a leading underscore is reserved, rename it")
    return _text(key, "a payload key")


def _entry(key: str, value: Any, field: Field | None) -> Any:
    return _json(key, value, 0) if field is None else coerce(field, value)


_PLAIN: Mapping[Kind, type] = {Kind.TEXT: str, Kind.INT: int, Kind.FLOAT: float, Kind.BOOL: bool}


def _is_plain(column: Sequence[Any], field: Field | None) -> bool:
    """Whether values are canonical beyond doubt: of one type, which is the field's, or None."""
    kinds = set(map(type, column))
    if type(None) in kinds:
        kinds.remove(type(None))
        column = [value for value in column if value is not None]
    if len(kinds) != 1:
        return not kinds
    kind = kinds.pop()
    if field is not None and (field.many or _PLAIN.get(field.kind) is not kind):
        return False
    if kind is str:
        return "".join(column).isascii() and (field is None or max(map(len, column)) <= MAX_TEXT_BYTES)
    if kind is int:
        return bool(min(column) >= -MAX_INT and max(column) <= MAX_INT)
    return kind is bool or (kind is float and all(map(math.isfinite, column)))


def _json(key: str, value: Any, depth: int) -> Any:
    """An undeclared value: any JSON, kept as it is."""
    value = python_scalar(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, f"payload {key!r}")
    if isinstance(value, int | float):
        return _number(key, value)
    if depth > _MAX_DEPTH:
        raise InvalidRecord(f"payload {key!r} nests deeper than {_MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        inner = {}
        for name, item in value.items():
            if not isinstance(name, str):
                raise InvalidRecord(f"payload {key!r}: key {name!r} is not text")
            inner[_text(name, f"payload {key!r}")] = _json(key, item, depth + 1)
        return inner
    if isinstance(value, list | tuple):
        return [_json(key, item, depth + 1) for item in value]
    hint = ": declare it as a time field, or give ISO 8601 text" if isinstance(value, datetime) else ""
    raise InvalidRecord(f"payload {key!r} is {type(value).__name__}, which is not JSON{hint}")


def _text(value: str, what: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRecord(f"{what} is not valid Unicode: {value!r}") from None
    return value


def _number(key: str, value: float) -> float:
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise InvalidRecord(f"payload {key!r}: {value} is beyond 2^53 - 1: store it as text")
    if not math.isfinite(value):
        raise InvalidRecord(f"payload {key!r}: {value} is not a finite number")
    return value


def coerce(field: Field, value: Any) -> Any:
    """A declared field's value in its canonical form: times as ISO 8601 text in UTC, places as
    ``{"lat", "lon"}``, None where there is none.

    Raises:
        InvalidRecord: a value of another kind than declared.
    """
    if value is None:
        return None
    if not field.many:
        return _scalar(field, value)
    if not isinstance(value, list | tuple | set | frozenset):
        raise InvalidRecord(f"field {field.name!r} is a list of {field.kind}, got {value!r:.80}")
    return [_scalar(field, item) for item in value]


def _scalar(field: Field, value: Any) -> Any:
    value = python_scalar(value)
    match field.kind:
        case Kind.TEXT if isinstance(value, str):
            if len(_text(value, f"field {field.name!r}").encode()) > MAX_TEXT_BYTES:
                raise InvalidRecord(
                    f"field {field.name!r} has {len(value.encode())} bytes: declared text has {MAX_TEXT_BYTES} at most, "
                    "longer text belongs into an undeclared key"
                )
            return value
        case Kind.BOOL if isinstance(value, bool):
            return value
        case Kind.INT if isinstance(value, int) and not isinstance(value, bool):
            return _number(field.name, value)
        case Kind.FLOAT if isinstance(value, int | float) and not isinstance(value, bool):
            return _number(field.name, value)
        case Kind.TIME if isinstance(value, str | datetime):
            return _time(field, value)
        case Kind.GEO:
            return _place(field, value)
    raise InvalidRecord(f"field {field.name!r} is declared {field.kind}, got {type(value).__name__} {value!r:.80}")


def _time(field: Field, value: str | datetime) -> str:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise InvalidRecord(f"field {field.name!r}: {value!r} is no ISO 8601 time") from None
    if moment.tzinfo is None:
        raise InvalidRecord(f"field {field.name!r}: {moment.isoformat()} has no time zone: add one, such as UTC")
    try:
        return _spelled(moment.astimezone(UTC))
    except OverflowError:
        raise InvalidRecord(
            f"field {field.name!r}: {moment.isoformat()} is outside the years 1 to 9999 in UTC"
        ) from None


def _place(field: Field, value: Any) -> dict[str, float]:
    pair = (value.get("lat"), value.get("lon")) if isinstance(value, Mapping) and len(value) == 2 else value
    if isinstance(pair, list | tuple) and len(pair) == 2 and all(_is_number(v) for v in pair):
        lat, lon = float(pair[0]) + 0.0, float(pair[1]) + 0.0
        if -90 <= lat <= 90 and -180 <= lon <= 180:
            return {"lat": lat, "lon": lon}
    raise InvalidRecord(
        f"field {field.name!r} is a place: (lat, lon) with latitude in [-90, 90] and longitude in [-180, 180], "
        f"got {value!r:.80}"
    )


def _is_number(value: Any) -> bool:
    value = python_scalar(value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def holds(stored: Payload, wanted: Payload, spec: Spec) -> bool:
    """Whether a record's payload has all of another one; values of declared fields compare in their canonical form."""
    return all(key in stored and _alike(spec.field(key), stored[key], value) for key, value in wanted.items())


def _alike(field: Field | None, one: Any, other: Any) -> bool:
    return bool(one == other if field is None else coerce(field, one) == coerce(field, other))


# --- the way back -----------------------------------------------------------------------------------


Conversions = Sequence[tuple[str, bool, Callable[[Any], Any]]]
"""Name, list or not, and reader of each field that users see in another form than ports."""


def conversions(spec: Spec) -> Conversions:
    """What ``show`` has to convert in each record of a collection; asked for once, not for every record."""
    if not spec.native:
        return ()
    return [(field.name, field.many, _SEEN[field.kind]) for field in spec.fields if field.kind in _SEEN]


def show(payloads: Iterable[Payload], converted: Conversions) -> None:
    """Make of payloads at the port, in place, what users see: no ``_rev``, declared times as aware datetimes in UTC.

    What a port returns is its caller's own.
    """
    for payload in payloads:
        seen: dict[str, Any] = payload  # type: ignore[assignment]  # a dict at the port
        seen.pop("_rev", None)  # no other key of ours starts with an underscore
        for name, many, read in converted:
            value = seen.get(name)
            if value is not None:
                seen[name] = [read(item) for item in value] if many else read(value)


def _place_seen(place: Any) -> Any:
    """A place as users see it; a pair stands in records that were written before the field was declared."""
    return place if isinstance(place, Mapping) else {"lat": float(place[0]), "lon": float(place[1])}


_SEEN: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.TIME: lambda text: datetime.fromisoformat(text).astimezone(UTC),
    Kind.GEO: _place_seen,
}


def with_revs(batch: Batch, first: int) -> Batch:
    """The batch with ``_rev`` in each payload, counting up from ``first``."""
    payloads = tuple({**payload, "_rev": rev} for rev, payload in enumerate(batch.payloads or (), first))
    return replace(batch, payloads=payloads)
