"""torch on the processor. Importing this imports torch."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pixdex.encoders.backbones import Activations
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.runtimes.fusing import Fused, fused
from pixdex.encoders.runtimes.port import in_batches

if TYPE_CHECKING:
    from pixdex.encoders._tower import Tower

__all__ = ["Eager", "in_bfloat16", "in_float32", "is_convolutional", "narrowed", "run"]

_Module = TypeVar("_Module", bound=torch.nn.Module)


@dataclass(frozen=True, slots=True)
class Eager:
    """A ``Runtime``."""

    name: str
    module: Fused = field(repr=False)
    batch_size: int = 16

    def forward(self, batch: NDArray[np.uint8]) -> Activations:
        return in_batches(batch, self.batch_size, lambda part: run(self.module, part))


def in_float32(tower: Tower, preprocess: Preprocess) -> Eager:
    """``torch``: shares its weights with the tower."""
    if is_convolutional(tower):
        twin = copy.deepcopy(tower)  # as the tower is somebody else's, and its weights are laid out anew
        return Eager("torch", fused(_channels_last(twin), preprocess))
    return Eager("torch", fused(tower, preprocess))


def in_bfloat16(tower: Tower, preprocess: Preprocess) -> Eager:
    """``torch-bf16``: a copy of the tower, half its size."""
    # Batches of 8 stay within the caches of a core.
    return Eager("torch-bf16", narrowed(tower, preprocess), batch_size=8)


def narrowed(tower: Tower, preprocess: Preprocess) -> Fused:
    """A copy in bfloat16, without autocast: that converts weights again in each call."""
    module = copy.deepcopy(fused(tower, preprocess))
    factor, offset = module.factor, module.offset
    module = module.to(dtype=torch.bfloat16)
    if not module.folded:  # normalization before the first rounding
        module.tower = _Narrow(module.tower)
        module.factor, module.offset = factor, offset
    return _channels_last(module) if is_convolutional(tower) else module


def _channels_last(module: _Module) -> _Module:
    return cast("_Module", cast("Any", module).to(memory_format=torch.channels_last))


class _Narrow(torch.nn.Module):
    """Rounds its input to bfloat16."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return cast("tuple[torch.Tensor, ...]", self.tower(pixel_values.to(torch.bfloat16)))


def is_convolutional(tower: torch.nn.Module) -> bool:
    """Whether convolutions do the work: then their channels are better innermost. A ViT has one, for its patches."""
    return sum(isinstance(module, torch.nn.Conv2d) for module in tower.modules()) > 1


def run(module: Fused, pixels: NDArray[np.uint8]) -> Activations:
    """One call of a network on the processor."""
    with torch.inference_mode():
        made = module(torch.from_numpy(np.require(pixels, requirements=["C", "W"])))
    arrays = {name: _float32(tensor) for name, tensor in zip(module.outputs, made, strict=True)}
    return Activations(**arrays)


def _float32(tensor: torch.Tensor) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", tensor.to(torch.float32).contiguous().numpy())
