"""From a torch network to a graph file. Importing this imports torch."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixdex.encoders._digest import digest_of, tensors_digest
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.runtimes import cache
from pixdex.encoders.runtimes.fusing import Fused, fused
from pixdex.encoders.runtimes.graph import SUFFIXES, Form, Graph, Output
from pixdex.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    from pixdex.encoders._tower import Tower

__all__ = ["MOST", "exporting", "graph_of", "key_of", "program_of", "require", "save_onnx", "write_graph"]

_VERSION = 1
"""Raised when a graph would come out otherwise."""
_INPUT = "pixels"
MOST = 4096
"""Pictures or texts in a batch, at most: the exporter wants a bound."""
_ONE_AT_A_TIME = threading.Lock()
"""The exporters change state of the process (warnings, logging, kernels) while they run."""


def key_of(tower: Tower, preprocess: Preprocess) -> str:
    """Names a network: its structure, its parameters, its normalization."""
    tensors = {name: tensor.detach().numpy() for name, tensor in tower.state_dict().items()}
    config: Any = getattr(tower.model, "config", None)
    return digest_of(
        {
            "weights": tensors_digest(tensors),
            "structure": repr(tower),
            "config": config.to_json_string() if hasattr(config, "to_json_string") else "",
            "outputs": list(tower.outputs),
            "preprocess": preprocess.to_json(),
        }
    )


def graph_of(tower: Tower, preprocess: Preprocess, form: Form, *, key: str) -> Graph:
    """The graph of a network, made once and kept in the cache folder.

    Raises:
        ConfigError: the network cannot be turned into a graph, or the cache folder cannot be written to.
        MissingDependency: a package that writes graphs is not installed.
    """
    name = digest_of({"network": key, "form": form, "version": _VERSION, "torch": torch.__version__})
    where = cache.made_once(name, lambda unfinished: _write(tower, preprocess, form, unfinished))
    return _described(where, form, key=name, tower=tower, preprocess=preprocess)


def write_graph(tower: Tower, preprocess: Preprocess, form: Form, folder: Path) -> Graph:
    """Write ``model.onnx``, or ``model.xml`` and ``model.bin``, that take uint8 ``[n, h, w, 3]``. The graph has no key yet.

    Raises:
        ConfigError: the network cannot be turned into a graph.
        MissingDependency: a package that writes graphs is not installed.
    """
    _write(tower, preprocess, form, folder)
    return _described(folder, form, key="", tower=tower, preprocess=preprocess)


def _described(folder: Path, form: Form, *, key: str, tower: Tower, preprocess: Preprocess) -> Graph:
    return Graph(
        file=folder / f"model{SUFFIXES[form]}",
        key=key,
        size=preprocess.size,
        outputs=tuple(Output(role=role, index=index) for index, role in enumerate(tower.outputs)),
    )


def _write(tower: Tower, preprocess: Preprocess, form: Form, folder: Path) -> None:
    require("openvino", "openvino") if form == "openvino" else require("onnxscript", "export")
    module = fused(tower, preprocess)
    try:
        with exporting():
            example = torch.zeros((2, *preprocess.size, 3), dtype=torch.uint8)
            program = program_of(module, example, {_INPUT: {0: torch.export.Dim("n", min=1, max=MOST)}})
            file = folder / f"model{SUFFIXES[form]}"
            if form == "openvino":
                _write_openvino(program, module, preprocess, file)
            else:
                save_onnx(program, module, _INPUT, module.outputs, file)
    except Exception as error:  # the exporters raise anything on what they don't know
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ConfigError(f"this network cannot be turned into a graph of {form}: {reason[0]}") from error


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """What the exporters need around them: one at a time, without their notes, without gradients, and without the fused
    attention of processors, which gives results in an order of memory that only some reshapes survive.
    """
    with _ONE_AT_A_TIME, _quiet(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def program_of(module: torch.nn.Module, example: torch.Tensor, sizes: dict[str, dict[int, Any]]) -> Any:
    """A network as torch exports it, ``sizes`` of its input open. Inside ``exporting``."""
    return torch.export.export(module, (example,), dynamic_shapes=sizes, strict=False)


def save_onnx(program: Any, module: torch.nn.Module, name: str, outputs: Sequence[str], file: Path) -> None:
    """Write what ``program_of`` gave for ``module``, with these names of its input and outputs. Inside ``exporting``."""
    made = cast("Any", torch.onnx).export(
        program, dynamo=True, verbose=False, input_names=[name], output_names=list(outputs)
    )
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    made.save(file, external_data=size > 2**30)  # one file of this format ends at 2 GiB


def _write_openvino(program: Any, module: Fused, preprocess: Preprocess, file: Path) -> None:
    from pixdex.encoders.runtimes._openvino import openvino

    made = openvino.convert_model(program)
    made.reshape([-1, *preprocess.size, 3])
    for port, name in zip(made.outputs, module.outputs, strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(made, file, compress_to_fp16=False)


def require(package: str, extra: str) -> None:
    """Raises MissingDependency where the package is not installed."""
    try:
        __import__(package)
    except ImportError as error:
        raise MissingDependency(package, extra) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and notes of the exporters, which are about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
