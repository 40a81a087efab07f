"""What training made of an encoder, judged on pictures that it has not seen, with the frozen encoder among the candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pixdex.encoders.tokens import unit
from pixdex.evaluation import interval, mean, measure, paired
from pixdex.training import lora
from pixdex.training._loop import Outcome
from pixdex.training._network import Embedder, mixed
from pixdex.training.data import Labelled
from pixdex.training.report import compared, page, sheets

__all__ = ["FROZEN", "METRICS", "Judge", "Judged", "Selection", "facts", "page_of", "selected"]

FROZEN = "frozen"
METRICS = ("map@r", "recall@1", "r_precision", "map")
"""The first decides."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """How an embedder did.

    Attributes:
        vectors: float32 ``[n, dim]``.
        values: a value a picture for each of ``METRICS``, NaN for one without another of its class.
    """

    vectors: NDArray[np.float32]
    values: Mapping[str, NDArray[np.float64]]

    @property
    def score(self) -> float:
        """The mean of what decides."""
        return mean(self.values[METRICS[0]])


class Judge:
    """Measures an embedder on pictures of classes that were kept back.

    Attributes:
        items: the pictures.
        labels: int64 ``[n]``, of what classes.
        names: of the classes.
        best: what the best round found, None before the first.
    """

    def __init__(self, data: Labelled, pixels: Tensor) -> None:
        """``pixels`` are those of ``data``."""
        self.items, self.labels, self.names = data.items, data.labels, data.names
        self.best: Judged | None = None
        self._pixels = pixels

    def __call__(self, net: Embedder) -> Judged:
        vectors = net.embed(self._pixels)
        return Judged(vectors, measure(vectors, self.labels, metrics=METRICS))

    def round(self, net: Embedder) -> float:
        """The score of a round."""
        found = self(net)
        if self.best is None or found.score > self.best.score:
            self.best = found
        return found.score


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Selection:
    """What was chosen.

    Attributes:
        state: of the embedder.
        mix: the share of the trained weights in it.
        candidates: a row each: ``name``, ``mix``, ``chosen`` and, where something judged, the metrics with intervals and by
            how much the first differs from that of the frozen encoder.
        frozen: how the frozen encoder did, None where nothing judged.
        best: how the chosen one did, likewise.
    """

    state: dict[str, Tensor]
    mix: float
    candidates: list[dict[str, Any]]
    frozen: Judged | None = None
    best: Judged | None = None

    @property
    def name(self) -> str:
        """Of the chosen candidate."""
        return str(next(row["name"] for row in self.candidates if row["chosen"]))


def selected(
    net: Embedder,
    start: Mapping[str, Tensor],
    outcome: Outcome,
    frozen: Judged | None,
    judge: Judge | None,
    mixes: Sequence[float],
) -> Selection:
    """The best of the frozen encoder and its mixtures with the trained weights; unjudged, the trained weights.

    A candidate must be better than the frozen encoder to be taken.
    """
    state = net.state_dict()
    state.update({name.removeprefix("net."): tensor for name, tensor in outcome.weights.items()})
    net.load_state_dict(state)
    lora.merge(net)
    trained = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    if judge is None or frozen is None:
        return Selection(state=trained, mix=1.0, candidates=[{"name": "trained", "mix": 1.0, "chosen": True}])
    best, best_state, winner = frozen, dict(start), 0
    rows = [{"name": FROZEN, "mix": 0.0, **_figures(frozen)}]
    for share in mixes:
        candidate = mixed(start, trained, share)
        net.load_state_dict(candidate)
        # The trained weights themselves were judged in their round, unless that was before a kill.
        known = judge.best if share == 1 and judge.best is not None and judge.best.score == outcome.score else None
        found = known or judge(net)
        difference = asdict(paired(found.values[METRICS[0]], frozen.values[METRICS[0]]))
        rows.append({"name": f"trained x {share:g}", "mix": share, **_figures(found), "over frozen": difference})
        if found.score > best.score:
            best, best_state, winner = found, candidate, len(rows) - 1
    return Selection(
        state=best_state,
        mix=float(rows[winner]["mix"]),
        candidates=[{**row, "chosen": number == winner} for number, row in enumerate(rows)],
        frozen=frozen,
        best=best,
    )


def page_of(title: str, selection: Selection, outcome: Outcome, judge: Judge, note: str, seed: int) -> str:
    """A page for people: metrics before and after, curves, candidates, and nearest neighbours. HTML that needs nothing else."""
    frozen, best = selection.frozen, selection.best
    if frozen is None or best is None:
        raise ValueError("nothing judged")
    curves = {
        "loss": {"training": [math.nan if row["loss"] is None else row["loss"] for row in outcome.history]},
        f"{METRICS[0]} of the classes kept back": {
            "trained": [math.nan if row["score"] is None else row["score"] for row in outcome.history],
            FROZEN: [frozen.score] * len(outcome.history),
        },
    }
    gains = best.values[METRICS[0]] - frozen.values[METRICS[0]]
    return page(
        title,
        [note],
        compared(frozen.values, best.values, METRICS),
        curves,
        [(row["name"], {name: row[name]["mean"] for name in METRICS}, row["chosen"]) for row in selection.candidates],
        sheets(unit(frozen.vectors), unit(best.vectors), judge.labels, gains, seed),
        judge.items,
        [judge.names[label] for label in judge.labels],
        rounds=True,
    )


def _figures(found: Judged) -> dict[str, Any]:
    return {name: asdict(interval(per_query)) for name, per_query in found.values.items()}


def facts(outcome: Outcome) -> dict[str, Any]:
    """What a report says of a run."""
    return {
        "steps": outcome.step,
        "seconds": round(outcome.seconds, 1),
        "ended early": outcome.early,
        "history": outcome.history,
    }
