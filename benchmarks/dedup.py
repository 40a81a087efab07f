"""Pictures held more than once: how many of edited copies are put together, and what a million vectors take.

copies (development pictures beside the checkout, ``--shared``): 100 originals, six edits of each and 200 other pictures in one
embedded store, with tokens; precision and recall of pairs: of two pictures put into one group, and of two that belong into one. Verified:
by tokens, then by laying the pictures upon one another, as ``pixdex dedup`` does.
A million: random vectors, of every hundredth a copy beside it, on the embedded store in a process of its own: time, and the largest resident memory.
"""

from __future__ import annotations

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import pixdex
from benchmarks import Goal, report, table
from pixdex.collection import Collection
from pixdex.dedup import Duplicates, Near, find_duplicates, usual
from pixdex.rerankers.learned import shipped
from pixdex.spec import Fingerprint, Spec, Vector
from pixdex.types import Batch

VIT = "vit-tiny-16-224"
ROWS, QUICK_ROWS, DIM, EVERY = 1_000_000, 20_000, 128, 100
SECONDS, QUICK_SECONDS, GIGABYTES = 300.0, 60.0, 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--cache", type=Path, default=None, help="folder that keeps the stores of encoded copies")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the million, no copies by ViT-Tiny")
    parser.add_argument("--large", nargs=2, metavar=("FOLDER", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.large:
        print(orjson.dumps(_large(Path(options.large[0]), int(options.large[1]))).decode())
        return 0
    results: dict[str, Any] = {"copies": {}}
    if options.shared.is_dir():
        results["copies"] = _copies(options)
    rows = QUICK_ROWS if options.quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.dedup", "--large", folder, str(rows)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        results["large"] = orjson.loads(done.stdout.splitlines()[-1])
    shown = [(name, f["precision"], f["recall"], f["groups"], f["seconds"]) for name, f in results["copies"].items()]
    table(("copies", "precision", "recall", "groups", "seconds"), shown)
    print()
    large = results["large"]
    heads = ("vectors", "seconds", "GB", "precision", "recall")
    table(heads, [(large["rows"], large["seconds"], large["gigabytes"], large["precision"], large["recall"])])
    return 0 if report("dedup", results, _goals(results, quick=options.quick), as_json=options.json) else 1


def _goals(results: dict[str, Any], *, quick: bool) -> dict[str, Goal]:
    goals = {}
    for name, found in results["copies"].items():
        if name.endswith("verified"):
            goals[f"copies, {name}, precision"] = Goal(found["precision"], 0.97)
            goals[f"copies, {name}, recall"] = Goal(found["recall"], 0.95)
    large = results["large"]
    goals["large, seconds"] = Goal(large["seconds"], QUICK_SECONDS if quick else SECONDS, at_most=True)
    goals["large, GB"] = Goal(large["gigabytes"], GIGABYTES, at_most=True)
    goals["large, precision"] = Goal(large["precision"], 0.97)
    goals["large, recall"] = Goal(large["recall"], 0.95)
    return goals


def _copies(options: argparse.Namespace) -> dict[str, Any]:
    model = f"hf:{options.shared / 'models' / VIT}"
    projection = shipped("cross")[VIT] / "token_projection.safetensors"
    encoders = (
        {"mini": "mini"} if options.quick else {"mini": "mini", "ViT-Tiny": f"{model}?token_projection={projection}"}
    )
    found = {}
    for name, encoder in encoders.items():
        with tempfile.TemporaryDirectory() as folder:
            place = options.cache or Path(folder)
            place.mkdir(parents=True, exist_ok=True)
            with pixdex.open(f"pq://{place / f'dedup-{name}.pix'}", encoder=encoder, tokens=True) as index:
                labels = _added(index, options.shared / "data" / "copies")
                for how, near in _ways(index.collection).items():
                    found[f"{name}, {how}"] = _judged(find_duplicates(index.collection, near), labels)
    return found


def _ways(collection: Collection) -> dict[str, Near]:
    """By vectors, by tokens, by the pictures, and by all, as ``pixdex dedup`` does."""
    return {
        "vectors alone": Near(),
        "tokens": usual(collection, look=False),
        "pictures": usual(collection, tokens=False, look=True),
        "verified": usual(collection, look=True),
    }


def _added(index: Any, folder: Path) -> dict[str, int]:
    """Id -> what the picture is one of; -1 for those that stand alone."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    index.add([folder / row["path"] for row in rows], ids=[row["path"] for row in rows], progress=False)
    return {row["path"]: int(row["label"]) for row in rows}


def _judged(found: Duplicates, labels: dict[str, int]) -> dict[str, Any]:
    """Precision and recall of pairs."""
    right = wrong = 0
    for group in found.groups:
        for one, other in combinations([group.keep.id, *(member.id for member in group.others)], 2):
            same = labels.get(one, -1) == labels.get(other, -1) >= 0
            right, wrong = right + same, wrong + (not same)
    counts = np.bincount([label for label in labels.values() if label >= 0])
    wanted = int((counts * (counts - 1) // 2).sum())
    return {
        "precision": right / max(1, right + wrong),
        "recall": right / max(1, wanted),
        "groups": len(found.groups),
        "seconds": found.seconds,
        "looked_at": found.looked_at,
    }


def _large(folder: Path, rows: int) -> dict[str, Any]:
    """Random vectors with planted copies, in a process whose memory is measured."""
    connector, name = pixdex.connect(f"pq://{folder}/large.pix")
    mark = Fingerprint(encoder="random", digest="5eed5eed")
    collection = Collection.create(connector, name, Spec(vectors=(Vector(dim=DIM, fingerprint=mark),)))
    rng = np.random.default_rng(0)
    labels: dict[str, int] = {}
    for start in range(0, rows, 10_000):
        count = min(10_000, rows - start)
        vectors = rng.standard_normal((count, DIM)).astype(np.float32)
        copied = np.arange(0, count, EVERY)
        beside = vectors[copied] + 0.1 * rng.standard_normal((len(copied), DIM)).astype(np.float32)
        ids = [f"r{start + row}" for row in range(count)] + [f"r{start + row}+" for row in copied]
        labels |= {record: int(record[1:].rstrip("+")) for record in ids if int(record[1:].rstrip("+")) % EVERY == 0}
        collection.upsert(Batch(tuple(ids), {"image": np.concatenate([vectors, beside])}, tuple({} for _ in ids)))
    collection.settle()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    found = find_duplicates(collection, Near())
    seconds = time.monotonic() - began
    connector.close()
    judged = _judged(found, labels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rows": found.records,
        **judged,
        "seconds": seconds,
        "gigabytes": peak / 1e6,
        "gigabytes_before": before / 1e6,
    }


if __name__ == "__main__":
    sys.exit(main())
