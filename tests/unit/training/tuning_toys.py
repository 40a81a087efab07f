"""A tiny network, and pictures of classes that differ in their colours, to train it on in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson

from pixdex.pictures import Item
from pixdex.training.data import Labelled

SIDE = 32
PROCESSOR = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "resample": 2, "rescale_factor": 1 / 255, "size": {"height": SIDE, "width": SIDE},
}  # fmt: skip


def tiny_vit(folder: Path) -> str:
    """The reference of a vision transformer of two blocks, with random weights."""
    import torch
    import transformers

    from pixdex.encoders._models import quiet

    torch.manual_seed(3)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=SIDE, patch_size=8
    )
    model = transformers.ViTModel(config, add_pooling_layer=False)
    for parameter in model.parameters():  # the library's own start makes nearly the same of all pictures
        torch.nn.init.normal_(parameter, std=0.2)
    with quiet():
        model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes(orjson.dumps(PROCESSOR))
    return f"hf:{folder}"


def coloured(classes: int = 8, each: int = 6, *, noise: float = 40.0, seed: int = 0) -> Labelled:
    """Pictures of coarse colour fields, one pattern a class, under noise."""
    random = np.random.default_rng(seed)
    items, labels = [], []
    for number in range(classes):
        pattern = np.kron(random.integers(0, 256, (4, 4, 3)), np.ones((10, 10, 1)))
        for copy in range(each):
            pixels = (pattern + random.normal(0, noise, pattern.shape)).clip(0, 255).astype(np.uint8)
            items.append(Item(f"{number}/{copy}", pixels))
            labels.append(number)
    return Labelled(tuple(items), np.array(labels, dtype=np.int64), tuple(f"class {n}" for n in range(classes)))


def fitted(data: Labelled) -> list[np.ndarray]:
    """The pictures at the size of the network."""
    from pixdex.encoders.images import resize

    return [resize(item.picture, (SIDE, SIDE), "bilinear") for item in data.items]
