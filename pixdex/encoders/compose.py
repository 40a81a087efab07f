"""Encoders composed of a trunk, a pooling, a head and normalization.

A composition is referred to as ``hf:<folder or hub name>?pooling=cls&tokens=64`` or, once saved, by its folder, which
holds everything that makes the same encoder again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex.encoders._digest import digest_of, fingerprint_of
from pixdex.encoders.backbones import Activations, Trunk
from pixdex.encoders.pooling import GEM_POWER, Pooling, gem_pool, mean_pool
from pixdex.encoders.port import Features, Pixels
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.tokens import quantize, select, unit
from pixdex.errors import AlreadyExists, ConfigError, Unsupported
from pixdex.types import Metric, TokenSpec

__all__ = ["CONFIG_FILE", "ComposedEncoder", "Composition", "load"]

CONFIG_FILE = "pixdex.json"
"""What makes a folder a saved encoder."""
_VERSION = 1
_TRUNK = "trunk"
_DEFAULT_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """What follows the trunk.

    Attributes:
        pooling: how descriptors become one vector.
        gem_power: the exponent of ``Pooling.GEM``; without effect for the others.
        tokens: how many descriptors are kept for rerankers, chosen to differ from one another; 0 for none.
    """

    pooling: Pooling
    gem_power: float = GEM_POWER
    tokens: int = _DEFAULT_TOKENS

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise ConfigError(f"tokens: 0 or more, not {self.tokens}")

    def vector_values(self) -> dict[str, Any]:
        """What shapes a vector, for the fingerprint: the tokens don't."""
        power = self.gem_power if self.pooling is Pooling.GEM else None
        return {"pooling": self.pooling.value, "gem_power": power, "head": "identity", "normalize": "l2"}


