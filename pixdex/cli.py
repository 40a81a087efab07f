"""The ``pixdex`` command: thin commands over ``ImageIndex``.

Exit codes: 0 done, 1 an error that is explained in one line, 2 wrong usage, 130 stopped by Ctrl-C.
Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pixdex._cli_adopt import adopt, attach
from pixdex._cli_calibrate import calibrate
from pixdex._cli_copy import copy, export, import_file
from pixdex._cli_dedup import dedup
from pixdex._cli_doctor import doctor
from pixdex._cli_encoders import encoders
from pixdex._cli_eval import evaluate
from pixdex._cli_explain import explain
from pixdex._cli_journal import journal
from pixdex._cli_label import label
from pixdex._cli_reindex import alias, reindex, rollback
from pixdex._cli_train import app as train
from pixdex._options import (
    AllowPrivate,
    AllowRemote,
    AtTime,
    Background,
    Column,
    Declared,
    Encoder,
    FieldValues,
    Frame,
    Fusion,
    Json,
    LessLike,
    MaxBytes,
    MaxFailures,
    MaxPixels,
    MoreLike,
    NearPlace,
    Patience,
    Pictures,
    RemoveAtMost,
    RetryFailed,
    SourceName,
    Sync,
    TextColumn,
    TextEncoder,
    Truncated,
    Url,
    Weights,
    WhenDuplicate,
    WhenTruncated,
    Where,
    Workers,
    decoding,
    kinds_and_fields,
    moment,
    place,
    weights,
)
from pixdex._printing import (
    hit_values,
    one_line,
    print_findings,
    print_hits,
    print_json,
    print_outcomes,
    write_page,
)
from pixdex._shell import STOPPED, Told, check_there, encoded, loaded, open_index, show_report
from pixdex.encoders.decoding import PATIENCE

__all__ = ["app", "main"]


@dataclass(slots=True)
class _State:
    """How the command runs: with traces of errors; into which file it encodes."""

    debug: bool = False
    output: Path | None = None


_STATE = _State()

app = typer.Typer(
    name="pixdex",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        from pixdex import __version__

        typer.echo(f"pixdex {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Append a line of JSON for every call to the store.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Image search on the vector store you have."""
    del version
    _STATE.debug = debug
    if log is not None:
        from pixdex.observing import log_to

        log_to(log)


@app.command()
def add(
    url: Url,
    pictures: Pictures,
    *,
    encoder: Encoder = None,
    field: FieldValues = None,
    declare: Declared = None,
    source: SourceName = None,
    text: TextColumn = None,
    text_encoder: TextEncoder = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Keep tokens for rerankers, in a new collection.")] = False,
    column: Column = None,
    allow_remote: AllowRemote = False,
    allow_private: AllowPrivate = False,
    frame: Frame = 0,
    truncated: WhenTruncated = Truncated.REFUSE,
    background: Background = "FFFFFF",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    workers: Workers = None,
    patience: Patience = PATIENCE,
    sync: Sync = False,
    remove_at_most: RemoveAtMost = 0.2,
    retry_failed: RetryFailed = False,
    max_failures: MaxFailures = None,
    on_duplicate: WhenDuplicate = "keep",
    json: Json = False,
) -> None:
    """Add pictures: folders are walked, what is there already is skipped, what is broken is reported.

    A file of pixdex encode is loaded, without the encoder.
    """
    from pixdex.errors import ConfigError
    from pixdex.jobs import Job

    kinds, fields = kinds_and_fields(declare, field)
    files = encoded(pictures)
    if files:
        if len(files) < len(pictures):
            raise ConfigError(f"{files[0]} is encoded already: add such files by a command of their own")
        if any((encoder, kinds, fields, source, text, text_encoder, tokens, column)):
            raise ConfigError(f"{files[0]} is encoded already: encoder, fields and ids were chosen by pixdex encode")
        show_report(loaded(url, files), as_json=json)
        return
    check_there(pictures)
    with open_index(url, encoder=encoder, text_encoder=text_encoder, tokens=tokens) as index:
        index.declare(kinds)
        report = index.add(
            pictures,
            fields=fields,
            source=source,
            text=text,
            column=column,
            allow_remote=allow_remote,
            allow_private=allow_private,
            decoding=decoding(frame, truncated, background, max_pixels, max_bytes),
            workers=workers,
            patience=patience,
            job=Job(
                sync=sync,
                remove_at_most=remove_at_most,
                retry_failed=retry_failed,
                max_failures=max_failures,
                on_duplicate=on_duplicate,
            ),
        )
    show_report(report, as_json=json)


@app.command()
def encode(
    pictures: Pictures,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write, .parquet.")],
    encoder: Annotated[str | None, typer.Option("--encoder", "-e", help="Encoder reference; default: mini.")] = None,
    field: FieldValues = None,
    declare: Declared = None,
    source: SourceName = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="The encoder's tokens too, for rerankers.")] = False,
    column: Column = None,
    allow_remote: AllowRemote = False,
    allow_private: AllowPrivate = False,
    frame: Frame = 0,
    truncated: WhenTruncated = Truncated.REFUSE,
    background: Background = "FFFFFF",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    workers: Workers = None,
    patience: Patience = PATIENCE,
    json: Json = False,
) -> None:
    """Encode pictures into a file, for pixdex add to load: here or on another machine, without the encoder."""
    from pixdex.transfer import encode as encode_pictures

    kinds, fields = kinds_and_fields(declare, field)
    check_there(pictures)
    _STATE.output = output
    report = encode_pictures(
        pictures,
        output,
        encoder=encoder,
        declare=kinds,
        fields=fields,
        source=source,
        tokens=tokens,
        column=column,
        allow_remote=allow_remote,
        allow_private=allow_private,
        decoding=decoding(frame, truncated, background, max_pixels, max_bytes),
        workers=workers,
        patience=patience,
    )
    show_report(report, as_json=json)


