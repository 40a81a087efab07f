"""Whether the pictures of two records are one photograph: opened where they lie, and laid upon one another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

from pixdex._machine import cores
from pixdex._originals import picture_of, roots_of
from pixdex.alignment import SIDE, align, can_align, landmarks
from pixdex.encoders.decoding import Decoding
from pixdex.errors import InvalidImage, MissingDependency
from pixdex.pictures import load_picture

if TYPE_CHECKING:
    from pixdex.alignment import Landmarks
    from pixdex.collection import Collection
    from pixdex.types import Payload

__all__ = ["Looking"]

_MOST_THREADS = 8
"""As many as decode pictures that are added: each may hold a whole one."""
_KEPT = 512
"""Pictures whose landmarks are kept, 250 kB each."""
_REMEMBERED = 1 << 17
"""Pairs that are not compared again when the other of the two asks."""

Pair: TypeAlias = tuple[str, str]


class Looking:
    """Compares pictures of a collection, several at once.

    Attributes:
        pairs: how many were compared.
        sizes: bytes of the files that were opened, by id.
        shut: ids of those whose picture cannot be opened: it lies nowhere, is damaged, or another lies there by now.

    Raises:
        MissingDependency: OpenCV is not installed.
    """

    def __init__(self, collection: Collection, decoding: Decoding = Decoding()) -> None:
        """``decoding``: how files were read that were added."""
        if not can_align():
            raise MissingDependency("opencv-python-headless", "dedup")
        self.pairs = 0
        self.sizes: dict[str, int] = {}
        self.shut: set[str] = set()
        self._collection = collection
        self._decoding = decoding
        self._roots = roots_of(collection)
        self._landmarks: OrderedDict[str, Landmarks] = OrderedDict()
        self._known: OrderedDict[Pair, float | None] = OrderedDict()
        self._threads = ThreadPoolExecutor(min(_MOST_THREADS, cores()), "pixdex-looking")

    def said(self, record: str, others: Sequence[str], payloads: Mapping[str, Payload]) -> list[float | None]:
        """Of each of the others the log-odds that it and the record are one photograph, see ``alignment``; None where one cannot be
        opened. ``payloads``: of what is in no store yet.
        """
        pairs: list[Pair] = [(min(record, other), max(record, other)) for other in others]  # either way round alike
        new = [pair for pair in pairs if pair not in self._known]
        seen = self._seen(dict.fromkeys(one for pair in new for one in pair), payloads)
        found = self._threads.map(lambda pair: _log_odds(seen[pair[0]], seen[pair[1]]), new)
        self._known |= zip(new, found, strict=True)
        self.pairs += sum(self._known[pair] is not None for pair in new)
        said = [self._known[pair] for pair in pairs]
        _forget(self._known, _REMEMBERED)
        return said

    def _seen(self, records: Iterable[str], payloads: Mapping[str, Payload]) -> dict[str, Landmarks | None]:
        """What is compared of those records; None of those that cannot be opened."""
        new = [record for record in records if record not in self._landmarks and record not in self.shut]
        known = {record: payloads[record] for record in new if record in payloads}
        if stored := [record for record in new if record not in known]:
            batch = self._collection.fetch(stored)
            known |= dict(zip(batch.ids, batch.payloads or (), strict=True))
        made = self._threads.map(lambda record: self._opened(record, known.get(record)), new)
        for record, found in zip(new, made, strict=True):
            if found is None:
                self.shut.add(record)
            else:
                self._landmarks[record] = found
        seen = {record: self._landmarks.get(record) for record in records}
        for record, found in seen.items():
            if found is not None:
                self._landmarks.move_to_end(record)
        _forget(self._landmarks, _KEPT)
        return seen

    def _opened(self, record: str, payload: Payload | None) -> Landmarks | None:
        if payload is None:  # gone by now
            return None
        try:
            path = picture_of(record, payload, self._roots, self._decoding)
            found = landmarks(load_picture(path, self._decoding, min_side=SIDE)[0])
            self.sizes[record] = path.stat().st_size
            return found
        except (InvalidImage, OSError):
            return None


def _log_odds(one: Landmarks | None, other: Landmarks | None) -> float | None:
    return None if one is None or other is None else align(one, other).log_odds


def _forget(some: OrderedDict[Any, Any], most: int) -> None:
    """All but the last so many."""
    while len(some) > most:
        some.popitem(last=False)
