"""Fitting a head to frozen features: the start in closed form, the epochs, and the choice among candidates.

Nothing here knows pictures: unit vectors and class numbers in, a head out. Deterministic by seed on one machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pixdex.encoders.heads import Head, KernelHead, LinearHead, MLPHead
from pixdex.encoders.kernelmaps import FeatureMap
from pixdex.errors import ConfigError
from pixdex.training import losses
from pixdex.training.sampling import PxK, Shuffled

__all__ = ["Network", "Recipe", "Start", "epochs_of", "one_thread", "start_of"]

Rows = NDArray[np.float32]
Start = Literal["discriminant", "whitening", "identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a head is trained.

    Attributes:
        losses: of ``losses.NAMES``: a head is trained by each from the same start, and their average is taken, which is
            better than any of them (Wortsman et al.: Model soups, ICML 2022); a name that stands twice counts twice.
        hidden: width of the hidden layer of an MLP; 0 for a linear map.
        dim: how many values it gives; no more than it takes.
        prefixes: widths that shall serve alone too; those below ``dim`` count.
        start: what training begins with: ``discriminant``, ``whitening`` or ``identity``; see ``start_of``.
        shrinkages: how far variances are drawn to their mean before they are divided by, 0 to 1: the best one is taken.
        epochs: passes through the pictures at most.
        patience: epochs without a better validation after which it ends.
        batch: pictures of a step.
        per_class: pictures of a class in a step, for losses over pairs.
        rate: of AdamW, falling to zero by a cosine.
        proxy_rate: how many times that for proxies. They begin at the means of their classes; from anywhere else they would
            need ten to a hundred times.
        decay: weight decay, drawn to the start instead of to zero.
        noise: length of the noise that is added to a unit vector in training.
        drop: share of a vector's values that are set to zero in training.
        seed: of everything that is drawn.
    """

    losses: tuple[str, ...] = losses.DEFAULT
    hidden: int = 0
    dim: int = 256
    prefixes: tuple[int, ...] = (64, 128)
    start: Start = "discriminant"
    shrinkages: tuple[float, ...] = (0.05, 0.2, 0.5)
    epochs: int = 30
    patience: int = 6
    batch: int = 256
    per_class: int = 4
    rate: float = 2e-3
    proxy_rate: float = 3.0
    decay: float = 0.0
    noise: float = 0.0
    drop: float = 0.3
    seed: int = 0

    def widths(self, dim: int) -> tuple[int, ...]:
        """The prefixes of a head that gives ``dim`` values, the whole last."""
        return (*sorted({width for width in self.prefixes if 0 < width < dim}), dim)


@contextmanager
def one_thread() -> Iterator[None]:
    """Steps of a head are too small to share: threads would cost twice the time, and sums in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def start_of(kind: Start, vectors: Rows, labels: NDArray[np.int64], dim: int, shrinkage: float) -> LinearHead:
    """A linear head in closed form, whose vectors have length one on average.

    ``whitening`` scales principal components to equal variance (Jegou, Chum: Negative Evidences and Co-occurrences in
    Image Retrieval, ECCV 2012). ``discriminant`` scales to equal variance within classes and turns to where they lie
    apart (Mikolajczyk, Matas: Improving Descriptors for Fast Tree Matching by Optimal Linear Projection, ICCV 2007).
    Both shrink covariances, ``(1 - s) C + s tr(C) / d I``. ``identity`` keeps all as it is, or its principal components
    where it gets narrower.

    ``vectors`` is float32 ``[n, d]``.
    """
    rows = vectors.astype(np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    total = centred.T @ centred / len(rows)
    if kind == "identity":
        basis = np.eye(rows.shape[1]) if dim == rows.shape[1] else _axes(total)[:, :dim]
        weight, bias = basis, np.zeros(dim)
    else:
        if kind == "whitening":
            spread, axes = total, total
        else:
            inside = centred.copy()
            for number in np.unique(labels):
                own = labels == number
                inside[own] -= inside[own].mean(axis=0)
            spread, axes = inside.T @ inside / len(rows), total
        shrunk = (1 - shrinkage) * spread + shrinkage * np.trace(spread) / len(spread) * np.eye(len(spread))
        values, vectors_of = np.linalg.eigh(shrunk)
        whiten = vectors_of / np.sqrt(values)
        weight = whiten @ _axes(whiten.T @ axes @ whiten)[:, :dim]
        bias = -mean @ weight
    length = np.linalg.norm(rows @ weight + bias, axis=1).mean()
    return LinearHead((weight / length).astype(np.float32), (bias / length).astype(np.float32))


def _axes(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Principal axes as columns, by falling variance; the largest entry of each is positive, so that two fits agree."""
    axes: NDArray[np.float64] = np.linalg.eigh(covariance)[1][:, ::-1]
    signs: NDArray[np.float64] = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])
    return np.asarray(axes * signs)


