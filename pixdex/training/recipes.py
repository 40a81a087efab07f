"""What a distillation learns from, and how. Importing this imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pixdex.training.augment import Augmentation, Mixing

__all__ = ["CLOSE", "EDITS", "VIEWS", "Pictures", "Recipe"]

VIEWS = Augmentation(
    size=160, scale=(0.25, 1.0), rotation=25.0, rotate=0.35, hue=0.08, grey=0.12, blur=0.25, jpeg=0.1, patch=0.15
)
CLOSE = replace(VIEWS, size=80, scale=(0.08, 0.42))
"""A quarter of the places at the same magnification: what first stages see lies within."""
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
        seconds: how long, of all runs together; the learning rates fall over this time.
        batch: views in a step of the upper stages, and as many close ones of the first stages.
        rate: the largest learning rate of AdamW, for biases, normalizations, depthwise convolutions and what stands on
            the maps.
        turn: the largest one of Muon, for the dense convolutions; ``decay`` their weight decay.
        decay: see ``turn``.
        warmup: the share of time in which both rise.
        average: of the weights that are kept, the share of the old average in each step.
        views: how views are made, at the size that teacher and student see.
        close: how those of the first stages are made.
        mixing: how views are mixed.
        early: how many stages are the first ones.
        kept: how many views the upper stages learn from again, ``fresh`` of a step's are new.
        fresh: see ``kept``.
        joined: the share of time after which stages are fed by the student alone; until then with a share that rises.
        stages: weight of the stages' maps and of the last one, ``pooled`` of the mean that the vector is made of, ``cells`` of
            the local descriptors.
        pooled: see ``stages``.
        cells: see ``stages``.
        own: weight of the vector, ``alike`` of the likeness of pictures.
        alike: see ``own``.
        heat: temperature of likenesses.
        target_share: how far the teacher's vector goes from whitening (0) to what labels teach it (1).
        target_views: views of each picture that it is taught with, besides the picture.
        bfloat16: whether networks compute in it; None: where the device is faster so.
        every: seconds between looks at the held classes, when weights are written too.
        seed: of everything random.
    """

    seconds: float = 420.0
    batch: int = 64
    rate: float = 2e-3
    turn: float = 0.04
    decay: float = 0.02
    warmup: float = 0.04
    average: float = 0.99
    views: Augmentation = VIEWS
    close: Augmentation = CLOSE
    mixing: Mixing = field(default_factory=lambda: Mixing(mixup=0.2, cutmix=0.3))
    early: int = 2
    kept: int = 2048
    fresh: int = 16
    joined: float = 0.5
    stages: float = 1.0
    pooled: float = 0.5
    cells: float = 0.3
    own: float = 3.0
    alike: float = 1.0
    heat: float = 0.1
    target_share: float = 0.75
    target_views: int = 0
    bfloat16: bool | None = None
    every: float = 240.0
    seed: int = 0
