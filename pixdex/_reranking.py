"""Hits ranked anew by the stages of ``pixdex.rerankers``: what these need of records is fetched once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._kept import NOTHING, kept_of
from pixdex._made_tokens import tokens_from_pictures
from pixdex.errors import Unsupported
from pixdex.rerankers.port import Candidate, Query
from pixdex.rerankers.stages import Stage, names_of, ready, staged, use_tokens, use_vectors
from pixdex.types import Hit, Payload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.encoders.decoding import Decoding
    from pixdex.encoders.port import Encoder

__all__ = ["COMPUTED", "MISSING", "TOKENS", "Reranking"]

TOKENS, COMPUTED, MISSING = "tokens", "computed", "missing"
"""In ``Hit.trace``: what became of a hit whose record has no tokens, where a stage that uses them saw it."""
_BEHIND = 1e-5
"""What a hit counts less than the one before it, where nothing else is known: enough not to be the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Reranking:
    """How hits of a collection are ranked anew; by no stages they stay as they are.

    Raises:
        Unsupported: a stage needs tokens, which neither the collection has nor its encoder makes.
    """

    stages: Sequence[Stage]
    collection: Collection
    encoder: Encoder
    decoding: Decoding

    def __post_init__(self) -> None:
        if self.uses_tokens and self.collection.spec.tokens is None and self.encoder.token_spec is None:
            raise Unsupported(
                f"this collection keeps no tokens to rerank with, and encoder {self.encoder.name!r} makes no tokens"
            )

    @property
    def uses_tokens(self) -> bool:
        """Whether a stage needs them, of the query too."""
        return use_tokens(self.stages)

    def scored(self, hit: Hit) -> bool:
        """Whether its score is one of the last stage."""
        return not self.stages or names_of(self.stages)[-1] in hit.trace

    def hits(self, query: Query, first: Sequence[Hit], using: str, deep: int) -> list[Hit]:
        """The best ``deep`` in the order of the stages, and the others below; ``using`` is the vector they were found by.

        Those that a stage cannot score keep their place. ``trace`` says what each stage scored, and under ``tokens``, where
        the record has none, whether they were ``computed`` from the picture or are ``missing``.

        Raises:
            Unsupported: a stage needs tokens, and the query has none, or no record and no picture.
            FingerprintMismatch: a reranker was trained for tokens of another encoder.
        """
        if not self.stages:
            return list(first)
        shortlist, rest = first[:deep], first[deep:]
        tokens = self.collection.spec.tokens or self.encoder.token_spec
        stages = ready(self.stages, query, tokens)
        for stage in stages:
            check = getattr(stage.made, "check_vector", None)  # a calibrated one knows whose scores it takes
            if check is not None:
                check(self.collection.spec.vector(using))
        pictures = _Pictures(self, {hit.id: hit.payload for hit in shortlist})
        ranked = []
        for one in staged(query, self._candidates(shortlist, using), stages, completed=pictures.completed):
            hit = shortlist[one.row]
            ranked.append(replace(hit, score=one.score, trace={**hit.trace, **one.trace, **pictures.note(hit.id)}))
        return [*ranked, *rest]

    def comparable(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits in their order with scores that say it too, to be joined with others or multiplied: one that the last stage
        did not score counts as if it lay evenly between those around it, and a little less behind the last. ``trace`` has
        what was scored.
        """
        lists = ([p for p, hit in enumerate(hits) if name in hit.trace] for name in reversed(names_of(self.stages)))
        known: list[int] = next(filter(None, lists), [])
        if not known:
            return list(hits)  # all by the first stage
        places = np.arange(len(hits))
        scores = np.interp(places, known, [hits[place].score for place in known])
        outside = np.minimum(places - known[0], 0) + np.maximum(places - known[-1], 0)
        scores -= _BEHIND * outside
        return [replace(hit, score=score) for hit, score in zip(hits, scores.tolist(), strict=True)]

    def _candidates(self, hits: Sequence[Hit], using: str) -> list[Candidate]:
        """The hits with what the store has of them for all stages, in one round trip."""
        kept = kept_of(
            self.collection,
            (hit.id for hit in hits),
            using,
            tokens=self.uses_tokens and self.collection.spec.tokens is not None,
            vectors=use_vectors(self.stages),
        )
        found = [kept.get(hit.id, NOTHING) for hit in hits]
        return [Candidate(h.id, h.score, one.tokens, one.vector) for h, one in zip(hits, found, strict=True)]


class _Pictures:
    """Makes tokens of the pictures of candidates that have none, once a stage needs them. ``payloads`` by id say where."""

    def __init__(self, by: Reranking, payloads: Mapping[str, Payload | None]) -> None:
        self._by = by
        self._payloads = payloads
        self._made: dict[str, NDArray[Any] | None] = {}

    def completed(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates, with tokens where a picture is there.

        Raises:
            Unsupported: there are none, as the collection keeps no tokens.
        """
        by = self._by
        new = [each.id for each in candidates if each.tokens is None and each.id not in self._made]
        if new:
            payloads = {record: self._payloads[record] for record in new}
            made = tokens_from_pictures(payloads, by.collection, by.encoder, by.decoding)
            self._made |= {record: made.get(record) for record in new}
            if by.collection.spec.tokens is None and all(matrix is None for matrix in self._made.values()):
                raise Unsupported(
                    "this collection keeps no tokens to rerank with, and the picture of no candidate can be read: make a new "
                    "one with tokens=True"
                )
        return [replace(each, tokens=self._made.get(each.id)) if each.tokens is None else each for each in candidates]

    def note(self, record: str) -> dict[str, str]:
        """What the trace says of it."""
        if record not in self._made:
            return {}
        return {TOKENS: MISSING if self._made[record] is None else COMPUTED}
