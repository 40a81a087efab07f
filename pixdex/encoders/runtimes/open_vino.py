"""Graphs run by OpenVINO. Importing this imports it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders.backbones import Activations
from pixdex.encoders.runtimes import cache
from pixdex.encoders.runtimes._openvino import openvino
from pixdex.encoders.runtimes.graph import Graph, Port, Signature
from pixdex.encoders.runtimes.port import in_batches, threads
from pixdex.errors import ConfigError

__all__ = ["OpenVino", "computes_bfloat16", "convert", "load", "signature"]

_BATCH = 8
_DEVICE = "CPU"


@dataclass(frozen=True, slots=True)
class OpenVino:
    """A ``Runtime``."""

    name: str
    graph: Graph
    compiled: Any = field(repr=False)
    idle: deque[Any] = field(default_factory=deque, repr=False)
    """Requests that nobody uses: each serves one thread at a time, and making one allocates its memory."""
    batch_size: int = _BATCH

    def forward(self, batch: NDArray[np.uint8]) -> Activations:
        return in_batches(batch, self.batch_size, self._run, fixed=self.graph.batch is not None)

    def _run(self, batch: NDArray[np.uint8]) -> Activations:
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        try:
            request.infer([self.graph.input(batch)], share_inputs=True)
            outputs = range(len(self.compiled.outputs))
            made = [np.array(request.get_output_tensor(index).data) for index in outputs]  # the next call overwrites
        finally:
            self.idle.append(request)
        return self.graph.activations(made)


def load(graph: Graph, *, name: str = "openvino", precision: str = "f32") -> OpenVino:
    """``openvino`` and, with ``precision="bf16"``, ``openvino-bf16``.

    Raises:
        ConfigError: the file is no graph that OpenVINO knows.
    """
    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads(),
        "NUM_STREAMS": 1,
        "CACHE_DIR": str(cache.folder() / "openvino"),
    }
    try:
        compiled = core.compile_model(graph.file, _DEVICE, options)
    except RuntimeError as error:
        raise ConfigError(f"{graph.file} cannot be loaded by OpenVINO: {_reason(error)}") from error
    return OpenVino(name, graph, compiled, batch_size=graph.batch or _BATCH)


def signature(file: Path) -> Signature:
    """What the file declares.

    Raises:
        ConfigError: it is no graph.
    """
    model = _read(file)
    return Signature(inputs=_ports(model.inputs), outputs=_ports(model.outputs))


def convert(file: Path, target: Path) -> None:
    """Write an ``.onnx`` file as ``.xml`` and ``.bin``.

    Raises:
        ConfigError: the file is no graph that OpenVINO knows.
    """
    openvino.save_model(_read(file), target, compress_to_fp16=False)


def computes_bfloat16() -> bool:
    """Whether the processor has the instructions: without, OpenVINO computes in float32."""
    return "BF16" in openvino.Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")


def _read(file: Path) -> Any:
    try:
        return openvino.Core().read_model(file)
    except RuntimeError as error:
        raise ConfigError(f"{file} cannot be loaded by OpenVINO: {_reason(error)}") from error


def _ports(nodes: Sequence[Any]) -> tuple[Port, ...]:
    return tuple(
        Port(
            name=node.any_name,
            shape=tuple(None if length.is_dynamic else length.get_length() for length in node.partial_shape),
            dtype=node.element_type.to_dtype().name,
        )
        for node in nodes
    )


def _reason(error: Exception) -> str:
    """The last line that says something: before it come the places in its source."""
    return ([line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
