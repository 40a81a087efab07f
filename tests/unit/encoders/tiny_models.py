"""Tiny networks with random weights, saved as transformers saves them, and photographs to feed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
from skimage import data

from pixdex.encoders.images import resize

SIDE = 32
PROCESSOR = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225], "resample": 3, "rescale_factor": 1 / 255,
    "size": {"height": SIDE, "width": SIDE},
}  # fmt: skip
_TRANSFORMER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8
}  # fmt: skip
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", {**_TRANSFORMER, "intermediate_size": 64}),
    "dinov2": ("Dinov2", _TRANSFORMER),
    "siglip": ("SiglipVision", {**_TRANSFORMER, "intermediate_size": 64}),
    "resnet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "swin": (
        "Swin",
        {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4},
    ),
}
FAMILIES = tuple(_CONFIGS)


def save(family: str, folder: Path) -> Path:
    """Write a model folder of that family."""
    import torch
    import transformers

    torch.manual_seed(3)
    name, values = _CONFIGS[family]
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**values))
    _initialise(model)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes(orjson.dumps(PROCESSOR))
    return folder


def photographs(side: int = SIDE) -> np.ndarray:
    """uint8 ``[4, side, side, 3]``."""
    pictures = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    return np.stack([resize(picture, (side, side), "bicubic") for picture in pictures])


def _initialise(model: Any) -> None:
    """So that pictures differ: the library's own start of a CNN makes nearly the same of all of them."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_normal_(module.weight)
