"""Why a picture was found: which regions of it answer which regions of the query, as a reranker sees it.

Tokens are stored without places. Where a token lies is found out by encoding the picture again, which says of each token
the region that it was made of (``token_places`` of the encoder).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex._asking import looked_at
from pixdex._originals import picture_of, roots_of
from pixdex.encoders.images import resize
from pixdex.errors import InvalidImage, NotFound, Unsupported
from pixdex.fields import IMAGE
from pixdex.pictures import as_path, is_picture, load_picture, names_file, shown
from pixdex.rerankers.calibrated import Calibrated, uncalibrated
from pixdex.rerankers.maxsim import MaxSim
from pixdex.rerankers.port import Candidate, Query
from pixdex.rerankers.references import for_tokens
from pixdex.scores import similarities
from pixdex.types import Hit, Want

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.collection import Collection
    from pixdex.encoders.decoding import Decoding
    from pixdex.encoders.port import Encoder, Features, Pixels
    from pixdex.pictures import Picture
    from pixdex.rerankers.port import Reranker

__all__ = ["EXPLAINING", "Box", "Explanation", "Pair", "Side", "explained", "in_words"]

EXPLAINING = ("maxsim", "cross", "transport")
"""Rerankers of pixdex that show correspondences."""

Box: TypeAlias = tuple[float, float, float, float]
"""x and y of the upper left corner, width, height: in fractions of the upright picture's width and height."""

_SHOWN = 960
"""Pixels of the longer side of a picture that is kept to be shown."""
_SAME = 0.9
"""Cosine from which on two tokens are of the same region: what another runtime or decoder changes is less."""
_FOCUS = 3.0
"""See ``_focus``: below, a reranker does not say which region answers which. Attention is spread so, transport is not."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two regions that correspond; None where nobody knows the region of a token.

    Attributes:
        query: in the query.
        hit: in the hit.
        weight: how much of the query's token lies on the hit's.
        tokens: rows of the two tokens.
    """

    query: Box | None
    hit: Box | None
    weight: float
    tokens: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One of the two pictures of an explanation.

    Attributes:
        label: its path or id, or what it is.
        evidence: float32 ``[t]``: by how much the reranker's score is lower without that token, below zero where it is
            higher; where its scores are probabilities, the score that these are made of.
        places: float32 ``[t, 4]``, the ``Box`` of each token, NaN where it is not known; None: of none.
        picture: uint8 ``[h, w, 3]``, upright, the longer side 960 at most, to be shown; None: it cannot be read.
    """

    label: str
    evidence: NDArray[np.float32]
    places: NDArray[np.float32] | None
    picture: Pixels | None

    def box(self, token: int) -> Box | None:
        """Where that token lies."""
        if self.places is None or np.isnan(self.places[token]).any():
            return None
        x, y, width, height = map(float, self.places[token])
        return x, y, width, height


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """Why a picture was found.

    Attributes:
        id: of the record.
        reranker: whose score it is.
        score: by the reranker.
        first: by the vectors.
        correspondences: float32 ``[tq, td]``: how much of each token of the query lies on each of the hit.
        matched_by: whose correspondences these are: the reranker's, or ``maxsim``'s where by the reranker all regions of the
            query look at about the same ones.
        query: the picture searched for.
        hit: the picture found.
        notices: what could not be had, and why.
    """

    id: str
    reranker: str
    score: float
    first: float
    correspondences: NDArray[np.float32]
    matched_by: str
    query: Side
    hit: Side
    notices: tuple[str, ...] = ()

    def pairs(self, n: int = 12) -> list[Pair]:
        """The ``n`` strongest correspondences, the strongest first."""
        weights = self.correspondences.ravel()
        strongest = np.argsort(-weights, kind="stable")[:n]
        rows, columns = np.unravel_index(strongest[weights[strongest] > 0], self.correspondences.shape)
        return [
            Pair(
                self.query.box(row),
                self.hit.box(column),
                float(self.correspondences[row, column]),
                (int(row), int(column)),
            )
            for row, column in zip(rows, columns, strict=True)
        ]

    def to_json(self, n: int = 12) -> dict[str, Any]:
        """Scores, notices, the strongest pairs, and of each side the places and the evidence of all tokens."""
        return {
            "id": self.id,
            "reranker": self.reranker,
            "score": self.score,
            "first": self.first,
            "matched_by": self.matched_by,
            "notices": list(self.notices),
            "pairs": [
                {"query": pair.query, "hit": pair.hit, "weight": pair.weight, "tokens": pair.tokens}
                for pair in self.pairs(n)
            ],
            "query": _side_json(self.query),
            "hit": _side_json(self.hit),
        }

    def to_html(self, n: int = 24) -> str:
        """A page that shows it, with nothing but itself: the pictures, ``n`` pairs of regions, the evidence."""
        from pixdex._explain_page import page

        return page(self, n)


def in_words(box: Box | None) -> str:
    """Which part of a picture a box lies in: ``upper left``, ``centre``, ``right`` ..."""
    if box is None:
        return "somewhere"
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    across = ("left", "", "right")[min(2, int(x * 3))]
    down = ("upper", "", "lower")[min(2, int(y * 3))]
    if across and down:
        return f"{down} {across}"
    return across or {"upper": "top", "lower": "bottom"}.get(down, "centre")


def explained(
    query: Any, hit: Hit | str, collection: Collection, encoder: Encoder, reranker: Reranker, decoding: Decoding
) -> Explanation:
    """See ``ImageIndex.explain``."""
    record = hit if isinstance(hit, str) else hit.id
    if encoder.token_spec is None:
        raise Unsupported(f"encoder {encoder.name!r} makes no tokens, which are what is explained by")
    collection.require_tokens(encoder.token_spec)
    reranker = for_tokens(reranker, encoder.token_spec)
    if not callable(getattr(reranker, "correspondences", None)):
        raise Unsupported(
            f"reranker {reranker.name!r} does not say which regions correspond: explain with {', '.join(EXPLAINING)}"
        )
    check = getattr(reranker, "check_vector", None)
    if check is not None:
        check(collection.spec.vector(IMAGE))
    found = _of_record(record, collection, encoder, decoding)
    asked = (
        _of_record(query, collection, encoder, decoding)
        if isinstance(query, str) and not names_file(query)
        else _of_picture(query, encoder, decoding)
    )
    metric = collection.spec.vector(IMAGE).metric
    first = float(similarities(metric, asked.vector[None], found.vector[None])[0, 0])
    question, answer = Query(asked.vector, asked.tokens), Candidate(record, first, found.tokens, found.vector)
    score = float(reranker.rerank(question, [answer])[0])
    looks, matched_by, notices = _correspondences(reranker, question, answer)
    of_query, of_hit = _evidence(_plain(reranker), question, answer)
    return Explanation(
        id=record,
        reranker=reranker.name,
        score=score,
        first=first,
        correspondences=looks,
        matched_by=matched_by,
        query=Side(label=asked.label, evidence=of_query, places=asked.places, picture=asked.picture),
        hit=Side(label=found.label, evidence=of_hit, places=found.places, picture=found.picture),
        notices=tuple(dict.fromkeys((*asked.notices, *found.notices, *notices))),
    )


# --- the two pictures ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A picture or record as it is compared, and as it is shown."""

    label: str
    vector: NDArray[np.float32]
    tokens: NDArray[Any]
    places: NDArray[np.float32] | None
    picture: Pixels | None
    notices: tuple[str, ...] = ()


