"""Pictures that a collection has, as heads and rerankers learn from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.collection import Collection
from pixdex.fields import IMAGE
from pixdex.filters import parse
from pixdex.pictures import Item, Refused
from pixdex.types import Want

__all__ = ["Row", "rows_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A record.

    Attributes:
        item: its picture, by the path that it was added from.
        label: its class; empty where nobody asked for one.
        vector: float ``[d]``, as stored.
        tokens: ``[t, k]`` as stored; None where there are none, or nobody asked.
    """

    item: Item
    label: str
    vector: NDArray[Any]
    tokens: NDArray[Any] | None


def rows_of(collection: Collection, *, where: str | None, field: str | None, tokens: bool = False) -> list[Row]:
    """The records that a filter holds for, in the order of their ids; those without one class in ``field`` are left out, and
    those without a vector.

    Raises:
        InvalidFilter: ``where`` does not parse, or is about no field.
    """
    found: list[Row] = []
    wanted = Want(vectors=(IMAGE,), tokens=tokens and collection.spec.tokens is not None)
    for page in collection.scan(where=None if where is None else parse(where), want=wanted):
        batch = page.batch
        matrices = batch.tokens or (None,) * len(batch)
        payloads = batch.payloads or ({},) * len(batch)
        for record, payload, vector, matrix in zip(batch.ids, payloads, batch.vectors[IMAGE], matrices, strict=True):
            value = "" if field is None else payload.get(field)
            if value is None or isinstance(value, list | dict) or not np.any(vector):
                continue  # a collection may well hold pictures that nobody has put into a class
            path = payload.get("path")
            picture = Path(path) if isinstance(path, str) else Refused(record, "the collection does not know its file")
            found.append(Row(Item(record, picture), str(value), vector, matrix))
    return sorted(found, key=lambda row: row.item.id or "")  # scans promise no order
