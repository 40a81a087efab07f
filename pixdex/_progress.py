"""The progress bar: pictures done, rate, what went wrong so far. On stderr, by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from pixdex.ingest import Report

__all__ = ["Bar"]


class Bar:
    """One line that follows an ``add``. The total is unknown, since folders are walked as they are read."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)
        )
        self._task = self._progress.add_task("looking for pictures", total=None)
        self._progress.start()

    def show(self, report: Report) -> None:
        """Show a report so far."""
        rate = report.seen / report.seconds if report.seconds else 0.0
        parts = [f"{report.seen} pictures", f"{rate:.0f}/s", f"{report.added} added", f"{report.unchanged} unchanged"]
        if report.quarantined:
            parts.append(f"[red]{len(report.quarantined)} unusable[/red]")
        self._progress.update(self._task, description=", ".join(parts))

    def close(self) -> None:
        """Leave the last line as it is."""
        self._progress.stop()
