"""``kdtree`` and ``balltree``, by scikit-learn: exact, and quick while there are few dimensions.

A tree cannot grow, so it is built anew when it is extended; saved are its vectors, for nothing is unpickled.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex.connectors._pq_index_base import Index, Kind, Source
from pixdex.connectors._pq_index_lift import Lift
from pixdex.errors import MissingDependency, Unsupported
from pixdex.spec import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KINDS", "MOST_DIMENSIONS", "Tree", "check", "rebuilt", "train"]

KINDS = frozenset({Kind.KDTREE, Kind.BALLTREE})
MOST_DIMENSIONS = 16
"""Beyond, a tree visits most leaves and loses to comparing with every vector (measured)."""
_SPARE = 8
"""More than asked for, because the tree orders in float64 what is scored in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree(Index):
    """A tree of vectors.

    Attributes:
        vectors: float32 ``[covers, dim]``.
        tree: a KDTree or BallTree over them, lifted.
    """

    vectors: NDArray[np.float32]
    tree: Any

    @property
    def resident(self) -> int:
        return int(self.vectors.nbytes + sum(np.asarray(array).nbytes for array in self.tree.get_arrays()))

    def propose(
        self,
        queries: NDArray[np.float32],
        count: int,
        *,
        effort: float,
        among: NDArray[np.uint8] | None = None,
        share: float = 1.0,
    ) -> NDArray[np.int64]:
        lifted = queries if self.metric is not Metric.DOT else np.pad(queries, ((0, 0), (0, 1)))
        allowed = None
        if among is not None:
            allowed = np.zeros(self.covers, dtype=bool)
            bits = np.unpackbits(among, count=min(self.covers, 8 * len(among)), bitorder="little")
            allowed[: len(bits)] = bits
        reach = math.ceil(1.5 * count / max(share, 1e-9)) + _SPARE
        while True:
            reach = min(reach, self.covers)
            found: NDArray[np.int64] = self.tree.query(lifted, reach, return_distance=False)
            if allowed is None:
                return found
            kept = allowed[found]
            if reach == self.covers or int(kept.sum(axis=1).min()) >= count:
                return np.where(kept, found, -1)
            reach *= 2

    def extended(self, rows: NDArray[np.float32]) -> Tree:
        vectors = np.concatenate([self.vectors, rows.astype(np.float32, copy=False)])
        tree = _tree(self.kind, self.metric, vectors)
        return replace(self, vectors=vectors, tree=tree, covers=len(vectors))

    def payload(self) -> NDArray[np.uint8]:
        return self.vectors.view(np.uint8).ravel()


def check(kind: Kind, dim: int) -> None:
    """Refuses what a tree cannot do well.

    Raises:
        Unsupported: too many dimensions.
        MissingDependency: no scikit-learn.
    """
    if dim > MOST_DIMENSIONS:
        raise Unsupported(
            f"index={kind}: with {dim} dimensions a tree is slower than comparing with every vector "
            f"(it is for {MOST_DIMENSIONS} at most): take index='flat', which is exact too, or 'auto'"
        )
    if importlib.util.find_spec("sklearn") is None:
        raise MissingDependency("scikit-learn", "trees")


def train(kind: Kind, source: Source) -> Tree:
    """Reads all vectors and builds the tree; it cannot stop while that is under way.

    Raises:
        Stopped: told to stop.
    """
    return rebuilt(source.facts(kind), np.concatenate(list(source.chunks(65_536))))


def rebuilt(facts: dict[str, Any], vectors: NDArray[np.float32]) -> Tree:
    """The tree of those attributes over ``vectors``."""
    return Tree(**facts, vectors=vectors, tree=_tree(facts["kind"], facts["metric"], vectors))


def _tree(kind: Kind, metric: Metric, vectors: NDArray[np.float32]) -> Any:
    from sklearn.neighbors import BallTree, KDTree

    source = Source(vectors=vectors, metric=metric, stop=None, progress=None, seed=0)
    return (KDTree if kind is Kind.KDTREE else BallTree)(Lift.of(source).rows(vectors))
