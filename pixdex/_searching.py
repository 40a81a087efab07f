"""A search by several kinds of evidence: pictures, words, place and time, what was liked and what was not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from os import PathLike
from typing import TYPE_CHECKING, Any

from pixdex import fusion
from pixdex._asking import Asked, asked, asked_in_words, itself
from pixdex._reranking import Reranking
from pixdex.errors import ConfigError
from pixdex.fields import IMAGE, TEXT
from pixdex.filters import Filter
from pixdex.fusion import Moment, Place
from pixdex.rerankers.port import Query
from pixdex.spec import Kind
from pixdex.types import Hit, Tuning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex._captions import Captions
    from pixdex.collection import Collection
    from pixdex.encoders.decoding import Decoding
    from pixdex.encoders.port import Encoder
    from pixdex.rerankers.stages import Stage

__all__ = ["AT", "BY_IMAGE", "BY_TEXT", "NEAR", "Evidence", "Joining", "found", "moment_of", "place_of"]

BY_IMAGE, BY_TEXT, NEAR, AT = "image", "text", "near", "at"
"""What each kind of evidence is called in weights and traces."""
_DEEPER = 8
"""So many times deeper is searched where a list would be cut between hits that score the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is searched for. At least one of ``query``, ``text`` and ``more`` is given.

    Attributes:
        query: as of ``ImageIndex.search``, or None.
        text: words, or None.
        more, less: pictures, ids or vectors that are liked, and those that are not.
        near: a place, or None.
        at: a time, or None.
    """

    query: Any = None
    text: str | None = None
    more: Sequence[Any] = ()
    less: Sequence[Any] = ()
    near: Place | None = None
    at: Moment | None = None

    def __post_init__(self) -> None:
        if self.query is None and self.text is None and not self.more:
            raise ConfigError("search for a picture, an id or a vector, for text=, or for what is more_like=")
        for name, given in (("more_like", self.more), ("less_like", self.less)):
            if isinstance(given, str | bytes | PathLike):
                raise ConfigError(f"{name} is a list of pictures, ids or vectors: {name}=[{given!r}]")
        if self.query is None and self.less and not self.more:
            raise ConfigError("less_like= moves a picture's query: give a picture, or more_like=")

    @property
    def names(self) -> list[str]:
        """What there is of it."""
        there = {
            BY_IMAGE: self.query is not None or bool(self.more),
            BY_TEXT: self.text is not None,
            NEAR: self.near is not None,
            AT: self.at is not None,
        }
        return [name for name, given in there.items() if given]


def place_of(near: Place | tuple[float, float] | None) -> Place | None:
    """The place that ``ImageIndex.search`` was given.

    Raises:
        ConfigError: it is none on Earth.
    """
    if near is None or isinstance(near, Place):
        return near
    try:
        lat, lon = map(float, near)
    except (TypeError, ValueError):
        raise ConfigError(
            f"near {near!r}: give latitude and longitude, such as (52.5, 13.4), or a fusion.Place"
        ) from None
    return Place(lat, lon)


def moment_of(at: Moment | datetime | None) -> Moment | None:
    """The time that ``ImageIndex.search`` was given.

    Raises:
        ConfigError: it is none, or has no zone.
    """
    if at is None or isinstance(at, Moment):
        return at
    if not isinstance(at, datetime):
        raise ConfigError(f"at {at!r}: give a datetime with a zone, or a fusion.Moment")
    return Moment(at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """How evidence becomes one ranking.

    Attributes:
        weights: of each kind, 1 where it is not named.
        method: how lists are joined.
        deep: how many hits of each list are looked at.

    Raises:
        ConfigError: ``deep`` is less than 1.
    """

    weights: Mapping[str, float] | None = None
    method: fusion.Method = fusion.Method.RRF
    deep: int = 100

    def __post_init__(self) -> None:
        if self.deep < 1:
            raise ConfigError(f"candidates is {self.deep}: 1 or more")


def found(
    evidence: Evidence,
    joining: Joining,
    collection: Collection,
    encoder: Encoder,
    captions: Captions,
    *,
    k: int,
    where: Filter | None,
    threshold: float | None,
    exclude_self: bool,
    stages: Sequence[Stage],
    tuning: Tuning,
    decoding: Decoding,
) -> list[Hit]:
    """The best ``k`` hits; see ``ImageIndex.search``."""
    names = evidence.names
    weights = fusion.checked_weights(joining.weights, names)
    _check_fields(evidence, collection)
    one = len(names) == 1
    again = Reranking(stages, collection, encoder, decoding)
    depth = k if one and not stages else max(k, joining.deep)
    by_picture = _by_picture(evidence, encoder, collection, decoding, tokens=again.uses_tokens)
    among = TEXT if captions.searches(collection) else IMAGE
    by_words = None if evidence.text is None else _by_words(evidence.text, among, encoder, captions, collection)
    if exclude_self:
        where = _without_itself(by_picture, collection, where)

    def search(query: Query, using: str) -> list[Hit]:
        def hits(k: int) -> list[Hit]:
            return collection.search_one(query.vector, k=k, where=where, using=using, threshold=floor, tuning=tuning)

        return _whole(hits, depth) if by_picture is not None and by_words is not None else hits(depth)

    floor = threshold if one and not stages else None  # else scores are others in the end
    lists: dict[str, list[Hit]] = {}
    if by_picture is not None:
        lists[BY_IMAGE] = again.hits(by_picture.query, search(by_picture.query, IMAGE), IMAGE, joining.deep)
    if by_words is not None:
        lists[BY_TEXT] = search(by_words.query, among)
        if by_picture is None:  # words have no tokens: what needs some refuses them
            lists[BY_TEXT] = again.hits(by_words.query, lists[BY_TEXT], among, joining.deep)
    if threshold is not None and len(lists) == 1:  # what no stage has scored has a score of another kind
        lists = {name: [hit for hit in hits if again.scored(hit)] for name, hits in lists.items()}
    if stages and not one:  # joined and multiplied, they must be of one kind
        reranked = BY_TEXT if by_picture is None else BY_IMAGE
        lists[reranked] = again.comparable(lists[reranked])
    hits = _decayed(_joined(lists, joining, weights), evidence, weights)
    return [hit for hit in hits if threshold is None or hit.score >= threshold][:k]


def _whole(search: Callable[[int], list[Hit]], depth: int) -> list[Hit]:
    """A list to be joined: not cut between hits that score the same, as far as a deeper search can tell."""
    hits = search(depth + 1)
    if len(hits) <= depth or len(fusion.levelled(hits, depth, all_there=True)) == depth:
        return hits[:depth]
    hits = search(_DEEPER * depth)
    return fusion.levelled(hits, depth, all_there=len(hits) < _DEEPER * depth)


def _by_words(text: str, among: str, encoder: Encoder, captions: Captions, collection: Collection) -> Asked:
    """What a text stands for: among captions, where there are some, else among pictures."""
    return captions.asked(text, collection) if among == TEXT else asked_in_words(text, encoder)


def _by_picture(
    evidence: Evidence, encoder: Encoder, collection: Collection, decoding: Decoding, *, tokens: bool
) -> Asked | None:
    """The picture's query, moved by what is liked and what is not; started from what is liked where there is no picture."""
    if evidence.query is None and not evidence.more:
        return None

    def vector(one: Any) -> NDArray[Any]:
        return asked(one, encoder, collection, decoding, tokens=False).query.vector

    start, *more = (
        [evidence.query, *map(vector, evidence.more)] if evidence.query is not None else [*map(vector, evidence.more)]
    )
    first = asked(start, encoder, collection, decoding, tokens=tokens)
    if not more and not evidence.less:
        return first
    moved = fusion.rocchio(first.query.vector, more=more, less=[vector(one) for one in evidence.less])
    return replace(first, query=replace(first.query, vector=moved))


