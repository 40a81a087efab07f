"""The ``pixdex`` command: thin commands over ``ImageIndex``.

Exit codes: 0 done, 1 an error that is explained in one line, 2 wrong usage, 130 stopped by Ctrl-C.
Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from pixdex.adopting import Proposal
    from pixdex.index import ImageIndex
    from pixdex.report import Report
    from pixdex.types import Hit

__all__ = ["app", "main"]

_STATE = {"debug": False}
_STOPPED = 130

app = typer.Typer(
    name="pixdex",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Store and collection, such as pq://photos.pix")]
Encoder = Annotated[
    str | None, typer.Option("--encoder", "-e", help="Encoder reference; default: the collection's own, or classic.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Where = Annotated[
    str | None, typer.Option("--where", "-w", help='Filter, such as: year >= 2020 and not (album == "x")')
]


def _version(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        from pixdex import __version__

        typer.echo(f"pixdex {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Image search on the vector store you have."""
    del version
    _STATE["debug"] = debug


@app.command()
def add(
    url: Url,
    pictures: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders or picture files.")],
    *,
    encoder: Encoder = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", "-f", metavar="NAME=VALUE", help="A field of every picture added.")
    ] = None,
    declare: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:KIND", help="Declare a field: text, int, float, bool, time, geo; KIND[] for lists."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Name of the folder in ids; default: its own name.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Keep tokens for rerankers, in a new collection.")] = False,
    json: Json = False,
) -> None:
    """Add pictures: folders are walked, what is there already is skipped, what is broken is reported."""
    from pixdex.errors import ConfigError
    from pixdex.pictures import path_exists

    kinds = dict(_split(text, ":", "--declare") for text in declare or ())
    fields = {name: _value(text, kinds.get(name)) for name, text in (_split(t, "=", "--field") for t in field or ())}
    for path in pictures:
        if not path_exists(path):
            raise ConfigError(f"{path} does not exist")
    with _open(url, encoder=encoder, tokens=tokens) as index:
        index.declare(kinds)
        report = index.add(pictures, fields=fields, source=source)
    _print_report(report, as_json=json)
    if report.quarantined and len(report.quarantined) == report.seen:
        raise typer.Exit(1)  # not one of them could be used


@app.command()
def search(
    url: Url,
    query: Annotated[str, typer.Argument(metavar="PICTURE|ID", help="A picture file, or the id of a record.")],
    *,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    where: Where = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out hits that score lower.")] = None,
    exclude_self: Annotated[bool, typer.Option("--exclude-self", help="Leave out the query itself.")] = False,
    rerank: Annotated[str | None, typer.Option(help="Reranker, such as maxsim.")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="How many hits the reranker sees.")] = 100,
    encoder: Encoder = None,
    json: Json = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page of thumbnails.")] = None,
) -> None:
    """Find the pictures most like one."""
    from pixdex.filters import parse

    with _open(url, encoder=encoder) as index:
        hits = index.search(
            query,
            k=k,
            where=None if where is None else parse(where),
            threshold=threshold,
            exclude_self=exclude_self,
            rerank=rerank,
            candidates=candidates,
        )
    if json:
        _print_json([{"id": hit.id, "score": hit.score, "payload": hit.payload} for hit in hits])
    else:
        _print_hits(hits)
    if html is not None:
        _write_page(html, query, hits)


