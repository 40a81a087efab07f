"""Indexes of the embedded store: what they propose, how they grow and are saved, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import cache
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from pixdex.connectors import _pq_index as indexes
from pixdex.connectors._pq_index import Index, Kind, Stopped
from pixdex.errors import ConfigError, MissingDependency, StoreFormat, Unsupported
from pixdex.spec import Metric

KINDS = [kind for kind in Kind if kind not in {Kind.AUTO, Kind.FLAT}]
TREES = [Kind.KDTREE, Kind.BALLTREE]
ROWS, DIM = 3000, 16


def clustered(rows: int, dim: int, metric: Metric, seed: int = 0) -> NDArray[np.float32]:
    """Vectors in 60 clusters; for dot of very different lengths."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((60, dim))
    made = centres[draw.integers(60, size=rows)] + 0.4 * draw.standard_normal((rows, dim))
    if metric is Metric.COSINE:
        made /= np.linalg.norm(made, axis=1, keepdims=True)
    elif metric is Metric.DOT:
        made *= draw.uniform(0.2, 5, (rows, 1))
    return made.astype(np.float32)


def best(metric: Metric, queries: NDArray[Any], vectors: NDArray[Any], count: int) -> NDArray[np.int64]:
    products = queries @ vectors.T
    scores = products * 2 - np.square(vectors).sum(axis=1) if metric is Metric.L2 else products
    return np.argsort(-scores, axis=1)[:, :count]


