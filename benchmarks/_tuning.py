"""What the benchmarks of fine-tuning and adaptation share: options, the pictures, encoders, what they find, tables."""

from __future__ import annotations

import argparse
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
from pixdex.encoders.runtimes.port import threads
from pixdex.evaluation import interval, measure, paired

__all__ = [
    "DATA",
    "SET",
    "compared",
    "cpu_seconds",
    "labelled_part",
    "made_by",
    "measured",
    "names_of",
    "options_of",
    "reference",
]

DATA = {"grocery_store": "zero_shot_split", "caltech101": "split"}
"""Which column says what is trained on; the classes of ``test`` are others."""
SET = "grocery_store"
"""What is trained on."""
MODEL = "vit-tiny-16-224"
METRICS = ("map@r", "recall@1", "map")
_QUICK = 10, 3
"""Classes, and pictures of each, of a quick run."""


def options_of(about: str | None, names: str) -> argparse.Namespace:
    """The options of the command line; ``names`` says what ``--only`` takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="a few pictures and steps; figures mean nothing")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--work", type=Path, help="keep encoders and vectors here, and go on from what is there")
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
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        return run(options, work)


def names_of(options: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those that are asked for, and ``gpu`` where there is one."""
    import torch

    every = [*names, *(["gpu"] if torch.cuda.is_available() else [])]
    return [name for name in every if options.only is None or name in options.only]


def reference(options: argparse.Namespace) -> str:
    """Of the frozen encoder."""
    return f"hf:{options.shared / 'models' / MODEL}?runtime=torch"


def made_by(
    train: Callable[[str, Path], dict[str, Any]], names: Iterable[str], options: argparse.Namespace, work: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Encoders by name, and what they cost: the frozen one, those that ``train(name, folder)`` makes, unless they are there
    already, and those of weights that were trained elsewhere.
    """
    base: Any = encoders.load(reference(options))
    made: dict[str, Any] = {"frozen": base}
    costs: dict[str, Any] = {}
    for name in names:
        folder = work / name.replace(" ", "-")
        note = work / f"{folder.name}.json"
        if not (folder / "pixdex.json").is_file():
            note.write_bytes(orjson.dumps(train(name, folder)))
        made[name] = encoders.load(f"{folder}?runtime=torch")
        costs[name] = orjson.loads(note.read_bytes()) if note.is_file() else {}
    for pair in options.weights:
        name, _, file = pair.partition("=")
        made[name], words = from_weights(base, Path(file), work / f"weights-{name.replace(' ', '-')}")
        costs[name] = {"elsewhere": orjson.loads(words.get("report", "{}")).get("runs", [])[-1:]}
    return made, costs


def compared(made: Mapping[str, Any], data: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """What encoders find among the test classes of a data set, printed too."""
    test = labelled_part(options.shared, data, "test", quick=options.quick)
    results = found(
        {name: vectors_of(encoder, test, work / "vectors") for name, encoder in made.items()}, test.labels, "frozen"
    )
    print(f"\n{data}, {len(test)} pictures of {len(test.names)} unseen classes")
    shown(results)
    return results


def labelled_part(shared: Path, name: str, part: str, *, quick: bool = False) -> Any:
    """The labelled pictures of the training or the test classes of a data set."""
    from pixdex.training.data import Labelled, labelled

    data = labelled(shared / "data" / name / "labels.csv", where=f'{DATA[name]} == "{part}"')
    if not quick:
        return data
    classes, each = _QUICK
    rows = np.concatenate([np.flatnonzero(data.labels == number)[:each] for number in range(classes)])
    return Labelled(tuple(data.items[r] for r in rows), data.labels[rows], data.names[:classes])


def vectors_of(encoder: Any, data: Any, cache: Path) -> NDArray[np.float32]:
    """Vectors of pictures, kept in a folder from one run to the next, half as precise."""
    pictures = digest_of({"pictures": [item.label for item in data.items]})
    file = cache / f"{encoder.fingerprint.digest[:16]}-{pictures[:16]}.npy"
    if file.is_file():
        return np.asarray(np.load(file), dtype=np.float32)

    def prepared(item: Any) -> NDArray[np.uint8]:
        return np.asarray(encoder.prepare(decode(item.picture.read_bytes(), min_side=encoder.min_side).pixels))

    with ThreadPoolExecutor(threads()) as pool:
        chunks = (list(pool.map(prepared, data.items[start : start + 256])) for start in range(0, len(data), 256))
        vectors = np.concatenate([encoder.encode(chunk).vectors for chunk in chunks])
    cache.mkdir(parents=True, exist_ok=True)
    np.save(file, vectors.astype(np.float16))
    return vectors


def found(made: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], baseline: str) -> dict[str, Any]:
    """Each encoder's figures with intervals, and by how much it differs from the baseline over the same queries."""
    values = {name: measure(vectors, labels, metrics=METRICS) for name, vectors in made.items()}
    return {
        name: {
            **{metric: asdict(interval(per_query)) for metric, per_query in of.items()},
            "over the baseline": {metric: asdict(paired(of[metric], values[baseline][metric])) for metric in METRICS},
        }
        for name, of in values.items()
    }


def shown(results: Mapping[str, Any]) -> None:
    """A row an encoder."""
    rows = []
    for name, of in results.items():
        over = of["over the baseline"]["map@r"]
        rows.append(
            (
                name,
                of["map@r"]["mean"],
                of["recall@1"]["mean"],
                over["mean"],
                f"[{over['low']:+.4f}, {over['high']:+.4f}]",
            )
        )
    table(("unseen classes", "MAP@R", "R@1", "MAP@R over frozen", "95 %"), rows)


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
    clock, cpu = time.perf_counter(), time.process_time()
    made = call()
    return made, time.process_time() - cpu, time.perf_counter() - clock
