"""What a student is measured by: maps and their means beside the teacher's, likenesses within a batch.

Importing this imports torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

__all__ = ["alike", "apart", "means_apart"]


def apart(made: Tensor, truth: Tensor) -> Tensor:
    """Half the mean squared difference of maps of one size; large differences count in proportion only."""
    return F.smooth_l1_loss(made.float(), truth, beta=2.0) * 2


def means_apart(made: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of the maps' means over places, by their variance over the batch; at most 9 each."""
    one, two = made.float().mean(dim=(2, 3)), truth.mean(dim=(2, 3))
    return ((one - two).square() / two.var(dim=0).clamp(min=1e-3)).clamp(max=9).mean()


def alike(own: Tensor, goal: Tensor, heat: float) -> Tensor:
    """Divergence between which pictures of the batch are alike to the student and to the teacher."""
    alone = torch.eye(len(own), dtype=torch.bool, device=own.device)
    made = (own @ own.T / heat).masked_fill(alone, -1e4).log_softmax(dim=1)
    truth = (goal @ goal.T / heat).masked_fill(alone, -1e4).log_softmax(dim=1)
    return F.kl_div(made, truth, reduction="batchmean", log_target=True)
