"""Which rows go into a batch: shuffled ones, or P classes with K rows each. Seeded: the same batches each time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pixdex.errors import ConfigError

__all__ = ["PxK", "Shuffled"]

Rows = NDArray[np.int64]


class Shuffled:
    """Every row once a pass, in batches of ``size``; the last one may be smaller, but not a single row.

    Iterating again goes on with another order.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        """Raises ConfigError for a size below 2."""
        if size < 2:
            raise ConfigError(f"batch={size}: at least 2")
        self._count, self._size = count, size
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return max(1, -(-self._count // self._size) - (self._count % self._size == 1))

    def __iter__(self) -> Iterator[Rows]:
        order = self._rng.permutation(self._count)
        for number in range(len(self)):
            last = number == len(self) - 1
            yield order[number * self._size : None if last else (number + 1) * self._size]


class PxK:
    """Batches of ``classes_per_batch`` classes with ``per_class`` rows each, int64 ``[P * K]``.

    A pass has about as many rows as there are, and goes through the classes in turns, so that none is left out. A class
    with fewer rows than K gives some of them twice; one with a single row has no pair and takes no part. With fewer
    classes than P, all are in each batch.

    Iterating again goes on with other batches.
    """

    def __init__(self, labels: Rows, classes_per_batch: int, per_class: int, seed: int) -> None:
        """Raises ConfigError for fewer than two rows a class, or fewer than two classes with so many."""
        if per_class < 2:
            raise ConfigError(f"per_class={per_class}: at least 2, or nothing in a batch has a partner")
        order = np.argsort(labels, kind="stable")
        _, starts = np.unique(np.asarray(labels)[order], return_index=True)
        self._rows = [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]
        if len(self._rows) < 2 or classes_per_batch < 2:
            raise ConfigError("pairs need two classes with two pictures each, and two classes in a batch")
        self._classes = min(classes_per_batch, len(self._rows))
        self._per_class = per_class
        total = sum(map(len, self._rows))
        self._batches = max(1, round(total / (self._classes * per_class)))
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Rows]:
        waiting: list[int] = []
        for _ in range(self._batches):
            chosen, waiting = waiting[: self._classes], waiting[self._classes :]
            if len(chosen) < self._classes:  # next turn, without those that this batch has already
                turn = self._rng.permutation(len(self._rows)).tolist()
                fresh = [number for number in turn if number not in chosen]
                missing = self._classes - len(chosen)
                waiting = [*fresh[missing:], *chosen]
                chosen = [*chosen, *fresh[:missing]]
            yield np.concatenate([self._draw(self._rows[number]) for number in chosen]).astype(np.int64)

    def _draw(self, rows: Rows) -> Rows:
        if len(rows) >= self._per_class:
            return self._rng.choice(rows, self._per_class, replace=False)
        more = self._rng.choice(rows, self._per_class - len(rows))
        return np.concatenate([rows, more])
