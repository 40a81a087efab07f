"""A language model and the pooling behind it as one network. Importing this imports torch."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

__all__ = ["Sentence"]


class _Made(NamedTuple):
    pooler_output: Tensor


class Sentence(torch.nn.Module):
    """Tokens in, one vector a text out.

    What is padding is seen by its token, so that a graph of this needs no second input.

    Attributes:
        config: of the model.
    """

    def __init__(self, model: torch.nn.Module, *, mean: bool, padding: int) -> None:
        """``mean`` of what the model makes of the tokens, else of the first alone; ``padding`` is the token that is none."""
        super().__init__()
        self.model = model
        self.config: Any = cast("Any", model).config
        self._mean, self._padding = mean, padding

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> _Made:
        """Vectors ``[n, dim]`` of tokens ``[n, length]``, padded on the right."""
        del attention_mask
        there = input_ids != self._padding
        cells = self.model(input_ids=input_ids, attention_mask=there.long()).last_hidden_state
        if not self._mean:
            return _Made(cells[:, 0])
        weights = there[..., None].to(cells.dtype)
        return _Made((cells * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1))
