"""Rerankers without training over whole vectors: what the candidates are to one another says more than what each is to
the query.

They need vectors, and look at the whole list: the more candidates, the more a neighbourhood says (``candidates=300`` and
more). Their cost is that of the cosines between all candidates; milliseconds here are those of one core, at 256 values.

================  ==================================================================================================
``alpha-qe``      the query, moved to the mean of its nearest, each weighted by its cosine to the power of ``alpha``
``dba``           query and candidates, each moved so to its own nearest
``diffusion``     similarity that flows from the query's nearest over a graph of mutual neighbours
``k-reciprocal``  how many neighbours query and candidate share, counting those who have one another among them; in
                  ``neighbours_reciprocal``
================  ==================================================================================================

Only the direction of vectors counts, whatever the collection compares them with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pixdex.errors import ConfigError
from pixdex.rerankers.options import with_options

if TYPE_CHECKING:
    from pixdex.rerankers.port import Candidate, Query

__all__ = [
    "AlphaQE",
    "DatabaseAugmentation",
    "Diffusion",
    "Rows",
    "load_alpha_qe",
    "load_dba",
    "load_diffusion",
    "nearest_of",
    "rows_of",
]

Rows = NDArray[np.float32]
"""float32 ``[1 + n, dim]``, unit vectors: the query's, then those of candidates."""
_STEPS = 20
_PRECISE = 1e-6
"""Conjugate gradients end after that many steps, or where what is left is that small a part of what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaQE:
    """The candidates by their cosine with the query, moved towards its nearest: the sum of ``max(0, cosine)^alpha v`` over the
    ``n`` nearest ``v`` and the query itself.

    Radenović, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2019 (alpha-weighted query
    expansion), alpha 3 as there. Costs O(n dim): 0.1 ms for 100 candidates, 0.5 ms for 1000.

    Attributes:
        n: nearest that count.
        alpha: how much less the farther ones count.

    Raises:
        ConfigError: a value out of its range.
    """

    n: int = 10
    alpha: float = 3.0

    name = "alpha-qe"
    uses_tokens = False
    uses_vectors = True

    def __post_init__(self) -> None:
        _check_counts(self.name, n=self.n)
        _check_power(self.name, alpha=self.alpha)

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """float32 ``[n]``, cosines; NaN where a candidate has no vector."""
        scores, rows, matrix = rows_of(query, candidates)
        if matrix is not None:
            cosines = matrix[1:] @ matrix[0]
            near = nearest_of(cosines[None], self.n)[0]
            moved = matrix[0] + _weights(cosines[near], self.alpha) @ matrix[1:][near]
            scores[rows] = matrix[1:] @ _unit(moved[None])[0]
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseAugmentation:
    """The candidates by their cosine with the query, all of them moved towards their own ``n`` nearest as ``AlphaQE`` moves
    the query.

    Turcot, Lowe: Better matching with fewer features, ICCV Workshops 2009, and Arandjelović, Zisserman: Three things everyone
    should know to improve object retrieval, CVPR 2012 (database-side feature augmentation), with the weights of
    ``AlphaQE``. The neighbours of a candidate are looked for among the candidates and the query. Costs O(n^2 dim): 0.3 ms for
    100 candidates, 9 ms for 1000.

    Attributes:
        n: nearest that count.
        alpha: how much less the farther ones count.

    Raises:
        ConfigError: a value out of its range.
    """

    n: int = 20
    alpha: float = 3.0

    name = "dba"
    uses_tokens = False
    uses_vectors = True

    def __post_init__(self) -> None:
        _check_counts(self.name, n=self.n)
        _check_power(self.name, alpha=self.alpha)

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """float32 ``[n]``, cosines; NaN where a candidate has no vector."""
        scores, rows, matrix = rows_of(query, candidates)
        if matrix is not None:
            cosines = matrix @ matrix.T
            np.fill_diagonal(cosines, 1)  # each is its own nearest
            near = nearest_of(cosines, self.n + 1)
            weights = _weights(np.take_along_axis(cosines, near, 1), self.alpha)
            moved = _unit(np.einsum("rk,rkd->rd", weights, matrix[near]))
            scores[rows] = moved[1:] @ moved[0]
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """The candidates by what reaches them of the query's similarity, as it flows over the graph of mutual neighbours.

    Iscen, Tolias, Avrithis, Furon, Chum: Efficient Diffusion on Region Manifolds, CVPR 2017, with one vector a picture:
    affinities ``max(0, cosine)^gamma`` between candidates that are among the ``k`` nearest of one another, normalised to S;
    ``y`` is the query's affinity to its ``near`` nearest; scores are ``(1 - keep) (I - keep S)^-1 y`` by conjugate gradients.
    Costs O(n^2 dim), and O(n^2) a step, 20 at most: 0.4 ms for 100 candidates, 9 ms for 1000. The paper has ``k`` 50 and
    ``keep`` 0.99, which on shortlists of a few hundred reach across classes.

    Attributes:
        k: neighbours in the graph.
        near: of the query.
        gamma: how much less the farther ones count.
        keep: how much flows on at each step, below 1.

    Raises:
        ConfigError: a value out of its range.
    """

    k: int = 20
    near: int = 10
    gamma: float = 3.0
    keep: float = 0.9

    name = "diffusion"
    uses_tokens = False
    uses_vectors = True

    def __post_init__(self) -> None:
        _check_counts(self.name, k=self.k, near=self.near)
        _check_power(self.name, gamma=self.gamma)
        if not 0 <= self.keep < 1:
            raise ConfigError(f"{self.name}: keep is from 0 to below 1, not {self.keep}")

    def rerank(self, query: Query, candidates: Sequence[Candidate]) -> NDArray[np.float32]:
        """float32 ``[n]``, 0 or more: 0 where nothing arrives; NaN where a candidate has no vector."""
        scores, rows, matrix = rows_of(query, candidates)
        if matrix is not None:
            to_query = matrix[1:] @ matrix[0]
            start = np.zeros(len(to_query), dtype=np.float32)
            near = nearest_of(to_query[None], self.near)[0]
            start[near] = _weights(to_query[near], self.gamma)
            graph = self._graph(matrix[1:])
            scores[rows] = np.maximum((1 - self.keep) * _solved(graph, self.keep, start), 0)
        return scores

    def _graph(self, vectors: Rows) -> NDArray[np.float32]:
        """S: affinities of mutual neighbours, divided by the roots of both degrees."""
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -1)  # no flow from a candidate to itself
        near = nearest_of(cosines, min(self.k, len(vectors) - 1))
        affinity = np.zeros_like(cosines)
        np.put_along_axis(affinity, near, _weights(np.take_along_axis(cosines, near, 1), self.gamma), 1)
        affinity = np.minimum(affinity, affinity.T)  # 0 where only one has the other
        degree = affinity.sum(axis=1)
        root = 1 / np.sqrt(np.where(degree > 0, degree, 1))
        return np.asarray(affinity * root[:, None] * root, dtype=np.float32)


def load_alpha_qe(rest: str) -> AlphaQE:
    """The reranker of ``alpha-qe`` or ``alpha-qe?n=10&alpha=3``."""
    return with_options(AlphaQE(), rest)


def load_dba(rest: str) -> DatabaseAugmentation:
    """The reranker of ``dba`` or ``dba?n=20&alpha=3``."""
    return with_options(DatabaseAugmentation(), rest)


def load_diffusion(rest: str) -> Diffusion:
    """The reranker of ``diffusion`` or ``diffusion?k=20&near=10&gamma=3&keep=0.9``."""
    return with_options(Diffusion(), rest)


def rows_of(query: Query, candidates: Sequence[Candidate]) -> tuple[NDArray[np.float32], list[int], Rows | None]:
    """Scores of NaN, float32 ``[n]``; which candidates have vectors; and unit vectors of the query and of those, or None where
    there are none.

    Raises:
        ConfigError: a vector is not as wide as the query's.
    """
    scores = np.full(len(candidates), np.nan, dtype=np.float32)
    rows = [row for row, candidate in enumerate(candidates) if candidate.vector is not None]
    if not rows:
        return scores, rows, None
    width = np.shape(query.vector)
    vectors = [query.vector]
    for row in rows:
        vector = np.asarray(candidates[row].vector)
        if vector.shape != width:
            raise ConfigError(
                f"the vector of {candidates[row].id!r} is {list(vector.shape)}, that of the query {list(width)}"
            )
        vectors.append(vector)
    return scores, rows, _unit(np.stack(vectors).astype(np.float32))


def nearest_of(cosines: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Int ``[r, count]``: columns of the highest values of each row, best first; all where there are fewer."""
    count = min(count, cosines.shape[1])
    if count < cosines.shape[1]:
        found = (
            np.argpartition(-cosines, count - 1, axis=1)[:, :count] if count else np.empty((len(cosines), 0), np.intp)
        )
    else:
        found = np.broadcast_to(np.arange(count), cosines.shape)
    order = np.argsort(-np.take_along_axis(cosines, found, 1), axis=1, kind="stable")
    return np.take_along_axis(found, order, 1)


def _weights(cosines: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    return np.asarray(np.maximum(cosines, 0) ** power, dtype=np.float32)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _solved(graph: NDArray[np.float32], keep: float, start: NDArray[np.float32]) -> NDArray[np.float32]:
    """The x of ``(I - keep S) x = start`` by conjugate gradients; the matrix is positive definite, as S has no eigenvalue
    above 1.
    """
    x = np.zeros_like(start)
    rest, direction = start.copy(), start.copy()
    left = float(rest @ rest)
    enough = left * _PRECISE**2
    for _ in range(_STEPS):
        if left <= enough:
            break
        applied = direction - keep * (graph @ direction)
        step = left / float(direction @ applied)
        x += step * direction
        rest -= step * applied
        before, left = left, float(rest @ rest)
        direction = rest + left / before * direction
    return x


def _check_counts(name: str, **counts: int) -> None:
    for option, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name}: {option} is 1 or more, not {count}")


def _check_power(name: str, **powers: float) -> None:
    for option, power in powers.items():
        if not (math.isfinite(power) and power >= 0):
            raise ConfigError(f"{name}: {option} is 0 or more, not {power}")
