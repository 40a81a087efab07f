"""What the benchmarks of fine-tuning and adaptation share: options, the pictures, encoders, what they find, tables."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks import report, table
from pixdex import encoders
from pixdex.encoders._digest import digest_of
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.images import decode
from pixdex.encoders.runtimes.choosing import bfloat16_pays
from pixdex.encoders.runtimes.port import threads
from pixdex.evaluation import interval, measure, paired

__all__ = [
    "DATA",
    "SET",
    "anew",
    "compared",
    "cpu_seconds",
    "labelled_part",
    "made_by",
    "measured",
    "names_of",
    "options_of",
    "quickest",
    "reference",
]

DATA = {"grocery_store": "zero_shot_split", "caltech101": "split"}
"""Which column says what is trained on; the classes of ``test`` are others."""
SET = "grocery_store"
"""What is trained on."""
MODEL = "vit-tiny-16-224"
METRICS = ("map@r", "recall@1", "map")
BASELINES = "frozen", "head"
_QUICK = 10, 3
"""Classes, and pictures of each, of a quick run."""


def options_of(about: str | None, names: str) -> argparse.Namespace:
    """The options of the command line; ``names`` says what ``--only`` takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="a few pictures and steps; figures mean nothing")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--cache", type=Path, help="keep encoders and vectors here, and go on from what is there")
    parser.add_argument("--only", nargs="*", help=f"of {names}; default: all")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE", help="trunks trained elsewhere")
    return parser.parse_args()


def measured(
    name: str, options: argparse.Namespace, run: Callable[[argparse.Namespace, Path], dict[str, Any]]
) -> dict[str, Any] | None:
    """What ``run`` finds, working in a folder; None, and said so, where there are no pictures."""
    if not options.shared.is_dir():
        print(f"skipped: no pictures in {options.shared}")
        report(name, {"skipped": "no pictures"}, {}, as_json=options.json)
        return None
    with tempfile.TemporaryDirectory() as folder:
        work = options.cache or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        return run(options, work)


