"""What searches need of a collection in memory, by position: ids, rows, and the fields that filters name.

A position is a place in the segment file of a vector; its record never changes, so a column only grows. Columns
are read from a derived file as far as one reaches, from SQLite beyond it. A position whose record died before
anybody read it stays absent: it is the caller's to leave out dead positions.

All values are immutable. Whoever holds an older one reads on while newer ones are made.
"""

# ruff: noqa: S608 - only ordinals and integer ids of ours stand in the text; every value is bound

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from pixdex.connectors import _pq_derived as derived
from pixdex.connectors import _pq_sql
from pixdex.connectors._pq_parts import Ints, Lists, Part, Piece, Strings, form_of, restored
from pixdex.errors import StoreFormat
from pixdex.spec import Field, Kind

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

    from pixdex.connectors._pq_records import Physical, Snapshot

__all__ = ["Column", "Columns", "load", "positions_of"]

KIND = "columns"
_IDS, _RECORDS = "ids", "records"  # no physical name of a field
_CHUNK = 100_000
"""Positions that are read from SQLite at once: their values are Python's for a moment."""
_FEW = 500

P = TypeVar("P", bound=Piece)


@dataclass(frozen=True, slots=True)
class Column(Generic[P]):
    """The values of one field, position by position, in a few parts.

    Attributes:
        seq: the snapshot whose records were read last. Snapshots before it may have had more.
    """

    parts: tuple[P, ...] = ()
    seq: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, whether mapped or in memory."""
        return sum(array.nbytes for part in self.parts for array in part.arrays.values())

    def ask(self, test: Callable[[P], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """The answers of all parts: bool ``[len(self)]``, the caller's own."""
        if len(self.parts) == 1:
            return test(self.parts[0])
        return np.concatenate([np.zeros(0, dtype=bool), *(test(part) for part in self.parts)])

    def extended(self, parts: Sequence[P], seq: int) -> Column[P]:
        """With more behind. Parts of like size are joined, so that there are few and each value moves seldom."""
        kept: list[P] = list(self.parts)
        last: list[P] = list(parts)
        while kept and len(kept[-1]) <= 2 * sum(map(len, last)):
            last.insert(0, kept.pop())
        return Column((*kept, *_joined(last)), seq)

    def whole(self) -> Column[P]:
        """The same in at most one part."""
        return replace(self, parts=_joined(self.parts))

    def places(self, positions: NDArray[np.intp]) -> Iterator[tuple[P, int]]:
        """For each position its part, and where in it."""
        starts = [0, *accumulate(map(len, self.parts))]
        for position in positions.tolist():
            number = bisect.bisect_right(starts, position) - 1
            yield self.parts[number], position - starts[number]


def _joined(parts: Sequence[P]) -> tuple[P, ...]:
    return (type(parts[0]).joined(parts),) if len(parts) > 1 else tuple(parts)


