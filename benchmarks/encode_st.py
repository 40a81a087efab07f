"""Pictures a second through a CLIP ViT-B/32 folder, from 640x480 JPEG files: pixdex against sentence-transformers.

Both load the same folder and encode the same files; sentence-transformers as it comes (float32) and with its weights in
bfloat16; and the bound, the lesser of what can be decoded and of the matrix product's rate over the model's operations. The
goals were set on a processor with bfloat16 instructions; ``possible`` in the results is the bound over each peer, which no
goal can exceed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from benchmarks import Goal, report, table
from benchmarks._encoding import (
    clip,
    cores_to_try,
    in_process,
    jpegs,
    machine_facts,
    matmul_rates,
    operations,
    possible,
    rate,
)
from pixdex.encoders.runtimes.port import threads

GOALS = {"over its default": 3.0, "over its bf16": 1.2}
PEERS = ("sentence-transformers", "sentence-transformers bf16")
BATCH = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="few pictures, about a minute")
    parser.add_argument("--measure", nargs=3, metavar=("MODEL", "PICTURES", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        model, pictures, seconds = options.measure
        print(orjson.dumps(measure(Path(model), Path(pictures), float(seconds))).decode())
        return 0
    results: dict[str, Any] = {"machine": machine_facts()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = str(clip(folder / "clip-vit-base-patch32"))
        jpegs(folder / "pictures", 16 if options.quick else 64, 640, 480)
        for cores, number in cores_to_try().items():
            arguments = ("--measure", model, str(folder / "pictures"), "0.1" if options.quick else "10")
            results[cores] = in_process("benchmarks.encode_st", *arguments, cores=number, cache=folder / "cache")
    columns = (*PEERS, "pixdex", "decoding", "bound")
    rows = [(key, *(r[c] for c in columns), r["runtime"]) for key, r in results.items() if key != "machine"]
    table(("pictures a second", *columns, "runtime"), rows)
    table(("the bound over", *PEERS), [(k, *r["possible"].values()) for k, r in results.items() if k != "machine"])
    one = results["one core"]
    values = (one["pixdex"] / one[peer] for peer in PEERS)
    goals = {name: Goal(value, goal) for (name, goal), value in zip(GOALS.items(), values, strict=True)}
    return 0 if report("encode_st", results, goals, as_json=options.json) else 1


def measure(model: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Both sides, in the cores that this process has; and how far apart their vectors are."""
    import numpy as np
    import torch
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    from pixdex import encoders
    from pixdex.encoders.images import decode

    torch.set_num_threads(threads())
    files = sorted(folder.iterdir())
    theirs = SentenceTransformer(str(model), device="cpu")

    def plain(some: list[Path]) -> Any:
        return theirs.encode([Image.open(file) for file in some], batch_size=32, show_progress_bar=False)

    products = matmul_rates(seconds=min(seconds, 1.0))
    work = operations(model, kind="CLIPVisionModelWithProjection")
    found: dict[str, Any] = {"matrix product, GFLOP/s": products, "model, GFLOP": work}
    expected = np.asarray(plain(files[:8]), dtype=np.float32)
    found["sentence-transformers"] = rate(lambda: plain(files), len(files), seconds=seconds)
    encoder = encoders.load(f"hf:{model}?runtime=auto")
    found["runtime"] = encoder.trunk.settle()  # type: ignore[attr-defined]
    pool = ThreadPoolExecutor(threads())

    def prepared(file: Path) -> Any:
        return encoder.prepare(decode(file.read_bytes(), min_side=getattr(encoder, "min_side", None)).pixels)

    def ours(some: list[Path]) -> Any:
        ahead = [pool.submit(prepared, file) for file in some]
        parts = [ahead[start : start + BATCH] for start in range(0, len(ahead), BATCH)]
        return np.concatenate([encoder.encode([future.result() for future in part]).vectors for part in parts])

    made = ours(files[:8])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found["worst cosine to sentence-transformers"] = float((made * expected).sum(axis=1).min())
    found["pixdex"] = rate(lambda: ours(files), len(files), seconds=seconds)
    found["decoding"] = rate(lambda: list(pool.map(prepared, files)), len(files), seconds=min(seconds, 2))
    # Last, as it changes the weights; emulated, one picture takes seconds.
    some = files[:1] if products["bfloat16"] < products["float32"] else files
    theirs.to(torch.bfloat16)
    found["sentence-transformers bf16"] = rate(lambda: plain(some), len(some), seconds=seconds if len(some) > 1 else 0)
    found["bound"] = min(found["decoding"], max(products.values()) / work)
    found["possible"] = possible(found, PEERS)
    return found


if __name__ == "__main__":
    sys.exit(main())
