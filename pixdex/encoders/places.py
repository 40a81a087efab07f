"""Where in a picture the cells of a network lie: boxes in the picture's own measure, whatever was resized and cropped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "Window", "clipped", "grid_of"]

_SQUARENESS = 1.3
"""How far from square the cells of a grid may be, as a ratio of sides."""


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a picture that a network sees, in fractions of the upright picture's width and height.

    Where a picture was given borders, it reaches beyond 0 to 1.
    """

    x: float = 0.0
    y: float = 0.0
    width: float = 1.0
    height: float = 1.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells row by row, which fill what a network sees."""

    rows: int
    columns: int

    def boxes(self, cells: NDArray[np.intp], window: Window = Window()) -> NDArray[np.float32]:
        """float32 ``[..., 4]`` of cell numbers ``[...]``: x, y of the upper left corner, width, height, as fractions of the
        picture, of which ``window`` is what the grid lies over. Cells, or parts of them, beyond the picture are cut off.
        """
        rows, columns = np.divmod(cells, self.columns)
        wide, high = window.width / self.columns, window.height / self.rows
        corner = [window.x + columns * wide, window.y + rows * high]
        return clipped(np.stack([*corner, np.full(cells.shape, wide), np.full(cells.shape, high)], axis=-1))


def clipped(boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Boxes ``[..., 4]``, float32, without what lies outside of the picture."""
    low = np.clip(boxes[..., :2], 0, 1)
    high = np.clip(boxes[..., :2] + boxes[..., 2:], 0, 1)
    inside: NDArray[np.float32] = np.concatenate([low, high - low], axis=-1).astype(np.float32)
    return inside


def grid_of(cells: int, size: tuple[int, int]) -> Grid | None:
    """The grid of so many cells over an input of ``size`` (height, width) whose cells are nearest to square; None where
    none is near, so that the cells are no grid.
    """
    height, width = size
    best, squareness = None, _SQUARENESS
    for rows in range(1, cells + 1):
        columns, rest = divmod(cells, rows)
        if rest:
            continue
        ratio = (height / rows) / (width / columns)
        off = math.exp(abs(math.log(ratio)))
        if off < squareness:
            best, squareness = Grid(rows, columns), off
    return best
