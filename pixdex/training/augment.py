"""Augmentations of whole batches as tensors, on any device, without torchvision.

A view is cropped, turned and mirrored by one resampling, then recoloured, blurred and compressed. All of it is drawn from
a seeded generator, a value a picture, without a loop over pictures and without waiting for the device. Importing this
imports torch and nothing else of pixdex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

__all__ = ["Augmentation", "Mixing", "cutmix", "mixup", "resized"]

_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
# Inverses, computed here since a device would make others wait for it.
_FROM_YIQ = torch.linalg.inv(torch.tensor(_TO_YIQ, dtype=torch.float64)).tolist()
_FROM_YCC = torch.linalg.inv(torch.tensor(_TO_YCC, dtype=torch.float64)).tolist()
_BLOCK = 8
_BLUR_RADIUS = 4
# The tables of ITU-T T.81, annex K.
_LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA_STEPS = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How views are made of pictures. The defaults are those of contrastive learning, a little milder.

    Attributes:
        size: side of a view, pixels.
        scale: least and largest share of the picture's area in a crop.
        ratio: least and largest width over height of a crop, times that of the picture.
        flip: share of views that are mirrored.
        rotation: largest angle either way, degrees; ``rotate`` is the share of views that are turned.
        rotate: see ``rotation``.
        brightness: largest factor on all values is 1 + this, least 1 / (1 + this).
        contrast: the same around the mean of the picture.
        saturation: the same around grey.
        hue: largest turn of the colour circle either way, in turns.
        colour: share of views whose colours are changed by these four.
        grey: share of views without colour.
        blur: share of views that are blurred by a Gaussian.
        blur_sigma: least and largest deviation of it, pixels of a view of 224; narrower views in proportion.
        jpeg: share of views with the losses of JPEG, in blocks of eight pixels.
        jpeg_quality: least and largest quality, of 100.
        patch: share of views with a rectangle of one colour over them, as stickers and captions are.
    """

    size: int
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rotation: float = 15.0
    rotate: float = 0.3
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05
    colour: float = 0.8
    grey: float = 0.1
    blur: float = 0.2
    blur_sigma: tuple[float, float] = (0.3, 2.0)
    jpeg: float = 0.0
    jpeg_quality: tuple[float, float] = (8.0, 60.0)
    patch: float = 0.0

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """Views, float32 ``[n, 3, size, size]`` in [0, 1], of uint8 or float [0, 1] ``[n, 3, h, w]``, on their device.

        ``generator`` may be of any device; one of the CPU gives the same crops and colours on every device.
        """
        draw = _Draw(len(pictures), pictures.device, generator)
        values = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float()
        values = self._cropped(values, draw)
        values = self._recoloured(values, draw)
        if self.patch > 0:
            values = self._covered(values, draw)
        if self.blur > 0:
            values = self._blurred(values, draw)
        if self.jpeg > 0:
            values = self._compressed(values, draw)
        return values.clamp(0, 1)

    def _cropped(self, values: Tensor, draw: _Draw) -> Tensor:
        """A crop of random place, size, shape and angle, by one bilinear resampling that mirrors at the borders."""
        share = draw.between(*self.scale)
        shape = draw.log_between(*self.ratio)
        wide = (share * shape).sqrt().clamp(max=1)
        high = (share / shape).sqrt().clamp(max=1)
        right = draw.signed() * (1 - wide)
        down = draw.signed() * (1 - high)
        angle = draw.signed() * math.radians(self.rotation) * draw.happens(self.rotate)
        mirror = 1 - 2 * draw.happens(self.flip)
        cos, sin = angle.cos(), angle.sin()
        # Coordinates run from -1 to 1 across the picture: turned about the crop's centre, in pixels of the picture.
        aspect = values.shape[3] / values.shape[2]
        theta = torch.stack(
            [
                torch.stack([wide * cos * mirror, -high * sin / aspect, right], dim=1),
                torch.stack([wide * sin * aspect * mirror, high * cos, down], dim=1),
            ],
            dim=1,
        )
        grid = F.affine_grid(theta, [len(values), 3, self.size, self.size], align_corners=False)
        return F.grid_sample(values, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _recoloured(self, values: Tensor, draw: _Draw) -> Tensor:
        """Brightness, contrast, saturation, hue and grey as one 3 x 3 matrix and an offset a picture."""
        changed = draw.happens(self.colour)
        bright = 1 + changed * (draw.factor(self.brightness) - 1)
        contrast = 1 + changed * (draw.factor(self.contrast) - 1)
        colourful = (1 + changed * (draw.factor(self.saturation) - 1)) * (1 - draw.happens(self.grey))
        turn = changed * draw.signed() * self.hue * 2 * math.pi
        yiq, back = values.new_tensor(_TO_YIQ), values.new_tensor(_FROM_YIQ)
        cos, sin, one, zero = (
            turn.cos() * colourful,
            turn.sin() * colourful,
            torch.ones_like(turn),
            torch.zeros_like(turn),
        )
        turned = torch.stack(
            [
                torch.stack([one, zero, zero], dim=1),
                torch.stack([zero, cos, -sin], dim=1),
                torch.stack([zero, sin, cos], dim=1),
            ],
            dim=1,
        )
        matrix = (bright * contrast)[:, None, None] * (back @ turned @ yiq)
        mean = (values.mean(dim=(2, 3)) * values.new_tensor(_LUMA)).sum(dim=1)
        offset = (bright * (1 - contrast) * mean)[:, None, None]
        mixed = torch.bmm(matrix, values.flatten(2)) + offset
        return mixed.view_as(values).clamp(0, 1)

    def _covered(self, values: Tensor, draw: _Draw) -> Tensor:
        """A rectangle of one colour over some views: a tenth to a half of each side, partly transparent."""
        size = values.shape[2]
        place = (torch.arange(size, device=values.device, dtype=values.dtype) + 0.5) / size

        def inside() -> Tensor:
            length = draw.between(0.1, 0.5)
            start = draw.between(0, 1) * (1 - length)
            return ((place >= start[:, None]) & (place < (start + length)[:, None])).to(values.dtype)

        rows, columns = inside(), inside()
        opaque = draw.happens(self.patch) * draw.between(0.4, 1)
        mask = opaque[:, None, None] * rows[:, :, None] * columns[:, None, :]
        colour = torch.stack([draw.between(0, 1) for _ in range(3)], dim=1)[:, :, None, None]
        return torch.lerp(values, colour.expand_as(values), mask[:, None].expand_as(values))

    def _blurred(self, values: Tensor, draw: _Draw) -> Tensor:
        """A Gaussian of its own for each picture: depthwise convolutions of all channels of the batch as one picture."""
        count, channels, height, width = values.shape
        sigma = draw.log_between(*self.blur_sigma) * (self.size / 224)
        places = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=values.device, dtype=values.dtype)
        kernel = torch.exp(-0.5 * (places[None] / sigma[:, None]) ** 2)
        sharp = (places == 0).to(values.dtype)
        kernel = torch.where(draw.happens(self.blur)[:, None] > 0, kernel / kernel.sum(dim=1, keepdim=True), sharp)
        kernel = kernel.repeat_interleave(channels, dim=0)
        flat = F.pad(values, [_BLUR_RADIUS] * 4, mode="reflect").reshape(1, count * channels, height + 8, width + 8)
        flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
        flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
        return flat.view(count, channels, height, width)

    def _compressed(self, values: Tensor, draw: _Draw) -> Tensor:
        """What JPEG loses: the cosine transform of each block rounded to the steps of a quality (T.81; the scale of the
        steps is the Independent JPEG Group's). Chroma is not subsampled.
        """
        count, _, height, width = values.shape
        quality = draw.between(*self.jpeg_quality)
        factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
        steps = values.new_tensor([_LUMA_STEPS, _CHROMA_STEPS, _CHROMA_STEPS])
        steps = (steps[None] * factor[:, None, None, None]).clamp(1, 255)[:, :, None, None]
        short = -height % _BLOCK, -width % _BLOCK
        matrix = values.new_tensor(_TO_YCC)
        padded = F.pad(values, [0, short[1], 0, short[0]], mode="replicate") * 255 - 128
        planes = torch.einsum("ij,njhw->nihw", matrix, padded)
        blocks = planes.unfold(2, _BLOCK, _BLOCK).unfold(3, _BLOCK, _BLOCK)
        cosine = _cosines(values)
        rounded = ((cosine @ blocks @ cosine.T) / steps).round() * steps
        blocks = cosine.T @ rounded @ cosine
        planes = blocks.permute(0, 1, 2, 4, 3, 5).reshape(count, 3, height + short[0], width + short[1])
        lossy = (torch.einsum("ij,njhw->nihw", values.new_tensor(_FROM_YCC), planes) + 128) / 255
        chosen = draw.happens(self.jpeg)[:, None, None, None] > 0
        return torch.where(chosen, lossy[:, :, :height, :width], values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """How the pictures of a batch are mixed with one another.

    Attributes:
        mixup: share of batches that are blended, see ``mixup``.
        cutmix: share of batches that get rectangles of others, see ``cutmix``.
    """

    mixup: float = 0.25
    cutmix: float = 0.25

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """The batch, or a mixed one; ``generator`` is one of the CPU, which is asked which."""
        drawn = float(torch.rand((), generator=generator))
        if drawn < self.mixup:
            return mixup(pictures, generator)[0]
        if drawn < self.mixup + self.cutmix:
            return cutmix(pictures, generator)[0]
        return pictures


def mixup(pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Each picture blended with another: (mixed, index int64 ``[n]`` of the other, share float32 ``[n]`` of the first).

    Zhang et al.: mixup: Beyond Empirical Risk Minimization, ICLR 2018; with shares drawn evenly.
    """
    draw = _Draw(len(pictures), pictures.device, generator)
    other, share = draw.order(), draw.between(0, 1)
    weight = share[:, None, None, None].to(pictures.dtype)
    return pictures * weight + pictures[other] * (1 - weight), other, share


def cutmix(pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A rectangle of each picture replaced by that of another: (mixed, index of the other, share that is left).

    Yun et al.: CutMix, ICCV 2019; with shares of the area drawn evenly.
    """
    count, _, height, width = pictures.shape
    draw = _Draw(count, pictures.device, generator)
    other = draw.order()
    side = draw.between(0, 1).sqrt()

    def inside(length: int) -> Tensor:
        place = (torch.arange(length, device=pictures.device) + 0.5) / length
        start = draw.between(0, 1) * (1 - side)
        return (place >= start[:, None]) & (place < (start + side)[:, None])

    mask = inside(height)[:, :, None] & inside(width)[:, None, :]
    mixed = torch.where(mask[:, None], pictures[other], pictures)
    return mixed, other, 1 - mask.float().mean(dim=(1, 2))


def resized(pictures: Tensor, size: int) -> Tensor:
    """The pictures at ``size`` x ``size``, antialiased, as float32; the same ones where they have that size."""
    pictures = pictures.float()
    if pictures.shape[2:] == (size, size):
        return pictures
    return F.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


class _Draw:
    """Random values, one a picture, drawn by the generator and moved to the pictures' device."""

    def __init__(self, count: int, device: torch.device, generator: torch.Generator) -> None:
        self._count = count
        self._device = device
        self._generator = generator

    def between(self, low: float, high: float) -> Tensor:
        drawn = torch.rand(self._count, generator=self._generator, device=self._generator.device)
        return low + (high - low) * drawn.to(self._device, non_blocking=True)

    def log_between(self, low: float, high: float) -> Tensor:
        return self.between(math.log(low), math.log(high)).exp()

    def signed(self) -> Tensor:
        return self.between(-1, 1)

    def factor(self, strength: float) -> Tensor:
        return self.log_between(1 / (1 + strength), 1 + strength)

    def happens(self, share: float) -> Tensor:
        """1 for that share of pictures, else 0."""
        return (self.between(0, 1) < share).float()

    def order(self) -> Tensor:
        order = torch.randperm(self._count, generator=self._generator, device=self._generator.device)
        return order.to(self._device, non_blocking=True)


def _cosines(like: Tensor) -> Tensor:
    """The orthonormal cosine transform of a block, ``[8, 8]``."""
    index = torch.arange(_BLOCK, device=like.device, dtype=like.dtype)
    waves = torch.cos(math.pi / _BLOCK * (index[None] + 0.5) * index[:, None]) * math.sqrt(2 / _BLOCK)
    waves[0] *= math.sqrt(0.5)
    return waves
