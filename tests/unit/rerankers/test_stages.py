"""Stages of rerankers: which sees what, in which order all end, and what is said where it cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from pixdex import rerankers
from pixdex.encoders.port import Features
from pixdex.errors import ConfigError, FingerprintMismatch, Unsupported
from pixdex.rerankers import Stage, stages_of
from pixdex.rerankers.maxsim import MaxSim
from pixdex.rerankers.port import Candidate, Query
from pixdex.rerankers.stages import staged, use_tokens, use_vectors
from pixdex.spec import Fingerprint, TokenSpec

QUERY = Query(np.ones(2, np.float32))


@dataclass
class Told:
    """Scores that were told beforehand, by id; ``seen`` are the ids of each call. A stranger's: without ``uses_vectors``."""

    scores: dict[str, float]
    name: str = "told"
    uses_tokens: bool = False
    seen: list[list[str]] = field(default_factory=list)

    def rerank(self, query, candidates):
        self.seen.append([each.id for each in candidates])
        assert [each.score for each in candidates] == [FIRST[each.id] for each in candidates]
        return np.array([self.scores.get(each.id, np.nan) for each in candidates], np.float32)


FIRST = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "e": 0.5}
CANDIDATES = [Candidate(name, score) for name, score in FIRST.items()]


def order(*stages: Stage) -> str:
    return "".join("abcde"[one.row] for one in staged(QUERY, CANDIDATES, stages))


def test_a_stage_sees_the_best_so_far_and_the_rest_keep_their_order() -> None:
    one = Told({"a": 1, "b": 2, "c": 5, "d": 4, "e": 3})
    two = Told({"c": 1, "d": 2, "e": 3}, name="two")
    assert order(Stage(one), Stage(two, top=3)) == "edcba"
    assert two.seen == [["c", "d", "e"]]
    assert order(Stage(two, top=2), Stage(one, top=100)) == "cdeba"  # more than there are is all
    assert order() == "abcde"
    assert [one.score for one in staged(QUERY, CANDIDATES, ())] == list(FIRST.values())


def test_the_trace_says_what_each_stage_scored() -> None:
    one, two = Told({"a": 1, "b": 2, "c": 3, "d": 0, "e": -1}), Told({"a": 7, "b": 8, "c": 9})
    best, *_, last = staged(QUERY, CANDIDATES, [Stage(one), Stage(two, top=3)])
    assert (best.row, best.score, dict(best.trace)) == (2, 9, {"first": 0.7, "told": 3, "told.2": 9})
    assert (last.score, dict(last.trace)) == (-1, {"first": 0.5, "told": -1})


def test_what_is_not_scored_keeps_its_place_and_equals_keep_their_order() -> None:
    assert order(Stage(Told({"b": 1, "c": 2, "e": 3}))) == "aecdb"
    assert order(Stage(Told(dict.fromkeys("abcde", 1)))) == "abcde"
    assert order(Stage(Told({}))) == "abcde"
    unscored = staged(QUERY, CANDIDATES, [Stage(Told({"b": 1}))])[0]
    assert (unscored.score, dict(unscored.trace)) == (0.9, {"first": 0.9})


def test_a_score_too_few_or_too_many_is_refused() -> None:
    class Odd(Told):
        def rerank(self, query, candidates):
            return super().rerank(query, candidates)[:-1]

    with pytest.raises(ConfigError, match=r"'told' gives scores \[4\] of 5 candidates"):
        order(Stage(Odd({"b": 1})))


