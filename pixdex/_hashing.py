"""The first stage of adding: items, read and hashed some way ahead of what is done with them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixdex._crew import Crew, Job
from pixdex.encoders.decoding import Decoding
from pixdex.errors import InvalidImage
from pixdex.pictures import Item, Readable, content_hash, stamp_of
from pixdex.report import Entry, Stamp, Status, Tally

if TYPE_CHECKING:
    from typing import Self

    from pixdex.journal import Journal

__all__ = ["CHUNK", "Hashed", "Hashing"]

CHUNK = 64
"""Items that are taken at once. Two chunks of them may be encoded and not written: what a kill has encoded again."""
CHUNK_BYTES = 32 << 20
"""A chunk ends early when its pictures hold more than that."""
_READERS = 8
"""Threads that read files and addresses: they mostly wait."""


@dataclass(frozen=True, slots=True)
class _InMemory:
    """A Readable whose bytes were read: it is not read again, and reports call it as before."""

    label: str
    data: bytes

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class Hashed:
    """An item, perhaps with its bytes now, and its content hash or why there is none."""

    item: Item
    content: str | InvalidImage
    stamp: Stamp | None = None
    at: float = 0.0

    def entry(self, record: str, status: Status, reason: str | None = None) -> Entry:
        """Its row in the journal."""
        content = None if isinstance(self.content, InvalidImage) else self.content
        return Entry(
            id=record,
            label=self.item.label,
            status=status,
            reason=reason,
            content=content,
            stamp=self.stamp,
            at=self.at,
        )


@dataclass(slots=True)
class _Place:
    """Where an item waits for being taken; ``read`` are the bytes that were read of it."""

    item: Item
    read: int = 0
    taken: bool = False


class Hashing:
    """Items, hashed by threads some way ahead of who takes them, in order. A context that ends the threads."""

    def __init__(
        self,
        items: Iterable[Item | None],
        tally: Tally,
        decoding: Decoding,
        patience: float,
        journal: Journal | None,
    ) -> None:
        self._items = iter(items)
        self._journal = journal
        self._tally = tally
        self._decoding = decoding
        self._patience = patience
        self._ahead: deque[tuple[_Place, Job[Hashed]]] = deque()
        self._given = 0  # bytes of pictures that are ahead and came as bytes or pixels
        self._read = 0  # bytes that were read of pictures that are ahead
        self._lock = threading.Lock()
        # Read in order, so that there is always room for the one that is waited for.
        self._crew = Crew("pixdex-read", _READERS, admits=lambda: self._read < CHUNK_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._crew.close()

    def look_ahead(self) -> None:
        """Have the next chunk read, whatever ``items`` raises."""
        while len(self._ahead) < CHUNK and self._given < CHUNK_BYTES:
            for item in self._items:
                if item is not None:
                    break
                self._tally.ignored += 1
            else:
                return
            self._given += _size(item.picture)
            place = _Place(item)
            self._ahead.append((place, self._crew.submit(partial(self._hash, place))))

    def take(self) -> list[Hashed]:
        """The next items: a chunk, or fewer where they are large; none at the end."""
        taken: list[Hashed] = []
        held = 0
        while self._ahead and len(taken) < CHUNK and held < CHUNK_BYTES:
            place, job = self._ahead.popleft()
            try:
                hashed = job.result(self._patience)
            except InvalidImage as error:
                hashed = Hashed(place.item, error)
            taken.append(hashed)
            held += _size(hashed.item.picture)
            self._given -= _size(place.item.picture)
            with self._lock:
                place.taken = True
                self._read -= place.read
            if place.read:
                self._crew.look_again()
        return taken

    def _hash(self, place: _Place) -> Hashed:
        item = place.item
        try:
            if self._journal is not None and item.id is not None and isinstance(item.picture, Path):
                return self._known_or_hashed(item, item.id, item.picture, self._journal)
            if not isinstance(item.picture, Readable):
                return Hashed(item, content_hash(item.picture, self._decoding))
            data = item.picture.read()
            with self._lock:
                if not place.taken:  # else it was given up meanwhile, and nobody takes what was read
                    place.read = len(data)
                    self._read += place.read
            return Hashed(replace(item, picture=_InMemory(item.label, data)), content_hash(data, self._decoding))
        except InvalidImage:
            raise
        except Exception as error:  # pictures are anybody's objects, and one stops nothing
            raise InvalidImage(f"cannot be read: {error!r}") from error

    def _known_or_hashed(self, item: Item, record: str, path: Path, journal: Journal) -> Hashed:
        """A file that looks as it did when it was hashed is not read again."""
        stamp, at = stamp_of(path), time.time()  # before it is read: who changes it meanwhile changes how it looks
        content = journal.known(record, stamp) or content_hash(path, self._decoding)
        return Hashed(item, content, stamp, at)


def _size(picture: Any) -> int:
    """Bytes that a picture keeps in memory; 0 for a path, and for what is read later."""
    if isinstance(picture, _InMemory):
        return len(picture.data)
    if isinstance(picture, bytes | bytearray):
        return len(picture)
    if isinstance(picture, np.ndarray | memoryview):
        return picture.nbytes
    size = getattr(picture, "size", None)
    return 4 * size[0] * size[1] if isinstance(size, tuple) else 0  # a PIL image has one
