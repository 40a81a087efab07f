"""Rerankers by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pixdex import _plugins

if TYPE_CHECKING:
    from pixdex.rerankers.port import Reranker

__all__ = ["GROUP", "available", "load"]

GROUP = "pixdex.rerankers"
_NAME = re.compile(r"([^:?]*):?(.*)", re.DOTALL)


def load(reference: str) -> Reranker:
    """Make the reranker ``name`` or ``name:rest``; options follow a ``?``, such as ``k-reciprocal?k1=20&weight=0.3``.

    Raises:
        ConfigError: no such reranker, or it cannot be made from what follows its name.
        MissingDependency: it needs an extra that is not installed.
    """
    found = _NAME.fullmatch(reference)
    name, rest = found.groups() if found is not None else (reference, "")
    reranker: Reranker = _plugins.load(GROUP, "reranker", name)(rest)
    return reranker


def available() -> list[str]:
    """The names that ``load`` knows, sorted."""
    return list(_plugins.installed(GROUP))
