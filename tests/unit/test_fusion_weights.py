"""Weights fitted where answers are known: the numbers are those of fusion, and nothing is ever worse than the best list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pixdex import fusion, fusion_weights
from pixdex.errors import ConfigError
from pixdex.evaluation.metrics import average_precision
from pixdex.fusion_weights import Choice, Trial, fit_weights
from pixdex.types import Hit

METHODS = list(fusion.Method)


def trials(count=60, *, image=1.0, text=1.0, near=0.0, seed=0, classes=6):
    """Queries over 30 records of six labels; ``image`` and ``text`` are how well each list knows them, ``near`` places."""
    rng = np.random.default_rng(seed)
    labels = np.arange(30) % classes
    made = []
    for query in range(count):
        mine = labels == query % classes

        def found(skill, depth, mine=mine):
            scores = skill * mine + rng.standard_normal(30)
            return [Hit(f"r{row:02}", float(scores[row])) for row in np.argsort(-scores)[:depth]]

        lists = {"image": found(image, 30), "text": found(text, 12)}
        factors = {f"r{row:02}": float(np.exp(-near * (not mine[row])) * rng.uniform(0.5, 1)) for row in range(30)}
        right = {f"r{row:02}" for row in np.flatnonzero(mine)}
        made.append(Trial(lists=lists, right=right, factors={"near": factors}, label=query % classes))
    return made


def joined(trial, choice):
    """What a search gives: lists joined, then multiplied."""
    lists = {name: hits for name, hits in trial.lists.items() if name in choice.weights}
    if len(lists) > 1:
        hits = fusion.fuse(lists, method=choice.method, weights={name: choice.weights[name] for name in lists})
    else:
        hits = next(iter(lists.values()))
    if "near" not in choice.weights:
        return hits
    # A decay of base 1/2: the distance that gives this factor.
    return fusion.decayed(
        hits,
        "near",
        lambda hit: -np.log2(trial.factors["near"][hit.id]),
        fusion.Decay(scale=1, shape=fusion.Shape.EXP),
        weight=choice.weights["near"],
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "weights", [{"image": 1.0}, {"image": 1.0, "text": 0.5}, {"image": 1.0, "text": 2.0, "near": 0.5}]
)
def test_the_numbers_are_those_of_a_search(method, weights):
    given = trials(20, image=0.7, text=0.7, near=0.5)
    choice = Choice(method=method, weights=weights)
    values = fusion_weights._Table(given).precision(choice)
    for trial, value in zip(given, values, strict=True):
        match = [hit.id in trial.right for hit in joined(trial, choice)]
        assert value == pytest.approx(float(average_precision(match, len(trial.right))))


def test_what_knows_more_weighs_more():
    better = fit_weights(trials(image=2.0, text=0.3))
    assert better.single.weights == {"image": 1.0}
    assert better.chosen.weights.get("text", 0) <= 0.5
    other = fit_weights(trials(image=0.3, text=2.0))
    assert other.chosen.weights["text"] > 1
    both = fit_weights(trials(image=1.2, text=1.2, near=1.5))
    assert both.chosen.weights["near"] > 0
    assert both.gain.low > 0
    assert both.intervals["fitted"].mean > both.intervals["image"].mean + 0.1
    assert str(both.chosen).startswith(f"{both.chosen.method}, image 1, text ")


@pytest.mark.parametrize("seed", range(3))
def test_fusion_is_never_worse_where_it_was_fitted(seed):
    fitted = fit_weights(trials(30, image=1.0, text=0.0, seed=seed))
    values = {name: each.mean() for name, each in fitted.values.items()}
    assert values["chosen"] >= max(values["image"], values["text"])
    assert values["chosen"] == max(values[name] for name in values if name not in ("fitted", "single"))


def test_noise_leaves_the_list_alone():
    given = [replace(trial, factors=None) for trial in trials(30, image=9.0, text=0.0)]
    fitted = fit_weights(given)  # nothing to gain: all right already
    assert fitted.chosen == fitted.single
    assert fitted.chosen.weights == {"image": 1.0}


def test_folds_are_of_labels_and_choose_without_what_they_measure():
    """Of one label the text is perfect, of the others noise: it is measured with weights that the others chose."""
    given = [replace(trial, factors=None) for trial in trials(60, image=1.0, text=0.0)]
    rigged = []
    for trial in given:
        text = [Hit(i, 9.0 - n) for n, i in enumerate(sorted(trial.right))]
        rigged.append(replace(trial, lists={**trial.lists, "text": text}) if trial.label == 0 else trial)
    fitted = fit_weights(rigged, folds=6)
    rows = [row for row, label in enumerate(fitted.labels) if label == 0]
    assert fitted.values["text"][rows] == pytest.approx(1)
    assert fitted.values["fitted"][rows].mean() < 0.9


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ConfigError, match="with right answers"):
        fit_weights([replace(trial, right=()) for trial in trials(3)])
    with pytest.raises(ConfigError, match="two labels"):
        fit_weights([replace(trial, label="one") for trial in trials(3)])
    one, *rest = trials(3)
    with pytest.raises(ConfigError, match="the same kinds of evidence, image, text, near"):
        fit_weights([one, replace(rest[0], lists={"image": one.lists["image"]})])
    with pytest.raises(ConfigError, match="there is no list"):
        fit_weights([replace(one, lists={})])
    with pytest.raises(ConfigError, match="one of rrf, z, dbsf"):
        fit_weights(trials(9), methods=["sum"])