class Network(nn.Module):
    """The head as torch trains it."""

    def __init__(
        self, start: LinearHead, *, hidden: int, prefixes: Sequence[int], before: FeatureMap | None, seed: int
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(start.weight.copy()))
        self.bias = nn.Parameter(torch.from_numpy(start.bias.copy()))
        if hidden:
            generator = torch.Generator().manual_seed(seed)
            self.inner = nn.Parameter(
                torch.randn(start.in_dim, hidden, generator=generator) * (2 / start.in_dim) ** 0.5
            )
            self.inner_bias = nn.Parameter(torch.zeros(hidden))
            self.outer = nn.Parameter(torch.zeros(hidden, start.dim))
        self.hidden = hidden
        self.prefixes = tuple(prefixes)
        self.before = before

    def forward(self, vectors: Tensor) -> Tensor:
        mapped = torch.addmm(self.bias, vectors, self.weight)
        if self.hidden:
            inside = functional.gelu(torch.addmm(self.inner_bias, vectors, self.inner), approximate="tanh")
            mapped = torch.addmm(mapped, inside, self.outer)
        return mapped

    def state(self) -> dict[str, Tensor]:
        """A copy of its parameters."""
        return {name: p.detach().clone() for name, p in self.named_parameters()}

    def head(self, start: Mapping[str, Tensor], state: Mapping[str, Tensor], share: float = 1.0) -> Head:
        """The head with the parameters that lie ``share`` of the way from ``start`` to ``state``.

        Wortsman et al.: Robust fine-tuning of zero-shot models, CVPR 2022.
        """
        values = {name: torch.lerp(start[name], state[name], share).numpy().copy() for name in state}
        if self.hidden:
            return MLPHead(**values, prefixes=self.prefixes)
        linear = LinearHead(values["weight"], values["bias"], self.prefixes)
        return linear if self.before is None else KernelHead(self.before, linear)


@dataclass(slots=True)
class Epoch:
    """What an epoch came to: the mean loss."""

    number: int
    loss: float


def epochs_of(network: Network, vectors: Rows, labels: NDArray[np.int64], recipe: Recipe, loss: str) -> Iterator[Epoch]:
    """Train by one loss, an epoch a turn.

    ``vectors`` is float32 ``[n, views, d]``, of which a view is drawn for each picture of a batch.

    Labels may be any numbers. The generator can be left at any epoch.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ConfigError("a head tells classes apart: at least two are needed")
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    objective = losses.Nested(loss, widths=recipe.widths(network.weight.shape[1]), classes=len(classes))
    rows = torch.from_numpy(vectors)
    targets = torch.from_numpy(numbers.astype(np.int64))
    with torch.no_grad():
        objective.begin(network(rows[:, 0]), targets)
    groups = [{"params": list(network.parameters()), "lr": recipe.rate}]
    if objective.proxies:
        groups.append({"params": objective.proxies, "lr": recipe.rate * recipe.proxy_rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    batches: PxK | Shuffled
    if losses.needs_pairs(loss):
        batches = PxK(numbers, max(2, recipe.batch // recipe.per_class), recipe.per_class, recipe.seed)
    else:
        batches = Shuffled(len(numbers), recipe.batch, recipe.seed)
    whole = recipe.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * min(step, whole) / whole)) * min(1.0, (step + 1) / 20)
    )
    start = network.state()
    views = rows.shape[1]
    for epoch in range(recipe.epochs):
        total = 0.0
        for batch in batches:
            chosen = torch.from_numpy(batch)
            view = torch.randint(views, (len(batch),), generator=generator)
            x = _disturbed(rows[chosen, view], recipe, generator)
            value = objective(network(x), targets[chosen])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            if recipe.decay:
                with torch.no_grad():
                    for name, p in network.named_parameters():
                        p.lerp_(start[name], min(1.0, recipe.decay * schedule.get_last_lr()[0]))
            total += float(value.detach())
        yield Epoch(epoch, total / len(batches))


def _disturbed(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    if recipe.noise:
        x = x + torch.randn(x.shape, generator=generator) * (recipe.noise / x.shape[1] ** 0.5)
    if recipe.drop:
        x = x * (torch.rand(x.shape, generator=generator) >= recipe.drop) / (1 - recipe.drop)
    return x
