"""Fine-tuning: the network of an encoder itself is trained on pictures with classes, on a GPU or without.

A small network can be trained in minutes on a processor (``benchmarks.finetune`` says what it gains, and a head beside it);
a larger one needs a GPU, and a head is what a processor can do for it. Whatever is trained is judged on classes that it was
not trained on, and the frozen encoder is always among the candidates, so that the result is never worse than it there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixdex.encoders._digest import digest_of, tensors_digest
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.preprocess import Preprocess
from pixdex.errors import ConfigError
from pixdex.training import losses
from pixdex.training._batches import Batches, generator_of
from pixdex.training._device import described, device_named
from pixdex.training._judging import Judge, facts, page_of, selected
from pixdex.training._loop import Follow, Pace, run
from pixdex.training._network import Learning, begun, encoder_of, groups, loaded, mixed, trainable_encoder
from pixdex.training._pictures import Count, Held, hold, larger, named_count
from pixdex.training._workplace import put, workplace
from pixdex.training.augment import Augmentation
from pixdex.training.data import Labelled, labelled, split_classes
from pixdex.training.sampling import PxK

__all__ = ["Recipe", "Tuned", "finetune"]


def check_numbers(options: object, *, above: Sequence[str], least: Sequence[str]) -> None:
    """See that options, by their names, are ``above`` 0, or 0 at the ``least``.

    Raises:
        ConfigError: one is not.
    """
    for name in (*above, *least):
        value = getattr(options, name)
        if not (value > 0 if name in above else value >= 0):
            raise ConfigError(f"{name}={value}: {'more than 0' if name in above else '0 or more'}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained, and towards what.

    Attributes:
        what: ``all`` of the network, ``blocks:N`` (its last N) or ``lora:RANK``; a linear head of the encoder always.
        loss: a name of ``losses.NAMES``.
        classes_per_batch: P, and
        per_class: K: a batch has P x K pictures.
        rate: the highest learning rate, at the top of the network.
        layer_decay: what it is multiplied with a block further down.
        head_rate: that of a linear head.
        proxy_rate: that of the class proxies of the loss.
        weight_decay: of the network's matrices, by AdamW.
        towards_start: pulls the weights back to where they started, in the manner of AdamW's decay (L2-SP: Li, Grandvalet,
            Davoine, ICML 2018); give it instead of ``weight_decay``.
        spread: weight of KoLeo, which keeps the vectors of a batch apart (Sablayrolles et al.: Spreading Vectors for
            Similarity Search, ICLR 2019).
        keep: weight of 1 - cosine between the vectors of the network and those of the frozen one, of the same views,
            before the head.
        augmentation: how views are made; its size is that of the encoder. None: the default, whose colours hardly change,
            as they often tell classes apart.
        validation: share of the classes that validate. 0: none do, all train, and the last weights are kept unseen.
        mixes: shares of the trained weights in the candidates beside the frozen ones.
        retrain: once it is chosen how, train again as long, on all classes: better, and twice the time.
        checkpointing: compute activations twice instead of keeping them.
    """

    what: str = "all"
    loss: str = "supcon"
    classes_per_batch: int = 16
    per_class: int = 4
    rate: float = 1e-4
    layer_decay: float = 0.8
    head_rate: float = 1e-3
    proxy_rate: float = 1e-2
    weight_decay: float = 0.05
    towards_start: float = 0.0
    spread: float = 0.0
    keep: float = 0.0
    augmentation: Augmentation | None = None
    validation: float = 0.2
    mixes: tuple[float, ...] = (0.5, 0.75, 1.0)
    retrain: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        check_numbers(
            self,
            above=("rate", "layer_decay", "head_rate", "proxy_rate"),
            least=("weight_decay", "towards_start", "spread", "keep"),
        )
        if not self.mixes or not all(0 < mix <= 1 for mix in self.mixes):
            raise ConfigError(f"mixes={self.mixes}: shares above 0, at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What came out.

    Attributes:
        encoder: the chosen one.
        folder: where it was saved, with ``report.json`` and, where something judged, ``report.html``.
        report: what ``report.json`` in that folder holds.
    """

    encoder: ComposedEncoder
    folder: Path
    report: Mapping[str, Any]


def finetune(
    pictures: Labelled | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    encoder: str | ComposedEncoder,
    recipe: Recipe = Recipe(),
    pace: Pace = Pace(),
    follow: Follow | None = None,
    count: Count | None = None,
) -> Tuned:
    """Train the network of an encoder and save the best of what came of it as an encoder of its own.

    Args:
        pictures: what ``data.labelled`` gives, or a folder of class folders or a table that it reads.
        folder: where the encoder goes, with ``report.json``; until then ``<folder>.partial`` holds checkpoints, and the same
            call goes on from there.
        encoder: what is trained: an encoder on a model of transformers, or its reference.
        recipe: what is trained, and towards what.
        pace: how long, how fast, on what device, and the seed.
        follow: hears how the training goes.
        count: hears how many pictures are decoded.

    Raises:
        AlreadyExists: there is something in the folder.
        ConfigError: an encoder that cannot be trained, too few classes, or an option without a meaning.
        MissingDependency: pytorch-metric-learning is not installed.
        KeyboardInterrupt: Ctrl-C; nothing is lost, the same call goes on.
    """
    chosen = loaded(encoder)
    given = pictures if isinstance(pictures, Labelled) else labelled(pictures)
    with workplace(folder) as (target, work):
        key = digest_of(
            {
                "recipe": asdict(recipe),
                "pace": pace.identity(),
                "encoder": chosen.fingerprint.digest,
                "pictures": [item.label for item in given.items],
                "classes": tensors_digest({"labels": given.labels}),
            }
        )
        made, report, page = _trained(chosen, given, recipe, pace, work, key, follow, count)
        return finished(chosen, made, report, page, target, work)


def finished(
    encoder: ComposedEncoder,
    made: Mapping[str, Tensor],
    report: Mapping[str, Any],
    page: str | None,
    target: Path,
    work: Path,
) -> Tuned:
    """The encoder with the weights of a trained ``Embedder``, saved with its report, and a page of it if there is one."""
    tuned = encoder_of(encoder, made, name=target.name, reference=str(target.resolve()), work=work)
    report = {**report, "fingerprint": tuned.fingerprint.digest}
    put(tuned.save, report, page, target, work)
    return Tuned(encoder=tuned, folder=target, report=report)


def _trained(
    encoder: ComposedEncoder,
    given: Labelled,
    recipe: Recipe,
    pace: Pace,
    work: Path,
    key: str,
    follow: Follow | None,
    count: Count | None,
) -> tuple[dict[str, Tensor], dict[str, Any], str | None]:
    """The state of the chosen embedder, the report, and a page of it where something judged."""
    device = device_named(pace.device)
    preprocess = trainable_encoder(encoder).preprocess
    losses.needs_pairs(recipe.loss)  # a wrong name shows before anything is decoded, and what cannot be trained
    augmentation_of(recipe.augmentation, preprocess.size)
    begun(
        encoder, recipe.what, seed=pace.seed, keep=False, checkpointing=recipe.checkpointing, device=torch.device("cpu")
    )
    trains, validates = np.arange(len(given)), np.empty(0, dtype=np.int64)
    if recipe.validation:
        trains, validates = split_classes(given.labels, recipe.validation, pace.seed)
    used = np.arange(len(given)) if recipe.retrain else trains
    views = _held(given, used, larger(preprocess), work, "pictures", count).placed(device)
    labels = given.labels[used[views.rows]]
    judge, unusable = None, views.unusable
    if len(validates):
        fitted = _held(given, validates, preprocess, work, "validation", count)
        judge = Judge(given.take(validates[fitted.rows]), fitted.placed(device).pixels)
        unusable = tuple(dict.fromkeys((*unusable, *fitted.unusable)))  # to retrain, some are decoded twice
    rows = np.flatnonzero(np.isin(used[views.rows], trains))
    task = _Tuning(encoder, views, rows, labels, recipe, pace, judge, device)
    frozen = None if judge is None else judge(task.module.net)
    outcome = run(task, pace, work=work, key=key, follow=follow)
    selection = selected(task.module.net, task.start, outcome, frozen, judge, recipe.mixes)
    made = selection.state
    report = {
        "pixdex": "finetune",
        "encoder": encoder.reference,
        "pictures": len(given),
        "classes": len(given.names),
        "validation classes": [given.names[c] for c in np.unique(given.labels[validates])],
        "unusable": [list(pair) for pair in unusable],
        "recipe": asdict(recipe),
        "pace": asdict(pace),
        "device": described(device),
        "trained parameters": task.trained,
        "candidates": selection.candidates,
        "chosen": selection.name,
        **facts(outcome),
    }
    note = (
        f"{task.trained:,} parameters of {encoder.name} ({recipe.what}) trained with {recipe.loss} for {outcome.step} steps "
        f"on {len(rows)} pictures of {len(np.unique(labels[rows]))} classes; {len(np.unique(given.labels[validates]))} "
        "other classes judge."
    )
    page = None
    if judge is not None:
        page = page_of(f"{encoder.name}, fine-tuned", selection, outcome, judge, note, pace.seed)
    if recipe.retrain and judge is not None and selection.mix > 0:
        again = _Tuning(encoder, views, np.arange(len(labels)), labels, recipe, pace, None, device)
        outcome = run(again, pace, work=_inner(work, "retrain"), key=f"{key} retrain", follow=follow)
        trained = selected(again.module.net, again.start, outcome, None, None, recipe.mixes).state
        made = mixed(again.start, trained, selection.mix)
        report["retrain"] = {"mix": selection.mix, **facts(outcome)}
    return made, report, page


def _held(
    given: Labelled, rows: NDArray[np.int64], preprocess: Preprocess, work: Path, name: str, count: Count | None
) -> Held:
    return hold([given.items[r] for r in rows], preprocess, work=work, name=name, count=named_count(count, name))


def _inner(work: Path, name: str) -> Path:
    folder = work / name
    folder.mkdir(exist_ok=True)
    return folder


# --- the task --------------------------------------------------------------------------------------


class _Tuning:
    """A ``Task``."""

    lasting: Sequence[str] = ("own.",)
    averaged = "net."

    def __init__(
        self,
        encoder: ComposedEncoder,
        views: Held,
        rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        recipe: Recipe,
        pace: Pace,
        judge: Judge | None,
        device: torch.device,
    ) -> None:
        """``labels`` are those of all views, ``rows`` which of them train."""
        self._recipe, self._pace, self._judge, self._device = recipe, pace, judge, device
        net, self.start, self._frozen = begun(
            encoder,
            recipe.what,
            seed=pace.seed,
            keep=recipe.keep > 0,
            checkpointing=recipe.checkpointing,
            device=device,
        )
        _, numbered = np.unique(labels[rows], return_inverse=True)
        loss = losses.named(recipe.loss, dim=net.dim, classes=int(numbered.max()) + 1)
        self.module = Learning(net, loss).to(device).train()
        self.trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
        self._pixels = views.pixels
        self._rows = rows
        self._labels = torch.from_numpy(numbered.astype(np.int64)).to(device)
        self._batches = Batches(PxK, numbered, recipe.classes_per_batch, recipe.per_class, pace.seed)
        size = trainable_encoder(encoder).preprocess.size
        self._augment = augmentation_of(recipe.augmentation, size)
        self._origins = [
            (group["lr"], [(p, p.detach().clone()) for p in group["params"]])
            for group in (self._network_groups() if recipe.towards_start else ())
        ]

    def groups(self) -> list[dict[str, Any]]:
        proxies = list(self.module.own.parameters())
        mine = [{"params": proxies, "lr": self._recipe.proxy_rate, "weight_decay": 0.0}] if proxies else []
        return [*self._network_groups(), *mine]

    def _network_groups(self) -> list[dict[str, Any]]:
        recipe = self._recipe
        return groups(
            self.module.net,
            rate=recipe.rate,
            decay=recipe.layer_decay,
            weight_decay=recipe.weight_decay,
            head_rate=recipe.head_rate,
        )

    def loss(self, step: int) -> Tensor:
        batch = self._batches.at(step)
        rows = torch.from_numpy(self._rows[batch])
        pictures = self._pixels[rows.to(self._pixels.device)].to(self._device, non_blocking=True)
        views = self._augment(pictures, generator_of(self._pace.seed, step))
        pooled = self.module.net.pooled(views)
        vectors = self.module.net.headed(pooled)
        value: Tensor = self.module.own(vectors, self._labels[torch.from_numpy(batch).to(self._device)])
        if self._recipe.spread:
            value = value + self._recipe.spread * koleo(vectors)
        if self._frozen is not None:
            with torch.no_grad():
                kept = self._frozen.pooled(views)
            value = value + self._recipe.keep * (1 - (pooled * kept).sum(dim=1)).mean()
        return value

    @torch.no_grad()
    def stepped(self, rate: float) -> None:
        pull = self._recipe.towards_start
        for highest, pairs in self._origins:
            for parameter, origin in pairs:
                parameter.lerp_(origin, min(1.0, rate * highest * pull))

    def judge(self) -> float | None:
        return None if self._judge is None else self._judge.round(self.module.net)


def koleo(vectors: Tensor) -> Tensor:
    """Minus the mean logarithm of the distance to the nearest other, of unit vectors float32 ``[n, d]``."""
    with torch.no_grad():
        likeness = vectors @ vectors.T
        likeness.fill_diagonal_(-2)
        nearest = likeness.argmax(dim=1)
    return -(vectors - vectors[nearest]).square().sum(dim=1).add(1e-8).sqrt().log().mean()


def augmentation_of(given: Augmentation | None, size: tuple[int, int]) -> Augmentation:
    """As given, or the default for classes that differ in little, at the size of the network.

    Raises:
        ConfigError: the network takes no squares.
    """
    if size[0] != size[1]:
        raise ConfigError(f"views are squares, and this network takes {size[0]} x {size[1]} pixels")
    mild = Augmentation(
        size=size[0],
        scale=(0.3, 1.0),
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=0.0,
        colour=0.5,
        grey=0.0,
        blur=0.1,
    )
    return mild if given is None else replace(given, size=size[0])
