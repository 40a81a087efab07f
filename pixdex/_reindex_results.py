"""What a reindexing, a switch and a way back came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pixdex._reindex_job import Missing
from pixdex.evaluation import Interval

__all__ = ["Compared", "ReindexReport", "RollbackReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The new collection beside the old one.

    Attributes:
        queries: records that were searched for.
        label: the field that says what is right; None: nobody said.
        old, new: name of a metric -> its mean and 95 % interval, with a label.
        differences: name of a metric -> new minus old, mean and 95 % interval of the paired bootstrap.
        overlap: the share of the ten nearest of a record that are the same in both: how much another encoder changes, not
            whether for the better.
        looked_for: pictures that were encoded once more and searched for exactly in the new collection.
        found: of those, how many found their own record first, or one that scores the same.
        notices: what to know of these numbers, in sentences.
    """

    queries: int = 0
    label: str | None = None
    old: Mapping[str, Interval] = field(default_factory=dict)
    new: Mapping[str, Interval] = field(default_factory=dict)
    differences: Mapping[str, Interval] = field(default_factory=dict)
    overlap: float | None = None
    looked_for: int = 0
    found: int = 0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexReport:
    """What became of a reindexing.

    Attributes:
        old, new: names of the collections, in one store.
        encoders: their encoders.
        records: how many each has: old, new.
        written: records written by this run; ``before``: by earlier ones.
        derived: they were made of the vectors that were there, without opening a picture.
        deleted: records that were removed from the new collection, since the old one had them no more.
        missing: records that the new collection lacks, and why.
        compared: the one beside the other; None where it did not come to that.
        alias: that names the new collection now; None: it names what it named.
        refused: why the alias was not switched, in a sentence; None where it was, or was not to be.
        seconds: this run took; ``rate``: records a second of it.
        notices: what was decided on the user's behalf, in sentences.
    """

    old: str
    new: str
    encoders: tuple[str, str]
    records: tuple[int, int] = (0, 0)
    written: int = 0
    before: int = 0
    derived: bool = False
    deleted: int = 0
    missing: tuple[Missing, ...] = ()
    compared: Compared | None = None
    alias: str | None = None
    refused: str | None = None
    seconds: float = 0.0
    rate: float = 0.0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackReport:
    """What became of a way back.

    Attributes:
        alias: what was switched.
        left: the collection that it named.
        back: the one that it names now.
        lacking: how many records of ``left`` the other one lacks or has of an older revision, after what was caught up.
        again: how many it has that were deleted from ``left``.
        caught_up: records written to it, by its own encoder.
        deleted: records removed from it, since they were removed from ``left``.
        missing: those that could not be encoded, and why.
        notices: what to know, in sentences.
    """

    alias: str
    left: str
    back: str
    lacking: int = 0
    again: int = 0
    caught_up: int = 0
    deleted: int = 0
    missing: tuple[Missing, ...] = ()
    notices: tuple[str, ...] = ()
