"""Encoders composed of a network, a pooling and normalization.

A composition is referred to as ``hf:<folder or hub name>?pooling=cls&tokens=64`` or, once saved, by its folder, which
holds everything that makes the same encoder again. Nothing here needs torch: the network may be an exported one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex.encoders._digest import digest_of, fingerprint_of
from pixdex.encoders.backbones import Network, Trunk
from pixdex.encoders.composition import DEFAULT_TOKENS, Composition
from pixdex.encoders.heads import Head
from pixdex.encoders.places import grid_of
from pixdex.encoders.pooling import GEM_POWER, Pooling
from pixdex.encoders.port import Features, Pixels
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.text import TextTower, TrunkText
from pixdex.encoders.tokens import Choice, Coding, Projection, unit
from pixdex.errors import AlreadyExists, ConfigError, Unsupported
from pixdex.spec import Metric

__all__ = ["CONFIG_FILE", "DEFAULT_TOKENS", "ComposedEncoder", "Composition", "DualEncoder", "load", "read_document"]

N = TypeVar("N")
D = TypeVar("D")

CONFIG_FILE = "pixdex.json"
"""What makes a folder a saved encoder."""
_VERSION = 4
"""Saves that need nothing newer are written as version 1."""
_TRUNK = "trunk"
_TOKEN_OPTIONS = ("tokens", "token_by", "token_dtype", "token_projection", "token_dim", "token_bytes")
_OPTIONS = ("pooling", "p", *_TOKEN_OPTIONS, "runtime", "dim")


class ComposedEncoder:
    """A network, pooling, L2 normalization; the port's ``Encoder``.

    Attributes:
        trunk: the network.
        composition: what follows it.

    Raises:
        ConfigError: the class token or the own embedding of a network without one is asked for, or the projection or
            the coding of tokens is for descriptors of another width.
    """

    metric = Metric.COSINE

    def __init__(self, trunk: Network, composition: Composition, *, name: str, reference: str) -> None:
        composition.check(trunk)
        self.trunk = trunk
        self.composition = composition
        self.name = name
        self.reference = reference
        self.dim = composition.dim(trunk)
        self.fingerprint = fingerprint_of(name, _parts(trunk, composition))
        # A head does not touch the tokens: they stay those of the encoder without it.
        self.token_spec = composition.token_spec(trunk, name, _parts(trunk, replace(composition, head=None)))

    def __repr__(self) -> str:
        return f"ComposedEncoder({self.reference!r})"

    @property
    def batch_size(self) -> int:
        """See ``Encoder``: what the runtime likes best."""
        return self.trunk.batch_size

    @property
    def min_side(self) -> int | None:
        """See ``Encoder``: twice the shorter side of what the network takes."""
        return self.trunk.preprocess.min_side

    def prepare(self, pixels: Pixels) -> NDArray[np.uint8]:
        """uint8 ``[height, width, 3]`` of the trunk's input size."""
        return self.trunk.preprocess.fit(pixels)

    def encode(self, prepared: Sequence[NDArray[Any]], *, tokens: bool = False) -> Features:
        """Unit vectors float32 ``[n, dim]``, and tokens as ``token_spec`` says when asked for.

        Raises:
            Unsupported: tokens are asked of an encoder that was made with ``tokens=0``.
        """
        if tokens and self.token_spec is None:
            raise Unsupported(f"{self.reference} makes no tokens: load it with tokens={DEFAULT_TOKENS}")
        size = self.batch_size  # asked once: it is another when ``auto`` has chosen
        parts = [
            self._encode_batch(prepared[start : start + size], tokens=tokens) for start in range(0, len(prepared), size)
        ]
        if not parts:
            return Features(np.empty((0, self.dim), dtype=np.float32), () if tokens else None)
        vectors = np.concatenate([part.vectors for part in parts])
        return Features(vectors, tuple(t for part in parts for t in part.tokens or ()) if tokens else None)

    def _encode_batch(self, prepared: Sequence[NDArray[Any]], *, tokens: bool) -> Features:
        activations = self.trunk.forward(np.stack(prepared))
        pooled = unit(self.composition.pool(activations))
        vectors = self.composition.project(pooled)
        if not tokens:
            return Features(vectors)
        return Features(vectors, tuple(self.composition.tokens_of(activations, pooled)))

    def token_places(self, pictures: Sequence[Pixels]) -> tuple[NDArray[np.float32], ...] | None:
        """See ``Encoder``; None of a network whose descriptors are no grid over its input."""
        grid = grid_of(self.trunk.cells, self.trunk.preprocess.size)
        if grid is None or self.token_spec is None:
            return None
        boxes = []
        for pixels in pictures:
            activations = self.trunk.forward(self.prepare(pixels)[None])
            cells = self.composition.cells_of(activations, unit(self.composition.pool(activations)))
            boxes.append(grid.boxes(cells[0], self.trunk.preprocess.window(*pixels.shape[:2])))
        return tuple(boxes)

    def with_head(self, head: Head | None, *, name: str | None = None, reference: str | None = None) -> ComposedEncoder:
        """The same network and pooling with another head, or with none. It encodes no texts: they go through no head.

        Without ``reference`` it has none that ``encoders.load`` makes it from, until it is saved.

        Raises:
            ConfigError: the head takes vectors of another width.
        """
        return ComposedEncoder(
            self.trunk,
            replace(self.composition, head=head),
            name=name or self.name,
            reference=reference or f"{self.reference} with another head, not saved",
        )

    def first(self, dim: int) -> ComposedEncoder:
        """The encoder of the first ``dim`` values of what its head gives; another encoder, with another fingerprint.

        Raises:
            ConfigError: it has no head, or one that was not trained to be cut there.
        """
        head = self.composition.head
        if head is None:
            raise ConfigError(
                f"dim={dim}: {self.reference} has no head whose first values could serve: pixdex train head"
            )
        whole = self.reference.partition("?dim=")[0]  # it may be cut already
        return self.with_head(head.first(dim), reference=f"{whole}?dim={dim}")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the encoder to a new or empty folder: ``pixdex.json`` and the trunk in safetensors.

        Raises:
            AlreadyExists: there is something in the folder.
        """
        target = Path(folder)
        if target.is_dir() and any(target.iterdir()):
            raise AlreadyExists(f"{target} is not empty")
        (target / _TRUNK).mkdir(parents=True)
        self.trunk.save(target / _TRUNK)
        self.composition.save(target)
        # Last: a folder without it is no encoder, so a save that was cut off isn't taken for one.
        (target / CONFIG_FILE).write_bytes(orjson.dumps(self.to_json(), option=orjson.OPT_INDENT_2))

    def to_json(self) -> dict[str, Any]:
        """What ``pixdex.json`` of a saved encoder holds."""
        return {
            "version": self.composition.version,
            "name": self.name,
            **self.composition.to_json(),
            "preprocess": self.trunk.preprocess.to_json(),
            "fingerprint": self.fingerprint.digest,
        }

    @classmethod
    def on(cls, trunk: Trunk, composition: Composition, *, name: str, reference: str) -> ComposedEncoder:
        """The encoder on a trunk of transformers: a ``DualEncoder`` where the trunk has a tower for texts.

        Texts meet pictures in the embedding that the model itself defines, so with another pooling, or a head behind it,
        there are none.
        """
        if trunk.source.is_dual and composition.pooling is Pooling.OWN and composition.head is None:
            return DualEncoder(trunk, composition, TrunkText(trunk.source), name=name, reference=reference)
        return cls(trunk, composition, name=name, reference=reference)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, runtime: str | None = None) -> ComposedEncoder:
        """The encoder that ``save`` wrote, run by ``runtime`` (see ``Trunk.load``).

        Raises:
            ConfigError: the folder is not one, is from a newer pixdex, or its contents were changed.
            MissingDependency: torch or transformers is not installed.
        """
        source = Path(folder)
        document = read_document(source / CONFIG_FILE)
        preprocess = Preprocess.from_json(document["preprocess"])
        trunk = Trunk.load(source / _TRUNK, preprocess=preprocess, runtime=runtime)
        composition = Composition.from_json(document, source)
        encoder = cls.on(trunk, composition, name=document["name"], reference=str(source.resolve()))
        if encoder.fingerprint.digest != document["fingerprint"]:
            raise ConfigError(f"{source} was changed after it was saved: its fingerprint is another")
        return encoder


class DualEncoder(ComposedEncoder):
    """An encoder of pictures and of texts: the port's ``TextEncoder``.

    Attributes:
        text: the tower for texts.
    """

    def __init__(self, trunk: Network, composition: Composition, text: TextTower, *, name: str, reference: str) -> None:
        super().__init__(trunk, composition, name=name, reference=reference)
        self.text = text

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors float32 ``[n, dim]``, to be compared with those of pictures; long texts are cut off.

        Raises:
            ConfigError: no tokenizer lies beside the model, or it or the tower for texts cannot be loaded.
        """
        return self.text.encode(texts)


