"""Lists joined, scores that fall off, queries moved: by hand-computed numbers and beside other libraries' functions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pixdex import fusion
from pixdex.errors import ConfigError
from pixdex.fusion import Decay, Shape
from pixdex.types import Hit

A = [Hit("x", 0.9, {"n": 1}), Hit("y", 0.8), Hit("z", 0.4)]
B = [Hit("z", 12.0, {"n": 2}), Hit("w", 4.0)]


def scores(hits: Sequence[Hit]) -> dict[str, float]:
    return {hit.id: hit.score for hit in hits}


def test_ranks_are_joined_as_in_the_paper() -> None:
    found = fusion.reciprocal_rank({"image": A, "text": B})
    expected = {"z": 1 / 63 + 1 / 61, "x": 1 / 61, "y": 1 / 62, "w": 1 / 62}
    assert scores(found) == pytest.approx(expected)
    assert [hit.id for hit in found] == ["z", "x", "w", "y"]  # w and y are equal: by id


def test_a_hit_says_what_each_list_scored_and_keeps_its_payload() -> None:
    first = fusion.reciprocal_rank({"image": A, "text": B})[0]
    assert first.trace == {"image": 0.4, "text": 12.0}
    assert first.payload == {"n": 2}
    assert A[2].trace == {}  # what was given is left as it was
    assert A[2].score == 0.4


def test_weights_count_and_unknown_ones_are_refused() -> None:
    assert scores(fusion.reciprocal_rank({"a": A, "b": B}, weights={"b": 0}))["w"] == 0
    assert scores(fusion.reciprocal_rank({"a": A, "b": B}, weights={"b": 3}, k=0))["w"] == 1.5
    with pytest.raises(ConfigError, match="a weight for 'c'.*there is a, b"):
        fusion.reciprocal_rank({"a": A, "b": B}, weights={"c": 1})
    with pytest.raises(ConfigError, match="0 or more"):
        fusion.z_scored({"a": A}, weights={"a": -1})


def test_scores_of_different_scale_are_joined_by_their_spread() -> None:
    a, b = np.array([0.9, 0.8, 0.4]), np.array([12.0, 4.0])
    za, zb = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    found = scores(fusion.z_scored({"a": A, "b": B}, weights={"b": 2}))
    # What a list lacks got what its last one got, not its average.
    assert found == pytest.approx({
        "x": za[0] + 2 * zb[1], "y": za[1] + 2 * zb[1], "z": za[2] + 2 * zb[0], "w": za[2] + 2 * zb[1],
    })  # fmt: skip


def test_lists_without_spread_or_hits_decide_nothing() -> None:
    same = [Hit("x", 0.5), Hit("y", 0.5)]
    assert scores(fusion.z_scored({"a": same, "b": []})) == {"x": 0, "y": 0}
    assert scores(fusion.distribution({"a": same, "b": []})) == {"x": 0.5, "y": 0.5}
    assert scores(fusion.distribution({"a": [Hit("x", 3.0)]})) == {"x": 0.5}
    assert fusion.fuse({"a": [], "b": []}) == []


def test_methods_go_by_name() -> None:
    for name in fusion.Method:
        assert fusion.fuse({"a": A}, method=name.value)
    with pytest.raises(ConfigError, match="one of rrf, z, dbsf"):
        fusion.fuse({"a": A}, method="sum")


def made(seed: int) -> dict[str, list[Hit]]:
    dice = random.Random(seed)
    lists = {}
    for name in ("a", "b", "c"):
        ids = dice.sample(range(40), dice.randrange(2, 30))
        lists[name] = [
            Hit(str(i), s) for i, s in zip(ids, sorted((dice.gauss(0, 1) for _ in ids), reverse=True), strict=True)
        ]
    return lists


@pytest.mark.parametrize("seed", range(5))
def test_qdrants_own_functions_give_the_same(seed: int) -> None:
    theirs = pytest.importorskip("qdrant_client.hybrid.fusion")
    models = pytest.importorskip("qdrant_client.models")
    lists = made(seed)

    def points() -> list[list[object]]:
        return [[models.ScoredPoint(id=int(h.id), version=0, score=h.score) for h in hits] for hits in lists.values()]

    rrf = theirs.reciprocal_rank_fusion(points(), limit=1000, ranking_constant_k=fusion.K + 1)
    assert scores(fusion.reciprocal_rank(lists)) == pytest.approx({str(p.id): p.score for p in rrf})
    dbsf = theirs.distribution_based_score_fusion(points(), limit=1000)
    assert scores(fusion.distribution(lists)) == pytest.approx({str(p.id): p.score for p in dbsf})


@pytest.mark.filterwarnings("ignore")  # what numba says when it compiles
@pytest.mark.parametrize("seed", range(5))
def test_ranx_gives_the_same(seed: int) -> None:
    ranx = pytest.importorskip("ranx")
    lists = made(seed)
    runs = [ranx.Run({"q": scores(hits)}, name=name) for name, hits in lists.items()]
    rrf = ranx.fuse(runs=runs, norm=None, method="rrf", params={"k": fusion.K})
    assert scores(fusion.reciprocal_rank(lists)) == pytest.approx(dict(rrf.run["q"]))
    everything = {str(i) for i in range(40)}
    whole = {n: [*h, *(Hit(i, -9.0) for i in sorted(everything - {hit.id for hit in h}))] for n, h in lists.items()}
    runs = [ranx.Run({"q": scores(hits)}, name=name) for name, hits in whole.items()]
    weighted = ranx.fuse(runs=runs, norm="zmuv", method="wsum", params={"weights": (0.2, 0.3, 0.5)})
    ours = fusion.z_scored(whole, weights={"a": 0.2, "b": 0.3, "c": 0.5})
    assert scores(ours) == pytest.approx(dict(weighted.run["q"]), abs=1e-6)


# --- place and time -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "at_half", "at_twice"),
    [(Shape.GAUSS, 0.5**0.25, 0.5**4), (Shape.EXP, 0.5**0.5, 0.25), (Shape.LINEAR, 0.75, 0.0)],
)
def test_factors_fall_off_as_defined(shape: Shape, at_half: float, at_twice: float) -> None:
    decay = Decay(scale=10, offset=2, shape=shape)
    assert [decay.factor(x) for x in (0, 2, 7, 12, 22)] == pytest.approx([1, 1, at_half, 0.5, at_twice])
    assert decay.factor(None) == 0.5
    assert Decay(scale=10, shape=shape, absent=0).factor(None) == 0


@pytest.mark.parametrize(
    "wrong", [{"scale": 0}, {"scale": 1, "offset": -1}, {"scale": 1, "decay": 1}, {"scale": 1, "absent": 2}]
)
def test_values_out_of_range_are_refused(wrong: Mapping[str, float]) -> None:
    with pytest.raises(ConfigError):
        Decay(**wrong)


def test_what_is_near_and_recent_rises() -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    hits = [
        Hit("far", 0.9, {"place": {"lat": 48.9, "lon": 2.35}, "taken": noon - timedelta(days=400)}),
        Hit("near", 0.8, {"place": {"lat": 52.5, "lon": 13.4}, "taken": noon - timedelta(hours=1)}),
        Hit("nowhere", 0.85, {}),
    ]
    placed = fusion.decayed(hits, "near", fusion.kilometres("place", (52.52, 13.40)), Decay(scale=50))
    assert [hit.id for hit in placed] == ["near", "nowhere", "far"]
    assert placed[0].trace["near"] == pytest.approx(1, abs=0.01)
    dated = fusion.decayed(hits, "at", fusion.age("taken", noon), Decay(scale=86400 * 30, shape=Shape.EXP))
    assert [hit.id for hit in dated] == ["near", "nowhere", "far"]
    assert dated[0].score == pytest.approx(0.8 * 0.5 ** (1 / 720))


def test_scores_below_zero_do_not_rise_by_being_far() -> None:
    hits = [Hit("near", -0.2, {"d": 0}), Hit("far", -0.2, {"d": 5})]
    found = fusion.decayed(
        [*hits, Hit("last", -0.9, {"d": 0})], "d", lambda hit: (hit.payload or {})["d"], Decay(scale=1)
    )
    assert next(hit.id for hit in found) == "near"


# --- feedback -------------------------------------------------------------------------------------


def test_a_query_moves_by_what_is_liked() -> None:
    query, up, down = np.array([1, 0], "f4"), np.array([0, 1], "f4"), np.array([0, -1], "f4")
    assert fusion.rocchio(query, more=[up, up], less=[down]).tolist() == pytest.approx([1, 0.9])
    assert fusion.rocchio(query).tolist() == [1, 0]


# --- hits that score the same ---------------------------------------------------------------------


def test_hits_that_score_the_same_share_the_mean_of_their_ranks() -> None:
    tied = [Hit("a", 0.9), Hit("b", 0.5), Hit("c", 0.5 - 4e-7), Hit("d", 0.5 + 4e-7), Hit("e", 0.1)]
    found = scores(fusion.reciprocal_rank({"a": tied}, k=0))
    assert found == pytest.approx({"a": 1, "b": 1 / 3, "c": 1 / 3, "d": 1 / 3, "e": 1 / 5})
    other = [tied[0], tied[3], tied[1], tied[2], tied[4]]
    assert scores(fusion.reciprocal_rank({"a": other}, k=0)) == found, "whatever order a store gives them in"


def test_a_list_is_not_cut_between_them() -> None:
    hits = [Hit(str(n), s) for n, s in enumerate([0.9, 0.8, 0.5, 0.5, 0.5, 0.1])]

    def cut(depth: int, *, of: int = 6, all_there: bool = True) -> int:
        return len(fusion.levelled(hits[:of], depth, all_there=all_there))

    assert [cut(depth) for depth in range(1, 8)] == [1, 2, 5, 5, 5, 6, 6]
    assert cut(3, of=4, all_there=False) == 2, "there may be more of them"
    assert cut(3, of=6, all_there=False) == 5
    assert len(fusion.levelled(hits[2:4], 1, all_there=False)) == 2, "better some than none"
