"""What judges a reranker, apart from what it learns from."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pixdex.errors import ConfigError  # noqa: E402
from pixdex.evaluation import Interval  # noqa: E402
from pixdex.training.lessons import divided, figures, lesson_of, values_of, verdict  # noqa: E402
from pixdex.training.reranking import judged  # noqa: E402
from pixdex.training.tokenbank import Bank  # noqa: E402
from pixdex.training.tokenviews import classmates, copies  # noqa: E402


def bank_of(pictures: int, views: int) -> Bank:
    """Vectors of a picture are all but the same; tokens say which picture and view they are."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(pictures, 1, 8)) + 0.01 * rng.normal(size=(pictures, views, 8))
    vectors = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).half()
    tokens = torch.zeros(pictures, views, 2, 2, dtype=torch.int8)
    tokens[..., 0] = torch.arange(pictures)[:, None, None]
    tokens[..., 1] = torch.arange(views)[:, None]
    return Bank(tokens, torch.zeros(pictures, views, 2, dtype=torch.int16), vectors)


def test_copies_are_to_be_found_among_other_pictures() -> None:
    bank = bank_of(10, 4)
    data = copies(bank, torch.tensor([2, 7]))
    shown = [(int(picture), int(view)) for picture, view in data.tokens[:, 0]]
    edits = [(picture, view) for picture in (2, 7) for view in (1, 2, 3)]
    assert shown == [*edits, *((n, 0) for n in (0, 1, 3, 4, 5, 6, 8, 9))]
    assert data.positives.tolist() == [3, 3]
    assert data.query[:, 0].tolist() == [[2, 0], [7, 0]]
    assert judged(data.first, data) == {"recall@1": 1.0, "map": 1.0}


def test_classmates_are_others_of_the_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 3, 3])
    data = classmates(bank_of(10, 1), labels, asking=100)
    assert data.asked.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]  # 7 is alone
    assert data.positives.tolist() == [2, 2, 2, 3, 3, 3, 3, 1, 1]
    assert all(row not in found for row, found in zip(data.asked.tolist(), data.lists.tolist(), strict=True))
    assert torch.equal(data.match, labels[data.lists] == labels[data.asked][:, None])
    assert len(classmates(bank_of(10, 1), labels, asking=3).asked) == 3


def test_nothing_is_in_two_parts() -> None:
    rows = divided(100, None, share=0.3, seed=1)
    parts = [*rows.learning, *rows.choosing, *rows.telling]
    assert sorted(parts) == list(range(100))
    assert (len(rows.choosing), len(rows.telling)) == (15, 15)
    labels = np.arange(100) // 5
    rows = divided(100, labels, share=0.4, seed=1)
    classes = [set(labels[part]) for part in (rows.learning, rows.choosing, rows.telling)]
    assert [len(part) for part in classes] == [12, 4, 4]
    assert len(set.union(*classes)) == 20
    assert not rows.notes
    few = divided(20, np.arange(20) // 5, share=0.3, seed=1)
    assert np.array_equal(few.choosing, few.telling)
    assert "flatters" in few.notes[0]
    with pytest.raises(ConfigError, match="19 pictures are too few"):
        divided(19, None, share=0.3, seed=1)
    with pytest.raises(ConfigError, match="four with two pictures"):
        divided(30, np.arange(30) // 10, share=0.3, seed=1)


def test_a_lesson_keeps_back_what_judges() -> None:
    bank, labels = bank_of(40, 3), torch.arange(40) // 4
    lesson = lesson_of(bank, labels, share=0.4, seed=0)
    learned = set(lesson.bank.tokens[:, 0, 0, 0].tolist())
    assert lesson.labels.tolist() == [labels[picture] for picture in sorted(learned)]
    judging = {int(picture) for data in (lesson.choosing, lesson.telling) for picture in data.tokens[:, 0, 0]}
    assert not learned & judging
    told = [int(labels[picture]) for picture in lesson.telling.query[:, 0, 0]]
    assert lesson.told_of.tolist() == told
    assert set(lesson.chosen_for) & set(told) == set()
    lesson = lesson_of(bank, None, share=0.4, seed=0)
    learned = set(lesson.bank.tokens[:, 0, 0, 0].tolist())
    asked = [set(data.query[:, 0, 0].tolist()) for data in (lesson.choosing, lesson.telling)]
    assert [len(part) for part in (learned, *asked)] == [24, 8, 8]
    assert not learned & asked[0] | learned & asked[1] | asked[0] & asked[1]
    # Shown to be mistaken for a copy: all the others.
    assert len(lesson.telling.tokens) == 8 * 2 + 32


def test_figures_and_what_they_mean() -> None:
    class Knowing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, query, query_mask, candidates, candidate_mask, first):
            return (query[:, None, 0, 0] == candidates[:, :, 0, 0]).float()

    bank = bank_of(40, 3)
    bank.vectors[:, 1] = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)))
    lesson = lesson_of(bank, None, share=0.4, seed=0)
    rows, gain = figures(values_of(lesson, {"cross": (Knowing(), lesson.telling)}), lesson.told_of)
    assert list(rows) == ["first stage", "maxsim", "cross"]
    assert rows["cross"]["map"]["mean"] == 1
    assert rows["first stage"]["map"]["low"] < rows["first stage"]["map"]["mean"] < 1
    assert gain.mean == pytest.approx(1 - rows["first stage"]["map"]["mean"])
    better, words = verdict(gain, "cross")
    assert better
    assert (
        words == f"cross is better than the first stage: mAP +{gain.mean:.3f}, 95 % +{gain.low:.3f} to +{gain.high:.3f}"
    )
    better, words = verdict(Interval(0.01, -0.01, 0.03), "cross")
    assert not better
    assert "no better than the first stage as far as these pictures can tell" in words
    better, words = verdict(Interval(-0.01, -0.02, 0.0), "cross")
    assert not better
    assert "search without it" in words
