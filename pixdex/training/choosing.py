"""Training a head, and choosing among what came of it: with "no head" always among the candidates.

Whole classes are kept back, in turns. In each turn a head is trained on the other classes; its start, and mixtures of
start and trained head, are measured on those kept back. What is best on average over the turns is chosen, and that is
never worse than the frozen vectors, since these are measured too. Then the head is trained once more on all classes, as
long as was best; nothing is left to measure that one with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixdex.encoders.heads import Head, LinearHead
from pixdex.encoders.kernelmaps import FeatureMap
from pixdex.encoders.tokens import unit
from pixdex.evaluation import measure
from pixdex.training.data import split_classes
from pixdex.training.fitting import Network, Recipe, epochs_of, one_thread, start_of

__all__ = ["DECIDES", "METRICS", "NO_HEAD", "Candidate", "Chosen", "Turn", "choose", "fit"]

METRICS = ("recall@1", "r_precision", "map@r", "map")
DECIDES = "map@r"
"""What the choice is made by. Of candidates that find fewer first neighbours than the frozen vectors none is taken."""
NO_HEAD = "no head"
_MOST = 4_000
"""Pictures that an epoch is measured on; candidates are, on all that were kept back."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far from the start to what was trained."""

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]
State: TypeAlias = Mapping[str, Tensor]
Progress = Callable[[str, int, int], None]
"""Hears of what so many of how many are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What could be chosen.

    Attributes:
        name: for people.
        share: how far from the start to the trained head; None for no head.
        metrics: means over the queries of all turns.
    """

    name: str
    share: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """One division of the classes.

    Attributes:
        rows: int64, those kept back.
        network: what was trained.
        states: its parameters before the first epoch and after each.
        losses: of each epoch, by name.
        curve: ``DECIDES`` of each state.
    """

    rows: Labels
    network: Network
    states: tuple[State, ...]
    losses: Mapping[str, tuple[float, ...]]
    curve: tuple[float, ...]

    def head(self, epochs: int, share: float) -> Head:
        """The head after so many epochs, ``share`` of the way there from the start."""
        return self.network.head(self.states[0], self.states[epochs], share)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """What was chosen.

    Attributes:
        head: the head to use, trained on all classes if that was asked for; None for no head.
        candidate: the chosen one.
        candidates: all of them, "no head" first.
        epochs: after how many epochs the trained head is best on average.
        shrinkage: that of the start.
        turns: how it was found.
        frozen: by metric, values of every query of all turns, float64; of the frozen vectors.
        after: of the chosen candidate.
    """

    head: Head | None
    candidate: Candidate
    candidates: tuple[Candidate, ...]
    epochs: int
    shrinkage: float
    turns: tuple[Turn, ...]
    frozen: Mapping[str, NDArray[np.float64]]
    after: Mapping[str, NDArray[np.float64]]


@one_thread()
def choose(
    vectors: Rows,
    frozen: Rows,
    labels: Labels,
    recipe: Recipe,
    *,
    before: FeatureMap | None = None,
    share: float = 0.2,
    turns: int = 3,
    retrain: bool = True,
    progress: Progress | None = None,
) -> Chosen:
    """Train a head on unit vectors, and take it if it is better.

    Args:
        vectors: float32 ``[n, views, d]``, what the head takes; the first view counts in validation.
        frozen: float32 ``[n, b]``, what is used without a head.
        labels: int64 ``[n]``.
        recipe: how it is trained.
        before: a feature map of a kernel that comes first; it was fitted to such vectors.
        share: of the classes that a turn keeps back.
        turns: how many divisions of the classes are tried.
        retrain: train the chosen head on all classes at the end.
        progress: hears of epochs.

    Raises:
        ConfigError: fewer than four classes have two pictures; no such loss.
    """
    splits = [split_classes(labels, share, recipe.seed, turn=number) for number in range(turns)]
    mapped = _mapped(vectors, before)
    recipe = replace(recipe, shrinkages=(_best_shrinkage(mapped, labels, splits, recipe),))
    found = []
    for number, (trains, validates) in enumerate(splits):
        tell = None if progress is None else _part(progress, f"training {number + 1} of {turns}")
        own = replace(recipe, seed=recipe.seed + number)
        found.append(_turn(mapped, vectors[:, 0], labels, trains, validates, own, before, tell))
    epochs = _best_epoch(found)
    values: dict[float | None, dict[str, NDArray[np.float64]]] = {}
    values[None] = _together([_measured(frozen[turn.rows], labels[turn.rows]) for turn in found])
    for amount in SHARES:
        parts = [
            _measured(_applied(turn.head(epochs, amount), vectors[turn.rows, 0]), labels[turn.rows]) for turn in found
        ]
        values[amount] = _together(parts)
    candidates = [
        Candidate(name=_name(amount), share=amount, metrics={m: float(np.nanmean(v)) for m, v in one.items()})
        for amount, one in values.items()
    ]
    best = _best(candidates)
    head: Head | None = None
    if best.share is not None and retrain:
        tell = None if progress is None else _part(progress, "training on all classes")
        head = fit(mapped, labels, recipe, before=before, epochs=epochs, share=best.share, progress=tell)
    elif best.share is not None:
        head = found[0].head(epochs, best.share)
    return Chosen(
        head=head,
        candidate=best,
        candidates=tuple(candidates),
        epochs=epochs,
        shrinkage=recipe.shrinkages[0],
        turns=tuple(found),
        frozen=values[None],
        after=values[best.share],
    )


