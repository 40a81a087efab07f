"""The network of a trunk as one torch module: pixels in, descriptors out. Importing this imports torch."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["Tower"]


class Tower(torch.nn.Module):
    """A vision model whose outputs are descriptors, in one layout for every family.

    ``forward`` takes normalized pictures ``[n, 3, h, w]``, any n, the h and w that the trunk's preprocessing makes, and
    gives those tensors that ``outputs`` names, in that order:

    * ``cells`` ``[n, t, d]``: patch tokens after the final norm, or the cells of a feature map row by row;
    * ``cls`` ``[n, d]``: the class token, of trunks that have one;
    * ``own`` ``[n, e]``: the embedding that the model itself defines, of those that define one.

    Attributes:
        model: the model as transformers made it.
        outputs: what ``forward`` gives.
        prefix: how many tokens come before the patches: the class token and registers; 0 for feature maps.
    """

    def __init__(self, model: torch.nn.Module, *, size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.prefix = 0
        self.outputs: tuple[str, ...] = ("cells", "cls", "own")
        with torch.inference_mode():
            states, own = self._run(torch.zeros(1, 3, *size))
        self.prefix = _prefix(cast("Any", model).config, states.shape[1], size)
        there = {"cells": True, "cls": self.prefix > 0, "own": own is not None}
        self.outputs = tuple(name for name in self.outputs if there[name])
        self.cells = int(states.shape[1] - self.prefix)
        self.dim = int(states.shape[2])
        self.own_dim = None if own is None else int(own.shape[1])

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """The tensors that ``outputs`` names."""
        states, own = self._run(pixel_values)
        made = {"cells": states[:, self.prefix :], "cls": states[:, 0], "own": own}
        return tuple(cast("Tensor", made[name]) for name in self.outputs)

    def _run(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """All tokens ``[n, t, d]`` and the model's own embedding."""
        found = self.model(pixel_values=pixel_values)
        maps = getattr(found, "feature_maps", None)
        if maps is not None:
            return _as_tokens(maps[-1]), None
        norm = _missing_norm(self.model)
        states = found.last_hidden_state if norm is None else norm(found.last_hidden_state)
        own = getattr(found, "image_embeds", None)
        if own is None:
            own = getattr(found, "pooler_output", None)
        return _as_tokens(states), None if own is None else own.flatten(1)


def _as_tokens(states: Tensor) -> Tensor:
    return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states


def _missing_norm(model: Any) -> Any:
    """The norm that CLIP applies to its class token only, after the last hidden state; others apply it to all."""
    if "clip" not in model.config.model_type:
        return None
    return getattr(getattr(model, "vision_model", model), "post_layernorm", None)


def _prefix(config: Any, tokens: int, size: tuple[int, int]) -> int:
    """Tokens before the patches. Hierarchical networks merge patches and have none."""
    if config.model_type == "dinov3_convnext":  # its pooled cells come first
        return 1
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, int):
        patch = (patch, patch)
    if patch is None or len(patch) != 2:
        return 0
    return max(0, tokens - (size[0] // patch[0]) * (size[1] // patch[1]))
