"""``pixdex encoders``: which there are, what one is, fetching one, and whether one is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixdex._options import Format, Json
from pixdex._shell import stopping

if TYPE_CHECKING:
    from pixdex._inventory import Check

__all__ = ["encoders"]

encoders = typer.Typer(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Encoders: which there are, what one is, fetching one, and whether one is whole.",
)

Reference = Annotated[str, typer.Argument(metavar="ENCODER", help="Encoder reference, such as classic or hf:folder.")]
Thing = Annotated[
    str,
    typer.Argument(metavar="ENCODER|URL", help="Encoder reference, or the address of a collection for its encoder."),
]
_UNITS = ("B", "kB", "MB", "GB", "TB")


@encoders.callback()
def _names(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from pixdex.encoders import available

        for name in available():
            typer.echo(name)


@encoders.command("list")
def listed(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Folders of encoders, or that hold some.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """List the encoders that --encoder can name: installed ones, those in folders, and models of the hub in its cache."""
    import dataclasses

    from pixdex import _inventory as inventory
    from pixdex._printing import print_json
    from pixdex.encoders._hub import cache_folder

    folder = cache_folder()
    given = [path.expanduser() for path in folders or ()]
    entries = [*inventory.named(), *inventory.in_folders(given), *inventory.cached()]
    if json:
        print_json({"cache": None if folder is None else str(folder), "encoders": [*map(dataclasses.asdict, entries)]})
        return
    rows = [
        (entry.reference, entry.kind, (entry.digest or "-")[:16], _size(entry.size), entry.note) for entry in entries
    ]
    _print_table(("encoder", "", "fingerprint", "size", ""), rows)
    if folder is not None:
        typer.echo(f"cache of the hub: {folder}", err=True)


@encoders.command()
def show(thing: Thing, *, json: Json = False) -> None:
    """Say what an encoder is: network, what follows it, preprocessing, fingerprint."""
    from pixdex import _inventory as inventory
    from pixdex._printing import print_json
    from pixdex.encoders import load

    facts = inventory.describe_collection(thing) if _is_address(thing) else inventory.describe(load(thing))
    if json:
        print_json(facts)
    else:
        _print_facts(facts)


@encoders.command()
def pull(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model of the hub, such as google/vit-base-patch16-224.")
    ],
) -> None:
    """Fetch a model of the hub into the cache, so that it is there without a network."""
    from pixdex import _inventory as inventory

    with stopping("what was fetched stays, run the same again to go on"):
        typer.echo(inventory.pull(model))


@encoders.command("export-text")
def export_text(
    encoder: Annotated[str, typer.Argument(metavar="REFERENCE", help="Encoder of captions, as of add --text-encoder.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it goes.")],
    *,
    form: Annotated[Format, typer.Option("--format", help="What runs it.")] = Format.ONNX,
) -> None:
    """Write an encoder of captions as a folder that loads without torch, with the same vectors."""
    from pixdex.encoders import load_text, sentences
    from pixdex.errors import Unsupported

    loaded = load_text(encoder)
    if not isinstance(loaded, sentences.SentenceEncoder):
        raise Unsupported(f"{encoder} is an encoder of pictures too: pixdex export")
    sentences.export(loaded, folder, format=form.value)
    typer.echo(f"exported to {folder}", err=True)


@encoders.command()
def verify(
    thing: Thing,
    *,
    encoder: Annotated[
        str | None, typer.Option("--encoder", "-e", help="Of a collection: whether this one made its vectors.")
    ] = None,
    json: Json = False,
) -> None:
    """Read an encoder whole, compare it with its checksums and fingerprint, and try it; exit 1 if something differs.

    Of a collection: whether the encoder at hand is the one that made its vectors.
    """
    import dataclasses

    from pixdex import _inventory as inventory
    from pixdex._printing import print_json

    if encoder is not None and not _is_address(thing):
        raise typer.BadParameter("it goes with the address of a collection", param_hint="--encoder")
    with stopping("nothing was changed"):
        checks = inventory.verify_collection(thing, encoder) if _is_address(thing) else inventory.verify(thing)
    if json:
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        _print_checks(checks)
    if not all(check.holds for check in checks):
        raise typer.Exit(1)


def _is_address(thing: str) -> bool:
    """Whether it is the address of a collection: encoders have no ``//`` behind their colon."""
    return "://" in thing


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from pixdex._printing import console

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)


def _print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            typer.echo(f"{indent}{key}")
            _print_facts(value, f"{indent}  ")
        else:
            shown = _size(value) if key == "size" else ", ".join(map(str, value)) if isinstance(value, list) else value
            typer.echo(f"{indent}{key:14} {'-' if shown in (None, '') else shown}")


def _print_checks(checks: Sequence[Check]) -> None:
    from rich.markup import escape

    from pixdex._printing import console

    out = console()
    for check in checks:
        word = "[green]holds[/green]" if check.holds else "[red]FAILS[/red]"
        out.print(f"{word}  {escape(check.what)}: {escape(check.found)}")


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