@app.command()
def search(
    url: Url,
    query: Annotated[
        str | None, typer.Argument(metavar="[PICTURE|ID]", help="A picture file, or the id of a record.")
    ] = None,
    *,
    text: Annotated[
        str | None, typer.Option("--text", "-t", help="Words instead or besides: for captions, or an encoder of both.")
    ] = None,
    more_like: MoreLike = None,
    less_like: LessLike = None,
    near: NearPlace = None,
    at: AtTime = None,
    weight: Weights = None,
    fusion: Fusion = "rrf",
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    where: Where = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out hits that score lower.")] = None,
    exclude_self: Annotated[bool, typer.Option("--exclude-self", help="Leave out the query itself.")] = False,
    rerank: Annotated[str | None, typer.Option(help="Reranker, or several in stages, such as maxsim,cross@30.")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="How many hits are reranked and joined.")] = 100,
    encoder: Encoder = None,
    text_encoder: TextEncoder = None,
    frame: Frame = 0,
    truncated: WhenTruncated = Truncated.REFUSE,
    background: Background = "FFFFFF",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    json: Json = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page of thumbnails.")] = None,
) -> None:
    """Find the pictures most like one, or most like what words say, or both; near a place, about a time."""
    from pixdex.filters import parse
    from pixdex.pictures import names_file

    if query is None and text is None and not more_like:
        raise typer.BadParameter("give a picture, an id, --text or --more-like", param_hint="PICTURE|ID")
    with open_index(url, encoder=encoder, text_encoder=text_encoder) as index:
        hits = index.search(
            query,
            text=text,
            more_like=more_like or (),
            less_like=less_like or (),
            near=None if near is None else place(near),
            at=None if at is None else moment(at),
            weights=weights(weight),
            fusion=fusion,
            k=k,
            where=None if where is None else parse(where),
            threshold=threshold,
            exclude_self=exclude_self,
            rerank=rerank,
            candidates=candidates,
            decoding=decoding(frame, truncated, background, max_pixels, max_bytes),
        )
    if json:
        print_json([hit_values(hit) for hit in hits])
    else:
        print_hits(hits)
    if html is not None:
        picture = Path(query).expanduser() if query is not None and names_file(query) else None
        write_page(html, query or text or "", picture, hits)


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
        print_json(facts)
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
def compact(url: Url) -> None:
    """Give back the room of replaced and deleted records."""
    from pixdex._progress import counting
    from pixdex.collection import Collection
    from pixdex.connectors import connect

    connector, name = connect(url)
    try:
        with counting("compacting", None) as count:
            done = Collection.open(connector, name).compact(progress=count)
    finally:
        connector.close()
    typer.echo(f"kept {done.kept} vectors, removed {done.removed}, {done.freed / 1e6:.1f} MB freed", err=True)


@app.command()
def verify(url: Url, *, json: Json = False) -> None:
    """Read everything in a collection and compare it with its checksums; exit 1 if something is lost."""
    import dataclasses

    from pixdex._progress import counting
    from pixdex.collection import Collection
    from pixdex.connectors import connect

    connector, name = connect(url)
    try:
        with counting("verifying", None) as count:
            findings = Collection.open(connector, name).verify(progress=count)
    finally:
        connector.close()
    if json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print_findings(findings)
    if any(finding.lost for finding in findings):
        raise typer.Exit(1)


@app.command()
def stores() -> None:
    """List the stores that an address can name."""
    from pixdex.connectors import available

    for scheme in available():
        typer.echo(f"{scheme}://")


@app.command()
def demo(
    *,
    folder: Annotated[Path, typer.Option(help="Where pictures, index and page go.")] = Path("demo-out"),
    encoder: Encoder = None,
) -> None:
    """Index photographs and edited copies of them, and see whether search finds them again."""
    from pixdex.demo import run

    print_outcomes(run(folder, encoder=encoder), folder / "hits.html")


# Those of other modules come after, as they do in the help.
app.command()(copy)
app.command()(export)
app.command("import")(import_file)
app.command("label")(label)
app.command("eval")(evaluate)
app.command("calibrate")(calibrate)
app.command("explain")(explain)
app.command("journal")(journal)
app.command("doctor")(doctor)
app.command("dedup")(dedup)
app.command("reindex")(reindex)
app.command("rollback")(rollback)
app.command("alias")(alias)
app.command()(adopt)
app.command()(attach)
app.add_typer(encoders, name="encoders")
app.add_typer(train, name="train")


def _what_stays() -> str:
    """What is left of a command that was stopped."""
    if _STATE.output is None:
        return "what was written stays, run the same again to go on"
    from pixdex.transfer import partial_of

    folder = partial_of(_STATE.output.expanduser())
    if not folder.exists():
        return "nothing was written"
    return f"what was encoded stays in {folder}, run the same again to go on"


def main() -> None:
    """The console script."""
    from pixdex.errors import PixdexError

    try:
        app(standalone_mode=True)
    except SystemExit as stop:
        if stop.code == STOPPED and not isinstance(stop, Told):  # typer has caught Ctrl-C itself
            typer.echo(f"stopped; {_what_stays()}", err=True)
        raise
    except (PixdexError, OSError) as error:
        if _STATE.debug:
            raise
        typer.echo(f"pixdex: {one_line(error)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
