"""What a step draws, which follows from its number: so a run that goes on draws what it would have drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Batches", "generator_of"]


class Batches:
    """The batches of a sampler by the number of the step."""

    def __init__(self, kind: Callable[..., Any], *arguments: Any) -> None:
        self._kind, self._arguments = kind, arguments
        self._following = 0
        self._stream = self._endless()

    def at(self, step: int) -> NDArray[np.int64]:
        """Rows int64 ``[n]``."""
        if step < self._following:
            self._following, self._stream = 0, self._endless()
        for _ in range(step - self._following):
            next(self._stream)
        self._following = step + 1
        return next(self._stream)

    def _endless(self) -> Iterator[NDArray[np.int64]]:
        sampler = self._kind(*self._arguments)
        while True:
            yield from sampler


def generator_of(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step, the same on every device."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (1 << 63))
