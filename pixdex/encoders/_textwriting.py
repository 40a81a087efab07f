"""From a tower for texts to the files of a ``TextGraph``. Importing this imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from pixdex.encoders._models import first_line
from pixdex.encoders.runtimes import writing
from pixdex.encoders.runtimes.graph import SUFFIXES, Form
from pixdex.encoders.text import Network
from pixdex.encoders.textgraph import TextGraph
from pixdex.errors import ConfigError

__all__ = ["NAME", "TOKENIZER", "write", "write_tokenizer"]

NAME = "text"
"""Stem of the graph's file."""
TOKENIZER = "tokenizer.json"
_INPUT = "tokens"
_SOME = 7
"""Tokens of the text that is followed through the network; of any other number is as good."""


def write(network: Network, form: Form, folder: Path) -> TextGraph:
    """Write ``text.onnx``, or ``text.xml`` and ``text.bin``, and ``tokenizer.json``.

    Raises:
        ConfigError: the network cannot be turned into a graph, or only transformers can run its tokenizer.
        MissingDependency: a package that writes graphs is not installed.
    """
    tokenizer = folder / TOKENIZER
    write_tokenizer(network, tokenizer)
    graph = folder / f"{NAME}{SUFFIXES['onnx']}"
    _write_onnx(network, graph)
    if form == "openvino":  # by way of ONNX, as its own reader of torch's programs takes no tower of SigLIP
        from pixdex.encoders.runtimes import open_vino

        onnx, graph = graph, graph.with_suffix(SUFFIXES[form])
        open_vino.convert(onnx, graph)
        for file in folder.glob(f"{onnx.name}*"):
            file.unlink()
    return TextGraph.of(graph, tokenizer, lower=network.lower)


def write_tokenizer(network: Network, file: Path) -> None:
    theirs = network.tokenizer
    inner = getattr(theirs, "backend_tokenizer", None)
    if inner is None:
        raise ConfigError(
            f"the tokenizer of this model ({type(theirs).__name__}) runs in transformers only: put the tokenizer.json of "
            "the model beside it, or export the side of the pictures alone (text=False, --no-text)"
        )
    from tokenizers import Tokenizer

    ours = Tokenizer.from_str(inner.to_str())  # a copy: transformers sets up its own for every call
    ours.enable_truncation(network.length, direction=theirs.truncation_side)
    ours.enable_padding(
        direction=theirs.padding_side,
        pad_id=theirs.pad_token_id,
        pad_token=theirs.pad_token,
        length=network.length if network.fixed else None,
    )
    ours.save(str(file))


class _Vectors(torch.nn.Module):
    """Tokens in, vectors out.

    Without a mask: those that were trained with one (CLIP's) look only back, from the first end of the text, so that what
    is padded after it changes nothing.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tokens: Tensor) -> Tensor:
        made = self.module(input_ids=tokens)
        return cast("Tensor", made.text_embeds if hasattr(made, "text_embeds") else made.pooler_output)


def _write_onnx(network: Network, file: Path) -> None:
    writing.require("onnxscript", "export")
    module = _Vectors(network.module).eval()
    sizes = {0: torch.export.Dim("n", min=1, max=writing.MOST)}
    if not network.fixed:
        sizes[1] = torch.export.Dim("length", min=2, max=network.length)
    example = torch.ones((2, network.length if network.fixed else min(_SOME, network.length)), dtype=torch.long)
    try:
        with writing.exporting():
            program = writing.program_of(module, example, {_INPUT: sizes})
            writing.save_onnx(program, module, _INPUT, ["vectors"], file)
    except Exception as error:  # the exporters raise anything on what they don't know
        raise ConfigError(f"this tower for texts cannot be turned into a graph: {first_line(error)}") from error
