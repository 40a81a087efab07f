"""Training of rerankers on tokens: mined lists of one match and several that look like it, and how well they end up ordered.

Without labels two views of one picture match and its neighbours, other pictures, don't; with labels pictures of a class match
and neighbours of other classes don't. Negatives are drawn from the nearest by the first stage's vectors, as in Suma et al.:
AMES, ECCV 2024; lists are cut to random lengths, so one network serves any budget of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

from pixdex.errors import ConfigError
from pixdex.training._batches import generator_of
from pixdex.training._device import autocast
from pixdex.training._loop import Follow, Outcome, Pace, run
from pixdex.training.pairnets import PairNet
from pixdex.training.tokenbank import Bank

__all__ = ["Judged", "Lists", "Mining", "judged", "lists_of", "shortlists", "train_reranker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mining:
    """How lists are drawn and what the network is punished for.

    Attributes:
        queries: a step.
        negatives: a query.
        neighbours: how many nearest pictures they are drawn from; the nearer, the likelier.
        shortest: tokens that a list is cut to at least.
        whole: share of steps in which lists are not cut.
        itself: share of queries, and of candidates, that are the picture and not an edit of it.
        rate: the highest of AdamW.
        decay: its weight decay.
        list_weight: of the loss over a list, a softmax that should choose the match, beside the one over pairs.
        teacher_weight: of the divergence from a teacher's softmax over the list, where there is a teacher.
        blind: share of queries for which the first stage's cosines are kept back.
    """

    queries: int = 64
    negatives: int = 15
    neighbours: int = 200
    shortest: int = 10
    whole: float = 0.5
    itself: float = 0.4
    rate: float = 5e-4
    decay: float = 5e-4
    list_weight: float = 1.0
    teacher_weight: float = 1.0
    blind: float = 0.1

    def __post_init__(self) -> None:
        if min(self.queries, self.negatives, self.neighbours, self.shortest) < 1:
            raise ConfigError("queries, negatives, neighbours and shortest are 1 or more")


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Queries with their candidates, complete.

    Attributes:
        query: ``[q, tq, d]``; ``query_mask`` ``[q, tq]``, 1 for a token.
        query_mask: see ``query``.
        candidates: ``[q, n, td, d]``; ``candidate_mask`` ``[q, n, td]``.
        candidate_mask: see ``candidates``.
        first: the first stage's cosines ``[q, n]``.
        match: ``[q, n]``, 1 for what belongs to the query.
    """

    query: Tensor
    query_mask: Tensor
    candidates: Tensor
    candidate_mask: Tensor
    first: Tensor
    match: Tensor

    def part(self, start: int, stop: int) -> Lists:
        """Some of the queries."""
        return Lists(*(getattr(self, name)[start:stop] for name in Lists.__slots__))

    def to(self, device: torch.device) -> Lists:
        """The same on a device."""
        return Lists(*(getattr(self, name).to(device) for name in Lists.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Shortlists to judge a network by.

    Attributes:
        lists: their candidates are rows of ``tokens``, int64 ``[q, n]``.
        query: int8 ``[q, tq, d]``.
        tokens: int8 ``[m, td, d]``, of every picture searched.
        first: float32 ``[q, n]``.
        match: bool ``[q, n]``.
        positives: int64 ``[q]``, how many pictures match, shortlisted or not.
    """

    lists: Tensor
    query: Tensor
    tokens: Tensor
    first: Tensor
    match: Tensor
    positives: Tensor


def shortlists(
    query_vectors: Tensor,
    query_tokens: Tensor,
    query_labels: Tensor,
    vectors: Tensor,
    tokens: Tensor,
    labels: Tensor,
    *,
    count: int = 100,
) -> Judged:
    """The ``count`` nearest pictures of each query by cosine; those of its label match.

    Vectors are of length one, ``[q, d]`` and ``[m, d]``.
    """
    cosines = query_vectors.float() @ vectors.float().T
    first, lists = cosines.topk(min(count, len(vectors)), dim=1)
    every = labels[None] == query_labels[:, None]
    return Judged(lists, query_tokens, tokens, first, every.gather(1, lists), every.sum(dim=1))


def judged(scores: Tensor, data: Judged) -> dict[str, float]:
    """``recall@1`` and ``map`` of shortlists ordered by ``scores`` ``[q, n]``; ties keep the first stage's order."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    match = data.match.gather(1, order).double()
    places = torch.arange(1, match.shape[1] + 1, device=match.device)
    precision = match.cumsum(dim=1) / places
    average = (precision * match).sum(dim=1) / data.positives.clamp(min=1)
    return {"recall@1": float(match[:, 0].mean()), "map": float(average.mean())}


def scored(net: PairNet, data: Judged, *, batch: int = 32) -> Tensor:
    """The network's logits ``[q, n]``."""
    device = next(net.parameters()).device
    rows = []
    with torch.no_grad():
        for start in range(0, len(data.lists), batch):
            query = data.query[start : start + batch].to(device).float()
            lists = data.lists[start : start + batch]
            candidates = data.tokens[lists].to(device).float()
            first = data.first[start : start + batch].to(device).float()
            ones = query.new_ones(query.shape[:2])
            with autocast(device):
                logits = net(query, ones, candidates, query.new_ones(candidates.shape[:3]), first)
            rows.append(logits.float())
    return torch.cat(rows).to(data.match.device)


def maxsim(data: Judged, *, batch: int = 16) -> Tensor:
    """What ``pixdex.rerankers.maxsim`` gives, ``[q, n]``: what training starts from and should beat."""
    rows = []
    for start in range(0, len(data.lists), batch):
        query = F.normalize(data.query[start : start + batch].float(), dim=2)
        candidates = F.normalize(data.tokens[data.lists[start : start + batch]].float(), dim=3)
        rows.append((query[:, None] @ candidates.transpose(2, 3)).amax(dim=3).mean(dim=2))
    return torch.cat(rows)


def lists_of(
    bank: Bank, neighbours: Tensor, labels: Tensor | None, mining: Mining, generator: torch.Generator
) -> Lists:
    """One step's lists: the first candidate matches, the others don't.

    ``neighbours`` int64 ``[n, m]`` are, of each picture, those that don't match it, nearest first. ``labels`` int64 ``[n]``:
    pictures of a label match; None: only views of one picture do.
    """
    device = bank.tokens.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    queries, negatives = mining.queries, mining.negatives
    rows = (draw(queries) * len(bank)).long()
    # Squared, so that half of them are among the nearest quarter.
    ranks = (draw(queries, negatives).square() * neighbours.shape[1]).long()
    others = neighbours[rows].gather(1, ranks)
    partner = rows if labels is None else _partners(rows, labels, draw(queries, len(bank)))
    query_view = _views(bank, draw(queries), draw(queries), mining.itself)
    views = _views(bank, draw(queries, 1 + negatives), draw(queries, 1 + negatives), mining.itself)
    same = (partner == rows) & (views[:, 0] == query_view)
    views[:, 0] = torch.where(
        same, (views[:, 0] + 1 + (draw(queries) * (bank.views - 1)).long()) % bank.views, views[:, 0]
    )
    pictures = torch.cat([partner[:, None], others], dim=1)
    query, candidates = bank.tokens[rows, query_view], bank.tokens[pictures, views]
    longest = candidates.shape[2]
    cut = draw(2, queries) >= mining.whole
    lengths = mining.shortest + (draw(2, queries) * (longest + 1 - mining.shortest)).long()
    lengths = torch.where(cut, lengths.clamp(max=longest), longest)
    first = torch.einsum("qd,qnd->qn", bank.vectors[rows, query_view].float(), bank.vectors[pictures, views].float())
    first = torch.where(draw(queries, 1) < mining.blind, torch.zeros_like(first), first)
    match = torch.zeros_like(first)
    match[:, 0] = 1
    return Lists(
        query.float(),
        (bank.rank[rows, query_view] < lengths[0][:, None]).float(),
        candidates.float(),
        (bank.rank[pictures, views] < lengths[1][:, None, None]).float(),
        first,
        match,
    )


def mined(bank: Bank, labels: Tensor | None, count: int, *, batch: int = 512) -> Tensor:
    """int64 ``[n, count]``: of each picture its nearest ones that don't match it, nearest first."""
    vectors = bank.vectors[:, 0].float()
    groups = torch.arange(len(bank), device=vectors.device) if labels is None else labels
    count = min(count, len(bank) - int(torch.unique(groups, return_counts=True)[1].max()))
    if count < 1:
        raise ConfigError("all pictures match one another: there is nothing to tell apart")
    found = []
    for start in range(0, len(bank), batch):
        cosines = vectors[start : start + batch] @ vectors.T
        cosines[groups[start : start + batch, None] == groups[None]] = -torch.inf
        found.append(cosines.topk(count, dim=1).indices)
    return torch.cat(found)


def loss_of(logits: Tensor, match: Tensor, list_weight: float) -> Tensor:
    """Cross-entropy of pairs, matches and others of equal weight, and of the choice of the match from the list."""
    logits = logits.float()
    pairs = F.binary_cross_entropy_with_logits(logits, match, reduction="none")
    pair = 0.5 * ((pairs * match).sum() / match.sum() + (pairs * (1 - match)).sum() / (1 - match).sum())
    return pair + list_weight * F.cross_entropy(logits, match)


def train_reranker(
    net: PairNet,
    bank: Bank,
    judge: Judged | None,
    *,
    pace: Pace,
    device: torch.device,
    mining: Mining = Mining(),
    labels: Tensor | None = None,
    teacher: tuple[PairNet, Bank] | None = None,
    work: Path | None = None,
    key: str = "",
    follow: Follow | None = None,
) -> Outcome:
    """Train ``net``, which holds the best weights afterwards.

    ``judge`` are shortlists of other pictures (of other classes, with labels); None: it goes on until its budget is used up.
    ``teacher`` is a trained network and a bank of the same views with what it may see, more tokens or finer ones.

    Raises:
        ConfigError: fewer than two views without labels, nothing to tell apart, or a checkpoint of another run.
    """
    if bank.views < 2 and labels is None:
        raise ConfigError("without labels it takes two views of a picture, or more")
    task = _Task(net.to(device), bank, judge, mining, labels, teacher, pace.seed)
    outcome = run(task, pace, work=work, key=f"{key} {asdict(mining)} {asdict(net.shape)}", follow=follow)
    state = net.state_dict()
    state.update({name.removeprefix("net."): tensor for name, tensor in outcome.weights.items()})
    net.load_state_dict(state)
    return outcome


class _Task:
    lasting: Sequence[str] = ()
    averaged = ""

    def __init__(
        self,
        net: PairNet,
        bank: Bank,
        judge: Judged | None,
        mining: Mining,
        labels: Tensor | None,
        teacher: tuple[PairNet, Bank] | None,
        seed: int,
    ) -> None:
        self.module = net
        self._bank, self._judge, self._mining, self._labels, self._seed = bank, judge, mining, labels, seed
        self._teacher = teacher
        self._device = next(net.parameters()).device
        self._neighbours = mined(bank, labels, mining.neighbours)

    def groups(self) -> list[dict[str, Any]]:
        thick = [p for p in self.module.parameters() if p.ndim > 1]
        thin = [p for p in self.module.parameters() if p.ndim <= 1]
        rate, decay = self._mining.rate, self._mining.decay
        return [{"params": thick, "lr": rate, "weight_decay": decay}, {"params": thin, "lr": rate, "weight_decay": 0.0}]

    def loss(self, step: int) -> Tensor:
        lists = self._lists(self._bank, step)
        with autocast(self._device):
            logits = _forward(self.module, lists)
        loss = loss_of(logits, lists.match, self._mining.list_weight)
        if self._teacher is None:
            return loss
        teacher, bank = self._teacher
        with torch.no_grad(), autocast(self._device):
            better = _forward(teacher, self._lists(bank, step))
        return loss + self._mining.teacher_weight * F.kl_div(
            logits.float().log_softmax(dim=1), better.float().log_softmax(dim=1), reduction="batchmean", log_target=True
        )

    def _lists(self, bank: Bank, step: int) -> Lists:
        return lists_of(bank, self._neighbours, self._labels, self._mining, generator_of(self._seed, step)).to(
            self._device
        )

    def stepped(self, rate: float) -> None:
        pass

    def judge(self) -> float | None:
        if self._judge is None:
            return None
        self.module.eval()
        score = judged(scored(self.module, self._judge), self._judge)["map"]
        self.module.train()
        return score


def _forward(net: nn.Module, lists: Lists) -> Tensor:
    logits: Tensor = net(lists.query, lists.query_mask, lists.candidates, lists.candidate_mask, lists.first)
    return logits


def _views(bank: Bank, chance: Tensor, which: Tensor, itself: float) -> Tensor:
    """Numbers of views: 0 for the share ``itself``, else any of the edits."""
    edits = 1 + (which * (bank.views - 1)).long()
    return torch.where(chance < itself, 0, edits.clamp(max=bank.views - 1))


def _partners(rows: Tensor, labels: Tensor, chance: Tensor) -> Tensor:
    """Another picture of each one's label, itself where there is no other. ``chance`` ``[q, n]`` is random."""
    same = labels[rows][:, None] == labels[None]
    chance = torch.where(same, chance, -1.0)
    chance.scatter_(1, rows[:, None], 0.0)
    return chance.argmax(dim=1)
