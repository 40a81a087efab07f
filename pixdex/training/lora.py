"""LoRA: a network is adapted by products of two narrow matrices beside its linear layers, and they are merged at the end.

Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022. A fraction of a percent to a few percent of the
parameters are trained, so the optimizer's state and the checkpoints are small; what is saved is an ordinary network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

from pixdex.errors import ConfigError

__all__ = ["LoRALinear", "inject", "merge"]


class LoRALinear(nn.Module):
    """``y = W x + b + (alpha / rank) B A x``: W and b stay as they are, A and B are trained; B starts at 0.

    Attributes:
        base: the layer that it stands for.
        down: A, ``[rank, in]``.
        up: B, ``[out, rank]``.
        scale: alpha / rank.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        weight = base.weight
        self.down = nn.Parameter(torch.empty(rank, base.in_features, device=weight.device, dtype=weight.dtype))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=weight.device, dtype=weight.dtype))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        made: Tensor = self.base(x) + F.linear(F.linear(x, self.down), self.up) * self.scale
        return made

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base layer with the product added to its weights."""
        self.base.weight += (self.up @ self.down) * self.scale
        return self.base


def inject(network: nn.Module, rank: int, *, alpha: float | None = None) -> int:
    """Put one beside every linear layer; everything else stops being trained. How many.

    ``alpha`` scales what is learned; default: twice the rank.

    Raises:
        ConfigError: the rank is below 1, or there are no linear layers, as in most convolutional networks.
    """
    if rank < 1:
        raise ConfigError(f"lora:{rank}: a rank is 1 or more")
    network.requires_grad_(requires_grad=False)
    found = [(name, module) for name, module in network.named_modules() if type(module) is nn.Linear]
    if not found:
        raise ConfigError("lora is for linear layers, and this network has none: train all of it, or its last blocks")
    for name, layer in found:
        _put(network, name, LoRALinear(layer, min(rank, *layer.weight.shape), alpha or 2.0 * rank))
    return len(found)


def merge(network: nn.Module) -> None:
    """Take them away again, with what they learned added to the weights of the layers."""
    for name, layer in [(n, m) for n, m in network.named_modules() if isinstance(m, LoRALinear)]:
        _put(network, name, layer.merged())


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, layer)
