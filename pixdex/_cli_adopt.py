"""``pixdex adopt`` and ``pixdex attach``: collections that another tool made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pixdex._options import Json, Url, Where
from pixdex._printing import print_json, print_proposal, proposed
from pixdex._shell import show_report

__all__ = ["adopt", "attach"]


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
            print_json(proposed(proposal))
        else:
            print_proposal(proposal)
        if yes or (not json and typer.confirm("Register it so? No record is touched.", err=True)):
            adopting.adopt(connector, proposal)
            typer.echo(f"adopted {name}", err=True)
    finally:
        connector.close()


def attach(
    url: Url,
    *,
    encoder: Annotated[str, typer.Option("--encoder", "-e", help="Encoder reference.")] = "mini",
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
    show_report(report, as_json=json)
