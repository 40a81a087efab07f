"""What became of the pictures that were added or attached: the report, and the tally that it grows from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Progress", "Quarantined", "Report", "Tally"]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A picture that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of the pictures.

    Attributes:
        added: encoded and written.
        reused: written with the vectors that the same content has already (moved, or new fields).
        unchanged: there already, nothing done.
        ignored: files in the folder that are no pictures by name or signature.
        quarantined: what could not be used.
        notices: what was decided on the user's behalf, in sentences.
        seconds: wall-clock time.
    """

    added: int = 0
    reused: int = 0
    unchanged: int = 0
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
            ignored=sum(report.ignored for report in reports),
            quarantined=tuple(row for report in reports for row in report.quarantined),
            notices=tuple(dict.fromkeys(notice for report in reports for notice in report.notices)),
            seconds=sum(report.seconds for report in reports),
        )

    @property
    def seen(self) -> int:
        """Pictures looked at."""
        return self.added + self.reused + self.unchanged + len(self.quarantined)


Progress: TypeAlias = Callable[[Report], None]
"""Called with the report so far, after every written batch."""


class Tally:
    """The report while it grows."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.added = self.reused = self.unchanged = self.ignored = 0
        self.quarantined: list[Quarantined] = []

    def report(self, notices: Sequence[str]) -> Report:
        return Report(
            added=self.added,
            reused=self.reused,
            unchanged=self.unchanged,
            ignored=self.ignored,
            quarantined=tuple(self.quarantined),
            notices=tuple(notices),
            seconds=time.monotonic() - self._started,
        )

    def quarantine(self, path: str, error: Exception | str) -> None:
        self.quarantined.append(Quarantined(path, str(error)))
