"""Groups of records by the few pairs that are known: all other pairs count as one weight.

Two sets are held together by the mean of all pairs between them, and by the one record that knows the other set best, in equal
parts. The first is average linkage (Sokal, Michener: A Statistical Method for Evaluating Systematic Relationships, 1958), in which one
mistaken pair does not make one set of two. The second lets a picture hold together what was made of it: two edits that don't know
one another may both know the original, as the centre of a star (Aslam, Pelekhov, Rus: The Star Clustering Algorithm, JGAA 2004).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

__all__ = ["Pairs"]

_CENTRE = 0.5
"""How much the record that knows the other set best counts, beside the mean of all pairs."""
_AS_GOOD = 0.95
"""What holds sets together may fall to this share before they wait again: else all around a large set would after each that joins it."""


class Pairs:
    """Pairs of records with a weight, above 0 where they belong together. A pair heard of twice has the mean."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._weights: dict[int, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._weights)

    def hear(self, record: str, others: Iterable[tuple[str, float]]) -> None:
        """What a record says of others."""
        for other, weight in others:
            key = _key(self._of(record), self._of(other))
            total, times = self._weights.get(key, (0.0, 0))
            self._weights[key] = (total + weight, times + 1)

    def sets(self, unseen: float) -> list[dict[str, float]]:
        """Those of two and more, by the best weight of each with another of its set. Sets become one while what holds them together
        is above 0, the best first; a pair nobody said anything of weighs ``unseen``.
        """
        names = list(self._number)
        linkage = _Linkage(unseen)
        for key, (total, times) in self._weights.items():
            linkage.add(key >> 32, key & 0xFFFFFFFF, total / times)
        sets = [some for some in linkage.joined() if len(some) > 1]
        set_of = {number: place for place, some in enumerate(sets) for number in some}
        best: dict[int, float] = {}
        for key, (total, times) in self._weights.items():
            one, other = key >> 32, key & 0xFFFFFFFF
            if set_of.get(one, -1) == set_of.get(other, -2):
                for number in (one, other):
                    best[number] = max(best.get(number, unseen), total / times)
        return [{names[number]: best.get(number, unseen) for number in some} for some in sets]

    def _of(self, record: str) -> int:
        return self._number.setdefault(record, len(self._number))


class _Linkage:
    """Sets of numbers, and of each number by how much its pairs weigh more than unseen ones."""

    def __init__(self, unseen: float) -> None:
        self._unseen = unseen
        self._more: dict[int, dict[int, float]] = {}
        self._set: dict[int, int] = {}
        self._members: dict[int, list[int]] = {}

    def add(self, one: int, other: int, weight: float) -> None:
        """A pair."""
        for number, another in ((one, other), (other, one)):
            self._set[number] = number
            self._members[number] = [number]
            self._more.setdefault(number, {})[another] = weight - self._unseen

    def joined(self) -> list[list[int]]:
        """The sets when no two belong together any more.

        Pairs wait, the best first. One whose sets have grown meanwhile waits again where less holds these together by now. Sets
        between which no pair is above 0 never become one, so that all that may become one wait.
        """
        waiting = [
            (-(more + self._unseen), one, other)
            for one, others in self._more.items()
            for other, more in others.items()
            if one < other and more + self._unseen > 0
        ]
        heapq.heapify(waiting)
        while waiting:
            said, one, other = heapq.heappop(waiting)
            first, second = self._set[one], self._set[other]
            if first == second:
                continue
            held = self._held(first, second)
            if 0 < held < _AS_GOOD * -said:
                heapq.heappush(waiting, (-held, one, other))
            elif held > 0:
                self._join(first, second)
        return list(self._members.values())

    def _held(self, first: int, second: int) -> float:
        """What holds two sets together."""
        few, many = sorted((self._members[first], self._members[second]), key=len)
        target = self._set[many[0]]
        mine: dict[int, float] = {}
        theirs: dict[int, float] = {}
        for number in few:
            for other, more in self._more[number].items():
                if self._set[other] == target:
                    mine[number] = mine.get(number, 0.0) + more
                    theirs[other] = theirs.get(other, 0.0) + more
        centre = max(max(mine.values()) / len(many), max(theirs.values()) / len(few))
        mean = sum(mine.values()) / (len(few) * len(many))
        return _CENTRE * centre + (1 - _CENTRE) * mean + self._unseen

    def _join(self, first: int, second: int) -> None:
        if len(self._members[first]) < len(self._members[second]):
            first, second = second, first
        moved = self._members.pop(second)
        self._members[first] += moved
        for number in moved:
            self._set[number] = first


def _key(one: int, other: int) -> int:
    """Of an unordered pair of numbers."""
    return max(one, other) << 32 | min(one, other)
