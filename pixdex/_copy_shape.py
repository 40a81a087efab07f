"""What a copy keeps: the Spec of the target for a source, records as the target should hold them, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from pixdex import _records
from pixdex.errors import InvalidRecord
from pixdex.filters.meaning import at
from pixdex.spec import Field, Native, Spec
from pixdex.types import Batch, Payload, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TOLERANCE", "content", "difference", "differing", "everything", "expected", "native", "sound", "translated"]

TOLERANCE = 1e-6
"""How far a value of a stored vector may be off, of values up to 1."""


def native(spec: Spec) -> Spec:
    """The Spec of a collection of ours for the records of one: itself, or for another tool's with our names."""
    if spec.native:
        return spec
    return replace(
        spec,
        vectors=tuple(replace(vector, stored_as=None) for vector in spec.vectors),
        fields=tuple(replace(field, stored_as=None, ordinal=0) for field in spec.fields),
        layout=Native(),
    )


def everything(spec: Spec) -> Want:
    """All that records have."""
    return Want(vectors=tuple(vector.name for vector in spec.vectors), tokens=spec.tokens is not None)


def difference(source: Spec, target: Spec) -> str:
    """What keeps the records of a source from a target that is there, in words; empty when nothing does."""
    said = []
    theirs = {vector.name: vector for vector in target.vectors}
    for vector in source.vectors:
        other = theirs.pop(vector.name, None)
        if other is None:
            said.append(f"it has no vector {vector.name!r}")
            continue
        ours, others = (f"{v.dim} x {v.metric}, {v.dtype}" for v in (vector, other))
        if ours != others:
            said.append(f"vector {vector.name!r} is {others} there, {ours} in the source")
        parts = vector.fingerprint.difference(other.fingerprint)
        if parts:
            said.append(f"vector {vector.name!r} is of another encoder (they differ in: {parts})")
    said += [f"it has a vector {name!r} besides" for name in theirs]
    fields = {field.name: field for field in target.fields}
    for field in source.fields:
        found = fields.get(field.name)
        if found is None:
            said.append(f"field {field.name!r} is not declared there")
        elif (found.kind, found.many) != (field.kind, field.many):
            said.append(f"field {field.name!r} is declared as another kind there")
    if source.tokens != target.tokens:
        what = "keeps none" if target.tokens is None else "keeps some" if source.tokens is None else "keeps others"
        said.append(f"of tokens it {what}")
    return "; ".join(said)


# --- records of another tool ---


def translated(batch: Batch, spec: Spec) -> Batch:
    """Another tool's records as one of ours can hold them: what it calls otherwise also under our names, as filters of the
    target need it, and keys that begin with an underscore without it.
    """
    if spec.native:
        return batch
    renamed = [field for field in spec.fields if field.stored_as not in (None, field.name)]
    return replace(batch, payloads=tuple(_renamed(payload, renamed) for payload in batch.payloads or ()))


def _renamed(payload: Payload, fields: list[Field]) -> Payload:
    values = {field.name: at(payload, field.stored_as or field.name) for field in fields}
    plain = {name: value for name, value in payload.items() if not name.startswith("_")}
    made = {**{name: value for name, value in values.items() if value is not None}, **plain}
    for name, value in payload.items():
        if name.startswith("_"):
            free = name.lstrip("_") or "key"
            while free in made:
                free += "_"
            made[free] = value
    return made


def expected(batch: Batch, source: Spec, target: Spec) -> tuple[Batch, dict[str, str]]:
    """Records of the source as the target should give them, without those that it cannot hold, and why those cannot be."""
    if source.native:
        return batch, {}
    done: list[Batch] = []

    def check(part: Batch) -> None:
        checked = _records.checked(part, target)
        payloads = tuple(dict(payload) for payload in checked.payloads or ())
        _records.show(payloads, _records.conversions(target))
        done.append(replace(checked, payloads=payloads, tokens=checked.tokens or part.tokens))

    refused = sound(translated(batch, source), check)
    return (Batch.concat(done) if done else batch.take([])), refused


def sound(batch: Batch, write: Callable[[Batch], None]) -> dict[str, str]:
    """Give ``write`` all records that it takes; those for which it raises InvalidRecord, by id, with the reason."""
    try:
        if len(batch):
            write(batch)
    except InvalidRecord as error:
        if len(batch) == 1:
            return {batch.ids[0]: str(error)}
        half = len(batch) // 2
        return {**sound(batch.take(range(half)), write), **sound(batch.take(range(half, len(batch))), write)}
    return {}


# --- comparing ---


def content(payload: Payload) -> bytes:
    """A payload as bytes, the same for equal ones: 1 is not 1.0 and not true."""
    return orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)


def differing(ours: Batch, theirs: Batch, spec: Spec) -> dict[str, str]:
    """Records of ``ours`` that ``theirs`` holds otherwise, or lacks: what differs, by id. Both with all they have."""
    row_of = {record: row for row, record in enumerate(theirs.ids)}
    found = {record: "it is not there" for record in ours.ids if record not in row_of}
    rows = [row for row, record in enumerate(ours.ids) if record in row_of]
    if not rows:
        return found
    others = [row_of[ours.ids[row]] for row in rows]
    for vector in spec.vectors:
        for row, what in _vectors(ours, rows, theirs, others, vector.name).items():
            found.setdefault(ours.ids[row], what)
    for row, other in zip(rows, others, strict=True):
        record = ours.ids[row]
        mine, its = (ours.payloads or ())[row], (theirs.payloads or ())[other]
        if content(mine) != content(its):
            found.setdefault(record, f"payload {_first(mine, its)!r} differs")
        if not _same_tokens(_matrix(ours, row), _matrix(theirs, other)):
            found.setdefault(record, "its tokens differ")
    return found


def _vectors(ours: Batch, rows: list[int], theirs: Batch, others: list[int], name: str) -> dict[int, str]:
    here, there = ours.present(name)[rows], theirs.present(name)[others]
    wrong = {rows[i]: f"vector {name!r} is {'missing' if here[i] else 'there'}" for i in np.flatnonzero(here != there)}
    both = np.flatnonzero(here & there)
    if len(both):
        mine = ours.vectors[name][np.asarray(rows)[both]]
        its = theirs.vectors[name][np.asarray(others)[both]]
        far = np.abs(mine - its).max(axis=1)
        bad = ~(far <= TOLERANCE * np.maximum(1.0, np.abs(mine).max(axis=1)))
        wrong |= {rows[both[i]]: f"vector {name!r} is off by {far[i]:.2g}" for i in np.flatnonzero(bad)}
    return wrong


def _first(mine: Mapping[str, Any], its: Mapping[str, Any]) -> str:
    """The first key under which two payloads differ."""
    keys = sorted({*mine, *its})
    return next((k for k in keys if (k in mine) != (k in its) or content({k: mine[k]}) != content({k: its[k]})), "")


def _matrix(batch: Batch, row: int) -> NDArray[Any] | None:
    return None if batch.tokens is None else batch.tokens[row]


def _same_tokens(mine: NDArray[Any] | None, its: NDArray[Any] | None) -> bool:
    if mine is None or its is None:
        return mine is None and its is None
    return mine.shape == its.shape and mine.dtype == its.dtype and mine.tobytes() == its.tobytes()
