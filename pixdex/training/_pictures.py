"""Pictures decoded once and held as tensors, so that every pass over them costs no decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixdex._decoding import Decoders
from pixdex._machine import cores
from pixdex.encoders.decoding import Decoding
from pixdex.encoders.preprocess import Preprocess
from pixdex.errors import ConfigError, InvalidImage
from pixdex.pictures import Item, Readable, load_picture

__all__ = ["Count", "Held", "hold", "larger", "named_count"]

Count: TypeAlias = Callable[[str, int, int], None]
"""Hears what is prepared, how many are done, and of how many."""

_MARGIN = 8 / 7
"""What pictures that are cropped at random are held at, over the size of the crops."""
_MEMORY = 4 << 30
"""Bytes of pictures beyond which they go to a file."""
_AT_ONCE = 512
_FILE = "pictures-{}.npy"


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Pictures of one size.

    Attributes:
        pixels: uint8 ``[n, 3, h, w]``; of more than 4 GiB it is mapped from a file.
        rows: int64 ``[n]``, which of the items they are.
        unusable: (label, reason) of those that are left out.
    """

    pixels: Tensor
    rows: NDArray[np.int64]
    unusable: tuple[tuple[str, str], ...]

    def placed(self, device: torch.device) -> Held:
        """On the device where they take a third of its free memory at most, else here."""
        if device.type != "cuda" or self.pixels.nbytes > torch.cuda.mem_get_info(device)[0] / 3:
            return self
        return replace(self, pixels=self.pixels.to(device))


def larger(preprocess: Preprocess) -> Preprocess:
    """The same at 8/7 of the size, to crop from."""

    def grown(size: tuple[int, int] | None) -> tuple[int, int] | None:
        return None if size is None else (round(size[0] * _MARGIN), round(size[1] * _MARGIN))

    edge = preprocess.shortest_edge
    return replace(
        preprocess,
        resize_to=grown(preprocess.resize_to),
        shortest_edge=None if edge is None else round(edge * _MARGIN),
        crop=grown(preprocess.crop),
    )


def hold(
    items: Sequence[Item],
    preprocess: Preprocess,
    *,
    work: Path,
    name: str,
    count: Callable[[int, int], None] | None = None,
) -> Held:
    """Decode and fit items; what cannot be used is left out and named. ``count`` hears how many are done, of how many.

    Raises:
        ConfigError: none can be used, or the file that they go to cannot be written.
    """
    height, width = preprocess.size
    shape = (len(items), height, width, 3)
    if int(np.prod(shape, dtype=np.int64)) <= _MEMORY:
        pixels = np.empty(shape, dtype=np.uint8)
    else:
        try:
            pixels = np.lib.format.open_memmap(work / _FILE.format(name), "w+", dtype=np.uint8, shape=shape)
        except OSError as error:
            raise ConfigError(f"{work}: no room for {np.prod(shape) / 1e9:.0f} GB of pictures ({error})") from error
    good: list[int] = []
    unusable: list[tuple[str, str]] = []
    decoders = Decoders(partial(load_picture, decoding=Decoding(), min_side=preprocess.min_side))
    with closing(decoders), ThreadPoolExecutor(min(8, cores())) as pool:
        for start in range(0, len(items), _AT_ONCE):
            part = items[start : start + _AT_ONCE]
            for row, made in enumerate(pool.map(partial(_fitted, decoders, preprocess), part), start):
                if isinstance(made, InvalidImage):
                    unusable.append((items[row].label, str(made)))
                else:
                    pixels[len(good)] = made
                    good.append(row)
            if count is not None:
                count(start + len(part), len(items))
    if not good:
        reason = unusable[0][1] if unusable else "there are none"
        raise ConfigError(f"none of {len(items)} pictures can be used: {reason}")
    tensor = torch.from_numpy(pixels[: len(good)]).permute(0, 3, 1, 2)
    return Held(tensor, np.array(good, dtype=np.int64), tuple(unusable))


def _fitted(decoders: Decoders, preprocess: Preprocess, item: Item) -> NDArray[np.uint8] | InvalidImage:
    picture = item.picture
    try:
        if isinstance(picture, Readable):
            picture = picture.read()
        if isinstance(picture, Path | bytes):
            return preprocess.fit(decoders.load(picture)[0])
        return preprocess.fit(load_picture(picture)[0])
    except InvalidImage as error:
        return error


def named_count(count: Count | None, what: str) -> Callable[[int, int], None] | None:
    """``count`` for ``what`` alone."""
    return None if count is None else partial(count, what)
