"""Exported encoders: folders that need neither torch nor transformers.

``pixdex.json`` holds what a saved encoder's holds, and besides: ``outputs`` (what the network gives), ``graph`` (its file, the
digest of that, widths, how pictures are fed to it), ``parts`` (the digests that make the fingerprint, which is that of
the encoder it was exported from) and, of an encoder of texts too, ``text`` (its files and their digest).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixdex.encoders.compose import CONFIG_FILE, ComposedEncoder, DualEncoder, read_document
from pixdex.encoders.composition import Composition
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.runtimes.graph import Feed, Graph, Output, files_of
from pixdex.encoders.runtimes.network import Digests, GraphNetwork, Shape, files_digest
from pixdex.encoders.textgraph import GraphText, TextGraph
from pixdex.errors import ConfigError

__all__ = ["describe", "load"]


def load(folder: Path, *, runtime: str | None = None) -> ComposedEncoder:
    """The encoder that ``export`` wrote; its vectors do not depend on ``runtime`` beyond the tolerance of runtimes.

    Raises:
        ConfigError: the folder is not one, is from a newer pixdex, or its contents were changed.
    """
    document = read_document(folder / CONFIG_FILE)
    try:
        network = _network(folder, document, runtime)
        composition = Composition.from_json(document, folder)
        text = GraphText(TextGraph.from_json(document["text"], folder)) if "text" in document else None
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{folder} is not an exported encoder: {error!r}") from error
    name, reference = document["name"], str(folder.resolve())
    if text is None:
        encoder = ComposedEncoder(network, composition, name=name, reference=reference)
    else:
        encoder = DualEncoder(network, composition, text, name=name, reference=reference)
    if encoder.fingerprint.digest != document["fingerprint"]:
        raise ConfigError(f"{folder} was changed after it was exported: its fingerprint is another")
    return encoder


def describe(network: GraphNetwork) -> dict[str, Any]:
    """What ``pixdex.json`` says of the network; read again by ``load``."""
    graph = network.graph
    feed = None if graph.feed is None else {"layout": graph.feed.layout, "dtype": graph.feed.dtype}
    return {
        "outputs": list(network.outputs),
        "parts": {"config": network.digests.config, "weights": network.digests.weights},
        "graph": {
            "file": graph.file.name,
            "digest": graph.key,
            "outputs": [[output.role, output.index] for output in graph.outputs],
            "prefix": graph.prefix,
            "batch": graph.batch,
            "feed": feed,
            "dim": network.dim,
            "own_dim": network.own_dim,
            "cells": network.cells,
        },
    }


def _network(folder: Path, document: Mapping[str, Any], runtime: str | None) -> GraphNetwork:
    about, parts = document["graph"], document["parts"]
    preprocess = Preprocess.from_json(document["preprocess"])
    file = folder / Path(about["file"]).name
    if not file.is_file():
        raise ConfigError(f"{folder} is not an exported encoder: it has no {file.name}")
    if files_digest(files_of(file)) != about["digest"]:
        raise ConfigError(f"{file} was changed after it was exported: its digest is another")
    feed = about["feed"]
    graph = Graph(
        file=file,
        key=about["digest"],
        size=preprocess.size,
        outputs=tuple(Output(role=role, index=index) for role, index in about["outputs"]),
        feed=None if feed is None else Feed(preprocess=preprocess, layout=feed["layout"], dtype=feed["dtype"]),
        batch=about["batch"],
        prefix=about["prefix"],
    )
    return GraphNetwork(
        name=document["name"],
        graph=graph,
        preprocess=preprocess,
        shape=Shape(
            outputs=tuple(document["outputs"]), dim=about["dim"], own_dim=about["own_dim"], cells=about["cells"]
        ),
        digests=Digests(config=parts["config"], weights=parts["weights"]),
        runtime=runtime,
    )
