"""Record ids and point ids. Qdrant takes unsigned integers and UUIDs only."""

from __future__ import annotations

import uuid

__all__ = ["foreign_id", "point_id"]

_NAMESPACE = uuid.UUID("6f0e4b57-0d0c-5f43-9a57-1f3f7c9a2d11")


def point_id(record: str) -> str:
    """The point id of a record of ours: a UUID made of its id."""
    return str(uuid.uuid5(_NAMESPACE, record))


def foreign_id(record: str) -> int | str | None:
    """The point id of a record that another tool made, shown as text; None for a text that is no such id."""
    if record.isascii() and record.isdecimal():
        number = int(record) if len(record) <= 20 else 1 << 64
        return number if number < 1 << 64 and str(number) == record else None
    try:
        return record if str(uuid.UUID(record)) == record else None
    except ValueError:
        return None
