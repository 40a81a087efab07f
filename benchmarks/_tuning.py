"""What the benchmarks of fine-tuning and adaptation share: the pictures, what encoders find among unseen classes, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import table
from pixdex import encoders
from pixdex.encoders._digest import digest_of
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.images import decode
from pixdex.encoders.runtimes.port import threads
from pixdex.evaluation import interval, measure, paired

__all__ = ["DATA", "METRICS", "cpu_seconds", "found", "from_weights", "labelled_part", "shown", "vectors_of"]

DATA = {"grocery_store": "zero_shot_split", "caltech101": "split"}
"""Which column says what is trained on; the classes of ``test`` are others."""
METRICS = ("map@r", "recall@1", "map")
_QUICK = 10, 3
"""Classes, and pictures of each, of a quick run."""


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