@one_thread()
def fit(
    mapped: Rows,
    labels: Labels,
    recipe: Recipe,
    *,
    before: FeatureMap | None = None,
    epochs: int | None = None,
    share: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Head:
    """Train a head for so many epochs, without measuring anything; ``share`` of the way from its start.

    ``mapped`` is float32 ``[n, views, d]``, mapped by ``before`` already; the first of ``recipe.shrinkages`` is used.
    """
    soup = _Soup(mapped, labels, recipe, before)
    state: State = soup.start
    last = recipe.epochs if epochs is None else epochs
    if share > 0:
        for number, (_, reached) in enumerate(soup.epochs(), 1):
            state = reached
            if progress is not None:
                progress(number, last)
            if number >= last:
                break
    return soup.network.head(soup.start, state, share)


def _turn(
    mapped: Rows,
    vectors: Rows,
    labels: Labels,
    trains: Labels,
    validates: Labels,
    recipe: Recipe,
    before: FeatureMap | None,
    progress: Callable[[int, int], None] | None,
) -> Turn:
    soup = _Soup(mapped[trains], labels[trains], recipe, before)
    some = validates
    if len(some) > _MOST:  # every epoch is measured, and the time it takes grows with the square
        some = np.sort(np.random.default_rng(recipe.seed).permutation(validates)[:_MOST])
    shown, classes = vectors[some], labels[some]

    def score(state: State) -> float:
        values = _measured(_applied(soup.network.head(soup.start, state), shown), classes, (DECIDES,))
        return float(np.nanmean(values[DECIDES]))

    curve = [score(soup.start)]
    states: list[State] = [soup.start]
    spent: list[tuple[float, ...]] = []
    for values, state in soup.epochs():
        spent.append(values)
        curve.append(score(state))
        states.append(state)
        if progress is not None:
            progress(len(spent), recipe.epochs)
        if len(curve) - 1 - int(np.argmax(curve)) >= recipe.patience:
            break
    lines = {
        f"{number}. {name}": line
        for number, (name, line) in enumerate(zip(recipe.losses, zip(*spent, strict=True), strict=True), 1)
    }
    return Turn(rows=validates, network=soup.network, states=tuple(states), losses=lines, curve=tuple(curve))


class _Soup:
    """Heads that are trained side by side from one start, a loss each, and averaged."""

    def __init__(self, mapped: Rows, labels: Labels, recipe: Recipe, before: FeatureMap | None) -> None:
        start = _start(mapped, labels, recipe, recipe.shrinkages[0])
        self._mapped, self._labels, self._recipe = mapped, labels, recipe
        self._members = [
            Network(
                start, hidden=recipe.hidden, prefixes=recipe.widths(start.dim)[:-1], before=before, seed=recipe.seed
            )
            for _ in recipe.losses
        ]
        self.network = self._members[0]
        self.start: State = self.network.state()

    def epochs(self) -> Iterator[tuple[tuple[float, ...], State]]:
        """After each epoch the losses, and the average of the parameters."""
        running = [
            epochs_of(
                network, self._mapped, self._labels, replace(self._recipe, seed=self._recipe.seed + 1000 * number), loss
            )
            for number, (network, loss) in enumerate(zip(self._members, self._recipe.losses, strict=True))
        ]
        for epochs in zip(*running, strict=True):
            states = [network.state() for network in self._members]
            yield (
                tuple(epoch.loss for epoch in epochs),
                {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in self.start},
            )


def _best_epoch(turns: Sequence[Turn]) -> int:
    """After which the trained heads are best on average, of the epochs that all turns came to; one at least."""
    common = min(len(turn.curve) for turn in turns)
    return 1 + int(np.argmax(np.mean([turn.curve[1:common] for turn in turns], axis=0)))


def _start(mapped: Rows, labels: Labels, recipe: Recipe, shrinkage: float) -> LinearHead:
    views, width = mapped.shape[1:]
    flat = mapped.reshape(-1, width)
    return start_of(recipe.start, flat, np.repeat(labels, views), min(recipe.dim, width), shrinkage)


def _best_shrinkage(mapped: Rows, labels: Labels, splits: Sequence[tuple[Labels, Labels]], recipe: Recipe) -> float:
    """The one whose start is best on the classes kept back."""
    if len(recipe.shrinkages) == 1:
        return recipe.shrinkages[0]

    def worth(shrinkage: float) -> float:
        values = []
        for trains, validates in splits:
            start = _start(mapped[trains], labels[trains], recipe, shrinkage)
            found = _measured(_applied(start, mapped[validates, 0]), labels[validates], (DECIDES,))
            values.append(float(np.nanmean(found[DECIDES])))
        return float(np.mean(values))

    return max(recipe.shrinkages, key=worth)


def _mapped(vectors: Rows, before: FeatureMap | None) -> Rows:
    if before is None:
        return vectors
    flat = before.apply(vectors.reshape(-1, vectors.shape[2]))
    return flat.reshape(*vectors.shape[:2], before.dim)


def _applied(head: Head, vectors: Rows) -> Rows:
    return unit(head.apply(vectors))


def _measured(vectors: Rows, labels: Labels, metrics: Sequence[str] = METRICS) -> dict[str, NDArray[np.float64]]:
    return dict(measure(vectors, labels, metrics=tuple(metrics)))


def _together(parts: Sequence[Mapping[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _best(candidates: Sequence[Candidate]) -> Candidate:
    """The first of the best: no head before the start, the start before what was trained."""
    floor = candidates[0].metrics["recall@1"]
    usable = [one for one in candidates if one.metrics["recall@1"] >= floor]
    return max(usable, key=lambda one: one.metrics[DECIDES])


def _name(share: float | None) -> str:
    if share is None:
        return NO_HEAD
    return {0.0: "the start, untrained", 1.0: "trained"}.get(share, f"{share:.0%} of the way from the start to trained")


def _part(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)
