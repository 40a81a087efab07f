"""The fields of picture records: those that pixdex fills, those that values suggest, those that are declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pixdex.errors import ConfigError
from pixdex.spec import Field, Kind
from pixdex.types import Payload, python_scalar

__all__ = [
    "AUTOMATIC",
    "AUTOMATIC_NAMES",
    "CONTENT",
    "IMAGE",
    "TEXT",
    "check_user_fields",
    "declared",
    "infer",
    "spelled",
    "users_own",
]

IMAGE = "image"
"""The vector of pictures."""
TEXT = "text"
"""The vector of captions."""
CONTENT = "content"
AUTOMATIC = (
    Field(name="path", kind=Kind.TEXT),
    Field(name="width", kind=Kind.INT),
    Field(name="height", kind=Kind.INT),
    Field(name="taken", kind=Kind.TIME),
    Field(name="place", kind=Kind.GEO),
    Field(name=CONTENT, kind=Kind.TEXT),
)
"""What every picture brings itself; ``taken`` and ``place`` only where its EXIF data has them."""

AUTOMATIC_NAMES = frozenset(f.name for f in AUTOMATIC)


def declared(name: str, kind: Kind | str | Field) -> Field:
    """The field of that name: ``kind`` is a Kind, its name with ``[]`` behind for lists, or a whole Field.

    Raises:
        ConfigError: there is no such kind.
    """
    if isinstance(kind, Field):
        return replace(kind, name=name)
    many = kind.endswith("[]")
    try:
        return Field(name=name, kind=Kind(kind.removesuffix("[]")), many=many)
    except ValueError:
        known = ", ".join(Kind)
        raise ConfigError(f"field {name!r}: unknown kind {kind!r} (known: {known}; name[] for lists)") from None


def spelled(field: Field) -> str:
    """The kind of a field as ``declared`` reads it."""
    return f"{field.kind}{'[]' if field.many else ''}"


def infer(name: str, value: Any) -> Field | None:
    """The field that a value suggests; None when it suggests none.

    Raises:
        ConfigError: the name cannot be a field's.
    """
    many = isinstance(value, list | tuple | set | frozenset) and not _is_place(value)
    example = next(iter(value), None) if many else value
    kind = _kind(example)
    return None if kind is None else Field(name=name, kind=kind, many=many)


def _kind(value: Any) -> Kind | None:
    value = python_scalar(value)
    if isinstance(value, bool):
        return Kind.BOOL
    if _is_place(value):
        return Kind.GEO
    kinds = ((int, Kind.INT), (float, Kind.FLOAT), (str, Kind.TEXT), (datetime, Kind.TIME))
    return next((kind for python, kind in kinds if isinstance(value, python)), None)


def _is_place(value: Any) -> bool:
    """A tuple of two numbers; a list of two may be a list of numbers."""
    if isinstance(value, Mapping):
        return value.keys() == {"lat", "lon"}
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value)


def check_user_fields(fields: Mapping[str, Any]) -> None:
    """Refuse names that pixdex fills itself.

    Raises:
        ConfigError: the name is taken.
    """
    taken = AUTOMATIC_NAMES & fields.keys()
    if taken:
        raise ConfigError(f"field {min(taken)!r} is filled by pixdex: use another name")


def users_own(payload: Payload) -> Payload:
    """What of a payload pixdex does not fill itself."""
    return {key: value for key, value in payload.items() if key not in AUTOMATIC_NAMES}
