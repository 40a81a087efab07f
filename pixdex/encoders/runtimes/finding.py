"""From a runtime's name to the runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pixdex.encoders.runtimes import choosing, patient
from pixdex.encoders.runtimes.graph import Form, Graph, Signature
from pixdex.encoders.runtimes.port import Runtime
from pixdex.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    from pixdex.encoders._tower import Tower
    from pixdex.encoders.preprocess import Preprocess

__all__ = ["available", "of_graph", "of_tower", "reference_for", "signature"]

_GRAPH_RUNTIMES = ("onnx", "openvino", "openvino-bf16")
_INTEGERS = ("onnx-int8", "openvino-int8")
_ON_A_GPU = ("cuda", "cuda-compile")
_EMULATED = "this processor has no bfloat16 instructions"


def available() -> list[str]:
    """See ``runtimes.available``."""
    names = []
    if _installed("torch"):
        names += ["torch", "torch-bf16"]
    quantizes = _installed("onnxruntime") and _installed("onnx")
    if _installed("onnxruntime"):
        names += ["onnx", "onnx-int8"] if quantizes else ["onnx"]
    if _installed("openvino"):
        names.append("openvino")
        if _openvino_computes_bfloat16():
            names.append("openvino-bf16")
        if quantizes:
            names.append("openvino-int8")
    if _installed("torch") and _has_gpu():
        names += _ON_A_GPU
    return names


def of_tower(name: str, tower: Tower, preprocess: Preprocess, *, key: str | None = None) -> Runtime:
    """See ``runtimes.runtime_of``."""
    from pixdex.encoders.runtimes import eager, writing

    if name == "torch":
        return eager.in_float32(tower, preprocess)
    if name == "torch-bf16":
        return eager.in_bfloat16(tower, preprocess)
    if name in _ON_A_GPU:
        from pixdex.encoders.runtimes import cuda

        return cuda.load(tower, preprocess) if name == "cuda" else cuda.load_compiled(tower, preprocess)
    key = key or writing.key_of(tower, preprocess)

    def graph_in(form: Form) -> Graph:
        return writing.graph_of(tower, preprocess, form, key=key)

    if name != "auto":
        _require(name)
        return _of_form(name, graph_in(_form_for(name)))
    makers = _tower_makers(tower, preprocess, graph_in)
    return patient.auto(choosing.Candidates(makers=makers, network=key, size=preprocess.size))


def of_graph(name: str, graph: Graph, *, reference: Runtime | None = None) -> Runtime:
    """See ``runtimes.graph_runtime_of``."""
    usable = [n for n in (*_GRAPH_RUNTIMES, *_INTEGERS) if graph.form == "onnx" or n in ("openvino", "openvino-bf16")]
    if name != "auto":
        if name not in usable:
            raise ConfigError(f"runtime {name} runs no {graph.file.name}: one of auto, {', '.join(usable)}")
        if reference is not None and name == reference.name:
            return reference
        _require(name)
        return _of_form(name, graph)
    names = [n for n in usable if n not in _INTEGERS and _installed(_package(n))]
    if not names:
        _require(usable[0])
    makers = {n: _maker(n, lambda _: graph) for n in names}
    if reference is not None:
        makers[reference.name] = lambda: reference
    return patient.auto(choosing.Candidates(makers=makers, network=graph.key, size=graph.size))


def signature(file: Path) -> Signature:
    """What a graph file declares, read with whatever is installed.

    Raises:
        ConfigError: it is no graph.
        MissingDependency: nothing that runs graphs is installed.
    """
    if file.suffix == ".onnx" and _installed("onnxruntime"):
        from pixdex.encoders.runtimes import onnx_runtime

        return onnx_runtime.signature(file)
    _require("openvino" if file.suffix == ".xml" or _installed("openvino") else "onnx")
    from pixdex.encoders.runtimes import open_vino

    return open_vino.signature(file)


def reference_for(graph: Graph) -> Runtime:
    """The runtime in float32 that others are compared with where there is no torch.

    Raises:
        ConfigError: the file cannot be loaded.
        MissingDependency: nothing that runs graphs is installed.
    """
    return of_graph("onnx" if graph.form == "onnx" and _installed("onnxruntime") else "openvino", graph)


def _tower_makers(
    tower: Tower, preprocess: Preprocess, graph_in: Callable[[Form], Graph]
) -> dict[str, Callable[[], Runtime]]:
    """What ``auto`` measures, the reference first. Which can be used here is found out when they are made."""
    makers: dict[str, Callable[[], Runtime]] = {"torch": lambda: of_tower("torch", tower, preprocess)}
    if _has_gpu():  # beside one, graphs for the processor would be time lost
        return makers | {"cuda": lambda: of_tower("cuda", tower, preprocess)}
    makers["torch-bf16"] = lambda: _in_bfloat16(tower, preprocess)
    if _installed("onnxruntime") and _installed("onnxscript"):
        makers["onnx"] = _maker("onnx", graph_in)
    if _installed("openvino"):
        makers |= {name: _maker(name, graph_in) for name in ("openvino", "openvino-bf16")}
    return makers


def _in_bfloat16(tower: Tower, preprocess: Preprocess) -> Runtime:
    if not choosing.bfloat16_pays():
        raise ConfigError(_EMULATED)
    return of_tower("torch-bf16", tower, preprocess)


def _maker(name: str, graph_in: Callable[[Form], Graph]) -> Callable[[], Runtime]:
    def make() -> Runtime:
        if name == "openvino-bf16" and not _openvino_computes_bfloat16():
            raise ConfigError(_EMULATED)
        return _of_form(name, graph_in(_form_for(name)))

    return make


def _of_form(name: str, graph: Graph) -> Runtime:
    if name in _INTEGERS:
        from pixdex.encoders.runtimes import quantizing

        plain = name.removesuffix("-int8")
        return quantizing.load(
            graph, name, lambda quantized: replace(cast("Any", _of_form(plain, quantized)), name=name)
        )
    if name == "onnx":
        from pixdex.encoders.runtimes import onnx_runtime

        return onnx_runtime.load(graph)
    from pixdex.encoders.runtimes import open_vino

    return open_vino.load(graph, name=name, precision="bf16" if name == "openvino-bf16" else "f32")


def _form_for(name: str) -> Form:
    """int8 starts from ONNX, since what quantizes it does."""
    return "openvino" if name in ("openvino", "openvino-bf16") else "onnx"


def _package(name: str) -> str:
    return "onnxruntime" if name.startswith("onnx") else "openvino"


def _require(name: str) -> None:
    for needed in (_package(name), *(("onnxruntime",) if name in _INTEGERS else ())):
        if not _installed(needed):
            raise MissingDependency(needed, "onnx" if needed == "onnxruntime" else "openvino")


def _installed(package: str) -> bool:
    return find_spec(package) is not None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _openvino_computes_bfloat16() -> bool:
    from pixdex.encoders.runtimes import open_vino

    return open_vino.computes_bfloat16()
