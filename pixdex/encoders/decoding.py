"""How a picture file is to be read, and what it may cost: values that every decoder takes. Importing this loads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from pixdex.errors import ConfigError, InvalidImage

__all__ = ["PATIENCE", "WHITE", "Colour", "Decoding", "Limits", "Truncated"]

Colour: TypeAlias = tuple[int, int, int]
Truncated: TypeAlias = Literal["refuse", "accept"]

WHITE: Colour = (255, 255, 255)
"""What transparent parts show unless another colour is named."""

PATIENCE = 60.0
"""Seconds that one picture may take, where somebody keeps watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a file may cost, checked before anything is decoded."""

    max_bytes: int = 256 * 1024 * 1024
    """Encoded size."""
    max_pixels: int = 200_000_000
    """Width times height."""
    max_decoded_bytes: int = 1_200_000_000
    """Memory that decoding takes besides the file, as its header lets expect: the pixels, and what the decoder of the
    format keeps beside them (the coefficients of a progressive JPEG, the canvas of an animation).
    """
    max_frames: int = 1_000
    """How far into an animation or a file of pages to go: to show a frame, those before it may have to be decoded."""

    def check_bytes(self, source: bytes) -> None:
        """Raises InvalidImage."""
        if not source:
            raise InvalidImage("empty file")
        if len(source) > self.max_bytes:
            raise InvalidImage(f"{_mega(len(source))} megabytes, the limit is {_mega(self.max_bytes)}")

    def check_size(self, width: int, height: int) -> None:
        """Raises InvalidImage."""
        if width < 1 or height < 1:
            raise InvalidImage(f"a picture of {width} x {height} pixels")
        if width * height > self.max_pixels:
            raise InvalidImage(f"{_mega(width * height)} megapixels, the limit is {_mega(self.max_pixels)}")

    def check_decoded(self, count: int) -> None:
        """Raises InvalidImage."""
        if count > self.max_decoded_bytes:
            raise InvalidImage(
                f"{_mega(count)} megabytes of memory to decode, the limit is {_mega(self.max_decoded_bytes)}"
            )

    def check_frame(self, frame: int) -> None:
        """Raises InvalidImage."""
        if frame >= self.max_frames:
            raise InvalidImage(f"frame {frame} is wanted, the limit is {self.max_frames} frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How picture files are read.

    Attributes:
        limits: what a file may cost.
        background: what transparent parts show.
        frame: which frame of an animation, or page of a TIFF, counted from 0. A file without it is refused.
        truncated: whether a file that ends early or is damaged inside is refused, or accepted with as much as could
            be decoded: the rest is grey (JPEG), or shows the background or black. Formats that are decoded whole or not
            at all (WebP, AVIF, HEIC) are refused either way.

    Raises:
        ConfigError: a value that cannot be.
    """

    limits: Limits = field(default_factory=Limits)
    background: Colour = WHITE
    frame: int = 0
    truncated: Truncated = "refuse"

    def __post_init__(self) -> None:
        if self.frame < 0:
            raise ConfigError(f"frame={self.frame}: frames are counted from 0")
        if self.truncated not in get_args(Truncated):
            raise ConfigError(f"truncated={self.truncated!r}: it is one of {', '.join(get_args(Truncated))}")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise ConfigError(f"background={self.background!r}: it is (red, green, blue), each 0 to 255")


def _mega(number: int) -> str:
    return f"{number / 1e6:.0f}" if number >= 10_000_000 else f"{number / 1e6:.3g}"
