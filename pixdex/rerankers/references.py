"""Rerankers by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pixdex import _plugins

if TYPE_CHECKING:
    from pixdex.rerankers.port import Reranker
    from pixdex.spec import TokenSpec

__all__ = ["GROUP", "available", "for_tokens", "load"]

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


def for_tokens(reranker: Reranker, tokens: TokenSpec) -> Reranker:
    """The reranker to be used for these tokens: the one given, which is left as it is, or what it chooses for them.

    Raises:
        FingerprintMismatch: it was trained for tokens of another encoder.
    """
    choose = getattr(reranker, "for_tokens", None)
    if choose is not None:
        chosen: Reranker = choose(tokens)
        return chosen
    check = getattr(reranker, "check", None)
    if check is not None:
        check(tokens)
    return reranker


def available() -> list[str]:
    """The names that ``load`` knows, sorted."""
    return list(_plugins.installed(GROUP))