def test_a_text_is_read_as_stages() -> None:
    one, two = stages_of("maxsim, k-reciprocal?k1=5&weight=0.5@30")
    assert (one.made.name, one.top, two.made.name, two.made.k1, two.top) == ("maxsim", None, "k-reciprocal", 5, 30)
    assert stages_of(None) == ()
    given = MaxSim()
    assert [stage.made for stage in stages_of(given)] == [given]
    assert [stage.top for stage in stages_of([given, "dba@9", Stage("dba", top=3)])] == [None, 9, 3]
    assert use_tokens([one])
    assert not use_tokens([two])
    assert use_vectors([two])
    assert not use_vectors([one, Stage(Told({}))])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("maxsim@0", "rerank maxsim@0: what follows the @ is how many of the best it sees, 1 or more"),
        ("maxsim@few", "rerank maxsim@few: what follows the @ .* such as maxsim@30"),
        ("maxsim@", "what follows the @"),
        ("maxsim,", "a stage without a name"),
        ("maxsim,maxsin@3", "no reranker 'maxsin': did you mean 'maxsim'|did you mean 'maxsim'"),
        ([], "no stages"),
        ("cross:/a@b/none", "cross:/a@b/none: no such folder"),
        ("cross:some@one", "cross:some@one: no such folder"),
        ("dba?m=3", "dba: no option 'm'"),
        ("dba?n=few", "dba: n is a whole number, not 'few'"),
        ("dba:n=3", r"options follow a question mark, such as dba\?n=20"),
    ],
)
def test_what_cannot_be_read_is_named(wrong, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        stages_of(wrong)


def features(rng: np.random.Generator, count: int) -> Features:
    tokens = tuple(rng.integers(-127, 128, (4, 8)).astype(np.int8) for _ in range(count))
    return Features(rng.standard_normal((count, 6)).astype(np.float32), tokens)


def test_features_of_any_store_are_ranked() -> None:
    rng = np.random.default_rng(0)
    query, others = features(rng, 1), features(rng, 9)
    same = Features(others.vectors, (*others.tokens[:4], query.tokens[0], *others.tokens[5:]))
    ranked = rerankers.rerank(query, same, "maxsim")
    assert ranked[0].row == 4
    assert ranked[0].score == pytest.approx(1, abs=1e-3)
    assert sorted(one.row for one in ranked) == list(range(9))
    cosines = others.vectors @ query.vectors[0]
    cosines /= np.linalg.norm(others.vectors, axis=1) * np.linalg.norm(query.vectors)
    assert [one.trace["first"] for one in ranked] == pytest.approx([cosines[one.row] for one in ranked])
    best = rerankers.rerank(query, same, "maxsim@1", scores=range(9))
    assert [one.row for one in best] == list(range(9))[::-1]
    candidates = [Candidate("x", 0.1, matrix) for matrix in same.tokens]
    assert [one.row for one in rerankers.rerank(Query(query.vectors[0], query.tokens[0]), candidates, "maxsim")] == [
        one.row for one in ranked
    ]


def test_features_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(1)
    query, others = features(rng, 1), features(rng, 3)
    with pytest.raises(ConfigError, match="the query is one picture"):
        rerankers.rerank(others, others, "maxsim")
    with pytest.raises(ConfigError, match=r"3 vectors of candidates with scores \[2\]"):
        rerankers.rerank(query, others, "maxsim", scores=[1, 2])
    with pytest.raises(ConfigError, match="bring their own"):
        rerankers.rerank(query, CANDIDATES, "maxsim", scores=[1, 2])
    with pytest.raises(Unsupported, match="'maxsim' needs tokens of the query"):
        rerankers.rerank(Features(query.vectors), others, "maxsim")


def test_tokens_of_another_encoder_are_refused() -> None:
    class Trained(Told):
        def check(self, tokens: TokenSpec) -> None:
            raise FingerprintMismatch(tokens.fingerprint.encoder)

    spec = TokenSpec(count=4, dim=8, fingerprint=Fingerprint(encoder="other", digest="0" * 8))
    query = features(np.random.default_rng(2), 1)
    with pytest.raises(FingerprintMismatch, match="other"):
        rerankers.rerank(query, CANDIDATES, Trained({}), tokens=spec)
    assert len(rerankers.rerank(query, CANDIDATES, Trained({}))) == 5
