"""Pictures that a collection holds more than once: found by vectors, made sure of by a reranker, grouped, the best of each kept.

Every record asks for its nearest; where the collection keeps tokens a reranker says how likely these are the same picture. Pages
stream by; only pairs that are near are held, so that memory grows with the duplicates and not with the collection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex._kept import kept_of
from pixdex._linkage import Pairs
from pixdex.errors import ConfigError, FingerprintMismatch, MissingDependency, Unsupported
from pixdex.fields import IMAGE
from pixdex.rerankers.port import Candidate, Query
from pixdex.rerankers.references import for_tokens, load
from pixdex.types import Batch, Hit, Metric, Want

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pixdex.collection import Collection
    from pixdex.filters import Filter
    from pixdex.rerankers.port import Reranker
    from pixdex.types import Payload

__all__ = [
    "Duplicates",
    "Group",
    "Keep",
    "Member",
    "Near",
    "Seen",
    "find_duplicates",
    "judge_of",
    "neighbours",
    "remove_duplicates",
    "usual",
]

_PAGE, _VERIFIED_PAGE = 1024, 256
"""Records that ask at once: fewer where the tokens of all that are near are held meanwhile, 4 kB each."""
_FETCHED = 1000
_AROUND = 100
"""Hits of each record that a reranker hears of, as calibrations are fitted to lists of that many."""
_CERTAIN = 6.0
"""Log-odds beyond that count as that: no pair is so certain that it outweighs all others of two groups."""
_UNSEEN = 4.0
"""Pairs that nobody asked about, since they were not among the nearest of either, count as so unlikely (log-odds)."""
_QUIET = -8.0
"""Log-odds of what is near a picture and not the same are mostly below that."""
_CROWDED = 0.6
"""How much of what they are above it is taken off: where all that is near looks half alike, as crates of apples do, that says little."""
_VERIFIES = "cross"
_WORTH_A_LOOK = 0.2
"""The cosine from which a pair is verified, where that can be done."""
_ASKED = 30
_LIKELY = 0.3
"""The probability that is enough then: with it 97 of a hundred pairs are right, among edits of training pictures and others, other
shots of one scene not counted.
"""
Seen: TypeAlias = Callable[[int, int], None]
"""Hears how many records have asked, and of how many."""


class Keep(StrEnum):
    """Which picture of a group is the one to keep; what ties goes on to the next: pixels, then age, then id."""

    LARGEST = "largest"
    OLDEST = "oldest"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """What counts as the same picture.

    Attributes:
        cosine: pairs that score less by their vectors are not looked at.
        verify: what makes sure of the others, a reranker that gives probabilities or its reference; None: all of them are the
            same, and groups are of pictures that score at least ``cosine`` with one another, see ``find_duplicates``.
        at_least: the probability that is enough: that two groups are of one picture, by the log-odds of their pairs. Where a
            picture's others seem likely too, it takes more.
        k: how many neighbours a record asks for.
    """

    cosine: float = 0.95
    verify: Reranker | str | None = None
    at_least: float = 0.5
    k: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.cosine < 1:
            raise ConfigError(f"cosine is {self.cosine}: what is near scores between 0 and 1")
        if not 0 < self.at_least < 1:
            raise ConfigError(f"at_least is {self.at_least}: a probability is between 0 and 1")
        if self.k < 1:
            raise ConfigError(f"k is {self.k}: ask for 1 neighbour or more")


def usual(collection: Collection) -> Near:
    """What fits a collection: with tokens that a reranker of pixdex takes, pairs verified by that; else vectors alone."""
    try:
        if collection.spec.tokens is not None:
            reranker = for_tokens(load(_VERIFIES), collection.spec.tokens)
            return Near(cosine=_WORTH_A_LOOK, verify=reranker, at_least=_LIKELY, k=_ASKED)
    except (FingerprintMismatch, MissingDependency):
        pass
    return Near()


@dataclass(frozen=True, slots=True)
class Member:
    """A picture of a group; ``score`` is the best by which it belongs to it: a probability, or a cosine."""

    id: str
    score: float
    payload: Payload = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """Records of one picture: the one to keep, and the others, most alike first."""

    keep: Member
    others: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """What was found.

    Attributes:
        groups: by the id of what is to be kept.
        records: records that asked.
        candidates: pairs that were looked at.
        seconds: wall-clock time.
    """

    groups: tuple[Group, ...]
    records: int
    candidates: int
    seconds: float

    @property
    def superfluous(self) -> list[str]:
        """The ids of all that need not be kept."""
        return [member.id for group in self.groups for member in group.others]


def find_duplicates(
    collection: Collection,
    near: Near = Near(),
    *,
    keep: Keep = Keep.LARGEST,
    using: str = IMAGE,
    where: Filter | None = None,
    progress: Seen | None = None,
) -> Duplicates:
    """The groups of records that are the same picture. Nothing is changed.

    Two groups become one while the pairs between them agree, all of them on average and those of the picture that knows the other
    group best (``pixdex._linkage``), so that one mistaken pair does not make one of two, and edits that only their original
    has in common are found.

    Raises:
        Unsupported: the vectors are not compared by cosine, or there are no tokens to verify with.
        FingerprintMismatch: the reranker was trained for tokens of another encoder.
        ConfigError: what verifies gives no probabilities.
    """
    began = time.monotonic()
    judge = judge_of(near, collection, using)
    total = collection.count(where)
    unseen = _unseen(near)
    pairs = Pairs()
    asked = 0
    want = Want(payload=False, vectors=(using,), tokens=near.verify is not None)
    for page in collection.scan(where=where, want=want, size=_PAGE if near.verify is None else _VERIFIED_PAGE):
        mine = page.batch.tokens or (None,) * len(page.batch)
        found = list(neighbours(collection, page.batch, near, using, where))
        known: Mapping[str, Tokens] = {}
        if near.verify is not None:  # of a page at once
            known = tokens_of(collection, set().union(*(worth_a_look(hits, near) for _, hits in found)), using)
        for row, hits in found:
            said = judge(mine[row], hits, known)
            pairs.hear(page.batch.ids[row], [one for one in said if one[1] > unseen])  # less is silence: few are kept
        asked += len(page.batch)
        if progress is not None:
            progress(asked, max(asked, total))
    groups = _groups(collection, pairs, near, keep)
    return Duplicates(groups=groups, records=asked, candidates=len(pairs), seconds=time.monotonic() - began)


def remove_duplicates(collection: Collection, found: Duplicates) -> int:
    """Remove the records that need not be kept, never a file; how many. A group whose kept record is gone by now is left alone."""
    there: set[str] = set()
    kept = [group.keep.id for group in found.groups]
    for start in range(0, len(kept), _FETCHED):
        there.update(collection.fetch(kept[start : start + _FETCHED], want=Want(payload=False)).ids)
    ids = [member.id for group in found.groups if group.keep.id in there for member in group.others]
    collection.delete(ids)
    collection.flush()
    return len(ids)


# --- who is near, and the same ----------------------------------------------------------------------

Tokens: TypeAlias = "NDArray[Any] | None"
Judge: TypeAlias = Callable[[Tokens, Sequence[Hit], Mapping[str, Tokens]], Sequence[tuple[str, float]]]
"""Says of a picture, by its tokens, and of its nearest which are worth a look, with the weight that they are the same: above 0,
or not. It is told the tokens that are known already, as of those that are in no store yet.
"""


def neighbours(
    collection: Collection, batch: Batch, near: Near, using: str, where: Filter | None = None
) -> Iterator[tuple[int, list[Hit]]]:
    """Rows of a batch that have the vector, each with its nearest in the collection, itself not among them."""
    rows = np.flatnonzero(batch.present(using))
    if not len(rows):
        return
    verified = near.verify is not None
    found = collection.search(
        batch.vectors[using][rows],
        k=1 + (max(near.k, _AROUND) if verified else near.k),
        where=where,
        using=using,
        threshold=None if verified else near.cosine,
        want=Want(payload=False),
    )
    for row, hits in zip(rows.tolist(), found, strict=True):
        yield row, [hit for hit in hits if hit.id != batch.ids[row]]


def judge_of(near: Near, collection: Collection, using: str) -> Judge:
    """What says who is the same picture, of those that are near by the vector ``using``.

    Raises:
        Unsupported: the vectors are not compared by cosine, or there are no tokens to verify with.
        FingerprintMismatch: the reranker was trained for tokens of another encoder.
    """
    if collection.spec.vector(using).metric is not Metric.COSINE:
        raise Unsupported(f"duplicates are found by cosine, which vector {using!r} is not compared by")
    if near.verify is None:
        return lambda _, hits, __: [(h.id, h.score - near.cosine) for h in hits[: near.k] if h.score >= near.cosine]
    reranker = load(near.verify) if isinstance(near.verify, str) else near.verify
    tokens = collection.spec.tokens
    if tokens is None:
        raise Unsupported(
            "this collection keeps no tokens to verify with: find duplicates by vectors alone, with a higher cosine"
        )
    return _Verifier(for_tokens(reranker, tokens), collection, near, using)


def worth_a_look(hits: Sequence[Hit], near: Near) -> set[str]:
    """The ids of those of a record's nearest that are judged."""
    return {hit.id for hit in hits[: near.k] if hit.score >= near.cosine}


