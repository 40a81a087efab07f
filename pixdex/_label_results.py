"""What became of labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Counted", "LabelReport", "Tally"]

_EXAMPLES = 20
_MOST = 400
"""Characters of an example: a cell may hold megabytes."""


@dataclass(frozen=True, slots=True)
class Counted:
    """How many, and the first of them in words."""

    count: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """What became of the rows of a file of labels, and of the records of the collection.

    Attributes:
        fields: the fields that got labels, each with its kind.
        declared: those of them that were declared for it.
        rows: rows of the file.
        records: records of the collection.
        labelled: records that had no label there and got one.
        changed: records that had another one.
        unchanged: records that had it already, and were not written again.
        repeated: rows that say again what one before said.
        unlabelled: rows that say nothing.
        unknown: rows about pictures that the collection does not have.
        ambiguous: rows whose name several pictures have.
        contradictory: records of which rows say different things; they were left as they are.
        unusable: rows that cannot be used, and why.
        notices: what to know, in sentences.
        seconds: wall-clock time.
        dry_run: nothing was written; the numbers are what would have been.
    """

    fields: tuple[str, ...]
    declared: tuple[str, ...] = ()
    rows: int = 0
    records: int = 0
    labelled: int = 0
    changed: int = 0
    unchanged: int = 0
    repeated: int = 0
    unlabelled: Counted = Counted()
    unknown: Counted = Counted()
    ambiguous: Counted = Counted()
    contradictory: Counted = Counted()
    unusable: Counted = Counted()
    notices: tuple[str, ...] = ()
    seconds: float = 0.0
    dry_run: bool = False

    @property
    def matched(self) -> int:
        """Records that have the labels of the file."""
        return self.labelled + self.changed + self.unchanged

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return asdict(self)


class Tally:
    """The report while it grows."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, what: str, count: int = 1) -> None:
        """So many more of a number of the report."""
        self._counts[what] = self._counts.get(what, 0) + count

    def name(self, what: str, example: str, count: int = 1) -> None:
        """So many more of what is counted with examples, such as this one."""
        self.add(what, count)
        some = self._examples.setdefault(what, [])
        if len(some) < _EXAMPLES:
            some.append(example if len(example) <= _MOST else f"{example[:_MOST]}...")

    def __getitem__(self, what: str) -> int:
        return self._counts.get(what, 0)

    def values(self) -> dict[str, Any]:
        """All of it, by the names that it has in a report."""
        named = {what: Counted(self[what], tuple(some)) for what, some in self._examples.items()}
        return {**self._counts, **named}