def load(rest: str) -> ComposedEncoder:
    """The encoder of ``hf:<rest>``: a model folder, a saved or exported encoder's folder, or a hub name, with options.

    Options: ``pooling`` (``cls``, ``mean``, ``gem``, ``own``, ``cls_mean``; default: ``own`` for models that were trained
    to embed pictures, ``cls`` where there is a class token, else ``mean``), ``p`` (the power of ``gem``), ``tokens`` (how
    many are kept; default 64, or all of a trunk with fewer), ``token_by`` (which: ``diverse``, ``cls``, ``norm``),
    ``token_dtype`` (``int8`` or ``bits``: the sign of each value alone, an eighth of the bytes), ``token_bytes`` (how many
    bytes a picture they may take), ``token_projection`` (a file of ``fit_projection`` that makes them narrower),
    ``token_dim`` (how many of its components), ``runtime`` (what runs the network; not part of what the encoder is). A
    saved encoder takes ``runtime`` and, where its head was trained for that, ``dim``: how many of the first values.

    Raises:
        ConfigError: no such model, or an option that is unknown or has no meaning.
        MissingDependency: torch or transformers is not installed.
    """
    source, _, query = rest.partition("?")
    options = _options(rest, query)
    runtime = options.pop("runtime", None)
    folder = Path(source).expanduser()
    if (folder / CONFIG_FILE).is_file():
        dim = _number(options, "dim", int, None)
        options.pop("dim", None)
        if options:
            raise ConfigError(f"{source} is a saved encoder: it takes no options but dim and runtime")
        saved = _load_saved(folder, runtime)
        return saved if dim is None else saved.first(dim)
    if "dim" in options:
        raise ConfigError(f"hf:{rest}: dim is of a saved encoder with a head: pixdex train head makes one")
    trunk = Trunk.load(source, runtime=runtime)
    composition = _composition(trunk, options)
    where = str(folder.resolve()) if folder.is_dir() else source
    return ComposedEncoder.on(trunk, composition, name=trunk.name, reference=_reference(where, composition, options))


