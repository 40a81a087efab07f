"""Vectors to measure stores with, their exact neighbours, and what recall means.

``clustered`` draws synthetic unit vectors that are about as hard as embeddings of pictures; ``embedded`` are real ones,
of the pictures beside the checkout (``../shared``), made by a real network.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["MODELS", "Truth", "clustered", "embedded", "truth"]

BLOCK = 50_000
"""Vectors drawn or compared at once: bounds the memory beside the result."""
TIE = 1e-6
"""Two scores of unit vectors that differ by less are the same: either record is a right answer."""
MODELS = {"vit-tiny": "vit-tiny-16-224", "mobilenet-v2": "mobilenet-v2-backbone"}
"""The networks of ``embedded``: 192 dimensions (the first token) and 1,280 (the mean of the last map)."""
SETS = ("caltech101", "caltech101_more", "grocery_store")
POOLING = {"vit-tiny": "cls", "mobilenet-v2": "mean"}


def clustered(
    n: int,
    dim: int = 384,
    clusters: int = 2000,
    intrinsic: int = 24,
    spread: float = 0.7,
    noise: float = 0.15,
    seed: int = 0,
    queries: int = 1000,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors ``[n, dim]`` in clusters of uneven size, and queries ``[queries, dim]`` in random order.

    The centres are normal in a subspace of ``intrinsic`` dimensions that all share; each cluster spreads into a subspace
    of its own of as many dimensions (``spread``: standard deviation in one); sizes fall with a power of .7 of the rank;
    ``noise``, of all dimensions, is stated relative to ``sqrt(intrinsic)``. Half of the queries are vectors of the set,
    moved by .3 / sqrt(dim) in each coordinate; half are fresh draws.
    """
    rng = np.random.default_rng(seed)
    shared = np.linalg.qr(rng.standard_normal((dim, intrinsic)))[0].T.astype(np.float32)
    centres = rng.standard_normal((clusters, intrinsic)).astype(np.float32) @ shared
    own = rng.standard_normal((clusters, intrinsic, dim), dtype=np.float32) / np.float32(np.sqrt(dim))
    weights = np.arange(1, clusters + 1) ** -0.7
    weights /= weights.sum()
    everywhere = np.float32(noise * np.sqrt(intrinsic / dim))

    def drawn(count: int) -> NDArray[np.float32]:
        of = np.sort(rng.choice(clusters, count, p=weights))
        within = np.float32(spread) * rng.standard_normal((count, intrinsic), dtype=np.float32)
        out = everywhere * rng.standard_normal((count, dim), dtype=np.float32)
        out += centres[of]
        bounds = np.searchsorted(of, np.arange(clusters + 1))
        for cluster in np.unique(of):
            rows = slice(bounds[cluster], bounds[cluster + 1])
            out[rows] += within[rows] @ own[cluster]
        return unit(out[rng.permutation(count)])

    vectors = np.empty((n, dim), np.float32)
    for start in range(0, n, BLOCK):
        vectors[start : start + BLOCK] = drawn(min(BLOCK, n - start))
    asked = drawn(queries)
    half = queries // 2
    moved = rng.standard_normal((half, dim), dtype=np.float32) * np.float32(0.3 / np.sqrt(dim))
    asked[:half] = vectors[rng.choice(n, half)] + moved
    return vectors, unit(asked)[rng.permutation(queries)]


def unit(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows, of length one; in place."""
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix


def embedded(
    shared: Path, model: str, *, most: int | None = None, queries: int = 1000, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors of real pictures, and as queries those of other pictures of the same sets.

    Args:
        shared: the folder with ``data`` and ``models``.
        model: a key of ``MODELS``.
        most: only so many pictures, drawn at random.
    """
    rng = np.random.default_rng(seed)
    files = list(_pictures(shared / "data"))
    chosen = [files[i] for i in rng.permutation(len(files))[:most]]
    queries = min(queries, len(chosen) // 5)
    vectors = unit(_encoded(chosen, f"hf:{shared / 'models' / MODELS[model]}?pooling={POOLING[model]}"))
    return vectors[queries:], vectors[:queries]


def _pictures(data: Path) -> Iterator[Path]:
    for name in SETS:
        with (data / name / "labels.csv").open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                yield data / name / row["path"]


def _encoded(files: Sequence[Path], reference: str) -> NDArray[np.float32]:
    from pixdex import encoders
    from pixdex.encoders.images import decode

    encoder = encoders.load(reference)
    size, out = 64, []
    for start in range(0, len(files), size):
        pictures = [decode(path.read_bytes(), min_side=encoder.min_side).pixels for path in files[start : start + size]]
        out.append(encoder.encode([encoder.prepare(picture) for picture in pictures]).vectors)
    return np.concatenate(out).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Truth:
    """The exact answers to some queries.

    ``right`` ``[q, m]`` holds the row numbers that are right answers, -1 behind the last: the ``k`` nearest, and what
    ties with the last of them. ``wanted`` ``[q]`` is how many hits a complete answer has: min(k, matches).
    """

    right: NDArray[np.int64]
    wanted: NDArray[np.int64]

    def recall(self, found: Sequence[Sequence[int]]) -> float:
        """The share of wanted hits that ``found`` has, over its queries: the first ones of this value."""
        hits = sum(
            min(len(set(rows) & set(right.tolist()) - {-1}), int(wanted))
            for rows, right, wanted in zip(found, self.right, self.wanted, strict=False)
        )
        return hits / max(1, int(self.wanted[: len(found)].sum()))

    def short_by(self, found: Sequence[Sequence[int]]) -> int:
        """By how many hits the shortest answer misses what it should have; 0 when all are complete."""
        return max(int(w) - len(set(rows) - {-1}) for rows, w in zip(found, self.wanted, strict=False))

    def save(self, path: Path) -> None:
        """Write both arrays to an ``.npz`` file."""
        np.savez(path, right=self.right, wanted=self.wanted)

    @classmethod
    def read(cls, path: Path) -> Truth:
        """What ``save`` wrote."""
        with np.load(path) as file:
            return cls(file["right"], file["wanted"])


def truth(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    *,
    among: NDArray[np.bool_] | None = None,
    ties: int = 32,
) -> Truth:
    """The ``k`` largest inner products of each query, by comparing it with every vector (``among``: with those only).

    At most ``ties`` right answers are kept for a query.
    """
    import faiss

    rows = np.arange(len(vectors)) if among is None else np.flatnonzero(among)
    kept = min(ties, len(rows))
    scores = np.empty((len(queries), 0), np.float32)
    numbers = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        part = vectors[start : start + BLOCK] if among is None else vectors[block]
        fresh, where = faiss.knn(queries, np.ascontiguousarray(part), min(kept, len(block)), faiss.METRIC_INNER_PRODUCT)
        scores, numbers = np.hstack([scores, fresh]), np.hstack([numbers, block[where]])
        best = np.argsort(-scores, axis=1)[:, :kept]
        scores, numbers = np.take_along_axis(scores, best, 1), np.take_along_axis(numbers, best, 1)
    wanted = min(k, len(rows))
    if wanted:
        numbers = np.where(scores >= scores[:, wanted - 1 : wanted] - TIE, numbers, -1)
    return Truth(numbers, np.full(len(queries), wanted))
