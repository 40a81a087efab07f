"""Who follows an ``add``: the caller's function, a bar on stderr by rich, or nobody."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from pixdex.report import Progress, Report

__all__ = ["Count", "Steps", "counted", "counting", "following", "steps"]

Count: TypeAlias = Callable[[int, int], None]
"""Hears how many are done, and of how many."""


@contextmanager
def following(
    progress: Progress | bool | None,  # noqa: FBT001 - as users give it
    total: Callable[[], int | None] = lambda: None,
) -> Iterator[Progress | None]:
    """What to call with the report so far. True is a bar, False nothing; None is a bar on a terminal. ``total`` says how
    many there will be, for the time that is left; it may take its time.
    """
    if callable(progress):
        yield progress
    elif progress is False or (progress is None and not sys.stderr.isatty()):
        yield None
    else:
        with _bar(total) as show:
            yield show


@contextmanager
def _bar(total: Callable[[], int | None]) -> Iterator[Progress]:
    """One line, without an end in sight until ``total`` is known: folders are walked as they are read."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("looking for pictures", total=None)
        Thread(target=lambda: bar.update(task, total=total()), name="pixdex-total", daemon=True).start()
        yield lambda report: bar.update(task, completed=report.seen, description=_line(report))


@contextmanager
def counting(what: str, progress: Progress | bool | None) -> Iterator[Count | None]:  # noqa: FBT001 - as users give it
    """What to call with how many of a known number are done: a bar, as of ``following``; a function of the caller hears of
    reports only.
    """
    if callable(progress) or progress is False or (progress is None and not sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def counted(what: str, progress: Count | bool | None) -> Iterator[Count | None]:  # noqa: FBT001 - as users give it
    """``counting``, for callers whose function hears of numbers itself."""
    if callable(progress):
        yield progress
        return
    with counting(what, progress) as count:
        yield count


class Steps:
    """Bars for work in several parts, one a part: so many of so many, or a share with words beside it."""

    def __init__(self, bar: Any = None) -> None:
        """``bar`` is rich's; None: nobody looks."""
        self._bar = bar
        self._tasks: dict[str, Any] = {}

    def count(self, what: str, done: int, total: int) -> None:
        """Of the part ``what`` so many are done."""
        self.share(what, done / total if total else 1.0, f"{done} of {total}")

    def share(self, what: str, share: float, text: str) -> None:
        """Of the part ``what`` that share is done."""
        if self._bar is None:
            return
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=1.0, text="")
        self._bar.update(self._tasks[what], completed=share, text=text)


@contextmanager
def steps() -> Iterator[Steps]:
    """``Steps`` on a terminal, and such as show nothing elsewhere."""
    if not sys.stderr.isatty():
        yield Steps()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield Steps(bar)


def _line(report: Report) -> str:
    rate = report.seen / report.seconds if report.seconds else 0.0
    parts = [f"{report.seen} pictures", f"{rate:.0f}/s", f"{report.added} added", f"{report.unchanged} unchanged"]
    if report.quarantined:
        parts.append(f"[red]{len(report.quarantined)} unusable[/red]")
    return ", ".join(parts)
