"""Where a result goes, and where what is unfinished lies until then."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from pixdex.encoders.compose import ComposedEncoder
from pixdex.errors import AlreadyExists, ConfigError

__all__ = ["PAGE", "REPORT", "partial_of", "place", "put", "workplace"]

PAGE = "report.html"
REPORT = "report.json"


def partial_of(folder: Path) -> Path:
    """Where checkpoints lie until the result is there."""
    return folder.with_name(f"{folder.name}.partial")


@contextmanager
def workplace(folder: str | os.PathLike[str]) -> Iterator[tuple[Path, Path]]:
    """The folder that a result goes to, and one beside it for what is unfinished, which stays when something goes wrong.

    Raises:
        AlreadyExists: there is something in the folder.
        ConfigError: nothing can be written there.
    """
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AlreadyExists(f"{target} is there already: name another folder, or remove it")
    work = partial_of(target)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{work} cannot be made: {error.strerror}") from error
    try:
        yield target, work
    except BaseException:
        with suppress(OSError):
            work.rmdir()  # which is done only where it is empty
        raise
    shutil.rmtree(work, ignore_errors=True)


def put(encoder: ComposedEncoder, report: Mapping[str, Any], page: str | None, target: Path, work: Path) -> None:
    """Save an encoder, its report, and a page of HTML if there is one, whole or not at all."""
    made = work / "encoder"
    shutil.rmtree(made, ignore_errors=True)
    encoder.save(made)
    (made / REPORT).write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    if page is not None:
        (made / PAGE).write_text(page, encoding="utf-8")
    place(made, target)


def place(made: Path, target: Path) -> None:
    """Put a finished folder where it belongs; what is there is an empty folder or nothing."""
    if target.is_dir():
        target.rmdir()
    made.replace(target)
