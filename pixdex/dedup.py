"""Pictures that a collection holds more than once: found by vectors, made sure of, grouped, the best of each kept.

Every record asks for its nearest. Where the collection keeps tokens, a reranker says how likely these are the same picture; then
the pictures themselves are laid upon one another, where they can be opened. Pages stream by; only pairs that are likely are held,
so that memory grows with the duplicates and not with the collection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex._linkage import Pairs
from pixdex._looking import Looking
from pixdex._sameness import Known, Near, judge_of, likely, neighbours, tokens_of, unseen, usual, worth_a_look
from pixdex.encoders.decoding import Decoding
from pixdex.fields import IMAGE
from pixdex.types import Want

if TYPE_CHECKING:
    from pixdex._sameness import Judge
    from pixdex.collection import Collection
    from pixdex.filters import Filter
    from pixdex.types import Page, Payload

__all__ = [
    "Duplicates",
    "Group",
    "Keep",
    "Member",
    "Near",
    "Seen",
    "find_duplicates",
    "remove_duplicates",
    "usual",
]

_PAGE, _VERIFIED_PAGE = 1024, 256
"""Records that ask at once: fewer where the tokens of all that are near are held meanwhile, 4 kB each."""
_FETCHED = 1000
Seen: TypeAlias = Callable[[int, int], None]
"""Hears how many records have asked, and of how many."""


class Keep(StrEnum):
    """Which picture of a group is the one to keep; what ties goes on to the next: pixels, then age, then the bytes of its file where
    that was opened, as what was saved again or made grey has fewer, then id.
    """

    LARGEST = "largest"
    OLDEST = "oldest"
    NEWEST = "newest"


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
        candidates: pairs that were likely enough to be held.
        looked_at: pairs whose pictures were compared.
        unopened: pictures that were to be compared and could not be opened: they lie nowhere, or others lie there by now.
        seconds: wall-clock time.
    """

    groups: tuple[Group, ...]
    records: int
    candidates: int
    looked_at: int
    unopened: int
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
    decoding: Decoding = Decoding(),
    progress: Seen | None = None,
) -> Duplicates:
    """The groups of records that are the same picture. Nothing is changed. Pictures are opened as ``decoding`` says: as they were added.

    Two groups become one while the pairs between them agree, all of them on average and those of the picture that knows the other
    group best (``pixdex._linkage``), so that one mistaken pair does not make one of two, and edits that only their original
    has in common are found.

    Raises:
        Unsupported: the vectors are not compared by cosine, or there are no tokens to verify with.
        FingerprintMismatch: the reranker was trained for tokens of another encoder.
        ConfigError: what verifies gives no probabilities.
        MissingDependency: OpenCV is to look at pictures and is not installed.
    """
    began = time.monotonic()
    looking = Looking(collection, decoding) if near.look else None
    judge = judge_of(near, collection, using, looking)
    total = collection.count(where)
    pairs = Pairs()
    asked = 0
    want = Want(payload=False, vectors=(using,), tokens=near.verify is not None)
    for page in collection.scan(where=where, want=want, size=_PAGE if near.verify is None else _VERIFIED_PAGE):
        for record, said in _said(page, collection, near, judge, using, where):
            pairs.hear(record, [one for one in said if one[1] > unseen(near)])  # less is silence: few are kept
        asked += len(page.batch)
        if progress is not None:
            progress(asked, max(asked, total))
    return Duplicates(
        groups=_groups(collection, pairs, near, keep, {} if looking is None else looking.sizes),
        records=asked,
        candidates=len(pairs),
        looked_at=0 if looking is None else looking.pairs,
        unopened=0 if looking is None else len(looking.shut),
        seconds=time.monotonic() - began,
    )


def _said(
    page: Page, collection: Collection, near: Near, judge: Judge, using: str, where: Filter | None
) -> Iterator[tuple[str, Sequence[tuple[str, float]]]]:
    """What each record of a page says of its nearest."""
    mine = page.batch.tokens or (None,) * len(page.batch)
    found = list(neighbours(collection, page.batch, near, using, where))
    known = Known()
    if near.verify is not None:  # of a page at once
        known = Known(tokens_of(collection, set().union(*(worth_a_look(hits, near) for _, hits in found)), using))
    for row, hits in found:
        record = page.batch.ids[row]
        yield record, judge(record, mine[row], hits, known)


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


# --- groups ------------------------------------------------------------------------------------------


def _groups(
    collection: Collection, pairs: Pairs, near: Near, keep: Keep, sizes: Mapping[str, int]
) -> tuple[Group, ...]:
    """What belongs together, with what is to be kept of it."""
    sets = pairs.sets(unseen(near))
    payloads: dict[str, Payload] = {}
    ids = [record for some in sets for record in some]
    for start in range(0, len(ids), _FETCHED):
        batch = collection.fetch(ids[start : start + _FETCHED])
        payloads |= dict(zip(batch.ids, batch.payloads or (), strict=True))
    groups = []
    for some in sets:
        members = [
            Member(record, likely(weight, near), payloads[record])
            for record, weight in some.items()
            if record in payloads  # else it is gone by now
        ]
        if len(members) > 1:
            first, *others = sorted(members, key=lambda member: _rank(member, keep, sizes))
            groups.append(Group(first, tuple(sorted(others, key=lambda member: (-member.score, member.id)))))
    return tuple(sorted(groups, key=lambda group: group.keep.id))


def _rank(member: Member, keep: Keep, sizes: Mapping[str, int]) -> tuple[Any, ...]:
    pixels = -int(member.payload.get("width") or 0) * int(member.payload.get("height") or 0)
    taken = member.payload.get("taken")
    age = taken.timestamp() if isinstance(taken, datetime) else np.inf  # what has no time comes last
    last = -sizes.get(member.id, 0), member.id
    match keep:
        case Keep.LARGEST:
            return pixels, age, *last
        case Keep.OLDEST:
            return age, pixels, *last
        case Keep.NEWEST:
            return -age if age < np.inf else np.inf, pixels, *last
