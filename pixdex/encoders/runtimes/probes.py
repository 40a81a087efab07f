"""Pictures to measure with, and how far results are apart.

Real photographs are not shipped; these have what matters of them: large smooth areas, edges, fine texture,
strong and weak colours, and an amplitude spectrum that falls with frequency.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders.backbones import Activations
from pixdex.encoders.pooling import gem_pool, mean_pool
from pixdex.encoders.tokens import unit

__all__ = ["probes", "worst_cosine"]

_SEED = 20


def probes(size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """``count`` pictures, always the same ones, uint8 ``[count, *size, 3]``."""
    random = np.random.default_rng(_SEED)
    return np.stack([_picture(size, random) for _ in range(count)])


def worst_cosine(reference: Activations, other: Activations) -> float:
    """The least cosine between what two runtimes make of a picture, over pictures and over ways to pool them."""
    worst = 1.0
    for one, two in zip(_pooled(reference), _pooled(other), strict=True):
        if not np.isfinite(two).all():
            return -1.0
        cosines = (unit(one) * unit(two)).sum(axis=1)
        # Nothing in the reference stays nothing: such rows have no direction to lose.
        cosines[~one.any(axis=1) & ~two.any(axis=1)] = 1
        worst = min(worst, float(cosines.min()))
    return worst


def _pooled(activations: Activations) -> Iterator[NDArray[np.float32]]:
    yield mean_pool(activations.cells)
    yield gem_pool(activations.cells)
    for vectors in (activations.cls, activations.own):
        if vectors is not None:
            yield vectors


def _picture(size: tuple[int, int], random: np.random.Generator) -> NDArray[np.uint8]:
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    falling = 1 / np.maximum(frequency, 1 / max(size)) ** random.uniform(0.8, 1.6)
    noise = np.fft.fft2(random.standard_normal((3, height, width)))
    texture = np.fft.ifft2(noise * falling).real
    grey = texture.mean(axis=0, keepdims=True)
    texture = grey + random.uniform(0.2, 1.0) * (texture - grey)
    texture *= random.uniform(30, 70) / max(float(texture.std()), 1e-6)
    picture = texture.transpose(1, 2, 0) + random.uniform(60, 190, 3)
    for _ in range(4):  # things with edges
        top, left = random.integers(0, height), random.integers(0, width)
        bottom, right = top + random.integers(1, height), left + random.integers(1, width)
        share = random.uniform(0.3, 0.9)
        region = picture[top:bottom, left:right]
        region[:] = (1 - share) * region + share * random.uniform(0, 255, 3)
    return np.asarray(picture.round().clip(0, 255), dtype=np.uint8)
