"""Reranking in stages: each ranks anew what is best so far, and what it does not see keeps its order below.

``"maxsim,cross@30"`` is two: ``maxsim`` sees all candidates, ``cross`` the best 30 of those. Nothing here knows a store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from pixdex.encoders.port import Features
from pixdex.errors import ConfigError, Unsupported
from pixdex.rerankers.port import Candidate, Query, Reranker
from pixdex.rerankers.references import for_tokens, load

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pixdex.spec import TokenSpec

__all__ = [
    "FIRST",
    "Ranked",
    "Rerank",
    "Stage",
    "names_of",
    "ready",
    "rerank",
    "staged",
    "stages_of",
    "use_tokens",
    "use_vectors",
]

FIRST = "first"
"""What the score of the first stage is called in traces."""
_TOP = re.compile(r"(.*)@([^@:?/\\]*)", re.DOTALL)
"""A reference and how many go in. A folder may have an ``@`` in its name."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """A reranker and what it sees.

    Attributes:
        reranker: one, or its reference.
        top: how many of the best so far it sees, 1 or more; None: all candidates. More than there are is all.

    Raises:
        ConfigError: ``top`` is no whole number of 1 or more, or what should rerank is no reranker.
    """

    reranker: Reranker | str
    top: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.reranker, str) or callable(getattr(self.reranker, "rerank", None))):
            raise ConfigError(
                f"rerank {self.reranker!r}: no reranker: a name such as maxsim, an object that has rerank, or a Stage"
            )
        if self.top is not None and not (isinstance(self.top, int) and self.top >= 1):
            name = self.reranker if isinstance(self.reranker, str) else self.reranker.name
            raise ConfigError(
                f"rerank {name}@{self.top}: what follows the @ is how many of the best it sees, 1 or more"
            )

    @property
    def made(self) -> Reranker:
        """The reranker itself.

        Raises:
            ConfigError: there is none of that name.
            MissingDependency: it needs an extra that is not installed.
        """
        return load(self.reranker) if isinstance(self.reranker, str) else self.reranker


One: TypeAlias = Reranker | str | Stage
Rerank: TypeAlias = One | Sequence[One]
"""A reranker, its reference, a Stage, several of those, or a text such as ``"maxsim,cross@30"``."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate in its new place.

    Attributes:
        row: its place in what was given.
        score: of the last stage that scored it; of the first where none did.
        trace: ``first``, and what each stage scored by its name.
    """

    row: int
    score: float
    trace: Mapping[str, float] = field(default_factory=dict)


def stages_of(given: Rerank | None) -> tuple[Stage, ...]:
    """The stages that ``given`` stands for, their rerankers made; none for None.

    A text of several is split at its commas; a folder with a comma in its name is given in a list.

    Raises:
        ConfigError: no such reranker, none at all, or an ``@`` without a number of 1 or more.
        MissingDependency: a reranker needs an extra that is not installed.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        given = [text.strip() for text in given.split(",")]
    elif isinstance(given, Stage) or not isinstance(given, Sequence):
        given = [given]
    if not given:
        raise ConfigError("rerank: no stages: give a reranker, or leave it out")
    stages = [_read(one) if isinstance(one, str) else one for one in given]
    return tuple(replace(stage, reranker=stage.made) if isinstance(stage, Stage) else Stage(stage) for stage in stages)


def use_tokens(stages: Iterable[Stage]) -> bool:
    """Whether one of them needs tokens."""
    return any(stage.made.uses_tokens for stage in stages)


def use_vectors(stages: Iterable[Stage]) -> bool:
    """Whether one of them needs vectors."""
    return any(getattr(stage.made, "uses_vectors", False) for stage in stages)


def rerank(
    query: Features | Query,
    candidates: Features | Sequence[Candidate],
    how: Rerank,
    *,
    scores: ArrayLike | None = None,
    tokens: TokenSpec | None = None,
) -> list[Ranked]:
    """Candidates ranked anew, best first, whatever store they come from.

    Such as::

        from pixdex import encoders, rerankers

        encoder = encoders.load("mini")
        pictures = encoder.encode([encoder.prepare(pixels) for pixels in several], tokens=True)
        query = encoder.encode([encoder.prepare(pixels)], tokens=True)
        ranked = rerankers.rerank(query, pictures, "maxsim,cross@30", tokens=encoder.token_spec)
        best = several[ranked[0].row]

    Args:
        query: features of one picture.
        candidates: features of ``n`` pictures, as they were kept: ``vectors`` ``[n, dim]``, and ``tokens``, ``n`` matrices, where
            a reranker uses them; None stands for a picture that has none, which keeps its place.
        how: the reranker or stages, see ``stages_of``.
        scores: ``[n]``, those of the first stage; default: the cosine of the vectors. They count where a stage says so, and
            for candidates that no stage scores. Candidates that bring their own have no others.
        tokens: whose tokens these are, the ``token_spec`` of their encoder: a trained reranker refuses those of others.

    Raises:
        ConfigError: no such reranker, more than one query, or numbers that do not fit.
        Unsupported: a reranker needs tokens of the query, which has none.
        FingerprintMismatch: a reranker was trained for tokens of another encoder.
    """
    asked = _query(query) if isinstance(query, Features) else query
    if isinstance(candidates, Features):
        candidates = _candidates(asked, candidates, scores)
    elif scores is not None:
        raise ConfigError("scores: these candidates bring their own")
    first = sorted(range(len(candidates)), key=lambda row: -candidates[row].score)
    ranked = staged(asked, [candidates[row] for row in first], ready(stages_of(how), asked, tokens))
    return [replace(one, row=first[one.row]) for one in ranked]


