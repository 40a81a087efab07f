"""What a reranker is: a query and candidates in, scores out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Candidate", "Query", "Reranker"]


@dataclass(frozen=True, slots=True)
class Query:
    """The picture searched for: ``vector`` float32 ``[dim]``, ``tokens`` ``[t, token dim]`` or None."""

    vector: NDArray[np.float32]
    tokens: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit of the first stage: its score there and its stored tokens (None: the record has none)."""

    id: str
    score: float
    tokens: NDArray[Any] | None = None


@runtime_checkable
class Reranker(Protocol):
    """Scores candidates anew. ``uses_tokens`` says whether tokens must be fetched for it.

    One that was trained for the tokens of an encoder has ``check(tokens: TokenSpec) -> None`` besides, which is called before
    and raises ``FingerprintMismatch`` for those of another.
    """

    name: str
    uses_tokens: bool

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """One similarity per candidate, float32 ``[n]``, higher is better.

        NaN for a candidate that cannot be scored (it has no tokens): such candidates keep their
        first-stage order, below those that can.
        """
        ...
