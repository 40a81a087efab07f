"""torch on a GPU, in bfloat16, compiled on request. Importing this imports torch.

Batches pass through page-locked memory, and the copy of one batch runs while the one before it is computed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pixdex.encoders.backbones import Activations
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.runtimes.eager import narrowed
from pixdex.encoders.runtimes.fusing import Fused
from pixdex.errors import ConfigError

if TYPE_CHECKING:
    from pixdex.encoders._tower import Tower

__all__ = ["Cuda", "load", "load_compiled"]

_BATCH = 64
"""Pictures computed at a time."""
_CALL = 256
"""Pictures a call likes best: several batches, so that copies and computing overlap."""


@dataclass(frozen=True, slots=True)
class Cuda:
    """A ``Runtime``. Calls from several threads take turns: the device is one.

    The copies run on a stream of their own; events order them, and memory that both streams use is recorded, so that
    its allocator does not give it away too early.
    """

    module: Fused = field(repr=False)
    device: torch.device
    copying: torch.cuda.Stream = field(repr=False)
    name: str = "cuda"
    batch_size: int = _CALL
    fixed: bool = False
    """Batches that are not full are filled up: what was compiled is for one size, and would be again for another."""
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def forward(self, batch: NDArray[np.uint8]) -> Activations:
        with self.turn, torch.cuda.device(self.device), torch.inference_mode():
            parts = self._parts(batch)
            made: list[tuple[torch.Tensor, ...]] = []
            ahead = self._sent(parts[0])
            for following in (*parts[1:], None):
                pixels, arrived = ahead
                torch.cuda.current_stream().wait_event(arrived)
                pixels.record_stream(torch.cuda.current_stream())
                made.append(tuple(_fetched(output) for output in self.module(pixels)))
                if following is not None:  # while that is computed
                    ahead = self._sent(following)
            torch.cuda.current_stream().synchronize()  # what was fetched is there now
        arrays = {
            name: cast("NDArray[np.float32]", torch.cat([part[index] for part in made])[: len(batch)].numpy())
            for index, name in enumerate(self.module.outputs)
        }
        return Activations(**arrays)

    def _parts(self, batch: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        if self.fixed:
            batch = np.concatenate([batch, np.repeat(batch[-1:], -len(batch) % _BATCH, axis=0)])
        return [batch[start : start + _BATCH] for start in range(0, len(batch), _BATCH)]

    def _sent(self, part: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.cuda.Event]:
        """The pictures on the device, and when they are there."""
        pinned = torch.from_numpy(np.require(part, requirements=["C", "W"])).pin_memory()
        with torch.cuda.stream(self.copying):
            pixels = pinned.to(self.device, non_blocking=True)
            arrived = cast("Any", torch.cuda).Event()
            arrived.record(self.copying)
        return pixels, arrived


def _fetched(output: torch.Tensor) -> torch.Tensor:
    """A copy in page-locked memory, under way: complete when the stream is."""
    wide = output.to(torch.float32)
    pinned = torch.empty(wide.shape, dtype=torch.float32, pin_memory=True)
    return pinned.copy_(wide, non_blocking=True)


def load(tower: Tower, preprocess: Preprocess) -> Cuda:
    """``cuda``.

    Raises:
        ConfigError: there is no GPU that torch can use.
    """
    if not torch.cuda.is_available():
        raise ConfigError("runtimes of a GPU: torch finds none here")
    device = torch.device("cuda", torch.cuda.current_device())
    return Cuda(narrowed(tower, preprocess).to(device), device, cast("Any", torch.cuda).Stream(device))


def load_compiled(tower: Tower, preprocess: Preprocess) -> Cuda:
    """``cuda-compile``: the network is compiled here, for batches of one size, not under the first pictures.

    Raises:
        ConfigError: there is no GPU that torch can use, or the network cannot be compiled.
    """
    plain = load(tower, preprocess)
    # What is compiled has the attributes of what it was made of.
    module = cast("Fused", torch.compile(plain.module, dynamic=False))
    compiled = replace(plain, name="cuda-compile", module=module, fixed=True)
    try:
        compiled.forward(np.zeros((1, *preprocess.size, 3), dtype=np.uint8))
    except Exception as error:  # the compiler and those that it calls raise anything
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ConfigError(f"runtime cuda-compile: this network cannot be compiled: {reason[0]}") from error
    return compiled
