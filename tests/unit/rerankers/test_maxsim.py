from __future__ import annotations

import numpy as np
import pytest

from pixdex import rerankers
from pixdex.errors import ConfigError
from pixdex.rerankers.maxsim import MaxSim, _groups
from pixdex.rerankers.port import Candidate, Query, Reranker

VECTOR = np.ones(4, dtype=np.float32)


def tokens(rng: np.random.Generator, count: int, dim: int = 16) -> np.ndarray:
    values = rng.normal(size=(count, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def by_definition(query: np.ndarray, document: np.ndarray) -> float:
    cosines = [
        max(float(q @ d) / float(np.linalg.norm(q) * np.linalg.norm(d)) for d in document.astype(float))
        for q in query.astype(float)
    ]
    return sum(cosines) / len(cosines)


def test_it_is_a_reranker() -> None:
    reranker = rerankers.load("maxsim")
    assert isinstance(reranker, Reranker)
    assert isinstance(reranker, MaxSim)
    assert reranker.uses_tokens
    assert "maxsim" in rerankers.available()


def test_scores_are_those_of_the_definition_at_any_length() -> None:
    rng = np.random.default_rng(0)
    query = tokens(rng, 9)
    documents = [tokens(rng, count) for count in (1, 30, 2, 9, 17, 1)]
    scores = MaxSim().rerank(Query(VECTOR, query), [Candidate(str(i), 0.0, d) for i, d in enumerate(documents)])
    assert scores.dtype == np.float32
    assert scores == pytest.approx([by_definition(query, d) for d in documents], abs=1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
def test_only_the_direction_of_a_token_counts(dtype: type) -> None:
    rng = np.random.default_rng(1)
    query, document = tokens(rng, 5), tokens(rng, 6)
    stored = (document * (100 * rng.uniform(0.5, 1, (6, 1)))).astype(dtype)
    score = MaxSim().rerank(Query(VECTOR, query), [Candidate("a", 0.0, stored)])
    assert score == pytest.approx([by_definition(query, document)], abs=0.02)


def test_packed_signs_are_vectors_of_one_and_minus_one() -> None:
    """On both sides or on one."""
    rng = np.random.default_rng(6)
    query, documents = tokens(rng, 5), [tokens(rng, count) for count in (3, 7)]
    packed = [Candidate("", 0.0, np.packbits(document > 0, axis=1)) for document in documents]
    signs = [np.where(document > 0, 1, -1) for document in documents]
    both = MaxSim().rerank(Query(VECTOR, np.packbits(query > 0, axis=1)), packed)
    assert both == pytest.approx([by_definition(np.where(query > 0, 1, -1), s) for s in signs], abs=1e-5)
    assert MaxSim().rerank(Query(VECTOR, query), packed) == pytest.approx(
        [by_definition(query, s) for s in signs], abs=1e-5
    )


def test_the_same_tokens_score_one_and_rank_first() -> None:
    rng = np.random.default_rng(2)
    query = tokens(rng, 12)
    candidates = [Candidate(str(i), 0.0, tokens(rng, 12)) for i in range(20)]
    candidates.insert(7, Candidate("same", 0.0, (query * 127).round().astype(np.int8)))
    scores = MaxSim().rerank(Query(VECTOR, query), candidates)
    assert int(np.argmax(scores)) == 7
    assert scores[7] == pytest.approx(1, abs=1e-3)


def test_what_has_no_tokens_is_nan_and_disturbs_nobody() -> None:
    rng = np.random.default_rng(3)
    query, document = tokens(rng, 3), tokens(rng, 4)
    empty = np.empty((0, 16), dtype=np.int8)
    candidates = [
        Candidate("a", 0.0),
        Candidate("b", 0.0, document),
        Candidate("c", 0.0, empty),
        Candidate("d", 0.0, document),
    ]
    scores = MaxSim().rerank(Query(VECTOR, query), candidates)
    assert np.isnan(scores).tolist() == [True, False, True, False]
    assert scores[1] == pytest.approx(by_definition(query, document), abs=1e-5)
    assert scores[1] == scores[3]
    assert np.isnan(MaxSim().rerank(Query(VECTOR), candidates)).all()
    assert MaxSim().rerank(Query(VECTOR, query), []).shape == (0,)


def test_zero_tokens_match_nothing() -> None:
    query = np.zeros((2, 4), dtype=np.int8)
    query[0, 0] = 1
    document = np.eye(4, dtype=np.int8)
    assert MaxSim().rerank(Query(VECTOR, query), [Candidate("a", 0.0, document)]) == pytest.approx([0.5])


def test_more_tokens_than_one_product_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    query = tokens(rng, 4)
    candidates = [Candidate(str(i), 0.0, tokens(rng, 1 + i % 7)) for i in range(40)]
    whole = MaxSim().rerank(Query(VECTOR, query), candidates)
    monkeypatch.setattr("pixdex.rerankers.maxsim._MAX_TOKENS", 5)
    groups = _groups(candidates)
    assert sorted(row for rows in groups for row in rows) == list(range(40))
    assert all(len(rows) == 1 or sum(1 + row % 7 for row in rows) <= 5 for rows in groups)
    assert MaxSim().rerank(Query(VECTOR, query), candidates) == pytest.approx(whole, abs=1e-6)


def test_tokens_of_another_width_are_refused() -> None:
    rng = np.random.default_rng(5)
    with pytest.raises(ConfigError, match="'a'"):
        MaxSim().rerank(Query(VECTOR, tokens(rng, 2)), [Candidate("a", 0.0, tokens(rng, 2, 8))])


def test_unknown_names_and_options() -> None:
    with pytest.raises(ConfigError, match="did you mean 'maxsim'"):
        rerankers.load("maxsin")
    with pytest.raises(ConfigError, match="no options"):
        rerankers.load("maxsim:both")
