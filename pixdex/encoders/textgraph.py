"""A tower for texts as files, which needs neither torch nor transformers: a graph and ``tokenizer.json``.

How a text becomes tokens (cut off where, padded how) stands in the file of the tokenizer, which the library `tokenizers`
reads; lower case is made before, by Python's rules, as where the model was trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders.runtimes import finding
from pixdex.encoders.runtimes.graph import SUFFIXES, Form, Graph, Output, files_of
from pixdex.encoders.runtimes.network import files_digest
from pixdex.encoders.text import Forward, TextTower
from pixdex.errors import ConfigError, MissingDependency

__all__ = ["GraphText", "TextGraph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextGraph:
    """A tower for texts in files.

    Attributes:
        graph: ``*.onnx`` or ``*.xml``: int64 ``[n, tokens]`` to float32 ``[n, dim]``.
        tokenizer: a ``tokenizer.json`` that cuts off and pads.
        digest: 32 hexadecimal characters over the contents of all.
        lower: texts are made lower case first.
    """

    graph: Path
    tokenizer: Path
    digest: str
    lower: bool

    @classmethod
    def of(cls, graph: Path, tokenizer: Path, *, lower: bool) -> TextGraph:
        """What lies in these files now."""
        return cls(graph=graph, tokenizer=tokenizer, digest=_digest(graph, tokenizer), lower=lower)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], folder: Path) -> TextGraph:
        """The inverse of ``to_json``; the files are not looked at yet."""
        return cls(
            graph=folder / Path(values["graph"]).name,
            tokenizer=folder / Path(values["tokenizer"]).name,
            digest=str(values["digest"]),
            lower=bool(values["lower"]),
        )

    def to_json(self) -> dict[str, Any]:
        """The values as a JSON object."""
        return {
            "graph": self.graph.name,
            "tokenizer": self.tokenizer.name,
            "digest": self.digest,
            "lower": self.lower,
        }

    def copied(self, folder: Path, form: Form) -> TextGraph:
        """The same in another folder, in ``form``.

        Raises:
            ConfigError: OpenVINO does not know the graph.
        """
        self.check()
        tokenizer, graph = folder / self.tokenizer.name, folder / f"{self.graph.stem}{SUFFIXES[form]}"
        shutil.copyfile(self.tokenizer, tokenizer)
        if graph.suffix == self.graph.suffix:
            for source in files_of(self.graph):
                shutil.copyfile(source, folder / source.name)
        else:  # of OpenVINO's form, which is not turned back, the pictures' graph would have been refused
            from pixdex.encoders.runtimes import open_vino

            open_vino.convert(self.graph, graph)
        return TextGraph.of(graph, tokenizer, lower=self.lower)

    def check(self) -> None:
        """Make sure that the files are what they were.

        Raises:
            ConfigError: one is missing or was changed.
        """
        try:
            digest = _digest(self.graph, self.tokenizer)
        except OSError as error:
            raise ConfigError(
                f"texts cannot be encoded: {error.filename} is missing, export the encoder again"
            ) from error
        if digest != self.digest:
            raise ConfigError(f"{self.graph} or {self.tokenizer.name} was changed after it was exported")


class GraphText(TextTower):
    """Encodes texts with a ``TextGraph``, in float32 whatever runs the pictures: it is a text at a time."""

    def __init__(self, files: TextGraph) -> None:
        super().__init__()
        self.files = files

    def _open(self) -> Forward:
        self.files.check()
        tokenizer = _tokenizer(self.files.tokenizer)
        # To what runs graphs, rows of tokens are as good as pictures; the size is nobody's business but theirs.
        graph = Graph(file=self.files.graph, key=self.files.digest, size=(1, 1), outputs=(Output(role="own", index=0),))
        network = finding.reference_for(graph)

        def forward(texts: list[str]) -> NDArray[np.float32]:
            given = [text.lower() for text in texts] if self.files.lower else texts
            tokens = np.array([made.ids for made in tokenizer.encode_batch(given)], dtype=np.int64)
            return cast("NDArray[np.float32]", network.forward(cast("Any", tokens)).own)

        return forward


def _digest(graph: Path, tokenizer: Path) -> str:
    return files_digest([*files_of(graph), tokenizer])


def _tokenizer(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependency("tokenizers", "onnx") from error
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # it raises plain Exception
        raise ConfigError(f"the tokenizer {file} cannot be loaded: {error}") from error
