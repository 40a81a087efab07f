"""Between the shell and the library: what several commands of ``pixdex`` do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pixdex._printing import print_report

if TYPE_CHECKING:
    from pixdex.index import ImageIndex
    from pixdex.report import Report

__all__ = ["STOPPED", "Told", "check_there", "encoded", "loaded", "open_index", "show_report", "stopping"]

STOPPED = 130
"""Exit code after Ctrl-C."""


class Told(SystemExit):
    """A command was stopped, and has said what is left of it."""


@contextmanager
def stopping(what_stays: str) -> Iterator[None]:
    """Ctrl-C within ends the command with ``what_stays`` as the last word."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped; {what_stays}", err=True)
        raise Told(STOPPED) from None


def open_index(url: str, *, encoder: str | None, text_encoder: str | None = None, tokens: bool = False) -> ImageIndex:
    """The index at an address."""
    from pixdex import index

    return index.open(url, encoder=encoder, text_encoder=text_encoder, tokens=tokens)


def check_there(pictures: Sequence[str]) -> None:
    """Find out what does not exist before an encoder is loaded."""
    from pathlib import PurePath

    from pixdex.errors import ConfigError
    from pixdex.pictures import as_path, path_exists
    from pixdex.sources.addresses import scheme_of
    from pixdex.sources.folders import is_pattern

    for given in pictures:
        path = as_path(given)
        if path is not None and scheme_of(given) is None and not path_exists(path) and not is_pattern(path):
            raise ConfigError(f"{PurePath(given)} does not exist")


def encoded(pictures: Sequence[str]) -> list[str]:
    """Those that are files of pixdex encode."""
    from pixdex.pictures import as_path
    from pixdex.vectors_file import is_vectors

    return [given for given in pictures if is_vectors(as_path(given) or Path(given))]


def loaded(url: str, files: Sequence[str]) -> Report:
    """What became of files of pixdex encode, loaded."""
    from pixdex.report import Report
    from pixdex.transfer import load

    return Report.together([load(url, file) for file in files])


def show_report(report: Report, *, as_json: bool) -> None:
    """Say what became of the pictures; an exit code where nothing did."""
    print_report(report, as_json=as_json)
    if report.quarantined and len(report.quarantined) == report.seen:
        raise typer.Exit(1)  # not one of them could be used
