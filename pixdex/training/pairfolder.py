"""A trained reranker as the folder that serves it, and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor, nn

from pixdex.errors import AlreadyExists, ConfigError, MissingDependency
from pixdex.rerankers.learned import CONFIG_FILE, LOOKS, SCORES, graphs_digest
from pixdex.spec import TokenSpec
from pixdex.training._workplace import written
from pixdex.training.pairnets import PairNet, described, made

__all__ = ["note", "read_net", "require_export", "save_reranker"]

WEIGHTS = "model.safetensors"
_OPSET = 18
_WORTH_HALVING = 1024
_INPUTS = ("query", "query_mask", "candidates", "candidate_mask", "first")
_AXES = {
    "query": {1: "tq"}, "query_mask": {1: "tq"}, "candidates": {1: "n", 2: "td"}, "candidate_mask": {1: "n", 2: "td"},
    "first": {1: "n"},
}  # fmt: skip


def require_export() -> None:
    """Make sure that what ``save_reranker`` takes is there, before hours of training.

    Raises:
        MissingDependency: a package is not installed.
    """
    for name, extra in (("onnx", "export"), ("safetensors", "torch")):
        if find_spec(name) is None:
            raise MissingDependency(name, extra)


def save_reranker(
    net: PairNet,
    folder: Path,
    tokens: Sequence[TokenSpec],
    *,
    name: str | None = None,
    trained: Mapping[str, Any] | None = None,
) -> None:
    """Write what ``pixdex.rerankers.learned.Learned`` reads. ``tokens`` are those that it takes: of one encoder, at any counts
    that it was trained for; the first is the one it is meant for.

    Raises:
        AlreadyExists: there is something in the folder.
        ConfigError: tokens of another width, or none.
        MissingDependency: a package that writes graphs is not installed.
    """
    if not tokens or any(spec.dim != net.shape.token_dim for spec in tokens):
        raise ConfigError(f"a reranker of tokens of {net.shape.token_dim} values, for {[spec.dim for spec in tokens]}")
    if folder.exists() and any(folder.iterdir()):
        raise AlreadyExists(f"{folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    net = copy.deepcopy(net).cpu().half().float().eval()  # all files hold the same weights
    _export(net, folder / SCORES)
    _export(_Looks(net), folder / LOOKS)
    _weights(net, folder / WEIGHTS)
    about = described(net)
    spec = tokens[0]
    document = {
        "version": 1,
        "kind": about["kind"],
        "name": name or about["kind"],
        "shape": about["shape"],
        "tokens": {"dim": spec.dim, "dtype": spec.dtype, "count": spec.count},
        "fingerprints": [
            {"encoder": t.fingerprint.encoder, "digest": t.fingerprint.digest, "parts": dict(t.fingerprint.parts)}
            for t in tokens
        ],
        "digest": graphs_digest(folder),
        "trained": dict(trained or {}),
    }
    _describe(folder, document)  # last: a folder without it is no reranker


def note(folder: Path, facts: Mapping[str, Any]) -> None:
    """Say something of the reranker of a folder afterwards, in its own file: how it was ``trained``, its ``calibration``."""
    _describe(folder, {**orjson.loads((folder / CONFIG_FILE).read_bytes()), **facts})


def read_net(folder: Path) -> PairNet:
    """The network of a folder, to go on training or to teach another.

    Raises:
        ConfigError: not such a folder.
        MissingDependency: safetensors is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingDependency("safetensors", "torch") from error
    try:
        document = orjson.loads((folder / CONFIG_FILE).read_bytes())
        net = made(document["kind"], document["shape"])
        net.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{folder} is not a reranker: {error}") from error
    return net


def _describe(folder: Path, document: Mapping[str, Any]) -> None:
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2)

    def write(unfinished: Path) -> None:
        unfinished.write_bytes(data)

    written(folder / CONFIG_FILE, write)


class _Looks(nn.Module):
    """Gives the correspondences."""

    def __init__(self, net: PairNet) -> None:
        super().__init__()
        self.net = net
        self.shape = net.shape

    def forward(self, query: Tensor, query_mask: Tensor, candidates: Tensor, candidate_mask: Tensor) -> Tensor:
        return self.net.correspondences(query, query_mask, candidates, candidate_mask)


def _weights(net: PairNet, file: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingDependency("safetensors", "torch") from error
    save_file({name: tensor.detach().half().contiguous() for name, tensor in net.state_dict().items()}, file)


def _export(net: PairNet | _Looks, file: Path) -> None:
    width = net.shape.token_dim
    example = (
        torch.randn(1, 5, width),
        torch.ones(1, 5),
        torch.randn(1, 3, 4, width),
        torch.ones(1, 3, 4),
        torch.rand(1, 3),
    )
    names = _INPUTS[:4] if isinstance(net, _Looks) else _INPUTS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the old way of export, which needs no onnxscript
            torch.onnx.export(
                net,
                example[: len(names)],
                str(file),
                input_names=list(names),
                output_names=["made"],
                dynamic_axes={name: _AXES[name] for name in names},
                opset_version=_OPSET,
                dynamo=False,
            )
        _halve(file)
    except ImportError as error:
        raise MissingDependency("onnx", "export") from error


def _halve(file: Path) -> None:
    """Weights as float16 that are cast when the graph is loaded: half the bytes, the same speed."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(file)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.raw_data) < _WORTH_HALVING:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    onnx.save(model, file)
