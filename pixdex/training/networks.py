"""The network of the bundled encoder: small, of plain convolutions, with one vector and a map of local descriptors.

Four stages of inverted residuals (Sandler et al.: MobileNetV2, CVPR 2018), the first ones fused (a dense 3 x 3 convolution
instead of a pointwise and a depthwise one; Tan, Le: EfficientNetV2, ICML 2021), since processors run those faster at
few channels. Importing this imports torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["Maps", "MiniNet", "MiniShape", "folded"]

_MEAN, _SCALE = 0.45, 0.25
"""Of the values of photographs, roughly; all channels alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniShape:
    """How large the network is.

    Attributes:
        size: side of its input, pixels; a multiple of 32.
        stem: channels of the first convolution.
        widths: channels of the four stages, at a quarter to a thirty-second of the size.
        depths: blocks of each.
        expand: how many times wider a block is inside.
        fused: how many stages have fused blocks.
        last: channels of the last map.
        cells: values of a local descriptor.
        dim: values of the vector.
    """

    size: int = 160
    stem: int = 32
    widths: tuple[int, int, int, int] = (32, 64, 128, 288)
    depths: tuple[int, int, int, int] = (2, 3, 6, 4)
    expand: int = 4
    fused: int = 2
    last: int = 768
    cells: int = 128
    dim: int = 256

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MiniShape:
        """The inverse of ``to_json``."""
        pairs: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**pairs)

    def to_json(self) -> dict[str, Any]:
        """The values as a JSON object."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


class Maps(NamedTuple):
    """What the network gives.

    Attributes:
        own: the vector, ``[n, dim]``, not normalized.
        cells: local descriptors, ``[n, cells, size / 16, size / 16]``.
        stages: the maps of the four stages.
        last: the map after them, ``[n, last, size / 32, size / 32]``: its mean and that of the third stage make the vector.
    """

    own: Tensor
    cells: Tensor
    stages: tuple[Tensor, ...]
    last: Tensor


class MiniNet(nn.Module):
    """The network. It takes float ``[n, 3, size, size]`` in [0, 1]."""

    def __init__(self, shape: MiniShape = MiniShape()) -> None:
        super().__init__()
        self.shape = shape
        self.stem = _conv(3, shape.stem, stride=2)
        stages = []
        width = shape.stem
        for place, (wide, deep) in enumerate(zip(shape.widths, shape.depths, strict=True)):
            fused = place < shape.fused
            blocks = [_Block(width, wide, shape.expand, stride=2, fused=fused)]
            blocks += [_Block(wide, wide, shape.expand, stride=1, fused=fused) for _ in range(deep - 1)]
            stages.append(nn.Sequential(*blocks))
            width = wide
        self.stages = nn.ModuleList(stages)
        self.last = _conv(width, shape.last, kernel=1)
        self.fine = nn.Conv2d(shape.widths[2], shape.cells, 1)
        self.coarse = nn.Conv2d(shape.last, shape.cells, 1)
        self.own = nn.Linear(shape.last + shape.widths[2], shape.dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, _Block) and module.keeps:  # each block starts as nothing but its input
                nn.init.zeros_(module.narrow.get_parameter("1.weight"))

    def forward(self, pictures: Tensor) -> Maps:
        """See ``Maps``."""
        x = self.stem((pictures - _MEAN) / _SCALE)
        stages = []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        last = self.last(x)
        wide = F.interpolate(self.coarse(last), scale_factor=2.0, mode="nearest")
        pooled = torch.cat([made.mean(dim=(2, 3)) for made in (last, stages[2])], dim=1)
        cells = self.fine(stages[2]) + wide
        return Maps(own=self.own(pooled), cells=cells, stages=tuple(stages), last=last)


class _Block(nn.Module):
    """An inverted residual, fused or not; without an activation at its end."""

    def __init__(self, width: int, out: int, expand: int, *, stride: int, fused: bool) -> None:
        super().__init__()
        inner = width * expand
        self.keeps = stride == 1 and width == out
        if fused:
            self.wide = _conv(width, inner, stride=stride)
        else:
            self.wide = nn.Sequential(*_conv(width, inner, kernel=1), *_conv(inner, inner, stride=stride, groups=inner))
        self.narrow = nn.Sequential(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.narrow(self.wide(x))
        return x + made if self.keeps else made


def _conv(width: int, out: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def folded(network: MiniNet) -> MiniNet:
    """A copy in which each normalization is part of the convolution before it, for running only."""
    import copy

    made = copy.deepcopy(network).eval()
    for module in list(made.modules()):
        if not isinstance(module, nn.Sequential):
            continue
        for place in range(len(module) - 1):
            convolution, following = module[place], module[place + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                module[place] = fuse_conv_bn_eval(convolution, following)
                module[place + 1] = nn.Identity()
    return made
