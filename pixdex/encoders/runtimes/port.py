"""What a runtime is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixdex._machine import cores
from pixdex.encoders.backbones import Activations

__all__ = ["Runtime", "in_batches", "threads"]


class Runtime(Protocol):
    """Runs a network.

    Attributes:
        name: one of ``runtimes.NAMES``, never ``auto``.
        batch_size: how many pictures it runs at a time, however many ``forward`` gets.
    """

    @property
    def name(self) -> str: ...
    @property
    def batch_size(self) -> int: ...

    def forward(self, batch: NDArray[np.uint8]) -> Activations:
        """Descriptors, float32, of fitted pictures, uint8 ``[n, h, w, 3]``. Safe to call from several threads at once."""
        ...


def in_batches(
    batch: NDArray[np.uint8], size: int, forward: Callable[[NDArray[np.uint8]], Activations], *, fixed: bool = False
) -> Activations:
    """``forward`` of at most ``size`` pictures at a time; ``fixed``: of exactly so many, the last ones repeated."""
    if len(batch) <= size and not (fixed and len(batch) < size):
        return forward(batch)
    parts = [batch[start : start + size] for start in range(0, len(batch), size)]
    if fixed and len(parts[-1]) < size:
        parts[-1] = np.concatenate([parts[-1], np.repeat(parts[-1][-1:], size - len(parts[-1]), axis=0)])
    return _joined([forward(part) for part in parts], len(batch))


def threads() -> int:
    """How many threads a runtime may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return cores()


def _joined(parts: Sequence[Activations], count: int) -> Activations:
    made: dict[str, Any] = {}
    for field in fields(Activations):
        arrays = [getattr(part, field.name) for part in parts]
        made[field.name] = None if arrays[0] is None else np.concatenate(arrays)[:count]
    return Activations(**made)
