"""A network that is a graph file: what encoders of exported folders and of ``.onnx`` files are composed on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders.backbones import Activations
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.runtimes import graph_runtime_of
from pixdex.encoders.runtimes.graph import Graph
from pixdex.encoders.runtimes.patient import settled
from pixdex.encoders.runtimes.port import Runtime
from pixdex.errors import Unsupported

__all__ = ["Digests", "GraphNetwork", "Shape", "files_digest"]

_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a network gives; see ``Network``."""

    outputs: tuple[str, ...]
    dim: int
    own_dim: int | None
    cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What a fingerprint is made of: 32 hexadecimal characters each."""

    config: str
    weights: str


@dataclass(slots=True, kw_only=True, eq=False)
class GraphNetwork:
    """A ``Network`` without torch. What runs it starts with the first picture.

    Attributes:
        graph: the file.
        shape: what it gives.
        digests: its identity.
        runtime: name of the runtime, None for the usual choice.
        reference: the reference runtime, where it was started already.
    """

    name: str
    graph: Graph
    preprocess: Preprocess
    shape: Shape
    digests: Digests
    runtime: str | None = None
    reference: Runtime | None = field(default=None, repr=False)
    _running: Runtime | None = field(default=None, init=False, repr=False)
    _starting: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """See ``Network``."""
        return self.shape.outputs

    @property
    def dim(self) -> int:
        """See ``Network``."""
        return self.shape.dim

    @property
    def own_dim(self) -> int | None:
        """See ``Network``."""
        return self.shape.own_dim

    @property
    def cells(self) -> int:
        """See ``Network``."""
        return self.shape.cells

    @property
    def batch_size(self) -> int:
        """See ``Network``."""
        return self._started().batch_size

    def forward(self, batch: NDArray[np.uint8]) -> Activations:
        """Descriptors of fitted pictures, uint8 ``[n, h, w, 3]``."""
        return self._started().forward(batch)

    def settle(self) -> str:
        """See ``Network``."""
        return settled(self._started()).name

    def weights_digest(self) -> str:
        """See ``Network``."""
        return self.digests.weights

    def config_digest(self) -> str:
        """See ``Network``."""
        return self.digests.config

    def save(self, folder: Path) -> NoReturn:
        """Refused: a graph is no trunk of transformers, and ``export`` writes folders of graphs."""
        raise Unsupported(f"{self.name} is a graph file and is not saved to {folder}: export it, or copy its folder")

    def _started(self) -> Runtime:
        with self._starting:
            if self._running is None:
                self._running = graph_runtime_of(self.runtime, self.graph, reference=self.reference)
                self.reference = None  # it may be another's turn, and this one holds the weights
            return self._running


def files_digest(files: Iterable[Path]) -> str:
    """32 hexadecimal characters over the contents of files, in that order."""
    state = hashlib.blake2b(digest_size=16)
    for file in files:
        state.update(f"{file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                state.update(chunk)
    return state.hexdigest()
