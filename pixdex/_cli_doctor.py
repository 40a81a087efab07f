"""``pixdex doctor``: whether a collection is well."""

from __future__ import annotations

from typing import Annotated

import typer

from pixdex._options import Json, Url

__all__ = ["doctor"]


def doctor(
    url: Url,
    *,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="How many records are tried.")] = 100,
    deep: Annotated[bool, typer.Option("--deep", help="Read everything that has checksums too.")] = False,
    json: Json = False,
) -> None:
    """Look whether a collection is well: the store, what answers, its Spec, what its index finds, what has come loose.

    Nothing is written. The exit code is 1 when something is ill.
    """
    import dataclasses

    from rich.table import Table

    from pixdex._printing import console, print_json, printable
    from pixdex.doctor import State, diagnose

    found = diagnose(url, sample=sample, deep=deep)
    if json:
        print_json({**dataclasses.asdict(found), "well": found.well})
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        colours = {State.WELL: "green", State.NOTE: "yellow", State.ILL: "red", State.SKIPPED: "dim"}
        for check in found.checks:
            state = f"[{colours[check.state]}]{check.state}[/]"
            table.add_row(state, check.name, printable(check.what))
            if check.remedy:
                table.add_row("", "", f"[dim]{printable(check.remedy)}[/]")
        versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
        console().print(f"[bold]{printable(found.collection)}[/] on {found.store}{': ' if versions else ''}{versions}")
        console().print(table)
    if not found.well:
        raise typer.Exit(1)