def _parts(trunk: Network, composition: Composition) -> dict[str, str]:
    """What the fingerprint is made of."""
    return {
        "config": digest_of({"trunk": trunk.config_digest(), **composition.vector_values()}),
        "weights": trunk.weights_digest(),
        "preprocessing": trunk.preprocess.digest(),
    }


def _load_saved(folder: Path, runtime: str | None) -> ComposedEncoder:
    if "outputs" in read_document(folder / CONFIG_FILE):  # exported: it says what its network gives
        from pixdex.encoders import exported

        return exported.load(folder, runtime=runtime)
    return ComposedEncoder.load(folder, runtime=runtime)


def _options(rest: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            raise ConfigError(f"hf:{rest}: unknown option {name!r}; there are {', '.join(_OPTIONS)}")
    if "p" in options and options.get("pooling") != Pooling.GEM:
        raise ConfigError(f"hf:{rest}: p is the power of pooling=gem")
    return options


def _composition(trunk: Trunk, options: Mapping[str, str]) -> Composition:
    power = _number(options, "p", float, GEM_POWER)
    if not power > 0:
        raise ConfigError(f"hf: p is positive, not {power}")
    projection = _projection(options)
    coding = Coding.named(options.get("token_dtype", Coding.INT8))
    token_bytes = coding.bytes_of(trunk.dim if projection is None else projection.width)
    return Composition(
        pooling=Pooling.named(options.get("pooling", trunk.default_pooling)),
        gem_power=power,
        tokens=_token_count(trunk, options, token_bytes),
        token_choice=Choice.named(options.get("token_by", Choice.DIVERSE)),
        token_projection=projection,
        token_coding=coding,
    )


def _projection(options: Mapping[str, str]) -> Projection | None:
    if "token_projection" not in options:
        if "token_dim" in options:
            raise ConfigError("hf: token_dim needs token_projection=FILE, which fit_projection makes")
        return None
    projection = Projection.load(Path(options["token_projection"]).expanduser())
    return projection.first(_number(options, "token_dim", int, projection.width))


def _token_count(trunk: Trunk, options: Mapping[str, str], width: int) -> int:
    """As many as are asked for, as fit into the budget at ``width`` bytes each, and as there are."""
    budget = _number(options, "token_bytes", int, None)
    if budget is None:
        return min(_number(options, "tokens", int, DEFAULT_TOKENS), trunk.cells)
    if budget < width:
        raise ConfigError(f"hf: token_bytes={budget} is less than one token, {width} bytes")
    return min(_number(options, "tokens", int, trunk.cells), budget // width, trunk.cells)


def _number(options: Mapping[str, str], name: str, kind: Callable[[str], N], default: D) -> N | D:
    if name not in options:
        return default
    try:
        return kind(options[name])
    except ValueError as error:
        raise ConfigError(f"hf: {name} is a number: {error}") from None


def _reference(source: str, composition: Composition, options: Mapping[str, str]) -> str:
    """What ``load`` makes the same encoder from: with the defaults spelled out, for they may change."""
    power = f"&p={composition.gem_power:g}" if composition.pooling is Pooling.GEM else ""
    tokens = f"&tokens={composition.tokens}"
    if composition.token_choice is not Choice.DIVERSE:
        tokens += f"&token_by={composition.token_choice.value}"
    if composition.token_coding is not Coding.INT8:
        tokens += f"&token_dtype={composition.token_coding.value}"
    if composition.token_projection is not None:
        file = quote(str(Path(options["token_projection"]).expanduser().resolve()))
        tokens += f"&token_projection={file}&token_dim={composition.token_projection.width}"
    return f"hf:{source}?pooling={quote(composition.pooling)}{power}{tokens}"


def read_document(file: Path) -> dict[str, Any]:
    """What ``pixdex.json`` says.

    Raises:
        ConfigError: it is not one, or from a newer pixdex.
    """
    try:
        document = orjson.loads(file.read_bytes())
        version = int(document["version"])
        missing = {"name", "pooling", "gem_power", "tokens", "preprocess", "fingerprint"} - set(document)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file.parent} is not a saved encoder: {error}") from error
    if version > _VERSION:
        raise ConfigError(f"{file.parent} was saved by a newer pixdex: pip install -U pixdex")
    if missing:
        raise ConfigError(f"{file} lacks {', '.join(sorted(missing))}")
    return dict(document)