def staged(
    query: Query,
    candidates: Sequence[Candidate],
    stages: Sequence[Stage],
    *,
    completed: Callable[[Sequence[Candidate]], Sequence[Candidate]] = lambda candidates: candidates,
) -> list[Ranked]:
    """Candidates, best of the first stage first, in their new order, by stages that are ``ready``. What a stage scores the same
    keeps its order.

    ``completed`` adds tokens to what a stage that uses them sees, where it can.

    Raises:
        ConfigError: a reranker gives more or fewer scores than it has candidates.
    """
    order = [Ranked(row, each.score, {FIRST: each.score}) for row, each in enumerate(candidates)]
    for name, stage in zip(names_of(stages), stages, strict=True):
        seen = order[: stage.top]
        given: Sequence[Candidate] = [candidates[one.row] for one in seen]
        scores = np.asarray(stage.made.rerank(query, completed(given) if stage.made.uses_tokens else given))
        if scores.shape != (len(seen),):
            raise ConfigError(
                f"reranker {name!r} gives scores {list(scores.shape)} of {len(seen)} candidates: one of each, NaN for none"
            )
        order[: len(seen)] = _ordered(seen, scores, name)
    return order


def _ordered(seen: Sequence[Ranked], scores: NDArray[np.floating], name: str) -> list[Ranked]:
    """By score, at the places of those that have one."""
    places = np.flatnonzero(~np.isnan(scores)).tolist()
    best = sorted(places, key=lambda place: -scores[place])
    order = list(seen)
    for place, row in zip(places, best, strict=True):
        score = float(scores[row])
        order[place] = replace(seen[row], score=score, trace={**seen[row].trace, name: score})
    return order


def names_of(stages: Sequence[Stage]) -> list[str]:
    """What each is called in traces: by its reranker, and its number where another is called so."""
    names = [stage.made.name for stage in stages]
    return [name if names.index(name) == number else f"{name}.{number + 1}" for number, name in enumerate(names)]


def ready(stages: Iterable[Stage], query: Query, tokens: TokenSpec | None) -> tuple[Stage, ...]:
    """The stages, each with its reranker for ``tokens``; None: nobody knows whose they are. There are tokens of the query where
    one needs them.

    Raises:
        Unsupported: the query has none.
        FingerprintMismatch: ``tokens`` are of another encoder than those a reranker was trained for.
    """
    found = []
    for stage in stages:
        reranker = stage.made
        if reranker.uses_tokens and query.tokens is None:
            raise Unsupported(f"reranker {reranker.name!r} needs tokens of the query: search by picture")
        found.append(stage if tokens is None else replace(stage, reranker=for_tokens(reranker, tokens)))
    return tuple(found)


def _read(text: str) -> Stage:
    """A reference, with ``@n`` behind or without."""
    if not text:
        raise ConfigError("rerank: a stage without a name: such as maxsim or maxsim,cross@30")
    found = _TOP.fullmatch(text)
    if found is None:
        return Stage(text)
    reference, top = found.groups()
    if re.fullmatch(r"[0-9]+", top):
        return Stage(reference, int(top))
    if ":" in reference or "?" in reference:
        return Stage(text)  # part of what follows the name
    raise ConfigError(f"rerank {text}: what follows the @ is how many of the best it sees, such as {reference}@30")


def _query(features: Features) -> Query:
    if len(features.vectors) != 1:
        raise ConfigError(f"the query is one picture: these are features of {len(features.vectors)}")
    return Query(features.vectors[0], None if features.tokens is None else features.tokens[0])


def _candidates(query: Query, features: Features, scores: ArrayLike | None) -> list[Candidate]:
    vectors = np.asarray(features.vectors, dtype=np.float32)
    first = _cosines(query.vector, vectors) if scores is None else np.asarray(scores, dtype=np.float64)
    tokens = (None,) * len(vectors) if features.tokens is None else features.tokens
    if first.shape != (len(vectors),) or len(tokens) != len(vectors):
        raise ConfigError(
            f"{len(vectors)} vectors of candidates with scores {list(first.shape)} and tokens of {len(tokens)}: one of each"
        )
    rows = zip(first.tolist(), tokens, vectors, strict=True)
    return [Candidate(str(row), score, matrix, vector) for row, (score, matrix, vector) in enumerate(rows)]


def _cosines(query: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.asarray(vectors @ query / np.where(lengths > 0, lengths, 1), dtype=np.float64)
