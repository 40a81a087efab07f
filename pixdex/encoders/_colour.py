"""Colours to sRGB: embedded profiles, the modes of Pillow, transparency.

Profiles are converted with relative colorimetric intent and black point compensation: colours that sRGB has stay as they
are, which is what telling pictures apart by their colours wants; the perceptual intent would move those too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixdex.encoders.decoding import Colour
from pixdex.encoders.port import Pixels
from pixdex.errors import InvalidImage

__all__ = ["apply_in_place", "apply_to_inverted_cmyk", "composite", "to_rgb", "to_srgb"]

Transform: TypeAlias = Callable[[Image.Image], Image.Image]
Scaling: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]

_STRIP = 1 << 20
"""Pixels that are converted at a time, so that a large picture is not held once more in every mode it goes through."""
_MAX_PROFILE = 4 * 1024 * 1024
"""Bytes of a profile; those of presses have two to three million."""
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}
_SAME = 2
"""Grey levels between a profile and sRGB that are not worth a conversion: the many profiles called sRGB differ by them."""


# --- profiles ------------------------------------------------------------------------------------------------------


def to_srgb(profile: bytes, mode: str) -> Transform | None:
    """What takes pictures of ``mode`` (RGB, L, CMYK, LAB) to RGB in sRGB; None where nothing is to be done: no profile,
    a broken one, one for another kind of picture, or sRGB itself.
    """
    return _transform(profile, mode) if 128 < len(profile) <= _MAX_PROFILE else None


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Transform | None:
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space != _SPACES[mode]:
            return None
        transform = _built(opened, mode)
        return None if _changes_nothing(transform, mode) else transform
    except Exception:  # noqa: BLE001 - a broken profile must not cost the picture
        return None


@lru_cache(maxsize=1)
def _lab() -> Transform:
    from PIL import ImageCms

    return _built(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB")


def _built(profile: Any, mode: str) -> Transform:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    applied: Transform = transform.apply
    return applied


def _changes_nothing(transform: Transform, mode: str) -> bool:
    if mode not in ("RGB", "L"):
        return False
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
    probe = Image.fromarray(grid)
    before = np.asarray(probe.convert("RGB"), dtype=np.int16)
    return bool(np.abs(np.asarray(transform(probe), dtype=np.int16) - before).max() <= _SAME)


def apply_in_place(pixels: Pixels, profile: bytes, *, grey: bool) -> None:
    """Convert RGB pixels to sRGB. Grey ones (three equal channels) may have a profile of either kind."""
    by_grey = to_srgb(profile, "L") if grey else None
    by_colour = to_srgb(profile, "RGB")
    for rows in _strips(*pixels.shape[:2]) if by_grey or by_colour else ():
        if by_grey:
            pixels[rows] = np.asarray(by_grey(Image.fromarray(np.ascontiguousarray(pixels[rows, :, 0]))))
        elif by_colour:
            pixels[rows] = np.asarray(by_colour(Image.fromarray(pixels[rows])))


def apply_to_inverted_cmyk(pixels: NDArray[np.uint8], transform: Transform) -> Pixels:
    """RGB from CMYK as JPEG has it, ``[h, w, 4]``, 255 for no ink."""
    result = np.empty((*pixels.shape[:2], 3), dtype=np.uint8)
    for rows in _strips(*pixels.shape[:2]):
        strip = ~pixels[rows]
        inked = Image.frombuffer("CMYK", (strip.shape[1], strip.shape[0]), strip, "raw", "CMYK", 0, 1)
        result[rows] = np.asarray(transform(inked))
    return result


def _strips(height: int, width: int) -> Iterator[slice]:
    step = max(1, _STRIP // width)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


# --- modes of Pillow -----------------------------------------------------------------------------------------------


def to_rgb(image: Image.Image, background: Colour) -> Pixels:
    """The pixels of a loaded Pillow picture in sRGB: transparency composited, wide samples scaled.

    Raises:
        InvalidImage: the picture is empty, or of a mode without a meaning in RGB.
    """
    if 0 in image.size:
        raise InvalidImage(f"a picture of {image.width} x {image.height} pixels")
    converted = _converter(image, background)
    result = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for rows in _strips(image.height, image.width):
        whole = rows.stop - rows.start == image.height
        strip = image if whole else image.crop((0, rows.start, image.width, rows.stop))
        result[rows] = np.asarray(converted(strip))
    return result


def composite(image: Image.Image, background: Colour) -> Pixels:
    """An RGBA picture over a colour."""
    under = Image.new("RGBA", image.size, (*background, 255))
    return np.array(Image.alpha_composite(under, image).convert("RGB"))


def _converter(image: Image.Image, background: Colour) -> Callable[[Image.Image], Pixels | Image.Image]:
    """What makes RGB of a strip of the picture."""
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) else b""
    if image.mode == "LAB":
        return _lab()
    if image.mode == "CMYK" and (transform := to_srgb(profile, "CMYK")):
        return transform
    if not image.mode.startswith(("I", "F")):
        grey = image.mode in ("1", "L", "LA", "La")
        transparent = image.has_transparency_data
        return lambda strip: _by_profile(strip, profile, background, grey=grey, transparent=transparent)
    scaled = _over_257 if image.mode.startswith("I;16") else _scale(image)
    key = image.info.get("transparency")
    return lambda strip: _grey(np.asarray(strip), scaled, profile, key, background)


def _by_profile(
    strip: Image.Image, profile: bytes, background: Colour, *, grey: bool, transparent: bool
) -> Pixels | Image.Image:
    if not profile:
        return composite(strip.convert("RGBA"), background) if transparent else _as_rgb(strip)
    with_alpha = strip.convert("RGBA") if transparent else None
    pixels = np.array(with_alpha.convert("RGB") if with_alpha else strip.convert("RGB"))
    apply_in_place(pixels, profile, grey=grey)
    if with_alpha is None:
        return pixels
    colours = Image.fromarray(pixels)
    colours.putalpha(with_alpha.getchannel("A"))
    return composite(colours, background)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(
    values: NDArray[Any],
    scaled: Scaling,
    profile: bytes,
    key: object,
    background: Colour,
) -> Pixels:
    """RGB of wide grey samples; ``key`` is the sample that is transparent."""
    bytes_ = np.rint(np.clip(scaled(values), 0, 255)).astype(np.uint8)
    pixels = np.repeat(bytes_[:, :, None], 3, axis=2)
    apply_in_place(pixels, profile, grey=True)
    if isinstance(key, int):
        pixels[values == key] = background
    return pixels


def _over_257(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) / np.float32(257)


def _scale(image: Image.Image) -> Scaling:
    """To 0-255 from 32-bit integers or floats, which don't say what white is: [0, 1], [0, 255] and [0, 65535] are
    recognised by their largest value, any other range is stretched.
    """
    low, high = _range(image)
    if low < 0 or high > 65535:
        offset, factor = low, 255 / (high - low) if high > low else 0.0
    else:
        offset, factor = 0.0, 255.0 if high <= 1 else 1.0 if high <= 255 else 1 / 257
    return lambda values: (np.where(np.isfinite(values), values, 0.0) - offset) * factor


def _range(image: Image.Image) -> tuple[float, float]:
    """The least and the largest finite sample; what is not finite counts as 0."""
    low, high = np.inf, -np.inf
    for rows in _strips(image.height, image.width):
        values = np.asarray(image.crop((0, rows.start, image.width, rows.stop)), dtype=np.float64)
        values = np.where(np.isfinite(values), values, 0.0)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high
