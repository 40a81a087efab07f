"""Bytes, arrays and Pillow pictures to pixels: upright, three channels, eight bits.

Orientation is always applied, transparency is composited, wider samples are scaled instead of clipped, and a
damaged file is refused instead of half read. Colour profiles are not applied: the values are taken as sRGB.

JPEG goes through simplejpeg in strict mode, because Pillow accepts corrupt scans silently. Everything else goes
through the Pillow plugin that the first bytes name: ``Image.open`` would also try formats that start other programs, and
its size check warns through process-wide state. (The plugins of TIFF and WebP check by that state themselves: there
the smaller of the two limits holds.)
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import import_module
from typing import Any, Literal, TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pixdex.encoders import exif
from pixdex.encoders.port import Pixels
from pixdex.errors import InvalidImage

__all__ = [
    "SIGNATURE_BYTES",
    "WHITE",
    "Decoded",
    "Limits",
    "Resample",
    "center_crop",
    "decode",
    "from_array",
    "from_pil",
    "is_pil",
    "looks_like_picture",
    "resize",
    "thumbnail_jpeg",
]

Resample: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Colour: TypeAlias = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
"""What transparent parts show unless another colour is named."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a file may cost, checked before anything is decoded."""

    max_bytes: int = 256 * 1024 * 1024
    """Encoded size."""
    max_pixels: int = 200_000_000
    """Width times height."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """A decoded picture.

    Attributes:
        pixels: uint8 ``[height, width, 3]``, upright RGB.
        width: of the upright picture, pixels.
        height: of the upright picture, pixels.
        taken: EXIF DateTimeOriginal in UTC. EXIF without an offset does not say which time zone it means: its
            digits are then taken as UTC.
        place: EXIF GPS as (latitude, longitude), degrees.
        format: ``JPEG``, ``PNG``, ``WEBP``, ``GIF``, ``BMP``, ``TIFF``, ``AVIF`` or ``PPM``.
    """

    pixels: Pixels
    width: int
    height: int
    taken: datetime | None
    place: tuple[float, float] | None
    format: str


def decode(source: bytes, limits: Limits = Limits(), *, background: Colour = WHITE) -> Decoded:
    """Decode a picture file; of an animation, its first frame.

    Raises:
        InvalidImage: the bytes are not a usable picture; the message is the reason.
    """
    _check_bytes(source, limits)
    name = _sniff(source)
    if name == "JPEG":
        pixels, metadata = _decode_jpeg(source, limits)
    else:
        pixels, metadata = _decode_with_pillow(source, name, limits, background)
    upright = _upright(pixels, metadata.orientation)
    return Decoded(
        pixels=upright,
        width=upright.shape[1],
        height=upright.shape[0],
        taken=metadata.taken,
        place=metadata.place,
        format=name,
    )


def from_pil(image: Image.Image, *, background: Colour = WHITE) -> Pixels:
    """The pixels of a Pillow picture, by the rules of ``decode``: orientation applied, transparency composited.

    Raises:
        InvalidImage: the picture is empty, cannot be loaded, or is of a mode without a meaning in RGB.
    """
    try:
        pixels = _to_rgb(image, background)
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
        return _composite(Image.fromarray(np.ascontiguousarray(array)), background)
    return np.ascontiguousarray(array)


def resize(pixels: Pixels, size: tuple[int, int], resample: Resample = "bicubic") -> Pixels:
    """Resize to ``size`` (height, width), antialiased; uint8 ``[height, width, 3]``."""
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


# --- bytes ---------------------------------------------------------------------------------------------------------


def _check_bytes(source: bytes, limits: Limits) -> None:
    if not source:
        raise InvalidImage("empty file")
    if len(source) > limits.max_bytes:
        raise InvalidImage(f"{_mega(len(source))} megabytes, the limit is {_mega(limits.max_bytes)}")


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise InvalidImage(f"a picture of {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise InvalidImage(f"{_mega(width * height)} megapixels, the limit is {_mega(limits.max_pixels)}")


def _check_pillows_limit(name: str, width: int, height: int) -> None:
    """Refuse what the TIFF plugin would warn about half-way."""
    if name == "TIFF" and Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise InvalidImage(f"more pixels than PIL.Image.MAX_IMAGE_PIXELS allows for a {name}")


def _mega(number: int) -> str:
    return f"{number / 1e6:.0f}" if number >= 10_000_000 else f"{number / 1e6:.3g}"


def _sniff(source: bytes) -> str:
    """The format that the first bytes name."""
    for name, signature in _SIGNATURES:
        if source.startswith(signature):
            return name
    if source[:4] == b"RIFF" and source[8:12] == b"WEBP":
        return "WEBP"
    if source[4:8] == b"ftyp":
        brands = source[8:12], source[16:32]
        if b"avi" in brands[0] or b"avif" in brands[1]:
            return "AVIF"
        if brands[0] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
            raise InvalidImage("HEIC is not read: convert it to JPEG or AVIF")
    raise InvalidImage("not a picture")


_SIGNATURES = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("BMP", b"BM"),
    ("TIFF", b"II*\x00"),
    ("TIFF", b"MM\x00*"),
    ("PPM", b"P4"),
    ("PPM", b"P5"),
    ("PPM", b"P6"),
)


SIGNATURE_BYTES = 12
"""How much of a file ``looks_like_picture`` wants to see."""
_UNMISTAKABLE = frozenset({"JPEG", "PNG", "GIF", "WEBP"})
"""Formats whose signature no other file starts with: two letters, as BMP and PPM have, are in many a text."""


def looks_like_picture(head: bytes) -> bool:
    """Whether the first bytes of a file, whatever it is called, are certainly those of a picture."""
    try:
        return _sniff(head) in _UNMISTAKABLE
    except InvalidImage:
        return False


def is_pil(value: Any) -> bool:
    """Whether ``value`` is a Pillow picture."""
    return isinstance(value, Image.Image)


def _decode_jpeg(source: bytes, limits: Limits) -> tuple[Pixels, exif.Exif]:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(source, strict=False)
    except (ValueError, KeyError) as error:  # KeyError: the header ends early, or its layout is unknown
        raise InvalidImage("truncated or corrupt JPEG: its header cannot be read") from error
    _check_pixels(width, height, limits)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(source, colorspace="RGB", strict=True)
    except ValueError as error:
        # Not a second try with Pillow: it would accept what strict mode refused.
        raise InvalidImage(_jpeg_reason(error)) from error
    return pixels, exif.parse(exif.find_in_jpeg(source))


def _jpeg_reason(error: ValueError) -> str:
    text = str(error).lower()
    return "truncated JPEG" if "premature end" in text or "truncated" in text else f"corrupt JPEG: {error}"


def _decode_with_pillow(source: bytes, name: str, limits: Limits, background: Colour) -> tuple[Pixels, exif.Exif]:
    if name == "PNG" and b"IEND" not in source:  # Pillow is content once the last row is there
        raise InvalidImage("truncated PNG")
    if name == "WEBP":  # its plugin allocates the canvas on opening
        _check_pixels(*_webp_size(source), limits)
    try:
        with _plugin(name)(io.BytesIO(source)) as image:
            _check_pixels(*image.size, limits)
            _check_pillows_limit(name, *image.size)
            pixels = _to_rgb(image, background)
            block = source if name == "TIFF" else image.info.get("exif", b"")
    except InvalidImage:
        raise
    except Exception as error:  # plugins raise anything on damaged files
        raise InvalidImage(_pillow_reason(error, name)) from error
    metadata = exif.parse(block if isinstance(block, bytes) else b"")
    # Pillow turns a TIFF upright as it loads it.
    return pixels, replace(metadata, orientation=1) if name == "TIFF" else metadata


def _pillow_reason(error: Exception, name: str) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory to decode this {name}"
    if isinstance(error, Image.DecompressionBombError):  # the WebP plugin has a limit of its own
        return f"more pixels than PIL.Image.MAX_IMAGE_PIXELS allows for a {name}"
    text = str(error)
    return f"truncated {name}" if "truncated" in text.lower() else f"truncated or corrupt {name}: {text}"


_PLUGINS = {
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "AVIF": ("AvifImagePlugin", "AvifImageFile"),
    "PPM": ("PpmImagePlugin", "PpmImageFile"),
}


def _plugin(name: str) -> Callable[[io.BytesIO], Image.Image]:
    """The Pillow class that reads a format, imported when first needed."""
    module, reader = _PLUGINS[name]
    found: Callable[[io.BytesIO], Image.Image] = getattr(import_module(f"PIL.{module}"), reader)
    return found


def _webp_size(source: bytes) -> tuple[int, int]:
    """Width and height from a WebP header."""
    if len(source) < 30:
        raise InvalidImage("truncated WEBP")
    chunk = source[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(source[24:27], "little"), 1 + int.from_bytes(source[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(source[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(source[26:28], "little") & 0x3FFF, int.from_bytes(source[28:30], "little") & 0x3FFF
    raise InvalidImage("truncated or corrupt WEBP: its header cannot be read")


# --- pixels --------------------------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image, background: Colour) -> Pixels:
    if 0 in image.size:
        raise InvalidImage(f"a picture of {image.width} x {image.height} pixels")
    if image.mode.startswith("I;16"):
        return _grey(_from_16_bit(np.asarray(image).astype(np.float32)))
    if image.mode in ("I", "F"):
        return _grey(_from_wide(np.asarray(image, dtype=np.float64)))
    if image.has_transparency_data:
        return _composite(image.convert("RGBA"), background)
    if image.mode == "LAB":
        raise InvalidImage("pictures in Lab colour are not read: convert it to RGB")
    return np.array(image.convert("RGB"))


def _composite(image: Image.Image, background: Colour) -> Pixels:
    under = Image.new("RGBA", image.size, (*background, 255))
    return np.array(Image.alpha_composite(under, image).convert("RGB"))


def _grey(values: NDArray[np.floating[Any]]) -> Pixels:
    bytes_ = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return np.repeat(bytes_[:, :, None], 3, axis=2)


def _from_16_bit(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return values / np.float32(257)


def _from_wide(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """0-255 from 32-bit integers or floats, which don't say what white is: [0, 1], [0, 255] and [0, 65535] are
    recognised by their largest value, any other range is stretched.
    """
    finite = np.isfinite(values)
    values = np.where(finite, values, 0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        return (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    if high <= 1:
        return values * 255
    return values if high <= 255 else values / 257


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
