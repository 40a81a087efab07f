"""``onnx:<file>``: an encoder from any ``.onnx`` file that takes pictures of three channels.

``onnx:/models/vgg16.onnx?size=224&mean=.485,.456,.406&std=.229,.224,.225`` says what the file does not: how pictures become
its input. The same keys may stand in a JSON file beside it (``vgg16.json``), as strings, numbers or lists; what
the reference says goes before what that file says.

==================  ================================================================================================
``size``            side of the input in pixels, or ``height x width`` as ``224x320``; read from the file where it is fixed
``shortest_edge``   resize the shorter side to this, then crop the centre; without: resize to ``size``, not keeping the ratio
``resample``        resize filter: ``bicubic`` (default), ``bilinear``, ``lanczos``, ``nearest``, ``box``, ``hamming``
``scale``           factor on the values 0 to 255, default 1/255
``mean``, ``std``   subtracted from each channel after that, and what it is divided by: one number or three
``layout``          ``nchw`` or ``nhwc``; read from the file where three channels show which
``output``          name of the output, where there are several
``prefix``          of an output ``[n, t, d]``: how many tokens come before the patches, the class token first; default 0
``pooling``, ``p``  as of ``hf:``; default: ``own`` for an output ``[n, d]``, ``cls`` with a prefix, else ``mean``
``tokens``          how many descriptors are kept for rerankers; default 64, or 0 for an output ``[n, d]``
``runtime``         ``auto``, ``onnx``, ``openvino`` ...; not part of what the encoder is
==================  ================================================================================================

At least one of ``scale``, ``mean`` and ``std`` must be given for inputs that are not uint8: a wrong guess would give vectors
that are only somewhat bad. An output ``[n, d]`` is the embedding; ``[n, t, d]`` and feature maps are local descriptors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args
from urllib.parse import parse_qsl, quote

import numpy as np
import orjson

from pixdex.encoders._digest import digest_of
from pixdex.encoders.compose import DEFAULT_TOKENS, ComposedEncoder, Composition
from pixdex.encoders.images import Resample
from pixdex.encoders.pooling import GEM_POWER, Pooling
from pixdex.encoders.preprocess import Preprocess
from pixdex.encoders.runtimes import finding, requested
from pixdex.encoders.runtimes.graph import Feed, Graph, Layout, Output, Port, Signature, files_of
from pixdex.encoders.runtimes.network import Digests, GraphNetwork, Shape, files_digest
from pixdex.encoders.runtimes.port import Runtime
from pixdex.errors import ConfigError, nearest

__all__ = ["load"]

_KEYS = (
    "size", "shortest_edge", "resample", "scale", "mean", "std", "layout", "output", "prefix", "pooling", "p", "tokens",
    "runtime",
)  # fmt: skip
_DTYPES = ("float32", "float16", "uint8")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Options:
    """What the reference and the file beside the model say."""

    where: str
    values: Mapping[str, str]

    def get(self, key: str, convert: Callable[[str], _T], default: _T) -> _T:
        """The value of ``key``.

        Raises:
            ConfigError: it is not one.
        """
        if key not in self.values:
            return default
        try:
            return convert(self.values[key])
        except ValueError:
            raise ConfigError(f"{self.where}: {key}={self.values[key]!r} has no meaning") from None


def load(rest: str) -> ComposedEncoder:
    """The encoder of ``onnx:<rest>``: a file and its options, see the module.

    Raises:
        ConfigError: no such file, or it and the options don't make an encoder.
        MissingDependency: neither ONNX Runtime nor OpenVINO is installed.
    """
    name, _, query = rest.partition("?")
    file = Path(name).expanduser()
    if not file.is_file():
        raise ConfigError(f"onnx:{rest}: no such file")
    options = _options(file, rest, query)
    network = _network(file, options)
    composition = _composition(network, options)
    return ComposedEncoder(
        network, composition, name=network.name, reference=_reference(file, network, composition, options)
    )


def _options(file: Path, rest: str, query: str) -> _Options:
    beside = file.with_suffix(".json")
    values = _read(beside) if beside.is_file() else {}
    values |= dict(parse_qsl(query, keep_blank_values=True))
    for key in values:
        if key not in _KEYS:
            raise ConfigError(f"onnx:{rest}: unknown option {key!r}{nearest(key, _KEYS)}")
    return _Options(f"onnx:{rest}", values)


def _read(file: Path) -> dict[str, str]:
    try:
        values = orjson.loads(file.read_bytes())
        return {key: ",".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in values.items()}
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise ConfigError(f"{file} is no JSON object of options") from error


def _network(file: Path, options: _Options) -> GraphNetwork:
    signature = finding.signature(file)
    taken = _input(signature, options)
    layout = _layout(taken, options)
    preprocess = _preprocess(taken, layout, options)
    output, index = _output(signature, options)
    prefix = options.get("prefix", _count, 0)
    key = files_digest(files_of(file))
    graph = Graph(
        file=file,
        key=key,
        size=preprocess.size,
        outputs=(Output(role="own" if len(output.shape) == 2 else "cells", index=index),),
        feed=Feed(preprocess=preprocess, layout=layout, dtype=taken.dtype),
        batch=taken.shape[0],
        prefix=prefix,
    )
    if prefix and len(output.shape) != 3:
        raise ConfigError(f"{options.where}: prefix is for an output [n, t, d], not {_shown(output)}")
    config = {"layout": layout, "dtype": taken.dtype, "output": output.name, "prefix": prefix}
    runtime = requested(options.get("runtime", str, None))
    reference = finding.reference_for(graph)
    return GraphNetwork(
        name=file.stem,
        graph=_with_key(graph, config),
        preprocess=preprocess,
        shape=_shape(graph, reference, options),
        digests=Digests(config=digest_of({"onnx": config}), weights=key),
        runtime=runtime,
        reference=reference,
    )


def _with_key(graph: Graph, config: Mapping[str, Any]) -> Graph:
    """With a key that also names how it is fed and read: what ``auto`` measured holds for all of that."""
    feed = cast("Feed", graph.feed)
    return replace(graph, key=digest_of({"file": graph.key, "preprocess": feed.preprocess.to_json(), **config}))


def _input(signature: Signature, options: _Options) -> Port:
    if len(signature.inputs) != 1:
        names = ", ".join(port.name for port in signature.inputs)
        raise ConfigError(f"{options.where}: it takes {len(signature.inputs)} inputs ({names}), not one picture")
    port = signature.inputs[0]
    if len(port.shape) != 4:
        raise ConfigError(f"{options.where}: its input is {_shown(port)}, not pictures of four axes")
    if port.dtype not in _DTYPES:
        raise ConfigError(f"{options.where}: its input is {port.dtype}; there are {', '.join(_DTYPES)}")
    return port


def _layout(port: Port, options: _Options) -> Layout:
    channels: dict[Layout, int | None] = {"nchw": port.shape[1], "nhwc": port.shape[3]}
    sure = [layout for layout, length in channels.items() if length == 3]
    wanted = options.get("layout", str.lower, None) or (sure[0] if len(sure) == 1 else None)
    if wanted is None:
        raise ConfigError(f"{options.where}: its input is {_shown(port)}: say layout=nchw or layout=nhwc")
    for layout, length in channels.items():
        if layout == wanted and length in (3, None):
            return layout
    raise ConfigError(f"{options.where}: layout={wanted} does not fit its input {_shown(port)}")


def _preprocess(port: Port, layout: Layout, options: _Options) -> Preprocess:
    fixed = port.shape[2:] if layout == "nchw" else port.shape[1:3]
    size = options.get("size", _size, None) or _known(fixed)
    if size is None:
        raise ConfigError(f"{options.where}: its input is {_shown(port)}: say size=...")
    if any(length not in (None, wanted) for length, wanted in zip(fixed, size, strict=True)):
        raise ConfigError(f"{options.where}: a size of {size[0]}x{size[1]} does not fit its input {_shown(port)}")
    edge = options.get("shortest_edge", _positive, None)
    if edge is not None and edge < max(size):
        raise ConfigError(f"{options.where}: shortest_edge={edge} is less than the size that is cut out")
    resample = options.get("resample", str.lower, "bicubic")
    if resample not in get_args(Resample):
        raise ConfigError(f"{options.where}: resample={resample}: one of {', '.join(get_args(Resample))}")
    said = {"scale", "mean", "std"} & set(options.values)
    if port.dtype == "uint8" and said:
        raise ConfigError(f"{options.where}: its input is uint8, so {' and '.join(sorted(said))} have no meaning")
    if port.dtype != "uint8" and not said:
        raise ConfigError(
            f"{options.where}: say how pixels are normalized, by scale, mean and std "
            "(models of ImageNet: mean=.485,.456,.406&std=.229,.224,.225)"
        )
    return Preprocess(
        resize_to=size if edge is None else None,
        shortest_edge=edge,
        crop=None if edge is None else size,
        resample=cast("Resample", resample),
        scale=1.0 if port.dtype == "uint8" else options.get("scale", _number, 1 / 255),
        mean=options.get("mean", _triple, (0.0, 0.0, 0.0)),
        std=options.get("std", _triple, (1.0, 1.0, 1.0)),
    )


def _known(lengths: tuple[int | None, ...]) -> tuple[int, int] | None:
    height, width = lengths
    return None if height is None or width is None else (height, width)


def _output(signature: Signature, options: _Options) -> tuple[Port, int]:
    names = [port.name for port in signature.outputs]
    wanted = options.get("output", str, names[0] if len(names) == 1 else None)
    if wanted is None:
        raise ConfigError(f"{options.where}: it has several outputs: say output=... of {', '.join(names)}")
    if wanted not in names:
        raise ConfigError(f"{options.where}: no output {wanted!r}{nearest(wanted, names)}")
    return signature.outputs[names.index(wanted)], names.index(wanted)


def _shape(graph: Graph, reference: Runtime, options: _Options) -> Shape:
    """Found by running it: files seldom declare the lengths of an output."""
    made = reference.forward(np.zeros((1, *graph.size, 3), dtype=np.uint8))
    if not made.cells.shape[1]:
        raise ConfigError(f"{options.where}: prefix={graph.prefix} leaves no descriptors")
    outputs = tuple(name for name in ("cells", "cls", "own") if getattr(made, name) is not None)
    own_dim = None if made.own is None else made.own.shape[1]
    return Shape(outputs=outputs, dim=made.cells.shape[2], own_dim=own_dim, cells=made.cells.shape[1])


def _composition(network: GraphNetwork, options: _Options) -> Composition:
    embeds = network.own_dim is not None
    default = Pooling.OWN if embeds else Pooling.CLS if "cls" in network.outputs else Pooling.MEAN
    pooling = Pooling.named(options.get("pooling", str, default.value))
    if "p" in options.values and pooling is not Pooling.GEM:
        raise ConfigError(f"{options.where}: p is the power of pooling=gem")
    power = options.get("p", _number, GEM_POWER)
    if not power > 0:
        raise ConfigError(f"{options.where}: p is positive, not {power}")
    tokens = min(options.get("tokens", _count, 0 if embeds else DEFAULT_TOKENS), network.cells)
    return Composition(pooling=pooling, gem_power=power, tokens=tokens)


def _reference(file: Path, network: GraphNetwork, composition: Composition, options: _Options) -> str:
    """What ``load`` makes the same encoder from, without the file beside it: defaults spelled out, the runtime left out."""
    preprocess, feed = network.preprocess, cast("Feed", network.graph.feed)
    said = {
        "size": "x".join(map(str, preprocess.size)),
        "shortest_edge": preprocess.shortest_edge,
        "resample": preprocess.resample,
        "layout": feed.layout,
        "output": options.values.get("output"),
        "prefix": network.graph.prefix or None,
        "pooling": composition.pooling.value,
        "p": composition.gem_power if composition.pooling is Pooling.GEM else None,
        "tokens": composition.tokens,
    }
    if feed.dtype != "uint8":
        mean, std = (",".join(map(str, values)) for values in (preprocess.mean, preprocess.std))
        said |= {"scale": preprocess.scale, "mean": mean, "std": std}
    query = "&".join(f"{key}={quote(str(value), safe=',')}" for key, value in said.items() if value is not None)
    return f"onnx:{file.resolve()}?{query}"


def _shown(port: Port) -> str:
    return f"[{', '.join('?' if length is None else str(length) for length in port.shape)}]"


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.replace(",", "x").partition("x")
    return _positive(height), _positive(width or height)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _count(text: str) -> int:
    if int(text) < 0:
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _triple(text: str) -> tuple[float, float, float]:
    values = [_number(part) for part in text.split(",")]
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue
