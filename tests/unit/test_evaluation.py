"""Metrics, intervals and protocols: by hand where libraries disagree, against pytorch-metric-learning where they agree."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pixdex import evaluation
from pixdex.errors import ConfigError, InvalidRecord
from pixdex.evaluation import interval, measure, metrics, named, paired, revisited


def ranked(*ranks: int, depth: int = 20) -> np.ndarray:
    """A list whose right answers stand at these ranks."""
    relevance = np.zeros(depth, dtype=bool)
    relevance[np.array(ranks, dtype=int) - 1] = True
    return relevance


# --- one list ---------------------------------------------------------------------------------------

FOUR = ranked(1, 3, 6, 11)
AP = (1 + 2 / 3 + 3 / 6 + 4 / 11) / 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recall@1", 1),
        ("recall@5", 1),
        ("recall_fraction@5", 2 / 4),
        ("recall_fraction@6", 3 / 4),
        ("precision@5", 2 / 5),
        ("precision@10", 3 / 10),
        ("r_precision", 2 / 4),
        ("map", AP),  # 0.6326
        ("map@r", (1 + 2 / 3) / 4),  # 0.4167
        ("map@5", (1 + 2 / 3) / 4),  # 0.4167: not 0.8333, which dividing by the right ones found would give
        ("map@10", (1 + 2 / 3 + 3 / 6) / 4),  # 0.5417, not 0.7222
        ("map@2", 1 / 2),  # where R > k: by min(R, k), not by R
        (
            "map_trapezoid",
            ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2 + (3 / 10 + 4 / 11) / 2) / 4,
        ),  # 0.5913
        ("mrr", 1),
        ("ndcg@3", (1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2)),
        (
            "ndcg",
            (1 + 1 / 2 + 1 / math.log2(7) + 1 / math.log2(12)) / (1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)),
        ),
    ],
)
def test_the_example_that_libraries_disagree_on(name: str, value: float) -> None:
    assert named(name)(FOUR) == pytest.approx(value)


def test_the_numbers_of_that_example_as_published() -> None:
    values = {name: float(named(name)(FOUR)) for name in ("map", "map_trapezoid", "map@r", "map@5", "map@10")}
    assert {name: round(value, 4) for name, value in values.items()} == {
        "map": 0.6326, "map_trapezoid": 0.5913, "map@r": 0.4167, "map@5": 0.4167, "map@10": 0.5417
    }  # fmt: skip


@pytest.mark.parametrize("name", [name.replace("@k", "@3") for name in evaluation.NAMES])
def test_bounds(name: str) -> None:
    perfect, hopeless = ranked(1, 2, 3, 4), ranked(17, 18, 19, 20)
    measured = named(name)
    best = {"recall_fraction@3": 3 / 4}.get(name, 1.0)
    assert measured(perfect) == pytest.approx(best)
    assert 0 <= measured(hopeless) < 0.4
    assert np.isnan(measured(ranked()))
    several = measured(np.stack([perfect, FOUR, ranked(), hopeless]))
    assert several.shape == (4,)
    one_by_one = [measured(each) for each in (perfect, FOUR, ranked(), hopeless)]
    np.testing.assert_array_equal(several, one_by_one)


def test_what_is_not_in_the_list_counts_as_not_found() -> None:
    short = FOUR[:5]
    assert metrics.average_precision(short) == pytest.approx((1 + 2 / 3) / 2)  # of the two that it holds
    assert metrics.average_precision(short, 4) == pytest.approx((1 + 2 / 3) / 4)
    assert metrics.recall_fraction_at_k(short, 4, k=5) == pytest.approx(1 / 2)
    assert metrics.r_precision(ranked(1, 2, depth=3), 9) == pytest.approx(2 / 9)
    assert metrics.recall_at_k(ranked(depth=5), 4, k=5) == 0


def test_precision_divides_by_k_where_the_list_is_shorter() -> None:
    assert metrics.precision_at_k(ranked(1, depth=2), k=10) == pytest.approx(1 / 10)


@pytest.mark.parametrize("name", ["recall", "recall@0", "map@-1", "map@x", "mpa", "hit@1", "r_precision@5", ""])
def test_unknown_metrics_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no metric"):
        named(name)


def test_a_metric_knows_its_depth_and_meaning() -> None:
    assert (named(" MAP@R ").name, named("recall@05").name) == ("map@r", "recall@5")
    assert (named("map@100").k, named("map@r").k) == (100, None)
    assert [named(name).whole for name in ("map", "ndcg", "mrr", "map@r", "r_precision", "map@10")] == [
        True, True, True, False, False, False
    ]  # fmt: skip
    assert {named(name.replace("@k", "@7")).kind for name in evaluation.NAMES} == set(evaluation.DEFINITIONS)


def test_more_right_answers_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="more right answers"):
        metrics.r_precision(FOUR, 3)


# --- rankings of vectors ----------------------------------------------------------------------------


def clustered(count: int, classes: int, dim: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around a centre a class, and their labels; the last label stands once."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    vectors = rng.standard_normal((classes, dim))[labels] + 1.3 * rng.standard_normal((count, dim))
    labels[-1] = classes
    return vectors.astype(np.float32), labels


def brute(vectors: np.ndarray, labels: np.ndarray, name: str) -> list[float]:
    """Leave-one-out by hand: every row against every other, ties by row."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    values = []
    for row, scores in enumerate(units @ units.T):
        order = [other for other in np.argsort(-scores, kind="stable") if other != row]
        values.append(float(named(name)(labels[order] == labels[row])))
    return values


