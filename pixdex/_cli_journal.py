"""``pixdex journal``: what became of each picture that was added from this machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from pixdex._options import Json, Url

__all__ = ["journal"]


class Which(StrEnum):
    """Which rows are shown."""

    FAILED = "failed"
    REMOVED = "removed"
    ALL = "all"


def journal(
    url: Url,
    *,
    which: Annotated[Which, typer.Option("--which", help="Which pictures are listed.")] = Which.FAILED,
    json: Json = False,
) -> None:
    """Show what became of the pictures that pixdex add went through on this machine, and why some failed.

    To try those again: pixdex add --retry-failed, with the same folders.
    """
    import dataclasses

    from rich.table import Table

    from pixdex import journal as journals
    from pixdex._printing import console, print_json, printable
    from pixdex.report import Status

    file = journals.journal_of(url)
    counts = {status.value: count for status, count in journals.counts(file).items()}
    entries = journals.read(file, *(() if which is Which.ALL else (Status(which),)))
    if json:
        print_json({"file": str(file), "counts": counts, "pictures": [dataclasses.asdict(entry) for entry in entries]})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("picture", "", "times", "why"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        table.add_row(printable(entry.label), entry.status, str(entry.attempts), printable(entry.reason or ""))
    if entries:
        console().print(table)
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    console(err=True).print(said or "nothing was added to this collection from this machine")
