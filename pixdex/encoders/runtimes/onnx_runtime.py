"""Graphs run by ONNX Runtime. Importing this imports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pixdex.encoders.backbones import Activations
from pixdex.encoders.runtimes.graph import Graph, Port, Signature
from pixdex.encoders.runtimes.port import in_batches, threads
from pixdex.errors import ConfigError

__all__ = ["OnnxRuntime", "load", "signature"]

_BATCH = 4
_ERRORS_ONLY = 3
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """A ``Runtime``."""

    name: str
    graph: Graph
    session: Any = field(repr=False)
    input: str
    batch_size: int = _BATCH

    def forward(self, batch: NDArray[np.uint8]) -> Activations:
        return in_batches(batch, self.batch_size, self._run, fixed=self.graph.batch is not None)

    def _run(self, batch: NDArray[np.uint8]) -> Activations:
        return self.graph.activations(self.session.run(None, {self.input: self.graph.input(batch)}))


def load(graph: Graph) -> OnnxRuntime:
    """``onnx``.

    Raises:
        ConfigError: the file is no such graph.
    """
    session = _session(graph.file)
    return OnnxRuntime("onnx", graph, session, session.get_inputs()[0].name, graph.batch or _BATCH)


def signature(file: Path) -> Signature:
    """What the file declares.

    Raises:
        ConfigError: it is no graph.
    """
    session = _session(file)
    return Signature(inputs=_ports(session.get_inputs()), outputs=_ports(session.get_outputs()))


def _ports(nodes: Sequence[Any]) -> tuple[Port, ...]:
    return tuple(
        Port(
            name=node.name,
            shape=tuple(length if isinstance(length, int) else None for length in node.shape),
            dtype=_DTYPES.get(node.type, node.type),
        )
        for node in nodes
    )


def _session(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = _ERRORS_ONLY
    # Threads that wait by spinning take time from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise ConfigError(f"{file} cannot be loaded by ONNX Runtime: {error}") from error