def _without_itself(by_picture: Asked | None, collection: Collection, where: Filter | None) -> Filter | None:
    own = None if by_picture is None else itself(by_picture, collection)
    if own is None:
        return where
    return ~own if where is None else where & ~own


def _joined(lists: Mapping[str, list[Hit]], joining: Joining, weights: Mapping[str, float]) -> list[Hit]:
    if len(lists) == 1:
        return next(iter(lists.values()))
    return fusion.fuse(lists, method=joining.method, weights={name: weights[name] for name in lists})


def _decayed(hits: list[Hit], evidence: Evidence, weights: Mapping[str, float]) -> list[Hit]:
    if evidence.near is not None:
        place = evidence.near
        distance = fusion.kilometres(place.field, (place.lat, place.lon))
        hits = fusion.decayed(hits, NEAR, distance, place.decay, weight=weights[NEAR])
    if evidence.at is not None:
        moment = evidence.at
        hits = fusion.decayed(hits, AT, fusion.age(moment.field, moment.time), moment.decay, weight=weights[AT])
    return hits


def _check_fields(evidence: Evidence, collection: Collection) -> None:
    """Only of declared fields is it known what their values are."""
    wanted: list[tuple[Place | Moment | None, Kind]] = [(evidence.near, Kind.GEO), (evidence.at, Kind.TIME)]
    for given, kind in wanted:
        if given is None:
            continue
        declared = collection.spec.field(given.field)
        if declared is None or declared.kind is not kind:
            there = ", ".join(field.name for field in collection.spec.fields if field.kind is kind) or "none"
            raise ConfigError(f"{given.field!r} is no {kind} field of collection {collection.name!r}; there is {there}")
