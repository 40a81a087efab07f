"""From pixels of any size to the model's input, by the values of a transformers ``preprocessor_config.json``.

Our own code on purpose: the library's processors change with its versions and with what else is installed, and what
happens to a picture before the model is part of the fingerprint. Resizing and cropping stay in uint8 and run
in the decoding threads; normalization runs on whole batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex.encoders._digest import digest_of
from pixdex.encoders.images import Resample, center_crop, resize
from pixdex.encoders.places import Window
from pixdex.encoders.port import Pixels
from pixdex.errors import ConfigError

__all__ = ["Preprocess"]

_VERSION = 1
"""Raised when the same values would give other pixels."""
_RESAMPLE: dict[int, Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_EXTREME = 8
"""Beyond this ratio of sides a picture is cropped before it is resized: the rest would be cropped away anyway, after it
had been blown up to any size."""

Size = tuple[int, int]
Triple = tuple[float, float, float]

_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_OPENAI = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_CROP = {"do_center_crop": True, "crop_size": 224}
_MOBILENET = {**_HALF, **_CROP, "size": {"shortest_edge": 256}, "resample": 2}
_CLIP = {**_OPENAI, **_CROP, "size": {"shortest_edge": 224}, "resample": 3}
_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "ViT": {**_HALF, "size": 224, "resample": 2},
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "Siglip": {**_HALF, "size": 224, "resample": 3},
    "ConvNext": {**_HALF, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256, "resample": 3},
    "MobileNetV1": _MOBILENET,
    "MobileNetV2": _MOBILENET,
    "EfficientNet": {**_HALF, "size": 346, "crop_size": 289, "resample": 3, "include_top": True},
    "DINOv3ViT": {**_IMAGENET, "size": 224, "resample": 2},
}
"""Defaults of the image processors, by the stem of their class names."""
_STEPS = frozenset({
    "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels",
})  # fmt: skip
"""Steps that are followed, or that pixels here have behind them, or that are not about pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How pixels become model input.

    Attributes:
        resize_to: (height, width), aspect ratio not kept; None: see ``shortest_edge``.
        shortest_edge: resize so that the shorter side has this length, aspect ratio kept; None: no such resize.
        crop: (height, width) of the centre crop that follows, or None.
        resample: the resize filter, always antialiased.
        scale: factor on the uint8 values.
        mean: subtracted from each channel after ``scale``.
        std: each channel is divided by it after that.
    """

    resize_to: Size | None = None
    shortest_edge: int | None = None
    crop: Size | None = None
    resample: Resample = "bicubic"
    scale: float = 1 / 255
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.resize_to is not None and self.shortest_edge is not None:
            raise ConfigError("preprocessing: a fixed size and a shortest edge exclude each other")
        if self.resize_to is None and self.crop is None:
            raise ConfigError("preprocessing: without a fixed size or a crop, pictures would come out in many sizes")
        if not all(self.std):
            raise ConfigError("preprocessing: a standard deviation of 0")

    @classmethod
    def from_transformers(cls, values: Mapping[str, Any]) -> Preprocess:
        """Read the values of a ``preprocessor_config.json``.

        Raises:
            ConfigError: values that this code does not follow.
        """
        try:
            return _read(values)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"preprocessor_config.json cannot be followed: {error!r}") from error

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of ``to_json``.

        Raises:
            ConfigError: not such values.
        """
        pairs: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        try:
            return cls(**pairs)
        except TypeError as error:
            raise ConfigError(f"preprocessing cannot be read: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The values as a JSON object."""
        return cast("dict[str, Any]", orjson.loads(orjson.dumps(asdict(self))))

    @property
    def size(self) -> Size:
        """(height, width) of what comes out."""
        return self.crop or self.resize_to or (0, 0)

    @property
    def min_side(self) -> int | None:
        """A picture whose shorter side has more pixels may be decoded at a fraction that keeps so many.

        Twice the length that the side is resized to: an antialiased resize from there sees what it would have
        seen. None where nothing is resized, since a crop alone counts pixels of the full picture.
        """
        if self.resize_to is not None:
            return 2 * min(self.resize_to)
        return None if self.shortest_edge is None else 2 * self.shortest_edge

    def digest(self) -> str:
        """32 hexadecimal characters over everything that shapes the result."""
        return digest_of({"version": _VERSION, **self.to_json()})

    def fit(self, pixels: Pixels) -> Pixels:
        """Resize and crop: uint8 ``[height, width, 3]`` of ``size``."""
        if self.resize_to is not None:
            pixels = resize(pixels, self.resize_to, self.resample)
        elif self.shortest_edge is not None:
            pixels = _trim(pixels)
            pixels = resize(pixels, _keep_ratio(pixels.shape[0], pixels.shape[1], self.shortest_edge), self.resample)
        return pixels if self.crop is None else center_crop(pixels, self.crop)

    def window(self, height: int, width: int) -> Window:
        """What ``fit`` leaves of a picture of so many pixels: the part of it that the model sees."""
        if self.resize_to is None and self.shortest_edge is not None:
            kept = _kept(height, width)
            seen = _keep_ratio(*kept, self.shortest_edge)
        else:
            kept = height, width
            seen = self.resize_to or kept
        crop = self.crop or seen
        y, high = _span(height, kept[0], seen[0], crop[0])
        x, wide = _span(width, kept[1], seen[1], crop[1])
        return Window(x, y, wide, high)

    def normalize(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 ``[n, 3, height, width]`` from uint8 ``[n, height, width, 3]``."""
        factor = np.asarray([self.scale / s for s in self.std], dtype=np.float32)
        offset = np.asarray([m / s for m, s in zip(self.mean, self.std, strict=True)], dtype=np.float32)
        return np.ascontiguousarray((batch * factor - offset).transpose(0, 3, 1, 2))

    def apply(self, pixels: Pixels) -> NDArray[np.float32]:
        """The model's input for one picture: float32 ``[3, height, width]``."""
        result: NDArray[np.float32] = self.normalize(self.fit(pixels)[None])[0]
        return result


def _read(values: Mapping[str, Any]) -> Preprocess:
    family = _family(values)
    values = {**family, **values}
    _require_known(values)
    crop = _pair(values.get("crop_size")) if values.get("do_center_crop", False) else None
    resize_to, edge = None, None
    if values.get("do_resize", True):
        share = values.get("crop_pct")
        resize_to, edge = _target(values["size"], square=crop is None and share is None and "crop_pct" not in family)
        if share is not None and edge is not None:
            resize_to, edge, crop = _with_crop_share(edge, float(share))
    mean, std = _normalization(values)
    return Preprocess(
        resize_to=resize_to,
        shortest_edge=edge,
        crop=crop,
        resample=_RESAMPLE[int(values.get("resample", 2))],
        scale=float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0,
        mean=mean,
        std=std,
    )


def _family(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the class of the processor fills in where its file is silent; old files are."""
    name = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    for suffix in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(suffix)
    return _FAMILIES.get(name, {})


def _require_known(values: Mapping[str, Any]) -> None:
    """Refuse steps that this code would leave out."""
    for key, value in values.items():
        if key.startswith("do_") and value and key not in _STEPS:
            raise ConfigError(f"preprocessor_config.json: {key} is not supported")


def _normalization(values: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """(mean, std) that do in one step what the processor does in up to three.

    EfficientNet's may subtract 1 after the scaling, and divide by the standard deviation once more at the end.
    """
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if values.get("do_normalize", True):
        mean, std = _triple(values["image_mean"]), _triple(values["image_std"])
    if values.get("rescale_offset") and values.get("do_rescale", True):
        mean = _triple([m + 1 for m in mean])
    if values.get("include_top"):
        std = _triple([s * t for s, t in zip(std, _triple(values["image_std"]), strict=True)])
    return mean, std


def _target(size: object, *, square: bool) -> tuple[Size | None, int | None]:
    """(fixed size, shortest edge), one of them None. A single number is the old spelling, of a fixed size if ``square``."""
    if isinstance(size, int):
        return ((size, size), None) if square else (None, size)
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return None, int(size["shortest_edge"])
    return _pair(size), None


def _with_crop_share(edge: int, share: float) -> tuple[Size | None, int | None, Size | None]:
    """ConvNeXt's rule: small inputs are cropped out of a larger resize, from 384 on the picture is squeezed."""
    if edge >= 384:
        return (edge, edge), None, None
    return None, int(edge / share), (edge, edge)


def _pair(size: object) -> Size:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise ConfigError(f"preprocessor_config.json: a size of {size!r} is not supported")


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _keep_ratio(height: int, width: int, edge: int) -> Size:
    if height <= width:
        return edge, int(edge * width / height)
    return int(edge * height / width), edge


def _trim(pixels: Pixels) -> Pixels:
    kept = _kept(pixels.shape[0], pixels.shape[1])
    return pixels if kept == pixels.shape[:2] else center_crop(pixels, kept)


def _kept(height: int, width: int) -> Size:
    """What is left of an extremely long picture."""
    longest = _EXTREME * min(height, width)
    return min(height, longest), min(width, longest)


def _span(whole: int, kept: int, seen: int, crop: int) -> tuple[float, float]:
    """Start and length, in fractions of a side of ``whole`` pixels, of which the middle ``kept`` were resized to ``seen``,
    and ``crop`` cut out or bordered as ``center_crop`` does.
    """
    start = (seen - crop) // 2  # below zero where there are borders: of an odd pixel more on the near side, as there
    scale = kept / seen
    return ((whole - kept) // 2 + start * scale) / whole, crop * scale / whole