@app.command()
def info(url: Url, *, json: Json = False) -> None:
    """Say what a collection is: store, encoder, fields, size."""
    import dataclasses

    from pixdex.connectors import connect
    from pixdex.index import describe

    connector, name = connect(url)
    try:
        facts = dataclasses.asdict(describe(connector, name))
    finally:
        connector.close()
    if json:
        _print_json(facts)
        return
    for key, value in facts.items():
        shown = ", ".join(f"{n}: {v}" for n, v in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{key:12} {'-' if shown in (None, '') else shown}")


@app.command()
def delete(
    url: Url,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Records to remove.")] = None,
    *,
    where: Where = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove records by id or by filter."""
    from pixdex.collection import Collection
    from pixdex.connectors import connect
    from pixdex.filters import F, parse

    if bool(ids) == (where is not None):
        raise typer.BadParameter("give ids or --where, one of them", param_hint="ID")
    chosen = F.ids(ids or ()) if where is None else parse(where)
    connector, name = connect(url)
    try:
        collection = Collection.open(connector, name)
        count = collection.count(chosen)
        if count and not yes:
            typer.confirm(f"Remove {count} records?", abort=True, err=True)
        collection.delete_where(chosen)
        collection.flush()
    finally:
        connector.close()
    typer.echo(f"removed {count}", err=True)


@app.command()
def adopt(
    url: Url,
    *,
    encoder: Annotated[
        str | None, typer.Option("--encoder", "-e", help="The encoder that made the vector, on your word.")
    ] = None,
    vector: Annotated[str | None, typer.Option(help="Which vector that is, by the store's name.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Forget that the collection was adopted.")] = False,
    json: Json = False,
) -> None:
    """Open a collection that another tool made: look at it, propose, and register it. No record is touched."""
    from pixdex import adopting, encoders
    from pixdex.connectors import connect

    connector, name = connect(url)
    try:
        if undo:
            adopting.release(connector, name)
            typer.echo(f"{name} is no longer adopted; vectors that were attached stay", err=True)
            return
        loaded = None if encoder is None else encoders.load(encoder)
        proposal = adopting.propose(connector, name, encoder=loaded, vector=vector)
        if json:
            _print_json(_proposed(proposal))
        else:
            _print_proposal(proposal)
        if yes or (not json and typer.confirm("Register it so? No record is touched.", err=True)):
            adopting.adopt(connector, proposal)
            typer.echo(f"adopted {name}", err=True)
    finally:
        connector.close()


@app.command()
def attach(
    url: Url,
    *,
    encoder: Annotated[str, typer.Option("--encoder", "-e", help="Encoder reference.")] = "classic",
    images: Annotated[str, typer.Option(metavar="FIELD", help="The key that holds the path of a picture.")],
    root: Annotated[Path | None, typer.Option(help="What relative paths are relative to.")] = None,
    where: Where = None,
    again: Annotated[bool, typer.Option("--again", help="Encode also what has a vector already.")] = False,
    json: Json = False,
) -> None:
    """Give the records of an adopted collection an image vector, by the pictures that a field of theirs names."""
    from pixdex import adopting, encoders
    from pixdex._progress import following
    from pixdex.connectors import connect
    from pixdex.filters import parse

    chosen = None if where is None else parse(where)
    loaded = encoders.load(encoder)
    connector, name = connect(url)
    try:
        with following(None) as progress:
            report = adopting.attach(
                connector, name, loaded, images=images, root=root, where=chosen, again=again, progress=progress
            )
    finally:
        connector.close()
    _print_report(report, as_json=json)
    if report.quarantined and len(report.quarantined) == report.seen:
        raise typer.Exit(1)  # not one of them could be used


@app.command()
def stores() -> None:
    """List the stores that an address can name."""
    from pixdex.connectors import available

    for scheme in available():
        typer.echo(f"{scheme}://")


@app.command()
def encoders() -> None:
    """List the encoders that --encoder can name."""
    from pixdex.encoders import available

    for name in available():
        typer.echo(name)


@app.command()
def demo(
    *,
    folder: Annotated[Path, typer.Option(help="Where pictures, index and page go.")] = Path("demo-out"),
    encoder: Encoder = None,
) -> None:
    """Index photographs and edited copies of them, and see whether search finds them again."""
    from pixdex._html import page
    from pixdex.demo import EDITS, run

    outcomes = run(folder, encoder=encoder)
    console = _console()
    first = next((o for o in outcomes if o.photograph == "chelsea"), outcomes[0])
    console.print(f"[bold]{first.query.name}[/bold] finds:")
    _print_hits(first.hits)
    for edit in EDITS:
        of_edit = [outcome for outcome in outcomes if outcome.edit == edit]
        console.print(f"{edit:11} {sum(o.right for o in of_edit):3} of {len(of_edit)} top hits are the same photograph")
    right = sum(outcome.right for outcome in outcomes)
    console.print(f"[bold]top hit right: {right} of {len(outcomes)} = {right / len(outcomes):.1%}[/bold]")
    target = folder / "hits.html"
    note = f"{len(outcomes)} edited copies searched for; the top hit is right for {right / len(outcomes):.1%}"
    sections = [(f"{o.photograph}, {o.edit}", o.query, o.hits) for o in outcomes]
    target.write_text(page("pixdex demo", note, sections), encoding="utf-8")
    console.print(f"page: {target}")


# --- between the shell and the library ----------------------------------------------------------------


def _open(url: str, *, encoder: str | None, tokens: bool = False) -> ImageIndex:
    from pixdex.index import open as open_index

    return open_index(url, encoder=encoder, tokens=tokens)


def _split(text: str, mark: str, option: str) -> tuple[str, str]:
    name, found, value = text.partition(mark)
    if not found or not name:
        raise typer.BadParameter(f"{text!r}: write NAME{mark}{'KIND' if mark == ':' else 'VALUE'}", param_hint=option)
    return name, value


def _value(text: str, kind: str | None) -> Any:
    """A field's value from the shell, by its declared kind, else by its look: 3, 2.5, true, text."""
    import orjson

    if kind in ("text", "time"):
        return text
    try:
        value = orjson.loads(text)
    except ValueError:
        return text
    return text if value is None else value


def _console(*, err: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else 1000  # what goes into a file or pipe is not cut
    return Console(stderr=err, highlight=False, soft_wrap=True, width=width)


def _print_json(value: Any) -> None:
    import orjson

    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.flush()


def _print_hits(hits: Sequence[Hit]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("", "score"):
        table.add_column(heading, justify="right")
    for heading in ("id", "path"):
        table.add_column(heading, overflow="fold")
    for rank, hit in enumerate(hits, 1):
        path = (hit.payload or {}).get("path", "")
        table.add_row(str(rank), f"{hit.score:+.3f}", _printable(hit.id), _printable(str(path)))
    _console().print(table if hits else "nothing found")


def _proposed(proposal: Proposal) -> dict[str, Any]:
    import dataclasses

    import orjson

    spec = orjson.loads(proposal.spec.to_json())
    return {"survey": dataclasses.asdict(proposal.survey), "spec": spec, "notices": list(proposal.notices)}


def _print_proposal(proposal: Proposal) -> None:
    from rich.table import Table

    from pixdex.fields import spelled

    survey = proposal.survey
    table = Table(box=None, pad_edge=False)
    for heading in ("theirs", "", "in pixdex", ""):
        table.add_column(heading, overflow="fold")
    table.add_row(_printable(survey.key), f"ids, {survey.ids}", "id", "text")
    for vector in proposal.spec.vectors:
        theirs = _printable(vector.stored_as or "(unnamed)")
        table.add_row(theirs, "vector", vector.name, f"{vector.dim} x {vector.metric}, {vector.fingerprint.encoder}")
    for field in proposal.spec.fields:
        table.add_row(_printable(field.stored_as or ""), "field", field.name, spelled(field))
    console = _console()
    console.print(f"[bold]{_printable(proposal.collection)}[/bold]: {survey.count} records")
    console.print(table)
    for notice in proposal.notices:
        console.print(f"note: {_printable(notice)}")


def _print_report(report: Report, *, as_json: bool) -> None:
    import dataclasses

    if as_json:
        _print_json(dataclasses.asdict(report))
        return
    console = _console(err=True)
    for notice in report.notices:
        console.print(f"note: {_printable(notice)}")
    for row in report.quarantined:
        console.print(f"[red]unusable[/red] {_printable(row.path)}: {_printable(row.reason)}")
    parts = [f"{report.added} added", f"{report.reused} reused", f"{report.unchanged} unchanged"]
    parts += [f"{report.ignored} other files ignored"] if report.ignored else []
    parts += [f"{len(report.quarantined)} unusable"] if report.quarantined else []
    console.print(f"{', '.join(parts)} in {report.seconds:.1f} s")


def _printable(text: str) -> str:
    """Markup for ``text`` on one line: names of files may hold newlines and orders to the terminal."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def _write_page(target: Path, query: str, hits: Sequence[Hit]) -> None:
    from pixdex._html import page
    from pixdex.errors import ConfigError
    from pixdex.pictures import names_file, shown

    picture = Path(query).expanduser() if names_file(query) else None
    title = query if picture is None else shown(Path(picture.name))
    text = page(f"Pictures like {title}", f"{len(hits)} hits", [("hits", picture, hits)])
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {target}: cannot be written ({error.strerror}): choose another file") from error


def _one_line(error: Exception) -> str:
    from pixdex.errors import InvalidFilter

    text = str(error)
    if isinstance(error, InvalidFilter):  # what follows points at the place, which it names already
        text = text.partition("\n")[0]
    return " ".join(text.split())


def main() -> None:
    """The console script."""
    from pixdex.errors import PixdexError

    try:
        app(standalone_mode=True)
    except SystemExit as stop:
        if stop.code == _STOPPED:  # typer has caught Ctrl-C itself
            typer.echo("stopped; what was written stays, run the same again to go on", err=True)
        raise
    except (PixdexError, OSError) as error:
        if _STATE["debug"]:
            raise
        typer.echo(f"pixdex: {_one_line(error)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
