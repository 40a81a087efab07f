"""``pixdex train reranker``: a reranker for an encoder's tokens, on pictures of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixdex._cli_finetune import follower
from pixdex._options import Column, Json
from pixdex._shell import stopping

if TYPE_CHECKING:
    from pixdex.training.pairing import TrainedReranker

__all__ = ["register"]


class Kind(StrEnum):
    """Rerankers that can be trained."""

    CROSS = "cross"
    TRANSPORT = "transport"


class Form(StrEnum):
    """Forms of ``cross``."""

    QUERY = "query"
    SELF_CROSS = "self+cross"
    SYMMETRIC = "symmetric"


class TeacherTokens(StrEnum):
    """What a teacher sees."""

    NONE = "none"
    FULL = "full"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reranker")(reranker)


def reranker(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of class folders or of pictures, a table (.csv, .tsv, .jsonl, .parquet) with paths, or the URL "
            "of a collection.",
        ),
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="The reranker's folder: new or empty.")
    ],
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", "-e", help="Whose tokens, such as mini or hf:FOLDER; of a collection: its own."),
    ] = None,
    kind: Annotated[
        Kind, typer.Option(help="cross: a small transformer; transport: a tenth of its size, faster.")
    ] = Kind.CROSS,
    form: Annotated[
        Form,
        typer.Option(
            help="Of cross: query is cheap; in self+cross both pictures attend; symmetric is the same either way."
        ),
    ] = Form.QUERY,
    label: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Column or field with the class; default: label, where there is one."),
    ] = None,
    copies: Annotated[
        bool,
        typer.Option("--copies", help="Learn to find edits of a picture, without classes; the default without any."),
    ] = False,
    column: Column = None,
    where: Annotated[
        str | None, typer.Option("--where", "-w", help='Only what it holds for, such as: split == "train"')
    ] = None,
    teacher_tokens: Annotated[
        TeacherTokens, typer.Option(help="full: train a teacher on uncompressed tokens first, and learn from it too.")
    ] = TeacherTokens.NONE,
    views: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of each picture, itself among them; default: 8, with classes 2, with stored tokens 1."
        ),
    ] = None,
    project: Annotated[
        int | None, typer.Option(min=2, help="Fit a projection of tokens to so many values first, and keep it with it.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Of a reranker to go on from, or the name of one of pixdex's own."),
    ] = None,
    pictures: Annotated[int, typer.Option(min=20, help="At most so many, drawn at random.")] = 10_000,
    held: Annotated[float, typer.Option(help="Share of the pictures, or classes, that only judge.")] = 0.3,
    steps: Annotated[int, typer.Option(min=1, help="After so many steps it ends.")] = 1000,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="After so many minutes of training it ends too.")
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Lists a step.")] = 24,
    negatives: Annotated[int, typer.Option(min=1, help="Pictures in a list that don't match.")] = 15,
    neighbours: Annotated[int, typer.Option(min=1, help="They are drawn from so many nearest.")] = 200,
    reach: Annotated[int, typer.Option(min=1, help="Matches are drawn from so many nearest.")] = 300,
    rate: Annotated[
        float | None, typer.Option(help="The highest learning rate; default: cross 5e-4, transport 2e-3.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    json: Json = False,
) -> None:
    """Train a reranker for an encoder's tokens: search with --rerank cross:FOLDER, or transport:FOLDER.

    Some pictures, with classes whole classes, are kept back and judge; the report says whether it is any better than the
    first stage. Ctrl-C, or a kill, loses nothing: run the same again to go on.
    """
    from pixdex._progress import steps as bars
    from pixdex.training._loop import Pace
    from pixdex.training.pairing import RerankerRecipe, train_reranker
    from pixdex.training.reranking import Mining

    recipe = RerankerRecipe(
        kind=kind.value,
        form=form.value,
        teacher=teacher_tokens.value,
        views=views,
        project=project,
        held=held,
        pictures=pictures,
        rate=rate,
        mining=Mining(queries=queries, negatives=negatives, neighbours=neighbours, reach=reach),
    )
    pace = Pace(steps=steps, seconds=None if minutes is None else minutes * 60, device=device, seed=seed)
    with stopping(f"what was learned stays in {output}.partial, run the same again to go on"), bars() as bar:
        trained = train_reranker(
            source,
            output,
            encoder=encoder,
            label=label,
            copies=copies,
            column=column,
            where=where,
            recipe=recipe,
            pace=pace,
            start=start,
            follow=follower(bar, "mAP"),
            count=bar.count,
        )
    _show(trained, as_json=json)


def _show(trained: TrainedReranker, *, as_json: bool) -> None:
    from pixdex._printing import print_json

    if as_json:
        print_json({**trained.report, "reference": trained.reference})
        return
    for label, reason in trained.report["unusable"]:
        typer.echo(f"unusable {label}: {reason}", err=True)
    for line in trained.summary():
        typer.echo(line)
    typer.echo(f"reranker: {trained.reference}", err=True)
    typer.echo(f"report:   {trained.folder / 'report.json'}", err=True)
