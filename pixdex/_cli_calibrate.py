"""``pixdex calibrate``: how far a reranker is to be believed on a collection, as a folder, a table, JSON, a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixdex._options import Encoder, Json, Url
from pixdex._shell import stopping

if TYPE_CHECKING:
    from pixdex.calibrating import Outcome
    from pixdex.evaluation import Interval

__all__ = ["calibrate"]

_NOTHING = "nothing was written"


def calibrate(
    url: Url,
    *,
    rerank: Annotated[str, typer.Option("--rerank", "-r", metavar="RERANKER", help="The reranker, such as cross.")],
    label: Annotated[
        str | None, typer.Option("--label", "-l", metavar="FIELD", help="Records that share its value match.")
    ] = None,
    copies: Annotated[
        bool,
        typer.Option("--copies", help="No labels: edits of the collection's pictures ask for what they were made of."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write it, for --rerank calibrated:FOLDER.")
    ] = None,
    candidates: Annotated[int, typer.Option(min=2, help="How many of the first hits are looked at.")] = 100,
    limit_queries: Annotated[int, typer.Option(min=1, metavar="N", help="No more queries, chosen at random.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is chosen at random.")] = 0,
    encoder: Encoder = None,
    json: Json = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a page with the reliability plot.")
    ] = None,
) -> None:
    """Make a reranker's scores probabilities, and find out whether its order is the better one."""
    from pixdex import calibrating
    from pixdex._shell import open_index

    with stopping(_NOTHING):
        index = open_index(url, encoder=encoder) if encoder is not None else None
        try:
            done = calibrating.calibrate(
                url if index is None else index,
                rerank,
                label=label,
                copies=copies,
                output=output,
                candidates=candidates,
                limit=limit_queries,
                seed=seed,
            )
        finally:
            if index is not None:
                index.close()
    if json:
        from pixdex._printing import print_json

        print_json({"url": url, **done.to_json(), "output": None if output is None else str(output)})
    else:
        _print_table(done, url)
    if html is not None:
        _write_page(html, done, url)
    if output is not None:
        typer.echo(f"written: --rerank calibrated:{output}", err=True)


def _print_table(done: Outcome, url: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    from pixdex._printing import console

    out, notes = console(), console(err=True)
    held, calibration = done.held, done.calibration
    out.print(
        f"[bold]{escape(url)}[/bold]  {escape(done.reranker.record.inner)}, {done.queries} queries, {len(held.matches)} pairs of "
        f"which {held.matches.mean():.1%} match"
    )
    out.print(f"what orders: [bold]{done.choice}[/bold]{_why(done)}")
    table = Table(box=None, pad_edge=False)
    for heading in ("on queries not fitted to", "first stage", "calibrated", "difference [95 %]"):
        table.add_column(heading, justify="left" if heading.startswith("on") else "right")
    table.add_row("map", f"{held.first.mean:.3f}", f"{held.ordered.mean:.3f}", escape(_signed(held.over)))
    table.add_row(
        "recall@1", f"{held.recall[0]:.3f}", f"{held.recall[1]:.3f}", f"{held.recall[1] - held.recall[0]:+.3f}"
    )
    out.print(table)
    out.print(f"P(match): ECE {held.ece:.3f} (parts of equal mass {held.ece_mass:.3f}), Brier {held.brier:.3f}")
    out.print(
        f"= sigmoid({calibration.weight_first:.3g} first + {calibration.weight_rerank:.3g} score "
        f"{calibration.weight_last:+.3g} last {calibration.bias:+.3g})"
    )
    for notice in done.notices:
        notes.print(f"note: {escape(notice)}")


def _why(done: Outcome) -> str:
    from rich.markup import escape

    parts = [f"{choice} {_signed(each)}" for choice, each in done.over.items()]
    return escape(f" (mAP over the first stage, cross-validated: {', '.join(parts)})") if parts else ""


def _signed(value: Interval) -> str:
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def _write_page(target: Path, done: Outcome, url: str) -> None:
    from pixdex._calibration_page import page
    from pixdex.errors import ConfigError

    try:
        target.write_text(page(done, url), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {target}: cannot be written ({error.strerror}): choose another file") from error
    typer.echo(f"page: {target}", err=True)