class ComposedEncoder:
    """Trunk, pooling, head (the identity for now), L2 normalization; the port's ``Encoder``.

    Raises:
        ConfigError: the class token of a trunk without one is asked for.
    """

    metric = Metric.COSINE
    batch_size = 16

    def __init__(self, trunk: Trunk, composition: Composition, *, name: str, reference: str) -> None:
        if composition.pooling is Pooling.CLS and not trunk.prefix:
            raise ConfigError(f"{trunk.name} has no class token: pooling=mean or pooling=gem")
        self._trunk = trunk
        self._composition = composition
        self.name = name
        self.reference = reference
        self.dim = trunk.dim
        parts = {
            "config": digest_of({"trunk": trunk.config_digest(), **composition.vector_values()}),
            "weights": trunk.weights_digest(),
            "preprocessing": trunk.preprocess.digest(),
        }
        self.fingerprint = fingerprint_of(name, parts)
        self.token_spec = _token_spec(trunk, composition, name, parts)

    def __repr__(self) -> str:
        return f"ComposedEncoder({self.reference!r})"

    def prepare(self, pixels: Pixels) -> NDArray[np.uint8]:
        """uint8 ``[height, width, 3]`` of the trunk's input size."""
        return self._trunk.preprocess.fit(pixels)

    def encode(self, prepared: Sequence[NDArray[Any]], *, tokens: bool = False) -> Features:
        """Unit vectors float32 ``[n, dim]``, and int8 tokens ``[t, dim]`` each when asked for.

        Raises:
            Unsupported: tokens are asked of an encoder that was made with ``tokens=0``.
        """
        if tokens and self.token_spec is None:
            raise Unsupported(f"{self.reference} makes no tokens: load it with tokens={_DEFAULT_TOKENS}")
        parts = [
            self._encode_batch(prepared[start : start + self.batch_size], tokens=tokens)
            for start in range(0, len(prepared), self.batch_size)
        ]
        if not parts:
            return Features(np.empty((0, self.dim), dtype=np.float32), () if tokens else None)
        vectors = np.concatenate([part.vectors for part in parts])
        return Features(vectors, tuple(t for part in parts for t in part.tokens or ()) if tokens else None)

    def _encode_batch(self, prepared: Sequence[NDArray[Any]], *, tokens: bool) -> Features:
        activations = self._trunk.forward(self._trunk.preprocess.normalize(np.stack(prepared)))
        vectors = unit(_head(_pool(activations, self._composition)))
        if not tokens:
            return Features(vectors)
        kept = select(activations.cells, vectors, self._composition.tokens)
        return Features(vectors, tuple(quantize(kept)))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the encoder to a new or empty folder: ``pixdex.json`` and the trunk in safetensors.

        Raises:
            AlreadyExists: there is something in the folder.
        """
        target = Path(folder)
        if target.is_dir() and any(target.iterdir()):
            raise AlreadyExists(f"{target} is not empty")
        (target / _TRUNK).mkdir(parents=True)
        self._trunk.save(target / _TRUNK)
        document = {
            "version": _VERSION,
            "name": self.name,
            "pooling": self._composition.pooling.value,
            "gem_power": self._composition.gem_power,
            "tokens": self._composition.tokens,
            "preprocess": self._trunk.preprocess.to_json(),
            "fingerprint": self.fingerprint.digest,
        }
        # Last: a folder without it is no encoder, so a save that was cut off isn't taken for one.
        (target / CONFIG_FILE).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ComposedEncoder:
        """The encoder that ``save`` wrote.

        Raises:
            ConfigError: the folder is not one, is from a newer pixdex, or its contents were changed.
            MissingDependency: torch or transformers is not installed.
        """
        source = Path(folder)
        document = _read_document(source / CONFIG_FILE)
        preprocess = Preprocess.from_json(document["preprocess"])
        composition = Composition(
            pooling=Pooling.named(document["pooling"]), gem_power=document["gem_power"], tokens=document["tokens"]
        )
        trunk = Trunk.load(source / _TRUNK, preprocess=preprocess)
        encoder = cls(trunk, composition, name=document["name"], reference=str(source.resolve()))
        if encoder.fingerprint.digest != document["fingerprint"]:
            raise ConfigError(f"{source} was changed after it was saved: its fingerprint is another")
        return encoder


def load(rest: str) -> ComposedEncoder:
    """The encoder of ``hf:<rest>``: a model folder, a saved encoder's folder, or a hub name, with options.

    Options: ``pooling`` (``cls``, ``mean``, ``gem``; default: ``cls`` where there is a class token, else ``mean``), ``p``
    (the power of ``gem``), ``tokens`` (how many are kept; default 64, or all of a trunk with fewer).

    Raises:
        ConfigError: no such model, or an option that is unknown or has no meaning.
        MissingDependency: torch or transformers is not installed.
    """
    source, _, query = rest.partition("?")
    options = _options(rest, query)
    folder = Path(source).expanduser()
    if (folder / CONFIG_FILE).is_file():
        if options:
            raise ConfigError(f"{source} is a saved encoder: it takes no options")
        return ComposedEncoder.load(folder)
    trunk = Trunk.load(source)
    composition = _composition(trunk, options)
    where = str(folder.resolve()) if folder.is_dir() else source
    return ComposedEncoder(trunk, composition, name=trunk.name, reference=_reference(where, composition))


def _options(rest: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in ("pooling", "p", "tokens"):
            raise ConfigError(f"hf:{rest}: unknown option {name!r}; there are pooling, p, tokens")
    if "p" in options and options.get("pooling") != Pooling.GEM:
        raise ConfigError(f"hf:{rest}: p is the power of pooling=gem")
    return options


def _composition(trunk: Trunk, options: Mapping[str, str]) -> Composition:
    default = Pooling.CLS if trunk.prefix else Pooling.MEAN
    try:
        power = float(options.get("p", GEM_POWER))
        tokens = int(options.get("tokens", _DEFAULT_TOKENS))
    except ValueError as error:
        raise ConfigError(f"hf: p and tokens are numbers: {error}") from None
    if not power > 0:
        raise ConfigError(f"hf: p is positive, not {power}")
    return Composition(
        pooling=Pooling.named(options.get("pooling", default)), gem_power=power, tokens=min(tokens, trunk.cells)
    )


def _reference(source: str, composition: Composition) -> str:
    """What ``load`` makes the same encoder from: with the defaults spelled out, for they may change."""
    power = f"&p={composition.gem_power:g}" if composition.pooling is Pooling.GEM else ""
    return f"hf:{source}?pooling={quote(composition.pooling)}{power}&tokens={composition.tokens}"


def _token_spec(trunk: Trunk, composition: Composition, name: str, parts: Mapping[str, str]) -> TokenSpec | None:
    if composition.tokens == 0:
        return None
    config = {
        "vector": parts["config"],
        "tokens": composition.tokens,
        "choice": "farthest points",
        "coding": "int8, largest value 127",
    }
    fingerprint = fingerprint_of(name, {**parts, "config": digest_of(config)})
    return TokenSpec(count=composition.tokens, dim=trunk.dim, dtype="int8", fingerprint=fingerprint)


def _pool(activations: Activations, composition: Composition) -> NDArray[np.float32]:
    if composition.pooling is Pooling.GEM:
        return gem_pool(activations.cells, composition.gem_power)
    if composition.pooling is Pooling.MEAN or activations.cls is None:
        return mean_pool(activations.cells)
    return activations.cls


def _head(pooled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where learned projections will go; the identity until there are any."""
    return pooled


def _read_document(file: Path) -> dict[str, Any]:
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
