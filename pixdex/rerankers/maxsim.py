"""MaxSim: every token of one picture looks for its best match among the tokens of the other.

The late interaction of Khattab, Zaharia: ColBERT, Efficient and Effective Passage Search via Contextualized Late
Interaction over BERT, SIGIR 2020, over picture tokens. It needs no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.errors import ConfigError
from pixdex.rerankers.port import Candidate, Query

__all__ = ["MaxSim", "load", "unpacked"]

_MAX_TOKENS = 16_384
"""Candidate tokens per matrix product: keeps it in tens of megabytes."""


class MaxSim:
    """Scores a candidate by the mean, over the query's tokens, of the best cosine among the candidate's; in [-1, 1].

    Tokens may be int8, float16 or float32: only their direction counts. A token of zeros matches nothing. Those of uint8
    are the packed signs of a ``TokenSpec`` of bits, and as good as vectors of 1 and -1: their cosine is the share of signs
    that agree less the share of those that don't. (The angle that this estimates ranked no better.)
    """

    name = "maxsim"
    uses_tokens = True
    uses_vectors = False

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """float32 ``[n]``, one similarity per candidate; NaN where candidate or query has no tokens.

        Raises:
            ConfigError: tokens of a candidate are not as wide as the query's.
        """
        scores = np.full(len(candidates), np.nan, dtype=np.float32)
        if query.tokens is None or not len(query.tokens):
            return scores
        wanted = _unit(unpacked(query.tokens))
        for rows in _groups(candidates):
            matrices = [_tokens(candidates[row], wanted.shape[1]) for row in rows]
            scores[rows] = _score(wanted, matrices)
        return scores

    def correspondences(self, query: Query, candidate: Candidate) -> NDArray[np.float32]:
        """float32 ``[tq, td]``: each token of the query's best match among the candidate's, and its cosine where that is
        above zero; all else 0. Where all are, the mean over the rows' sums is the score.

        Raises:
            ConfigError: one of them has no tokens, or they are of another width.
        """
        if any(tokens is None or not len(tokens) for tokens in (query.tokens, candidate.tokens)):
            raise ConfigError("correspondences take tokens of both pictures")
        wanted = _unit(unpacked(np.asarray(query.tokens)))
        cosines = wanted @ _unit(_tokens(candidate, wanted.shape[1])).T
        best = cosines.argmax(axis=1)[:, None]
        looks = np.zeros_like(cosines)
        np.put_along_axis(looks, best, np.maximum(np.take_along_axis(cosines, best, axis=1), 0), axis=1)
        return looks


def load(rest: str) -> MaxSim:
    """The reranker of ``maxsim``, which has no options.

    Raises:
        ConfigError: ``rest`` is not empty.
    """
    if rest:
        raise ConfigError(f"maxsim:{rest}: maxsim has no options")
    return MaxSim()


def _score(query: NDArray[np.float32], documents: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """float32 ``[documents]`` over one matrix product ``[all document tokens, query tokens]``."""
    starts = np.cumsum([0, *(len(d) for d in documents)])[:-1]
    cosines = _unit(np.concatenate(documents)) @ query.T
    best: NDArray[np.float32] = np.maximum.reduceat(cosines, starts, axis=0)
    scores: NDArray[np.float32] = best.mean(axis=1, dtype=np.float32)
    return scores


def _groups(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Rows of candidates with tokens, in groups of a bounded number of tokens."""
    groups: list[list[int]] = []
    used = _MAX_TOKENS
    for row, candidate in enumerate(candidates):
        count = 0 if candidate.tokens is None else len(candidate.tokens)
        if count == 0:
            continue
        if used + count > _MAX_TOKENS:
            groups.append([])
            used = 0
        groups[-1].append(row)
        used += count
    return groups


def _tokens(candidate: Candidate, width: int) -> NDArray[Any]:
    tokens = None if candidate.tokens is None else unpacked(candidate.tokens)
    if tokens is None or tokens.ndim != 2 or tokens.shape[1] != width:
        shape = None if tokens is None else list(tokens.shape)
        raise ConfigError(f"tokens of {candidate.id!r} are {shape}, those of the query are {width} wide")
    return tokens


def unpacked(tokens: NDArray[Any]) -> NDArray[Any]:
    """Packed signs as int8 of 1 and -1, eight from a byte; other tokens as they are."""
    if tokens.dtype != np.uint8:
        return tokens
    return np.unpackbits(tokens, axis=-1).view(np.int8) * np.int8(2) - np.int8(1)


def _unit(tokens: NDArray[Any]) -> NDArray[np.float32]:
    """Tokens as float32 of length one; zeros stay zeros."""
    values = tokens.astype(np.float32)
    lengths = np.sqrt(np.einsum("td,td->t", values, values))
    values /= np.where(lengths > 0, lengths, 1)[:, None]
    return values
