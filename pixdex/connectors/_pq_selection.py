"""Which positions a search may find, in the forms that searches want; and what the last filters selected, kept for the next
search: a service asks by the same few again and again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pixdex.filters import Filter

__all__ = ["Selection", "Selections"]

_MOST = 8
"""Filters whose selection is kept: some 10 bytes a record for all of them."""


class Selection:
    """Some of the positions of a view. Never changed, so that threads share it; each form is made when it is asked for.

    Attributes:
        mask: bool ``[rows]``.
        count: how many it marks.
    """

    __slots__ = ("_bits", "_positions", "count", "mask")

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self._bits: tuple[int, NDArray[np.uint8]] | None = None
        self._positions: NDArray[np.intp] | None = None

    @property
    def positions(self) -> NDArray[np.intp]:
        """The positions, ascending: ``[count]``."""
        if self._positions is None:
            self._positions = np.flatnonzero(self.mask)
        return self._positions

    def bits(self, rows: int) -> NDArray[np.uint8]:
        """The first ``rows`` positions as packed bits, the first in the lowest bit."""
        known = self._bits
        if known is None or known[0] != rows:
            known = self._bits = rows, np.packbits(self.mask[:rows], bitorder="little")
        return known[1]


class Selections:
    """What the last filters selected of one view. Safe for several threads."""

    def __init__(self) -> None:
        self._kept: dict[Filter, Selection] = {}
        self._lock = threading.Lock()

    def of(self, where: Filter, make: Callable[[], NDArray[np.bool_]]) -> Selection:
        """The selection of a bound filter; ``make`` gives its mask where it is not known."""
        with self._lock:
            known = self._kept.pop(where, None)
            if known is not None:
                self._kept[where] = known  # the last used is the last to go
                return known
        made = Selection(make())
        with self._lock:
            self._kept[where] = made
            while len(self._kept) > _MOST:
                del self._kept[next(iter(self._kept))]
        return made
