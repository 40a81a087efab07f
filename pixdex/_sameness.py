"""Who is near a record, and whether they are the same picture: by vectors, by their tokens, by looking at the pictures."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex._kept import kept_of
from pixdex.alignment import can_align
from pixdex.errors import ConfigError, FingerprintMismatch, MissingDependency, Unsupported
from pixdex.rerankers.port import Candidate, Query
from pixdex.rerankers.references import for_tokens, load
from pixdex.spec import Metric
from pixdex.types import Batch, Hit, Want

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pixdex._looking import Looking
    from pixdex.collection import Collection
    from pixdex.filters import Filter
    from pixdex.rerankers.port import Reranker
    from pixdex.types import Payload

__all__ = ["Judge", "Known", "Near", "judge_of", "likely", "neighbours", "tokens_of", "unseen", "usual", "worth_a_look"]

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
_WORTH_OPENING = 0.5
"""The cosine from which pictures are opened that no tokens tell apart first."""
_ALIKE, _STEEP = 0.95, 40.0
"""Of pictures that cannot be opened and have no tokens, what a cosine is beyond the first weighs so many log-odds for each 1."""
_ASKED = 30
_EVEN = 0.5
_LIKELY = 0.3
"""The probability that is enough by tokens alone: with it 97 of a hundred pairs are right, among edits of training pictures and others,
other shots of one scene not counted.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """What counts as the same picture.

    Attributes:
        cosine: pairs that score less by their vectors are not considered.
        verify: what makes sure of the others by their tokens: a reranker that gives probabilities, or its reference.
        look: whether the pictures of pairs that are possible by then are opened and laid upon one another (``pixdex.alignment``),
            which decides. Where one cannot be opened, the tokens do; without tokens, a cosine of .95.
        at_least: the probability that is enough, where there is something that makes sure. By tokens it takes more where a
            picture's others seem likely too.
        k: how many neighbours a record asks for.

    Without ``verify`` and ``look`` all that are near are the same.
    """

    cosine: float = 0.95
    verify: Reranker | str | None = None
    look: bool = False
    at_least: float = _EVEN
    k: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.cosine < 1:
            raise ConfigError(f"cosine is {self.cosine}: what is near scores between 0 and 1")
        if not 0 < self.at_least < 1:
            raise ConfigError(f"at_least is {self.at_least}: a probability is between 0 and 1")
        if self.k < 1:
            raise ConfigError(f"k is {self.k}: ask for 1 neighbour or more")

    @property
    def by_odds(self) -> bool:
        """Whether pairs weigh log-odds; else what their cosine is above ``cosine``."""
        return self.look or self.verify is not None


def usual(collection: Collection, *, tokens: bool = True, look: bool | None = None) -> Near:
    """What fits a collection.

    Args:
        collection: in which duplicates are looked for.
        tokens: whether ``cross`` makes sure of pairs, where the collection keeps tokens that it takes.
        look: whether the pictures do; default: where OpenCV is installed. Tokens alone take a probability of .3, beside them one half,
            of what cannot be opened too.
    """
    look = can_align() if look is None else look
    reranker = _verifier(collection) if tokens else None
    if reranker is not None:
        at_least = _EVEN if look else _LIKELY
        return Near(cosine=_WORTH_A_LOOK, verify=reranker, look=look, at_least=at_least, k=_ASKED)
    return Near(cosine=_WORTH_OPENING, look=True) if look else Near()


def _verifier(collection: Collection) -> Reranker | None:
    try:
        return None if collection.spec.tokens is None else for_tokens(load(_VERIFIES), collection.spec.tokens)
    except (FingerprintMismatch, MissingDependency):
        return None


def unseen(near: Near) -> float:
    """What a pair weighs that nobody spoke of: for cosines as far below the bar as the same picture is above it."""
    return -_UNSEEN if near.by_odds else near.cosine - 1


def likely(weight: float, near: Near) -> float:
    """A weight as people read it: a probability, or a cosine."""
    if not near.by_odds:
        return weight + near.cosine
    return float(1 / (1 + (1 - near.at_least) / near.at_least * np.exp(-weight)))


Tokens: TypeAlias = "NDArray[Any] | None"


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known of records already, by id, as of those that are in no store yet."""

    tokens: Mapping[str, Tokens] = field(default_factory=dict)
    payloads: Mapping[str, Payload] = field(default_factory=dict)


Judge: TypeAlias = Callable[[str, Tokens, Sequence[Hit], Known], Sequence[tuple[str, float]]]
"""Says of a record, by its tokens and its nearest, which of these are the same picture: id and weight, above 0 or not."""


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


def judge_of(near: Near, collection: Collection, using: str, looking: Looking | None) -> Judge:
    """What says who is the same picture, of those that are near by the vector ``using``. ``looking``: what opens pictures; None: nothing.

    Raises:
        Unsupported: the vectors are not compared by cosine, or there are no tokens to verify with.
        FingerprintMismatch: the reranker was trained for tokens of another encoder.
    """
    if collection.spec.vector(using).metric is not Metric.COSINE:
        raise Unsupported(f"duplicates are found by cosine, which vector {using!r} is not compared by")
    judge = _Verifier.of(near, collection, using) if near.verify is not None else _ByVectors(near)
    return judge if looking is None else _Looker(judge, looking, near)


def worth_a_look(hits: Sequence[Hit], near: Near) -> set[str]:
    """The ids of those of a record's nearest that are judged."""
    return {hit.id for hit in hits[: near.k] if hit.score >= near.cosine}


