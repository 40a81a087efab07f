"""Losses of metric learning by name, with the miner that each is used with: pytorch-metric-learning's.

A loss is a ``torch.nn.Module`` called as ``loss(embeddings, labels)``, embeddings float ``[n, d]`` of any length and
labels int64 ``[n]``. Those that learn a proxy a class hold them as parameters, which want a rate ten to a hundred times
that of the network (Musgrave, Belongie, Lim: A Metric Learning Reality Check, ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pixdex.errors import ConfigError, nearest
from pixdex.training._library import metric_learning

__all__ = ["DEFAULT", "NAMES", "Loss", "Nested", "named", "needs_pairs"]

DEFAULT = ("cosine", "supcon", "multi-similarity")
"""What heads are trained by where nobody says: by each, and then averaged."""

_Parts = tuple[nn.Module, nn.Module | None]


class Loss(nn.Module):
    """A loss and, for one over pairs or triplets, what chooses among them.

    Attributes:
        name: of ``NAMES``.
        proxies: the learned class centres, none for losses over pairs and triplets.
    """

    def __init__(self, name: str, loss: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.name = name
        self.loss = loss
        self.miner = miner

    @property
    def proxies(self) -> list[nn.Parameter]:
        return list(self.loss.parameters())

    @torch.no_grad()
    def begin(self, embeddings: Tensor, labels: Tensor) -> None:
        """Put the proxies where the classes are, instead of anywhere: training then does not begin with a detour.

        ``embeddings`` float ``[n, d]``, labels int64 ``[n]`` from 0, each class at least once.
        """
        for proxies in self.proxies:
            units = functional.normalize(embeddings, dim=1)
            count = int(labels.max()) + 1
            means = functional.normalize(units.new_zeros(count, units.shape[1]).index_add_(0, labels, units), dim=1)
            proxies.copy_(means if self.name == "proxy-anchor" else means.T)  # the softmaxes hold them as columns

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """A number; embeddings are scaled to length one inside."""
        chosen = None if self.miner is None else self.miner(embeddings, labels)
        value: Tensor = self.loss(embeddings, labels, chosen)
        return value


class Nested(nn.Module):
    """The mean of one loss over prefixes of the embeddings, so that their first values alone can serve.

    Kusupati et al.: Matryoshka Representation Learning, NeurIPS 2022. Every prefix has proxies of its own.
    """

    def __init__(self, name: str, *, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.parts = nn.ModuleList(named(name, dim=width, classes=classes) for width in self.widths)

    @property
    def proxies(self) -> list[nn.Parameter]:
        return list(self.parts.parameters())

    def begin(self, embeddings: Tensor, labels: Tensor) -> None:
        """See ``Loss``."""
        for part, width in zip(self.parts, self.widths, strict=True):
            cast("Loss", part).begin(embeddings[:, :width], labels)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        values = [part(embeddings[:, :width], labels) for part, width in zip(self.parts, self.widths, strict=True)]
        return torch.stack(values).mean()


@dataclass(frozen=True, slots=True)
class _Kind:
    make: Callable[[int, int], _Parts]
    """Of the width of the embeddings and the number of classes."""
    pairs: bool
    """Whether a batch must hold several of each class."""


def _cosine(dim: int, classes: int) -> _Parts:
    # CosFace without a margin: ILIAS's linear adaptation (Kordopatis-Zilos et al., CVPR 2025), with its scale.
    return _losses().CosFaceLoss(num_classes=classes, embedding_size=dim, margin=0.0, scale=16.0), None


def _cosface(dim: int, classes: int) -> _Parts:
    return _losses().CosFaceLoss(num_classes=classes, embedding_size=dim, margin=0.15, scale=24.0), None


def _arcface(dim: int, classes: int) -> _Parts:
    return _losses().ArcFaceLoss(num_classes=classes, embedding_size=dim, margin=11.5, scale=24.0), None


def _proxy_anchor(dim: int, classes: int) -> _Parts:
    return _losses().ProxyAnchorLoss(num_classes=classes, embedding_size=dim, margin=0.1, alpha=32), None


def _multi_similarity(dim: int, classes: int) -> _Parts:
    del dim, classes
    return _losses().MultiSimilarityLoss(alpha=2, beta=50, base=0.5), _miners().MultiSimilarityMiner(epsilon=0.1)


def _triplet(dim: int, classes: int) -> _Parts:
    del dim, classes
    return _losses().TripletMarginLoss(margin=0.2), _miners().TripletMarginMiner(margin=0.2, type_of_triplets="all")


def _triplet_hard(dim: int, classes: int) -> _Parts:
    del dim, classes
    return _losses().TripletMarginLoss(margin=0.2), _miners().BatchHardMiner()


def _triplet_semihard(dim: int, classes: int) -> _Parts:
    del dim, classes
    miner = _miners().TripletMarginMiner(margin=0.2, type_of_triplets="semihard")
    return _losses().TripletMarginLoss(margin=0.2), miner


def _contrastive(dim: int, classes: int) -> _Parts:
    del dim, classes
    # Distances of unit vectors, 0 to 2: the middle of what the Reality Check found best for three data sets.
    return _losses().ContrastiveLoss(pos_margin=0.2, neg_margin=0.8), None


def _supcon(dim: int, classes: int) -> _Parts:
    del dim, classes
    return _losses().SupConLoss(temperature=0.1), None


_KINDS: Mapping[str, _Kind] = {
    "cosine": _Kind(_cosine, pairs=False),
    "cosface": _Kind(_cosface, pairs=False),
    "arcface": _Kind(_arcface, pairs=False),
    "proxy-anchor": _Kind(_proxy_anchor, pairs=False),
    "supcon": _Kind(_supcon, pairs=True),
    "multi-similarity": _Kind(_multi_similarity, pairs=True),
    "contrastive": _Kind(_contrastive, pairs=True),
    "triplet": _Kind(_triplet, pairs=True),
    "triplet-semihard": _Kind(_triplet_semihard, pairs=True),
    "triplet-hard": _Kind(_triplet_hard, pairs=True),
}

NAMES = tuple(_KINDS)
"""``cosine`` is the softmax over cosines to a proxy a class; ``cosface`` and ``arcface`` put a margin on it. NT-Xent is
not among them: with several of a class in a batch it takes minutes where ``supcon``, which it resembles, takes seconds.
"""


def named(name: str, *, dim: int, classes: int) -> Loss:
    """The loss of that name for embeddings of ``dim`` values of ``classes`` classes.

    Raises:
        ConfigError: there is none.
        MissingDependency: pytorch-metric-learning is not installed.
    """
    make, _ = _kind(name).make, _losses()
    return Loss(name, *make(dim, classes))


def needs_pairs(name: str) -> bool:
    """Whether a batch must hold several of each class: ``sampling.PxK``.

    Raises:
        ConfigError: there is no such loss.
    """
    return _kind(name).pairs


def _kind(name: str) -> _Kind:
    if name not in _KINDS:
        raise ConfigError(f"loss {name!r}: there is none of that name{nearest(name, NAMES)}")
    return _KINDS[name]


def _losses() -> Any:
    return metric_learning("losses")


def _miners() -> Any:
    return metric_learning("miners")