def recall(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """The share of the wanted that was proposed: the caller scores exactly."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]))


@cache
def trained(kind: Kind, metric: Metric) -> Index:
    if kind in TREES:
        pytest.importorskip("sklearn")
    return indexes.train(kind, clustered(ROWS, DIM, metric), metric)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def index(kind: Kind) -> Index:
    return trained(kind, Metric.COSINE)


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return clustered(ROWS, DIM, Metric.COSINE)


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    return clustered(40, DIM, Metric.COSINE, seed=1)


# --- what is proposed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", list(Metric))
def test_the_best_are_among_the_candidates(kind: Kind, metric: Metric) -> None:
    vectors, queries = clustered(ROWS, DIM, metric), clustered(40, DIM, metric, seed=1)
    wanted = best(metric, queries, vectors, 10)
    found = {effort: trained(kind, metric).propose(queries, 10, effort=effort) for effort in (0, 0.5, 1)}
    recalls = [recall(candidates, wanted) for candidates in found.values()]
    assert recalls[2] >= 0.98
    assert recalls[1] >= (0.8 if metric is Metric.DOT else 0.95)
    assert recalls == sorted(recalls)
    if kind in TREES:
        assert recalls == [1, 1, 1]


def test_a_scan_of_all_codes_finds_nearly_all(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    """It serves collections of some thousand, which were scanned exactly before."""
    found = trained(Kind.PQ, Metric.COSINE).propose(queries, 10, effort=0.5)
    assert recall(found, best(Metric.COSINE, queries, vectors, 10)) >= 0.995


def test_one_query_gets_what_many_get(index: Index, queries: NDArray[np.float32]) -> None:
    together = index.propose(queries, 10, effort=0.5)
    alone = np.concatenate([index.propose(query[None], 10, effort=0.5) for query in queries])
    assert recall(alone, together) >= 0.98


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_only_what_is_allowed_is_proposed(
    index: Index, vectors: NDArray[np.float32], queries: NDArray[np.float32], share: float
) -> None:
    mask = np.random.default_rng(2).random(ROWS) < share
    mask[ROWS - 100 :] = False
    bits = np.packbits(mask[: ROWS - 100], bitorder="little")
    found = index.propose(queries, 10, effort=0.8, among=bits, share=share)
    assert mask[found[found >= 0]].all()
    survivors = np.flatnonzero(mask)
    assert recall(found, survivors[best(Metric.COSINE, queries, vectors[survivors], 10)]) >= 0.95


def test_the_fewer_may_be_found_the_more_lists_are_looked_into(
    vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    mask = np.random.default_rng(2).random(ROWS) < 0.05
    survivors, bits = np.flatnonzero(mask), np.packbits(mask, bitorder="little")
    found = trained(Kind.IVF, Metric.COSINE).propose(queries, 10, effort=0, among=bits, share=0.05)
    assert recall(found, survivors[best(Metric.COSINE, queries, vectors[survivors], 10)]) >= 0.99


def test_more_than_there_is_may_be_asked_for(index: Index, queries: NDArray[np.float32]) -> None:
    everything = index.propose(queries[:2], 2 * ROWS, effort=0.5)
    found = [len(set(row) - {-1}) for row in everything.tolist()]
    assert min(found) >= (0.99 * ROWS if index.kind is Kind.HNSW else ROWS)  # a graph may not reach a few nodes
    nothing = np.packbits(np.zeros(ROWS, dtype=bool), bitorder="little")
    assert (index.propose(queries[:2], 10, effort=0.5, among=nothing, share=0.0) == -1).all()


@pytest.mark.parametrize(("rows", "dim"), [(1, 131), (2, 1), (40, 67), (40, 3)])
def test_any_width_and_few_vectors(kind: Kind, rows: int, dim: int) -> None:
    if kind in TREES and dim > 16:
        pytest.skip("refused")
    vectors = clustered(rows, dim, Metric.L2).astype(np.float16)
    index = indexes.train(kind, vectors, Metric.L2)
    found = index.propose(vectors[:1].astype(np.float32), 3, effort=0.5)
    assert 0 in found
    assert found.max() < rows


@pytest.mark.parametrize("metric", list(Metric))
def test_equal_vectors_do_no_harm(kind: Kind, metric: Metric) -> None:
    same = np.full((200, 8), 8**-0.5, dtype=np.float32)
    found = indexes.train(kind, same, metric).propose(same[:1], 5, effort=0.5)
    assert ((found >= -1) & (found < 200)).all()


# --- growing, saving ----------------------------------------------------------------------------------


def test_one_that_was_extended_finds_the_new_and_leaves_the_old_alone(
    index: Index, vectors: NDArray[np.float32]
) -> None:
    new = clustered(300, DIM, Metric.COSINE, seed=3)
    before = index.propose(new, 5, effort=0.5)
    larger = index.extended(new).extended(new[:10])
    assert (index.covers, larger.covers, larger.fitted) == (ROWS, ROWS + 310, ROWS)
    found = larger.propose(new, 5, effort=0.8)
    assert np.mean([ROWS + i in row for i, row in enumerate(found.tolist())]) >= 0.98
    assert (index.propose(new, 5, effort=0.5) == before).all()


def test_what_was_saved_is_the_same_and_can_grow(index: Index, queries: NDArray[np.float32]) -> None:
    saved = indexes.to_bytes(index)
    saved.setflags(write=False)
    again = indexes.from_bytes(saved)
    del saved
    assert again.facts == index.facts
    assert type(again) is type(index)
    assert (again.propose(queries, 10, effort=0.5) == index.propose(queries, 10, effort=0.5)).all()
    assert again.extended(queries).covers == ROWS + len(queries)


def test_what_is_cut_short_is_refused(index: Index) -> None:
    whole = indexes.to_bytes(index)
    for size in (0, 3, 40, len(whole) // 2, len(whole) - 1):
        with pytest.raises(StoreFormat):
            indexes.from_bytes(whole[:size])


def test_resident_is_about_what_is_saved(index: Index) -> None:
    if index.kind not in TREES:  # those hold more than they save
        assert 0.7 < index.resident / len(indexes.to_bytes(index)) < 1.3


# --- training -----------------------------------------------------------------------------------------


def test_training_is_repeatable(kind: Kind) -> None:
    if kind is Kind.HNSW:
        pytest.skip("the order of threads decides links")
    vectors = clustered(500, DIM, Metric.L2)
    first, second = (indexes.to_bytes(indexes.train(kind, vectors, Metric.L2, sample_seed=4)) for _ in range(2))
    assert (first == second).all()


def test_the_sample_follows_the_seed() -> None:
    many = clustered(20_500, 2, Metric.L2)  # more than a sample
    one, same, other = (
        indexes.to_bytes(indexes.train(Kind.PQ, many, Metric.L2, sample_seed=i)).tobytes() for i in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_training_leaves_the_threads_of_the_process_alone(kind: Kind) -> None:
    threads = faiss.omp_get_max_threads()
    other = 1 if threads > 1 else 2
    faiss.omp_set_num_threads(other)
    try:
        indexes.train(kind, clustered(100, 4, Metric.L2), Metric.L2)
        assert faiss.omp_get_max_threads() == other
    finally:
        faiss.omp_set_num_threads(threads)


def test_training_reports_and_stops(kind: Kind) -> None:
    vectors, stop, seen = clustered(8200, 4, Metric.L2), threading.Event(), list[int]()
    indexes.train(kind, vectors, Metric.L2, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 8200
    stop.set()
    with pytest.raises(Stopped):
        indexes.train(kind, vectors, Metric.L2, stop=stop)


def test_vectors_of_another_kind_do_not_fit(vectors: NDArray[np.float32]) -> None:
    index = trained(Kind.IVF_PQ, Metric.COSINE)
    assert indexes.drift(index, vectors[:500]) == pytest.approx(1, abs=0.15)
    other = np.random.default_rng(5).standard_normal((500, DIM)).astype(np.float32)
    assert indexes.drift(index, other / np.linalg.norm(other, axis=1, keepdims=True)) > 2


# --- kinds --------------------------------------------------------------------------------------------


def test_auto_is_exact_while_that_is_fast() -> None:
    assert indexes.resolve(Kind.AUTO, 1000, 384) is Kind.FLAT
    assert indexes.resolve(Kind.AUTO, 10_000, 384) is Kind.PQ
    assert indexes.resolve(Kind.AUTO, 200_000, 384) is Kind.IVF_PQ
    assert indexes.resolve(Kind.LSH, 10, 384) is Kind.LSH


def test_flat_has_no_index() -> None:
    with pytest.raises(ConfigError, match="flat has no index"):
        indexes.train(Kind.FLAT, np.zeros((9, 4), dtype=np.float32), Metric.L2)
    with pytest.raises(ConfigError, match="no vectors"):
        indexes.train(Kind.PQ, np.zeros((0, 4), dtype=np.float32), Metric.L2)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match=r"index='ivfpq'.*'ivf-pq'"):
        indexes.kind_named("ivfpq")


@pytest.mark.parametrize("tree", TREES)
def test_trees_are_refused_where_they_lose(tree: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unsupported, match="index='flat'"):
        indexes.check(tree, 384)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingDependency, match=r"pixdex\[trees\]"):
        indexes.check(tree, 3)


def test_a_process_in_which_faiss_was_switched_to_tensors_has_indexes_too() -> None:
    """pytorch-metric-learning does that when it is imported."""
    pytest.importorskip("torch")
    program = """
import faiss.contrib.torch_utils
import numpy as np
from pixdex.connectors import _pq_index as indexes
from pixdex.spec import Metric
rows = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
for kind in ("ivf-pq", "opq", "ivf", "pq", "rabitq", "hnsw", "lsh"):
    index = indexes.train(indexes.Kind(kind), rows, Metric.L2)
    again = indexes.from_bytes(indexes.to_bytes(index.extended(rows[:50])))
    among = np.packbits(np.ones(450, dtype=bool), bitorder="little")
    for found in (index.propose(rows[:2], 5, effort=1), again.propose(rows[:2], 5, effort=1, among=among, share=1.0)):
        assert isinstance(found, np.ndarray) and found[0, :5].tolist().count(0) == 1
    assert indexes.drift(index, rows[:100]) > 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
