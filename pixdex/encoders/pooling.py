"""Many local descriptors to one: CLS, mean, generalized mean, or what the model itself makes of them.

Each takes token sequences ``[n, t, d]`` or feature maps ``[n, c, h, w]``, float32, and gives float32 ``[n, d]``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders._named import Named
from pixdex.errors import ConfigError

__all__ = ["GEM_POWER", "Pooling", "as_tokens", "gem_pool", "mean_pool"]

GEM_POWER = 3.0
"""The exponent of the generalized mean that retrieval models start from."""
_SMALLEST = np.float32(1e-6)

Features = NDArray[np.float32]


class Pooling(Named, what="pooling"):
    """How local descriptors become one vector."""

    CLS = "cls"
    """The class token: only trunks that have one."""
    MEAN = "mean"
    """The average of the local descriptors, class and register tokens left out."""
    GEM = "gem"
    """Their generalized mean."""
    OWN = "own"
    """The embedding that the model itself defines, such as CLIP's: only trunks that have one."""
    CLS_MEAN = "cls_mean"
    """The class token and the average of the local descriptors, each scaled to length one, side by side."""


def as_tokens(features: Features) -> Features:
    """``[n, t, d]`` of a feature map ``[n, c, h, w]``, its cells row by row; a token sequence as it is."""
    if features.ndim == 3:
        return features
    count, channels = features.shape[:2]
    return features.reshape(count, channels, -1).transpose(0, 2, 1)


def mean_pool(features: Features) -> Features:
    """The average over tokens or cells, float32 ``[n, d]``."""
    pooled: Features = as_tokens(features).mean(axis=1, dtype=np.float32)
    return pooled


def gem_pool(features: Features, power: float = GEM_POWER) -> Features:
    """The generalized mean ``(mean x^p)^(1/p)`` over tokens or cells, float32 ``[n, d]``.

    ``power`` 1 is the mean, a large one approaches the maximum. Values below 1e-6 count as 1e-6, so it suits
    rectified feature maps; of signed ViT tokens it sees the positive side only.

    Radenovic, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2018.

    Raises:
        ConfigError: ``power`` is not positive.
    """
    if not power > 0:
        raise ConfigError(f"the power of a generalized mean is positive, not {power}")
    raised = np.maximum(as_tokens(features), _SMALLEST) ** np.float32(power)
    pooled: Features = raised.mean(axis=1, dtype=np.float32) ** np.float32(1 / power)
    return pooled
