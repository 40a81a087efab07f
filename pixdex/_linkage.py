"""Groups by average linkage over the few pairs that are known: all other pairs count as one weight."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

__all__ = ["Pairs"]


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
        """Those of two and more, by the best weight of each with another of its set. Sets become one while the mean weight of the
        pairs between them is above 0, the best first; a pair nobody said anything of weighs ``unseen``.
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
    """Sets of numbers, and of each two that know one another the sum by which their pairs weigh more than unseen ones."""

    def __init__(self, unseen: float) -> None:
        self._unseen = unseen
        self._members: dict[int, list[int]] = {}
        self._sums: dict[int, dict[int, float]] = {}

    def add(self, one: int, other: int, weight: float) -> None:
        """A pair."""
        for number in (one, other):
            self._members.setdefault(number, [number])
        self._sums.setdefault(one, {})[other] = weight - self._unseen
        self._sums.setdefault(other, {})[one] = weight - self._unseen

    def joined(self) -> list[list[int]]:
        """The sets when no two belong together any more."""
        waiting = [
            (-mean, one, other)
            for one, sums in self._sums.items()
            for other in sums
            if one < other and (mean := self._mean(one, other)) > 0
        ]
        heapq.heapify(waiting)
        while waiting:
            negative, one, other = heapq.heappop(waiting)
            if self._current(one, other, -negative):
                self._join(one, other)
                for third in self._sums[one]:
                    mean = self._mean(one, third)
                    if mean > 0:
                        heapq.heappush(waiting, (-mean, one, third))
        return list(self._members.values())

    def _mean(self, one: int, other: int) -> float:
        return self._sums[one][other] / (len(self._members[one]) * len(self._members[other])) + self._unseen

    def _current(self, one: int, other: int, mean: float) -> bool:
        """Whether that is still so: either may have grown meanwhile."""
        there = one in self._members and other in self._members and other in self._sums[one]
        return there and self._mean(one, other) == mean

    def _join(self, one: int, other: int) -> None:
        self._members[one] += self._members.pop(other)
        mine, theirs = self._sums[one], self._sums.pop(other)
        for third, total in theirs.items():
            if third == one:
                continue
            mine[third] = self._sums[third][one] = mine.get(third, 0.0) + total
            del self._sums[third][other]
        del mine[other]


def _key(one: int, other: int) -> int:
    """Of an unordered pair of numbers."""
    return max(one, other) << 32 | min(one, other)
