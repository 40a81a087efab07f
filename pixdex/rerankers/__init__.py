"""Rerankers: a query and candidates in, better scores out. ``load`` makes one by name.

Plugins register under the entry point group ``pixdex.rerankers``, as the built-in does: a function
``load(rest) -> Reranker`` that gets what follows the colon of ``name:rest``.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pixdex.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pixdex.rerankers.port import Reranker

__all__ = ["available", "load"]

GROUP = "pixdex.rerankers"
_BUILT_IN = {"maxsim": "pixdex.rerankers.maxsim:load"}
"""Used where the distribution's own entry points are not installed, such as in a source tree."""


def load(reference: str) -> Reranker:
    """Make the reranker ``name`` or ``name:rest``.

    Raises:
        ConfigError: no such reranker, or it cannot be made from what follows its name.
        MissingDependency: it needs an extra that is not installed.
    """
    name, _, rest = reference.partition(":")
    entries = _entries()
    if name not in entries:
        near = difflib.get_close_matches(name, sorted(entries), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"no reranker {name!r}: {hint}known: {', '.join(sorted(entries))}")
    return _resolve(entries[name])(rest)


def available() -> list[str]:
    """The names that ``load`` knows, built-in and installed, sorted."""
    return sorted(_entries())


def _entries() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {**_BUILT_IN, **{entry.name: entry.value for entry in entry_points(group=GROUP)}}


def _resolve(target: str) -> Callable[[str], Reranker]:
    from importlib.metadata import EntryPoint

    try:
        maker: Callable[[str], Reranker] = EntryPoint(name="", value=target, group=GROUP).load()
    except (AttributeError, ModuleNotFoundError) as error:
        raise ConfigError(f"reranker plugin {target} cannot be loaded: {error}") from error
    return maker
