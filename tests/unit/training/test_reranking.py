from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pixdex.errors import ConfigError  # noqa: E402
from pixdex.rerankers.maxsim import MaxSim  # noqa: E402
from pixdex.rerankers.port import Candidate, Query  # noqa: E402
from pixdex.training._loop import Pace  # noqa: E402
from pixdex.training.pairnets import made  # noqa: E402
from pixdex.training.reranking import (  # noqa: E402
    Judged,
    Mining,
    fit,
    judged,
    lists_of,
    loss_of,
    maxsim,
    mined,
    scored,
    shortlists,
)
from pixdex.training.tokenbank import Bank  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads only wait for each other at such sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SHAPE = {"token_dim": 8, "dim": 16, "hidden": 16}


def bank_of(pictures: int = 40, views: int = 4, seed: int = 0) -> Bank:
    """Each picture has six directions of its own, four of which a view keeps; vectors say little."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(pictures, 1, 6, 8))
    tokens = np.broadcast_to(own, (pictures, views, 6, 8)) + 0.1 * rng.normal(size=(pictures, views, 6, 8))
    tokens[:, :, 4:] = rng.normal(size=(pictures, views, 2, 8))
    tokens *= 127 / np.abs(tokens).max(axis=3, keepdims=True)
    vectors = rng.normal(size=(pictures, 1, 5)) + 2 * rng.normal(size=(pictures, views, 5))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    rank = np.broadcast_to(np.arange(6, dtype=np.uint8), (pictures, views, 6)).copy()
    return Bank(
        torch.from_numpy(tokens.astype(np.int8)), torch.from_numpy(rank), torch.from_numpy(vectors.astype(np.float16))
    )


def judge_of(bank: Bank) -> Judged:
    labels = torch.arange(len(bank))
    return shortlists(bank.vectors[:, 0], bank.tokens[:, 0], labels, bank.vectors[:, 1], bank.tokens[:, 1], labels)


def test_shortlists_and_what_they_are_judged_by() -> None:
    vectors = torch.eye(4)[:, :3]
    query = torch.tensor([[1.0, 0.2, 0.1]])
    tokens = torch.zeros(4, 2, 8, dtype=torch.int8)
    data = shortlists(query, tokens[:1], torch.tensor([7]), vectors, tokens, torch.tensor([5, 7, 7, 7]), count=3)
    assert data.lists.tolist() == [[0, 1, 2]]
    assert data.match.tolist() == [[False, True, True]]
    assert data.positives.tolist() == [3]
    assert judged(data.first, data) == pytest.approx({"recall@1": 0, "map": (1 / 2 + 2 / 3) / 3})
    best = judged(torch.tensor([[0.0, 1.0, 2.0]]), data)
    assert best == pytest.approx({"recall@1": 1, "map": 2 / 3})
    assert judged(torch.zeros(1, 3), data) == judged(data.first, data)


def test_maxsim_here_is_the_reranker_maxsim() -> None:
    data = judge_of(bank_of(12))
    query = Query(np.zeros(5, np.float32), data.query[3].numpy())
    candidates = [Candidate(str(row), 0.0, data.tokens[row].numpy()) for row in data.lists[3]]
    assert maxsim(data)[3].numpy() == pytest.approx(MaxSim().rerank(query, candidates), abs=1e-5)


def test_negatives_are_the_nearest_that_do_not_match() -> None:
    bank = bank_of(30)
    vectors = bank.vectors[:, 0].float()
    cosines = (vectors @ vectors.T).numpy()
    labels = torch.arange(30) // 3
    for classes, groups in ((None, torch.arange(30)), (labels, labels)):
        found = mined(bank, classes, Mining(neighbours=5)).others
        for row in (0, 17):
            others = [other for other in np.argsort(-cosines[row]) if groups[other] != groups[row]]
            assert found[row].tolist() == others[:5]
    with pytest.raises(ConfigError, match="nothing to tell apart"):
        mined(bank, torch.zeros(30, dtype=torch.int64))
    lonely = bank_of(30, views=1)
    with pytest.raises(ConfigError, match="another of its class"):
        mined(lonely, torch.arange(30))


def test_matches_are_the_nearest_of_a_label() -> None:
    """As far as they are within reach; where none is, the nearest of all, and of who is alone itself, which asks only where
    there are edits of it.
    """
    bank = bank_of(30, views=1)
    vectors = bank.vectors[:, 0].float()
    cosines = (vectors @ vectors.T).fill_diagonal_(-9).numpy()
    labels = torch.arange(30) // 5
    labels[7] = 6
    found = mined(bank, labels, Mining(reach=12))
    for row in range(30):
        same = [other for other in np.argsort(-cosines[row]) if labels[other] == labels[row] and other != row]
        near = [other for other in same if other in np.argsort(-cosines[row])[:12]]
        expected = near or same[:1] or [row]
        assert found.partners[row, : found.counts[row]].tolist() == expected
    assert found.asking.tolist() == [row for row in range(30) if row != 7]
    assert mined(bank_of(30), labels, Mining(reach=12)).asking.tolist() == list(range(30))


def test_harder_matches_are_farther() -> None:
    bank = bank_of(60, views=1)
    bank.tokens[:] = torch.arange(60)[:, None, None, None]
    labels = torch.arange(60) % 2
    vectors = bank.vectors[:, 0].float()
    place = (vectors @ vectors.T).argsort(dim=1, descending=True).argsort(dim=1)
    means = []
    for hardness in (1.0, 3.0):
        mining = Mining(queries=400, negatives=1, shortest=1, hardness=hardness)
        lists = lists_of(bank, mined(bank, labels, mining), mining, torch.Generator().manual_seed(0))
        rows, matches = lists.query[:, 0, 0].long(), lists.candidates[:, 0, 0, 0].long()
        assert (labels[rows] == labels[matches]).all()
        assert (rows != matches).all()
        means.append(float(place[rows, matches].float().mean()))
    assert means[1] > means[0] + 8


@pytest.mark.parametrize("labelled", [False, True])
def test_lists_have_one_match_which_is_not_the_query_itself(labelled: bool) -> None:
    bank = bank_of(30)
    # So that tokens tell which picture and view they are of.
    bank.tokens[:] = torch.arange(30)[:, None, None, None]
    bank.tokens[..., 0] = torch.arange(4)[None, :, None]
    labels = torch.arange(30) // 3 if labelled else None
    mining = Mining(queries=200, negatives=4, neighbours=8, shortest=2, whole=0.3)
    lists = lists_of(bank, mined(bank, labels, mining), mining, torch.Generator().manual_seed(0))
    query, query_view = lists.query[:, 0, 1], lists.query[:, 0, 0]
    pictures, views = lists.candidates[:, :, 0, 1], lists.candidates[:, :, 0, 0]
    assert lists.match.tolist() == [[1, 0, 0, 0, 0]] * 200
    if labelled:
        assert (pictures[:, 0] // 3 == query // 3).all()
        assert (pictures[:, 0] != query).all()
        assert (pictures[:, 1:] // 3 != query[:, None] // 3).all()
    else:
        assert (pictures[:, 0] == query).all()
        assert (views[:, 0] != query_view).all()
        assert (pictures[:, 1:] != query[:, None]).all()
    assert 0.25 < float((query_view == 0).float().mean()) < 0.55
    lengths = lists.candidate_mask.sum(dim=2)
    assert sorted(set(lengths.flatten().tolist())) == [2, 3, 4, 5, 6]
    assert (lists.candidate_mask.argmin(dim=2)[lengths < 6] == lengths[lengths < 6]).all()


def test_the_loss_falls_where_the_match_is_above_the_others() -> None:
    match = torch.tensor([[1.0, 0.0, 0.0]])
    good, even, bad = (loss_of(torch.tensor([row]), match, 1.0) for row in ([3.0, -3, -3], [0.0, 0, 0], [-3.0, 3, 3]))
    assert good < 0.1 < even < bad
    assert float(loss_of(torch.tensor([[0.0, 0, 0]]), match, 0.0)) == pytest.approx(np.log(2))


@pytest.mark.parametrize("kind", ["cross", "transport"])
def test_it_learns_to_find_copies(kind: str, tmp_path: Path) -> None:
    """Of pictures that it has not seen, and goes on from a checkpoint to the same weights."""
    values = {**SHAPE, "heads": 2} if kind == "cross" else SHAPE
    bank, judge = bank_of(40), judge_of(bank_of(30, seed=9))
    mining = Mining(queries=16, negatives=5, neighbours=20, shortest=4, rate=1e-2)
    pace = Pace(steps=60, rounds=3, average=0.9, device="cpu")
    torch.manual_seed(0)
    net = made(kind, values)
    before = judged(judge.first, judge)["map"]
    outcome = fit(net, bank, judge, pace=pace, device=CPU, mining=mining, work=tmp_path)
    after = judged(scored(net, judge), judge)["map"]
    assert outcome.score == pytest.approx(after)
    assert after > before + 0.3
    again = made(kind, values)
    fit(again, bank, judge, pace=pace, device=CPU, mining=mining, work=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_teacher_is_followed() -> None:
    """Even one that says the contrary of the labels, if it weighs enough."""

    class Contrary(torch.nn.Module):
        def forward(self, query, query_mask, candidates, candidate_mask, first):
            return -5 * first.new_ones(first.shape) + 10 * (torch.arange(first.shape[1]) > 0)

    bank = bank_of(40)
    mining = Mining(queries=16, negatives=5, neighbours=20, shortest=6, rate=1e-2, teacher_weight=20.0)
    judge = judge_of(bank_of(30, seed=9))
    scores = []
    for teacher in (None, (Contrary(), bank)):
        torch.manual_seed(0)
        net = made("transport", SHAPE)
        pace = Pace(steps=40, rounds=1, average=0.8, device="cpu")
        fit(net, bank, None, pace=pace, device=CPU, mining=mining, teacher=teacher)
        scores.append(judged(scored(net, judge), judge)["map"])
    assert scores[0] > scores[1] + 0.2


def test_a_teacher_sees_all_tokens_of_the_same_lists() -> None:
    """Of the student's pictures and views, whose own lists are cut."""
    seen: list[tuple[torch.Tensor, ...]] = []

    class Noting(torch.nn.Module):
        def forward(self, query, query_mask, candidates, candidate_mask, first):
            seen.append((query[..., :8], query_mask, candidates[..., :8], first))
            return first

    bank = bank_of(40)
    wide = Bank(torch.cat([bank.tokens, bank.tokens], dim=3).float() / 3, bank.rank, bank.vectors)
    student = made("transport", SHAPE)
    plain = student.forward
    student.forward = lambda *given: (seen.append((given[0], given[1], given[2], given[4])), plain(*given))[1]
    mining = Mining(queries=16, negatives=5, neighbours=20, shortest=2, whole=0.0, blind=1.0)
    fit(
        student,
        bank,
        None,
        pace=Pace(steps=1, rounds=1, device="cpu"),
        device=CPU,
        mining=mining,
        teacher=(Noting(), wide),
    )
    mine, theirs = seen
    assert torch.allclose(mine[0] / 3, theirs[0])
    assert torch.allclose(mine[2] / 3, theirs[2])
    assert mine[1].mean() < 0.9
    assert theirs[1].min() == 1
    assert mine[3].abs().max() == 0 < theirs[3].abs().max()


def test_without_labels_it_takes_two_views() -> None:
    with pytest.raises(ConfigError, match="two views"):
        fit(made("transport", SHAPE), bank_of(views=1), None, pace=Pace(steps=1, device="cpu"), device=CPU)
    with pytest.raises(ConfigError, match="1 or more"):
        Mining(queries=0)
