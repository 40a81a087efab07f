"""What is remembered between processes: graphs made of networks, and what ``auto`` measured.

Everything in the folder can be made again; deleting it costs time only.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from pixdex.errors import ConfigError

__all__ = ["VARIABLE", "folder", "made_once", "recall", "remember"]

VARIABLE = "PIXDEX_CACHE"
_CHOICES = "runtimes"
_GRAPHS = "graphs"


def folder() -> Path:
    """The cache folder: ``PIXDEX_CACHE``, else ``pixdex`` in the user's cache folder. It may not exist yet."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    return _user_folder() / "pixdex"


def recall(key: str) -> dict[str, Any] | None:
    """What was remembered under ``key``; None where there is nothing, or nothing readable."""
    try:
        values = orjson.loads((folder() / _CHOICES / f"{key}.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return values if isinstance(values, dict) else None


def remember(key: str, values: Mapping[str, Any]) -> bool:
    """Keep a JSON object under ``key``; False where the folder cannot be written to."""
    target = folder() / _CHOICES / f"{key}.json"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
            file.write(orjson.dumps(values, option=orjson.OPT_INDENT_2))
        Path(file.name).replace(target)
    except OSError:
        return False
    return True


def made_once(key: str, make: Callable[[Path], None]) -> Path:
    """The folder of ``key``, filled by ``make`` where it is not there yet. Another process may fill it meanwhile.

    Raises:
        ConfigError: the cache folder cannot be written to.
    """
    target = folder() / _GRAPHS / key
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unfinished-"))
    except OSError as error:
        raise ConfigError(f"{target.parent} cannot be written to ({error}): name a folder in {VARIABLE}") from error
    try:
        make(unfinished)
        _put(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _put(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError:
        if not target.is_dir():  # else somebody else was faster, with the same contents
            raise


def _user_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
