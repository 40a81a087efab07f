"""Who follows an ``add``: the caller's function, a bar on stderr by rich, or nobody."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pixdex.report import Progress, Report

__all__ = ["Count", "counting", "following"]

Count: TypeAlias = Callable[[int, int], None]
"""Hears how many are done, and of how many."""


@contextmanager
def following(progress: Progress | bool | None) -> Iterator[Progress | None]:  # noqa: FBT001 - as users give it
    """What to call with the report so far. True is a bar, False nothing; None is a bar on a terminal."""
    if callable(progress):
        yield progress
    elif progress is False or (progress is None and not sys.stderr.isatty()):
        yield None
    else:
        with _bar() as show:
            yield show


@contextmanager
def _bar() -> Iterator[Progress]:
    """One line. The total is unknown, since folders are walked as they are read."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("looking for pictures", total=None)
        yield lambda report: bar.update(task, description=_line(report))


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


def _line(report: Report) -> str:
    rate = report.seen / report.seconds if report.seconds else 0.0
    parts = [f"{report.seen} pictures", f"{rate:.0f}/s", f"{report.added} added", f"{report.unchanged} unchanged"]
    if report.quarantined:
        parts.append(f"[red]{len(report.quarantined)} unusable[/red]")
    return ", ".join(parts)
