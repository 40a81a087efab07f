"""What a decoder gives."""

from __future__ import annotations

from dataclasses import dataclass

from pixdex.encoders.exif import Exif
from pixdex.encoders.port import Pixels

__all__ = ["Raster"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Raster:
    """A picture as its file stores it: RGB, not yet upright. ``width`` and ``height`` are those of the file, also when
    the pixels are fewer.
    """

    pixels: Pixels
    width: int
    height: int
    metadata: Exif
