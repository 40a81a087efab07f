"""Rerankers: a query and candidates in, better scores out. ``load`` makes one by name, ``rerank`` runs some in stages.

A reranker registers a function ``load(rest) -> Reranker`` in the entry-point group ``pixdex.rerankers``; it gets what
follows the colon of ``name:rest``, or the name of ``name?options``.
"""

from __future__ import annotations

from pixdex.rerankers.references import GROUP, available, for_tokens, load
from pixdex.rerankers.stages import Ranked, Rerank, Stage, rerank, stages_of

__all__ = ["GROUP", "Ranked", "Rerank", "Stage", "available", "for_tokens", "load", "rerank", "stages_of"]
