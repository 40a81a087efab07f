"""Scores made into probabilities: ``calibrate`` finds out on a collection how far a reranker is to be believed.

What a folder that it writes gives, as ``rerank="calibrated:FOLDER"``, is P(match), so that of hits with 0.9 nine of ten are
right; and an order that is the first stage's unless another was better on queries that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pixdex import rerankers
from pixdex._calibrating import by_copies, by_label, shortlists
from pixdex._eval_queries import vector_of
from pixdex._progress import Count, counted
from pixdex.errors import AlreadyExists, ConfigError
from pixdex.evaluating import Target, opened
from pixdex.evaluation import Interval, interval, mean, paired
from pixdex.evaluation.reliability import Binning, brier, calibration_error
from pixdex.rerankers.calibrated import Calibrated, Record, uncalibrated
from pixdex.rerankers.calibration import Calibration
from pixdex.rerankers.choosing import Choice, Lists, fit, folds

if TYPE_CHECKING:
    from pixdex.rerankers.port import Reranker

__all__ = ["Held", "Outcome", "calibrate", "fitted"]

_LEAST = 20
"""Queries that it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How calibrations do on queries that took no part in fitting and choosing them.

    Attributes:
        queries: how many.
        probabilities: float64 ``[m]``, what is said of each pair.
        matches: bool ``[m]``, what is true.
        first: mAP of the first stage's order: mean and 95 % interval.
        ordered: mAP of the calibration's order.
        over: their difference, groups drawn whole.
        recall: Recall@1 of the first stage's order, and of the calibration's.
        ece: see ``pixdex.evaluation.reliability``, by parts of equal width.
        ece_mass: by parts of equal mass.
        brier: see there.
    """

    queries: int
    probabilities: NDArray[np.float64] = field(repr=False)
    matches: NDArray[np.bool_] = field(repr=False)
    first: Interval
    ordered: Interval
    over: Interval
    recall: tuple[float, float]
    ece: float
    ece_mass: float
    brier: float

    @classmethod
    def of(cls, lists: Lists, calibration: Calibration, *, seed: int = 0) -> Held:
        """Of lists that one was not fitted to."""
        return cls._of(lists, [(np.ones(len(lists), dtype=bool), calibration)], seed)

    @classmethod
    def crossed(cls, lists: Lists, *, seed: int = 0) -> Held:
        """Of lists each judged by what is fitted and chosen without its group.

        Raises:
            ConfigError: too few queries or groups.
        """
        parts = folds(lists.groups, seed=seed)
        return cls._of(lists, [(held, fit(lists.take(~held), seed=seed).calibration) for held in parts], seed)

    @classmethod
    def _of(cls, lists: Lists, parts: Sequence[tuple[NDArray[np.bool_], Calibration]], seed: int) -> Held:
        before = lists.figures()
        after = {name: np.full(len(lists), np.nan) for name in before}
        pairs = []
        for held, calibration in parts:
            some = lists.take(held)
            pairs.append(some.pairs(calibration))
            for name, values in some.figures(calibration).items():
                after[name][held] = values
        said, true = (np.concatenate(each) for each in zip(*pairs, strict=True))
        return cls(
            queries=len(lists),
            probabilities=said,
            matches=true,
            first=interval(before["map"], seed=seed),
            ordered=interval(after["map"], seed=seed),
            over=paired(after["map"], before["map"], groups=lists.groups, seed=seed),
            recall=(mean(before["recall@1"]), mean(after["recall@1"])),
            ece=calibration_error(said, true),
            ece_mass=calibration_error(said, true, binning=Binning.MASS),
            brier=brier(said, true),
        )

    def to_json(self) -> dict[str, Any]:
        """The figures, without the pairs."""
        return {
            "queries": self.queries,
            "pairs": len(self.matches),
            "share of matches": float(self.matches.mean()) if len(self.matches) else None,
            "map": {
                "first stage": asdict(self.first),
                "calibrated": asdict(self.ordered),
                "difference": asdict(self.over),
            },
            "recall@1": {"first stage": self.recall[0], "calibrated": self.recall[1]},
            "ece": self.ece,
            "ece of equal mass": self.ece_mass,
            "brier": self.brier,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What ``calibrate`` found.

    Attributes:
        choice: what orders.
        calibration: the probabilities.
        over: of the other choices, mAP over the first stage's, on queries that each was not fitted on.
        queries: how many it was fitted to.
        held: how such a calibration does on queries of other groups: each of five parts judges what was fitted to the rest.
        reranker: ready for ``rerank=``.
        notices: what to know of these numbers, in sentences.
    """

    choice: Choice
    calibration: Calibration
    over: Mapping[Choice, Interval]
    queries: int
    held: Held
    reranker: Calibrated
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything but the pairs."""
        calibration = self.calibration
        return {
            "reranker": self.reranker.record.inner,
            "choice": self.choice.value,
            "calibration": {
                **calibration.to_json(),
                "blend": calibration.blend,
                "temperature": calibration.temperature,
            },
            "over the first stage": {choice.value: asdict(each) for choice, each in self.over.items()},
            "queries": self.queries,
            "held": self.held.to_json(),
            "notices": list(self.notices),
        }


def calibrate(
    target: Target,
    rerank: str | Reranker,
    *,
    label: str | None = None,
    copies: bool = False,
    output: str | Path | None = None,
    candidates: int = 100,
    limit: int = 500,
    using: str | None = None,
    seed: int = 0,
    progress: Count | bool | None = None,
) -> Outcome:
    """Fit P(match) to what a reranker and the first stage say of queries of a collection, and choose what orders.

    Five times a fifth of the labels, or of the pictures, is kept back and judges what was fitted to the others.

    Args:
        target: an address, an index or a collection; with ``copies`` one with an encoder.
        rerank: a reranker or its reference.
        label: a field; records that share a value match. Every one asks, and is left out of its own list.
        copies: in place of a label: edits of the pictures (cut, turned, grey ...) ask, the records they were made of match.
            The pictures must be where their records say.
        output: the folder to write, which becomes ``calibrated:FOLDER``; ``rerank`` is then a reference.
        candidates: how many of the first stage's hits are looked at, as in the searches to come.
        limit: no more queries than that, chosen at random.
        using: the vector that is searched; default: that of pictures, or the only one.
        seed: of what is chosen at random.
        progress: True for bars, False, or a function that hears how many are done and of how many.

    Raises:
        ConfigError: neither labels nor copies, or both; too few of them; no tokens; not a folder to write.
        AlreadyExists: there is something in the folder.
        FingerprintMismatch: the reranker was trained for tokens of another encoder.
        NotFound: no such collection.
        Unsupported: copies, and there is no encoder.
        StoreError: the store failed.
    """
    if (label is None) == (not copies):
        raise ConfigError(
            "calibrate by label=FIELD (--label), or by copies=True (--copies) where nobody says what matches"
        )
    if candidates < 2 or limit < 1:
        raise ConfigError(f"candidates is {candidates}, limit {limit}: 2 and 1 at least")
    folder = None if output is None else _free(Path(output).expanduser(), rerank)
    reranker = uncalibrated(rerankers.load(rerank) if isinstance(rerank, str) else rerank)
    with opened(target, pictures=copies) as (collection, encoder):
        vector = collection.spec.vector(vector_of(collection, using))
        with counted("queries", progress) as count:
            uses = reranker.uses_tokens
            if label is None:
                asking = by_copies(collection, encoder, limit=limit, seed=seed, tokens=uses, count=count)
            else:
                asking = by_label(
                    collection, label, using=vector.name, limit=limit, seed=seed, tokens=uses, count=count
                )
        with counted(f"reranking by {reranker.name}", progress) as count:
            lists = shortlists(collection, asking, reranker, using=vector.name, candidates=candidates, count=count)
        tokens = collection.spec.tokens if reranker.uses_tokens else None
    about = Record(
        inner=rerank if isinstance(rerank, str) else reranker.name,
        name=reranker.name,
        calibration=Calibration(1.0, 0.0, 0.0),
        metric=vector.metric,
        vector=vector.fingerprint,
        tokens=None if tokens is None else tokens.fingerprint,
    )
    outcome = fitted(lists, about=about, reranker=reranker, notices=asking.notices, seed=seed)
    if folder is not None:
        outcome.reranker.record.write(folder)
    return outcome


def _free(folder: Path, rerank: str | Reranker) -> Path:
    """The folder to write, before work begins that would be lost."""
    if not isinstance(rerank, str):
        raise ConfigError("a folder names its reranker by reference: give rerank as text")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyExists(f"{folder} is there already: choose another folder")
    return folder


def fitted(
    lists: Lists,
    *,
    about: Record,
    reranker: Reranker,
    notices: Sequence[str] = (),
    seed: int = 0,
) -> Outcome:
    """What ``calibrate`` finds on lists; ``about`` says whose they are, its calibration is replaced.

    Raises:
        ConfigError: too few queries or groups.
    """
    groups = len(np.unique(lists.groups))
    if len(lists) < _LEAST or groups < 3:
        raise ConfigError(
            f"a calibration takes {_LEAST} queries of three labels at least, as some judge and the others choose, not "
            f"{len(lists)} of {groups}"
        )
    learned = fit(lists, seed=seed)
    outcome = Outcome(
        choice=learned.choice,
        calibration=learned.calibration,
        over=learned.over,
        queries=len(lists),
        held=Held.crossed(lists, seed=seed),
        reranker=Calibrated(reranker, replace(about, calibration=learned.calibration)),
        notices=(*notices, *_caveats(lists)),
    )
    facts = {name: value for name, value in outcome.to_json().items() if name not in {"reranker", "calibration"}}
    record = replace(outcome.reranker.record, fit=facts)
    return replace(outcome, reranker=Calibrated(reranker, record))


def _caveats(lists: Lists) -> Iterator[str]:
    there = ~np.isnan(lists.first)
    unknown = there & np.isnan(lists.scores)
    if unknown.any():
        yield (
            f"{int(unknown.sum())} of {int(there.sum())} pairs have no score of the reranker, as a picture has no tokens: "
            "they keep their places"
        )
    lost = int((lists.positives > (lists.match & there).sum(axis=1)).sum())
    if lost:
        yield f"{lost} of {len(lists)} queries match more than is among their candidates: no order brings that back"
