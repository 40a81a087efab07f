"""Teachers: a frozen network that others learn from, and a linear map that makes its vectors better at telling classes.

Importing this imports torch; transformers when a teacher is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["Lesson", "Target", "Teacher", "map_at_r"]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Lesson(NamedTuple):
    """What a teacher makes of a batch.

    Attributes:
        stages: its maps where stages end.
        last: the map that its vector is pooled from, ``[n, d, size / 32, size / 32]``.
    """

    stages: tuple[Tensor, ...]
    last: Tensor

    @property
    def pooled(self) -> Tensor:
        """The mean of the last map, float32 ``[n, d]``."""
        return self.last.float().mean(dim=(2, 3))


class Teacher(nn.Module):
    """A MobileNetV2 of transformers, frozen. It takes float ``[n, 3, size, size]`` in [0, 1].

    Args:
        model: the network.
        widths: channels of the maps where stages end: of each width the last one.
    """

    def __init__(self, model: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.widths = tuple(widths)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])

    @classmethod
    def load(cls, folder: Path, widths: Sequence[int]) -> Teacher:
        """The weights in a folder of transformers, with normalizations as part of the convolutions before them."""
        from transformers import AutoModel

        model: nn.Module = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
        for module in model.modules():
            convolution, following = (getattr(module, name, None) for name in ("convolution", "normalization"))
            if isinstance(convolution, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                module.convolution = fuse_conv_bn_eval(convolution, following)
                module.normalization = nn.Identity()
        return cls(model, widths)

    def train(self, mode: bool = True) -> Teacher:  # noqa: FBT001, FBT002 - torch's signature
        """Nothing: it stays as it is."""
        del mode
        return self

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Lesson:
        """See ``Lesson``."""
        pixels = (pictures - self.mean) / self.std
        made: Any = self.model(pixel_values=pixels, output_hidden_states=True)
        by_width = {state.shape[1]: state for state in made.hidden_states}  # the last of each width stays
        return Lesson(stages=tuple(by_width[width] for width in self.widths), last=made.last_hidden_state)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A linear map of a teacher's pooled vectors: ``unit((unit(x) - mean) @ weight)``.

    Attributes:
        mean: float32 ``[d]``.
        weight: float32 ``[d, k]``.
    """

    mean: Tensor
    weight: Tensor

    def __call__(self, pooled: Tensor) -> Tensor:
        """Unit vectors ``[n, k]`` of ``[n, d]``."""
        return F.normalize((F.normalize(pooled, dim=1) - self.mean) @ self.weight, dim=1)

    @classmethod
    def whitened(cls, pooled: Tensor, dim: int, *, shrink: float = 0.5) -> Target:
        """Principal components of ``pooled`` scaled to nearly even variance; ``shrink`` keeps the small ones small."""
        rows = F.normalize(pooled.double(), dim=1)
        mean = rows.mean(dim=0)
        centred = rows - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
        values, vectors = values.flip(0)[:dim], vectors.flip(1)[:, :dim]
        weight = vectors / (values + shrink * values.mean()).sqrt()
        return cls(mean.float(), weight.float())

    def taught(
        self,
        pooled: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator,
        epochs: int = 15,
        scale: float = 10.0,
        rate: float = 1e-3,
    ) -> Target:
        """The map after learning to tell the classes apart by cosine softmax, from here on."""
        rows = F.normalize(pooled, dim=1) - self.mean
        norm = (rows @ self.weight).norm(dim=1).mean()
        weight = nn.Parameter(self.weight / norm)
        classes = int(labels.max()) + 1
        proxies = nn.Parameter(F.normalize(_means(F.normalize(rows @ weight.detach(), dim=1), labels, classes), dim=1))
        optimizer = torch.optim.AdamW(
            [
                {"params": [weight], "lr": rate * float(weight.detach().std()) * 10},
                {"params": [proxies], "lr": rate * 10},
            ],
            weight_decay=0.0,
        )
        steps = epochs * -(-len(rows) // 512)
        plan = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(epochs):
            for index in torch.split(torch.randperm(len(rows), generator=generator).to(rows.device), 512):
                noisy = F.dropout(rows[index], 0.1)
                logits = scale * F.normalize(noisy @ weight, dim=1) @ F.normalize(proxies, dim=1).T
                loss = F.cross_entropy(logits, labels[index])
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                plan.step()
        return Target(self.mean, weight.detach() * norm)

    def toward(self, other: Target, share: float) -> Target:
        """Between the two: 0 this one, 1 the other."""
        return Target(self.mean, torch.lerp(self.weight, other.weight, share))

    def state(self) -> dict[str, Tensor]:
        """What ``Target(**state)`` makes it of again."""
        return {"mean": self.mean.cpu(), "weight": self.weight.cpu()}


def map_at_r(vectors: Tensor, labels: Tensor, groups: Tensor) -> float:
    """MAP@R, leave-one-out by cosine, among the pictures of each group, averaged over groups.

    Musgrave, Belongie, Lim: A Metric Learning Reality Check, ECCV 2020.
    """
    found = [_map_at_r(vectors[groups == group], labels[groups == group]) for group in torch.unique(groups)]
    return float(torch.stack(found).mean())


def _map_at_r(vectors: Tensor, labels: Tensor) -> Tensor:
    unit = F.normalize(vectors.float(), dim=1)
    likeness = (unit @ unit.T).fill_diagonal_(-2)
    same = labels[:, None] == labels[None]
    count = same.sum(dim=1) - 1
    order = likeness.topk(int(count.max()), dim=1).indices
    hits = same.gather(1, order).float()
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    hits = hits * (places[None] <= count[:, None])
    precision = hits.cumsum(dim=1) / places
    return ((precision * hits).sum(dim=1) / count.clamp(min=1))[count > 0].mean()


def _means(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    sums = torch.zeros(classes, rows.shape[1], device=rows.device).index_add_(0, labels, rows)
    return sums / labels.bincount(minlength=classes).clamp(min=1)[:, None]


def in_parts(pictures: Tensor, size: int, make: Callable[[Tensor], Tensor]) -> Tensor:
    """``make`` of ``size`` pictures at a time, joined."""
    return torch.cat(list(_parts(pictures, size, make)))


def _parts(pictures: Tensor, size: int, make: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    for part in torch.split(pictures, size):
        yield make(part)