def _of_picture(query: Any, encoder: Encoder, decoding: Decoding) -> _Part:
    """What is searched for.

    Raises:
        NotFound: no such file.
        InvalidImage: not a usable picture.
        Unsupported: a vector.
    """
    if isinstance(query, np.ndarray) and query.dtype != np.uint8:
        raise Unsupported("a vector has no tokens: explain by a picture, or by the id of a record")
    path = as_path(query)
    label = "the query" if path is None else shown(path)
    picture, pixels = looked_at(query, encoder, decoding)
    features = encoder.encode([encoder.prepare(pixels)], tokens=True)
    places, notices = _places(encoder, pixels, label)
    return _Part(label, features.vectors[0], _tokens(features), places, _to_show(picture, decoding, pixels), notices)


def _of_record(record: str, collection: Collection, encoder: Encoder, decoding: Decoding) -> _Part:
    """A record: its tokens as stored, else made of its picture.

    Raises:
        NotFound: no such record.
        Unsupported: it has no vector, or neither tokens nor a picture that can be read.
    """
    stores = collection.spec.tokens is not None
    batch = collection.fetch([record], want=Want(vectors=(IMAGE,), tokens=stores))
    if not len(batch):
        raise NotFound(f"{record!r} is neither a file nor an id in collection {collection.name!r}")
    if not batch.present(IMAGE)[0]:
        raise Unsupported(f"record {record!r} has no image vector to compare")
    stored = None if batch.tokens is None else batch.tokens[0]
    if stored is not None and not len(stored):
        stored = None
    part = _Part(record, batch.vectors[IMAGE][0], np.empty((0, 0)) if stored is None else stored, None, None)
    try:
        picture = picture_of(record, (batch.payloads or ({},))[0], roots_of(collection), decoding)
        pixels = looked_at(picture, encoder, decoding)[1]
    except (NotFound, InvalidImage) as error:
        if stored is None:
            raise Unsupported(f"record {record!r} keeps no tokens, and its picture gives none: {error}") from error
        return replace(part, notices=(f"where the regions of {record!r} lie is not known: {error}",))
    places, notices = _places(encoder, pixels, record)
    part = replace(part, places=places, notices=notices, picture=_to_show(picture, decoding, pixels))
    made = _tokens(encoder.encode([encoder.prepare(pixels)], tokens=True))
    if stored is None:
        return replace(part, tokens=made)
    if places is None:
        return part
    places = _places_of(stored, made, places)
    lost = len(stored) if places is None else int(np.isnan(places[:, 0]).sum())
    if lost:
        today = "its picture gives other tokens today than when it was added"
        notices = (f"where {lost} of {len(stored)} regions of {record!r} lie is not known: {today}",)
    return replace(part, places=places, notices=notices)


