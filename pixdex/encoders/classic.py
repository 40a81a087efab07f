"""``classic``: vectors from colour, gradients and layout; nothing is trained, nothing is downloaded.

Good for finding edited copies of a picture (recompressed, scaled, cropped, mirrored, turned, recoloured, partly covered) and
pictures of like colours and layout. Not good for *what is shown*: two dogs on different lawns are strangers to it, and two
beaches may not be. For categories use a trained encoder (``hf:...``).

A picture is resized to 128 x 128 and described by windows of two sizes on a grid. A window holds gradient energy in eight
directions and brightness in each of its quarters, and its mean colour. It is turned and mirrored into a canonical pose, so
that the same window of a mirrored or turned copy gives the same descriptor. These are the tokens. The vector has three
blocks, each of length one before it is weighted:

- bag: random Fourier features of the tokens, averaged (an efficient match kernel; Bo, Sminchisescu 2009; Rahimi, Recht
  2007): how many windows of two pictures match, wherever they are. What the windows of pink noise give is subtracted: any
  two pictures have that in common;
- colour: a soft histogram in an opponent colour space, square-rooted;
- layout: gradient energy on a coarse grid as a mirror-symmetric part and the size of what mirroring changes.

Flat black or white areas (the frame of a turned scan, an overlaid label) and their edges are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders._digest import digest_of, fingerprint_of
from pixdex.encoders.images import resize
from pixdex.encoders.port import Features, Pixels
from pixdex.encoders.tokens import quantize, unit
from pixdex.errors import ConfigError
from pixdex.spec import Metric, TokenSpec

__all__ = ["Classic", "load"]

Array = NDArray[np.float32]

_VERSION = 1
"""The algorithm, for the fingerprint: raised whenever a vector or token would come out otherwise."""
_SIDE = 128
_CELL = 8
_GRID = _SIDE // _CELL
_SCALES = ((4, 1), (8, 2))
"""Windows: (side, step) in cells."""
_BAG = 256
_SHARPNESS = 30.0
"""Of the match kernel exp(-sharpness |x - y|^2 / 2) between unit tokens."""
_LAYOUT_GRID = 4
_HISTOGRAM = (4, 5, 5)
"""Bins of brightness, red-green, yellow-blue."""
_WEIGHTS = {"bag": 1.0, "colour": 0.5, "layout": 1.0}
_COLOUR_IN_TOKEN, _BRIGHTNESS_IN_TOKEN = 0.2, 0.5
_DIRECTIONS = np.arange(8) * (np.pi / 4)
_TOKENS = sum(((_GRID - side) // step + 1) ** 2 for side, step in _SCALES)
_TOKEN_DIM = 4 * 8 + 4 + 2


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Sums over the 16 x 16 cells of n pictures.

    ``energy`` ``[n, 16, 16, 8]`` by direction; ``colour`` ``[n, 16, 16, 3]`` (brightness, red-green, yellow-blue);
    ``alive`` ``[n, 16, 16, 1]`` the share of pixels that count.
    """

    energy: Array
    colour: Array
    alive: Array


class Classic:
    """The training-free encoder; the port's ``Encoder``. It has no options."""

    name = "classic"
    reference = "classic"
    metric = Metric.COSINE
    batch_size = 16
    dim = _BAG + int(np.prod(_HISTOGRAM)) + 2 * _LAYOUT_GRID**2 * 8

    def __init__(self) -> None:
        parts = {
            "config": digest_of({"algorithm": "classic", "version": _VERSION}),
            "preprocessing": digest_of({"resize": [_SIDE, _SIDE], "resample": "bilinear"}),
        }
        self.fingerprint = fingerprint_of(self.name, parts)
        self.token_spec: TokenSpec | None = TokenSpec(
            count=_TOKENS, dim=_TOKEN_DIM, dtype="int8", fingerprint=self.fingerprint
        )

    def __repr__(self) -> str:
        return "Classic()"

    def prepare(self, pixels: Pixels) -> NDArray[np.uint8]:
        """uint8 ``[128, 128, 3]``."""
        return resize(pixels, (_SIDE, _SIDE), "bilinear")

    def encode(self, prepared: Sequence[NDArray[Any]], *, tokens: bool = False) -> Features:
        """Unit vectors float32 ``[n, dim]``, and int8 tokens ``[t, 38]`` each when asked for.

        A picture without any structure (one flat colour) has a single token.
        """
        vectors = np.empty((len(prepared), self.dim), dtype=np.float32)
        kept: list[NDArray[np.int8]] = []
        for start in range(0, len(prepared), self.batch_size):
            batch = np.stack(prepared[start : start + self.batch_size])
            vectors[start : start + len(batch)], described, valid = _describe(batch)
            if tokens:
                kept += [quantize(rows[mask]) for rows, mask in zip(described, valid, strict=True)]
        return Features(vectors, tuple(kept) if tokens else None)

    def token_places(self, pictures: Sequence[Pixels]) -> tuple[NDArray[np.float32], ...]:
        """See ``Encoder``: the windows, of which some lie within others."""
        windows = _boxes()
        valid = [_tokens_of(_analyse(self.prepare(pixels)[None])[0])[1][0] for pixels in pictures]
        return tuple(windows[mask] for mask in valid)


