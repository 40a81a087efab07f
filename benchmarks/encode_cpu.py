"""Pictures a second from JPEG files to vectors: DINOv2 ViT-S/14 at 224 on processors.

pixdex (``runtime=auto``, its own decoder) against the usual loop (PIL, AutoImageProcessor, float32, one picture at a time),
against batches under bfloat16 autocast, and against the bound: the lesser of what can be decoded and of
the matrix product's rate over the model's operations. Everything is measured in one process, on one core and on all.

The goals were set on a processor with bfloat16 instructions (AMX). Without them bfloat16 is emulated at a fraction of float32's
rate: the bound then uses float32's, and a factor over autocast says little. ``machine`` in the results says which it is,
and ``possible`` how many times as fast as each peer the bound is: no goal beyond that can be met on the machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from benchmarks import Goal, report, table
from benchmarks._encoding import (
    cores_to_try,
    dinov2_small,
    in_process,
    jpegs,
    machine_facts,
    matmul_rates,
    operations,
    possible,
    rate,
)
from pixdex.encoders.runtimes.port import threads

SIZES = {"640x480": (640, 480), "3000x2000": (3000, 2000)}
PEERS = ("usual loop", "batched float32", "batched bf16 autocast")
BATCH = 16
GOALS = {
    "640x480 over the usual loop": 5.0,
    "640x480 over batched bf16 autocast": 1.6,
    "640x480 of the bound": 0.45,
    "3000x2000 over the usual loop": 5.5,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="few pictures, about a minute")
    parser.add_argument("--measure", nargs=4, metavar=("MODEL", "PICTURES", "SECONDS", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        model, folder, seconds, size = options.measure
        print(orjson.dumps(measure(Path(model), Path(folder), float(seconds), size)).decode())
        return 0
    results = run(quick=options.quick)
    return 0 if report("encode_cpu", results, goals(results), as_json=options.json) else 1


def run(*, quick: bool) -> dict[str, Any]:
    results: dict[str, Any] = {"machine": machine_facts()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = dinov2_small(folder / "dinov2-small")
        for size, (width, height) in SIZES.items():
            jpegs(folder / size, 8 if quick else 48, width, height)
        for cores, number in cores_to_try().items():
            for size in SIZES:
                arguments = ("--measure", str(model), str(folder / size), "0.1" if quick else "10", size)
                results[f"{size}, {cores}"] = in_process(
                    "benchmarks.encode_cpu", *arguments, cores=number, cache=folder / "cache"
                )
    columns = (*PEERS, "pixdex", "decoding", "bound")
    table(
        ("pictures a second", *columns, "runtime"),
        [(key, *(r.get(c, "-") for c in columns), r["runtime"]) for key, r in results.items() if key != "machine"],
    )
    table(
        ("the bound over", *PEERS),
        [(key, *(r["possible"].get(c, "-") for c in PEERS)) for key, r in results.items() if key != "machine"],
    )
    return results


def goals(results: dict[str, Any]) -> dict[str, Goal]:
    small, large = (results[f"{size}, one core"] for size in SIZES)
    values = (
        small["pixdex"] / small["usual loop"],
        small["pixdex"] / small["batched bf16 autocast"],
        small["pixdex"] / small["bound"],
        large["pixdex"] / large["usual loop"],
    )
    return {name: Goal(value, goal) for (name, goal), value in zip(GOALS.items(), values, strict=True)}


def measure(model: Path, folder: Path, seconds: float, size: str) -> dict[str, Any]:
    """Every side, in the cores that this process has."""
    import torch

    torch.set_num_threads(threads())
    files = sorted(folder.iterdir())
    products = matmul_rates(seconds=min(seconds, 1.0))
    work = operations(model)
    emulated = products["bfloat16"] < products["float32"]
    found: dict[str, Any] = {"size": size, "matrix product, GFLOP/s": products, "model, GFLOP": work}
    for name, loop in _sides(model).items():
        some = files
        if emulated and "autocast" in name:  # ten seconds and more a picture, whatever their number or size
            if size != "640x480":
                continue
            some = files[:1]
        else:
            loop(some[:1])
        found[name] = rate(lambda loop=loop, some=some: loop(some), len(some), seconds=seconds if len(some) > 1 else 0)
    found |= _pixdex(model, files, seconds)
    found["bound"] = min(found["decoding"], max(products.values()) / work)
    found["possible"] = possible(found, PEERS)
    return found


Loop = Callable[[list[Path]], object]


def _sides(model: Path) -> dict[str, Loop]:
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(model)
    network = AutoModel.from_pretrained(model, dtype=torch.float32).eval()

    def prepared(files: list[Path]) -> torch.Tensor:
        pictures = [Image.open(file).convert("RGB") for file in files]
        return processor(images=pictures, return_tensors="pt")["pixel_values"]

    def one_at_a_time(files: list[Path]) -> None:
        with torch.inference_mode():
            for file in files:
                network(pixel_values=prepared([file])).last_hidden_state[:, 0].numpy()

    def batched(files: list[Path]) -> None:
        with torch.inference_mode():
            for part in _parts(files):
                network(pixel_values=prepared(part)).last_hidden_state[:, 0].numpy()

    def autocast(files: list[Path]) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batched(files)

    return dict(zip(PEERS, (one_at_a_time, batched, autocast), strict=True))


def _pixdex(model: Path, files: list[Path], seconds: float) -> dict[str, Any]:
    from pixdex import encoders
    from pixdex.encoders.images import decode

    encoder = encoders.load(f"hf:{model}?runtime=auto")
    runtime = encoder.trunk.settle()  # type: ignore[attr-defined]

    def prepared(file: Path) -> Any:
        return encoder.prepare(decode(file.read_bytes(), min_side=getattr(encoder, "min_side", None)).pixels)

    pool = ThreadPoolExecutor(threads())

    def everything(files: list[Path]) -> None:
        ahead = [pool.submit(prepared, file) for file in files]
        for part in _parts(ahead):
            encoder.encode([future.result() for future in part])

    everything(files[:1])
    return {
        "runtime": runtime,
        "pixdex": rate(lambda: everything(files), len(files), seconds=seconds),
        "decoding": rate(lambda: list(pool.map(prepared, files)), len(files), seconds=min(seconds, 2)),
    }


def _parts(items: Iterable[Any]) -> list[list[Any]]:
    every = list(items)
    return [every[start : start + BATCH] for start in range(0, len(every), BATCH)]


if __name__ == "__main__":
    sys.exit(main())
