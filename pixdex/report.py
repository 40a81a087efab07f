"""What became of the pictures that were added or attached: the report, and the tally that it grows from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

__all__ = ["Entry", "Progress", "Quarantined", "Report", "Stamp", "Status", "Tally"]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A picture that could not be used, and why; ``id`` is that of the record it was to be, where that is known."""

    path: str
    reason: str
    id: str | None = field(default=None, compare=False)


class Status(StrEnum):
    """What became of a picture last."""

    ADDED = "added"
    REUSED = "reused"
    UNCHANGED = "unchanged"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Stamp:
    """How a file looked when it was hashed: it has the same content while it looks the same."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What became of one picture.

    Attributes:
        id: of the record; of a picture without one whatever reports call it.
        label: what reports call it: mostly its path.
        status: what became of it.
        reason: why it failed.
        content: its content hash, where it could be read.
        stamp: how its file looked then, where it is one.
        attempts: how many runs in a row it failed in; else 1.
        at: seconds since 1970, when that was; of a file that was hashed, when its stamp was taken.
    """

    id: str
    label: str
    status: Status
    reason: str | None = None
    content: str | None = None
    stamp: Stamp | None = None
    attempts: int = 1
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of the pictures.

    Attributes:
        added: encoded and written.
        reused: written with the vectors that the same content has already (moved, or new fields).
        unchanged: there already, nothing done.
        duplicate: left out, as the collection holds the same picture under another id, where that was asked for.
        removed: records whose files are gone, where those were asked for.
        ignored: files in the folder that are no pictures by name or signature.
        quarantined: what could not be used.
        notices: what was decided on the user's behalf, in sentences.
        seconds: wall-clock time.
    """

    added: int = 0
    reused: int = 0
    unchanged: int = 0
    duplicate: int = 0
    removed: int = 0
    ignored: int = 0
    quarantined: tuple[Quarantined, ...] = ()
    notices: tuple[str, ...] = ()
    seconds: float = 0.0

    @classmethod
    def together(cls, reports: Sequence[Report]) -> Report:
        """Several reports as one; what they all say is said once."""
        return cls(
            added=sum(report.added for report in reports),
            reused=sum(report.reused for report in reports),
            unchanged=sum(report.unchanged for report in reports),
            duplicate=sum(report.duplicate for report in reports),
            removed=sum(report.removed for report in reports),
            ignored=sum(report.ignored for report in reports),
            quarantined=tuple(row for report in reports for row in report.quarantined),
            notices=tuple(dict.fromkeys(notice for report in reports for notice in report.notices)),
            seconds=sum(report.seconds for report in reports),
        )

    @property
    def seen(self) -> int:
        """Pictures looked at."""
        return self.added + self.reused + self.unchanged + self.duplicate + len(self.quarantined)


Progress: TypeAlias = Callable[[Report], None]
"""Called with the report so far, after every written batch."""


class Tally:
    """The report while it grows."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.added = self.reused = self.unchanged = self.duplicate = self.removed = self.ignored = 0
        self.quarantined: list[Quarantined] = []

    def report(self, notices: Sequence[str]) -> Report:
        return Report(
            added=self.added,
            reused=self.reused,
            unchanged=self.unchanged,
            duplicate=self.duplicate,
            removed=self.removed,
            ignored=self.ignored,
            quarantined=tuple(self.quarantined),
            notices=tuple(notices),
            seconds=time.monotonic() - self._started,
        )

    def quarantine(self, path: str, error: Exception | str) -> None:
        self.quarantined.append(Quarantined(path, str(error)))

    def take(self, entries: Iterable[Entry]) -> None:
        """Count what became of pictures, one by one."""
        for entry in entries:
            if entry.status is Status.FAILED:
                self.quarantined.append(Quarantined(entry.label, entry.reason or "", entry.id))
            else:
                setattr(self, entry.status, getattr(self, entry.status) + 1)
