"""Heat maps: what is known of regions, spread over a picture, and as an overlay to be laid upon it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RASTER", "coloured", "heat_map"]

RASTER = 96
"""Cells of a heat map along the longer side."""
_COLD_TO_HOT = (
    (0.0, (8, 8, 28, 185)),
    (0.35, (70, 16, 90, 165)),
    (0.65, (214, 66, 74, 135)),
    (1.0, (255, 214, 90, 110)),
)
"""Colours of a heat map, with how opaque they are: what is cold is dark, what is hot can be seen through."""


def heat_map(places: NDArray[np.float32], evidence: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """float32 ``shape`` in [0, 1]: how much evidence lies where in a picture; what is below zero counts as nothing.

    ``places`` ``[t, 4]`` are boxes, NaN where one is not known, ``evidence`` ``[t]`` what is spread evenly over each.
    """
    height, width = shape
    heat = np.zeros(shape, dtype=np.float64)
    for box, much in zip(places.astype(np.float64), evidence.astype(np.float64), strict=True):
        if much > 0 and not np.isnan(box).any():
            down, across = _cover(box[1], box[3], height), _cover(box[0], box[2], width)
            heat += much * np.outer(down, across) / max(1e-9, box[2] * box[3])
    top = heat.max()
    smooth = _softened(heat / top, max(1, max(shape) // 32)) if top > 0 else heat
    scaled: NDArray[np.float32] = (smooth / (smooth.max() or 1.0)).astype(np.float32)
    return scaled


def coloured(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 ``[h, w, 4]`` of values in [0, 1]; of their square roots, so that a few great ones don't hide the others."""
    at = [stop for stop, _ in _COLD_TO_HOT]
    channels = [np.interp(np.sqrt(heat), at, [colour[c] for _, colour in _COLD_TO_HOT]) for c in range(4)]
    colours: NDArray[np.uint8] = np.stack(channels, axis=-1).round().astype(np.uint8)
    return colours


def _cover(start: float, length: float, cells: int) -> NDArray[np.float64]:
    """How much of each of so many cells, side by side over 0 to 1, lies between ``start`` and its end."""
    edges = np.arange(cells + 1) / cells
    covered: NDArray[np.float64] = np.clip(
        np.minimum(edges[1:], start + length) - np.maximum(edges[:-1], start), 0, None
    )
    return covered * cells


def _softened(heat: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Averaged over neighbours, twice along each axis, so that cells have no hard edges."""
    for axis in (0, 1, 0, 1):
        padded = np.pad(heat, [(reach, reach) if axis == each else (0, 0) for each in (0, 1)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        heat = windows.mean(axis=-1)
    return heat
