"""Picture files through the Pillow plugin that their first bytes name.

``Image.open`` would also try formats that start other programs, and its size check warns through process-wide state.
(The plugins of TIFF and WebP check by that state themselves: there the smaller of the two limits holds.)
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from PIL import Image

from pixdex.encoders import _colour, exif
from pixdex.encoders._formats import Png, check_ppm, check_tiff, lean_gif, plugin, read_png, webp_size
from pixdex.encoders._raster import Raster
from pixdex.encoders.decoding import Colour, Decoding
from pixdex.errors import InvalidImage

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["decode"]

_SAMPLE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes a pixel as Pillow holds it; four for every other mode."""
_BESIDES = {"WEBP": 8, "GIF": 8, "AVIF": 10, "HEIC": 7}
"""Bytes a pixel that the decoder of a format keeps beside that: canvas, previous frame, planes before conversion."""
_RGB = 3
_WHOLE_OR_NOTHING = frozenset({"WEBP", "AVIF", "HEIC"})
"""Formats whose decoders give no part of a frame."""


def decode(source: bytes, name: str, settings: Decoding) -> Raster:
    """The picture; a TIFF, which Pillow turns as it loads it, and HEIC, which its decoder turns, come out upright.

    Raises:
        InvalidImage: the bytes are not a usable picture; the message is the reason.
    """
    settings.limits.check_frame(settings.frame)
    lean, png = source, None
    if name == "PNG":
        png = read_png(source, animated=settings.frame > 0)
        if not png.whole and settings.truncated == "refuse":  # Pillow is content once the last row is there
            raise InvalidImage("truncated PNG")
        lean = png.source
    elif name == "GIF":
        lean = lean_gif(source, settings.frame)
    elif name == "WEBP":
        _check(name, "RGBA", webp_size(source), settings)
    elif name == "TIFF":
        check_tiff(source, settings.frame)
    elif name == "PPM":
        check_ppm(source)
    reader = plugin(name)
    try:
        with reader(io.BytesIO(lean)) as image:
            return _raster(image, source, name, png, settings)
    except InvalidImage:
        raise
    except Exception as error:  # plugins raise anything on damaged files
        raise InvalidImage(_reason(error, name)) from error


def _raster(image: Image.Image, source: bytes, name: str, png: Png | None, settings: Decoding) -> Raster:
    _check(name, image.mode, image.size, settings)
    if settings.frame:
        _seek(image, settings.frame)
        _check(name, image.mode, image.size, settings)
    _load(image, name, settings)
    if png:
        if settings.truncated == "refuse" and settings.frame == 0 and _ends_in_zeros(image) and not png.has_all_rows():
            raise InvalidImage("truncated PNG")
        image.info["icc_profile"] = png.profile
    if name == "PPM" and image.mode == "I":
        image = image.convert("I;16")  # which its samples are: of 32 bits, nobody would know where white is
    pixels = _colour.to_rgb(image, settings.background)
    return Raster(pixels=pixels, width=image.width, height=image.height, metadata=_metadata(image, source, name, png))


def _metadata(image: Image.Image, source: bytes, name: str, png: Png | None) -> exif.Exif:
    block = png.exif if png else source if name == "TIFF" else image.info.get("exif", b"")
    found = exif.parse(block if isinstance(block, bytes) else b"")
    return replace(found, orientation=1) if name in ("TIFF", "HEIC") else found


def _check(name: str, mode: str, size: tuple[int, int], settings: Decoding) -> None:
    """Before anything is decoded: the size, and what decoding would hold."""
    width, height = size
    settings.limits.check_size(width, height)
    if name == "TIFF" and Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise InvalidImage(_over_pillows_limit(name))  # the plugin would warn about it half-way
    each = _SAMPLE_BYTES.get(mode, 4) + _BESIDES.get(name, 0) + _RGB
    settings.limits.check_decoded(width * height * each)


def _seek(image: Image.Image, frame: int) -> None:
    try:
        image.seek(frame)
    except EOFError as error:
        raise InvalidImage(f"there is no frame {frame}, counted from 0") from error


def _load(image: Image.Image, name: str, settings: Decoding) -> None:
    """Decode. Pillow's own switch for damaged files is one for the whole process: here what it had decoded when it gave
    up is taken from it.
    """
    if settings.truncated == "refuse" or name in _WHOLE_OR_NOTHING:
        image.load()
        return
    if name != "TIFF":
        _fill(image, settings.background)
    try:
        image.load()
    except Exception:
        if not _has_pixels(image):
            raise
        file = cast("ImageFile", image)  # as all plugins are
        file.tile = []
        if name == "TIFF":
            file.load_end()  # where it is turned upright
        file.load()
        if _is_flat(image):  # nothing was decoded, or nothing worth it
            raise


def _ends_in_zeros(image: Image.Image) -> bool:
    """Whether the last row may never have been written."""
    return image.crop((0, image.height - 1, image.width, image.height)).getbbox(alpha_only=False) is None


def _is_flat(image: Image.Image) -> bool:
    """Whether all pixels are alike."""
    colours = image.convert("RGB").getcolors(1)
    return colours is not None


def _has_pixels(image: Image.Image) -> bool:
    with suppress(Exception):
        return image.im is not None
    return False


def _fill(image: Image.Image, background: Colour) -> None:
    """What is to be seen where nothing is decoded; of modes whose values are no colours, what Pillow makes it."""
    if image.mode in ("RGB", "RGBA") and not _has_pixels(image):
        image.im = Image.new(image.mode, image.size, background).im


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory to decode this {name}"
    if isinstance(error, Image.DecompressionBombError):  # the WebP plugin has a limit of its own
        return _over_pillows_limit(name)
    text = str(error)
    return f"truncated {name}" if "truncated" in text.lower() else f"truncated or corrupt {name}: {text}"


def _over_pillows_limit(name: str) -> str:
    return f"more pixels than PIL.Image.MAX_IMAGE_PIXELS allows for a {name}"
