"""``pixdex train finetune`` and ``pixdex train ssl``: the network of an encoder trained, with labels or without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixdex._options import Json
from pixdex._shell import stopping

if TYPE_CHECKING:
    from pixdex._progress import Steps
    from pixdex.training._loop import Pace
    from pixdex.training.finetune import Tuned

__all__ = ["follower", "register"]

_Encoder = Annotated[
    str,
    typer.Option("--encoder", "-e", help="What is trained: hf:FOLDER or hub name, or the folder of a saved encoder."),
]
_Output = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the encoder goes.")]
_What = Annotated[str, typer.Option(help="all of the network, blocks:N (its last N), or lora:RANK.")]
_Steps = Annotated[int, typer.Option(min=1, help="After so many steps it ends.")]
_Minutes = Annotated[float | None, typer.Option(min=0.01, help="After so many minutes it ends too.")]
_Decay = Annotated[float, typer.Option(help="What the rate is multiplied with a block further down.")]
_Warmup = Annotated[float, typer.Option(help="Share of the run in which rates rise.")]
_Average = Annotated[float, typer.Option(help="Decay of the moving average of the weights; 0: none.")]
_Clip = Annotated[float, typer.Option(help="The largest norm of the gradients.")]
_Keep = Annotated[float, typer.Option(help="Weight of staying near the vectors of the frozen network.")]
_Memory = Annotated[bool, typer.Option("--checkpointing", help="Less memory, a third more time.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
_Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn.")]


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command("finetune")(finetune)
    app.command("ssl")(ssl)


def finetune(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder of class folders, or a table (.csv, .parquet, ...).")
    ],
    *,
    encoder: _Encoder,
    output: _Output,
    label: Annotated[str | None, typer.Option(help="Column of a table with the class; default: label.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of a table that names or holds pictures.")] = None,
    where: Annotated[str | None, typer.Option("--where", "-w", help="Filter over the other columns.")] = None,
    what: _What = "all",
    loss: Annotated[str, typer.Option(help="A loss, as of pixdex train head.")] = "supcon",
    steps: _Steps = 2000,
    minutes: _Minutes = None,
    classes_per_batch: Annotated[int, typer.Option(min=2, help="Classes in a batch.")] = 16,
    per_class: Annotated[int, typer.Option(min=2, help="Pictures of each of them.")] = 4,
    rate: Annotated[float, typer.Option(help="The highest learning rate, at the top of the network.")] = 1e-4,
    layer_decay: _Decay = 0.8,
    warmup: _Warmup = 0.1,
    average: _Average = 0.99,
    clip: _Clip = 1.0,
    weight_decay: Annotated[float, typer.Option(help="Of matrices, by AdamW.")] = 0.05,
    towards_start: Annotated[float, typer.Option(help="The same, towards where they started (L2-SP).")] = 0.0,
    keep: _Keep = 0.0,
    spread: Annotated[float, typer.Option(help="Weight of keeping vectors apart (KoLeo).")] = 0.0,
    validation: Annotated[float, typer.Option(help="Share of the classes that validate; 0: none.")] = 0.2,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Once chosen, train as long again on all classes.")
    ] = False,
    checkpointing: _Memory = False,
    device: _Device = "auto",
    seed: _Seed = 0,
    json: Json = False,
) -> None:
    """Train the network of an encoder on pictures with classes: a small one in minutes, a large one on a GPU.

    It is judged on classes that were kept back, with the frozen encoder among the candidates. Ctrl-C, or a kill, loses
    nothing: run the same again to go on.
    """
    from pixdex.training.data import labelled
    from pixdex.training.finetune import Recipe
    from pixdex.training.finetune import finetune as train

    recipe = Recipe(
        what=what,
        loss=loss,
        classes_per_batch=classes_per_batch,
        per_class=per_class,
        rate=rate,
        layer_decay=layer_decay,
        weight_decay=weight_decay,
        towards_start=towards_start,
        keep=keep,
        spread=spread,
        validation=validation,
        retrain=retrain,
        checkpointing=checkpointing,
    )
    pace = _pace(steps, minutes, warmup, average, clip, device, seed)
    given = labelled(source, label=label, column=column, where=where)
    _told(partial(train, given, output, encoder=encoder, recipe=recipe, pace=pace), output, as_json=json)


def ssl(
    source: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder of pictures, at any depth.")],
    *,
    encoder: _Encoder,
    output: _Output,
    pretext: Annotated[str, typer.Option(help="moco, simclr, rotation or position.")] = "moco",
    validate: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Pictures with classes to judge with: a folder of class folders, or a table."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of that table with the class; default: label.")] = None,
    what: _What = "all",
    steps: _Steps = 2000,
    minutes: _Minutes = None,
    batch: Annotated[int, typer.Option(min=2, help="Pictures of a step.")] = 64,
    rate: Annotated[float, typer.Option(help="The highest learning rate, at the top of the network.")] = 3e-5,
    layer_decay: _Decay = 0.8,
    warmup: _Warmup = 0.1,
    average: _Average = 0.99,
    clip: _Clip = 1.0,
    keep: _Keep = 0.0,
    checkpointing: _Memory = False,
    device: _Device = "auto",
    seed: _Seed = 0,
    json: Json = False,
) -> None:
    """Adapt the network of an encoder to pictures without labels: whether that helps depends on them.

    With pictures to validate with, the frozen encoder is among the candidates. Ctrl-C, or a kill, loses nothing: run the
    same again to go on.
    """
    from pixdex.training.data import labelled
    from pixdex.training.ssl import Adaptation, adapt

    adaptation = Adaptation(
        pretext=pretext,
        what=what,
        batch=batch,
        rate=rate,
        layer_decay=layer_decay,
        keep=keep,
        checkpointing=checkpointing,
    )
    pace = _pace(steps, minutes, warmup, average, clip, device, seed)
    judges = None if validate is None else labelled(validate, label=label)
    train = partial(adapt, source, output, encoder=encoder, adaptation=adaptation, pace=pace, validation=judges)
    _told(train, output, as_json=json)


def _pace(
    steps: int, minutes: float | None, warmup: float, average: float, clip: float, device: str, seed: int
) -> Pace:
    from pixdex.training._loop import Pace

    seconds = None if minutes is None else minutes * 60
    return Pace(steps=steps, seconds=seconds, warmup=warmup, average=average, clip=clip, device=device, seed=seed)


def _told(train: Callable[..., Tuned], output: Path, *, as_json: bool) -> None:
    """Train, with bars for the decoding and the run, and say what came of it."""
    from pixdex._progress import steps

    what_stays = f"what was learned stays in {output}.partial, run the same again to go on"
    with stopping(what_stays), steps() as bar:
        tuned = train(follow=follower(bar, "MAP@R"), count=bar.count)
    _show(tuned, as_json=as_json)


def follower(bar: Steps, metric: str) -> Any:
    """What shows a training that is judged by ``metric`` on a bar."""

    def follow(facts: Mapping[str, Any]) -> None:
        score = facts["score"]
        judged = "" if score is None else f", {metric} {score:.3f}"
        loss = "" if facts["loss"] is None else f", loss {facts['loss']:.3g}"
        bar.share("training", facts["share"], f"step {facts['step']}{loss}{judged}")

    return follow


def _show(tuned: Tuned, *, as_json: bool) -> None:
    from pixdex._printing import print_json

    report = tuned.report
    if as_json:
        print_json(report)
        return
    for label, reason in report["unusable"]:
        typer.echo(f"unusable {label}: {reason}", err=True)
    for row in report["candidates"]:
        if "map@r" in row:
            value, mark = row["map@r"], " <- chosen" if row["chosen"] else ""
            typer.echo(f"{row['name']:16} MAP@R {value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]{mark}")
    if all("map@r" not in row for row in report["candidates"]):
        typer.echo("nothing to judge with: the last weights were kept")
    typer.echo(f"{report['steps']} steps in {report['seconds']:.0f} s on {report['device']}", err=True)
    typer.echo(f"encoder: {tuned.folder}", err=True)
    page = tuned.folder / "report.html"
    typer.echo(f"report:  {page if page.exists() else tuned.folder / 'report.json'}", err=True)