def names_of(options: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those that are asked for, and ``gpu`` where there is one."""
    import torch

    every = [*names, *(["gpu"] if torch.cuda.is_available() else [])]
    return [name for name in every if options.only is None or name in options.only]


def reference(options: argparse.Namespace, runtime: str = "torch") -> str:
    """Of the frozen encoder."""
    return f"hf:{options.shared / 'models' / MODEL}?runtime={runtime}"


def quickest() -> str:
    """Torch in bfloat16 where the processor has the instructions, as training then uses them too; else in float32."""
    return "torch-bf16" if bfloat16_pays() else "torch"


def made_by(
    train: Callable[[str, Path], dict[str, Any]], names: Iterable[str], options: argparse.Namespace, work: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Encoders by name, and what they cost: the frozen one, those that ``train(name, folder)`` makes, unless they are there
    already, and those of weights that were trained elsewhere.
    """
    runtime = quickest()
    made: dict[str, Any] = {"frozen": encoders.load(reference(options, runtime))}
    costs: dict[str, Any] = {}
    for name in names:
        folder = work / name.replace(", ", "-").replace(" ", "-")
        note = work / f"{folder.name}.json"
        if not (folder / "pixdex.json").is_file():
            anew(folder)
            note.write_bytes(orjson.dumps(train(name, folder)))
            print(f"{name}: {orjson.loads(note.read_bytes())['cpu']:.0f} s of CPU time", flush=True)
        made[name] = encoders.load(f"{folder}?runtime={runtime}")
        costs[name] = orjson.loads(note.read_bytes()) if note.is_file() else {}
    for pair in options.weights:
        name, _, file = pair.partition("=")
        base: Any = encoders.load(reference(options))
        made[name], words = from_weights(base, Path(file), work / f"weights-{name.replace(' ', '-')}")
        costs[name] = {"elsewhere": orjson.loads(words.get("report", "{}")).get("runs", [])[-1:]}
    return made, costs


def anew(folder: Path) -> None:
    """Take away what a run that was cut off has left: what CPU time that took is not known."""
    for name in (folder.name, f"{folder.name}.partial", f"{folder.name}.features"):
        shutil.rmtree(folder.with_name(name), ignore_errors=True)


def compared(made: Mapping[str, Any], data: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """What encoders find among the test classes of a data set, printed too."""
    test = labelled_part(options.shared, data, "test", quick=options.quick)
    pictures = _Prepared(test)
    vectors = {name: vectors_of(encoder, pictures, work / "vectors") for name, encoder in made.items()}
    results = found(vectors, test.labels, *BASELINES)
    print(f"\n{data}, {len(test)} pictures of {len(test.names)} unseen classes")
    shown(results, *BASELINES)
    return results


class _Prepared:
    """Pictures as a network takes them, decoded once for all encoders on networks of one kind."""

    def __init__(self, data: Any) -> None:
        self.key = digest_of({"pictures": [item.label for item in data.items]})
        self._items = data.items
        self._made: list[NDArray[np.uint8]] = []

    def by(self, encoder: Any) -> list[NDArray[np.uint8]]:
        if not self._made:
            with ThreadPoolExecutor(threads()) as pool:
                self._made = list(pool.map(lambda item: self._one(encoder, item), self._items))
        return self._made

    @staticmethod
    def _one(encoder: Any, item: Any) -> NDArray[np.uint8]:
        return np.asarray(encoder.prepare(decode(item.picture.read_bytes(), min_side=encoder.min_side).pixels))


def labelled_part(shared: Path, name: str, part: str, *, quick: bool = False) -> Any:
    """The labelled pictures of the training or the test classes of a data set."""
    from pixdex.training.data import Labelled, labelled

    data = labelled(shared / "data" / name / "labels.csv", where=f'{DATA[name]} == "{part}"')
    if not quick:
        return data
    classes, each = _QUICK
    rows = np.concatenate([np.flatnonzero(data.labels == number)[:each] for number in range(classes)])
    return Labelled(tuple(data.items[r] for r in rows), data.labels[rows], data.names[:classes])


def vectors_of(encoder: Any, pictures: _Prepared, cache: Path) -> NDArray[np.float32]:
    """Vectors of pictures, kept in a folder from one run to the next, half as precise."""
    file = cache / f"{encoder.fingerprint.digest[:16]}-{pictures.key[:16]}.npy"
    if file.is_file():
        return np.asarray(np.load(file), dtype=np.float32)
    prepared = pictures.by(encoder)
    vectors = np.concatenate([encoder.encode(prepared[n : n + 256]).vectors for n in range(0, len(prepared), 256)])
    cache.mkdir(parents=True, exist_ok=True)
    np.save(file, vectors.astype(np.float16))
    return vectors


def found(made: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], *baselines: str) -> dict[str, Any]:
    """Each encoder's figures with intervals, and by how much it differs from the baselines over the same queries."""
    values = {name: measure(vectors, labels, metrics=METRICS) for name, vectors in made.items()}
    return {
        name: {
            **{metric: asdict(interval(per_query)) for metric, per_query in of.items()},
            **{
                f"over {baseline}": {metric: asdict(paired(of[metric], values[baseline][metric])) for metric in METRICS}
                for baseline in baselines
                if baseline in made
            },
        }
        for name, of in values.items()
    }


def shown(results: Mapping[str, Any], *baselines: str) -> None:
    """A row an encoder."""
    there = [baseline for baseline in baselines if baseline in results]
    rows = []
    for name, of in results.items():
        over = [of[f"over {baseline}"]["map@r"] for baseline in there]
        gains = [f"{one['mean']:+.3f} [{one['low']:+.4f}, {one['high']:+.4f}]" for one in over]
        rows.append((name, of["map@r"]["mean"], of["recall@1"]["mean"], *gains))
    table(("unseen classes", "MAP@R", "R@1", *(f"MAP@R over {baseline}" for baseline in there)), rows)


def from_weights(base: ComposedEncoder, file: Path, folder: Path) -> tuple[Any, dict[str, str]]:
    """The encoder of weights that were trained elsewhere, saved to a folder, and the file's own words about them."""
    from safetensors import safe_open

    from pixdex.training._network import encoder_of

    with safe_open(str(file), "pt") as opened:
        state = {f"tower.{name}": opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118 - no mapping
        words = dict(opened.metadata() or {})
    if not (folder / "pixdex.json").is_file():
        encoder_of(base, state, name=folder.name, reference=str(folder), work=folder.parent).save(folder)
    return encoders.load(f"{folder}?runtime=torch"), words


def cpu_seconds(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call gives, and the seconds of CPU time and of the clock that it took."""
    clock, cpu = time.perf_counter(), _cpu()
    made = call()
    return made, _cpu() - cpu, time.perf_counter() - clock


def _cpu() -> float:
    """Of this process and of those that it waited for: pictures are decoded in processes of their own."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
