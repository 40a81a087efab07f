"""Exporting an encoder to a folder that loads without torch: ``pixdex export``.

Searching needs no training library. An exported folder needs ONNX Runtime or OpenVINO instead, which start in a fraction
of the time, and it is the same encoder: same fingerprint, same vectors.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex.encoders.backbones import Activations, Trunk
from pixdex.encoders.compose import CONFIG_FILE, ComposedEncoder, DualEncoder
from pixdex.encoders.exported import describe
from pixdex.encoders.port import Encoder
from pixdex.encoders.runtimes import finding
from pixdex.encoders.runtimes.graph import SUFFIXES, Form, Graph, files_of
from pixdex.encoders.runtimes.network import Digests, GraphNetwork, Shape, files_digest
from pixdex.encoders.runtimes.probes import probes, worst_cosine
from pixdex.encoders.text import TextTower, TrunkText
from pixdex.encoders.textgraph import GraphText, TextGraph
from pixdex.errors import AlreadyExists, ConfigError, Unsupported

__all__ = ["export"]

_LEAST = 0.9999
"""Cosine between the vectors before and after: both are in float32, so that only the order of sums differs."""
_PROBES = 4
_TEXTS = (
    "a",
    "a photo of two dogs on a beach at night",
    "Ein altes Fahrrad, 3 Räder & 日本語!",
    "the same again " * 40,
)
"""What towers for texts are compared on: short, usual, foreign and longer than any takes."""

_Forward: TypeAlias = Callable[[NDArray[np.uint8]], Activations]


def export(
    encoder: Encoder,
    folder: str | os.PathLike[str],
    *,
    format: Literal["onnx", "openvino"] = "onnx",  # noqa: A002 - what everybody calls it
    text: bool = True,
) -> None:
    """Write ``encoder`` to a new or empty folder, which ``encoders.load`` reads.

    What was written is run and compared with the source before it counts as an encoder. With ``text``, an encoder of
    pictures and texts stays one; without, the side of the pictures alone is exported, often half the size.

    Raises:
        AlreadyExists: there is something in the folder.
        ConfigError: a network cannot be turned into such a graph, the graph gives other vectors, or there is no tokenizer
            that runs without transformers.
        MissingDependency: a package that writes or runs graphs is not installed.
        Unsupported: the encoder has no network.
    """
    if not isinstance(encoder, ComposedEncoder):
        raise Unsupported(f"{encoder.name} has no network to export")
    if format not in SUFFIXES:
        raise ConfigError(f"format {format!r}: one of {', '.join(SUFFIXES)}")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AlreadyExists(f"{target} is not empty")
    target.mkdir(parents=True, exist_ok=True)
    try:
        _fill(target, encoder, format, text=text)
    except BaseException:
        for file in target.iterdir():  # it was empty, and a second try should find it so
            file.unlink()
        raise


def _fill(target: Path, encoder: ComposedEncoder, form: Form, *, text: bool) -> None:
    # Texts first: what lacks a tokenizer is told so before the long part.
    texts = _written_text(target, encoder, form) if text and isinstance(encoder, DualEncoder) else None
    network, truth = _written(target, encoder, form)
    pictures = probes(encoder.trunk.preprocess.size, _PROBES)
    cosine = worst_cosine(truth(pictures), finding.reference_for(network.graph).forward(pictures))
    if not cosine >= _LEAST:
        raise ConfigError(f"{encoder.name} gives other vectors as a graph of {form}: cosine {cosine:.5f}")
    encoder.composition.save(target)
    document = encoder.to_json() | describe(network)
    if texts is not None:
        document["text"] = texts.to_json()
    unfinished = target / f".{CONFIG_FILE}"
    unfinished.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    unfinished.replace(target / CONFIG_FILE)  # last: a folder without it is no encoder


def _written(target: Path, encoder: ComposedEncoder, form: Form) -> tuple[GraphNetwork, _Forward]:
    """The network in the folder, and what its results are to be compared with."""
    trunk = encoder.trunk
    if isinstance(trunk, Trunk):
        graph, truth = _from_torch(target, trunk, form)
    elif isinstance(trunk, GraphNetwork):
        graph, truth = _from_graph(target, trunk, form)
    else:
        raise Unsupported(f"{encoder.name} cannot be exported: its network is a {type(trunk).__name__}")
    network = GraphNetwork(
        name=encoder.name,
        graph=graph,
        preprocess=trunk.preprocess,
        shape=Shape(outputs=trunk.outputs, dim=trunk.dim, own_dim=trunk.own_dim, cells=trunk.cells),
        digests=Digests(config=trunk.config_digest(), weights=trunk.weights_digest()),
    )
    return network, truth


def _from_torch(target: Path, trunk: Trunk, form: Form) -> tuple[Graph, _Forward]:
    from pixdex.encoders.runtimes import eager, writing

    graph = writing.write_graph(trunk.tower, trunk.preprocess, form, target)
    return _keyed(graph), eager.in_float32(trunk.tower, trunk.preprocess).forward


def _from_graph(target: Path, network: GraphNetwork, form: Form) -> tuple[Graph, _Forward]:
    graph = network.graph
    if graph.form == form:
        file = target / graph.file.name
        for source in files_of(graph.file):  # under their names, since weights beside a file are named inside it
            shutil.copyfile(source, target / source.name)
    elif form == "openvino":
        from pixdex.encoders.runtimes import open_vino

        file = target / f"model{SUFFIXES[form]}"
        open_vino.convert(graph.file, file)
    else:
        raise Unsupported(f"{network.name} is a graph of {graph.form}: from it no {form} can be made")
    return _keyed(replace(graph, file=file)), finding.reference_for(graph).forward


def _written_text(target: Path, encoder: DualEncoder, form: Form) -> TextGraph:
    """The tower for texts in the folder, compared with the encoder's."""
    files, truth = _text_files(target, encoder.text, form)
    cosine = float((GraphText(files).encode(_TEXTS) * truth.encode(_TEXTS)).sum(axis=1).min())
    if not cosine >= _LEAST:
        raise ConfigError(
            f"{encoder.name} gives other vectors of texts as a graph of {form} (cosine {cosine:.5f}): export the side of "
            "the pictures alone (text=False, --no-text)"
        )
    return files


def _text_files(target: Path, tower: TextTower, form: Form) -> tuple[TextGraph, TextTower]:
    if isinstance(tower, TrunkText):
        from pixdex.encoders import _textwriting

        return _textwriting.write(tower.network, form, target), tower
    if isinstance(tower, GraphText):
        return tower.files.copied(target, form), tower
    raise Unsupported(f"a {type(tower).__name__} cannot be exported")


def _keyed(graph: Graph) -> Graph:
    return replace(graph, key=files_digest(files_of(graph.file)))