NAMES = ("recall@1", "recall@7", "precision@5", "r_precision", "map@r", "map", "map@10", "ndcg@5", "mrr")


def test_leave_one_out_is_every_row_against_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from pixdex.evaluation import retrieval

    monkeypatch.setattr(retrieval, "_CELLS", 150 * 40)  # several blocks, the last of them short
    vectors, labels = clustered(150, 9)
    measured = measure(7 * vectors, labels, metrics=NAMES)
    for name in NAMES:
        np.testing.assert_allclose(measured[name], brute(vectors, labels, name), atol=1e-12, err_msg=name)
    assert np.isnan(measured["map"][-1])  # the only one of its label


def test_a_gallery_and_queries_apart() -> None:
    vectors, labels = clustered(90, 5)
    words = np.array([f"class {label}" for label in labels])
    apart = measure(
        vectors[20:], words[20:], queries=vectors[:20], query_labels=words[:20], metrics=["map", "recall@1"]
    )
    for row in range(20):
        scores = vectors[20:] @ vectors[row] / np.linalg.norm(vectors[20:], axis=1)
        right = labels[20:][np.argsort(-scores, kind="stable")] == labels[row]
        assert apart["map"][row] == pytest.approx(float(metrics.average_precision(right)))
    assert apart["recall@1"].shape == (20,)


def test_equal_similarities_are_ordered_by_row() -> None:
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    assert measure(vectors, [0, 1, 0, 1], metrics=["mrr"])["mrr"].tolist() == [1 / 2, 1 / 3, 1, 1 / 2]


def test_rows_without_a_label_are_in_the_way_and_no_queries() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]])
    for labels in ([0, -1, 0, -1], ["a", None, "a", None]):
        values = measure(vectors, labels, metrics=["mrr"])["mrr"]
        np.testing.assert_array_equal(values, [1 / 2, np.nan, 1 / 2, np.nan])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda v, n: measure(v, n[:-1]), ConfigError),
        (lambda v, n: measure(v, n, metrics=["map@q"]), ConfigError),
        (lambda v, n: measure(v, n, queries=v), ConfigError),
        (lambda v, n: measure(v, n, queries=v[:, :2], query_labels=n), ConfigError),
        (lambda v, n: measure(v, n, queries=v, query_labels=[str(x) for x in n]), ConfigError),
        (lambda v, n: measure(v, n / 2), ConfigError),
        (lambda v, n: measure(v[0], n), ConfigError),
        (lambda v, n: measure(np.where(np.arange(len(v))[:, None] == 3, 0, v), n), InvalidRecord),
        (lambda v, n: measure(np.where(np.arange(len(v))[:, None] == 3, np.nan, v), n), InvalidRecord),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Callable[..., object], error: type[Exception]) -> None:
    with pytest.raises(error):
        call(*clustered(12, 3))


@pytest.mark.parametrize("apart", [False, True])
def test_pytorch_metric_learning_agrees(apart: bool) -> None:
    pytest.importorskip("pytorch_metric_learning")
    import torch

    from pixdex.training._library import metric_learning

    CosineSimilarity = metric_learning("distances").CosineSimilarity  # noqa: N806
    AccuracyCalculator = metric_learning("utils.accuracy_calculator").AccuracyCalculator  # noqa: N806
    CustomKNN = metric_learning("utils.inference").CustomKNN  # noqa: N806

    vectors, labels = clustered(240, 12)
    ours = {
        "precision_at_1": "recall@1", "r_precision": "r_precision", "mean_average_precision_at_r": "map@r",
        "mean_average_precision": "map", "mean_reciprocal_rank": "mrr",
    }  # fmt: skip
    calculator = AccuracyCalculator(
        include=tuple(ours), k=None, knn_func=CustomKNN(CosineSimilarity()), device=torch.device("cpu")
    )
    rows, them = torch.from_numpy(vectors), torch.from_numpy(labels)
    if apart:
        theirs = calculator.get_accuracy(rows[:60], them[:60], rows[60:], them[60:])
        mine = measure(vectors[60:], labels[60:], queries=vectors[:60], query_labels=labels[:60], metrics=ours.values())
    else:
        theirs = calculator.get_accuracy(rows, them, ref_includes_query=True)
        mine = measure(vectors, labels, metrics=list(ours.values()))
    for theirs_called, name in ours.items():
        assert evaluation.mean(mine[name]) == pytest.approx(theirs[theirs_called], abs=1e-6), name


