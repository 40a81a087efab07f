"""Pretexts: what a network can be trained on with pictures alone.

A pretext has layers of its own, which are thrown away afterwards, and makes a loss of pictures and a network. To add one,
write such a class and register it in ``PRETEXTS``, or give ``adapt`` an instance. Adversarial training fits in as well: a
pretext whose own layers are the generator and the discriminator, with the network as the discriminator's features. One
optimizer steps everything here, so reverse the generator's gradients where they leave the discriminator (Ganin, Lempitsky:
Unsupervised Domain Adaptation by Backpropagation, ICML 2015). None is shipped: contrastive pretexts have replaced it for
retrieval.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

from pixdex.errors import ConfigError, nearest
from pixdex.training._library import metric_learning
from pixdex.training._network import Embedder
from pixdex.training.augment import Augmentation, resized

__all__ = ["PRETEXTS", "MoCo", "Pretext", "RelativePosition", "Rotation", "SimCLR", "pretext_named"]


class Pretext(Protocol):
    """A ``torch.nn.Module`` besides: its parameters are trained too.

    Attributes:
        lasting: whether it holds tensors that change without being trained, which checkpoints then keep.
    """

    lasting: bool

    def loss(self, network: Embedder, pictures: Tensor, augment: Augmentation, draw: torch.Generator) -> Tensor:
        """The loss of pictures uint8 ``[n, 3, h, w]``; all that is random comes from ``draw``."""
        ...

    def stepped(self, network: Embedder) -> None:
        """After each step."""
        ...


class _Projector(nn.Sequential):
    """What the vectors of a network go through before they are contrasted (Chen et al., SimCLR)."""

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, width))


class SimCLR(nn.Module):
    """Two views of a picture are to be nearer to each other than to those of all other pictures of the batch.

    Chen et al.: A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020. The loss is
    pytorch-metric-learning's ``SupConLoss``, which is NT-Xent where everything has one partner. Wants large batches.
    """

    lasting = False

    def __init__(self, dim: int, *, temperature: float = 0.2) -> None:
        """Raises MissingDependency without pytorch-metric-learning."""
        super().__init__()
        losses = metric_learning("losses")
        self.projector = _Projector(dim)
        self.contrast = losses.SelfSupervisedLoss(losses.SupConLoss(temperature=temperature))

    def loss(self, network: Embedder, pictures: Tensor, augment: Augmentation, draw: torch.Generator) -> Tensor:
        views = torch.cat([augment(pictures, draw), augment(pictures, draw)])
        first, second = self.projector(network.pooled(views)).chunk(2)
        value: Tensor = self.contrast(first, second)
        return value

    def stepped(self, network: Embedder) -> None:
        """Nothing."""


class MoCo(nn.Module):
    """A view is to be nearer to the key of another view of its picture than to the keys of many pictures before.

    He et al.: Momentum Contrast for Unsupervised Visual Representation Learning, CVPR 2020, with the projector of its second
    version. Keys are made by a slow average of the network and wait in a queue, so that small batches do. Its network needs
    no shuffling across devices, since batch statistics are not used here.
    """

    lasting = True
    queue: Tensor
    place: Tensor

    def __init__(
        self,
        network: Embedder,
        *,
        length: int = 4096,
        momentum: float = 0.99,
        temperature: float = 0.2,
        width: int = 128,
    ) -> None:
        super().__init__()
        self.projector = _Projector(network.pooled_dim, width)
        self.slow = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self.slow_projector = copy.deepcopy(self.projector).requires_grad_(requires_grad=False)
        self.momentum, self.temperature = momentum, temperature
        # Random keys at first are far from everything.
        self.register_buffer("queue", F.normalize(torch.randn(length, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def loss(self, network: Embedder, pictures: Tensor, augment: Augmentation, draw: torch.Generator) -> Tensor:
        queries = F.normalize(self.projector(network.pooled(augment(pictures, draw))), dim=1)
        with torch.no_grad():
            keys = F.normalize(self.slow_projector(self.slow.pooled(augment(pictures, draw))), dim=1)
        known = self.queue.clone()  # what gradients go through must not change under them
        likeness = torch.cat([(queries * keys).sum(dim=1, keepdim=True), queries @ known.T], dim=1)
        self._queue(keys)
        return F.cross_entropy(
            likeness / self.temperature, torch.zeros(len(queries), dtype=torch.int64, device=likeness.device)
        )

    @torch.no_grad()
    def _queue(self, keys: Tensor) -> None:
        keys = keys[-len(self.queue) :]
        rows = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows] = keys
        self.place.add_(len(keys)).remainder_(len(self.queue))

    @torch.no_grad()
    def stepped(self, network: Embedder) -> None:
        for slow, fast in ((self.slow, network), (self.slow_projector, self.projector)):
            for kept, now in zip(slow.parameters(), fast.parameters(), strict=True):
                kept.lerp_(now, 1 - self.momentum)


class Rotation(nn.Module):
    """The quarters by which the picture was turned are to be told.

    Gidaris, Singh, Komodakis: Unsupervised Representation Learning by Predicting Image Rotations, ICLR 2018.
    """

    lasting = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.classify = nn.Linear(dim, 4)

    def loss(self, network: Embedder, pictures: Tensor, augment: Augmentation, draw: torch.Generator) -> Tensor:
        views = augment(pictures, draw)
        quarters = torch.randint(4, (len(views),), generator=draw).to(views.device)
        turned = torch.stack([torch.rot90(views, quarter, (2, 3)) for quarter in range(4)])
        chosen = turned[quarters, torch.arange(len(views), device=views.device)]
        return F.cross_entropy(self.classify(network.pooled(chosen)), quarters)

    def stepped(self, network: Embedder) -> None:
        """Nothing."""


class RelativePosition(nn.Module):
    """Which of the eight places around one piece of the picture another comes from is to be told.

    Doersch, Gupta, Efros: Unsupervised Visual Representation Learning by Context Prediction, ICCV 2015. The pieces have gaps
    between them and are shifted a little, or lines that go on would give the answer away.
    """

    lasting = False
    _AROUND = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2))

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.classify = nn.Linear(2 * dim, len(self._AROUND))

    def loss(self, network: Embedder, pictures: Tensor, augment: Augmentation, draw: torch.Generator) -> Tensor:
        views = augment(pictures, draw)
        cell = views.shape[2] // 3
        side = cell * 3 // 4
        places = torch.randint(len(self._AROUND), (len(views),), generator=draw)
        shifts = torch.randint(cell - side + 1, (2, len(views), 2), generator=draw)
        cells = torch.stack([torch.ones(len(views), 2, dtype=torch.int64), torch.tensor(self._AROUND)[places]])
        corners = (cells * cell + shifts).to(views.device)  # [2, n, (top, left)]
        along = torch.arange(side, device=views.device)
        which = torch.arange(len(views), device=views.device)[:, None, None]
        pieces = [
            views.permute(0, 2, 3, 1)[which, (top + along)[:, :, None], (left + along)[:, None, :]].permute(0, 3, 1, 2)
            for top, left in ((c[:, :1], c[:, 1:]) for c in corners)
        ]
        middle, other = network.pooled(resized(torch.cat(pieces), views.shape[2]).clamp(0, 1)).chunk(2)
        return F.cross_entropy(self.classify(torch.cat([middle, other], dim=1)), places.to(views.device))

    def stepped(self, network: Embedder) -> None:
        """Nothing."""


PRETEXTS: Mapping[str, Callable[[Embedder], Pretext]] = {
    "moco": MoCo,
    "simclr": lambda network: SimCLR(network.pooled_dim),
    "rotation": lambda network: Rotation(network.pooled_dim),
    "position": lambda network: RelativePosition(network.pooled_dim),
}


def pretext_named(name: str, network: Embedder) -> Pretext:
    """The pretext of that name for a network.

    Raises:
        ConfigError: there is none.
        MissingDependency: it needs a package that is not installed.
    """
    if name not in PRETEXTS:
        raise ConfigError(f"pretext {name!r}: there is none of that name{nearest(name, PRETEXTS)}")
    return PRETEXTS[name](network)