def _tokens(features: Features) -> NDArray[Any]:
    return (features.tokens or (np.empty((0, 0)),))[0]


def _places(encoder: Encoder, pixels: Pixels, label: str) -> tuple[NDArray[np.float32] | None, tuple[str, ...]]:
    """Where the tokens of a picture lie, and what is to be said where the encoder does not know."""
    token_places = getattr(encoder, "token_places", None)
    found = None if token_places is None else token_places([pixels])
    if found is None:
        return None, (f"where the regions of {label!r} lie is not known: encoder {encoder.name!r} does not say",)
    return found[0], ()


def _places_of(stored: NDArray[Any], made: NDArray[Any], places: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Where stored tokens lie: where those that are the same today do; NaN for one without such, None for all.

    Row by row as a rule. Another runtime may choose other descriptors, which is why each is looked for.
    """
    if stored.shape == made.shape and np.array_equal(stored, made):
        return places
    if stored.shape[1:] != made.shape[1:]:
        return None
    looks = MaxSim().correspondences(Query(np.empty(0, np.float32), stored), Candidate("", 0.0, made))
    lying: NDArray[np.float32] = places[looks.argmax(axis=1)].copy()
    known = looks.max(axis=1) >= _SAME
    lying[~known] = np.nan
    return lying if known.any() else None


def _to_show(picture: Picture, decoding: Decoding, pixels: Pixels) -> Pixels:
    """The picture in a size to be shown: ``pixels`` may be those of a fraction of it."""
    if is_picture(picture) and not isinstance(picture, np.ndarray):
        pixels = load_picture(picture, decoding, min_side=_SHOWN)[0]
    height, width = pixels.shape[:2]
    scale = min(1.0, _SHOWN / max(height, width))
    return resize(pixels, (max(1, round(height * scale)), max(1, round(width * scale))), "bicubic")


# --- what the reranker makes of them -------------------------------------------------------------------------------


def _correspondences(
    reranker: Any, query: Query, candidate: Candidate
) -> tuple[NDArray[np.float32], str, tuple[str, ...]]:
    """Correspondences, whose they are, and what is to be said about that."""
    looks: NDArray[np.float32] = reranker.correspondences(query, candidate)
    if len(looks) <= _FOCUS or _focus(looks) >= _FOCUS:
        return looks, reranker.name, ()
    best = MaxSim()
    notice = (
        f"all regions of the query look at about the same ones by {reranker.name!r}: the pairs are those of {best.name}, "
        f"the heat maps show what the score of {reranker.name!r} rests on"
    )
    return best.correspondences(query, candidate), best.name, (notice,)


def _focus(looks: NDArray[np.float32]) -> float:
    """How many times as much as all tokens of the query on average the median one lies on the token that is most its own."""
    means = looks.mean(axis=0)
    own = looks[:, means > 0] / means[means > 0]
    return float(np.median(own.max(axis=1))) if own.size else 0.0


def _plain(reranker: Reranker) -> Reranker:
    """What scores beneath probabilities, which hardly move near 1."""
    within = reranker.inner if isinstance(reranker, Calibrated) else None
    return uncalibrated(within or reranker)


def _evidence(
    reranker: Reranker, query: Query, candidate: Candidate
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """By how much the score is lower without each token of the query, and without each of the candidate."""
    score = float(reranker.rerank(query, [candidate])[0])
    without_query = [
        float(reranker.rerank(replace(query, tokens=tokens), [candidate])[0]) for tokens in _without_one(query.tokens)
    ]
    others = [replace(candidate, tokens=tokens) for tokens in _without_one(candidate.tokens)]
    without_hit = reranker.rerank(query, others)
    return _loss(score, without_query), _loss(score, without_hit)


def _loss(whole: float, without: Sequence[float] | NDArray[np.float32]) -> NDArray[np.float32]:
    lost: NDArray[np.float32] = np.nan_to_num(np.float32(whole) - np.asarray(without, np.float32))
    return lost


def _without_one(tokens: NDArray[Any] | None) -> Sequence[NDArray[Any]]:
    """The tokens without the first, without the second ...; as they are where there is only one."""
    if tokens is None or len(tokens) < 2:
        return [] if tokens is None else [tokens] * len(tokens)
    return [np.delete(tokens, row, axis=0) for row in range(len(tokens))]


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "label": side.label,
        "places": None if side.places is None else [side.box(row) for row in range(len(side.places))],
        "evidence": side.evidence.tolist(),
    }
