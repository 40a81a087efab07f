"""Pictures a second through ResNet-50 at 224, from memory, on processors: pixdex (``runtime=auto``) against torch in float32,
and against the bound, the matrix product's rate over the model's operations.

The weights are random, of a scale that keeps pictures apart. ``auto`` takes what is fastest within the tolerance: where
bfloat16 moves these vectors too far it stays with float32, and the results say which runtime it was. The goal was
set on a processor with bfloat16 instructions; ``possible`` in the results is the bound over each peer, which no goal can exceed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from benchmarks import Goal, report, table
from benchmarks._encoding import (
    cores_to_try,
    in_process,
    machine_facts,
    matmul_rates,
    operations,
    possible,
    rate,
    resnet50,
)
from pixdex.encoders.runtimes.port import threads

GOAL = 8.0
PEERS = ("torch float32, one at a time", "torch float32")
BATCH = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="few pictures, about a minute")
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(orjson.dumps(measure(Path(options.measure[0]), float(options.measure[1]))).decode())
        return 0
    results: dict[str, Any] = {"machine": machine_facts()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = str(resnet50(folder / "resnet-50"))
        for cores, number in cores_to_try().items():
            arguments = ("--measure", model, "0.1" if options.quick else "10")
            results[cores] = in_process("benchmarks.encode_cnn", *arguments, cores=number, cache=folder / "cache")
    columns = (*PEERS, "pixdex", "bound")
    rows = [(key, *(r[c] for c in columns), r["runtime"]) for key, r in results.items() if key != "machine"]
    table(("pictures a second", *columns, "runtime"), rows)
    table(("the bound over", *PEERS), [(k, *r["possible"].values()) for k, r in results.items() if k != "machine"])
    goals = {"over torch float32": Goal(results["one core"]["pixdex"] / results["one core"]["torch float32"], GOAL)}
    return 0 if report("encode_cnn", results, goals, as_json=options.json) else 1


def measure(model: Path, seconds: float) -> dict[str, Any]:
    """Both sides, in the cores that this process has."""
    import torch
    from transformers import AutoModel

    from pixdex import encoders
    from pixdex.encoders.runtimes.probes import probes

    torch.set_num_threads(threads())
    encoder = encoders.load(f"hf:{model}?runtime=auto")
    pictures = probes((224, 224), BATCH)
    given = torch.from_numpy(encoder.trunk.preprocess.normalize(pictures))  # type: ignore[attr-defined]
    network = AutoModel.from_pretrained(model, dtype=torch.float32).eval()

    def plain(batch: torch.Tensor) -> None:
        with torch.inference_mode():
            network(pixel_values=batch).pooler_output.numpy()

    plain(given[:1])
    runtime = encoder.trunk.settle()  # type: ignore[attr-defined]
    products, work = matmul_rates(seconds=min(seconds, 1.0)), operations(model)
    found: dict[str, Any] = {
        "runtime": runtime,
        "matrix product, GFLOP/s": products,
        "model, GFLOP": work,
        "bound": max(products.values()) / work,
        PEERS[0]: rate(lambda: plain(given[:1]), 1, seconds=seconds / 2),
        PEERS[1]: rate(lambda: plain(given), BATCH, seconds=seconds),
        "pixdex": rate(lambda: encoder.encode(list(pictures)), BATCH, seconds=seconds),
    }
    return found | {"possible": possible(found, PEERS)}


if __name__ == "__main__":
    sys.exit(main())
