"""What a student is measured by: maps beside the teacher's, likenesses within a batch, views and classes found.

Importing this imports torch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

__all__ = ["alike", "apart", "other_view_found", "told_apart"]


def apart(made: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of maps, at the size of ``made``; large differences count in proportion only."""
    if truth.shape[2:] != made.shape[2:]:
        truth = F.interpolate(truth, size=made.shape[2:], mode="bilinear", antialias=True, align_corners=False)
    return F.smooth_l1_loss(made.float(), truth, beta=2.0) * 2


def alike(own: Tensor, goal: Tensor, heat: float) -> Tensor:
    """Divergence between which pictures of the batch are alike to the student and to the teacher."""
    alone = torch.eye(len(own), dtype=torch.bool, device=own.device)
    made = (own @ own.T / heat).masked_fill(alone, -1e4).log_softmax(dim=1)
    truth = (goal @ goal.T / heat).masked_fill(alone, -1e4).log_softmax(dim=1)
    return F.kl_div(made, truth, reduction="batchmean", log_target=True)


def told_apart(own: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Cosine softmax over the classes; nothing for pictures without one."""
    logits = 16 * own @ F.normalize(classes, dim=1).T
    return F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / (labels >= 0).sum().clamp(min=1)


def other_view_found(one: Tensor, two: Tensor, labels: Tensor, heat: float) -> Tensor:
    """The other view found among those of other classes, which is what copies need and classes do not suffer from."""
    same = (labels[:, None] == labels[None]) & (labels >= 0)[None]
    same.fill_diagonal_(fill_value=False)
    logits = (one @ two.T / heat).masked_fill(same, -1e4)
    truth = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
