"""``pixdex reindex``, ``rollback``, ``alias``: another encoder for a collection, and back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixdex._options import Json, Patience, Url
from pixdex._shell import stopping
from pixdex.encoders.decoding import PATIENCE

if TYPE_CHECKING:
    from pixdex.reindexing import Compared, Missing, ReindexReport, RollbackReport

__all__ = ["alias", "reindex", "rollback"]

_STAYS = "what was encoded stays, and the same command goes on from there"
_NAMED = 20
"""Records that are named of those that are missing."""
_NICE = 10
Overlap = Annotated[
    float,
    typer.Option(min=0.0, metavar="SECONDS", help="How far the clocks of writers may be apart, and the longest write."),
]
Rate = Annotated[float | None, typer.Option(min=0.001, metavar="N", help="No more than N records a second.")]
Nice = Annotated[
    int,
    typer.Option(
        min=0, max=19, help="How far the job stands back for whoever else wants the processor; 0: it does not."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="How many pictures are decoded at once; default: one less than cores, 7 at most."),
]


def reindex(
    url: Url,
    *,
    encoder: Annotated[str | None, typer.Option("--encoder", "-e", help="Reference of the new encoder.")] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the new collection. Default: the alias, and digits of the encoder."),
    ] = None,
    no_switch: Annotated[
        bool, typer.Option("--no-switch", help="Leave the new collection beside the old one, whatever URL names.")
    ] = False,
    missing: Annotated[
        str, typer.Option(metavar="keep-out|stop", help="What becomes of a record whose picture cannot be read.")
    ] = "keep-out",
    allow_missing: Annotated[
        int, typer.Option(min=0, metavar="N", help="With more records kept out than that, nothing is switched.")
    ] = 0,
    label: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Compare both encoders by this field, which says what is right.")
    ] = None,
    only_if_better: Annotated[
        bool, typer.Option("--only-if-better", help="With --label: switch only where the new one is surely no worse.")
    ] = False,
    overlap: Overlap = 60.0,
    rate: Rate = None,
    nice: Nice = _NICE,
    workers: Workers = None,
    patience: Patience = PATIENCE,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Only drop the collection that URL was switched from, when asked again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --drop-old: do not ask.")] = False,
    json: Json = False,
) -> None:
    """Encode a collection anew with another encoder, without a pause, and have the alias URL name the new one.

    Both are compared first, and the old one is kept, for pixdex rollback. Exit 1 where nothing was switched. Interrupted or killed,
    the same command goes on.
    """
    from pixdex import reindexing
    from pixdex._cli_copy import following

    if (encoder is None) is not drop_old:
        raise typer.BadParameter("name the new encoder, or drop what is kept of the old one", param_hint="--encoder")
    if drop_old:
        if not yes:
            typer.confirm(
                f"Drop the collection that {url} was switched from? There is no way back then.", abort=True, err=True
            )
        typer.echo(f"dropped {reindexing.drop_old(url)}", err=True)
        return
    options = reindexing.Options(
        into=into,
        switch=not no_switch,
        missing=missing,  # type: ignore[arg-type]  # it says what there is
        allow_missing=allow_missing,
        label=label,
        only_if_better=only_if_better,
        overlap=overlap,
        rate=rate,
        workers=workers,
        patience=patience,
    )
    _stand_back(nice)
    with stopping(_STAYS), following() as follow:
        done = reindexing.reindex(url, encoder=encoder or "", options=options, progress=follow)
    if json:
        _print_json(done)
    else:
        _print(done)
    if done.refused is not None:
        raise typer.Exit(1)


def rollback(
    url: Url,
    *,
    to: Annotated[
        str | None, typer.Option(metavar="NAME", help="The collection to name. Default: the one it named before.")
    ] = None,
    catch_up: Annotated[
        bool, typer.Option("--catch-up", help="First bring it what was written since, by its own encoder.")
    ] = False,
    overlap: Overlap = 60.0,
    rate: Rate = None,
    nice: Nice = _NICE,
    json: Json = False,
) -> None:
    """Let an alias name the collection again that it named before pixdex reindex. Nothing is dropped."""
    from pixdex import reindexing
    from pixdex._cli_copy import following

    options = reindexing.Options(overlap=overlap, rate=rate)
    if catch_up:
        _stand_back(nice)
    with stopping("nothing was dropped, and the same command goes on"), following() as follow:
        done = reindexing.rollback(url, to=to, catch_up=catch_up, options=options, progress=follow)
    if json:
        _print_json(done)
    else:
        _print_back(done)


def alias(
    url: Url,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called too.")],
) -> None:
    """Let NAME name a collection too, from one moment to the next, whatever it named before.

    Who opens a collection by an alias goes on by itself when that names another one: see pixdex reindex.
    """
    from pixdex.reindexing import name_alias

    before = name_alias(url, name)
    typer.echo(f"{name} names the collection now" + (f"; before: {before}" if before else ""), err=True)


def _stand_back(nice: int) -> None:
    """Have this process, and those it starts, give way to others. Not for single threads: one that holds the interpreter's lock
    while it waits for a core holds up all others of its process.
    """
    if nice and hasattr(os, "nice"):
        os.nice(nice)


def _print_json(done: ReindexReport | RollbackReport) -> None:
    import dataclasses

    from pixdex._printing import print_json

    print_json(dataclasses.asdict(done))


def _print(done: ReindexReport) -> None:
    from pixdex._printing import console, printable

    err, out = console(err=True), console()
    _notes(err, done.notices, done.missing)
    if done.compared is not None:
        _print_compared(out, done.compared)
    how = "from stored vectors" if done.derived else "from pictures"
    parts = [f"{done.written} records encoded {how}"] + ([f"{done.before} before"] if done.before else [])
    parts += [f"{done.deleted} deleted"] if done.deleted else []
    err.print(f"{', '.join(parts)} in {done.seconds:.1f} s, {done.rate:,.0f}/s")
    if done.refused is not None:
        out.print(f"[bold red]not switched[/bold red]: {printable(done.refused)}")
    elif done.alias is not None:
        out.print(
            f"[bold]{printable(done.alias)}[/bold] names {printable(done.new)} now, {printable(done.old)} is kept"
        )
    else:
        out.print(f"{printable(done.new)}: {done.records[1]} records")


def _print_compared(out: Any, result: Compared) -> None:
    from rich.table import Table

    if result.label is not None:
        table = Table(box=None, pad_edge=False)
        for heading in (f"by {result.label}", "old", "new", "new - old"):
            table.add_column(heading)
        for name, difference in result.differences.items():
            table.add_row(name, str(result.old[name]), str(result.new[name]), str(difference))
        out.print(table)
    elif result.overlap is not None:
        out.print(f"{result.overlap:.0%} of the ten nearest are the same, of {result.queries} records")
    out.print(f"{result.found} of {result.looked_for} pictures find their own record first")


def _print_back(done: RollbackReport) -> None:
    from pixdex._printing import console, printable

    err, out = console(err=True), console()
    _notes(err, done.notices, done.missing)
    if done.caught_up or done.deleted:
        err.print(f"{done.caught_up} records caught up, {done.deleted} deleted")
    out.print(
        f"[bold]{printable(done.alias)}[/bold] names {printable(done.back)} again, {printable(done.left)} is kept"
    )


def _notes(err: Any, notices: tuple[str, ...], missing: tuple[Missing, ...]) -> None:
    from pixdex._printing import printable

    for notice in notices:
        err.print(f"note: {printable(notice)}")
    for row in missing[:_NAMED]:
        err.print(f"[red]missing[/red] {printable(row.id)}: {printable(row.reason)}")
    if len(missing) > _NAMED:
        err.print(f"and {len(missing) - _NAMED} more")