@dataclass(frozen=True, slots=True)
class Columns:
    """Of one physical vector, the positions of a snapshot. They serve that snapshot and all later ones.

    Attributes:
        file: the segment file.
        ids: empty where no record was found.
        records: the row of the record in SQLite, 0 where none was found.
        fields: the columns that were asked for so far, by physical name. Several threads may add to them.
    """

    file: int
    ids: Column[Strings] = Column()
    records: Column[Ints] = Column()
    fields: dict[str, Column[Part]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many positions they cover."""
        return len(self.ids)

    @property
    def seq(self) -> int:
        """The snapshot that they were read in."""
        return self.ids.seq

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, whether mapped or in memory."""
        return self.ids.nbytes + self.records.nbytes + sum(column.nbytes for column in list(self.fields.values()))

    def ids_at(self, positions: NDArray[np.intp]) -> list[str]:
        """The ids at ``positions`` ``[m]``, in that order."""
        if len(self.ids.parts) == 1:
            return self.ids.parts[0].take(positions)
        return [part.text(place) for part, place in self.ids.places(positions)]

    def rows_at(self, positions: NDArray[np.intp]) -> list[int]:
        """The rows in SQLite of the records at ``positions`` ``[m]``, in that order."""
        if len(self.records.parts) == 1:
            values = self.records.parts[0].values
            return [int(row) for row in values[positions]]
        return [int(part.values[place]) for part, place in self.records.places(positions)]

    def column(self, db: sqlite3.Connection, target: Snapshot, vector: Physical, declared: Field) -> Column[Part]:
        """The values of a field at all positions, read when it is first asked for.

        A column that a later snapshot read may lack records of this one, so it is read again.
        """
        known = self.fields.get(declared.column, Column())
        if known.seq > target.seq:
            known = Column()
        if len(known) < self.rows:
            spans = _spans(len(known), self.rows)
            known = known.extended([_values(db, target, vector, declared, *span) for span in spans], target.seq)
            self.fields[declared.column] = known
        return known

    def extended(self, db: sqlite3.Connection, target: Snapshot, vector: Physical) -> Columns:
        """With the positions that have come since. Fields follow when they are asked for."""
        if self.rows == vector.rows:
            return self
        read = [_records(db, target, vector, *span) for span in _spans(self.rows, vector.rows)]
        return Columns(
            self.file,
            self.ids.extended([ids for ids, _ in read], target.seq),
            self.records.extended([rows for _, rows in read], target.seq),
            dict(self.fields),
        )

    def save(self, folder: Path) -> None:
        """Write what is known so far as a derived file.

        Raises:
            OSError: the disk said no.
        """
        if not self.rows:
            return
        fields = {name: column for name, column in list(self.fields.items()) if column.parts}
        parts: dict[str, Piece] = {name: column.whole().parts[0] for name, column in fields.items()}
        parts |= {_IDS: self.ids.whole().parts[0], _RECORDS: self.records.whole().parts[0]}
        arrays = {f"{name}/{key}": array for name, part in parts.items() for key, array in part.arrays.items()}
        facts = {"seq": self.seq, "fields": {name: column.seq for name, column in fields.items()}}
        derived.write(derived.path_of(folder, KIND, self.file, self.rows), KIND, self.file, self.rows, facts, arrays)


def load(db: sqlite3.Connection, target: Snapshot, vector: Physical, folder: Path) -> Columns:
    """The columns of a snapshot: from the best derived file in ``folder``, the rest from SQLite."""
    for path in derived.find(folder, KIND, vector.file):
        try:
            found = derived.read(path, KIND, vector.file)
        except StoreFormat:
            continue
        if found.facts["seq"] <= target.seq:
            return _restored(found, target, vector).extended(db, target, vector)
    return Columns(vector.file).extended(db, target, vector)


def positions_of(db: sqlite3.Connection, target: Snapshot, vector: Physical, ids: Sequence[str]) -> NDArray[np.int64]:
    """The positions of those records that exist and have the vector."""
    column = f"v{vector.id}"
    found: list[int] = []
    for start in range(0, len(ids), _FEW):
        some = ids[start : start + _FEW]
        marks = ", ".join("?" * len(some))
        query = f"SELECT {column} FROM r{target.id} WHERE id IN ({marks}) AND {column} IS NOT NULL"
        found += [position for (position,) in db.execute(query, some)]
    return np.array(found, dtype=np.int64)


def _restored(found: derived.Derived, target: Snapshot, vector: Physical) -> Columns:
    def arrays(name: str) -> dict[str, NDArray[Any]]:
        start = f"{name}/"
        return {key.removeprefix(start): array for key, array in found.arrays.items() if key.startswith(start)}

    seq, seqs = found.facts["seq"], found.facts["fields"]
    fields: dict[str, Column[Part]] = {
        declared.column: Column((restored(declared, arrays(declared.column)),), seqs[declared.column])
        for declared in target.spec.columns
        if declared.column in seqs
    }
    ids, records = Strings.loaded(arrays(_IDS)), Ints.loaded(arrays(_RECORDS))
    return Columns(vector.file, Column((ids,), seq), Column((records,), seq), fields)


def _spans(start: int, stop: int) -> list[tuple[int, int]]:
    return [(first, min(first + _CHUNK, stop)) for first in range(start, stop, _CHUNK)]


def _records(db: sqlite3.Connection, target: Snapshot, vector: Physical, start: int, stop: int) -> tuple[Strings, Ints]:
    """The ids and rows at positions ``start`` to ``stop``."""
    ids, rows = [""] * (stop - start), [0] * (stop - start)
    for position, row, record in db.execute(_query(target, vector, "row", "id"), (start, stop)):
        ids[position - start], rows[position - start] = record, row
    return Strings.of(ids), Ints.of(rows)


def _values(db: sqlite3.Connection, target: Snapshot, vector: Physical, declared: Field, start: int, stop: int) -> Part:
    """The values of a field at positions ``start`` to ``stop``."""
    form = form_of(declared.kind)
    if declared.many:
        owners, items = _items(db, target, vector, declared, start, stop)
        return Lists.of(stop - start, form.of(items), owners)
    names = [name for name, _ in _pq_sql.columns(declared)]
    values: list[Any] = [None] * (stop - start)
    found = db.execute(_query(target, vector, *names), (start, stop))
    if declared.kind is Kind.GEO:
        for position, lat, lon in found:
            values[position - start] = None if lat is None else (lat, lon)
    else:
        for position, value in found:
            values[position - start] = value
    return form.of(values)


def _items(
    db: sqlite3.Connection, target: Snapshot, vector: Physical, declared: Field, start: int, stop: int
) -> tuple[NDArray[np.int32], list[Any]]:
    """The items of a list field at positions ``start`` to ``stop``, and whose they are, counted from ``start``."""
    column = f"v{vector.id}"
    # In the order of positions, item by item: the index on (field, value), which the plus keeps SQLite from, would
    # read every item of the field for every record.
    query = (
        f"SELECT {column} - ?, value, lon FROM r{target.id} r CROSS JOIN m{target.id} m "
        f"ON m.row = r.row AND +m.field = ? WHERE {column} >= ? AND {column} < ? ORDER BY {column}"
    )
    found = db.execute(query, (start, declared.ordinal, start, stop)).fetchall()
    owners = np.array([owner for owner, _, _ in found], dtype=np.int32)
    if declared.kind is Kind.GEO:
        return owners, [(lat, lon) for _, lat, lon in found]
    return owners, [value for _, value, _ in found]


def _query(target: Snapshot, vector: Physical, *names: str) -> str:
    column = f"v{vector.id}"
    return (
        f"SELECT {', '.join((column, *names))} FROM r{target.id} WHERE {column} >= ? AND {column} < ? ORDER BY {column}"
    )
