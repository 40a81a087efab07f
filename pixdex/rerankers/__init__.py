"""Rerankers: a query and candidates in, better scores out. ``load`` makes one by name.

A reranker registers a function ``load(rest) -> Reranker`` in the entry-point group ``pixdex.rerankers``; it gets what
follows the colon of ``name:rest``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pixdex import _plugins

if TYPE_CHECKING:
    from pixdex.rerankers.port import Reranker

__all__ = ["available", "load"]

GROUP = "pixdex.rerankers"


def load(reference: str) -> Reranker:
    """Make the reranker ``name`` or ``name:rest``.

    Raises:
        ConfigError: no such reranker, or it cannot be made from what follows its name.
        MissingDependency: it needs an extra that is not installed.
    """
    name, _, rest = reference.partition(":")
    reranker: Reranker = _plugins.load(GROUP, "reranker", name)(rest)
    return reranker


def available() -> list[str]:
    """The names that ``load`` knows, sorted."""
    return list(_plugins.installed(GROUP))
