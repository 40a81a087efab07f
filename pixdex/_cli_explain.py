"""``pixdex explain``: which regions of a picture that was found answer which of the query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixdex._options import (
    Background,
    Encoder,
    Frame,
    Json,
    MaxBytes,
    MaxPixels,
    Truncated,
    Url,
    WhenTruncated,
    decoding,
)

if TYPE_CHECKING:
    from pixdex.explaining import Box, Explanation

__all__ = ["explain"]


def explain(
    url: Url,
    query: Annotated[str, typer.Argument(metavar="PICTURE|ID", help="A picture file, or the id of a record.")],
    record: Annotated[str, typer.Argument(metavar="ID", help="The record that was found.")],
    *,
    rerank: Annotated[
        str, typer.Option(help="Reranker that says what corresponds: maxsim, cross, transport.")
    ] = "maxsim",
    n: Annotated[int, typer.Option("-n", min=1, help="How many pairs of regions.")] = 12,
    encoder: Encoder = None,
    frame: Frame = 0,
    truncated: WhenTruncated = Truncated.REFUSE,
    background: Background = "FFFFFF",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    json: Json = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a page: both pictures, with lines and heat maps.")
    ] = None,
) -> None:
    """Explain a hit: which of its regions answer which regions of the query, and what its score rests on."""
    from pixdex._printing import print_json, write_text
    from pixdex._shell import open_index

    how = decoding(frame, truncated, background, max_pixels, max_bytes)
    with open_index(url, encoder=encoder) as index:
        done = index.explain(query, record, rerank=rerank, decoding=how)
    if json:
        print_json(done.to_json(n))
    else:
        _print_table(done, n)
    if html is not None:
        write_text(html, done.to_html(n))


def _print_table(done: Explanation, n: int) -> None:
    from rich.table import Table

    from pixdex._printing import console, printable

    out = console()
    out.print(
        f"[bold]{printable(done.id)}[/bold]: {printable(done.reranker)} {done.score:+.3f}, by the vectors {done.first:+.3f}"
    )
    for notice in done.notices:
        console(err=True).print(f"note: {printable(notice)}")
    table = Table(box=None, pad_edge=False)
    for heading in ("", "weight"):
        table.add_column(heading, justify="right")
    for heading in ("in the query", "in the hit"):
        table.add_column(heading)
    pairs = done.pairs(n)
    for rank, pair in enumerate(pairs, 1):
        regions = zip((pair.query, pair.hit), pair.tokens, strict=True)
        table.add_row(str(rank), f"{pair.weight:.3f}", *(_where(box, token) for box, token in regions))
    out.print(table if pairs else "no region corresponds to another")


def _where(box: Box | None, token: int) -> str:
    """A region in words, and where its middle lies: percent from the left and from the top."""
    from pixdex.explaining import in_words

    if box is None:
        return f"token {token}"
    return f"{in_words(box)} ({box[0] + box[2] / 2:.0%}, {box[1] + box[3] / 2:.0%})"
