"""Pictures as people copy them: cut, turned, mirrored, grey, small, squeezed into a JPEG, with a bar laid over.

What ``pixdex calibrate --copies`` asks with, where nobody says which pictures belong together. ``pixdex.training.tokenbank`` makes
edits of its own, in batches.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
from PIL import Image

from pixdex.encoders.port import Pixels

__all__ = ["EDITS", "edited"]

_SHORTEST = 8
"""Pixels of a side that is left at least."""


class _Edit(Protocol):
    def __call__(self, image: Image.Image, rng: np.random.Generator, /) -> Image.Image: ...


def edited(pixels: Pixels, rng: np.random.Generator) -> tuple[str, Pixels]:
    """A copy of uint8 ``[h, w, 3]`` with one edit, or two, and what they are called."""
    names = rng.choice(list(EDITS), size=rng.integers(1, 3), replace=False)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for name in names:
        image = EDITS[name](image, rng)
    return "+".join(names), np.asarray(image)


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of 0.2 to 0.8 of its area, of about its shape."""
    share, shape = rng.uniform(0.2, 0.8) ** 0.5, rng.uniform(0.9, 1.1)
    wide, high = (
        min(side, max(_SHORTEST, round(side * min(1.0, by))))
        for side, by in zip(image.size, (share * shape, share / shape), strict=True)
    )
    x, y = int(rng.integers(0, image.width - wide + 1)), int(rng.integers(0, image.height - high + 1))
    return image.crop((x, y, x + wide, y + high))


def _mirrored(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _grey(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image.convert("L").convert("RGB")


def _jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Of quality 5 to 40."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(5, 41)))
    return Image.open(file).convert("RGB")


def _small(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """An eighth to a half of its sides."""
    by = rng.uniform(0.125, 0.5)
    wide, high = (min(side, max(_SHORTEST, round(side * by))) for side in image.size)
    return image.resize((wide, high), Image.Resampling.BICUBIC)


def _turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """By up to 20 degrees, whole, with one grey level, mostly black, in the corners."""
    level = 0 if rng.random() < 0.7 else int(rng.integers(0, 256))
    return image.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True, fillcolor=(level,) * 3)


def _light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Other brightness and contrast, up to 1.4 times."""
    gain, shift = 1.4 ** rng.uniform(-1, 1), rng.uniform(-40, 40)
    values = (np.asarray(image, dtype=np.float32) - 128) * gain + 128 + shift
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _banner(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A bar of one colour across it, 0.08 to 0.28 of its height."""
    pixels = np.array(image)
    high = max(1, round(image.height * rng.uniform(0.08, 0.28)))
    top = int(rng.integers(0, image.height - high + 1))
    pixels[top : top + high] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


EDITS: Mapping[str, _Edit] = MappingProxyType(
    {
        "crop": _cropped,
        "mirror": _mirrored,
        "grey": _grey,
        "jpeg": _jpeg,
        "small": _small,
        "turn": _turned,
        "light": _light,
        "banner": _banner,
    }
)
"""Every edit by name: a picture of RGB to one, drawn by ``rng``."""
