"""8-bit integers: a graph is quantized by ONNX Runtime, checked, and run by it or by OpenVINO.

Weights and activations of convolutions and matrix products become integers, their ranges found on probe pictures. That
moves vectors beyond the tolerance of the other runtimes, so it is used by name only, and not at all where a vector of
a probe picture has a cosine of less than ``FLOOR`` to the one in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders._digest import digest_of
from pixdex.encoders.runtimes import cache, onnx_runtime
from pixdex.encoders.runtimes.graph import Graph
from pixdex.encoders.runtimes.port import Runtime
from pixdex.encoders.runtimes.probes import probes, worst_cosine
from pixdex.errors import ConfigError, MissingDependency

__all__ = ["FLOOR", "load"]

FLOOR = 0.98
"""The least cosine to float32 with which integers are used at all."""
_log = logging.getLogger("pixdex.encoders.runtimes")
_VERSION = 1
_LEARNED_ON = 16
_CHECKED_ON = 8
_FILE = "model.onnx"
_OPERATIONS = ["Conv", "MatMul", "Gemm"]


def load(graph: Graph, name: str, run: Callable[[Graph], Runtime]) -> Runtime:
    """``run`` of the quantized graph, made once and kept in the cache folder.

    Raises:
        ConfigError: the graph cannot be quantized, or its vectors are moved too far.
        MissingDependency: the package onnx is not installed.
    """
    key = digest_of({"graph": graph.key, "version": _VERSION})
    folder = cache.made_once(key, lambda unfinished: _quantize(graph, unfinished / _FILE))
    runtime = run(replace(graph, file=folder / _FILE, key=key))
    # Other pictures than the ranges were found on.
    pictures = probes(graph.size, _LEARNED_ON + _CHECKED_ON)[_LEARNED_ON:]
    cosine = worst_cosine(onnx_runtime.load(graph).forward(pictures), runtime.forward(pictures))
    if not cosine >= FLOOR:
        raise ConfigError(f"runtime {name}: its vectors have a cosine of {cosine:.4f} to float32, less than {FLOOR}")
    _log.info("runtime %s: a cosine of %.5f to float32, at the least", name, cosine)
    return runtime


def _quantize(graph: Graph, file: Path) -> None:
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingDependency("onnx", "export") from error
    plain = file.with_name("plain.onnx")
    try:
        quant_pre_process(str(graph.file), str(plain), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(plain),
            str(file),
            _pictures(graph, quantization.CalibrationDataReader),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Processors without VNNI add pairs of products in 16 bits, which full-range weights overflow.
            reduce_range=True,
            op_types_to_quantize=_OPERATIONS,
        )
    except Exception as error:  # it raises anything on what it does not know
        raise ConfigError(f"{graph.file} cannot be quantized: {error}") from error
    finally:
        plain.unlink(missing_ok=True)


def _pictures(graph: Graph, reader: Any) -> Any:
    """The inputs that ranges are found on, in the form that the library reads."""
    name = onnx_runtime.signature(graph.file).inputs[0].name

    class Pictures(reader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.inputs = self.each()

        def each(self) -> Iterator[dict[str, NDArray[Any]]]:
            size = graph.batch or 1
            pictures = probes(graph.size, max(_LEARNED_ON, size))
            for start in range(0, len(pictures) - size + 1, size):
                yield {name: graph.input(np.ascontiguousarray(pictures[start : start + size]))}

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.inputs, None)

    return Pictures()
