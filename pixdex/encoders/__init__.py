"""Encoders: pictures in, vectors out. ``load`` makes one from its reference; importing this loads no library.

Plugins register under the entry point group ``pixdex.encoders``, as the built-ins do: a function ``load(rest) -> Encoder``
that gets what follows the colon of ``name:rest``.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pixdex.encoders.port import Encoder

__all__ = ["available", "load"]

GROUP = "pixdex.encoders"
_BUILT_IN = {"classic": "pixdex.encoders.classic:load", "hf": "pixdex.encoders.compose:load"}
"""Used where the distribution's own entry points are not installed, such as in a source tree."""


def load(reference: str) -> Encoder:
    """Make an encoder.

    ``reference`` is ``classic``, ``hf:<folder or hub name>?pooling=..&tokens=..``, the folder of a saved encoder or of a
    transformers model, or ``name`` or ``name:rest`` of a plugin.

    Raises:
        ConfigError: no such encoder, or it cannot be made from what follows its name.
        MissingDependency: it needs an extra that is not installed.
    """
    name, _, rest = reference.partition(":")
    entries = _entries()
    if name not in entries and _is_folder(reference):
        name, rest = "hf", reference
    if name not in entries:
        raise ConfigError(_unknown(reference, name, sorted(entries)))
    return _resolve(entries[name])(rest)


def available() -> list[str]:
    """The names that ``load`` knows, built-in and installed, sorted."""
    return sorted(_entries())


def _entries() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {**_BUILT_IN, **{entry.name: entry.value for entry in entry_points(group=GROUP)}}


def _resolve(target: str) -> Callable[[str], Encoder]:
    from importlib.metadata import EntryPoint

    try:
        maker: Callable[[str], Encoder] = EntryPoint(name="", value=target, group=GROUP).load()
    except (AttributeError, ModuleNotFoundError) as error:
        raise ConfigError(f"encoder plugin {target} cannot be loaded: {error}") from error
    return maker


def _is_folder(reference: str) -> bool:
    return Path(reference.partition("?")[0]).expanduser().is_dir()


def _unknown(reference: str, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    what = "folder or encoder" if "/" in reference else "encoder"
    return f"no {what} {reference!r}: {hint}known: {', '.join(names)}"