def tokens_of(collection: Collection, ids: Iterable[str], using: str) -> dict[str, Tokens]:
    """The tokens of records, by id; None for one that has none."""
    return {record: kept.tokens for record, kept in kept_of(collection, ids, using, tokens=True, vectors=False).items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Verifier:
    """Judges by tokens."""

    reranker: Reranker
    collection: Collection
    near: Near
    using: str

    def __call__(self, mine: Tokens, hits: Sequence[Hit], known: Mapping[str, Tokens]) -> Sequence[tuple[str, float]]:
        few = worth_a_look(hits, self.near)
        if mine is None or not few:
            return []
        tokens = {**tokens_of(self.collection, few - known.keys(), self.using), **known}
        # Those without tokens are not scored; their first scores say how crowded it is around the picture.
        candidates = [Candidate(hit.id, hit.score, tokens.get(hit.id) if hit.id in few else None) for hit in hits]
        said = self.reranker.rerank(Query(np.zeros(0, np.float32), mine), candidates)
        if np.nanmin(said, initial=0) < 0 or np.nanmax(said, initial=0) > 1:
            raise ConfigError(
                f"reranker {self.reranker.name!r} gives no probabilities: calibrate it (pixdex calibrate), or verify by another"
            )
        judged = [hit.id for hit, p in zip(hits, said, strict=True) if not np.isnan(p)]
        return list(zip(judged, self._weights(said[~np.isnan(said)]), strict=True))

    def _weights(self, probabilities: NDArray[np.float32]) -> list[float]:
        """Log-odds ``[n]``, above 0 where they are enough.

        The less likely half of all that is near is taken for others. What is likely about them is in part taken off, as verification
        of speakers takes off what a cohort of others scores (Matejka et al.: Analysis of Score Normalization in Multilingual
        Speaker Recognition, Interspeech 2017, there with a deviation).
        """
        found = _log_odds(probabilities)
        # Who was not worth a look says as little as others mostly do.
        others = np.full(max(self.near.k, len(found)), _QUIET)
        others[: len(found)] = found
        around = np.sort(others)[: (len(others) + 1) // 2].mean()
        found = found - _CROWDED * max(0.0, around - _QUIET) - _log_odds(self.near.at_least)
        weights: list[float] = np.clip(found, -_CERTAIN, _CERTAIN).tolist()
        return weights


def _log_odds(probability: ArrayLike) -> NDArray[np.float64]:
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-6, 1 - 1e-6)
    odds: NDArray[np.float64] = np.log(p / (1 - p))
    return odds


# --- groups ------------------------------------------------------------------------------------------


def _unseen(near: Near) -> float:
    """What a pair weighs that nobody spoke of: for cosines as far below the bar as the same picture is above it."""
    return -_UNSEEN if near.verify is not None else near.cosine - 1


def _groups(collection: Collection, pairs: Pairs, near: Near, keep: Keep) -> tuple[Group, ...]:
    """What belongs together, with what is to be kept of it."""
    sets = pairs.sets(_unseen(near))
    payloads: dict[str, Payload] = {}
    ids = [record for some in sets for record in some]
    for start in range(0, len(ids), _FETCHED):
        batch = collection.fetch(ids[start : start + _FETCHED])
        payloads |= dict(zip(batch.ids, batch.payloads or (), strict=True))
    groups = []
    for some in sets:
        members = [
            Member(record, _told(weight, near), payloads[record])
            for record, weight in some.items()
            if record in payloads  # else it is gone by now
        ]
        if len(members) > 1:
            first, *others = sorted(members, key=lambda member: _rank(member, keep))
            groups.append(Group(first, tuple(sorted(others, key=lambda member: (-member.score, member.id)))))
    return tuple(sorted(groups, key=lambda group: group.keep.id))


def _told(weight: float, near: Near) -> float:
    """A weight as people read it: a cosine, or a probability."""
    if near.verify is None:
        return weight + near.cosine
    return float(1 / (1 + (1 - near.at_least) / near.at_least * np.exp(-weight)))


def _rank(member: Member, keep: Keep) -> tuple[Any, ...]:
    pixels = -int(member.payload.get("width") or 0) * int(member.payload.get("height") or 0)
    taken = member.payload.get("taken")
    age = taken.timestamp() if isinstance(taken, datetime) else np.inf  # what has no time comes last
    match keep:
        case Keep.LARGEST:
            return pixels, age, member.id
        case Keep.OLDEST:
            return age, pixels, member.id
        case Keep.NEWEST:
            return -age if age < np.inf else np.inf, pixels, member.id
