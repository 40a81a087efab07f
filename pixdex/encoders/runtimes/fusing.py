"""A network that takes pixels as they are: normalization becomes part of it. Importing this imports torch.

Where the first layer is a convolution without padding (the patches of every ViT), mean and deviation go into its weights
and cost nothing. With padding that would be wrong at the border, where a 0 after normalization is not a 0 before
it; there one multiplication and one addition are put in front.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor

from pixdex.encoders._tower import Tower
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.runtimes.probes import worst_cosine

__all__ = ["Fused", "fused"]

_EXACT = 0.999999


class Fused(torch.nn.Module):
    """``forward`` takes uint8 ``[n, h, w, 3]`` and gives what the tower gives.

    Attributes:
        tower: the network, with ``dtype`` parameters.
        outputs: names of what comes out.
        folded: normalization is in the weights of the tower.
    """

    factor: Tensor
    offset: Tensor

    def __init__(
        self, tower: torch.nn.Module, preprocess: Preprocess, outputs: tuple[str, ...], *, folded: bool
    ) -> None:
        super().__init__()
        self.tower = tower
        self.outputs = outputs
        self.folded = folded
        factor, offset = _normalization(preprocess)
        self.register_buffer("factor", factor.reshape(1, 3, 1, 1))
        self.register_buffer("offset", offset.reshape(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The tensors that ``outputs`` names."""
        # A view: of one picture after the other the channels stay innermost, as convolutions like it best.
        channels_first = pixels.permute(0, 3, 1, 2)
        if self.folded:  # 0 to 255 are exact in bfloat16
            return cast("tuple[Tensor, ...]", self.tower(channels_first.to(self.factor.dtype)))
        normalized = channels_first.to(torch.float32) * self.factor - self.offset
        return cast("tuple[Tensor, ...]", self.tower(normalized.to(self.factor.dtype)))


def fused(tower: Tower, preprocess: Preprocess) -> Fused:
    """``tower`` with normalization in it, in evaluation mode. The weights are shared with it, but for the first layer's."""
    plain = Fused(tower, preprocess, tower.outputs, folded=False).eval()
    first = _first_convolution(tower, preprocess)
    if first is None:
        return plain
    folded = Fused(_folded(tower, first, preprocess), preprocess, tower.outputs, folded=True).eval()
    # The picture might go elsewhere as well: what is to be exact is looked at.
    return folded if _alike(plain, folded, preprocess) else plain


def _normalization(preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """(factor, offset) of each channel: normalized = pixel * factor - offset."""
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (preprocess.mean, preprocess.std))
    return (preprocess.scale / std).float(), (mean / std).float()


def _first_convolution(tower: Tower, preprocess: Preprocess) -> str | None:
    """The name of the convolution that takes the picture itself, where it is one alone and has no padding."""
    probe = torch.zeros(1, 3, *preprocess.size)
    taking: list[str] = []
    hooks = []
    for name, module in tower.named_modules():
        if isinstance(module, torch.nn.Conv2d):

            def note(_: Any, args: tuple[Any, ...], name: str = name) -> None:
                if args and args[0] is probe:
                    taking.append(name)

            hooks.append(module.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            tower(probe)
    finally:
        for hook in hooks:
            hook.remove()
    if len(taking) != 1:
        return None
    module = cast("torch.nn.Conv2d", tower.get_submodule(taking[0]))
    unpadded = module.padding == "valid" or not any(cast("tuple[int, ...]", module.padding))
    return taking[0] if unpadded and module.groups == 1 else None


def _folded(tower: Tower, name: str, preprocess: Preprocess) -> Tower:
    """A copy that shares every parameter but those of one convolution."""
    kept = {id(t): t for t in (*tower.parameters(), *tower.buffers())}
    twin = copy.deepcopy(tower, cast("dict[int, Any]", kept))
    layer = cast("torch.nn.Conv2d", twin.get_submodule(name))
    factor, offset = (v.double() for v in _normalization(preprocess))
    weight = layer.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64) if layer.bias is None else layer.bias.detach().double()
    layer.weight = torch.nn.Parameter((weight * factor.reshape(1, 3, 1, 1)).float(), requires_grad=False)
    shift = (weight * offset.reshape(1, 3, 1, 1)).sum(dim=(1, 2, 3))
    layer.bias = torch.nn.Parameter((bias - shift).float(), requires_grad=False)
    return twin


def _alike(plain: Fused, folded: Fused, preprocess: Preprocess) -> bool:
    from pixdex.encoders.runtimes.eager import run
    from pixdex.encoders.runtimes.probes import probes

    pixels = probes(preprocess.size, 1)
    return worst_cosine(run(plain, pixels), run(folded, pixels)) >= _EXACT
