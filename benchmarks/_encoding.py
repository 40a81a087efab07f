"""What the benchmarks of encoders share: models with random weights, JPEG files, processes on some of the cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

__all__ = [
    "clip", "cores_to_try", "dinov2", "dinov2_small", "in_process", "jpegs", "machine_facts", "matmul_rates", "operations",
    "possible", "rate", "resnet50",
]  # fmt: skip

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CROPPED = {
    "do_resize": True, "size": {"shortest_edge": 256}, "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "do_convert_rgb": True, "resample": 3,
}  # fmt: skip


def in_process(module: str, *arguments: str, cores: int | None = None, cache: Path | None = None) -> dict[str, Any]:
    """Run ``python -m module arguments`` in a process of its own and read the JSON object on its last line."""
    usable = sorted(os.sched_getaffinity(0))[:cores]
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(usable)), "HF_HUB_OFFLINE": "1"}
    if cache is not None:
        environment["PIXDEX_CACHE"] = str(cache)
    environment.pop("PIXDEX_RUNTIME", None)
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, usable),
    )
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def cores_to_try() -> dict[str, int | None]:
    """One core pinned, and all of them."""
    return {"one core": 1, "all cores": None} if len(os.sched_getaffinity(0)) > 1 else {"one core": 1}


def rate(call: Callable[[], object], count: int, *, seconds: float) -> float:
    """The best rate, in ``count`` a second of wall clock, of as many calls as fit into ``seconds``, at least two."""
    best, spent, calls = 0.0, 0.0, 0
    while calls < 2 or spent < seconds:
        started = time.perf_counter()
        call()
        duration = time.perf_counter() - started
        best, spent, calls = max(best, count / duration), spent + duration, calls + 1
        if spent > 5 * seconds:
            break
    return best


def jpegs(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Write JPEG files of quality 90 that compress as photographs do: smooth areas, edges, noise that falls with frequency."""
    import simplejpeg

    from pixdex.encoders.images import resize
    from pixdex.encoders.runtimes.probes import probes

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(4)
    files = []
    for index, small in enumerate(probes((480, 640), count)):
        pixels = small if (width, height) == (640, 480) else resize(small, (height, width), "bicubic")
        grain = random.integers(-6, 7, pixels.shape, dtype=np.int16)
        pixels = (pixels + grain).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{index}.jpg")
        files[-1].write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))
    return files


def dinov2(folder: Path, *, width: int, heads: int) -> Path:
    """DINOv2 with 12 layers, patches of 14 pixels, at 224."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=width, num_hidden_layers=12, num_attention_heads=heads, patch_size=14, image_size=224
    )
    return _saved(transformers.Dinov2Model(config), folder, {"image_processor_type": "BitImageProcessor", **IMAGENET})


def dinov2_small(folder: Path) -> Path:
    """DINOv2 ViT-S/14 at 224."""
    return dinov2(folder, width=384, heads=6)


def operations(model: Path, *, kind: str = "AutoModel") -> float:
    """10^9 multiplications and additions for one picture of 224, those of matrix products and convolutions.

    ``kind``: the class of transformers that loads what pictures go through.
    """
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    loader = getattr(transformers, kind)
    network = loader.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(pixel_values=torch.zeros(1, 3, 224, 224))
    return counter.get_total_flops() / 1e9


def resnet50(folder: Path) -> Path:
    """ResNet-50 with weights that keep the scale of what passes: the library's own start makes all pictures alike."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.ResNetModel(transformers.ResNetConfig())
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.7)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    values = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875}
    return _saved(model, folder, {**values, **IMAGENET})


def clip(folder: Path) -> Path:
    """CLIP ViT-B/32 with a tokenizer of single characters, as transformers saves it."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig())
    values = {
        "image_processor_type": "CLIPImageProcessor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "size": {"shortest_edge": 224},
    }  # fmt: skip
    where = _saved(model, folder, values)
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (where / "vocab.json").write_bytes(orjson.dumps({word: index for index, word in enumerate(words)}))
    (where / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(where / "vocab.json"), str(where / "merges.txt")).save_pretrained(where)
    return where


def possible(found: dict[str, Any], peers: Iterable[str]) -> dict[str, float]:
    """How many times as fast as each peer anything could be here: the bound over the peer. No goal beyond it can be met."""
    return {peer: found["bound"] / found[peer] for peer in peers if peer in found}


def matmul_rates(*, seconds: float) -> dict[str, float]:
    """Multiplications and additions a second, in 10^9, of torch's matrix product, float32 and bfloat16."""
    import torch

    rates = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        # The shapes of a ViT-S: 8 pictures of 257 tokens through the wide layers.
        left, right = torch.randn(2056, 384).to(dtype), torch.randn(384, 1536).to(dtype)
        with torch.inference_mode():
            rates[name] = (
                rate(lambda left=left, right=right: left @ right, 1, seconds=seconds) * 2 * 2056 * 384 * 1536 / 1e9
            )
    return rates


def machine_facts() -> dict[str, Any]:
    """What decides the figures besides the processor's name."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if flags.exists() else ""
    return {
        "bf16_instructions": any(flag in text for flag in ("amx_bf16", "avx512_bf16", " bf16")),
        "load_average": os.getloadavg()[0],
    }


def _saved(model: Any, folder: Path, values: dict[str, Any]) -> Path:
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes(orjson.dumps({**CROPPED, **values}))
    return folder
