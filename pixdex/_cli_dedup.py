"""``pixdex dedup``: pictures that a collection holds more than once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixdex._options import Background, Frame, Json, MaxBytes, MaxPixels, Truncated, Url, WhenTruncated, Where, decoding
from pixdex.types import Hit

if TYPE_CHECKING:
    from pixdex.dedup import Duplicates, Group, Near

__all__ = ["dedup"]

_DRAWN = 300
"""Groups on a page."""


def dedup(
    url: Url,
    *,
    cosine: Annotated[
        float | None,
        typer.Option(
            metavar="C", help="Pairs less alike by their vectors are left out; default .95, looked at .5, verified .2."
        ),
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(help="Reranker that makes sure, by tokens; none: go without. Default: cross, where it fits."),
    ] = None,
    look: Annotated[
        bool | None,
        typer.Option(help="Open the pictures and lay them upon one another. Default: where OpenCV is (pixdex[dedup])."),
    ] = None,
    at_least: Annotated[
        float | None,
        typer.Option(metavar="P", help="The probability that is enough, where pairs are verified or looked at."),
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option("-k", min=1, help="How many neighbours each record asks for.")
    ] = None,
    keep: Annotated[str, typer.Option(help="Which to keep of a group: largest, oldest, newest.")] = "largest",
    where: Where = None,
    frame: Frame = 0,
    truncated: WhenTruncated = Truncated.REFUSE,
    background: Background = "FFFFFF",
    max_pixels: MaxPixels = None,
    max_bytes: MaxBytes = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove the records that need not be kept, when asked again. Never a file.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --delete: don't ask.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with the groups.")] = None,
    json: Json = False,
) -> None:
    """Find pictures that a collection holds more than once, edited copies too, and which of each is best kept."""
    from pixdex._printing import print_json, write_text
    from pixdex._progress import counting
    from pixdex.collection import Collection
    from pixdex.connectors import connect
    from pixdex.dedup import Keep, find_duplicates, remove_duplicates
    from pixdex.errors import ConfigError
    from pixdex.filters import parse

    if keep not in set(Keep):
        raise ConfigError(f"--keep {keep}: one of {', '.join(Keep)}")
    chosen = None if where is None else parse(where)
    how = decoding(frame, truncated, background, max_pixels, max_bytes)
    connector, name = connect(url)
    try:
        collection = Collection.open(connector, name)
        near = _near(collection, cosine, verify, look, at_least, neighbours)
        with counting("looking for duplicates", None) as count:
            found = find_duplicates(collection, near, keep=Keep(keep), where=chosen, decoding=how, progress=count)
        if json:
            print_json(_as_json(found))
        else:
            _print_groups(found)
        if html is not None:
            write_text(html, _page(found, url))
        ids = found.superfluous
        if delete and ids and (yes or typer.confirm(f"Remove {len(ids)} records? Files stay.", err=True)):
            typer.echo(f"{remove_duplicates(collection, found)} records removed", err=True)
    finally:
        connector.close()


def _near(
    collection: Any,
    cosine: float | None,
    verify: str | None,
    look: bool | None,  # noqa: FBT001 - as the option says
    at_least: float | None,
    neighbours: int | None,
) -> Near:
    from dataclasses import replace

    from pixdex.dedup import usual

    near = usual(collection, tokens=verify != "none", look=look)
    given = {"cosine": cosine, "at_least": at_least, "k": neighbours, "verify": None if verify == "none" else verify}
    return replace(near, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _as_json(found: Duplicates) -> dict[str, Any]:
    def member(one: Any) -> dict[str, Any]:
        return {"id": one.id, "score": one.score, "path": one.payload.get("path")}

    groups = [{"keep": member(g.keep), "others": [member(one) for one in g.others]} for g in found.groups]
    return {
        "groups": groups,
        "superfluous": len(found.superfluous),
        "records": found.records,
        "candidates": found.candidates,
        "looked_at": found.looked_at,
        "unopened": found.unopened,
        "seconds": found.seconds,
    }


def _print_groups(found: Duplicates) -> None:
    from rich.table import Table

    from pixdex._printing import console, printable

    table = Table(box=None, pad_edge=False)
    for heading in ("", "alike", "id", "path"):
        table.add_column(heading, overflow="fold")
    for group in found.groups:
        for word, one in (("keep", group.keep), *(("", other) for other in group.others)):
            table.add_row(word, f"{one.score:.3f}", printable(one.id), printable(str(one.payload.get("path", ""))))
    if found.groups:
        console().print(table)
    said = f"{len(found.groups)} groups, {len(found.superfluous)} records need not be kept, of {found.records}"
    if found.looked_at or found.unopened:
        said += f", {found.looked_at} pairs looked at"
    console(err=True).print(f"{said}, in {found.seconds:.1f} s")
    if found.unopened:
        console(err=True).print(
            f"{found.unopened} pictures could not be opened, and were judged without: see pixdex doctor"
        )


def _page(found: Duplicates, url: str) -> str:
    from pixdex._html import page
    from pixdex.connectors.address import parse

    more = len(found.groups) - _DRAWN
    note = f"{len(found.groups)} groups, {len(found.superfluous)} records need not be kept, of {found.records} in {parse(url)}"
    note += f"; {more} groups are not drawn" if more > 0 else ""
    return page("Pictures held more than once", note, [_section(group) for group in found.groups[:_DRAWN]])


def _section(group: Group) -> tuple[str, Any, list[Hit]]:
    hits = [Hit(one.id, one.score, dict(one.payload)) for one in (group.keep, *group.others)]
    return f"keep {group.keep.id}", None, hits
