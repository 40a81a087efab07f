"""``pixdex train``: heads, fine-tuning and adaptation, on pictures of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixdex._cli_finetune import register
from pixdex._cli_train_reranker import register as register_reranker
from pixdex._options import Column, Json, Patience, Workers
from pixdex._shell import stopping
from pixdex.encoders.decoding import PATIENCE

if TYPE_CHECKING:
    from pixdex.training.heading import TrainedHead

__all__ = ["app"]

app = typer.Typer(name="train", no_args_is_help=True, help="Make an encoder better for pictures of your own.")


class LossName(StrEnum):
    """Losses that ``--loss`` can name."""

    COSINE = "cosine"
    COSFACE = "cosface"
    ARCFACE = "arcface"
    PROXY_ANCHOR = "proxy-anchor"
    SUPCON = "supcon"
    MULTI_SIMILARITY = "multi-similarity"
    CONTRASTIVE = "contrastive"
    TRIPLET = "triplet"
    TRIPLET_SEMIHARD = "triplet-semihard"
    TRIPLET_HARD = "triplet-hard"


class HeadKind(StrEnum):
    """Heads that ``--head`` can name."""

    LINEAR = "linear"
    MLP = "mlp"
    POLYNOMIAL = "polynomial"
    GAUSSIAN = "gaussian"
    CHI2 = "chi2"


@app.callback()
def _train() -> None:
    """Make an encoder better for pictures of your own."""


@app.command()
def head(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of class folders, a table (.csv, .tsv, .jsonl, .parquet) with paths and classes, or the URL of "
            "a collection.",
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The encoder's folder: new or empty.")],
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", "-e", help="Encoder reference, such as hf:FOLDER; of a collection: its own."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column or field with the class; default: label.")
    ] = None,
    column: Column = None,
    where: Annotated[
        str | None, typer.Option("--where", "-w", help='Only what it holds for, such as: split == "train"')
    ] = None,
    loss: Annotated[
        list[LossName] | None,
        typer.Option(
            help="What is minimized; several: a head each, averaged; default: cosine, supcon, multi-similarity."
        ),
    ] = None,
    kind: Annotated[HeadKind, typer.Option("--head", help="What is trained.")] = HeadKind.LINEAR,
    dim: Annotated[int | None, typer.Option(min=2, help="Width of the vectors; default: 256 at most.")] = None,
    prefix: Annotated[
        list[int] | None,
        typer.Option(min=2, help="A width that shall serve alone (DIR?dim=N); default: 64 and 128."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes through the pictures, at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    retrain: Annotated[
        bool, typer.Option(help="At the end train on all classes, also those that were kept back to validate.")
    ] = True,
    mirrored: Annotated[bool, typer.Option(help="Learn from the mirrored pictures too: twice the encoding.")] = False,
    workers: Workers = None,
    patience: Patience = PATIENCE,
    json: Json = False,
) -> None:
    """Train a small head on an encoder's vectors, so that pictures of a class lie together, also of classes never seen.

    Some classes are kept back; the head is used only if it is better for them. DIR is then an encoder reference, with a
    report in it: report.html and report.json.
    """
    from pixdex.training import train_head

    with stopping("what was encoded stays, run the same again to go on"):
        trained = train_head(
            source,
            output,
            encoder=encoder,
            label=label,
            column=column,
            where=where,
            loss=None if loss is None else [one.value for one in loss],
            head=kind.value,
            dim=dim,
            prefixes=None if prefix is None else tuple(prefix),
            epochs=epochs,
            seed=seed,
            retrain=retrain,
            mirrored=mirrored,
            workers=workers,
            patience=patience,
        )
    _show(trained, output, as_json=json)


def _show(trained: TrainedHead, output: Path, *, as_json: bool) -> None:
    from pixdex._printing import print_json

    if as_json:
        print_json(trained.to_json())
        return
    for row in trained.unusable:
        typer.echo(f"unusable {row.path}: {row.reason}", err=True)
    for line in trained.summary():
        typer.echo(line)
    typer.echo(f"encoder: {output}", err=True)
    typer.echo(f"report:  {output / 'report.html'}", err=True)


register(app)
register_reranker(app)
