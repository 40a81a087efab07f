"""``pixdex label``: labels that exist already, put on the records of a collection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixdex._options import Json, Url
from pixdex._shell import stopping

if TYPE_CHECKING:
    from pixdex.labelling import LabelReport

__all__ = ["label"]

_STAYS = "what was written stays, run the same again to go on"
_SHOWN = 5
_SAID = {
    "unlabelled": "without a label",
    "unknown": "not in the collection",
    "ambiguous": "ambiguous",
    "contradictory": "contradictory, left as they were",
    "unusable": "unusable",
}


def label(
    url: Url,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A table (.csv, .tsv, .jsonl, .parquet), or COCO annotations (.json)."),
    ],
    *,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="COLUMN", help="The column with the labels, or several; default: label."),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option("--field", "-f", metavar="NAME", help="The field that gets them; default: as the column."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Of a new field: text, int, float, bool, time, geo; KIND[] for lists. Default: as the values are."
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="The column that names the pictures; default: id, else path, file, filename, image or url."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="path|name|id",
            help="What it names: paths; what paths end with; ids. Default: id where the column is so called, else path.",
        ),
    ] = None,
    root: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="What paths are relative to; default: the folder of the file.")
    ] = None,
    largest: Annotated[
        bool, typer.Option("--largest", help="COCO: the category of a picture's largest box alone.")
    ] = False,
    declare: Annotated[
        bool,
        typer.Option("--declare/--no-declare", help="Declare a field that is not there, for filters."),
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing, say what would be.")] = False,
    json: Json = False,
) -> None:
    """Put labels that a file holds on the records of a collection, for filters, eval, train and calibrate."""
    from pixdex.labelling import label as put

    with stopping("nothing was written" if dry_run else _STAYS):
        done = put(
            url,
            file,
            label=label,
            field=field,
            kind=kind,
            column=column,
            by=by,
            root=root,
            largest=largest,
            declare=declare,
            dry_run=dry_run,
        )
    if json:
        from pixdex._printing import print_json

        print_json(done.to_json())
    else:
        _print(done)
    if not done.matched and done.rows:
        raise typer.Exit(1)  # not one row could be used


def _print(done: LabelReport) -> None:
    """What became of the labels, on standard error."""
    from pixdex._printing import console, printable

    out = console(err=True)
    for notice in done.notices:
        out.print(f"note: {printable(notice)}")
    parts = [f"{done.labelled} labelled", f"{done.changed} changed", f"{done.unchanged} unchanged"]
    for what, words in _SAID.items():
        counted = getattr(done, what)
        for example in counted.examples[:_SHOWN]:
            out.print(f"[red]{words.partition(',')[0]}[/red] {printable(example)}")
        parts += [f"{counted.count} {words}"] if counted.count else []
    parts += [f"{done.repeated} rows said again"] if done.repeated else []
    out.print(
        f"{'would be: ' if done.dry_run else ''}{', '.join(parts)}; {done.matched} of {done.records} records have "
        f"{', '.join(done.fields)}"
    )
