"""Weights of evidence, and the way to join it, chosen where the answers are known.

What was found by each kind of evidence is joined anew under many weights, by the rules of ``fusion``, and what gives the best
mean average precision is chosen: by coordinates, from equal weights and from each list alone, which stay among the choices,
so that on these queries fusion is never worse than the best single list. How good it is elsewhere is said by
cross-validation: labels are dealt to folds, and each fold is measured with what the others choose. numpy only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pixdex.errors import ConfigError
from pixdex.evaluation import Interval, interval, paired
from pixdex.evaluation.metrics import average_precision
from pixdex.fusion import Method, contributions, method_named
from pixdex.types import Hit

__all__ = ["Choice", "Fitted", "Trial", "fit_weights"]

_LISTS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Weights of lists that are tried, beside 1 of the first."""
_FACTORS = (0.0, 1 / 256, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
"""Exponents of factors that are tried: cosines of pictures are near to one another, so that small ones tell."""
_FINER = (2**-0.5, 2**0.5)
_PASSES = 3

Values: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A query whose answers are known.

    Attributes:
        lists: what each kind of evidence found, best first, by its name; of all queries the same names.
        right: the ids of the right answers, those that no list found among them.
        factors: what place and time multiply a score by, name -> id -> factor in [0, 1]; of all queries the same names.
        label: what the query is of: queries of one label are in one fold.
    """

    lists: Mapping[str, Sequence[Hit]]
    right: Collection[str]
    factors: Mapping[str, Mapping[str, float]] | None = None
    label: str | int = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A way to join evidence.

    Attributes:
        method: how lists are joined.
        weights: of each list and factor, by name, as ``ImageIndex.search`` takes them. Of a list alone, it is the only list.
    """

    method: Method
    weights: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.method}, " + ", ".join(f"{name} {weight:.3g}" for name, weight in self.weights.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What was chosen, and how good it is.

    Attributes:
        chosen: the best of all on these queries.
        single: the best list alone.
        by_method: the best of each method that joins all.
        values: average precision of each query, float64 ``[q]``: of each list alone, by its name; of each method with equal
            weights; of what is ``chosen``; of what was ``fitted`` and of the list that was best (``single``) on other folds.
        labels: of the queries.
    """

    chosen: Choice
    single: Choice
    by_method: Mapping[Method, Choice]
    values: Mapping[str, Values]
    labels: tuple[str | int, ...]

    @property
    def intervals(self) -> dict[str, Interval]:
        """The means of ``values``, with 95 % intervals."""
        return {name: interval(values) for name, values in self.values.items()}

    @property
    def gain(self) -> Interval:
        """What fitting gives over the best single list, in mean average precision, both measured on folds that chose neither;
        the interval is one for other labels of the kind.
        """
        _, groups = np.unique(np.array([str(label) for label in self.labels]), return_inverse=True)
        return paired(self.values["fitted"], self.values["single"], groups=groups)


def fit_weights(
    trials: Sequence[Trial],
    *,
    methods: Sequence[Method | str] = tuple(Method),
    folds: int = 5,
    seed: int = 0,
) -> Fitted:
    """Choose method and weights by mean average precision over the joined lists, as far as these go.

    Args:
        trials: queries with answers; those without any right answer count nothing.
        methods: of ``fusion``, that are chosen from.
        folds: how many parts the labels are dealt to, for the figures of cross-validation.
        seed: of that.

    Raises:
        ConfigError: no query, no list, not the same kinds of evidence for all, fewer than two labels or folds, no such method.
    """
    kept = [trial for trial in trials if len(trial.right)]
    if not kept:
        raise ConfigError("weights are fitted on queries with right answers: there is none")
    table = _Table(kept)
    ways = [method_named(method) for method in methods]
    parts = _parts([trial.label for trial in kept], folds, seed)
    every = np.arange(len(kept))
    singles = [Choice(method=ways[0], weights={name: 1.0}) for name in table.lists]
    values = {next(iter(choice.weights)): table.precision(choice) for choice in singles}
    equal = dict.fromkeys(table.names, 1.0)
    values |= {f"{way}, equal weights": table.precision(Choice(method=way, weights=equal)) for way in ways}
    fitted, single = np.empty(len(kept)), np.empty(len(kept))
    for part in parts:
        others = np.setdiff1d(every, part)
        fitted[part] = table.precision(_best(table, ways, singles, others))[part]
        single[part] = table.precision(_better(table, singles, others))[part]
    climbed = _all_climbed(table, ways, every)
    chosen = _better(table, [*singles, *climbed], every)
    values |= {"chosen": table.precision(chosen), "fitted": fitted, "single": single}
    return Fitted(
        chosen=chosen,
        single=_better(table, singles, every),
        by_method={choice.method: choice for choice in climbed},
        values=values,
        labels=tuple(trial.label for trial in kept),
    )


def _parts(labels: Sequence[str | int], folds: int, seed: int) -> list[Rows]:
    """The rows of each fold."""
    known = sorted(set(labels), key=str)
    if folds < 2 or len(known) < 2:
        raise ConfigError(f"cross-validation needs two labels and two folds at least: {len(known)} and {folds}")
    dealt = np.random.default_rng(seed).permutation(len(known)) % min(folds, len(known))
    fold_of = dict(zip(known, dealt.tolist(), strict=True))
    of = np.array([fold_of[label] for label in labels])
    return [np.flatnonzero(of == fold) for fold in range(int(dealt.max()) + 1)]


# --- what is tried ---------------------------------------------------------------------------------


def _best(table: _Table, ways: Sequence[Method], singles: Sequence[Choice], rows: Rows) -> Choice:
    """The best choice on some queries; of equal ones the first, and lists alone come first."""
    return _better(table, [*singles, *_all_climbed(table, ways, rows)], rows)


def _all_climbed(table: _Table, ways: Sequence[Method], rows: Rows) -> list[Choice]:
    """The best of each method. One list is joined with nothing, so that all methods are one, and alone it is what it is."""
    different = ways if len(table.lists) > 1 else ways[:1] if table.factors else ()
    return [_climbed(table, Choice(method=way, weights=dict.fromkeys(table.names, 1.0)), rows) for way in different]


def _better(table: _Table, choices: Sequence[Choice], rows: Rows) -> Choice:
    return max(choices, key=lambda choice: table.precision(choice)[rows].mean())


def _climbed(table: _Table, start: Choice, rows: Rows) -> Choice:
    """The best by one coordinate after another: coarsely until nothing changes, then in finer steps."""
    best = start
    for steps in (_coarse, _fine):
        for _ in range(_PASSES):
            before = best
            for name in [*list(table.lists)[1:], *table.factors]:
                best = _better(table, [best, *_varied(best, name, steps(table, best, name))], rows)
            if best == before:
                break
    return best


def _coarse(table: _Table, choice: Choice, name: str) -> Sequence[float]:
    del choice
    return _FACTORS if name in table.factors else _LISTS


def _fine(table: _Table, choice: Choice, name: str) -> Sequence[float]:
    del table
    return [choice.weights[name] * step for step in _FINER]


def _varied(choice: Choice, name: str, weights: Sequence[float]) -> Iterator[Choice]:
    for weight in weights:
        yield replace(choice, weights={**choice.weights, name: weight})


# --- many queries at once ----------------------------------------------------------------------------


class _Table:
    """What each record of each query gets from each list by each method: joining under other weights is then a sum."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.lists = tuple(trials[0].lists)
        self.factors = tuple(trials[0].factors or {})
        if not self.lists:
            raise ConfigError("weights are fitted on what was found by some kind of evidence: there is no list")
        if any(tuple(t.lists) != self.lists or tuple(t.factors or {}) != self.factors for t in trials):
            raise ConfigError(f"each query has the same kinds of evidence, {', '.join(self.names)}, in one order")
        # By id, so that of equal scores the lower comes first, as ``fusion`` has it.
        self._ids = [sorted({hit.id for hits in trial.lists.values() for hit in hits}) for trial in trials]
        self._width = max(map(len, self._ids))
        self._trials = trials
        self._there = self._padded(np.ones(len(ids)) for ids in self._ids) > 0
        rights = [set(trial.right) for trial in trials]
        answers = ([i in right for i in ids] for ids, right in zip(self._ids, rights, strict=True))
        self._right = self._padded(np.array(each, dtype=np.float64) for each in answers) > 0
        self._positives = np.array([len(right) for right in rights])
        self._factors = {name: self._padded(self._column(name)) for name in self.factors}
        self._parts: dict[tuple[str, Method | None], Values] = {}
        self._known: dict[tuple[object, ...], Values] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all evidence."""
        return (*self.lists, *self.factors)

    def precision(self, choice: Choice) -> Values:
        """Average precision of each query, float64 ``[q]``."""
        key = (choice.method, *choice.weights.items())
        if key not in self._known:
            self._known[key] = self._measured(choice)
        return self._known[key]

    def _measured(self, choice: Choice) -> Values:
        used = [name for name in self.lists if name in choice.weights]
        if len(used) == 1:  # nothing is joined: the scores are those of the search
            scores = self._part(used[0], None)
        else:
            scores = sum((choice.weights[name] * self._part(name, choice.method) for name in used), np.zeros(()))
        there = self._there & np.isfinite(scores)
        for name in self.factors:
            if name in choice.weights:
                low = np.minimum(0, np.where(there, scores, 0).min(axis=1, keepdims=True))
                scores = (scores - low) * self._factors[name] ** choice.weights[name]
        order = np.argsort(-np.where(there, scores, -np.inf), axis=1, kind="stable")
        found = np.take_along_axis(self._right & there, order, axis=1)
        return np.asarray(average_precision(found, self._positives))

    def _part(self, name: str, method: Method | None) -> Values:
        """What a list adds, ``[q, width]``; without a method its own scores, minus infinity for what it lacks."""
        if (name, method) not in self._parts:
            rows = []
            for trial, ids in zip(self._trials, self._ids, strict=True):
                hits = trial.lists[name]
                made, absent = (
                    ([h.score for h in hits], -np.inf) if method is None else contributions(hits, method=method)
                )
                of = dict(zip((hit.id for hit in hits), made, strict=True))
                rows.append(np.array([of.get(record, absent) for record in ids]))
            self._parts[name, method] = self._padded(rows)
        return self._parts[name, method]

    def _column(self, name: str) -> Iterator[Values]:
        for trial, ids in zip(self._trials, self._ids, strict=True):
            of = (trial.factors or {})[name]
            yield np.array([of[record] for record in ids])

    def _padded(self, rows: Iterator[Values] | Sequence[Values]) -> Values:
        made = np.zeros((len(self._ids), self._width))
        for row, values in zip(made, rows, strict=True):
            row[: len(values)] = values
        return made
