"""``auto``: the reference at once, a better runtime once measuring has paid."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders.backbones import Activations
from pixdex.encoders.runtimes import choosing
from pixdex.encoders.runtimes.choosing import Candidates
from pixdex.encoders.runtimes.port import Runtime

__all__ = ["Patient", "auto", "settled"]

_log = logging.getLogger("pixdex.encoders.runtimes")

_MAKING = 20.0
"""Seconds that it takes to make the alternatives: of a ViT-S 10 for each form of graph."""
_PICTURES = 200
"""So many pictures are run to measure, which takes the longer the slower the network is."""


def auto(candidates: Candidates) -> Runtime:
    """What was chosen before; else the reference, alone where there is nothing else, patient where there is.

    Raises:
        PixdexError: the reference cannot be made.
    """
    known = choosing.remembered(candidates) if len(candidates.makers) > 1 else None
    if known is not None:
        return known
    usual = candidates.makers[candidates.reference]()
    return usual if len(candidates.makers) == 1 else Patient(candidates, usual)


def settled(runtime: Runtime) -> Runtime:
    """``runtime``, after it has chosen if it is one that chooses."""
    if isinstance(runtime, Patient):
        runtime.settle()
    return runtime


class Patient:
    """A ``Runtime``: the reference, until that has worked for about as long as measuring takes, then the fastest.

    Only a call with a full batch is held up by measuring: a bulk job brings them, and somebody waits for a query. Other
    threads go on with the reference meanwhile. A measurement that fails is logged, and the reference stays.
    """

    def __init__(self, candidates: Candidates, reference: Runtime) -> None:
        self._candidates: Candidates | None = candidates  # None when it has chosen: it holds the reference
        self._runtime = reference
        self._measuring = threading.Lock()
        self._counting = threading.Lock()
        self._seconds, self._pictures = 0.0, 0

    @property
    def name(self) -> str:
        """That of the runtime that is used now."""
        return self._runtime.name

    @property
    def batch_size(self) -> int:
        """That of the runtime that is used now."""
        return self._runtime.batch_size

    def forward(self, batch: NDArray[np.uint8]) -> Activations:
        """See ``Runtime``."""
        if self._due(len(batch)) and self._measuring.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._measuring.release()
        runtime = self._runtime
        if self._candidates is None:
            return runtime.forward(batch)
        started = time.perf_counter()
        made = runtime.forward(batch)
        self._count(len(batch), time.perf_counter() - started)
        return made

    def settle(self) -> None:
        """Measure now, or wait for the thread that does; nothing where that was done."""
        with self._measuring:
            self._settle()

    def _due(self, pictures: int) -> bool:
        if self._candidates is None or pictures < self._runtime.batch_size:
            return False
        return self._pictures > 0 and self._seconds >= _MAKING + _PICTURES * self._seconds / self._pictures

    def _count(self, pictures: int, seconds: float) -> None:
        with self._counting:
            self._pictures += pictures
            self._seconds += seconds

    def _settle(self) -> None:
        """Once; by who holds the lock."""
        candidates = self._candidates
        if candidates is None:
            return
        _log.info("measuring runtimes: %s", ", ".join(candidates.makers))
        try:
            self._runtime = choosing.chosen(candidates, self._runtime)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the work
            _log.warning("runtime %s stays: measuring others failed: %r", self.name, error)
        self._candidates = None
