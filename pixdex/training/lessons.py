"""What a reranker learns from, what of the same pictures judges it, and what the judgement is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixdex.errors import ConfigError
from pixdex.evaluation import Interval, interval, paired
from pixdex.training.data import split_classes
from pixdex.training.pairnets import PairNet
from pixdex.training.reranking import Judged, maxsim, measured, scored
from pixdex.training.tokenbank import Bank
from pixdex.training.tokenviews import classmates, copies

__all__ = ["LEAST", "Division", "Lesson", "divided", "figures", "lesson_of", "values_of", "verdict"]

Values: TypeAlias = Mapping[str, NDArray[np.float64]]

LEAST = 20
"""Pictures without classes, of which some must be left to judge."""
HELD = 500
"""Pictures that judge, at most."""
ASKING = 100, 200
"""Queries of those that choose the weights, and of those that figures are of."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Division:
    """Rows of pictures, int64 each, sorted.

    Attributes:
        learning: what is learned from.
        choosing: what chooses the weights.
        telling: what figures are of.
        notes: what is worth knowing about it.
    """

    learning: NDArray[np.int64]
    choosing: NDArray[np.int64]
    telling: NDArray[np.int64]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lesson:
    """What is learned from, and shortlists to judge by.

    Attributes:
        bank: views of the pictures that are learned from.
        labels: of these, int64 ``[n]``, or None.
        choosing: shortlists that choose the weights.
        telling: those that figures are of.
        chosen_for: the class of each query of ``choosing``, int64 ``[q]``, or None.
        told_of: likewise of ``telling``.
        notes: what is worth knowing about it.
    """

    bank: Bank
    labels: Tensor | None
    choosing: Judged
    telling: Judged
    chosen_for: NDArray[np.int64] | None
    told_of: NDArray[np.int64] | None
    notes: tuple[str, ...] = ()


def divided(count: int, labels: NDArray[np.int64] | None, *, share: float, seed: int) -> Division:
    """Pictures to learn from, and a ``share`` to judge, in two halves: of all classes, where there are ``labels`` ``[count]``, else of
    all pictures.

    Raises:
        ConfigError: too few pictures or classes.
    """
    if labels is not None:
        return _of_classes(labels, share, seed)
    if count < LEAST:
        raise ConfigError(f"{count} pictures are too few to learn from and to judge with: it takes {LEAST} or more")
    order = np.random.default_rng(seed).permutation(count)
    held = min(HELD, max(4, round(share * count)))
    return Division(
        learning=np.sort(order[held:]), choosing=np.sort(order[: held // 2]), telling=np.sort(order[held // 2 : held])
    )


def lesson_of(bank: Bank, labels: Tensor | None, *, share: float, seed: int) -> Lesson:
    """The lesson of a bank, whose pictures are of ``labels`` int64 ``[n]``, or of none. See ``divided``.

    Without labels those that judge are to be found among all pictures, also those that are learned from, as they will be.

    Raises:
        ConfigError: too few pictures or classes.
    """
    rows = divided(len(bank), None if labels is None else labels.cpu().numpy(), share=share, seed=seed)
    device = bank.tokens.device
    learning, choosing, telling = (
        torch.from_numpy(part).to(device) for part in (rows.learning, rows.choosing, rows.telling)
    )
    judges: list[Judged] = []
    classes: list[NDArray[np.int64] | None] = []
    for part, most in zip((choosing, telling), ASKING, strict=True):
        if labels is None:
            judges.append(copies(bank, part[:most]))
            classes.append(None)
        else:
            judges.append(classmates(bank.take(part), labels[part], asking=most))
            classes.append(labels[part][judges[-1].asked].cpu().numpy())
    return Lesson(
        bank=bank.take(learning),
        labels=None if labels is None else labels[learning],
        choosing=judges[0],
        telling=judges[1],
        chosen_for=classes[0],
        told_of=classes[1],
        notes=rows.notes,
    )


def values_of(lesson: Lesson, nets: Mapping[str, tuple[PairNet, Judged]]) -> dict[str, Values]:
    """``recall@1`` and ``map`` of each query that figures are of, by the first stage, MaxSim and networks, each of which has
    shortlists of the same queries.
    """
    data = lesson.telling
    values = {"first stage": measured(data.first, data), "maxsim": measured(maxsim(data), data)}
    values |= {name: measured(scored(net, theirs), theirs) for name, (net, theirs) in nets.items()}
    return {name: {metric: value.cpu().numpy() for metric, value in row.items()} for name, row in values.items()}


def figures(values: Mapping[str, Values], groups: NDArray[np.int64] | None) -> tuple[dict[str, Any], Interval]:
    """Of each row means with intervals, and by how much the ``map`` of the last one differs from that of the first, where queries of
    one of the ``groups`` are drawn together.
    """
    rows = {name: {metric: asdict(interval(value)) for metric, value in row.items()} for name, row in values.items()}
    first, *_, last = (row["map"] for row in values.values())
    return rows, paired(last, first, groups=groups)


def verdict(gain: Interval, kind: str) -> tuple[bool, str]:
    """Whether it is better than the first stage beyond the choice of queries, and a sentence that says so."""
    words = f"mAP {gain.mean:+.3f}, 95 % {gain.low:+.3f} to {gain.high:+.3f}"
    if gain.low > 0:
        return True, f"{kind} is better than the first stage: {words}"
    if gain.mean > 0:
        return False, f"{kind} is no better than the first stage as far as these pictures can tell: {words}"
    return False, f"{kind} is no better than the first stage: {words}; search without it"


def _of_classes(labels: NDArray[np.int64], share: float, seed: int) -> Division:
    learning, judging = split_classes(labels, share, seed)
    classes, counts = np.unique(labels[judging], return_counts=True)
    able = np.random.default_rng(seed).permutation(classes[counts > 1])
    if len(able) < 4:
        note = f"only {len(able)} classes judge: the same that choose the weights, which flatters the figures"
        return Division(learning=learning, choosing=judging, telling=judging, notes=(note,))
    chooses = np.isin(labels[judging], able[::2])
    return Division(learning=learning, choosing=judging[chooses], telling=judging[~chooses])
