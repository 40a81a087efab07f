"""What a distillation learns from, and how. Importing this imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pixdex.training.augment import Augmentation, Mixing

__all__ = ["EDITS", "VIEWS", "Pictures", "Recipe"]

VIEWS = Augmentation(
    size=224, scale=(0.2, 1.0), rotation=25.0, rotate=0.35, hue=0.08, grey=0.12, blur=0.25, jpeg=0.2, patch=0.15
)
EDITS = Augmentation(
    size=224,
    scale=(0.36, 0.8),
    rotation=20.0,
    rotate=0.5,
    grey=0.3,
    blur=0.5,
    jpeg=0.5,
    jpeg_quality=(8, 20),
    patch=0.4,
)
"""What copies go through, to see whether they are still found."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """What is learned from.

    Attributes:
        pixels: uint8 ``[n, 3, h, w]``, squeezed to a square.
        labels: int64 ``[n]``, classes from 0 on; -1 for none.
        groups: int64 ``[n]``, which data set each is from: classes are told apart within it.
        held: bool ``[n]``, those that nothing learns from: whole classes, to see how well others are found.
    """

    pixels: Tensor
    labels: Tensor
    groups: Tensor
    held: Tensor

    def to(self, device: torch.device) -> Pictures:
        """The same there."""
        return Pictures(*(getattr(self, name).to(device) for name in ("pixels", "labels", "groups", "held")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How it is learned.

    Attributes:
        seconds: how long, of all runs together; the learning rate falls over this time.
        batch: pictures in a step; each gives two views, the second often mixed.
        rate: the largest learning rate of AdamW, ``decay`` its weight decay, ``warmup`` the share of time it rises.
        average: of the weights that are kept, the share of the old average in each step.
        views: how views are made, at the size that the teacher sees.
        mixing: how the second views are mixed.
        stages: weight of the teacher's four maps, which falls to a fifth of it over the time, ``last`` of the map its vector is pooled from, ``cells`` of the same for
            the local descriptors.
        own: weight of the vector, ``alike`` of the likeness of pictures, ``copies`` of finding the other view, ``classes``
            of telling labels apart.
        heat: temperature of likenesses, ``copies_heat`` of views.
        target_share: how far the teacher's vector goes from whitening (0) to what labels teach it (1); at .75 held classes
            were found better than at both, in two data sets.
        target_views: views of each picture that it is taught with, besides the picture.
        bfloat16: whether networks compute in it; None: on a GPU.
        every: seconds between looks at the held classes, when weights are written too.
        seed: of everything random.
    """

    seconds: float = 420.0
    batch: int = 128
    rate: float = 2e-3
    decay: float = 0.03
    warmup: float = 0.04
    average: float = 0.998
    views: Augmentation = VIEWS
    mixing: Mixing = field(default_factory=lambda: Mixing(mixup=0.3, cutmix=0.4))
    stages: float = 1.5
    last: float = 1.0
    cells: float = 0.5
    own: float = 2.0
    alike: float = 1.0
    copies: float = 0.1
    classes: float = 0.1
    heat: float = 0.1
    copies_heat: float = 0.1
    target_share: float = 0.75
    target_views: int = 4
    bfloat16: bool | None = None
    every: float = 45.0
    seed: int = 0
