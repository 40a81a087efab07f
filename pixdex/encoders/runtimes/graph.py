"""Networks as graph files, which need no torch to run: ONNX, or OpenVINO's own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders.backbones import Activations
from pixdex.encoders.preprocess import Preprocess
from pixdex.errors import ConfigError

__all__ = ["SUFFIXES", "Feed", "Form", "Graph", "Layout", "Output", "Port", "Signature", "files_of"]

Form: TypeAlias = Literal["onnx", "openvino"]
Layout: TypeAlias = Literal["nchw", "nhwc"]

SUFFIXES: Mapping[Form, str] = {"onnx": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output as a file declares it.

    Attributes:
        name: its name.
        shape: its lengths, None where they are open.
        dtype: numpy's name of the type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a graph takes and gives, as its file declares it."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def files_of(file: Path) -> list[Path]:
    """The file of a graph and those beside it that hold its weights, sorted."""
    if file.suffix == ".xml":
        return [file.with_suffix(".bin"), file]
    beside = (other for end in (".data", "_data") for other in file.parent.glob(f"{_literal(file.name)}{end}*"))
    return sorted([file, *beside])


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """How fitted pictures become a graph's input, where normalization is not part of the graph.

    Attributes:
        preprocess: scale, mean and deviation.
        layout: order of the axes.
        dtype: ``float32``, ``float16`` or ``uint8``; of the last, ``preprocess`` changes nothing.
    """

    preprocess: Preprocess
    layout: Layout = "nchw"
    dtype: str = "float32"

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[Any]:
        """The input, ``[n, 3, h, w]`` or ``[n, h, w, 3]``, from uint8 ``[n, h, w, 3]``."""
        if self.dtype == "uint8":
            return batch if self.layout == "nhwc" else np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        # A byte has 256 values: looking them up costs a fraction of the arithmetic.
        values = self.preprocess.normalize(np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 1, 256, 3))
        tables = values.reshape(3, 256).astype(self.dtype)
        shape = (len(batch), 3, *batch.shape[1:3])
        made = np.empty(shape if self.layout == "nchw" else (*batch.shape[:3], 3), dtype=self.dtype)
        channels_first = made if self.layout == "nchw" else made.transpose(0, 3, 1, 2)
        for channel in range(3):
            channels_first[:, channel] = tables[channel][batch[..., channel]]
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output of a graph.

    Attributes:
        role: ``cells``, ``cls`` or ``own``.
        index: its place among the graph's outputs.
    """

    role: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A graph file and what it means.

    Attributes:
        file: ``*.onnx`` or ``*.xml``.
        key: 32 hexadecimal characters that name its contents.
        size: (height, width) of its input, pixels.
        outputs: those that are used.
        feed: None for a graph that takes uint8 ``[n, h, w, 3]`` and normalizes itself.
        batch: how many pictures it takes at a time, None for any number.
        prefix: how many of its ``cells`` are none but come first, the class token before all.
    """

    file: Path
    key: str
    size: tuple[int, int]
    outputs: tuple[Output, ...]
    feed: Feed | None = None
    batch: int | None = None
    prefix: int = 0

    @property
    def form(self) -> Form:
        """What kind of file it is."""
        return "openvino" if self.file.suffix == ".xml" else "onnx"

    def input(self, batch: NDArray[np.uint8]) -> NDArray[Any]:
        """What the graph takes."""
        return np.ascontiguousarray(batch) if self.feed is None else self.feed(batch)

    def activations(self, made: Sequence[NDArray[Any]]) -> Activations:
        """What the graph's outputs mean.

        Of a network that gives only an embedding, this is the one cell.

        Raises:
            ConfigError: an output has a shape without meaning.
        """
        by_role = {output.role: self._in_order(made[output.index], output.role) for output in self.outputs}
        if "cells" not in by_role:
            by_role["cells"] = by_role["own"][:, None, :]
        if self.prefix:
            by_role["cls"] = by_role["cells"][:, 0]
            by_role["cells"] = by_role["cells"][:, self.prefix :]
        return Activations(**cast("Any", by_role))

    def _in_order(self, array: NDArray[Any], role: str) -> NDArray[np.float32]:
        array = np.asarray(array, dtype=np.float32)
        if role != "cells" and array.ndim == 2:
            return array
        if role == "cells" and array.ndim == 3:
            return array
        if role == "cells" and array.ndim == 4:
            count, channels = len(array), array.shape[1]
            if self.feed is not None and self.feed.layout == "nhwc":
                return array.reshape(count, -1, array.shape[3])
            return np.ascontiguousarray(array.reshape(count, channels, -1).transpose(0, 2, 1))
        raise ConfigError(f"{self.file.name}: an output of shape {list(array.shape)} cannot be taken as {role}")