def load(rest: str) -> Classic:
    """The encoder of ``classic``.

    Raises:
        ConfigError: ``rest`` is not empty: it has no options.
    """
    if rest:
        raise ConfigError(f"classic:{rest}: classic has no options")
    return Classic()


def _describe(batch: NDArray[np.uint8]) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Vectors ``[n, dim]``, unit tokens ``[n, t, 38]``, and which of them count ``[n, t]``."""
    cells, opponent, alive = _analyse(batch)
    tokens, valid = _tokens_of(cells)
    blocks = {
        "bag": _bag(tokens, valid) - _ordinary(),
        "colour": _histogram(opponent, alive),
        "layout": _layout(cells.energy),
    }
    weighted = [np.float32(np.sqrt(_WEIGHTS[name])) * unit(block) for name, block in blocks.items()]
    return unit(np.concatenate(weighted, axis=1)), tokens, valid


def _analyse(batch: NDArray[np.uint8]) -> tuple[_Cells, Array, Array]:
    """The cells of pictures, their opponent colours, and which pixels count."""
    opponent = _opponent(batch)
    across, down = _gradients(opponent[..., 0])
    alive = _alive(batch, np.hypot(across, down))
    return _cells(opponent, across, down, alive), opponent, alive


def _tokens_of(cells: _Cells) -> tuple[Array, NDArray[np.bool_]]:
    """Unit tokens ``[n, t, 38]``, and which of them count ``[n, t]``: one at least of each picture."""
    described = [_windows(cells, side, step) for side, step in _SCALES]
    tokens = np.concatenate([rows for rows, _ in described], axis=1)
    valid = np.concatenate([mask for _, mask in described], axis=1)
    valid[:, 0] |= ~valid.any(axis=1)
    return tokens, valid


def _opponent(batch: NDArray[np.uint8]) -> Array:
    """Brightness in [0, 1], red minus green, yellow minus blue: ``[n, h, w, 3]``."""
    mix = np.array([[0.299, 1.0, 0.5], [0.587, -1.0, 0.5], [0.114, 0.0, -1.0]], dtype=np.float32) / np.float32(255)
    opponent: Array = batch.astype(np.float32) @ mix
    return opponent


def _gradients(brightness: Array) -> tuple[Array, Array]:
    padded = np.pad(brightness, ((0, 0), (1, 1), (1, 1)), "edge")
    return padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]


def _alive(batch: NDArray[np.uint8], steepness: Array) -> Array:
    """1 where a pixel counts, 0 in and next to flat black or white; all 1 where hardly anything would be left."""
    extreme = (batch.max(axis=-1) <= 10) | (batch.min(axis=-1) >= 245)
    dead = _grown(_grown(extreme & (steepness < 0.03)))
    dead[dead.mean(axis=(1, 2)) > 0.95] = False
    return (~dead).astype(np.float32)


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and its eight neighbours."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:]


def _cells(opponent: Array, across: Array, down: Array, alive: Array) -> _Cells:
    weight: Array = np.divide(alive, np.maximum(np.hypot(across, down), np.float32(1e-6)), dtype=np.float32)
    energy = np.empty((len(alive), _GRID, _GRID, len(_DIRECTIONS)), dtype=np.float32)
    for index, angle in enumerate(_DIRECTIONS):
        along = np.maximum(across * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle)), np.float32(0))
        energy[..., index] = _cell_means((np.square(along, dtype=np.float32) * weight)[..., None])[..., 0]
    return _Cells(energy, _cell_means(opponent * alive[..., None]), _cell_means(alive[..., None]))


def _cell_means(values: Array) -> Array:
    count, channels = len(values), values.shape[-1]
    by_cell = values.reshape(count, _GRID, _CELL, _GRID, _CELL, channels)
    means: Array = by_cell.sum(axis=2).sum(axis=3) / np.float32(_CELL * _CELL)
    return means


# --- tokens --------------------------------------------------------------------------------------------------------


def _windows(cells: _Cells, side: int, step: int) -> tuple[Array, NDArray[np.bool_]]:
    """The unit descriptors of all windows of a size, ``[n, t, 38]``, and which have content, ``[n, t]``."""
    energy = np.maximum(_quarters(cells.energy, side, step), 0)  # sums of differences: may fall below zero
    alive = np.maximum(_quarters(cells.alive, side, step), 0)[..., 0]
    colour = _quarters(cells.colour, side, step) / np.maximum(alive, np.float32(1e-3))[..., None]
    share = alive / np.maximum(alive.sum(axis=-1, keepdims=True), np.float32(1e-3))
    mean = (colour * share[..., None]).sum(axis=2)
    contrast = (colour[..., 0] - mean[..., :1]) * (alive > 1e-3)
    energy, contrast = _canonical(energy.reshape(*energy.shape[:2], 32), contrast)
    valid = (alive.sum(axis=-1) > 0.5 * side * side) & (energy.sum(axis=-1) > 1e-3)
    directions = unit(np.sqrt(energy))
    directions -= np.float32(0.6) * directions.mean(axis=-1, keepdims=True)  # what all windows share tells nothing
    parts = [
        directions,
        np.float32(_BRIGHTNESS_IN_TOKEN) * _damped(contrast, 0.05),
        np.float32(_COLOUR_IN_TOKEN) * _damped(mean[..., 1:], 0.15),
    ]
    descriptors = np.concatenate(parts, axis=-1)
    descriptors[..., 0] += np.float32(1e-4)  # never all zeros: a flat grey picture has a token too
    return unit(descriptors), valid


def _boxes() -> Array:
    """Where all windows lie, ``[t, 4]`` in fractions of a picture: x, y, width, height; in the order of tokens."""
    rows = []
    for side, step in _SCALES:
        starts = np.arange(0, _GRID - side + 1, step)
        y, x = (at.ravel() for at in np.meshgrid(starts, starts, indexing="ij"))
        rows.append(np.stack([x, y, np.full(len(x), side), np.full(len(x), side)], axis=1))
    boxes: Array = (np.concatenate(rows) / _GRID).astype(np.float32)
    return boxes


def _quarters(cells: Array, side: int, step: int) -> Array:
    """Sums over the four quarters of each window, ``[n, t, 4, c]``: top left, top right, bottom left, bottom right."""
    count, channels = len(cells), cells.shape[-1]
    table = np.zeros((count, _GRID + 1, _GRID + 1, channels), dtype=np.float64)
    table[:, 1:, 1:] = cells.cumsum(axis=1, dtype=np.float64).cumsum(axis=2)
    half, starts = side // 2, np.arange(0, _GRID - side + 1, step)

    def box(row: int, column: int) -> NDArray[np.float64]:
        rows, columns = (starts + row)[:, None], starts + column
        corners = table[:, rows + half, columns + half] + table[:, rows, columns]
        inner: NDArray[np.float64] = corners - table[:, rows, columns + half] - table[:, rows + half, columns]
        return inner

    boxes = [box(0, 0), box(0, half), box(half, 0), box(half, half)]
    return np.stack(boxes, axis=3).reshape(count, len(starts) ** 2, 4, channels).astype(np.float32)


def _canonical(energy: Array, contrast: Array) -> tuple[Array, Array]:
    """Each window mirrored and transposed so that it brightens to the right and downwards, and more to the right."""
    right = contrast[..., 1] + contrast[..., 3] - contrast[..., 0] - contrast[..., 2]
    below = contrast[..., 2] + contrast[..., 3] - contrast[..., 0] - contrast[..., 1]
    pose = (right < 0) * 4 + (below < 0) * 2 + (np.abs(below) > np.abs(right))
    by_direction, by_quarter = _poses()
    return (
        np.take_along_axis(energy, by_direction[pose], axis=-1),
        np.take_along_axis(contrast, by_quarter[pose], axis=-1),
    )


@lru_cache(maxsize=1)
def _poses() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each of the eight poses, where the values of a window come from: ``[8, 32]`` and ``[8, 4]``."""
    directions = np.arange(8)
    by_direction, by_quarter = [], []
    for pose in range(8):
        window, quarters = np.arange(32).reshape(2, 2, 8), np.arange(4).reshape(2, 2)
        if pose & 4:
            window, quarters = window[:, ::-1][..., (4 - directions) % 8], quarters[:, ::-1]
        if pose & 2:
            window, quarters = window[::-1][..., -directions % 8], quarters[::-1]
        if pose & 1:
            window, quarters = window.transpose(1, 0, 2)[..., (2 - directions) % 8], quarters.T
        by_direction.append(window.ravel())
        by_quarter.append(quarters.ravel())
    return np.array(by_direction), np.array(by_quarter)


