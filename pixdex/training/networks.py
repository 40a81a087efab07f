"""The network of the bundled encoder: small, of plain convolutions, with one vector and a map of local descriptors.

Its stages end where a teacher's maps are met, so that each can learn alone (see ``distil``). Blocks are inverted residuals
(Sandler et al.: MobileNetV2, CVPR 2018), fused in the first stages (a dense 3 x 3 convolution instead of a pointwise and
a depthwise one; Tan, Le: EfficientNetV2, ICML 2021), since processors run those faster at few channels. Importing this
imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

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
        size: side of its input where it is used, pixels; a multiple of 32. It may have learned at another one.
        stem: channels of the first convolution.
        widths: channels of the stages' maps: those of the teacher where the stages meet its maps.
        strides: by how much each stage makes its input smaller, the first one beside the stem.
        depths: blocks of each.
        inner: channels inside the blocks of each.
        fused: how many stages have fused blocks.
        waist: channels before the last map.
        last: channels of the last map: those of the teacher.
        cells: values of a local descriptor.
        dim: values of the vector.
    """

    size: int = 192
    stem: int = 32
    widths: tuple[int, ...] = (24, 32, 64, 96, 160)
    strides: tuple[int, ...] = (2, 2, 2, 1, 2)
    depths: tuple[int, ...] = (2, 3, 3, 3, 4)
    inner: tuple[int, ...] = (96, 128, 256, 576, 1024)
    fused: int = 3
    waist: int = 256
    last: int = 1280
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
        stages: the maps of the stages.
        last: the map after them, ``[n, last, size / 32, size / 32]``: its mean makes the vector.
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
        stages: list[nn.Module] = []
        width = shape.stem
        for place, wide in enumerate(shape.widths):
            fused, inner, stride = place < shape.fused, shape.inner[place], shape.strides[place]
            blocks: list[nn.Module] = [] if place else [_Scaled(), _conv(3, shape.stem, stride=2)]
            blocks.append(_Block(width, wide, inner, stride=stride, fused=fused))
            blocks += [_Block(wide, wide, inner, stride=1, fused=fused) for _ in range(shape.depths[place] - 1)]
            stages.append(nn.Sequential(*blocks))
            width = wide
        top = _Block(width, shape.waist, shape.inner[-1], stride=1, fused=False)
        stages.append(nn.Sequential(top, *_conv(shape.waist, shape.last, kernel=1)))
        self.stages = nn.ModuleList(stages)
        self.fine = nn.Conv2d(shape.widths[-2], shape.cells, 1)
        self.coarse = nn.Conv2d(shape.last, shape.cells, 1)
        self.own = nn.Linear(shape.last, shape.dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, _Block) and module.keeps:  # each block starts as nothing but its input
                nn.init.zeros_(module.narrow.get_parameter("1.weight"))

    def forward(self, pictures: Tensor) -> Maps:
        """See ``Maps``."""
        maps = []
        x = pictures
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.headed(maps)

    def headed(self, maps: Sequence[Tensor]) -> Maps:
        """The outputs that are made of the maps of stages, of the upper ones at least, and of the last one."""
        *stages, last = maps
        wide = F.interpolate(self.coarse(last), scale_factor=2.0, mode="nearest")
        return Maps(
            own=self.own(last.mean(dim=(2, 3))), cells=self.fine(stages[-2]) + wide, stages=tuple(stages), last=last
        )


class _Scaled(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        return (pictures - _MEAN) / _SCALE


class _Block(nn.Module):
    """An inverted residual, fused or not; without an activation at its end."""

    def __init__(self, width: int, out: int, inner: int, *, stride: int, fused: bool) -> None:
        super().__init__()
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
