"""Bytes, arrays and Pillow pictures to pixels: upright, three channels, eight bits, sRGB.

Orientation is always applied, embedded colour profiles are, transparency is composited, wider samples are scaled instead
of clipped, and a damaged file is refused instead of half read, unless that is asked for. JPEG goes through simplejpeg,
everything else through the Pillow plugin that the first bytes name.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pixdex.encoders import _colour, _jpeg, _pillow
from pixdex.encoders._formats import SIGNATURE_BYTES, looks_like_picture, sniff
from pixdex.encoders._raster import Raster
from pixdex.encoders.decoding import WHITE, Colour, Decoding, Limits
from pixdex.encoders.port import Pixels
from pixdex.errors import InvalidImage

__all__ = [
    "SIGNATURE_BYTES",
    "WHITE",
    "Decoded",
    "Decoding",
    "Limits",
    "Resample",
    "center_crop",
    "decode",
    "from_array",
    "from_pil",
    "is_pil",
    "looks_like_picture",
    "png",
    "resize",
    "thumbnail_jpeg",
]

Resample: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """A decoded picture.

    Attributes:
        pixels: uint8 ``[h, w, 3]``, upright, sRGB; fewer than ``height`` x ``width`` where ``min_side`` allowed it.
        width: of the full upright picture, pixels.
        height: of the full upright picture, pixels.
        taken: EXIF DateTimeOriginal in UTC. EXIF without an offset does not say which time zone it means: its
            digits are then taken as UTC.
        place: EXIF GPS as (latitude, longitude), degrees.
        format: ``JPEG``, ``PNG``, ``WEBP``, ``GIF``, ``BMP``, ``TIFF``, ``AVIF``, ``HEIC`` or ``PPM``.
    """

    pixels: Pixels
    width: int
    height: int
    taken: datetime | None
    place: tuple[float, float] | None
    format: str


def decode(source: bytes, decoding: Decoding = Decoding(), *, min_side: int | None = None) -> Decoded:
    """Decode a picture file.

    Args:
        source: the file's bytes.
        decoding: how it is read, and what it may cost.
        min_side: a JPEG whose shorter side has more pixels may be decoded at a half, a quarter or an eighth of its size
            that keeps at least so many, which is several times faster; None: at full size. Other formats are always
            decoded at full size.

    Raises:
        InvalidImage: the bytes are not a usable picture; the message is the reason.
    """
    decoding.limits.check_bytes(source)
    name = sniff(source)
    raster = _decode_jpeg(source, decoding, min_side) if name == "JPEG" else _pillow.decode(source, name, decoding)
    turned = raster.metadata.orientation >= 5
    return Decoded(
        pixels=_upright(raster.pixels, raster.metadata.orientation),
        width=raster.height if turned else raster.width,
        height=raster.width if turned else raster.height,
        taken=raster.metadata.taken,
        place=raster.metadata.place,
        format=name,
    )


def from_pil(image: Image.Image, *, background: Colour = WHITE) -> Pixels:
    """The pixels of a Pillow picture, by the rules of ``decode``: orientation and profile applied, transparency
    composited.

    Raises:
        InvalidImage: the picture is empty, cannot be loaded, or is of a mode without a meaning in RGB.
    """
    try:
        image.load()
        pixels = _colour.to_rgb(image, background)
    except InvalidImage:
        raise
    except Exception as error:  # plugins raise anything on damaged files
        raise InvalidImage(f"the picture cannot be loaded: {error}") from error
    try:
        # After loading, which turns a TIFF upright; Pillow's own reader, because EXIF may have been edited in memory.
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything; it must not cost the picture
        orientation = 1
    return _upright(pixels, orientation if isinstance(orientation, int) else 1)


def from_array(array: NDArray[Any], *, background: Colour = WHITE) -> Pixels:
    """The pixels of a uint8 array ``[h, w]`` (grey), ``[h, w, 3]`` (RGB) or ``[h, w, 4]`` (RGBA).

    Raises:
        InvalidImage: another dtype or shape; the message names the remedy.
    """
    if not isinstance(array, np.ndarray):
        raise InvalidImage(f"an array is needed, not {type(array).__name__}: numpy.asarray(...) makes one")
    if array.dtype != np.uint8:
        raise InvalidImage(f"the array is {array.dtype}, pixels are uint8: {_dtype_remedy(array.dtype)}")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        hint = ": channels come last, array.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (3, 4) else ""
        raise InvalidImage(f"the array is {list(array.shape)}, not [h, w], [h, w, 3] or [h, w, 4]{hint}")
    if 0 in array.shape:
        raise InvalidImage(f"the array is empty: {list(array.shape)}")
    if array.shape[2] == 4:
        return _colour.composite(Image.fromarray(np.ascontiguousarray(array)), background)
    return np.ascontiguousarray(array)


def resize(pixels: Pixels, size: tuple[int, int], resample: Resample = "bicubic") -> Pixels:
    """Resize to ``size`` (height, width), antialiased; uint8 ``[height, width, 3]``.

    Pillow's, which counts in integers: the same on every machine. Its ``reducing_gap`` is several grey levels off, and
    matrix products, twice as fast on one core, start threads of their own in every worker. What makes large pictures
    cheap is decoding them at a fraction.
    """
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    return np.array(Image.fromarray(pixels).resize((width, height), _RESAMPLING[resample]))


def center_crop(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The middle ``size`` (height, width) of a picture, with black borders where it is smaller."""
    height, width = size
    short = max(0, height - pixels.shape[0]), max(0, width - pixels.shape[1])
    if any(short):
        border = [((missing + 1) // 2, missing // 2) for missing in short]
        pixels = np.pad(pixels, [*border, (0, 0)])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def thumbnail_jpeg(pixels: Pixels, max_side: int = 320, quality: int = 80) -> bytes:
    """A JPEG of the picture whose longer side has at most ``max_side`` pixels; never enlarged."""
    height, width = pixels.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    small = resize(pixels, (max(1, round(height * scale)), max(1, round(width * scale))), "bicubic")
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(small), quality=quality, colorspace="RGB", colorsubsampling="420")
    )


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of ``[h, w, 4]``, RGBA, as an overlay is."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def is_pil(value: Any) -> bool:
    """Whether ``value`` is a Pillow picture."""
    return isinstance(value, Image.Image)


# --- helpers -------------------------------------------------------------------------------------------------------


def _decode_jpeg(source: bytes, decoding: Decoding, min_side: int | None) -> Raster:
    if decoding.frame:
        raise InvalidImage(f"there is no frame {decoding.frame}, counted from 0")
    header = _jpeg.read_header(source)
    try:
        return _jpeg.decode(source, header, decoding, min_side)
    except _jpeg.OddLayout:
        return _pillow.decode(source, "JPEG", decoding)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation."""
    turned = _TURNS.get(orientation, _as_is)(pixels)
    return np.ascontiguousarray(turned)


def _as_is(pixels: Pixels) -> Pixels:
    return pixels


_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p[::-1].swapaxes(0, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: p.swapaxes(0, 1)[::-1],
}


def _dtype_remedy(dtype: np.dtype[Any]) -> str:
    if dtype == np.bool_:
        return "array.astype('uint8') * 255"
    if dtype == np.uint16:
        return "(array // 257).astype('uint8')"
    if np.issubdtype(dtype, np.floating):
        return "(array * 255).round().clip(0, 255).astype('uint8') for values in [0, 1]"
    return "array.clip(0, 255).astype('uint8')"