def _damped(values: Array, floor: float) -> Array:
    """Scaled towards length one, but not where there is next to nothing."""
    scaled: Array = values / (np.sqrt(np.square(values).sum(axis=-1, keepdims=True)) + np.float32(floor))
    return scaled


# --- blocks of the vector ------------------------------------------------------------------------------------------


def _bag(tokens: Array, valid: NDArray[np.bool_]) -> Array:
    phases = tokens @ _projection()
    features = np.concatenate([np.cos(phases), np.sin(phases)], axis=-1)
    share: Array = valid / valid.sum(axis=1, keepdims=True).astype(np.float32)
    averaged: Array = np.einsum("ntd,nt->nd", features, share)
    return averaged


@lru_cache(maxsize=1)
def _ordinary() -> Array:
    """The mean bag of pictures of coloured pink noise, ``[bag]``: statistics of photos, and nothing to see."""
    mean: Array = np.mean(
        [_bag(*_tokens_of(_analyse(picture[None])[0]))[0] for picture in _pink_noise()], axis=0, dtype=np.float32
    )
    return mean


def _pink_noise() -> NDArray[np.uint8]:
    """uint8 ``[24, 128, 128, 3]``: amplitudes fall with frequency to the power 1.4."""
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.fftfreq(_SIDE))
    frequency[0, 0] = 1
    white = _normal("pixdex classic noise", 24 * 3 * _SIDE * _SIDE).reshape(24, 3, _SIDE, _SIDE)
    pink = np.fft.ifft2(np.fft.fft2(white) / frequency**1.4).real
    pink /= pink.std(axis=(2, 3), keepdims=True)
    mix = np.array([[1.0, 1.0, 1.0], [0.3, -0.15, 0.0], [0.0, 0.3, -0.3]])  # brightness, and two colours less strongly
    colours = np.einsum("ncij,ck->nijk", pink, mix)
    pictures: NDArray[np.uint8] = np.clip(np.rint(127 + 55 * colours), 0, 255).astype(np.uint8)
    return pictures


