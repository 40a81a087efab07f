"""First light: what adding pictures, writing records and finding edited copies gives, and what imports cost.

Needs the development pictures and weights beside the checkout (``--shared``); without them only what needs none runs.

The copies set: 100 queries against 800 pictures (6 edits of each query, 200 distractors); R@1 and mAP (every
relevant picture counts, rectangular AP, full ranking).
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import pixdex
from benchmarks import Goal, report
from pixdex import encoders
from pixdex.spec import Fingerprint, Spec, Vector
from pixdex.types import Batch

IMPORTS = {
    "import pixdex": (("-c", "import pixdex"), 50.0),
    "pixdex.Collection": (("-c", "import pixdex; pixdex.Collection"), 250.0),
    "pixdex --help": (("-m", "pixdex.cli", "--help"), 300.0),
}


def main() -> int:
    arguments = _arguments()
    results: dict[str, Any] = {}
    goals: dict[str, Goal] = {}
    with tempfile.TemporaryDirectory() as folder:
        _imports(results, goals)
        results["upsert_records_per_s"] = _upsert(Path(folder), 2_000 if arguments.quick else 50_000)
        results["single_writes_per_s"] = {
            f"{threads} threads": _small_writes(Path(folder), threads, 500 if arguments.quick else 4_000)
            for threads in (1, 4, 16)
        }
        vit = arguments.shared / "models" / "vit-tiny-16-224"
        copies = arguments.shared / "data" / "copies"
        if vit.is_dir() and copies.is_dir():
            _pictures(Path(folder), arguments.shared, f"hf:{vit}", results, quick=arguments.quick)
            _copies(Path(folder), copies, f"hf:{vit}", "vit_tiny", results, quick=arguments.quick)
            _copies(Path(folder), copies, "classic", "classic", results, quick=arguments.quick)
            if not arguments.quick:
                first, reranked = results["copies"]["vit_tiny"], results["copies"]["vit_tiny_maxsim"]
                goals["copies_r1_first"] = Goal(first["r1"], 0.91)
                goals["copies_map_first"] = Goal(first["map"], 0.8165)
                goals["copies_r1_maxsim"] = Goal(reranked["r1"], 0.98)
                goals["copies_map_maxsim"] = Goal(reranked["map"], 0.938)
    return 0 if report("first", results, goals, as_json=arguments.json) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="a small version in under a minute")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    return parser.parse_args()


def _imports(results: dict[str, Any], goals: dict[str, Goal]) -> None:
    """CPU milliseconds of a fresh process, the median of nine; beside them numpy's, which is the floor."""
    numpy = float(np.median([_cpu_ms(("-c", "import numpy")) for _ in range(9)]))
    results["import_cpu_ms"] = {"import numpy": round(numpy, 1)}
    for name, (line, limit) in IMPORTS.items():
        median = float(np.median([_cpu_ms(line) for _ in range(9)]))
        results["import_cpu_ms"][name] = round(median, 1)
        goals[f"cpu_ms {name}"] = Goal(round(median, 1), limit, at_most=True)


def _cpu_ms(line: tuple[str, ...]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *line], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _collection(file: Path, dim: int) -> pixdex.Collection:
    connector, name = pixdex.connect(f"pq://{file}")
    spec = Spec(vectors=(Vector(dim=dim, fingerprint=Fingerprint(encoder="random", digest="00000000")),))
    return pixdex.Collection.create(connector, name, spec)


def _small_writes(folder: Path, threads: int, count: int, dim: int = 384) -> float:
    """Calls of one record each per second on pq, by so many threads at once; acknowledged means on disk."""
    collection = _collection(folder / f"small-{threads}.pix", dim)
    vectors = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)

    def write(row: int) -> None:
        collection.upsert(Batch((f"record/{row}",), {"image": vectors[row : row + 1]}, ({"width": 640},)))

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(count)))
    seconds = time.perf_counter() - started
    collection.connector.close()
    return round(count / seconds)


def _upsert(folder: Path, count: int, dim: int = 384) -> float:
    """Records per second on pq, batches of 1000, float32, a small payload; acknowledged means on disk."""
    collection = _collection(folder / "upsert.pix", dim)
    rng = np.random.default_rng(0)
    batches = [
        Batch(
            tuple(f"record/{start + i}" for i in range(1000)),
            {"image": rng.standard_normal((1000, dim), dtype=np.float32)},
            tuple({"path": f"/pictures/{start + i}.jpg", "width": 640} for i in range(1000)),
        )
        for start in range(0, count, 1000)
    ]
    started = time.perf_counter()
    for batch in batches:
        collection.upsert(batch)
    seconds = time.perf_counter() - started
    collection.connector.close()
    return round(count / seconds)


def _pictures(folder: Path, shared: Path, vit: str, results: dict[str, Any], *, quick: bool) -> None:
    """Pictures per second of ``add``, walking, decoding, encoding and writing; the encoder is loaded before."""
    source = shared / "data" / ("geo_exif" if quick else "smoke")
    results["add_pictures_per_s"] = {}
    for name, reference in (("classic", "classic"), ("vit_tiny", vit)):
        encoder = encoders.load(reference)
        encoder.encode([encoder.prepare(np.zeros((32, 32, 3), np.uint8))])
        with pixdex.open(f"pq://{folder / f'add-{name}.pix'}", encoder=encoder) as index:
            done = index.add(source, progress=False)
        results["add_pictures_per_s"][name] = round(done.added / done.seconds, 1)


def _copies(folder: Path, data: Path, reference: str, name: str, results: dict[str, Any], *, quick: bool) -> None:
    with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    gallery = [row for row in rows if row["split"] == "gallery"]
    queries = [row for row in rows if row["split"] == "query"][: 10 if quick else None]
    if quick:
        wanted = {row["label"] for row in queries}
        gallery = [row for row in gallery if row["label"] in wanted]
    relevant = defaultdict(set)
    for row in gallery:
        relevant[row["label"]].add(row["path"])
    with pixdex.open(f"pq://{folder / f'copies-{name}.pix'}", encoder=reference, tokens=True) as index:
        index.add([data / row["path"] for row in gallery], ids=[row["path"] for row in gallery], progress=False)
        for suffix, rerank in (("", None), ("_maxsim", "maxsim")):
            ranked = [
                (
                    [h.id for h in index.search(data / row["path"], k=len(gallery), rerank=rerank, candidates=100)],
                    relevant[row["label"]],
                )
                for row in queries
            ]
            results.setdefault("copies", {})[f"{name}{suffix}"] = {
                "r1": round(float(np.mean([ids[0] in right for ids, right in ranked])), 4),
                "map": round(float(np.mean([_average_precision(ids, right) for ids, right in ranked])), 4),
            }


def _average_precision(ids: list[str], right: set[str]) -> float:
    """Mean over the relevant of the precision at their rank."""
    ranks = [rank for rank, record in enumerate(ids, 1) if record in right]
    return sum(found / rank for found, rank in enumerate(ranks, 1)) / len(right)


if __name__ == "__main__":
    sys.exit(main())
