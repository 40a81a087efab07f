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
    """A hit of the first stage, with its score there.

    Attributes:
        id: of the record.
        score: what the first stage scored.
        tokens: ``[t, token dim]`` as stored; None where there are none, and for a reranker that does not use them.
        vector: float32 ``[dim]`` as stored; None likewise.
    """

    id: str
    score: float
    tokens: NDArray[Any] | None = None
    vector: NDArray[np.float32] | None = None


@runtime_checkable
class Reranker(Protocol):
    """Scores candidates anew.

    Attributes:
        name: what its scores are called in traces.
        uses_tokens: whether tokens must be fetched for it.
        uses_vectors: whether vectors must be; one without this attribute needs none.

    One that was trained for the tokens of an encoder has ``check(tokens: TokenSpec) -> None`` besides, which is called before
    and raises ``FingerprintMismatch`` for those of another. One that is another for each encoder has in its place
    ``for_tokens(tokens: TokenSpec) -> Reranker``, with the same exception. One that counts on the first stage's scores may
    have ``check_vector(vector: Vector) -> None``. None of these changes it: several threads may use one reranker.
    """

    name: str
    uses_tokens: bool
    uses_vectors: bool

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """One similarity per candidate, float32 ``[n]``, higher is better.

        NaN for a candidate that cannot be scored (it has no tokens): such a one keeps its place in the list, and the
        others are ordered around it.
        """
        ...
