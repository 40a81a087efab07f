"""How the encoder ``mini`` is made: ``make mini``, or ``python -m pixdex.training.mini --help``.

Pictures: Caltech-101 (its training classes, and more of them) and Grocery Store (the training classes of the zero-shot
split), each a folder with ``labels.csv``. Nothing of the classes that tests are made with, nor any picture that the sets
``copies`` and ``smoke`` were made of. The teacher: MobileNetV2, Apache-2.0. See pixdex/encoders/mini/MODEL_CARD.md.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pixdex.errors import ConfigError, PixdexError
from pixdex.training.distil import distil
from pixdex.training.networks import MiniNet, MiniShape, folded
from pixdex.training.recipes import Pictures, Recipe
from pixdex.training.teachers import Teacher

__all__ = ["gathered", "main", "write"]

SIDE = 224
"""Pictures are kept at this side; views are made of them."""
SETS = {"caltech101": "split", "caltech101_more": "split", "grocery_store": "zero_shot_split"}
"""The folders, and the column that says ``train``."""
LEFT_OUT = ("copies", "smoke")
"""Sets whose ``source`` pictures nothing learns from."""
HELD = 4
"""Classes of each data set that nothing learns from, to see how well others are found."""


def main() -> int:
    """Train, or go on, and write the encoder's files."""
    parser = argparse.ArgumentParser(prog="python -m pixdex.training.mini", description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--teacher", type=Path, required=True, help="the folder of MobileNetV2's weights")
    parser.add_argument("--work", type=Path, default=Path("mini-out"), help="weights, log, and what is needed to go on")
    parser.add_argument("--into", type=Path, help="the encoder's folder to write; default: none")
    parser.add_argument("--seconds", type=float, default=Recipe().seconds)
    parser.add_argument("--batch", type=int, default=Recipe().batch)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    try:
        return _make(options)
    except KeyboardInterrupt:
        _say(f"stopped: the same command goes on from {options.work}")
        return 130
    except PixdexError as error:
        _say(f"error: {error}")
        return 1


def _make(options: argparse.Namespace) -> int:
    if not (options.teacher / "config.json").is_file():
        raise ConfigError(
            f"{options.teacher} holds no weights of MobileNetV2: --teacher (make TEACHER=FOLDER) names them"
        )
    pictures = gathered(options.pictures).to(torch.device(options.device))
    recipe = Recipe(seconds=options.seconds, batch=options.batch)
    shape = MiniShape()
    teacher = Teacher.load(options.teacher, shape.widths)
    distil(pictures, teacher, shape, recipe, out=options.work, state=options.work / "state.pt", say=_say)
    if options.into is not None:
        write(options.work / "mini.pt", options.into)
    return 0


def gathered(folder: Path) -> Pictures:
    """All that is learned from, in the order of the files; of each data set the last classes of a seeded order are held.

    Raises:
        ConfigError: a set is missing.
    """
    rows = list(_rows(folder))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = np.stack(list(pool.map(lambda row: _pixels(row[0]), rows)))
    names = [name for _, name, _ in rows]
    sets = list(dict.fromkeys(of for _, _, of in rows))
    held: list[str] = []
    for of in sets:
        classes = sorted({name for _, name, theirs in rows if theirs == of})
        held += [classes[place] for place in np.random.default_rng(6).permutation(len(classes))[:HELD]]
    number = {name: place for place, name in enumerate([*sorted(set(names) - set(held)), *held])}
    return Pictures(
        pixels=torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor([number[name] for name in names]),
        groups=torch.tensor([sets.index(of) for _, _, of in rows]),
        held=torch.tensor([name in held for name in names]),
    )


def _rows(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """(file, class, data set) of each training picture."""
    out = {row["source"] for name in LEFT_OUT for row in _table(folder / name)}
    for name, column in SETS.items():
        of = name.removesuffix("_more")
        for row in _table(folder / name):
            if row[column] == "train" and f"{name}/{row['path']}" not in out:
                yield folder / name / row["path"], f"{of}/{row['label']}", of


def _table(folder: Path) -> list[dict[str, str]]:
    if not (folder / "labels.csv").is_file():
        raise ConfigError(
            f"{folder} holds no labels.csv: --pictures (make PICTURES=FOLDER) names the folder with "
            f"{', '.join((*SETS, *LEFT_OUT))}"
        )
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _pixels(file: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def write(weights: Path, folder: Path) -> None:
    """Write ``model.onnx``, its weights as float16, and ``pixdex.json`` of the network in a file of ``distil``.

    A ``token_projection.safetensors`` that lies in the folder stays in use.

    Raises:
        ConfigError: the graph gives other vectors than the network.
    """
    from pixdex.encoders._digest import digest_of, tensors_digest
    from pixdex.encoders.compose import CONFIG_FILE, ComposedEncoder
    from pixdex.encoders.composition import Composition
    from pixdex.encoders.exported import describe
    from pixdex.encoders.pooling import Pooling
    from pixdex.encoders.preprocess import Preprocess
    from pixdex.encoders.runtimes.graph import Graph, Output, files_of
    from pixdex.encoders.runtimes.network import Digests, GraphNetwork, Shape, files_digest
    from pixdex.encoders.tokens import Projection

    values = torch.load(weights, map_location="cpu", weights_only=True)
    shape = MiniShape.from_json(values["shape"])
    network = MiniNet(shape).eval()
    network.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in values["weights"].items()})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.onnx"
    size = (shape.size, shape.size)
    _write_graph(_Whole(network), size, file)
    graph = Graph(
        file=file,
        key=files_digest(files_of(file)),
        size=size,
        outputs=tuple(Output(role=role, index=index) for index, role in enumerate(_Whole.outputs)),
    )
    tensors = {name: tensor.numpy() for name, tensor in values["weights"].items()}
    trunk = GraphNetwork(
        name="mini",
        graph=graph,
        preprocess=Preprocess(resize_to=size, resample="bilinear"),
        shape=Shape(outputs=_Whole.outputs, dim=shape.cells, own_dim=shape.dim, cells=(shape.size // 16) ** 2),
        digests=Digests(config=digest_of({"network": "MiniNet", **shape.to_json()}), weights=tensors_digest(tensors)),
    )
    projection = folder / "token_projection.safetensors"
    kept = Projection.load(projection) if projection.is_file() else None
    encoder = ComposedEncoder(
        trunk, Composition(pooling=Pooling.OWN, token_projection=kept), name="mini", reference="mini"
    )
    _check(network, trunk, size)
    import orjson

    document = encoder.to_json() | describe(trunk)
    (folder / CONFIG_FILE).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


class _Whole(nn.Module):
    """The network with what stands before it, as a graph takes it: uint8 ``[n, h, w, 3]``."""

    outputs = ("cells", "own")

    def __init__(self, network: MiniNet) -> None:
        super().__init__()
        self.network = folded(network)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.network(pixels.permute(0, 3, 1, 2).float() / 255)
        return maps.cells, maps.own


def _write_graph(module: _Whole, size: tuple[int, int], file: Path) -> None:
    from pixdex.encoders.runtimes import writing

    writing.require("onnxscript", "export")
    with writing.exporting():
        example = torch.zeros((2, *size, 3), dtype=torch.uint8)
        program = writing.program_of(module, example, {"pixels": {0: torch.export.Dim("n", min=1, max=writing.MOST)}})
        writing.save_onnx(program, module, "pixels", module.outputs, file)
    _halve(file)


def _halve(file: Path) -> None:
    """Keep weights as float16, with a cast before each use: half the bytes, and run in float32 as before."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(file)
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 64:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    _strip(model)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _strip(model: Any) -> None:
    """Without the notes of the exporter, which name files of this machine."""
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def _check(network: MiniNet, trunk: Any, size: tuple[int, int]) -> None:
    from pixdex.encoders.runtimes.probes import probes
    from pixdex.encoders.tokens import unit

    pictures = probes(size, 4)
    with torch.no_grad():
        truth: Mapping[str, Any] = network(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)._asdict()
    cosine = (unit(truth["own"].numpy()) * unit(trunk.forward(pictures).own)).sum(axis=1).min()
    if not cosine > 0.999:
        raise ConfigError(f"the graph gives other vectors than the network: cosine {cosine:.5f}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
