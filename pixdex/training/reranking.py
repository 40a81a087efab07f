"""Training of rerankers on tokens: mined lists of one match and several that look like it, and how well they end up ordered.

Without labels two views of one picture match and its neighbours, other pictures, don't; with labels pictures of a class match
and neighbours of other classes don't. Both are drawn from the nearest by the first stage's vectors, as in Suma et al.: AMES,
ECCV 2024; lists are cut to random lengths, so one network serves any budget of tokens. A teacher, as there, is a network that
sees all tokens, and finer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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

__all__ = [
    "Judged",
    "Lists",
    "Mined",
    "Mining",
    "fit",
    "judged",
    "lists_of",
    "maxsim",
    "measured",
    "mined",
    "scored",
    "shortlists",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mining:
    """How lists are drawn and what the network is punished for.

    Attributes:
        queries: a step.
        negatives: a query.
        neighbours: how many nearest pictures they are drawn from; the nearer, the likelier.
        reach: with labels, matches are drawn from those among so many nearest pictures, as far as there are any: what no
            shortlist holds needs no order.
        hardness: of these matches: 1, all are as likely; 2, half of them are the farthest quarter, and so on.
        shortest: tokens that a list is cut to at least.
        whole: share of steps in which lists are not cut.
        itself: share of queries, and of candidates, that are the picture and not an edit of it.
        rate: the highest of AdamW.
        decay: its weight decay.
        list_weight: of the loss over a list, a softmax that should choose the match, beside the one over pairs.
        teacher_weight: of the divergence from a teacher's softmax over the list, where there is a teacher.
        blind: share of queries for which the first stage's cosines are kept back.
    """

    queries: int = 24
    negatives: int = 15
    neighbours: int = 200
    reach: int = 300
    hardness: float = 1.0
    shortest: int = 10
    whole: float = 0.5
    itself: float = 0.4
    rate: float = 5e-4
    decay: float = 5e-4
    list_weight: float = 1.0
    teacher_weight: float = 1.0
    blind: float = 0.1

    def __post_init__(self) -> None:
        if min(self.queries, self.negatives, self.neighbours, self.reach, self.shortest, self.hardness) < 1:
            raise ConfigError("queries, negatives, neighbours, reach, shortest and hardness are 1 or more")


@dataclass(frozen=True, slots=True, eq=False)
class Mined:
    """Of each of n pictures the others that lists are drawn from.

    Attributes:
        others: int64 ``[n, m]``, those that don't match it, nearest first.
        partners: int64 ``[n, p]``, those that match it, nearest first; only ``counts`` of a row mean anything.
        counts: int64 ``[n]``, 1 or more.
        asking: int64 ``[a]``, the pictures that have something to ask for.
    """

    others: Tensor
    partners: Tensor
    counts: Tensor
    asking: Tensor


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
        asked: int64 ``[q]``, which of the pictures at hand the queries are.
    """

    lists: Tensor
    query: Tensor
    tokens: Tensor
    first: Tensor
    match: Tensor
    positives: Tensor
    asked: Tensor


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
    asked = torch.arange(len(lists), device=lists.device)
    return Judged(lists, query_tokens, tokens, first, every.gather(1, lists), every.sum(dim=1), asked)


def judged(scores: Tensor, data: Judged) -> dict[str, float]:
    """The means of ``measured``."""
    return {name: float(values.mean()) for name, values in measured(scores, data).items()}


def measured(scores: Tensor, data: Judged) -> dict[str, Tensor]:
    """``recall@1`` and ``map`` (average precision), float64 ``[q]`` each, of shortlists ordered by ``scores`` ``[q, n]``; ties
    keep the first stage's order.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    match = data.match.gather(1, order).double()
    places = torch.arange(1, match.shape[1] + 1, device=match.device)
    precision = match.cumsum(dim=1) / places
    average = (precision * match).sum(dim=1) / data.positives.clamp(min=1)
    return {"recall@1": match[:, 0], "map": average}


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


def lists_of(bank: Bank, found: Mined, mining: Mining, generator: torch.Generator) -> Lists:
    """One step's lists: the first candidate matches, the others don't."""
    device = bank.tokens.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    queries, negatives = mining.queries, mining.negatives
    rows = found.asking[(draw(queries) * len(found.asking)).long()]
    # Squared, so that half of them are among the nearest quarter.
    ranks = (draw(queries, negatives).square() * found.others.shape[1]).long()
    others = found.others[rows].gather(1, ranks)
    far = draw(queries) ** (1 / mining.hardness)
    partner = found.partners[rows, (far * found.counts[rows]).long().clamp(max=found.partners.shape[1] - 1)]
    query_view = _views(bank, draw(queries), draw(queries), mining.itself)
    views = _views(bank, draw(queries, 1 + negatives), draw(queries, 1 + negatives), mining.itself)
    same = (partner == rows) & (views[:, 0] == query_view)
    views[:, 0] = torch.where(
        same, (views[:, 0] + 1 + (draw(queries) * (bank.views - 1)).long()) % bank.views, views[:, 0]
    )
    pictures = torch.cat([partner[:, None], others], dim=1)
    query, candidates = bank.tokens[rows, query_view], bank.tokens[pictures, views]
    longest = candidates.shape[2]
    shortest = min(mining.shortest, longest)
    cut = draw(2, queries) >= mining.whole
    lengths = shortest + (draw(2, queries) * (longest + 1 - shortest)).long()
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


def mined(bank: Bank, labels: Tensor | None, mining: Mining = Mining(), *, batch: int = 512) -> Mined:
    """What lists are drawn from. ``labels`` int64 ``[n]``: pictures of a label match; None: only views of one picture do.

    Raises:
        ConfigError: all match one another, or none matches another.
    """
    vectors = bank.vectors[:, 0].float()
    itself = torch.arange(len(bank), device=vectors.device)
    groups = itself if labels is None else labels
    largest = int(torch.unique(groups, return_counts=True)[1].max())
    count = min(mining.neighbours, len(bank) - largest)
    if count < 1:
        raise ConfigError("all pictures match one another: there is nothing to tell apart")
    others, partners, counts = [], [], []
    for start in range(0, len(bank), batch):
        rows = itself[start : start + batch]
        cosines = vectors[rows] @ vectors.T
        alike = groups[rows, None] == groups[None]
        others.append(cosines.masked_fill(alike, -torch.inf).topk(count, dim=1).indices)
        if labels is not None:
            some, many = _partners(cosines, alike, rows, min(mining.reach, len(bank) - 1), largest)
            partners.append(some)
            counts.append(many)
    if labels is None:
        return Mined(torch.cat(others), itself[:, None], torch.ones_like(itself), itself)
    partner = torch.cat(partners)
    asking = itself if bank.views > 1 else (partner[:, 0] != itself).nonzero()[:, 0]
    if not len(asking):
        raise ConfigError("no picture has another of its class: give views=2 or more, or larger classes")
    return Mined(torch.cat(others), partner, torch.cat(counts), asking)


def loss_of(logits: Tensor, match: Tensor, list_weight: float) -> Tensor:
    """Cross-entropy of pairs, matches and others of equal weight, and of the choice of the match from the list."""
    logits = logits.float()
    pairs = F.binary_cross_entropy_with_logits(logits, match, reduction="none")
    pair = 0.5 * ((pairs * match).sum() / match.sum() + (pairs * (1 - match)).sum() / (1 - match).sum())
    return pair + list_weight * F.cross_entropy(logits, match)


def fit(
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
    ``teacher`` is a trained network and a bank of the same views with what it may see, more tokens or finer ones; it sees all of
    them, however short the lists of ``net`` are cut.

    Raises:
        ConfigError: fewer than two views without labels, nothing to tell apart, or a checkpoint of another run.
    """
    if bank.views < 2 and labels is None:
        raise ConfigError("without labels it takes two views of a picture, or more")
    task = _Task(net.to(device), bank, judge, mining, labels, teacher, pace.seed)
    identity = f"{key} {asdict(mining)} {asdict(net.shape)}"
    outcome = run(task, pace, work=work, key=identity, follow=follow)
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
        self._bank, self._judge, self._mining, self._seed = bank, judge, mining, seed
        self._teacher = teacher
        self._device = next(net.parameters()).device
        self._mined = mined(bank, labels, mining)

    def groups(self) -> list[dict[str, Any]]:
        thick = [p for p in self.module.parameters() if p.ndim > 1]
        thin = [p for p in self.module.parameters() if p.ndim <= 1]
        rate, decay = self._mining.rate, self._mining.decay
        return [{"params": thick, "lr": rate, "weight_decay": decay}, {"params": thin, "lr": rate, "weight_decay": 0.0}]

    def loss(self, step: int) -> Tensor:
        lists = self._lists(self._bank, step, self._mining)
        with autocast(self._device, processor=True):
            logits = _forward(self.module, lists)
        loss = loss_of(logits, lists.match, self._mining.list_weight)
        if self._teacher is None:
            return loss
        teacher, bank = self._teacher
        everything = replace(self._mining, whole=1.0, blind=0.0)  # numbers are drawn alike: the same pictures and views
        with torch.no_grad(), autocast(self._device, processor=True):
            better = _forward(teacher, self._lists(bank, step, everything))
        return loss + self._mining.teacher_weight * F.kl_div(
            logits.float().log_softmax(dim=1), better.float().log_softmax(dim=1), reduction="batchmean", log_target=True
        )

    def _lists(self, bank: Bank, step: int, mining: Mining) -> Lists:
        return lists_of(bank, self._mined, mining, generator_of(self._seed, step)).to(self._device)

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


def _partners(cosines: Tensor, alike: Tensor, rows: Tensor, reach: int, most: int) -> tuple[Tensor, Tensor]:
    """Matches among the ``reach`` nearest of each, nearest first, and how many; where there is none, the nearest of all, or
    itself where it is alone.
    """
    nearest = cosines.scatter(1, rows[:, None], -torch.inf).topk(reach, dim=1).indices
    match = alike.gather(1, nearest)
    order = match.int().argsort(dim=1, descending=True, stable=True)[:, : max(1, most - 1)]
    partners, counts = nearest.gather(1, order), match.sum(dim=1).clamp(max=max(1, most - 1))
    any_of = cosines.masked_fill(~alike, -torch.inf).scatter(1, rows[:, None], -2.0).argmax(dim=1)
    partners[:, 0] = torch.where(counts > 0, partners[:, 0], any_of)
    return partners, counts.clamp(min=1)
