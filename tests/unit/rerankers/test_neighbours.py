"""Rerankers over whole vectors, beside what their papers say, written down once more without regard to speed."""

from __future__ import annotations

import numpy as np
import pytest

from pixdex import rerankers
from pixdex.errors import ConfigError
from pixdex.rerankers.neighbours import AlphaQE, DatabaseAugmentation, Diffusion
from pixdex.rerankers.neighbours_reciprocal import KReciprocal
from pixdex.rerankers.port import Candidate, Query, Reranker

NAMES = ["alpha-qe", "dba", "diffusion", "k-reciprocal"]


def groups(seed: int, count: int = 60, dim: int = 12, of: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors about ``of`` centres, and which each is about."""
    rng = np.random.default_rng(seed)
    about = np.arange(count) % of
    vectors = rng.standard_normal((of, dim))[about] + 0.7 * rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), about


def scores_of(reranker: Reranker, vectors: np.ndarray) -> np.ndarray:
    """Of all but the first, which is the query."""
    query, *others = vectors
    candidates = [Candidate(str(row), float(each @ query), vector=each) for row, each in enumerate(others)]
    return reranker.rerank(Query(query), candidates)


def nearest(cosines: np.ndarray, k: int) -> list[int]:
    return sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_reranker_of_vectors(name: str) -> None:
    reranker = rerankers.load(name)
    assert isinstance(reranker, Reranker)
    assert (reranker.name, reranker.uses_tokens, reranker.uses_vectors) == (name, False, True)


@pytest.mark.parametrize("name", NAMES)
def test_neighbourhoods_help(name: str) -> None:
    """On what they are made for: groups that overlap, where the query lies at the edge of its own."""
    found, first = [], []
    for seed in range(12):
        vectors, about = groups(seed, count=120)
        right = about[1:] == about[0]
        scores = scores_of(rerankers.load(name), vectors)
        found.append(right[np.argsort(-scores)][:29].mean())
        first.append(right[np.argsort(-(vectors[1:] @ vectors[0]))][:29].mean())
    assert np.mean(found) > np.mean(first) + 0.02


def test_alpha_qe_is_what_the_paper_says() -> None:
    vectors, _ = groups(1)
    query, others = vectors[0], vectors[1:]
    cosines = others @ query
    expanded = query + sum(max(cosines[i], 0) ** 2.5 * others[i] for i in nearest(cosines, 7))
    expected = others @ (expanded / np.linalg.norm(expanded))
    assert scores_of(AlphaQE(n=7, alpha=2.5), vectors) == pytest.approx(expected, abs=1e-6)


def test_dba_moves_all_to_their_nearest() -> None:
    vectors, _ = groups(2)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 1)
    moved = np.stack([sum(max(row[i], 0) ** 2 * vectors[i] for i in nearest(row, 6)) for row in cosines])
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    scores = scores_of(DatabaseAugmentation(n=5, alpha=2), vectors)
    assert scores == pytest.approx(moved[1:] @ moved[0], abs=1e-5)


def test_diffusion_solves_its_equation() -> None:
    vectors, _ = groups(3)
    others = vectors[1:]
    cosines = others @ others.T
    np.fill_diagonal(cosines, -1)
    near = [set(nearest(row, 8)) for row in cosines]
    graph = np.zeros_like(cosines, dtype=np.float64)
    for i, j in np.ndindex(graph.shape):
        if j in near[i] and i in near[j]:
            graph[i, j] = max(cosines[i, j], 0) ** 3
    degree = graph.sum(axis=1)
    root = np.where(degree > 0, np.sqrt(degree), 1)
    start = np.zeros(len(others))
    for i in nearest(others @ vectors[0], 5):
        start[i] = max(others[i] @ vectors[0], 0) ** 3
    expected = 0.2 * np.linalg.solve(np.eye(len(others)) - 0.8 * graph / root / root[:, None], start)
    assert scores_of(Diffusion(k=8, near=5, keep=0.8), vectors) == pytest.approx(expected, abs=1e-5)


def by_the_paper(vectors: np.ndarray, k1: int, k2: int, weight: float) -> list[float]:
    """k-reciprocal encoding with sets."""
    cosines = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(cosines, 2)
    ranks = [nearest(row, len(row)) for row in cosines]
    np.fill_diagonal(cosines, 1)

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in ranks[i][: k + 1] if i in ranks[j][: k + 1]}

    weights = np.zeros_like(cosines)
    for i in range(len(vectors)):
        whole = reciprocal(i, k1)
        for j in sorted(reciprocal(i, k1)):
            theirs = reciprocal(j, round(k1 / 2))
            if len(theirs & reciprocal(i, k1)) >= 2 / 3 * len(theirs):
                whole |= theirs
        for j in whole:
            weights[i, j] = np.exp(2 * cosines[i, j] - 2)
        weights[i] /= weights[i].sum()
    averaged = np.stack([weights[row[:k2]].mean(axis=0) for row in ranks])
    jaccard = [np.minimum(averaged[0], row).sum() / np.maximum(averaged[0], row).sum() for row in averaged[1:]]
    return [(1 - weight) * j + weight * c for j, c in zip(jaccard, cosines[0, 1:], strict=True)]


@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (5, 1, 0.0), (8, 3, 1.0), (100, 200, 0.5)])
def test_k_reciprocal_is_what_the_paper_says(k1: int, k2: int, weight: float) -> None:
    vectors, _ = groups(4)
    scores = scores_of(KReciprocal(k1=k1, k2=k2, weight=weight), vectors)
    assert scores == pytest.approx(by_the_paper(vectors, k1, k2, weight), abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_has_no_vector_has_no_score_and_disturbs_nobody(name: str) -> None:
    vectors, _ = groups(5, count=20)
    query, *others = vectors
    reranker = rerankers.load(name)
    whole = reranker.rerank(Query(query), [Candidate("", 0.0, vector=each) for each in others])
    candidates = [Candidate("", 0.0, vector=each) for each in others]
    candidates.insert(3, Candidate("none", 0.0))
    scores = reranker.rerank(Query(query), candidates)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3]
    assert np.delete(scores, 3) == pytest.approx(whole)
    assert reranker.rerank(Query(query), []).shape == (0,)
    assert np.isnan(reranker.rerank(Query(query), [Candidate("none", 0.0)])).all()
    assert np.isfinite(reranker.rerank(Query(query), candidates[:1])).all()
    assert np.isfinite(reranker.rerank(Query(np.zeros_like(query)), candidates[:2])).all()
    with pytest.raises(ConfigError, match=r"the vector of 'a' is \[3\], that of the query \[12\]"):
        reranker.rerank(Query(query), [Candidate("a", 0.0, vector=np.ones(3, np.float32))])


@pytest.mark.parametrize("name", NAMES)
def test_only_the_direction_of_vectors_counts_and_not_their_order(name: str) -> None:
    vectors, _ = groups(6)
    reranker = rerankers.load(name)
    scores = scores_of(reranker, vectors)
    longer = vectors * np.linspace(0.5, 9, len(vectors), dtype=np.float32)[:, None]
    assert scores_of(reranker, longer) == pytest.approx(scores, abs=1e-5)
    turned = np.concatenate([vectors[:1], vectors[:0:-1]])
    assert scores_of(reranker, turned)[::-1] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("alpha-qe?n=0", "alpha-qe: n is 1 or more, not 0"),
        ("alpha-qe?alpha=-1", "alpha-qe: alpha is 0 or more, not -1"),
        ("dba?alpha=nan", "dba: alpha is 0 or more, not nan"),
        ("diffusion?keep=1", "keep is from 0 to below 1"),
        ("k-reciprocal?k2=0", "k2 is 1 or more, not 0"),
        ("k-reciprocal?weight=2", "weight is from 0 to 1, not 2"),
        ("k-reciprocal?k3=2", "no option 'k3': did you mean|no option 'k3'"),
    ],
)
def test_options_out_of_their_range_are_named(reference: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        rerankers.load(reference)
