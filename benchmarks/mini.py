"""The encoder ``mini``: its size, what it finds beside its teacher, and how fast it is.

Needs the development pictures and weights beside the checkout (``--shared``). Unseen classes of two data sets (cosine,
leave-one-out), edited copies (each picture that is relevant counts, full ranking); files through ``decode``, ``prepare`` and
``encode`` as ``add`` does it. The teacher, MobileNetV2, sees pictures squeezed to 224 x 224, pooled by the mean. Speed: JPEG
files of 640x480 from memory, on one core: decoding, resizing, network, normalizing; by processor time, which on an idle core is
the time of the clock. Cold: wall-clock seconds of a whole ``pixdex search`` with a file on an embedded store.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

import pixdex
from benchmarks import Goal, report, table
from benchmarks._encoding import in_process, jpegs, machine_facts
from pixdex import encoders
from pixdex.encoders.images import decode
from pixdex.encoders.mini import FOLDER
from pixdex.encoders.port import Encoder
from pixdex.evaluation import interval, measure, paired

TEACHER = {"grocery_store": 0.414, "caltech101": 0.583}
"""MAP@R of the teacher, which the goals were set from."""
SHARE = 0.85
COLUMNS = {"grocery_store": "zero_shot_split", "caltech101": "split"}
METRICS = ("recall@1", "map@r", "map")
TOGETHER = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the classes, without the teacher; under a minute"
    )
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--speed", nargs=2, metavar=("FOLDER", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.speed:
        print(orjson.dumps(_speed(Path(options.speed[0]), float(options.speed[1]))).decode())
        return 0
    results: dict[str, Any] = {"machine": machine_facts()}
    results["bytes"] = sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = folder / "pictures"
        jpegs(pictures, 4 if options.quick else 32, 640, 480)
        results["one core"] = in_process(
            "benchmarks.mini", "--speed", str(pictures), "1" if options.quick else "10", cores=1
        )
        results["cold"] = _cold(folder, pictures, times=3 if options.quick else 9)
    data = options.shared / "data"
    if data.is_dir():
        others = {} if options.quick else {"teacher": _teacher(options.shared / "models" / "mobilenet-v2-backbone")}
        _found(results, data, {"mini": encoders.load("mini"), **others}, quick=options.quick)
    return 0 if report("mini", results, _goals(results, quick=options.quick), as_json=options.json) else 1


def _goals(results: dict[str, Any], *, quick: bool) -> dict[str, Goal]:
    goals = {
        "megabytes": Goal(results["bytes"] / 1e6, 10, at_most=True),
        "pictures a second, one core": Goal(results["one core"]["pictures_per_s"], 150),
        "seconds to the first hit, cold": Goal(results["cold"]["median"], 1.5, at_most=True),
    }
    if "found" in results and not quick:
        found = results["found"]["mini"]
        goals |= {f"MAP@R {name}": Goal(found[name]["map@r"], SHARE * theirs) for name, theirs in TEACHER.items()}
        goals["mAP copies"] = Goal(found["copies"]["map"], 0.80)
    return goals


def _found(results: dict[str, Any], data: Path, them: dict[str, Encoder], *, quick: bool) -> None:
    """Fill in ``found``, means by encoder and data set, and ``against the teacher``, differences of MAP@R."""
    values: dict[str, dict[str, dict[str, NDArray[np.float64]]]] = {name: {} for name in them}
    for name, column in COLUMNS.items():
        rows = [row for row in _table(data / name) if row[column] == "test"]
        classes = sorted({row["label"] for row in rows})[:: 10 if quick else 1]
        rows = [row for row in rows if row["label"] in classes]
        for who, encoder in them.items():
            vectors = _vectors(encoder, [data / name / row["path"] for row in rows])
            values[who][name] = measure(vectors, [row["label"] for row in rows], metrics=METRICS)
    rows = _table(data / "copies")[:: 5 if quick else 1]
    parts = {part: [row for row in rows if row["split"] == part] for part in ("gallery", "query")}
    for who, encoder in them.items():
        vectors = {p: _vectors(encoder, [data / "copies" / row["path"] for row in of]) for p, of in parts.items()}
        labels = {p: np.array([row["label"] for row in of]) for p, of in parts.items()}
        values[who]["copies"] = measure(
            vectors["gallery"],
            labels["gallery"],
            queries=vectors["query"],
            query_labels=labels["query"],
            metrics=METRICS,
        )
    results["found"] = {
        who: {name: {m: interval(v).mean for m, v in of.items()} for name, of in sets.items()}
        for who, sets in values.items()
    }
    if "teacher" in values:
        results["against the teacher"] = {}
        for name in values["mini"]:
            metric = "map" if name == "copies" else "map@r"
            apart = paired(values["mini"][name][metric], values["teacher"][name][metric])
            results["against the teacher"][name] = [apart.mean, apart.low, apart.high]
    shown = [(name, who, *found[name].values()) for who, found in results["found"].items() for name in found]
    table(("pictures", "encoder", *METRICS), sorted(shown))


def _vectors(encoder: Encoder, files: Sequence[Path]) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(files), 64):
        pixels = [_pixels(encoder, file.read_bytes()) for file in files[start : start + 64]]
        parts.append(encoder.encode(pixels).vectors)
    return np.concatenate(parts)


def _pixels(encoder: Encoder, source: bytes) -> NDArray[Any]:
    return encoder.prepare(decode(source, min_side=getattr(encoder, "min_side", None)).pixels)


def _teacher(folder: Path) -> Encoder:
    from pixdex.encoders.backbones import Trunk
    from pixdex.encoders.compose import ComposedEncoder
    from pixdex.encoders.composition import Composition
    from pixdex.encoders.pooling import Pooling
    from pixdex.encoders.preprocess import Preprocess

    imagenet = Preprocess(resize_to=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    trunk = Trunk.load(str(folder), preprocess=imagenet, runtime="torch")
    return ComposedEncoder.on(trunk, Composition(pooling=Pooling.MEAN, tokens=0), name="teacher", reference=str(folder))


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _speed(folder: Path, seconds: float) -> dict[str, float]:
    """Pictures a second of processor time, of the best round, milliseconds of its halves, and the same by the clock."""
    encoder = encoders.load("mini")
    sources = [file.read_bytes() for file in sorted(folder.iterdir())]
    rounds: list[tuple[float, float, float]] = []
    begun = time.perf_counter()
    while len(rounds) < 4 or time.perf_counter() - begun < seconds:
        clock, started = time.perf_counter(), time.process_time()
        prepared = [_pixels(encoder, source) for source in sources]
        between = time.process_time()
        for start in range(0, len(prepared), TOGETHER):
            encoder.encode(prepared[start : start + TOGETHER])
        rounds.append((between - started, time.process_time() - between, time.perf_counter() - clock))
    decoding, network, _ = min(rounds[1:], key=lambda r: r[0] + r[1])  # in the first one the network starts
    return {
        "pictures_per_s": len(sources) / (decoding + network),
        "decoding_ms": decoding / len(sources) * 1e3,
        "network_ms": network / len(sources) * 1e3,
        "pictures_per_s_by_the_clock": len(sources) / min(r[2] for r in rounds[1:]),
    }


def _cold(folder: Path, pictures: Path, *, times: int) -> dict[str, float]:
    """Seconds of fresh processes that search."""
    store = f"pq://{folder / 'photos.pix'}"
    with pixdex.open(store, encoder="mini") as photos:
        photos.add(pictures, progress=False)
    line = [sys.executable, "-m", "pixdex.cli", "search", store, str(next(iter(sorted(pictures.iterdir())))), "--json"]
    seconds, spent = [], []
    for _ in range(times):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            line, check=True, capture_output=True, env={**os.environ, "PIXDEX_CACHE": str(folder / "c")}
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(time.perf_counter() - started)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if not orjson.loads(done.stdout):
            raise SystemExit("the search found nothing")
    median, processor = float(np.median(seconds[1:])), float(np.median(spent[1:]))
    return {"first": seconds[0], "median": median, "processor": processor}


if __name__ == "__main__":
    sys.exit(main())