@lru_cache(maxsize=1)
def _projection() -> Array:
    """Normal numbers ``[38, bag / 2]``, scaled for the sharpness of the kernel."""
    normal = _normal("pixdex classic projection", _TOKEN_DIM * _BAG // 2).reshape(_TOKEN_DIM, _BAG // 2)
    projection: Array = (normal * np.sqrt(_SHARPNESS)).astype(np.float32)
    return projection


def _normal(seed: str, count: int) -> NDArray[np.float64]:
    """Normal numbers from a hash: numpy does not promise the same random numbers for ever."""
    whole = np.frombuffer(hashlib.shake_128(seed.encode()).digest(8 * count), dtype="<u4")
    uniform = (whole.astype(np.float64) + 0.5) / 2**32
    normal: NDArray[np.float64] = np.sqrt(-2 * np.log(uniform[:count])) * np.cos(2 * np.pi * uniform[count:])
    return normal


def _histogram(opponent: Array, alive: Array) -> Array:
    sample, weight = opponent[:, ::2, ::2], alive[:, ::2, ::2]
    count = len(sample)
    bright = _soft_bins(sample[..., 0], _HISTOGRAM[0]) * weight[..., None]
    rooted_chroma = np.sign(sample[..., 1:]) * np.sqrt(np.abs(sample[..., 1:]))
    chroma: Array = np.clip(rooted_chroma / np.float32(1.6) + np.float32(0.5), 0, 1)
    first, second = (_soft_bins(chroma[..., i], _HISTOGRAM[i + 1]) for i in (0, 1))
    pairs = (bright[..., :, None] * first[..., None, :]).reshape(count, -1, _HISTOGRAM[0] * _HISTOGRAM[1])
    counts = pairs.transpose(0, 2, 1) @ second.reshape(count, -1, _HISTOGRAM[2])
    rooted: Array = np.sqrt(counts.reshape(count, -1))
    return rooted


def _soft_bins(values: Array, bins: int) -> Array:
    """Each value in [0, 1] shared between its two nearest bin centres."""
    at = values[..., None] * np.float32(bins - 1)
    shares: Array = np.maximum(0, 1 - np.abs(at - np.arange(bins, dtype=np.float32)))
    return shares


def _layout(energy: Array) -> Array:
    count, step = len(energy), _GRID // _LAYOUT_GRID
    coarse = energy.reshape(count, _LAYOUT_GRID, step, _LAYOUT_GRID, step, 8).mean(axis=(2, 4))
    coarse = np.sqrt(coarse + coarse[..., (np.arange(8) + 4) % 8])  # either side of an edge may be the brighter one
    mirrored = coarse[:, :, ::-1][..., (4 - np.arange(8)) % 8]
    both = np.concatenate([coarse + mirrored, np.abs(coarse - mirrored)], axis=-1)
    flat: Array = both.reshape(count, -1)
    return flat
