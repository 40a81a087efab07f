"""Pictures a second on a GPU: ViT-S/14 and ViT-B/14 in bfloat16, from JPEG files and from memory.

Against the plain loop (PIL, AutoImageProcessor, float32, batches of 16) and the rate of the matrix product over the model's
operations; from memory also with the network compiled. Without a GPU it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import report, table
from benchmarks._encoding import dinov2, jpegs, machine_facts, operations, rate
from pixdex.encoders.runtimes.port import threads

MODELS = {"ViT-S/14": (384, 6), "ViT-B/14": (768, 12)}
BATCH, CALL = 16, 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    options = parser.parse_args()
    reason = _why_not()
    if reason is not None:
        print(f"skipped: {reason}")
        report("encode_gpu", {"skipped": reason}, {}, as_json=options.json)
        return 0
    results: dict[str, Any] = {"machine": machine_facts() | {"gpu": _gpu()}}
    with tempfile.TemporaryDirectory() as name:
        files = jpegs(Path(name) / "pictures", 64 if options.quick else 512, 640, 480)
        for model, (width, heads) in MODELS.items():
            folder = dinov2(Path(name) / model.replace("/", "-"), width=width, heads=heads)
            results[model] = measure(folder, files * 8, seconds=1 if options.quick else 10)
            print(f"{model}: {results[model]}", file=sys.stderr, flush=True)  # should the next one come to nothing
    columns = ("plain loop", "from files", "from memory", "from memory, compiled", "decoding", "bound")
    table(("pictures a second", *columns), [(key, *(results[key][c] for c in columns)) for key in MODELS])
    report("encode_gpu", results, {}, as_json=options.json)
    return 0


def measure(model: Path, files: list[Path], *, seconds: float) -> dict[str, Any]:
    from pixdex import encoders
    from pixdex.encoders.images import decode

    encoder = encoders.load(f"hf:{model}?runtime=cuda")
    pool = ThreadPoolExecutor(threads())

    def prepared(file: Path) -> Any:
        return encoder.prepare(decode(file.read_bytes(), min_side=getattr(encoder, "min_side", None)).pixels)

    def from_files() -> None:
        ahead = [pool.submit(prepared, file) for file in files]
        for start in range(0, len(ahead), CALL):
            encoder.encode([future.result() for future in ahead[start : start + CALL]])

    pictures = [prepared(file) for file in files[:CALL]]
    encoder.encode(pictures)
    plain = _plain_loop(model)
    plain(files[:BATCH])
    compiled = encoders.load(f"hf:{model}?runtime=cuda-compile")
    compiled.encode(pictures)
    return {
        "plain loop": rate(lambda: plain(files[: 4 * BATCH]), 4 * BATCH, seconds=seconds),
        "from files": rate(from_files, len(files), seconds=seconds),
        "from memory": rate(lambda: encoder.encode(pictures), len(pictures), seconds=seconds),
        "from memory, compiled": rate(lambda: compiled.encode(pictures), len(pictures), seconds=seconds),
        "decoding": rate(lambda: list(pool.map(prepared, files[:CALL])), CALL, seconds=min(seconds, 2)),
        "bound": _matmul_rate(seconds=min(seconds, 2)) / operations(model),
    }


def _plain_loop(model: Path) -> Callable[[list[Path]], None]:
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(model)
    network = AutoModel.from_pretrained(model, dtype=torch.float32).eval().cuda()

    def loop(files: list[Path]) -> None:
        with torch.inference_mode():
            for start in range(0, len(files), BATCH):
                pictures = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
                given = processor(images=pictures, return_tensors="pt")["pixel_values"].cuda()
                network(pixel_values=given).last_hidden_state[:, 0].cpu()

    return loop


def _matmul_rate(*, seconds: float) -> float:
    """10^9 multiplications and additions a second of a large bfloat16 product."""
    import torch

    side, times = 8192, 10
    left = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(times):
            left @ left
        torch.cuda.synchronize()
        best = max(best, times * 2 * side**3 / (time.perf_counter() - started) / 1e9)
    return best


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name()


def _why_not() -> str | None:
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return None if torch.cuda.is_available() else "torch finds no GPU"


if __name__ == "__main__":
    sys.exit(main())
