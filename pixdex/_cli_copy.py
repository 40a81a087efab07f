"""``pixdex copy``, ``export``, ``import``: a collection in another store, or in a file, with proof."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixdex._options import Format, Json
from pixdex._shell import stopping

if TYPE_CHECKING:
    from pixdex.copying import CopyReport, Follow, Moving, Until

__all__ = ["copy", "export", "import_file", "moment", "stopped_softly"]

IntoExisting = Annotated[bool, typer.Option("--into-existing", help="The target may hold other records already.")]
_STAYS = "what was copied stays, and the same command goes on from there"


def copy(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The collection to copy: an address, or a .parquet file.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Where it goes: an address, or a .parquet file.")],
    *,
    into_existing: IntoExisting = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="And those with ids of the source are replaced by the source's.")
    ] = False,
    rate: Annotated[float | None, typer.Option(min=0.001, metavar="N", help="No more than N records a second.")] = None,
    overlap: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="While the source is written to: how far the clocks of its writers may be apart, and the longest write.",
        ),
    ] = 60.0,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Records whose vectors, payload and tokens are compared. Default: all of 5000, of more 2000.",
        ),
    ] = None,
    switch_alias: Annotated[
        str | None, typer.Option("--switch-alias", metavar="NAME", help="Once all is the same, NAME names the target.")
    ] = None,
    switch_from: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="The collection that the alias names now.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Keep up with the source until Ctrl-C; then a last pass, the proof, the alias. Twice: stop.",
        ),
    ] = False,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --follow: until then, such as 06:30 or 2026-08-01T06:30.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Copy nothing, only compare.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page of what was found.")] = None,
    json: Json = False,
) -> None:
    """Copy a collection to another store, and prove that all of it is there: exit 1 where it is not.

    Interrupted or killed, the same command goes on. Done again, it brings the target up to date.
    """
    from pixdex import copying

    if until is not None and not follow:
        raise typer.BadParameter("say --follow, too: it is how long to follow", param_hint="--until")
    if check and follow:
        raise typer.BadParameter("--check copies nothing, so that there is nothing to follow", param_hint="--follow")
    sampling = copying.Sampling(records=sample)
    kept_up = copying.Until(None if until is None else moment(until, datetime.now().astimezone())) if follow else None
    with (
        stopping("nothing was changed" if check else _STAYS),
        stopped_softly(kept_up),
        following() as progress,
    ):
        if check:
            done = copying.check(source, target, into_existing=into_existing, sampling=sampling, progress=progress)
        else:
            done = copying.copy(
                source,
                target,
                into_existing=into_existing,
                replace_others=replace,
                rate=rate,
                overlap=overlap,
                sampling=sampling,
                switch_alias=switch_alias,
                switch_from=switch_from,
                follow=kept_up,
                progress=progress,
            )
    tell(done, page=report, as_json=json)


def export(
    what: Annotated[
        str, typer.Argument(metavar="COLLECTION|ENCODER", help="The address of a collection, or an encoder reference.")
    ],
    target: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Where it goes: a .parquet file, or a folder.")],
    *,
    form: Annotated[Format, typer.Option("--format", help="What runs an encoder.")] = Format.ONNX,
    text: Annotated[bool, typer.Option(help="The side of the texts too, of an encoder that has one.")] = True,
    json: Json = False,
) -> None:
    """Write a collection as a Parquet file, all of its records; or an encoder as a folder.

    The file is read by pandas, DuckDB, Spark, and by pixdex import; it is there when it is whole. The folder loads without
    torch: an encoder reference as any, with the same vectors.
    """
    if "://" in what:
        from pixdex.copying import copy as copy_records

        _check_file(target)
        with stopping(_STAYS), following() as follow:
            done = copy_records(what, target, progress=follow)
        tell(done, page=None, as_json=json)
        return
    from pixdex.encoders import load
    from pixdex.encoders.export import export as export_encoder

    export_encoder(load(what), target, format=form.value, text=text)
    typer.echo(f"exported to {target}", err=True)


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet file of pixdex export or encode.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Where it goes: an address.")],
    *,
    into_existing: IntoExisting = False,
    json: Json = False,
) -> None:
    """Write the records of a Parquet file to a collection, and prove that all of them are there."""
    from pixdex.copying import copy as copy_records

    _check_file(file)
    with stopping(_STAYS), following() as follow:
        done = copy_records(file, target, into_existing=into_existing, progress=follow)
    tell(done, page=None, as_json=json)


def moment(text: str, now: datetime) -> datetime:
    """A time as it is given: of a day, the next such, or of a date; local, where it names no zone. ``now`` is aware.

    Raises:
        ConfigError: it is none, or over.
    """
    from pixdex.errors import ConfigError

    try:
        if "-" in text:
            found = datetime.fromisoformat(text)
            found = found if found.tzinfo else found.astimezone()
        else:
            found = datetime.combine(now.date(), time.fromisoformat(text), now.tzinfo)
            found = found if found > now else found + timedelta(days=1)
    except ValueError:
        raise ConfigError(f"--until {text}: give a time, such as 06:30, or 2026-08-01T06:30") from None
    if found <= now:
        raise ConfigError(f"--until {text}: that is over")
    return found


@contextmanager
def stopped_softly(until: Until | None) -> Iterator[None]:
    """Ctrl-C ends keeping up, so that what was brought is compared; the second one, and one before, ends the command."""
    import signal
    import threading

    if until is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        if not until.begun or until.over:
            raise KeyboardInterrupt
        until.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_file(path: Path) -> None:
    from pixdex.errors import ConfigError
    from pixdex.records_file import is_file

    if not is_file(str(path)):
        raise ConfigError(f"{path}: the file is a Parquet file, and its name ends in .parquet")


def tell(done: CopyReport, *, page: Path | None, as_json: bool) -> None:
    """Say what became of a copy; an exit code where it is not signed off."""
    from pixdex._printing import print_json

    if as_json:
        import dataclasses

        print_json(dataclasses.asdict(done))
    else:
        _print(done)
    if page is not None:
        _write(page, done)
    if not done.signed_off:
        raise typer.Exit(1)


def _write(file: Path, done: CopyReport) -> None:
    from pixdex._copy_page import page
    from pixdex.errors import ConfigError

    try:
        file.write_text(page(done), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--report {file}: cannot be written ({error.strerror}): choose another file") from error


def _print(report: CopyReport) -> None:
    """What became of a copy: what was compared on standard output, the rest on standard error."""
    from rich.table import Table

    from pixdex._printing import console, printable

    err, out = console(err=True), console()
    for notice in report.notices:
        err.print(f"note: {printable(notice)}")
    for row in report.refused:
        err.print(f"[red]refused[/red] {printable(row.id)}: {printable(row.reason)}")
    table = Table(box=None, pad_edge=False, show_header=False)
    for check in report.checks:
        table.add_row(printable(check.name), "same" if check.passed else "[red]differs[/red]", printable(check.said))
        for line in check.differing:
            table.add_row("", "", printable(line))
    out.print(table)
    if report.copied or report.before:
        parts = [f"{report.copied} copied"] + ([f"{report.before} before"] if report.before else [])
        parts += [f"{report.caught_up} caught up", f"{report.deleted} deleted"]
        speed = f", {report.rate:,.0f}/s while copying" if report.rate else ""
        err.print(f"{', '.join(parts)} in {report.seconds:.1f} s{speed}")
    if report.alias is not None:
        err.print(f"alias {printable(report.alias)} names the target now")
    out.print("[bold]signed off[/bold]" if report.signed_off else "[bold red]not signed off[/bold red]")


@contextmanager
def following() -> Iterator[Follow | None]:
    """A bar on a terminal: the phase, how far it is, records a second, and how long it will take."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def show(moving: Moving) -> None:
            if moving.phase not in tasks:
                tasks[moving.phase] = bar.add_task(moving.phase, total=None, text="")
            bar.update(tasks[moving.phase], completed=moving.done, total=max(moving.total, 1), text=_line(moving))

        yield show


def _line(moving: Moving) -> str:
    if moving.phase == "last pass":
        return "Ctrl-C again stops at once"
    if moving.phase == "keeping up":
        return f"{moving.done:,} records since; Ctrl-C for the last pass and the proof"
    parts = [f"{moving.done:,} of {moving.total:,}"]
    if moving.rate:
        parts.append(f"{moving.rate:,.0f}/s")
    if moving.left is not None:
        minutes, seconds = divmod(round(moving.left), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02}:{seconds:02} left")
    return ", ".join(parts)