# --- intervals --------------------------------------------------------------------------------------


def test_an_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = [interval(rng.random(80) < 0.3, rounds=300, seed=seed) for seed in range(200)]
    covered = np.mean([each.low <= 0.3 <= each.high for each in found])
    assert 0.89 <= covered <= 0.98
    assert np.mean([each.high - each.low for each in found]) == pytest.approx(2 * 1.96 * math.sqrt(0.21 / 80), rel=0.1)


def test_intervals_are_the_same_again_and_leave_out_queries_without_a_value() -> None:
    values = np.random.default_rng(2).random(50)
    with_gaps = np.concatenate([values, [np.nan] * 7])
    assert interval(values, seed=3) == interval(with_gaps, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)
    assert interval(values).mean == pytest.approx(values.mean())
    assert np.isnan(interval([np.nan, np.nan]).low)
    assert str(interval([1.0, 1.0])) == "1.000 [1.000, 1.000]"


def test_pairs_tell_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(5)
    hard = rng.random(200)  # how hard a query is moves both
    a, b = hard + 0.02 + 0.01 * rng.standard_normal(200), hard
    one, other = interval(a), interval(b)
    assert one.low < other.high
    assert not one.excludes_zero or one.low > 0
    difference = paired(a, b)
    assert difference.mean == pytest.approx(0.02, abs=0.003)
    assert difference.excludes_zero
    assert not paired(hard, hard).excludes_zero
    assert paired(b, a).high == pytest.approx(-difference.low, abs=1e-12)


def test_pairs_are_of_the_same_queries() -> None:
    assert paired([1.0, np.nan, 0.5], [0.5, 0.1, np.nan]).mean == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="same queries"):
        paired([1.0], [1.0, 2.0])
    for values, rounds in (([[1.0]], 10), ([1.0], 0)):
        with pytest.raises(ConfigError):
            interval(values, rounds=rounds)


# --- revisited Oxford and Paris ---------------------------------------------------------------------

ANSWERS = revisited.Answers(easy=(1, 2), hard=(3,), junk=(4, 5))
RANKING = [4, 9, 1, 3, 5, 2, 8, 7, 6, 0]


@pytest.mark.parametrize(
    ("setup", "ranks"),
    [
        ("easy", (2, 3)),  # 9 1 2 ...: junk 4, 5 and hard 3 are taken out
        ("medium", (2, 3, 4)),  # 9 1 3 2 ...
        ("hard", (2,)),  # 9 3 ...: junk and easy 1, 2 are taken out
    ],
)
def test_setups_take_out_what_they_do_not_look_for(setup: str, ranks: tuple[int, ...]) -> None:
    found = revisited.evaluate([RANKING], [ANSWERS], setup=setup, ranks=[1, 10])
    assert found["map"][0] == pytest.approx(float(metrics.average_precision_trapezoid(ranked(*ranks))))
    assert found["mp@1"][0] == 0
    assert found["mp@10"][0] == pytest.approx(len(ranks) / ranks[-1])  # no further than the last right one


def test_easy_by_hand() -> None:
    found = revisited.evaluate([RANKING], [ANSWERS], setup="easy")
    assert found["map"][0] == pytest.approx(((0 / 1 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2)


def test_queries_without_answers_are_skipped() -> None:
    answers = [ANSWERS, revisited.Answers(easy=(0,), junk=(3,))]
    hard = revisited.evaluate([RANKING, RANKING], answers, setup="hard", ranks=[5])
    assert np.isnan(hard["map"][1])
    assert np.isnan(hard["mp@5"][1])
    assert evaluation.mean(hard["map"]) == hard["map"][0]


def test_what_is_not_in_a_ranking_counts_as_not_found() -> None:
    whole = revisited.evaluate([RANKING], [ANSWERS], setup="easy")["map"][0]
    cut = revisited.evaluate([RANKING[:4]], [ANSWERS], setup="easy")["map"][0]
    assert cut == pytest.approx((0 / 1 + 1 / 2) / 2 / 2)
    assert cut < whole
    nothing = revisited.evaluate([[9, 8]], [ANSWERS])
    assert (nothing["map"][0], nothing["mp@10"][0]) == (0, 0)


def test_the_data_sets_own_form_is_read() -> None:
    truth = [{"easy": np.array([1, 2]), "hard": [3], "junk": np.array([4, 5]), "bbx": [0, 0, 1, 1]}]
    assert revisited.answers_of(truth) == [ANSWERS]


@pytest.mark.parametrize(
    "call",
    [
        lambda: revisited.evaluate([RANKING], [ANSWERS], setup="Easy"),
        lambda: revisited.evaluate([RANKING], []),
        lambda: revisited.evaluate([[1, 1, 2]], [ANSWERS]),
        lambda: revisited.Answers(easy=(1,), junk=(1,)),
        lambda: revisited.precision_in_reach(FOUR, 0),
    ],
)
def test_what_the_protocol_has_no_meaning_for_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        call()