def tokens_of(collection: Collection, ids: Iterable[str], using: str) -> dict[str, Tokens]:
    """The tokens of records, by id; None for one that has none."""
    return {record: kept.tokens for record, kept in kept_of(collection, ids, using, tokens=True, vectors=False).items()}


@dataclass(frozen=True, slots=True)
class _ByVectors:
    """Judges by cosines."""

    near: Near

    def __call__(self, _record: str, _mine: Tokens, hits: Sequence[Hit], _known: Known) -> Sequence[tuple[str, float]]:
        some = [hit for hit in hits[: self.near.k] if hit.score >= self.near.cosine]
        if not self.near.by_odds:
            return [(hit.id, hit.score - self.near.cosine) for hit in some]
        return [(hit.id, _weight(_STEEP * (hit.score - _ALIKE), self.near)) for hit in some]


@dataclass(frozen=True, slots=True, eq=False)
class _Verifier:
    """Judges by tokens."""

    reranker: Reranker
    collection: Collection
    near: Near
    using: str

    @classmethod
    def of(cls, near: Near, collection: Collection, using: str) -> _Verifier:
        reranker = load(near.verify) if isinstance(near.verify, str) else near.verify
        tokens = collection.spec.tokens
        if tokens is None or reranker is None:
            raise Unsupported(
                "this collection keeps no tokens to verify with: find duplicates by vectors alone, with a higher cosine"
            )
        return cls(for_tokens(reranker, tokens), collection, near, using)

    def __call__(self, _record: str, mine: Tokens, hits: Sequence[Hit], known: Known) -> Sequence[tuple[str, float]]:
        few = worth_a_look(hits, self.near)
        if mine is None or not few:
            return self._untold(hits, few)
        tokens = {**tokens_of(self.collection, few - known.tokens.keys(), self.using), **known.tokens}
        # Those without tokens are not scored; their first scores say how crowded it is around the picture.
        candidates = [Candidate(hit.id, hit.score, tokens.get(hit.id) if hit.id in few else None) for hit in hits]
        said = self.reranker.rerank(Query(np.zeros(0, np.float32), mine), candidates)
        if np.nanmin(said, initial=0) < 0 or np.nanmax(said, initial=0) > 1:
            raise ConfigError(
                f"reranker {self.reranker.name!r} gives no probabilities: calibrate it (pixdex calibrate), or verify by another"
            )
        judged = [hit.id for hit, p in zip(hits, said, strict=True) if not np.isnan(p)]
        weights = zip(judged, self._weights(said[~np.isnan(said)]), strict=True)
        told = [one for one in weights if one[1] > -_CERTAIN]  # less says nothing that silence does not
        return [*told, *self._untold(hits, few.difference(judged))]

    def _untold(self, hits: Sequence[Hit], ids: Container[str]) -> Sequence[tuple[str, float]]:
        """What is to be looked at without tokens: by its cosine, as where nothing has any."""
        if not self.near.look:
            return []
        by_vectors = _ByVectors(replace(self.near, cosine=max(self.near.cosine, _WORTH_OPENING)))
        return by_vectors("", None, [hit for hit in hits if hit.id in ids], Known())

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
        crowd = _CROWDED * max(0.0, around - _QUIET)
        return [_weight(odds - crowd, self.near) for odds in found.tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class _Looker:
    """Judges by the pictures, of what another judge does not rule out."""

    judge: Judge
    looking: Looking
    near: Near

    def __call__(self, record: str, mine: Tokens, hits: Sequence[Hit], known: Known) -> Sequence[tuple[str, float]]:
        possible = self.judge(record, mine, hits, known)
        seen = self.looking.said(record, [other for other, _ in possible], known.payloads)
        return [
            (other, weight if odds is None else _weight(odds, self.near))
            for (other, weight), odds in zip(possible, seen, strict=True)
        ]


def _weight(odds: float, near: Near) -> float:
    """Log-odds beyond those that are enough, within bounds."""
    return float(np.clip(odds - _log_odds(near.at_least), -_CERTAIN, _CERTAIN))


def _log_odds(probability: ArrayLike) -> NDArray[np.float64]:
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-6, 1 - 1e-6)
    odds: NDArray[np.float64] = np.log(p / (1 - p))
    return odds
